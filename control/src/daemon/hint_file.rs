//! Hints that outlive the daemon: a JSON file in the state directory. Never a state: losing it loses time.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Where hints are kept, and what they tell.
#[derive(Debug)]
pub struct HintFile {
    file: Arc<SharedFile>,
    /// Of the hints that were taken to be saved last.
    version: u64,
}

#[derive(Debug)]
struct SharedFile {
    path: PathBuf,
    /// In messages: "where disks were seen".
    what: &'static str,
    /// What is in the file now; held while it is written.
    written: Mutex<u64>,
}

/// Hints that are not in the file yet. Saving takes as long as the disk below takes, so it is done with no lock held: whoever waits for the lock of the
/// hints may be what answers guests.
#[derive(Debug)]
#[must_use = "what is not saved is forgotten with the daemon"]
pub struct Unsaved {
    file: Arc<SharedFile>,
    version: u64,
    text: serde_json::Result<Vec<u8>>,
}

impl HintFile {
    /// The file `name` in `state_dir`.
    pub fn new(state_dir: &Path, name: &str, what: &'static str) -> Self {
        Self {
            file: Arc::new(SharedFile {
                path: state_dir.join(name),
                what,
                written: Mutex::new(0),
            }),
            version: 0,
        }
    }

    /// Reads it. One that is absent or damaged has no hints.
    pub fn load<T: DeserializeOwned + Default>(&self) -> T {
        let (file, what) = (self.file.path.display(), self.file.what);
        match std::fs::read(&self.file.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%file, %error, "forgetting {what}: the file is damaged");
                T::default()
            }),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!(%file, %error, "cannot read {what}");
                }
                T::default()
            }
        }
    }

    /// Takes the hints as they are now, to be saved.
    pub fn unsaved(&mut self, hints: &impl Serialize) -> Unsaved {
        self.version += 1;
        Unsaved {
            file: Arc::clone(&self.file),
            version: self.version,
            text: serde_json::to_vec_pretty(hints),
        }
    }
}

impl Unsaved {
    /// Writes the file anew, durably, unless later hints are in it already. A failure is told and does no harm.
    pub fn save(self) {
        let mut written = self
            .file
            .written
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *written >= self.version {
            return;
        }
        match self
            .text
            .map_err(Into::into)
            .and_then(|text| write(&self.file.path, &text))
        {
            Ok(()) => *written = self.version,
            Err(error) => {
                let (file, what) = (self.file.path.display(), self.file.what);
                tracing::warn!(%file, %error, "cannot note {what}");
            }
        }
    }
}

fn write(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder)?;
    let fresh = path.with_extension("json.new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_that_are_saved_late_do_not_replace_later_ones() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = HintFile::new(folder.path(), "hints.json", "hints");
        let (former, later) = (file.unsaved(&1), file.unsaved(&2));
        later.save();
        former.save();
        assert_eq!(file.load::<u32>(), 2);
    }
}
