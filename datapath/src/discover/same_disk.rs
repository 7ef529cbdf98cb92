//! Tells one disk under several names from several disks under one UUID.

use std::collections::BTreeMap;
use std::path::Path;

use nix::sys::stat::makedev;
use uuid::Uuid;

use super::{Duplicate, Found};
use crate::engine::DiskIdentity;
use crate::engine::sysfs::{self, SysfsBlock};

/// Device-mapper tables can be stacked; deeper than this nobody stacks them.
const STACK_DEPTH_MAX: usize = 8;

/// Each disk once, the first path of it first, and the UUIDs that more than one disk has.
pub(super) fn resolve(found: Vec<Found>) -> (Vec<Found>, Vec<Duplicate>) {
    let mut by_uuid: BTreeMap<Uuid, Vec<Found>> = BTreeMap::new();
    for disk in found {
        let same_uuid = by_uuid.entry(disk.disk_uuid()).or_default();
        match same_uuid
            .iter_mut()
            .find(|other| other.identity == disk.identity)
        {
            Some(other) => add_alias(other, &disk),
            None => same_uuid.push(disk),
        }
    }
    let mut single = Vec::new();
    let mut duplicates = Vec::new();
    for (disk_uuid, disks) in by_uuid {
        let mut disks = merge_stacked(disks, lies_on);
        if disks.len() > 1 {
            let paths = disks.into_iter().map(|disk| disk.path).collect();
            duplicates.push(Duplicate { disk_uuid, paths });
        } else {
            single.append(&mut disks);
        }
    }
    (single, duplicates)
}

fn add_alias(disk: &mut Found, other: &Found) {
    for path in std::iter::once(&other.path).chain(&other.aliases) {
        if *path != disk.path && !disk.aliases.contains(path) {
            disk.aliases.push(path.clone());
        }
    }
}

/// A device-mapper device and what it lies on have the same content, and only the upper one can be claimed. A loop device and
/// its file have too, and either could be claimed: the path that was asked for first is kept.
fn merge_stacked(
    disks: Vec<Found>,
    lies_on: impl Fn(DiskIdentity, DiskIdentity) -> bool,
) -> Vec<Found> {
    let mut kept: Vec<Found> = Vec::new();
    for disk in disks {
        let below = |other: &Found| lies_on(disk.identity, other.identity);
        let above = |other: &Found| lies_on(other.identity, disk.identity);
        match kept.iter().position(|other| below(other) || above(other)) {
            None => kept.push(disk),
            Some(index) => {
                let other = &mut kept[index];
                let is_block = |disk: &Found| matches!(disk.identity, DiskIdentity::Block(_));
                if below(other) && is_block(other) {
                    let lower = std::mem::replace(other, disk);
                    add_alias(&mut kept[index], &lower);
                } else {
                    add_alias(other, &disk);
                }
            }
        }
    }
    // A multipath device that came last has swallowed one of its paths; the others were kept before it.
    if kept.len() > 1 {
        let identities: Vec<_> = kept.iter().map(|disk| disk.identity).collect();
        let is_covered = |disk: &Found| {
            identities
                .iter()
                .any(|&upper| lies_on(upper, disk.identity))
        };
        if let Some(top) = kept.iter().position(|disk| !is_covered(disk)) {
            let mut top = kept.swap_remove(top);
            let (covered, mut rest): (Vec<_>, Vec<_>) = kept
                .into_iter()
                .partition(|disk| lies_on(top.identity, disk.identity));
            for disk in &covered {
                add_alias(&mut top, disk);
            }
            rest.insert(0, top);
            return rest;
        }
    }
    kept
}

/// Whether the block device `upper` gets its bytes from `lower`: through device-mapper or MD, or as a loop device.
fn lies_on(upper: DiskIdentity, lower: DiskIdentity) -> bool {
    let mut level = vec![upper];
    for _ in 0..STACK_DEPTH_MAX {
        level = level.into_iter().flat_map(directly_below).collect();
        if level.contains(&lower) {
            return true;
        }
    }
    false
}

fn directly_below(upper: DiskIdentity) -> Vec<DiskIdentity> {
    let DiskIdentity::Block(number) = upper else {
        return Vec::new();
    };
    let Some(device) = SysfsBlock::of(number) else {
        return Vec::new();
    };
    let mut below: Vec<DiskIdentity> = device
        .own_links("slaves")
        .iter()
        .filter_map(|name| block_identity(name))
        .collect();
    // A partition of a loop device is not the whole of its file.
    if let Some(file) = device.own_attribute("loop/backing_file") {
        below.extend(identity_of_path(Path::new(&file)));
    }
    below
}

fn block_identity(kernel_name: &str) -> Option<DiskIdentity> {
    let numbers = sysfs::attribute_of(kernel_name, "dev")?;
    let (major, minor) = numbers.split_once(':')?;
    Some(DiskIdentity::Block(makedev(
        major.parse().ok()?,
        minor.parse().ok()?,
    )))
}

fn identity_of_path(path: &Path) -> Option<DiskIdentity> {
    DiskIdentity::of(&path.metadata().ok()?)
}
