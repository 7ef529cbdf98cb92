//! One change of a slot, made durable: the commit of every operation on objects.

use super::error::StoreError;
use super::{SlotHistory, Store};
use crate::format::object::{ObjectRecord, ObjectSlot};
use crate::format::{PairCopy, Stamp};
use crate::medium::Medium;
use crate::units::{Epoch, Seq, SlotIndex};

impl<M: Medium> Store<M> {
    pub(super) fn history_of(&self, slot: SlotIndex) -> SlotHistory {
        self.history
            .get(slot.get() as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Writes what `slot` holds from now on. When this returns, it is durable in both copies.
    ///
    /// Since opening a disk makes the copies equal, and this does too, A is never newer than B here.
    pub(super) fn change_slot(
        &mut self,
        slot: SlotIndex,
        epoch: Epoch,
        object: Option<ObjectRecord>,
        doing: &str,
    ) -> Result<(), StoreError> {
        let seq = Seq::new(self.history_of(slot).seq.get() + 1);
        let change = ObjectSlot {
            slot,
            epoch,
            seq,
            object,
        };
        for copy in PairCopy::BOTH {
            let at = self.geometry().slot_offset(slot, copy);
            let page = change.encode(
                &Stamp {
                    disk_uuid: self.disk_uuid(),
                    self_offset: at,
                },
                copy,
            );
            self.disk
                .write(at, &page)
                .map_err(|fault| StoreError::io(doing, fault))?;
            // After A: B is the state before this change, and the only one if A is torn. Were B written before A is durable, a
            // power loss could tear both, and the object would be lost, whatever its state.
            // After B: the caller releases what the old state owned. Were B not durable by then, and A rotted, the old state would
            // come back and name clusters that another object has filled since.
            self.disk
                .flush()
                .map_err(|fault| StoreError::io(doing, fault))?;
        }
        if let Some(history) = self.history.get_mut(slot.get() as usize) {
            *history = SlotHistory { seq, epoch };
        }
        Ok(())
    }
}
