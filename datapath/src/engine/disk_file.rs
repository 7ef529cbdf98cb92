//! A disk's open file: the claim that keeps every other daemon away, and the facts of the device.
//!
//! All writes to a disk go through the one open file description that [`DiskFile::claim`] makes, or duplicates of it.
//! The kernel releases the claim when the last reference to the description goes, and a request in flight is such a
//! reference. So whoever holds the claim knows that no write of a dead process can still land.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag};
use sha2::{Digest, Sha256};

use super::claim_error::ClaimError;
use super::disk_facts::{DiskFacts, DiskIdentity, WriteCache};
use super::holder;

/// How long [`DiskFile::claim_waiting`] sleeps between two attempts.
const CLAIM_RETRY: Duration = Duration::from_millis(5);

/// The largest logical block of a device that pages of 4 KiB can be written to.
const LOGICAL_BLOCK_BYTES_MAX: u32 = 4096;

/// An open disk: a block device, partition or regular file, for direct I/O.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    path: PathBuf,
    facts: DiskFacts,
    claimed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Claim,
    ReadOnly,
}

impl DiskFile {
    /// Opens a disk for reading and writing and claims it: `O_EXCL` on a block device, an exclusive `flock` on a regular
    /// file. The claim is held as long as this, or a duplicate from [`Self::try_clone_fd`], or I/O in flight on one of
    /// them exists. It is not inherited over `exec`.
    ///
    /// # Errors
    /// See [`ClaimError`]. A disk that was refused has not been written to.
    pub fn claim(path: &Path) -> Result<Self, ClaimError> {
        Self::claim_once(path).map_err(name_the_holder)
    }

    /// Like [`Self::claim`], but tries a busy disk again until `deadline`: I/O of a daemon that was killed may hold the
    /// claim a little longer. Calls `on_wait` once, with the reason, before the first wait.
    ///
    /// # Errors
    /// [`ClaimError::Busy`] once the deadline has passed; any other error at once.
    pub fn claim_waiting(
        path: &Path,
        deadline: Instant,
        on_wait: impl FnOnce(&ClaimError),
    ) -> Result<Self, ClaimError> {
        let mut on_wait = Some(on_wait);
        loop {
            match Self::claim_once(path) {
                Err(busy @ ClaimError::Busy { .. }) => {
                    if Instant::now() >= deadline {
                        return Err(name_the_holder(busy));
                    }
                    if let Some(tell) = on_wait.take() {
                        tell(&name_the_holder(busy));
                    }
                    thread::sleep(CLAIM_RETRY);
                }
                outcome => return outcome,
            }
        }
    }

    /// Opens a disk for reading, without a claim: for discovery only. Somebody else may write to it meanwhile.
    ///
    /// # Errors
    /// See [`ClaimError`]; never [`ClaimError::Busy`].
    pub fn open_read_only(path: &Path) -> Result<Self, ClaimError> {
        Self::open(path, Access::ReadOnly)
    }

    fn claim_once(path: &Path) -> Result<Self, ClaimError> {
        let disk = Self::open(path, Access::Claim)?;
        if let DiskIdentity::File { .. } = disk.facts.identity {
            lock_exclusively(&disk.file, path)?;
        }
        Ok(disk)
    }

    fn open(path: &Path, access: Access) -> Result<Self, ClaimError> {
        // Looked at before it is opened: opening a tape or a FIFO would already do something.
        let metadata = path.metadata().map_err(|error| open_failed(path, &error))?;
        let identity = disk_identity(path, &metadata)?;
        let exclusive = match (access, identity) {
            (Access::Claim, DiskIdentity::Block(_)) => libc::O_EXCL,
            _ => 0,
        };
        // std adds O_CLOEXEC.
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::Claim)
            .custom_flags(libc::O_DIRECT | exclusive)
            .open(path)
            .map_err(|error| open_failed(path, &error))?;
        let opened = file
            .metadata()
            .map_err(|error| call_failed(path, "fstat", &error))?;
        if DiskIdentity::of(&opened) != Some(identity) {
            return Err(not_a_disk(path, "it was replaced while it was opened"));
        }
        require_direct_io(&file, path)?;
        let facts = DiskFacts::ask(&file, identity).map_err(|(call, errno)| ClaimError::Io {
            path: path.to_owned(),
            call,
            errno: errno as i32,
        })?;
        if facts.logical_block_bytes > LOGICAL_BLOCK_BYTES_MAX {
            return Err(not_a_disk(
                path,
                &format!(
                    "its logical blocks have {} bytes, at most 4096 are supported",
                    facts.logical_block_bytes
                ),
            ));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            facts,
            claimed: access == Access::Claim,
        })
    }

    /// The path that it was opened by: for messages. A disk is known by its UUID, never by this.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this holds the claim; false after [`Self::open_read_only`].
    pub fn is_claimed(&self) -> bool {
        self.claimed
    }

    /// Length when it was opened. A regular file's may be no multiple of a block.
    pub fn len_bytes(&self) -> u64 {
        self.facts.len_bytes
    }

    /// False for a regular file.
    pub fn is_block_device(&self) -> bool {
        matches!(self.facts.identity, DiskIdentity::Block(_))
    }

    /// The device or file that this is, whatever path led to it.
    pub fn identity(&self) -> DiskIdentity {
        self.facts.identity
    }

    /// Offsets and lengths of direct I/O are multiples of this many bytes.
    pub fn logical_block_bytes(&self) -> u32 {
        self.facts.logical_block_bytes
    }

    /// What the device writes without reading first.
    pub fn physical_block_bytes(&self) -> u32 {
        self.facts.physical_block_bytes
    }

    /// Addresses of buffers in memory are multiples of this many **bytes** (sysfs and ublk want the mask: one less).
    pub fn dma_alignment(&self) -> u32 {
        self.facts.dma_alignment
    }

    /// The longest I/O whose pages lie anywhere in memory that goes to the device undivided; `None` where it cannot be told. A longer one is
    /// as right, and slow: io_uring first submits what must not wait, and the block layer divides no such thing (`bio_split_io_at`,
    /// block/blk-merge.c, answers `EAGAIN` to `REQ_NOWAIT`), so that it goes through a worker thread.
    pub fn undivided_bytes_max(&self) -> Option<u64> {
        self.facts.undivided_bytes_max
    }

    /// All pieces of scattered memory but the first start, and all but the last end, at a multiple of this plus one; 0 for anywhere.
    pub fn virt_boundary_mask(&self) -> u64 {
        self.facts.virt_boundary_mask
    }

    /// Changes when another medium takes the device's place; for a file, that of the device below it. `None` where it
    /// cannot be told (a file on btrfs, overlayfs or NFS).
    pub fn diskseq(&self) -> Option<u64> {
        self.facts.diskseq
    }

    /// Whether completed writes need a flush to be durable, as of the time it was opened.
    pub fn write_cache(&self) -> WriteCache {
        self.facts.write_cache
    }

    /// WWID, serial or device-mapper UUID of the device, for a partition with its first sector. `None` for a file, and
    /// for devices without identity.
    pub fn hardware_id(&self) -> Option<&str> {
        self.facts.hardware_id.as_deref()
    }

    /// SHA-256 of [`Self::hardware_id`], all zero where there is none: what a superblock remembers.
    pub fn hardware_id_hash(&self) -> [u8; 32] {
        self.hardware_id()
            .map_or([0; 32], |id| Sha256::digest(id).into())
    }

    /// Another descriptor of the *same* open file description: it shares the claim and keeps it alive.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn disk_identity(path: &Path, metadata: &Metadata) -> Result<DiskIdentity, ClaimError> {
    DiskIdentity::of(metadata).ok_or_else(|| {
        let kind = metadata.file_type();
        let what = if kind.is_dir() {
            "it is a directory"
        } else if kind.is_char_device() {
            "it is a character device"
        } else if kind.is_fifo() {
            "it is a FIFO"
        } else if kind.is_socket() {
            "it is a socket"
        } else {
            "it is no block device and no regular file"
        };
        not_a_disk(path, what)
    })
}

/// Not `nix::fcntl::Flock`: that unlocks when it is dropped, and with it every duplicate of the description. The claim must
/// end with the last reference instead.
fn lock_exclusively(file: &File, path: &Path) -> Result<(), ClaimError> {
    // SAFETY: flock takes a descriptor, which `file` keeps open, and no pointer.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        Err(Errno::EWOULDBLOCK) => Err(ClaimError::Busy {
            path: path.to_owned(),
            holder: None,
        }),
        Err(errno) => Err(ClaimError::Io {
            path: path.to_owned(),
            call: "flock",
            errno: errno as i32,
        }),
    }
}

/// Some file systems accept `O_DIRECT` at open and drop it.
fn require_direct_io(file: &File, path: &Path) -> Result<(), ClaimError> {
    let flags =
        nix::fcntl::fcntl(file.as_fd(), FcntlArg::F_GETFL).map_err(|errno| ClaimError::Io {
            path: path.to_owned(),
            call: "F_GETFL",
            errno: errno as i32,
        })?;
    if OFlag::from_bits_retain(flags).contains(OFlag::O_DIRECT) {
        Ok(())
    } else {
        Err(ClaimError::NoDirectIo {
            path: path.to_owned(),
        })
    }
}

fn not_a_disk(path: &Path, what: &str) -> ClaimError {
    ClaimError::NotADisk {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}

fn call_failed(path: &Path, call: &'static str, error: &io::Error) -> ClaimError {
    ClaimError::Io {
        path: path.to_owned(),
        call,
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    }
}

fn open_failed(path: &Path, error: &io::Error) -> ClaimError {
    let path = path.to_owned();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) => ClaimError::NotFound { path },
        // A device node without a device behind it: a dangling node, or a medium that was taken out.
        Some(Errno::ENXIO | Errno::ENODEV | Errno::ENOMEDIUM) => ClaimError::NotADisk {
            path,
            what: "no device or no medium is behind this node".to_owned(),
        },
        Some(Errno::EACCES | Errno::EPERM) => ClaimError::PermissionDenied { path },
        Some(Errno::EROFS) => ClaimError::NotADisk {
            path,
            what: "it is read-only".to_owned(),
        },
        Some(Errno::EBUSY | Errno::ETXTBSY) => ClaimError::Busy { path, holder: None },
        // open(2): the file system does not support O_DIRECT.
        Some(Errno::EINVAL) => ClaimError::NoDirectIo { path },
        _ => call_failed(&path, "open", error),
    }
}

/// Added to the error that is reported, not to each retry: it reads much of `/proc`.
fn name_the_holder(error: ClaimError) -> ClaimError {
    match error {
        ClaimError::Busy { path, .. } => {
            let identity = path
                .metadata()
                .ok()
                .and_then(|metadata| DiskIdentity::of(&metadata));
            let holder = identity.and_then(|identity| holder::describe(&path, identity));
            ClaimError::Busy { path, holder }
        }
        other => other,
    }
}
