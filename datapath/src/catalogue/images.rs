//! Images: one view of all replicas, and one description.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{
    Catalogue, CatalogueImage, CatalogueReplica, CatalogueState, Conflict, DiskSays, MergeStep,
};
use crate::format::members::MEMBERS_MAX;
use crate::format::object::ObjectKind;
use crate::store::{Damage, Description, Object, ReplicaState};

type Disks<'a> = BTreeMap<Uuid, &'a DiskSays>;
/// The copies of one image, by disk.
type Copies<'a> = BTreeMap<Uuid, &'a Object>;

pub(super) fn merge(all: &Disks<'_>, believed: &Disks<'_>, catalogue: &mut Catalogue) {
    let is_deleted = |uuid: &Uuid| {
        catalogue
            .deleted
            .iter()
            .any(|grave| grave.object_uuid == *uuid)
    };
    let mut images = by_image(believed.values().copied());
    images.retain(|uuid, _| !is_deleted(uuid));
    // An image of which only an old copy of a disk knows is shown, and not more.
    let mut only_stale = by_image(all.values().copied());
    only_stale.retain(|uuid, _| !is_deleted(uuid) && !images.contains_key(uuid));
    for (uuid, copies) in &images {
        merge_one(*uuid, copies, all, believed, catalogue);
    }
    for (uuid, copies) in &only_stale {
        show_stale(*uuid, copies, catalogue);
    }
    catalogue.images.sort_by_key(|image| image.uuid);
    find_conflicts(believed, catalogue);
}

fn by_image<'a>(disks: impl Iterator<Item = &'a DiskSays>) -> BTreeMap<Uuid, Copies<'a>> {
    let mut images: BTreeMap<Uuid, Copies<'a>> = BTreeMap::new();
    for says in disks {
        for object in &says.objects {
            if object.kind == ObjectKind::ImageReplica {
                // The first of two with one UUID on a disk: both are Failed, and nothing is done to them.
                let copies = images.entry(object.uuid).or_default();
                copies.entry(says.disk).or_insert(object);
            }
        }
    }
    images
}

fn merge_one(
    uuid: Uuid,
    copies: &Copies<'_>,
    all: &Disks<'_>,
    believed: &Disks<'_>,
    catalogue: &mut Catalogue,
) {
    let Some(best) = copies.values().max_by_key(|copy| {
        let state = (copy.state.is_ready(), !copy.state.is_failed());
        (state, copy.generation, copy.replica_uuid)
    }) else {
        return;
    };
    let (same, foreign): (Copies<'_>, Copies<'_>) = copies
        .iter()
        .map(|(disk, copy)| (*disk, *copy))
        .partition(|(_, copy)| is_same_image(copy, best));
    catalogue.conflicts.extend(
        foreign
            .keys()
            .map(|disk| Conflict::Identity { uuid, disk: *disk }),
    );
    let description = describe(uuid, &same, catalogue);

    for (disk, copy) in &same {
        let is_writable = believed.get(disk).is_some_and(|says| says.is_writable);
        // A slot of which it is not known which object it means is left as it is.
        let is_ambiguous = matches!(copy.state, ReplicaState::Failed(Damage::Duplicate { .. }));
        if is_writable
            && !is_ambiguous
            && description.member_disks.contains(disk)
            && copy.generation < description.generation
        {
            catalogue.steps.push(MergeStep::SetDescription {
                disk: *disk,
                uuid,
                description: description.clone(),
            });
        }
    }

    let disks: BTreeSet<Uuid> = description
        .member_disks
        .iter()
        .chain(copies.keys())
        .copied()
        .collect();
    let replica = |disk: Uuid| {
        let copy = copies.get(&disk);
        let state = match copy {
            Some(_) if foreign.contains_key(&disk) => CatalogueState::Foreign,
            Some(copy) => state_of(&copy.state),
            None if believed.get(&disk).is_some_and(|says| says.has_lost_slot()) => {
                CatalogueState::Hidden
            }
            None if believed.contains_key(&disk) => CatalogueState::Pending,
            None if all.contains_key(&disk) => CatalogueState::Stale,
            None => CatalogueState::Unknown,
        };
        CatalogueReplica {
            disk,
            replica_uuid: copy.map(|copy| copy.replica_uuid),
            state,
        }
    };
    catalogue.images.push(CatalogueImage {
        uuid,
        object: (*best).clone(),
        replicas: disks.into_iter().map(replica).collect(),
        description,
    });
}

fn state_of(state: &ReplicaState) -> CatalogueState {
    match state {
        ReplicaState::Ready => CatalogueState::Ready,
        ReplicaState::Building { done_bytes } => CatalogueState::Building {
            done_bytes: *done_bytes,
        },
        ReplicaState::Failed(damage) => CatalogueState::Failed(damage.clone()),
    }
}

/// What never changes of an image after its first seal.
fn is_same_image(a: &Object, b: &Object) -> bool {
    (&a.name, a.size_bytes, a.sha256, a.sha512) == (&b.name, b.size_bytes, b.sha256, b.sha512)
}

/// The description that holds, with every copy named that is there.
fn describe(uuid: Uuid, copies: &Copies<'_>, catalogue: &mut Catalogue) -> Description {
    let Some((holds, newest)) = copies
        .iter()
        .max_by_key(|(_, copy)| (copy.generation, copy.replica_uuid))
    else {
        return Description {
            generation: 0,
            wanted_copies: 1,
            member_disks: Vec::new(),
            dev_id: None,
            want_attached: false,
        };
    };
    let mut description = newest.description();
    let mut changed = false;
    for (other, copy) in copies {
        let said = copy.description();
        if said.generation == description.generation && !said.says_the_same(&description) {
            changed = true;
            catalogue.conflicts.push(Conflict::Descriptions {
                uuid,
                generation: said.generation,
                holds: *holds,
                other: *other,
            });
        }
    }

    let mut members: Vec<Uuid> = newest.member_disks.clone();
    members.sort_unstable();
    members.dedup();
    let named = members.clone();
    // A name without a copy stays: it may be that of a copy that is about to be begun, for a disk that is drained for instance. Whether it
    // is needed is for the supervisor to say.
    // A copy that nobody names any more (its disk was forgotten, and came back) is a good copy: it is named again, and whether there
    // are too many is for others to say.
    let unnamed: Vec<Uuid> = copies
        .keys()
        .copied()
        .filter(|disk| !members.contains(disk))
        .collect();
    let room = MEMBERS_MAX.saturating_sub(members.len());
    if unnamed.len() > room {
        catalogue.conflicts.push(Conflict::TooManyCopies { uuid });
    }
    members.extend(unnamed.into_iter().take(room));
    members.sort_unstable();
    changed |= members != named;
    description.member_disks = members;
    if changed {
        // Above every one that was seen, so that it holds over all of them.
        description.generation = description.generation.saturating_add(1);
    }
    description
}

fn show_stale(uuid: Uuid, copies: &Copies<'_>, catalogue: &mut Catalogue) {
    let Some(newest) = copies
        .values()
        .max_by_key(|copy| (copy.generation, copy.replica_uuid))
    else {
        return;
    };
    let replica = |(disk, copy): (&Uuid, &&Object)| CatalogueReplica {
        disk: *disk,
        replica_uuid: Some(copy.replica_uuid),
        state: CatalogueState::Stale,
    };
    catalogue.images.push(CatalogueImage {
        uuid,
        object: (*newest).clone(),
        description: newest.description(),
        replicas: copies.iter().map(replica).collect(),
    });
}

fn find_conflicts(believed: &Disks<'_>, catalogue: &mut Catalogue) {
    let volumes: Vec<(Uuid, &Object)> = believed
        .values()
        .flat_map(|says| says.objects.iter().map(|object| (says.disk, object)))
        .filter(|(_, object)| object.kind == ObjectKind::Volume)
        .collect();
    let mut names: BTreeMap<&str, BTreeSet<Uuid>> = BTreeMap::new();
    let images = catalogue.images.iter().map(|image| &image.object);
    for object in images.chain(volumes.iter().map(|(_, volume)| *volume)) {
        names.entry(&object.name).or_default().insert(object.uuid);
    }
    let mut conflicts: Vec<Conflict> = names
        .into_iter()
        .filter(|(_, uuids)| uuids.len() > 1)
        .map(|(name, uuids)| Conflict::Name {
            name: name.to_owned(),
            uuids: uuids.into_iter().collect(),
        })
        .collect();

    let mut places: BTreeMap<Uuid, Vec<Uuid>> = BTreeMap::new();
    for (disk, volume) in &volumes {
        places.entry(volume.uuid).or_default().push(*disk);
    }
    for (uuid, disks) in places.into_iter().filter(|(_, disks)| disks.len() > 1) {
        conflicts.push(Conflict::Volume { uuid, disks });
    }

    let is_there = |image: Uuid| {
        believed
            .values()
            .any(|says| says.objects.iter().any(|object| object.uuid == image))
    };
    for (disk, volume) in &volumes {
        if let Some(image) = volume.parent.filter(|image| !is_there(*image)) {
            conflicts.push(Conflict::NoBase {
                volume: volume.uuid,
                disk: *disk,
                image,
            });
        }
    }
    catalogue.conflicts.extend(conflicts);
}
