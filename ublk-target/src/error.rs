//! What can go wrong with a device: what, where, and what to do about it.

use std::path::PathBuf;
use std::time::Duration;

use bedplate_datapath::units::DevId;
use nix::errno::Errno;

use crate::kernel_device::KernelDevice;
use crate::openers::Opener;

/// Why a ublk operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The kernel has no ublk, or does not let us use it.
    #[error("cannot open {path}: {errno}")]
    NoUblk {
        /// `/dev/ublk-control`.
        path: &'static str,
        /// Why.
        errno: Errno,
    },
    /// The kernel has ublk, but lacks what a device of ours cannot do without.
    #[error("the kernel's ublk driver lacks {lacks}")]
    KernelTooOld {
        /// What is missing.
        lacks: &'static str,
    },
    /// A control command failed.
    #[error("{command} of ublk device {dev_id}: {errno}")]
    Command {
        /// Name in `ublk_cmd.h`, without its prefix.
        command: &'static str,
        /// Which device.
        dev_id: DevId,
        /// What the kernel answered.
        errno: Errno,
    },
    /// A control command did not end in time.
    #[error("{command} of ublk device {dev_id} did not end within {waited:?}")]
    TimedOut {
        /// Name in `ublk_cmd.h`, without its prefix.
        command: &'static str,
        /// Which device.
        dev_id: DevId,
        /// How long we waited.
        waited: Duration,
    },
    /// The device number is in use by something else.
    #[error("device number {} is taken by {by}", .by.dev_id)]
    DeviceTaken {
        /// By what.
        by: Box<KernelDevice>,
    },
    /// There is no such device.
    #[error("there is no ublk device {dev_id}")]
    NotFound {
        /// Which.
        dev_id: DevId,
    },
    /// The device is in use, or is being changed by another operation.
    #[error("/dev/ublkb{dev_id} is in use{}", describe_openers(.by))]
    Busy {
        /// Which device.
        dev_id: DevId,
        /// Who has it open, as far as can be seen.
        by: Vec<Opener>,
    },
    /// A device that is to be recovered is not what its object says it is.
    #[error("ublk device {dev_id} has {what} {actual}, its object {expected}")]
    Mismatch {
        /// Which device.
        dev_id: DevId,
        /// What differs.
        what: &'static str,
        /// Of the kernel's device.
        actual: u64,
        /// Of the object.
        expected: u64,
    },
    /// A fixed-size table is full.
    #[error("no room for another {what}: the limit is {limit}")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: u32,
    },
    /// The disk is used by attached devices, or unknown.
    #[error("disk {index} {why}")]
    Disk {
        /// Number in the file tables.
        index: u16,
        /// What is wrong.
        why: &'static str,
    },
    /// The file or device could not be opened, mapped, read or written.
    #[error("{doing} {}: {source}", .path.display())]
    Io {
        /// What we did.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// A reactor could not be started, or ended.
    #[error("reactor {reactor}: {doing}: {source}")]
    Reactor {
        /// Which.
        reactor: usize,
        /// What it did.
        doing: &'static str,
        /// What the system answered.
        source: std::io::Error,
    },
}

fn describe_openers(openers: &[Opener]) -> String {
    let names: Vec<String> = openers.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(": {}", names.join(", "))
    }
}

impl TargetError {
    /// The errno behind it, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::NoUblk { errno, .. } | Self::Command { errno, .. } => Some(*errno as i32),
            Self::Io { source, .. } | Self::Reactor { source, .. } => source.raw_os_error(),
            Self::Busy { .. } => Some(libc::EBUSY),
            Self::DeviceTaken { .. } => Some(libc::EEXIST),
            _ => None,
        }
    }

    /// What a person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoUblk {
                errno: Errno::ENOENT,
                ..
            } => "load the module: modprobe ublk_drv (Linux 6.8 or newer, CONFIG_BLK_DEV_UBLK)",
            Self::NoUblk { .. }
            | Self::Command {
                errno: Errno::EPERM | Errno::EACCES,
                ..
            } => "run as root (CAP_SYS_ADMIN)",
            Self::KernelTooOld { .. } => {
                "boot Linux 6.8 or newer; zero copy and resizing need 6.16"
            }
            Self::Command {
                errno: Errno::ENOMEM,
                ..
            } => "free memory, or lower queue_depth",
            Self::Command {
                errno: Errno::ENOSPC,
                ..
            } => {
                "raise the ublks_max parameter of the ublk_drv module (it caps all devices before Linux 6.15)"
            }
            Self::Command { .. } => "see the kernel's log (dmesg)",
            Self::TimedOut { .. } => {
                "look for a hung disk or a process that holds /dev/ublkcN open; then try again"
            }
            Self::DeviceTaken { .. } => "stop its owner, or remove that device, then attach again",
            Self::NotFound { .. } => "attach the object first",
            Self::Busy { .. } => "close or unmount it, then try again",
            Self::Mismatch { .. } => {
                "remove the device (bedplated remove-devices), then attach again"
            }
            Self::Full { .. } => "detach devices, or add reactors",
            Self::Disk { .. } => "detach the devices that read from the disk first",
            Self::Io { .. } => {
                "check that /dev and /sys are mounted and that the process may open files there"
            }
            Self::Reactor { .. } => {
                "check kernel.io_uring_disabled, RLIMIT_NOFILE and RLIMIT_MEMLOCK (bedplate doctor does)"
            }
        }
    }
}
