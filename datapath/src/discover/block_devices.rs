//! Which block devices of this machine may be Bedplate disks.

use std::path::{Path, PathBuf};

use crate::engine::sysfs;

/// Kernel names that never are: our own devices, compressed swap, optical drives and floppies (opening one starts its motor).
const NEVER: [&str; 4] = ["ublkb", "zram", "sr", "fd"];

/// Device nodes of all disks and partitions that have a medium and no device above. What has a device above (multipath,
/// LVM, RAID) is held by it and cannot be claimed; the device above is looked at instead.
pub(super) fn candidates() -> Vec<PathBuf> {
    let mut nodes = Vec::new();
    for disk in sysfs::all_disks() {
        if NEVER.iter().any(|prefix| is_numbered(&disk, prefix)) || !has_medium(&disk) {
            continue;
        }
        let partitions = sysfs::partitions_of(&disk);
        nodes.extend(
            std::iter::once(disk)
                .chain(partitions)
                .filter(|name| !is_held(name))
                .map(|name| node_of(&name)),
        );
    }
    nodes
}

/// `sr0` is an `sr`, `srv` is not.
fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

fn has_medium(disk: &str) -> bool {
    let attribute = |name| sysfs::attribute_of(disk, name);
    let is_hidden = attribute("hidden").as_deref() == Some("1");
    let is_empty = attribute("size").is_none_or(|sectors| sectors == "0");
    let is_idle_loop = is_numbered(disk, "loop") && attribute("loop/backing_file").is_none();
    !is_hidden && !is_empty && !is_idle_loop
}

fn is_held(name: &str) -> bool {
    !sysfs::links_of(name, "holders").is_empty()
}

/// The kernel writes `!` where a device's name has a `/` (`cciss!c0d0`).
pub(super) fn node_of(kernel_name: &str) -> PathBuf {
    Path::new("/dev").join(kernel_name.replace('!', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_devices_are_told_from_similar_names() {
        assert!(is_numbered("ublkb12", "ublkb"));
        assert!(is_numbered("sr0", "sr"));
        assert!(!is_numbered("srv", "sr"));
        assert!(!is_numbered("sda1", "sr"));
    }

    #[test]
    fn names_with_an_exclamation_mark_are_in_a_folder() {
        assert_eq!(node_of("cciss!c0d0"), Path::new("/dev/cciss/c0d0"));
    }
}
