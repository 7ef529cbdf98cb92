//! Finds Bedplate disks by what is on them, whatever they are called this time. Only reads, and claims nothing.
//!
//! What is found is a hint: whoever opens a disk claims it first and then reads its superblock again.

mod block_devices;
mod in_use;
mod inspect;
mod probe;
mod same_disk;
mod wipefs;

use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use crate::engine::DiskIdentity;
use crate::format::superblock::Superblock;

pub use in_use::{DiskUse, uses_of};
pub use inspect::{BedplateContent, DiskContent, InspectError, inspect};
pub use probe::Refusal;
pub use wipefs::{Signature, SignatureError, foreign_signatures};

/// How long one disk may take to answer before the scan goes on without it.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A disk with a superblock that this version can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The path that leads to it: the one that was asked for, or the device node.
    pub path: PathBuf,
    /// The same without symbolic links, to be compared with what `/proc` and `lsblk` say.
    pub canonical: PathBuf,
    /// Other paths that lead to the same bytes.
    pub aliases: Vec<PathBuf>,
    /// What it is, whatever it is called.
    pub identity: DiskIdentity,
    /// Its length now, which may be more than at format.
    pub len_bytes: u64,
    /// The device's WWID or serial.
    pub hardware_id: Option<String>,
    /// False if the superblock was written on other hardware: the disk was moved, or it is a copy.
    pub on_original_hardware: bool,
    /// Superblock copies that are bad or stale; opening the disk repairs them.
    pub bad_superblock_copies: usize,
    /// Disk UUID, generation, session, clean mark, geometry.
    pub superblock: Superblock,
}

impl Found {
    /// What the disk is known by.
    pub fn disk_uuid(&self) -> Uuid {
        self.superblock.disk_uuid
    }

    /// Every path that leads to it.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.path).chain(&self.aliases)
    }
}

/// A path that is no usable Bedplate disk.
#[derive(Debug)]
pub struct Refused {
    /// The path that was asked for, or the device node.
    pub path: PathBuf,
    /// Why not.
    pub why: Refusal,
}

/// Two or more devices with the same disk UUID: a copy and its original, which nothing can tell apart. None may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// The UUID that they share.
    pub disk_uuid: Uuid,
    /// One path for each.
    pub paths: Vec<PathBuf>,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct ScanReport {
    /// Usable disks, each UUID once.
    pub found: Vec<Found>,
    /// Every path that was asked for and is no usable disk; and devices that nobody asked for, but that carry a damaged or
    /// unknown superblock or did not answer.
    pub refused: Vec<Refused>,
    /// UUIDs that were found more than once; their disks are not in `found`.
    pub duplicates: Vec<Duplicate>,
}

/// Looks at `paths`, and at all block devices if `all_block_devices`, all at the same time, each for [`PROBE_TIMEOUT`].
pub fn scan(paths: &[PathBuf], all_block_devices: bool) -> ScanReport {
    scan_within(paths, all_block_devices, PROBE_TIMEOUT)
}

/// [`scan`] with another time limit for each disk.
///
/// A disk that does not answer in time is refused as [`Refusal::Silent`]. Its probe stays behind in a thread of its own until
/// the disk answers or the process ends, and the path is refused at once while it does: threads do not pile up.
pub fn scan_within(
    paths: &[PathBuf],
    all_block_devices: bool,
    probe_timeout: Duration,
) -> ScanReport {
    let mut candidates = paths.to_vec();
    if all_block_devices {
        let asked: Vec<_> = paths
            .iter()
            .filter_map(|path| path.canonicalize().ok())
            .collect();
        candidates.extend(
            block_devices::candidates()
                .into_iter()
                .filter(|node| !asked.contains(node)),
        );
    }
    let mut report = ScanReport::default();
    let mut found = Vec::new();
    for (index, (path, outcome)) in probe::probe_all(&candidates, probe_timeout)
        .into_iter()
        .enumerate()
    {
        match outcome {
            Ok(disk) => found.push(disk),
            Err(why) if index < paths.len() || why.concerns_operator() => {
                report.refused.push(Refused { path, why });
            }
            Err(_) => {}
        }
    }
    (report.found, report.duplicates) = same_disk::resolve(found);
    report
}
