//! The API's Unix socket: one left behind by a dead daemon is replaced, one that somebody listens on is not.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, chown};
use tokio::net::UnixListener;

/// Why the API cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another process listens on {path}; give this daemon its own --socket", path = .0.display())]
    Taken(PathBuf),
    /// What is there is no socket.
    #[error("{path} is there and is no socket; remove it, or give this daemon its own --socket", path = .0.display())]
    NotASocket(PathBuf),
    /// It cannot be made.
    #[error("cannot listen on {path}: {source}", path = path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Listens on `path`, mode 0660, owned by `group` where there is such a group.
///
/// # Errors
/// When somebody else has the path, or it cannot be made.
pub fn listen(path: &Path, group: &str) -> Result<UnixListener, SocketError> {
    let io = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    remove_stale(path)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    // Made under another name, so that nobody can connect before the permissions are right.
    let fresh = path.with_extension("new");
    if let Err(error) = std::fs::remove_file(&fresh)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(io(error));
    }
    let listener = UnixListener::bind(&fresh).map_err(io)?;
    std::fs::set_permissions(&fresh, Permissions::from_mode(0o660)).map_err(io)?;
    if let Ok(Some(group)) = Group::from_name(group)
        && let Err(errno) = chown(&fresh, None, Some(group.gid))
    {
        tracing::warn!(socket = %path.display(), group = group.name, %errno, "only root can use the API");
    }
    std::fs::rename(&fresh, path).map_err(io)?;
    Ok(listener)
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(SocketError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Taken(path.to_owned())),
        // Nobody listens: it is of a daemon that died. The rename replaces it.
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(listen(&path, "no-such-group").unwrap());
        assert!(path.exists(), "a dead daemon leaves its socket");
        let live = listen(&path, "no-such-group").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(
            listen(&path, "no-such-group"),
            Err(SocketError::Taken(_))
        ));
        drop(live);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"somebody's file").unwrap();
        assert!(matches!(
            listen(&path, "no-such-group"),
            Err(SocketError::NotASocket(_))
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody's file");
    }
}
