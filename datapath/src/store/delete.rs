//! Deleting an object, and removing one copy of an image that has others.

use uuid::Uuid;

use super::error::{StoreError, StoreErrorKind};
use super::{Entry, Store};
use crate::alloc::Allocator;
use crate::format::object::ObjectKind;
use crate::medium::Medium;
use crate::units::{Epoch, SlotIndex};
use crate::volume::space::Gate;

/// How a copy is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoveReplica {
    /// The image stays, on other disks: clones on this one read it there, and do not stand in the way.
    pub other_copies: bool,
}

impl<M: Medium> Store<M> {
    /// Deletes an object. When this returns, it stays deleted over any crash, and its clusters are free. An image that other disks
    /// may have copies of is deleted by [`Store::bury`]: here it would come back with them.
    ///
    /// The caller has no more I/O to its clusters in flight: they may be handed out at once.
    ///
    /// # Errors
    /// `NotFound`; `Busy` if it is to be attached, is the base of clones, or is being copied; `ReadOnlyLatched`; `Io`, and then it is not
    /// known whether it is deleted before the disk is opened again.
    pub fn delete(&mut self, uuid: Uuid) -> Result<(), StoreError> {
        self.check_writable()?;
        self.settle()?;
        let object = &self.entry(uuid)?.object;
        if object.want_attached && object.state.is_ready() {
            let context = format!("{} {} ({uuid}) is attached", object.noun(), object.name);
            return Err(
                StoreError::new(StoreErrorKind::Busy, context, "detach it first").of_object(uuid),
            );
        }
        let slot = object.slot;
        self.check_removable(uuid, slot, false)?;
        self.free_object(uuid, slot)
    }

    /// Removes this disk's copy of an image. Whether it is to be attached does not matter: that is the image's wish, not the copy's.
    ///
    /// The caller has no more I/O to its clusters in flight, and has seen to it that it is not the last good copy.
    ///
    /// # Errors
    /// As for [`Store::delete`]; clones are in the way unless the image has other copies.
    pub fn remove_replica(&mut self, uuid: Uuid, how: RemoveReplica) -> Result<(), StoreError> {
        self.check_writable()?;
        self.settle()?;
        let object = &self.entry(uuid)?.object;
        if object.kind != ObjectKind::ImageReplica {
            let context = format!("{} {} ({uuid}) is no copy", object.noun(), object.name);
            let remedy = "name an image: bedplate image list";
            return Err(StoreError::new(StoreErrorKind::NotFound, context, remedy).of_object(uuid));
        }
        let slot = object.slot;
        self.check_removable(uuid, slot, how.other_copies)?;
        self.free_object(uuid, slot)
    }

    fn free_object(&mut self, uuid: Uuid, slot: SlotIndex) -> Result<(), StoreError> {
        // The former object's pages carry its epoch: they are never taken for the next one's.
        let epoch = Epoch::new(self.history_of(slot).epoch.get().wrapping_add(1));

        // 1. The slot becomes free, in both copies, durably.
        self.change_slot(slot, epoch, None, &format!("deleting object {uuid}"))?;

        // 2. Only then is its space. An import that got it earlier would write into clusters that the object still owns if the
        //    power fails now.
        self.forget_entry(slot)
    }

    /// Refuses to remove what is in use on this disk.
    pub(super) fn check_removable(
        &self,
        uuid: Uuid,
        slot: SlotIndex,
        other_copies: bool,
    ) -> Result<(), StoreError> {
        let object = &self.entry(uuid)?.object;
        if self.reserved.contains_key(&slot) {
            let context = format!("image {} ({uuid}) is being copied to here", object.name);
            let remedy = "stop the copy first";
            return Err(StoreError::new(StoreErrorKind::Busy, context, remedy).of_object(uuid));
        }
        let clones: Vec<&str> = self
            .objects()
            .filter(|other| other.parent == Some(uuid))
            .map(|other| other.name.as_str())
            .collect();
        if clones.is_empty() || other_copies {
            return Ok(());
        }
        let context = format!(
            "{} {} ({uuid}) is the base of {}",
            object.noun(),
            object.name,
            clones.join(", ")
        );
        Err(
            StoreError::new(StoreErrorKind::Busy, context, "delete those volumes first")
                .of_object(uuid),
        )
    }

    /// The slot holds it no more, durably: its clusters are free.
    pub(super) fn forget_entry(&mut self, slot: SlotIndex) -> Result<(), StoreError> {
        let Some(entry) = self.entries.remove(&slot) else {
            return Ok(());
        };
        self.release(&entry);
        let uuid = entry.object.uuid;
        // Of one that is not live too: a file that could not be removed when it was detached. Of two that are held under one UUID the file may be
        // the other one's.
        let is_its_own = entry.object.state.is_ready() && entry.object.kind == ObjectKind::Volume;
        if (is_its_own || entry.volume.is_some_and(|volume| volume.is_live))
            && let Err(error) = self.live.remove(uuid)
        {
            // It belongs to nothing any more; the next open removes it.
            return Err(super::volume::live_failed(uuid, &error));
        }
        Ok(())
    }

    fn release(&mut self, entry: &Entry) {
        if !self.is_allocation_refused() && !entry.object.state.is_failed() {
            self.space.give_all(entry.clusters());
            return;
        }
        if self.is_allocation_refused() {
            // Nothing is handed out yet, and a cluster may be another object's as well.
            return;
        }
        // The last object that could not be read is gone: what is left is all there is.
        let mut allocator = Allocator::new(self.geometry());
        for pcn in self.entries.values().flat_map(Entry::clusters) {
            let marked = allocator.mark(pcn);
            debug_assert!(marked.is_ok(), "{marked:?}");
        }
        self.space.replace(allocator, Gate::Open);
    }
}
