//! Who uses a disk right now, as far as `/sys` and `/proc` tell: what `disk format` must not destroy.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::stat::makedev;

use super::block_devices::node_of;
use crate::engine::DiskIdentity;
use crate::engine::mount_points;
use crate::engine::sysfs::{self, SysfsBlock};

/// One use of a disk, or of a partition on it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskUse {
    /// A file system on it is mounted in this mount namespace.
    Mounted {
        /// The disk or its partition.
        device: PathBuf,
        /// Mount point.
        at: PathBuf,
    },
    /// A device-mapper, MD or bcache device lies on it.
    Holder {
        /// The disk or its partition.
        device: PathBuf,
        /// The device above.
        holder: PathBuf,
    },
    /// The kernel swaps to it.
    Swap {
        /// The disk, partition or file.
        device: PathBuf,
    },
    /// It is a file behind a loop device.
    Loop {
        /// The loop device.
        device: PathBuf,
    },
}

impl fmt::Display for DiskUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { device, at } => {
                write!(f, "{} is mounted on {}", device.display(), at.display())
            }
            Self::Holder { device, holder } => {
                write!(f, "{} is part of {}", device.display(), holder.display())
            }
            Self::Swap { device } => write!(f, "{} is swap space", device.display()),
            Self::Loop { device } => write!(f, "it is behind the loop device {}", device.display()),
        }
    }
}

/// All uses of the disk at `path` and of its partitions; empty where the path is no disk. Other mount namespaces are not seen,
/// but a claim of the disk fails while anything in them uses it.
pub fn uses_of(path: &Path) -> Vec<DiskUse> {
    let Some(identity) = path.metadata().ok().as_ref().and_then(DiskIdentity::of) else {
        return Vec::new();
    };
    match identity {
        DiskIdentity::Block(number) => {
            let Some(name) =
                SysfsBlock::of(number).and_then(|device| device.kernel_name().map(str::to_owned))
            else {
                return Vec::new();
            };
            let partitions = sysfs::partitions_of(&name);
            std::iter::once(name)
                .chain(partitions)
                .flat_map(|name| uses_of_block_device(&name))
                .collect()
        }
        DiskIdentity::File { .. } => uses_of_file(identity),
    }
}

fn uses_of_block_device(name: &str) -> Vec<DiskUse> {
    let node = node_of(name);
    let mut uses: Vec<DiskUse> = sysfs::links_of(name, "holders")
        .iter()
        .map(|holder| DiskUse::Holder {
            device: node.clone(),
            holder: node_of(holder),
        })
        .collect();
    if let Some(number) = number_of(name) {
        let mounts = mount_points(number).into_iter();
        uses.extend(mounts.map(|at| DiskUse::Mounted {
            device: node.clone(),
            at: PathBuf::from(at),
        }));
        if is_swap(DiskIdentity::Block(number)) {
            uses.push(DiskUse::Swap { device: node });
        }
    }
    uses
}

fn uses_of_file(identity: DiskIdentity) -> Vec<DiskUse> {
    let backs = |disk: &String| {
        let file = sysfs::attribute_of(disk, "loop/backing_file")?;
        (DiskIdentity::of(&fs::metadata(file).ok()?) == Some(identity)).then(|| node_of(disk))
    };
    let mut uses: Vec<DiskUse> = sysfs::all_disks()
        .iter()
        .filter_map(backs)
        .map(|device| DiskUse::Loop { device })
        .collect();
    uses.extend(
        swap_paths()
            .into_iter()
            .filter(|path| is_at(path, identity))
            .map(|device| DiskUse::Swap { device }),
    );
    uses
}

fn number_of(kernel_name: &str) -> Option<u64> {
    let numbers = sysfs::attribute_of(kernel_name, "dev")?;
    let (major, minor) = numbers.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

fn is_swap(identity: DiskIdentity) -> bool {
    swap_paths().iter().any(|path| is_at(path, identity))
}

fn is_at(path: &Path, identity: DiskIdentity) -> bool {
    path.metadata().ok().as_ref().and_then(DiskIdentity::of) == Some(identity)
}

/// First column of `/proc/swaps`, below its heading.
fn swap_paths() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .map(PathBuf::from)
        .collect()
}
