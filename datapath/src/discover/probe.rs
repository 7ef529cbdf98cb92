//! Reads the superblock of one disk, in a thread of its own, for as long as it is given.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Found;
use crate::engine::{ClaimError, DiskFile, UringMedium};
use crate::format::geometry::{Geometry, GeometryError};
use crate::format::superblock::{self, Choice, ChoiceError};
use crate::medium::{IoFault, Medium};
use crate::superblock_set::{self, SetError};
use crate::units::{ByteOffset, PAGE_BYTES, Page};

/// Disks that are looked at together.
const AT_ONCE_MAX: usize = 64;
/// A probe needs little stack, and there may be many.
const STACK_BYTES: usize = 256 * 1024;

/// Paths of which a probe has not come back yet, and when it began.
static UNANSWERED: Mutex<BTreeMap<PathBuf, Instant>> = Mutex::new(BTreeMap::new());

/// Why a path is no usable Bedplate disk. Nothing was written to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] ClaimError),
    /// No layout exists for its length.
    #[error(transparent)]
    Size(#[from] GeometryError),
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] IoFault),
    /// It carries no superblock, or none that can be believed.
    #[error(transparent)]
    Superblock(#[from] ChoiceError),
    /// It has become shorter since it was formatted.
    #[error("the disk has {len_bytes} bytes, and had at least {disk_bytes} when it was formatted")]
    TooShort {
        /// Its length now.
        len_bytes: u64,
        /// Its length at format, in whole clusters.
        disk_bytes: u64,
    },
    /// It carries our superblock, and something else was written over its start.
    #[error(
        "the boot block is not zero, byte {first_byte} of it is {value:#04x}: something else was written to this disk"
    )]
    BootBlockOverwritten {
        /// The first byte that is not zero.
        first_byte: usize,
        /// What it is.
        value: u8,
    },
    /// It has not answered.
    #[error("no answer within {} ms", timeout.as_millis())]
    Silent {
        /// The time that it was given.
        timeout: Duration,
    },
    /// This process cannot probe now.
    #[error("cannot probe: {0}")]
    Resources(io::Error),
}

impl Refusal {
    /// What the operator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Open(error) => error.remedy(),
            Self::Size(_) => "use a disk of 64 MiB to 256 TiB",
            Self::Read(_) => {
                "look for errors of the device in the kernel's log (`dmesg`), check its cables and its health"
            }
            Self::Superblock(ChoiceError::NotBedplate(_)) => {
                "`bedplate disk format PATH` makes it one and erases it"
            }
            Self::Superblock(ChoiceError::Unknown(_)) => {
                "install the version of Bedplate that wrote it"
            }
            Self::Superblock(ChoiceError::Conflict { a_uuid, b_uuid, .. }) if a_uuid != b_uuid => {
                "if `bedplate disk re-uuid` was cut short on it, do that again, which finishes it; otherwise make a copy of the disk \
                 before any attempt to repair it"
            }
            Self::Superblock(_) => {
                "nothing was changed on it: make a copy of the disk before any attempt to repair it"
            }
            Self::TooShort { .. } => "give the partition, volume or file its former length back",
            Self::BootBlockOverwritten { .. } => {
                "`wipefs --no-act PATH` shows what was written; if nothing of it is needed, zero the first 4096 bytes of the disk"
            }
            Self::Silent { .. } => {
                "look for time-outs of the device in the kernel's log (`dmesg`); it is tried again with the next scan"
            }
            Self::Resources(_) => {
                "raise the limits on threads and memory of the daemon; `bedplate doctor` checks io_uring"
            }
        }
    }

    /// Worth telling of a device that nobody asked for.
    pub(super) fn concerns_operator(&self) -> bool {
        match self {
            Self::Open(_)
            | Self::Size(_)
            | Self::Read(_)
            | Self::Superblock(ChoiceError::NotBedplate(_)) => false,
            Self::Superblock(_)
            | Self::TooShort { .. }
            | Self::BootBlockOverwritten { .. }
            | Self::Silent { .. }
            | Self::Resources(_) => true,
        }
    }
}

/// Outcomes in the order of `paths`.
pub(super) fn probe_all(
    paths: &[PathBuf],
    timeout: Duration,
) -> Vec<(PathBuf, Result<Found, Refusal>)> {
    paths
        .chunks(AT_ONCE_MAX)
        .flat_map(|together| probe_together(together, timeout))
        .collect()
}

pub(super) fn probe_one(path: &Path, timeout: Duration) -> Result<Found, Refusal> {
    let outcome = probe_together(&[path.to_owned()], timeout).pop();
    outcome.map_or(Err(Refusal::Silent { timeout }), |(_, outcome)| outcome)
}

fn probe_together(paths: &[PathBuf], timeout: Duration) -> Vec<(PathBuf, Result<Found, Refusal>)> {
    let (sender, receiver) = mpsc::channel();
    let mut outcomes: Vec<Option<Result<Found, Refusal>>> = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let sender = sender.clone();
        // Nobody may be listening any more.
        let tell = move |outcome| drop(sender.send((index, outcome)));
        outcomes.push(start(path, timeout, tell).err().map(Err));
    }
    // The receiver hears of the end when the last probe has dropped its sender.
    drop(sender);
    let deadline = Instant::now() + timeout;
    // Ends with the last probe, or at the deadline.
    let remaining = || deadline.saturating_duration_since(Instant::now());
    while let Ok((index, outcome)) = receiver.recv_timeout(remaining()) {
        outcomes[index] = Some(outcome);
    }
    let outcomes = outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or(Err(Refusal::Silent { timeout })));
    paths.iter().cloned().zip(outcomes).collect()
}

/// Starts the probe of `path`, unless an earlier one has been waiting for it too long. Two at a time are fine.
fn start(
    path: &Path,
    timeout: Duration,
    tell: impl FnOnce(Result<Found, Refusal>) + Send + 'static,
) -> Result<(), Refusal> {
    let unanswered = || UNANSWERED.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    if now.duration_since(*unanswered().entry(path.to_owned()).or_insert(now)) >= timeout {
        return Err(Refusal::Silent { timeout });
    }
    let probe = {
        let path = path.to_owned();
        move || {
            let outcome = probe(&path);
            unanswered().remove(&path);
            tell(outcome);
        }
    };
    let started = thread::Builder::new()
        .name("disk-probe".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(probe);
    started.map(drop).map_err(|error| {
        unanswered().remove(path);
        Refusal::Resources(error)
    })
}

fn probe(path: &Path) -> Result<Found, Refusal> {
    let disk = DiskFile::open_read_only(path)?;
    // Refuses what is too small, or too large, for any layout.
    Geometry::of_disk(disk.len_bytes())?;
    let mut medium = UringMedium::new(disk).map_err(Refusal::Resources)?;
    let Choice {
        winner, bad_copies, ..
    } = choose_superblock(&mut medium)?;
    require_zero_boot_block(&mut medium)?;
    let disk = medium.into_disk();
    Ok(Found {
        path: path.to_owned(),
        canonical: path.canonicalize().unwrap_or_else(|_| path.to_owned()),
        aliases: Vec::new(),
        identity: disk.identity(),
        len_bytes: disk.len_bytes(),
        hardware_id: disk.hardware_id().map(str::to_owned),
        on_original_hardware: disk.hardware_id_hash() == winner.hardware_id_hash,
        bad_superblock_copies: bad_copies.len(),
        superblock: winner,
    })
}

fn choose_superblock<M: Medium>(medium: &mut M) -> Result<Choice, Refusal> {
    let set = superblock_set::read(medium).map_err(|error| match error {
        SetError::TooSmall { len_bytes } => Refusal::Size(GeometryError::TooSmall { len_bytes }),
        SetError::TooShort {
            len_bytes,
            disk_bytes,
        } => Refusal::TooShort {
            len_bytes,
            disk_bytes,
        },
        SetError::Io(fault) => Refusal::Read(fault),
    })?;
    Ok(superblock::choose(set.copies)?)
}

/// Format zeroes the boot block, and nothing of ours writes to it again. A partition table, a file system or an LVM label that
/// came later shows there, even where it left three superblock copies alone.
fn require_zero_boot_block<M: Medium>(medium: &mut M) -> Result<(), Refusal> {
    let mut page: Page = [0; PAGE_BYTES];
    medium.read(ByteOffset::new(0), &mut page)?;
    match page.iter().position(|&byte| byte != 0) {
        None => Ok(()),
        Some(first_byte) => Err(Refusal::BootBlockOverwritten {
            first_byte,
            value: page[first_byte],
        }),
    }
}
