//! Who refers to which cluster: the allocator is rebuilt from that, and objects that share a cluster, a UUID or a name are held.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Entry;
use super::object::{Damage, ReplicaState};
use crate::alloc::{Allocator, ClusterError};
use crate::format::PairCopy;
use crate::format::geometry::Geometry;
use crate::units::{Pcn, SlotIndex};

/// Holds objects that have the same UUID or name: it is not known which of them is meant.
pub(super) fn hold_duplicates(entries: &mut BTreeMap<SlotIndex, Entry>, geometry: &Geometry) {
    let mut by_uuid = HashMap::new();
    let mut by_name = HashMap::new();
    let mut pairs = Vec::new();
    for (&slot, entry) in entries.iter().filter(|(_, entry)| entry.record.is_some()) {
        let uuid = by_uuid.insert(entry.object.uuid, slot);
        let name = by_name.insert(entry.object.name.as_str(), slot);
        pairs.extend(uuid.or(name).map(|other| (slot, other)));
    }
    for (one, other) in pairs {
        for (slot, other) in [(one, other), (other, one)] {
            fail(
                entries,
                slot,
                Damage::Duplicate {
                    at: geometry.slot_offset(slot, PairCopy::A),
                    other,
                },
            );
        }
    }
}

/// Marks every cluster that an object refers to. Objects that refer to the same one are held.
pub(super) fn rebuild_allocator(
    entries: &mut BTreeMap<SlotIndex, Entry>,
    geometry: &Geometry,
) -> Allocator {
    let mut space = Allocator::new(geometry);
    let mut shared = BTreeSet::new();
    for pcn in entries.values().flat_map(Entry::clusters) {
        // What lies outside the zone was told when the trees were read.
        if space.mark(pcn) == Err(ClusterError::AlreadyReferenced(pcn)) {
            shared.insert(pcn);
        }
    }
    if shared.is_empty() {
        return space;
    }
    let concerned: Vec<(SlotIndex, Pcn)> = entries
        .iter()
        .filter_map(|(&slot, entry)| {
            entry
                .clusters()
                .find(|pcn| shared.contains(pcn))
                .map(|pcn| (slot, pcn))
        })
        .collect();
    for (slot, pcn) in concerned {
        fail(entries, slot, Damage::ClusterShared { pcn });
    }
    space
}

/// An object is held for the first thing that is wrong with it.
fn fail(entries: &mut BTreeMap<SlotIndex, Entry>, slot: SlotIndex, damage: Damage) {
    if let Some(entry) = entries.get_mut(&slot)
        && !entry.object.state.is_failed()
    {
        entry.object.state = ReplicaState::Failed(damage);
    }
}
