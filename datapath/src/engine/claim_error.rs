//! Why a disk could not be opened or claimed, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// A path that could not be opened as a disk. Nothing was written to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Nothing has this name.
    #[error("{}: no such file or device", path.display())]
    NotFound {
        /// As the caller gave it.
        path: PathBuf,
    },
    /// It is there, but can be no disk.
    #[error("{}: not a disk: {what}", path.display())]
    NotADisk {
        /// As the caller gave it.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// The process may not open it for reading and writing.
    #[error("{}: permission denied", path.display())]
    PermissionDenied {
        /// As the caller gave it.
        path: PathBuf,
    },
    /// Somebody else holds it: another daemon, a mount, a device above, or I/O of a daemon that died.
    #[error("{}: in use by {}", path.display(), holder.as_deref().unwrap_or("another process or the kernel"))]
    Busy {
        /// As the caller gave it.
        path: PathBuf,
        /// Who holds it, as far as `/proc` and `/sys` tell; `None` where they do not.
        holder: Option<String>,
    },
    /// The file system cannot do direct I/O, so its page cache would stand between a write and the disk.
    #[error("{}: the file system has no direct I/O", path.display())]
    NoDirectIo {
        /// As the caller gave it.
        path: PathBuf,
    },
    /// A system call failed otherwise.
    #[error("{}: {call} failed: {}", path.display(), io::Error::from_raw_os_error(*errno))]
    Io {
        /// As the caller gave it.
        path: PathBuf,
        /// The system call or ioctl.
        call: &'static str,
        /// What it answered.
        errno: i32,
    },
}

impl ClaimError {
    /// The path as the caller gave it.
    pub fn path(&self) -> &Path {
        match self {
            Self::NotFound { path }
            | Self::NotADisk { path, .. }
            | Self::PermissionDenied { path }
            | Self::Busy { path, .. }
            | Self::NoDirectIo { path }
            | Self::Io { path, .. } => path,
        }
    }

    /// The error number that the kernel gave, or the one that fits.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound { .. } => libc::ENOENT,
            Self::NotADisk { .. } => libc::ENOTBLK,
            Self::PermissionDenied { .. } => libc::EACCES,
            Self::Busy { .. } => libc::EBUSY,
            Self::NoDirectIo { .. } => libc::EINVAL,
            Self::Io { errno, .. } => *errno,
        }
    }

    /// What the operator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => {
                "check the path; `bedplate disk list` shows the disks that are known"
            }
            Self::NotADisk { .. } => "give a block device, a partition, or a regular file",
            Self::PermissionDenied { .. } => {
                "run the daemon as root, or give its user read and write permission on the device"
            }
            Self::Busy { .. } => {
                "stop or unmount what uses it; a daemon that died lets go once its last I/O has ended"
            }
            Self::NoDirectIo { .. } => {
                "use a block device, or a file on ext4, xfs or btrfs (tmpfs has direct I/O from Linux 6.6 on)"
            }
            Self::Io { .. } => "look for errors of the device in the kernel's log (`dmesg`)",
        }
    }

    /// The disk may become free by itself.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}
