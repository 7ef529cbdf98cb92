//! An image that is not trusted, read again: its slot, if that was lost, its trees, and whether others own what it names. For a disk that was
//! at fault for a while; nothing is guessed, and what does not check out stays as it is.
//!
//! While an object is not trusted nothing is allocated on its disk, so that nobody can have got its clusters meanwhile.

use std::sync::Arc;

use uuid::Uuid;

use super::error::{StoreError, StoreErrorKind};
use super::grave::GraveSlot;
use super::object::{Damage, ReplicaState};
use super::table::{self, Found};
use super::ticket::PageOwner;
use super::trees::{PendingRepair, Tree, TreeError, TreeReader};
use super::{Entry, SlotHistory, Store, open};
use crate::alloc::{Allocator, ClusterError};
use crate::format::PairCopy;
use crate::format::object::{ObjectKind, ObjectRecord};
use crate::map::LayerMap;
use crate::medium::{IoFault, Medium};
use crate::units::{Epoch, SlotIndex};
use crate::volume::space::Gate;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// All its metadata checked out: it is served, under this UUID, which is another one only if its slot was lost. Its content was not read:
    /// that is [`crate::verify`].
    Trusted(Uuid),
    /// It is as before, and this is why.
    Failed(Damage),
    /// Its slot was lost, and can be read again: it holds no object.
    Gone,
}

/// An object as its slot has it.
struct InSlot {
    slot: SlotIndex,
    epoch: Epoch,
    record: ObjectRecord,
    /// Where the slot was read again.
    history: Option<SlotHistory>,
}

impl<M: Medium> Store<M> {
    /// Reads the metadata of an image that is not trusted anew. One that is trusted stays as it is.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` for a volume, which is read only when its disk is opened; `ReadOnlyLatched`; `Io` if it cannot be read, or
    /// copies cannot be repaired, and then it is as before.
    pub fn recheck(&mut self, uuid: Uuid) -> Result<Recheck, StoreError> {
        self.check_writable()?;
        self.settle()?;
        let entry = self.entry(uuid)?;
        if !entry.object.state.is_failed() {
            return Ok(Recheck::Trusted(uuid));
        }
        let (slot, epoch) = (entry.object.slot, entry.object.epoch);
        let mut repairs = Vec::new();
        let is_known = entry.record.clone().map(|record| InSlot {
            slot,
            epoch,
            record,
            history: None,
        });
        let known = match is_known {
            Some(known) => known,
            None => match self.slot_again(uuid, slot, &mut repairs)? {
                Ok(known) => known,
                Err(outcome) => return Ok(self.note(uuid, slot, outcome)),
            },
        };
        if known.record.kind != ObjectKind::ImageReplica {
            return Err(no_image(uuid, &known));
        }
        let history = known.history;
        let checked = match self.load_again(&known, &mut repairs) {
            Ok(entry) => self.check_others(slot, entry),
            Err(TreeError::Damage(damage)) => Err(*damage),
            Err(TreeError::Io(fault)) => return Err(reading(uuid, fault)),
        };
        let (entry, allocator) = match checked {
            Ok(checked) => checked,
            Err(damage) => return Ok(self.note(uuid, slot, Recheck::Failed(damage))),
        };
        // Before anybody relies on both copies being equal.
        self.write_again(&repairs)
            .map_err(|fault| StoreError::io("repairing copies", fault).of_object(uuid))?;
        let trusted = entry.object.uuid;
        self.entries.insert(slot, entry);
        if let (Some(history), Some(place)) = (history, self.history.get_mut(slot.get() as usize)) {
            *place = history;
        }
        self.open_gate(allocator);
        Ok(Recheck::Trusted(trusted))
    }

    /// Notes what came of it, where it is not served.
    fn note(&mut self, uuid: Uuid, slot: SlotIndex, outcome: Recheck) -> Recheck {
        match &outcome {
            Recheck::Failed(damage) => {
                if let Some(entry) = self.entries.get_mut(&slot) {
                    entry.object.state = ReplicaState::Failed(damage.clone());
                }
            }
            Recheck::Gone => {
                self.entries.remove(&slot);
                let mut allocator = Allocator::new(self.geometry());
                for pcn in self.entries.values().flat_map(Entry::clusters) {
                    let _ = allocator.mark(pcn);
                }
                self.open_gate(allocator);
            }
            Recheck::Trusted(_) => debug_assert!(false, "{uuid} is served"),
        }
        outcome
    }

    /// Reads a lost slot again. Not an object: what that amounts to.
    fn slot_again(
        &mut self,
        uuid: Uuid,
        slot: SlotIndex,
        repairs: &mut Vec<PendingRepair>,
    ) -> Result<Result<InSlot, Recheck>, StoreError> {
        let (geometry, disk_uuid) = (*self.geometry(), self.disk_uuid());
        let (found, history) = table::read_one(&mut self.disk, &geometry, disk_uuid, slot, repairs)
            .map_err(|fault| reading(uuid, fault))?;
        Ok(match found {
            Some(Found::Lost { damage, .. }) => Err(Recheck::Failed(damage)),
            Some(Found::Object {
                slot,
                epoch,
                record,
            }) if record.kind != ObjectKind::Grave => Ok(InSlot {
                slot,
                epoch,
                record: *record,
                history: Some(history),
            }),
            free_or_grave => {
                self.write_again(repairs)
                    .map_err(|fault| StoreError::io("repairing copies", fault).of_object(uuid))?;
                if let Some(Found::Object { epoch, record, .. }) = free_or_grave {
                    self.graves
                        .insert(slot, GraveSlot::of_record(epoch, &record));
                }
                if let Some(place) = self.history.get_mut(slot.get() as usize) {
                    *place = history;
                }
                Err(Recheck::Gone)
            }
        })
    }

    /// Reads its trees again.
    fn load_again(
        &mut self,
        known: &InSlot,
        repairs: &mut Vec<PendingRepair>,
    ) -> Result<Entry, TreeError> {
        let (geometry, disk_uuid) = (*self.geometry(), self.disk_uuid());
        let mut buffer = Vec::new();
        let mut reader = TreeReader {
            disk: &mut self.disk,
            geometry,
            owner: PageOwner {
                disk_uuid,
                slot: known.slot,
                epoch: known.epoch,
            },
            slot_at: geometry.slot_offset(known.slot, PairCopy::A),
            repairs,
            buffer: &mut buffer,
        };
        let mut trees = (Tree::default(), Tree::default());
        open::load_directories(&mut reader, &known.record, &mut trees)?;
        let mut entry = Entry::of_trees(reader.owner, known.record.clone(), trees);
        let map = open::load_map(&mut reader, &entry)?;
        entry.map = Some(Arc::new(LayerMap::of_words(map)));
        Ok(entry)
    }

    /// Nobody else may be, or own, what it is and owns: what opening a disk holds both for. The other one is served, and stays as it is.
    /// Answers also with the allocator of all that is known now.
    fn check_others(&self, slot: SlotIndex, entry: Entry) -> Result<(Entry, Allocator), Damage> {
        let mut allocator = Allocator::new(self.geometry());
        for (&other, existing) in self.entries.iter().filter(|(other, _)| **other != slot) {
            let (one, two) = (&entry.object, &existing.object);
            if existing.record.is_some() && (one.uuid == two.uuid || one.name == two.name) {
                return Err(Damage::Duplicate {
                    at: self.geometry().slot_offset(slot, PairCopy::A),
                    other,
                });
            }
            for pcn in existing.clusters() {
                // Two that are not trusted may share some, and that is known of them.
                let _ = allocator.mark(pcn);
            }
        }
        for pcn in entry.clusters() {
            if allocator.mark(pcn) == Err(ClusterError::AlreadyReferenced(pcn)) {
                return Err(Damage::ClusterShared { pcn });
            }
        }
        Ok((entry, allocator))
    }

    /// If this was the last one that was not trusted, what is left is all there is.
    fn open_gate(&mut self, allocator: Allocator) {
        if !self.is_allocation_refused() {
            self.space.replace(allocator, Gate::Open);
        }
    }

    fn write_again(&mut self, repairs: &[PendingRepair]) -> Result<(), IoFault> {
        if repairs.is_empty() {
            return Ok(());
        }
        // As when a disk is opened: the good twins may lie in the drive's cache only.
        self.disk.flush()?;
        self.write_twins(repairs)
    }
}

fn reading(uuid: Uuid, fault: IoFault) -> StoreError {
    StoreError::io("reading its metadata again", fault).of_object(uuid)
}

fn no_image(uuid: Uuid, known: &InSlot) -> StoreError {
    let name = known.record.name.as_str();
    let context =
        format!("{name} ({uuid}) is no image: its metadata is read when its disk is opened");
    let remedy = "restart the daemon (systemctl restart bedplated), which reads all metadata anew";
    StoreError::new(StoreErrorKind::Corrupt, context, remedy).of_object(uuid)
}
