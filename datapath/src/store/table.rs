//! Reading the object table: which slots are in use, by what, and which copies are bad.

use super::SlotHistory;
use super::error::OpenError;
use super::latch::LatchedDisk;
use super::object::Damage;
use super::report::{Repair, Repaired};
use super::trees::{PendingRepair, page_in, usize_of};
use crate::format::geometry::{Geometry, SLOT_BYTES};
use crate::format::object::{ObjectRecord, ObjectSlot};
use crate::format::pair::{self, PairChoice, PairCopy};
use crate::format::{DecodeError, Expect, Stamp};
use crate::medium::{IoFault, Medium};
use crate::units::{Epoch, PAGE_BYTES, Page, Seq, SlotIndex};
use uuid::Uuid;

const BLANK: Page = [0; PAGE_BYTES];

/// A slot that holds an object, or did.
pub(super) enum Found {
    Object {
        slot: SlotIndex,
        epoch: Epoch,
        record: Box<ObjectRecord>,
    },
    Lost {
        slot: SlotIndex,
        damage: Damage,
    },
}

/// The object table.
pub(super) struct Table {
    pub found: Vec<Found>,
    pub history: Vec<SlotHistory>,
}

/// Reads the whole table. Copies to be written again are added to `repairs`.
pub(super) fn read<M: Medium>(
    disk: &mut LatchedDisk<M>,
    geometry: &Geometry,
    disk_uuid: Uuid,
    repairs: &mut Vec<PendingRepair>,
) -> Result<Table, OpenError> {
    let mut table = Table {
        found: Vec::new(),
        history: vec![SlotHistory::default(); geometry.slots() as usize],
    };
    let mut slots = (0..geometry.slots()).map(SlotIndex::new);
    // A slot's two copies are neighbours.
    let mut copy_a: Option<Page> = None;
    let look = &mut |_at, bytes: &[u8]| {
        let page = page_in(bytes, 0);
        let Some(a) = copy_a.take() else {
            copy_a = Some(*page);
            return;
        };
        if let Some(slot) = slots.next() {
            table.take(slot, (&a, page), geometry, disk_uuid, repairs);
        }
    };
    disk.heads(
        geometry.table_offset(),
        geometry.table_bytes(),
        PAGE_BYTES,
        look,
    )
    .map_err(|fault| OpenError::Io {
        doing: "reading the object table",
        fault,
    })?;
    table.outnumber_lost_slots();
    Ok(table)
}

/// Reads one slot again: what it holds, none if that is nothing, and what it carried last.
pub(super) fn read_one<M: Medium>(
    disk: &mut LatchedDisk<M>,
    geometry: &Geometry,
    disk_uuid: Uuid,
    slot: SlotIndex,
    repairs: &mut Vec<PendingRepair>,
) -> Result<(Option<Found>, SlotHistory), IoFault> {
    let mut table = Table {
        found: Vec::new(),
        history: vec![SlotHistory::default(); geometry.slots() as usize],
    };
    let mut pair = vec![0; usize_of(SLOT_BYTES)];
    disk.read(geometry.slot_offset(slot, PairCopy::A), &mut pair)?;
    let (a, b) = (page_in(&pair, 0), page_in(&pair, PAGE_BYTES));
    table.take(slot, (a, b), geometry, disk_uuid, repairs);
    let history = table.history.get(slot.get() as usize).copied();
    Ok((table.found.pop(), history.unwrap_or_default()))
}

impl Table {
    fn take(
        &mut self,
        slot: SlotIndex,
        (a, b): (&Page, &Page),
        geometry: &Geometry,
        disk_uuid: Uuid,
        repairs: &mut Vec<PendingRepair>,
    ) {
        if *a == BLANK && *b == BLANK {
            return;
        }
        let decode = |page: &Page, copy: PairCopy| -> Result<ObjectSlot, DecodeError> {
            let at = geometry.slot_offset(slot, copy);
            ObjectSlot::decode(
                page,
                &Expect::at(at).on_disk(disk_uuid).with_index(copy.number()),
                slot,
            )
        };
        let mut repair = |copy: PairCopy, why: String, page: &dyn Fn(&Stamp) -> Page| {
            let at = geometry.slot_offset(slot, copy);
            let page = page(&Stamp {
                disk_uuid,
                self_offset: at,
            });
            repairs.push(PendingRepair {
                repair: Repair {
                    what: Repaired::Slot(slot, copy),
                    at,
                    why,
                },
                page,
            });
        };
        let at = geometry.slot_offset(slot, PairCopy::A);
        let held = match pair::choose(decode(a, PairCopy::A), decode(b, PairCopy::B)) {
            PairChoice::Blank => return,
            // The first write to this slot was torn: nothing was ever there.
            PairChoice::HalfBlank { bad, fault } => {
                repair(bad, fault.fault.to_string(), &|_| BLANK);
                return;
            }
            PairChoice::Both(value) => value,
            PairChoice::Only {
                holds,
                value,
                other,
            } => {
                let copy = holds.other();
                repair(copy, other.fault.to_string(), &|stamp| {
                    value.encode(stamp, copy)
                });
                value
            }
            // The older copy must not outlive this: should the newer one rot later, a deleted object would be back, and name
            // clusters that others have filled since.
            PairChoice::Newer { holds, value, .. } => {
                let copy = holds.other();
                repair(copy, "older than its twin".to_owned(), &|stamp| {
                    value.encode(stamp, copy)
                });
                value
            }
            PairChoice::Conflict { .. } => {
                self.found.push(Found::Lost {
                    slot,
                    damage: Damage::SlotConflict { at },
                });
                return;
            }
            PairChoice::Lost { a, b } => {
                self.found.push(Found::Lost {
                    slot,
                    damage: Damage::SlotLost { at, a, b },
                });
                return;
            }
        };
        self.history[slot.get() as usize] = SlotHistory {
            seq: held.seq,
            epoch: held.epoch,
        };
        if let Some(record) = held.object {
            self.found.push(Found::Object {
                slot,
                epoch: held.epoch,
                record: Box::new(record),
            });
        }
    }

    /// Sequence and epoch of a lost slot are unknown. They must not restart: it takes the highest of the table.
    fn outnumber_lost_slots(&mut self) {
        let highest = SlotHistory {
            seq: self
                .history
                .iter()
                .map(|one| one.seq)
                .max()
                .unwrap_or(Seq::default()),
            epoch: self
                .history
                .iter()
                .map(|one| one.epoch)
                .max()
                .unwrap_or(Epoch::default()),
        };
        for found in &self.found {
            if let Found::Lost { slot, .. } = found {
                self.history[slot.get() as usize] = highest;
            }
        }
    }
}
