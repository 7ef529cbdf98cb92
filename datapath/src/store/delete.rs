//! Deleting an object.

use uuid::Uuid;

use super::error::{StoreError, StoreErrorKind};
use super::{Entry, Store};
use crate::alloc::{Allocator, Extent};
use crate::medium::Medium;
use crate::units::Epoch;

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
        let object = &self.entry(uuid)?.object;
        if object.want_attached && object.state.is_ready() {
            let context = format!("image {} ({uuid}) is attached", object.name);
            return Err(
                StoreError::new(StoreErrorKind::Busy, context, "detach it first").of_object(uuid),
            );
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
        }
        Ok(())
    }

    fn release(&mut self, entry: &Entry) {
        if !self.is_allocation_refused() && entry.object.state.is_ready() {
            for pcn in entry.clusters() {
                self.give_back(Extent { pcn, count: 1 });
            }
            return;
        }
        if self.is_allocation_refused() {
            // Nothing is handed out yet, and a cluster may be another object's as well.
            return;
        }
        // The last object that could not be read is gone: what is left is all there is.
        let mut space = Allocator::new(self.geometry());
        for pcn in self.entries.values().flat_map(Entry::clusters) {
            let marked = space.mark(pcn);
            debug_assert!(marked.is_ok(), "{marked:?}");
        }
        self.space = space;
    }
}
