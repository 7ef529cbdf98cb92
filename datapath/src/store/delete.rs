//! Deleting an object.

use uuid::Uuid;

use super::error::{StoreError, StoreErrorKind};
use super::{Entry, Store};
use crate::alloc::Allocator;
use crate::medium::Medium;
use crate::units::Epoch;
use crate::volume::space::Gate;

impl<M: Medium> Store<M> {
    /// Deletes an object. When this returns, it stays deleted over any crash, and its clusters are free.
    ///
    /// The caller has no more I/O to its clusters in flight: they may be handed out at once.
    ///
    /// # Errors
    /// `NotFound`; `Busy` if it is to be attached; `ReadOnlyLatched`; `Io`, and then it is not known whether it is deleted before
    /// the disk is opened again.
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
        let clones: Vec<&str> = self
            .objects()
            .filter(|other| other.parent == Some(uuid))
            .map(|other| other.name.as_str())
            .collect();
        if !clones.is_empty() {
            let context = format!(
                "{} {} ({uuid}) is the base of {}",
                object.noun(),
                object.name,
                clones.join(", ")
            );
            return Err(StoreError::new(
                StoreErrorKind::Busy,
                context,
                "delete those volumes first",
            )
            .of_object(uuid));
        }
        let slot = object.slot;
        // The former object's pages carry its epoch: they are never taken for the next one's.
        let epoch = Epoch::new(self.history_of(slot).epoch.get().wrapping_add(1));

        // 1. The slot becomes free, in both copies, durably.
        self.change_slot(slot, epoch, None, &format!("deleting object {uuid}"))?;

        // 2. Only then is its space. An import that got it earlier would write into clusters that the object still owns if the
        //    power fails now.
        if let Some(entry) = self.entries.remove(&slot) {
            self.release(&entry);
            if entry.volume.is_some_and(|volume| volume.is_live)
                && let Err(error) = self.live.remove(uuid)
            {
                // It belongs to nothing any more; the next open removes it.
                return Err(super::volume::live_failed(uuid, &error));
            }
        }
        Ok(())
    }

    fn release(&mut self, entry: &Entry) {
        if !self.is_allocation_refused() && entry.object.state.is_ready() {
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
