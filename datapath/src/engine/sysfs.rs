//! What `/sys` says about a block device. Reads attributes only; never opens a device.
//!
//! A partition has few attributes of its own: what concerns the medium (cache, alignment, sequence, serial) is asked of
//! the whole disk that it lies on. Source of the names: `Documentation/ABI/stable/sysfs-block`.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::stat::{dev_t, major, minor};

/// A block device's folder under `/sys/devices`, found by its number.
#[derive(Debug, Clone)]
pub(crate) struct SysfsBlock {
    /// Of the device itself, which may be a partition.
    own: PathBuf,
    /// Of the whole disk; the same as `own` where the device is no partition.
    whole: PathBuf,
}

impl SysfsBlock {
    /// `None` where the number is no block device's (an anonymous one of btrfs, overlayfs or NFS), or `/sys` is not there.
    pub(crate) fn of(device: dev_t) -> Option<Self> {
        let link = format!("/sys/dev/block/{}:{}", major(device), minor(device));
        let own = fs::canonicalize(link).ok()?;
        let whole = if own.join("partition").exists() {
            own.parent()?.to_path_buf()
        } else {
            own.clone()
        };
        Some(Self { own, whole })
    }

    /// The kernel's name of the device: `nvme0n1p2`.
    pub(crate) fn kernel_name(&self) -> Option<&str> {
        self.own.file_name()?.to_str()
    }

    pub(crate) fn is_partition(&self) -> bool {
        self.own != self.whole
    }

    /// An attribute of the device itself, without its line end; `None` where it is missing or empty.
    pub(crate) fn own_attribute(&self, name: &str) -> Option<String> {
        attribute(&self.own, name)
    }

    /// An attribute of the whole disk.
    pub(crate) fn disk_attribute(&self, name: &str) -> Option<String> {
        attribute(&self.whole, name)
    }

    /// Kernel names in a folder of links: `holders`, `slaves`.
    pub(crate) fn own_links(&self, folder: &str) -> Vec<String> {
        names_in(&self.own.join(folder))
    }

    /// What identifies the hardware, whatever the device is called: its WWID, serial or device-mapper UUID; for a
    /// partition with its first sector. `None` for devices that have no identity (a loop device, a RAM disk).
    pub(crate) fn hardware_id(&self) -> Option<String> {
        // In this order: a namespace's WWID is finer than its controller's serial.
        let names = [
            "wwid",
            "device/wwid",
            "serial",
            "device/serial",
            "dm/uuid",
            "md/uuid",
        ];
        let disk_id = names.iter().find_map(|name| self.disk_attribute(name))?;
        if !self.is_partition() {
            return Some(disk_id);
        }
        let start_sector = self.own_attribute("start")?;
        Some(format!("{disk_id}@{start_sector}"))
    }
}

/// Kernel names of all whole block devices.
pub(crate) fn all_disks() -> Vec<String> {
    names_in(Path::new("/sys/block"))
}

/// Kernel names of the partitions of the whole disk `disk`.
pub(crate) fn partitions_of(disk: &str) -> Vec<String> {
    let folder = Path::new("/sys/block").join(disk);
    names_in(&folder)
        .into_iter()
        .filter(|name| folder.join(name).join("partition").exists())
        .collect()
}

/// An attribute of the device with this kernel name, whole disk or partition.
pub(crate) fn attribute_of(kernel_name: &str, name: &str) -> Option<String> {
    attribute(&Path::new("/sys/class/block").join(kernel_name), name)
}

/// Kernel names in a folder of links of the device with this kernel name.
pub(crate) fn links_of(kernel_name: &str, folder: &str) -> Vec<String> {
    names_in(&Path::new("/sys/class/block").join(kernel_name).join(folder))
}

fn attribute(folder: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(folder.join(name)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
