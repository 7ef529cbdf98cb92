//! What the plan is made of, as it is now.

use std::collections::HashMap;
use std::sync::Arc;

use bedplate_datapath::catalogue::{Catalogue, CatalogueImage, CatalogueState};
use bedplate_datapath::units::CLUSTER_BYTES;
use uuid::Uuid;

use super::plan::{CopyNow, CopyState, DiskNow, ImageNow, Situation, Standing};
use super::stale::is_stale;
use crate::api::DiskState;
use crate::daemon::disk::entry::DiskEntry;
use crate::daemon::node::Node;

/// Everything that is known now. `draining`: a disk that is taken to be drained, whatever was asked for.
pub fn now(node: &Arc<Node>, draining: Option<Uuid>) -> Situation {
    let catalogue = node.catalogue();
    let mut disks = disks(node, &catalogue);
    add_unknown(node, &catalogue, &mut disks);
    let clones = clones(node);
    for disk in &mut disks {
        disk.draining |= Some(disk.uuid) == draining;
    }
    Situation {
        images: catalogue
            .images
            .iter()
            .map(|image| image_now(node, &clones, image))
            .collect(),
        disks,
        now: node.replicas.now(),
        grace: node.config.grace(),
    }
}

fn disks(node: &Arc<Node>, catalogue: &Catalogue) -> Vec<DiskNow> {
    let now = node.replicas.now();
    let fill = u64::from(node.config.rebuild.fill_percent);
    let entries = node.disks();
    let mut state = node.replicas.state();
    let mut disks = Vec::new();
    for entry in entries.iter() {
        let Some(uuid) = entry.uuid else { continue };
        let in_use = entry.actor.is_some() && entry.state.get() == DiskState::Online;
        let standing = if in_use {
            if state.away.remove(&uuid).is_some() {
                // It was changed, or mended: what was before does not count.
                state.backoff.forget_disk(uuid);
            }
            // An old copy of a disk gets nothing new.
            if DiskEntry::writable(entry).is_some() && !is_stale(catalogue, uuid) {
                Standing::Usable
            } else {
                Standing::ReadOnly
            }
        } else {
            Standing::Away(*state.away.entry(uuid).or_insert(now))
        };
        // One that hands out no clusters has no room, whatever is free on it; copies can go from it all the same.
        let allocating = entry.actor.as_ref().filter(|actor| actor.allocates());
        let room_bytes = allocating.map_or(0, |actor| {
            let kept = actor.usable_bytes - actor.usable_bytes / 100 * fill;
            actor.free_bytes().saturating_sub(kept)
        });
        disks.push(DiskNow {
            uuid,
            standing,
            room_bytes,
            draining: node.seen().is_draining(uuid),
        });
    }
    disks
}

/// Disks that an image names and that were not seen in this life of the daemon: late since it started.
fn add_unknown(node: &Arc<Node>, catalogue: &Catalogue, disks: &mut Vec<DiskNow>) {
    let mut state = node.replicas.state();
    let named = catalogue
        .images
        .iter()
        .flat_map(|image| &image.description.member_disks);
    for uuid in named {
        if disks.iter().any(|disk| disk.uuid == *uuid) {
            continue;
        }
        let since = *state.away.entry(*uuid).or_default();
        disks.push(DiskNow {
            uuid: *uuid,
            standing: Standing::Away(since),
            room_bytes: 0,
            draining: false,
        });
    }
}

fn image_now(node: &Arc<Node>, clones: &Clones, image: &CatalogueImage) -> ImageNow {
    let copies = image
        .replicas
        .iter()
        .filter_map(|replica| {
            let state = match &replica.state {
                CatalogueState::Ready if node.is_damaged(replica.replica_uuid?) => {
                    CopyState::Damaged
                }
                CatalogueState::Ready => CopyState::Ready,
                CatalogueState::Building { .. } => CopyState::Building {
                    working: node.replicas.rebuild_of(image.uuid, replica.disk).is_some(),
                },
                // None is ours to touch. Without its name, a hidden one would not be told when the image is deleted.
                CatalogueState::Failed(_)
                | CatalogueState::Stale
                | CatalogueState::Foreign
                | CatalogueState::Hidden => CopyState::Failed,
                CatalogueState::Pending
                    if node.replicas.rebuild_of(image.uuid, replica.disk).is_some() =>
                {
                    CopyState::Building { working: true }
                }
                CatalogueState::Pending | CatalogueState::Unknown => return None,
            };
            Some(CopyNow {
                disk: replica.disk,
                state,
                clones: clones
                    .get(&(image.uuid, replica.disk))
                    .copied()
                    .unwrap_or_default(),
            })
        })
        .collect();
    let object = &image.object;
    // Of a copy that is being made itself the length says how much it may come to.
    let clusters = if object.state.is_ready() {
        object.stored_clusters + object.tree_clusters
    } else {
        object.size_bytes.div_ceil(CLUSTER_BYTES)
    };
    ImageNow {
        uuid: image.uuid,
        wanted: image.description.wanted_copies,
        members: image.description.member_disks.clone(),
        copies,
        // Never nothing, so that what has no room is no place even for an image of zeros.
        needs_bytes: clusters.max(1) * CLUSTER_BYTES,
        backing_off: node.replicas.state().backoff.of(image.uuid),
    }
}

/// How many clones stand on an image, by image and disk.
type Clones = HashMap<(Uuid, Uuid), u32>;

/// Counted once for all images: one look at each object.
fn clones(node: &Node) -> Clones {
    let mut count = Clones::new();
    for entry in node.disks().iter() {
        let Some(disk) = entry.uuid else { continue };
        for object in &entry.contents_now().objects {
            if let Some(image) = object.parent {
                let clones = count.entry((image, disk)).or_default();
                *clones = clones.saturating_add(1);
            }
        }
    }
    count
}
