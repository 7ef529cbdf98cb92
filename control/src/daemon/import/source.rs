//! A source that the daemon opens itself: which files will do, how long they are, and whether they changed under our hands.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind as IoKind, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

use crate::api::ApiError;
use crate::error_kind::ErrorKind;

/// An open source.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    stamp: Stamp,
    finds_holes: bool,
}

/// What changes when a file is written to. A block device has none.
#[derive(Debug, PartialEq, Eq)]
struct Stamp(Option<(u64, i64, i64)>);

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self(
            metadata
                .is_file()
                .then(|| (metadata.size(), metadata.mtime(), metadata.mtime_nsec())),
        )
    }
}

impl SourceFile {
    /// Opens `path` for direct reads, or for buffered ones where its file system has no direct I/O.
    ///
    /// # Errors
    /// The `Source*` kinds; `BadRequest` for a path that is not absolute.
    pub fn open(path: &Path) -> Result<Self, ApiError> {
        if !path.is_absolute() {
            return Err(about(
                path,
                ErrorKind::BadRequest,
                "the path of a source must be absolute".to_owned(),
            ));
        }
        let metadata = path.metadata().map_err(|error| open_failed(path, &error))?;
        // Before it is opened: opening a tape would already do something. And after, since it may have been replaced.
        require_content(path, &metadata)?;
        let mut file = open(path, libc::O_DIRECT)
            .or_else(|error| {
                if error.raw_os_error() == Some(libc::EINVAL) {
                    open(path, 0)
                } else {
                    Err(error)
                }
            })
            .map_err(|error| open_failed(path, &error))?;
        let metadata = file.metadata().map_err(|error| open_failed(path, &error))?;
        require_content(path, &metadata)?;
        let size_bytes = if metadata.file_type().is_block_device() {
            file.seek(SeekFrom::End(0))
                .map_err(|error| open_failed(path, &error))?
        } else {
            metadata.len()
        };
        if size_bytes == 0 {
            return Err(about(
                path,
                ErrorKind::SourceEmpty,
                format!("{}: it is empty", path.display()),
            )
            .remedy("an image has at least one byte"));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            size_bytes,
            stamp: Stamp::of(&metadata),
            finds_holes: metadata.is_file(),
        })
    }

    /// Its length when it was opened.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Another descriptor, to read through.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn reader(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// A descriptor for buffered reads of the same file: for file systems that accept `O_DIRECT` and then refuse to read.
    ///
    /// # Errors
    /// When it cannot be opened again.
    pub fn buffered_reader(&self) -> io::Result<File> {
        // By descriptor, since the path may name another file by now.
        open(
            &PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd())),
            0,
        )
    }

    /// The next stretch of data at or after `at`: its start and end. `None` when only a hole follows.
    pub fn next_data(&self, at: u64) -> Option<(u64, u64)> {
        let whole = Some((at, self.size_bytes));
        if !self.finds_holes {
            return whole;
        }
        let Ok(from) = i64::try_from(at) else {
            return whole;
        };
        let start = match lseek64(self.file.as_fd(), from, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => return None,
            Err(_) => return whole,
        };
        let end = lseek64(self.file.as_fd(), start, Whence::SeekHole).unwrap_or(i64::MAX);
        Some((
            u64::try_from(start).unwrap_or(at),
            u64::try_from(end)
                .unwrap_or(self.size_bytes)
                .min(self.size_bytes),
        ))
    }

    /// Refuses a file that is not what it was when it was opened.
    ///
    /// # Errors
    /// `SourceChanged`.
    pub fn require_unchanged(&self) -> Result<(), ApiError> {
        let metadata = self
            .file
            .metadata()
            .map_err(|error| open_failed(&self.path, &error))?;
        if Stamp::of(&metadata) == self.stamp {
            return Ok(());
        }
        let now = metadata.len();
        let how = if now == self.size_bytes {
            "it was written to".to_owned()
        } else {
            format!("its size went from {} to {now} bytes", self.size_bytes)
        };
        Err(self.changed(&how))
    }

    /// The error of a source that changed.
    pub fn changed(&self, how: &str) -> ApiError {
        about(
            &self.path,
            ErrorKind::SourceChanged,
            format!(
                "{}: it changed while it was read: {how}",
                self.path.display()
            ),
        )
        .remedy("import it again when nobody writes to it")
    }

    /// The error of a read that failed.
    pub fn read_failed(&self, at: u64, error: &io::Error) -> ApiError {
        let mut failed = about(
            &self.path,
            ErrorKind::SourceUnreadable,
            format!(
                "{}: reading at byte {at} failed: {error}",
                self.path.display()
            ),
        )
        .remedy("look for errors of its device in the kernel's log (`dmesg`)");
        failed.errno = error.raw_os_error();
        failed
    }
}

fn require_content(path: &Path, metadata: &Metadata) -> Result<(), ApiError> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    let what = if kind.is_dir() {
        "a directory"
    } else {
        "no regular file and no block device"
    };
    Err(about(
        path,
        ErrorKind::SourceNotAFile,
        format!("{}: it is {what}", path.display()),
    )
    .remedy("give a raw image file, a block device, or `-` for standard input"))
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    // Not blocking: a FIFO that took the file's place must not hang the daemon.
    OpenOptions::new()
        .read(true)
        .custom_flags(flags | libc::O_NONBLOCK)
        .open(path)
}

fn about(path: &Path, kind: ErrorKind, message: String) -> ApiError {
    ApiError::new(kind, message).object(path.display().to_string())
}

fn open_failed(path: &Path, error: &io::Error) -> ApiError {
    let (kind, remedy) = match error.kind() {
        IoKind::NotFound | IoKind::NotADirectory => (
            ErrorKind::SourceNotFound,
            "the daemon reads the file itself, in its own mount namespace: check the path, or send the bytes with `-`",
        ),
        IoKind::PermissionDenied => (
            ErrorKind::SourceUnreadable,
            "let the daemon's user read it, or send the bytes with `-`",
        ),
        _ => (
            ErrorKind::SourceUnreadable,
            "the daemon reads the file itself; if it cannot, send the bytes with `-`",
        ),
    };
    let mut failed = about(
        path,
        kind,
        format!("{}: the daemon cannot read it: {error}", path.display()),
    )
    .remedy(remedy);
    failed.errno = error.raw_os_error();
    failed
}
