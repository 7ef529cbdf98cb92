//! Who has a block device open.
//!
//! The kernel answers "somebody" only (`TRY_STOP_DEV`, `O_EXCL`), so names are looked up in `/proc`, for the one who has
//! to close it. A file system mounted in another mount namespace has no file descriptor: it shows by `O_EXCL` alone.

use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use bedplate_datapath::units::DevId;

use crate::kernel_device::process_name;

/// Somebody who uses a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opener {
    /// A process that has it, or a partition of it, open.
    Process {
        /// Its number.
        pid: i32,
        /// Its name.
        name: String,
    },
    /// Another block device that lies on it: device mapper, RAID.
    Holder(String),
    /// Somebody holds it exclusively: a mounted file system, most likely.
    Exclusive,
}

impl fmt::Display for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name } => write!(f, "open by {name} (pid {pid})"),
            Self::Holder(name) => write!(f, "block device {name} lies on it"),
            Self::Exclusive => {
                f.write_str("held exclusively, by a mounted file system most likely")
            }
        }
    }
}

/// Everybody who can be seen to use `/dev/ublkbN` or a partition of it; empty when nobody can.
pub(crate) fn openers_of(dev_id: DevId) -> Vec<Opener> {
    let block = PathBuf::from(format!("/sys/block/ublkb{dev_id}"));
    let mut nodes = vec![format!("ublkb{dev_id}")];
    let mut openers = Vec::new();
    for entry in fs::read_dir(&block).into_iter().flatten().flatten() {
        if entry.path().join("partition").exists()
            && let Ok(name) = entry.file_name().into_string()
        {
            nodes.push(name);
        }
    }
    for node in &nodes {
        let holders = fs::read_dir(format!("/sys/class/block/{node}/holders"));
        let names = holders
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        openers.extend(names.map(Opener::Holder));
    }
    let numbers: Vec<u64> = nodes
        .iter()
        .filter_map(|node| Some(fs::metadata(format!("/dev/{node}")).ok()?.rdev()))
        .collect();
    openers.extend(processes_with(&numbers));
    if openers.is_empty() && nodes.iter().any(|node| is_held(node)) {
        openers.push(Opener::Exclusive);
    }
    openers
}

/// Whether somebody holds it with `O_EXCL`, as mounts, device mapper and RAID do.
fn is_held(node: &str) -> bool {
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(format!("/dev/{node}"));
    matches!(opened, Err(error) if error.raw_os_error() == Some(libc::EBUSY))
}

fn processes_with(numbers: &[u64]) -> Vec<Opener> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let files = fs::read_dir(entry.path().join("fd")).ok()?;
        let open = files.flatten().any(|file| {
            fs::metadata(file.path()).is_ok_and(|file| {
                file.file_type().is_block_device() && numbers.contains(&file.rdev())
            })
        });
        open.then(|| Opener::Process {
            pid,
            name: process_name(pid).unwrap_or_default(),
        })
    })
    .collect()
}
