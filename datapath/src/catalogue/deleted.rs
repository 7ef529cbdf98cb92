//! Images that were deleted: copies that a disk brings back go, and whoever was told is taken off the graves.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{Catalogue, Conflict, DiskSays, MergeStep, RemoveWhy};
use crate::format::members::MEMBERS_MAX;
use crate::format::object::ObjectKind;
use crate::store::{Grave, Object};

type Disks<'a> = BTreeMap<Uuid, &'a DiskSays>;

pub(super) fn merge(believed: &Disks<'_>, catalogue: &mut Catalogue) {
    let uuids: BTreeSet<Uuid> = believed
        .values()
        .flat_map(|says| says.graves.iter().map(|grave| grave.object_uuid))
        .collect();
    for uuid in uuids {
        merge_one(uuid, believed, catalogue);
    }
}

/// The copies of a deleted image that are still there, by disk.
fn copies_of<'a>(uuid: Uuid, believed: &Disks<'a>) -> BTreeMap<Uuid, &'a Object> {
    let copy = |says: &'a DiskSays| {
        let copy = says
            .objects
            .iter()
            .find(|object| object.uuid == uuid && object.kind == ObjectKind::ImageReplica)?;
        Some((says.disk, copy))
    };
    believed.values().filter_map(|says| copy(says)).collect()
}

fn merge_one(uuid: Uuid, believed: &Disks<'_>, catalogue: &mut Catalogue) {
    let copies = copies_of(uuid, believed);
    let clones: Vec<Conflict> = believed
        .values()
        .flat_map(|says| says.objects.iter().map(|object| (says.disk, object)))
        .filter(|(_, object)| object.parent == Some(uuid))
        .map(|(disk, clone)| Conflict::CloneOfDeleted {
            uuid,
            volume: clone.uuid,
            disk,
        })
        .collect();

    // A copy may name disks that the graves have never heard of: its description was newer. They must be told too, and after the copy is
    // gone nobody would know.
    let named: BTreeSet<Uuid> = copies
        .iter()
        .flat_map(|(disk, copy)| copy.member_disks.iter().copied().chain([*disk]))
        .collect();
    // A slot that cannot be read may be the copy: read again, it would bring the image back after everybody had forgotten it.
    let was_told = |disk: &Uuid| {
        let says = believed.get(disk);
        says.is_some_and(|says| !says.has_lost_slot()) && !copies.contains_key(disk)
    };
    let mut pending_of_all = BTreeSet::new();
    let mut name = None;
    for says in believed.values() {
        let Some(grave) = says.graves.iter().find(|grave| grave.object_uuid == uuid) else {
            continue;
        };
        name.get_or_insert(grave);
        let mut pending: Vec<Uuid> = grave.pending.clone();
        pending.extend(named.iter().filter(|disk| !grave.pending.contains(disk)));
        pending.retain(|disk| !was_told(disk) && *disk != says.disk);
        pending.truncate(MEMBERS_MAX);
        pending.sort_unstable();
        pending_of_all.extend(pending.iter().copied());
        if !says.is_writable {
            continue;
        }
        if pending.is_empty() && copies.is_empty() {
            let disk = says.disk;
            catalogue.steps.push(MergeStep::Unbury { disk, uuid });
        } else if pending != grave.pending {
            let grave = Grave {
                pending,
                ..grave.clone()
            };
            let disk = says.disk;
            catalogue.steps.push(MergeStep::Bury { disk, grave });
        }
    }
    let Some(grave) = name else { return };
    if clones.is_empty() {
        // The graves know by then whom the copies name.
        remove_copies(grave, &copies, &pending_of_all, believed, catalogue);
    }
    catalogue.conflicts.extend(clones);
    catalogue.deleted.push(Grave {
        pending: pending_of_all.into_iter().collect(),
        ..grave.clone()
    });
}

fn remove_copies(
    grave: &Grave,
    copies: &BTreeMap<Uuid, &Object>,
    pending: &BTreeSet<Uuid>,
    believed: &Disks<'_>,
    catalogue: &mut Catalogue,
) {
    let uuid = grave.object_uuid;
    for disk in copies.keys() {
        let Some(says) = believed.get(disk).filter(|says| says.is_writable) else {
            continue;
        };
        let mut rest: Vec<Uuid> = pending.iter().copied().filter(|one| one != disk).collect();
        let has_grave = says.graves.iter().any(|grave| grave.object_uuid == uuid);
        let disk = *disk;
        catalogue.steps.push(if has_grave || rest.is_empty() {
            MergeStep::RemoveReplica {
                disk,
                uuid,
                why: RemoveWhy::Deleted,
            }
        } else {
            // While others are to be told, this disk remembers it as well: should the disks with a grave be lost, an image that comes late
            // would be back.
            rest.truncate(MEMBERS_MAX);
            let grave = Grave {
                pending: rest,
                ..grave.clone()
            };
            MergeStep::Bury { disk, grave }
        });
    }
}
