//! One daemon a run directory: a lock on a file in it, held as long as the process lives.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// The lock; letting go of it is ending the process (or dropping this).
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// Why the run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunLockError {
    /// Another daemon has it.
    #[error("another bedplated (pid {pid}) already runs on {run_dir}; stop it, or give this one its own --run-dir, --state-dir and --socket", run_dir = run_dir.display())]
    Taken {
        /// The run directory.
        run_dir: PathBuf,
        /// Its process, as it wrote it down.
        pid: String,
    },
    /// The directory or the file cannot be made.
    #[error("cannot lock {path}: {source}", path = path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Takes the run directory for this process, making it where it is missing.
///
/// # Errors
/// When another daemon holds it, or it cannot be written.
pub fn take(run_dir: &Path) -> Result<RunLock, RunLockError> {
    let path = run_dir.join("bedplated.lock");
    let io = |source| RunLockError::Io {
        path: path.clone(),
        source,
    };
    std::fs::create_dir_all(run_dir).map_err(io)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Who it is only makes the message better; an unreadable file changes nothing.
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() {
                "unknown"
            } else {
                pid.trim()
            };
            return Err(RunLockError::Taken {
                run_dir: run_dir.to_owned(),
                pid: pid.to_owned(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    file.set_len(0).map_err(io)?;
    file.rewind().map_err(io)?;
    write!(file, "{}", std::process::id()).map_err(io)?;
    Ok(RunLock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_taker_is_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let held = take(folder.path()).unwrap();
        let error = take(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        drop(held);
        take(folder.path()).unwrap();
    }
}
