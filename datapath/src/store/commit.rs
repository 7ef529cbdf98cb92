//! A commit: everything that was acknowledged on this disk before it began is durable when it ends.
//!
//! The order of its steps is that of `docs/volumes.md`, "Commit"; each says what breaks without it.

use std::sync::Arc;

use super::error::StoreError;
use super::{Store, VolumeEntry};
use crate::format::directory::DirectoryEntry;
use crate::format::journal::{JournalChange, JournalRecord, RECORDS_MAX};
use crate::medium::{IoFault, Medium};
use crate::units::{Lcn, Pcn, SlotIndex};
use crate::volume::dirty::ENTRIES_PER_GROUP;
use crate::volume::space::Gate;
use crate::volume::{CLUSTERS_PER_LEAF_CLUSTER, Quarantine, Volume, transition};

/// Records that one group may add: an entry each, and the directory entry of its map page.
const GROUP_RECORDS_MAX: usize = ENTRIES_PER_GROUP as usize + 1;

/// Groups of one volume that a commit has in its hands.
struct Drained {
    slot: SlotIndex,
    groups: Vec<u32>,
}

impl<M: Medium> Store<M> {
    /// Makes durable everything that was acknowledged before this call, on all volumes of the disk. Answers with the clusters that were
    /// dropped before and that are free after a grace period.
    ///
    /// # Errors
    /// `Io`, and the disk takes no more changes; `ReadOnlyLatched` from then on.
    pub fn commit(&mut self) -> Result<Quarantine, StoreError> {
        self.check_writable()?;
        self.settle()?;
        // Before the marks are drained: what is on this list was marked before it was put there, so this commit has it, or an earlier one.
        let dropped = self.space.take_dropped();

        // Before the flush, see there.
        let unflushed: Vec<Arc<Volume>> = self.begin_flush();
        // 1. Which groups to look at.
        let drained = self.drain();
        match self.commit_groups(&drained) {
            Ok(()) => {
                // 4. Only now: a crash before this finds the groups in `draining`.
                for Drained { slot, groups } in &drained {
                    if let Some(volume) = self.volume_in(*slot) {
                        volume.volume.dirty().drained(groups);
                    }
                }
                Ok(dropped)
            }
            Err(fault) => {
                for volume in &unflushed {
                    volume.note_unflushed();
                }
                for Drained { slot, .. } in &drained {
                    if let Some(volume) = self.volume_in(*slot) {
                        volume.volume.dirty().give_up();
                    }
                }
                // Their drop may not be durable: never free in this session.
                self.space.put_back(dropped);
                // Nor does it help to wait for them.
                self.space.set_gate(Gate::Refused);
                Err(StoreError::io("committing", fault))
            }
        }
    }

    /// Whether something waits for a commit.
    pub fn needs_commit(&self) -> bool {
        self.disk.fault().is_none()
            && (self.is_unsettled
                || self.space.has_dropped()
                || self
                    .entries
                    .values()
                    .filter_map(|entry| entry.volume.as_ref())
                    .any(|volume| !volume.volume.is_clean()))
    }

    /// The volumes with writes that this commit is to cover.
    fn begin_flush(&self) -> Vec<Arc<Volume>> {
        let entries = self.entries.values();
        let volumes = entries.filter_map(|entry| Some(&entry.volume.as_ref()?.volume));
        volumes
            .filter(|volume| volume.begin_flush())
            .cloned()
            .collect()
    }

    fn drain(&self) -> Vec<Drained> {
        let volumes = self
            .entries
            .iter()
            .filter_map(|(slot, entry)| Some((*slot, entry.volume.as_ref()?)));
        volumes
            .filter_map(|(slot, entry)| {
                let mut groups = Vec::new();
                if entry.volume.is_clean() {
                    return None;
                }
                entry.volume.dirty().drain(|group| groups.push(group));
                Some(Drained { slot, groups })
            })
            .collect()
    }

    fn commit_groups(&mut self, drained: &[Drained]) -> Result<(), IoFault> {
        let mut records = Vec::new();
        let mut is_flushed = false;
        for Drained { slot, groups } in drained {
            for group in groups {
                if records.len() + GROUP_RECORDS_MAX > RECORDS_MAX {
                    self.write_batch(std::mem::take(&mut records))?;
                    is_flushed = true;
                }
                // 2. What the records will say.
                if let Some(entry) = self
                    .entries
                    .get_mut(slot)
                    .and_then(|entry| entry.volume.as_mut())
                {
                    capture_group(entry, *group, &mut records);
                }
            }
        }
        if records.is_empty() {
            // Overwrites of what is mapped already leave no record, and are in the disk's cache.
            return if is_flushed {
                Ok(())
            } else {
                self.disk.flush()
            };
        }
        self.write_batch(records)
    }

    /// Makes records durable, and the data that they name before.
    fn write_batch(&mut self, mut records: Vec<JournalRecord>) -> Result<(), IoFault> {
        // 2b. After capture, before the record: a record must never name data that a power loss takes away. Without this a block could come
        //     back with whatever its cluster held before, another tenant's bytes included.
        self.disk.flush()?;
        let mut place = self.journal.place(records.len());
        if place.is_none() {
            // What its records do not reach any more must be known before the tail moves.
            self.mark_passed_over()
                .map_err(|error| error.fault().copied().unwrap_or_else(no_room))?;
            // It needs no room in the journal and allocates nothing.
            self.write_checkpoint()?;
            self.after_checkpoint(&mut records);
            place = self.journal.place(records.len());
        }
        // There is room now: the longest batch is far shorter than the shortest ring.
        let place = place.ok_or_else(no_room)?;
        self.live.about_to_submit(self.journal.next_seq);
        // 3. Durable before the next batch is written, so that a gap in the ring can only be damage.
        let directories: Vec<(SlotIndex, u32, DirectoryEntry)> = records
            .iter()
            .filter_map(|record| match record.change {
                JournalChange::MapDirectory(index, entry) => Some((record.slot, index, entry)),
                JournalChange::MapEntry(..) => None,
            })
            .collect();
        for record in &records {
            self.journaled.insert(record.slot);
        }
        let (disk_uuid, session) = (self.superblock.disk_uuid, self.superblock.session);
        self.journal
            .write(&mut self.disk, disk_uuid, session, place, records)?;
        self.live.committed(self.journal.last_seq());
        for (slot, index, directory) in directories {
            if let Some(entry) = self.entries.get_mut(&slot)
                && let Some(place) = entry.map_tree.entries.get_mut(index as usize)
            {
                *place = directory;
                if let Some(volume) = entry.volume.as_mut() {
                    volume.changed_directories = true;
                }
            }
        }
        Ok(())
    }

    /// Records that were captured before a checkpoint and are written after it: a directory entry must say which pages the checkpoint wrote,
    /// or replay would forget them.
    fn after_checkpoint(&mut self, records: &mut [JournalRecord]) {
        for record in records {
            let Some(entry) = self.entries.get_mut(&record.slot) else {
                continue;
            };
            match &mut record.change {
                JournalChange::MapDirectory(index, directory) => {
                    if let Some(now) = entry.map_tree.entries.get(*index as usize)
                        && !now.cluster().is_none()
                    {
                        *directory = *now;
                    }
                }
                JournalChange::MapEntry(lcn, _) => {
                    if let Some(volume) = entry.volume.as_mut() {
                        let leaf = lcn.get() / crate::format::tree::ENTRIES_PER_PAGE;
                        volume.changed_leaves.insert(leaf);
                    }
                }
            }
        }
    }

    pub(super) fn volume_in(&self, slot: SlotIndex) -> Option<&VolumeEntry> {
        self.entries.get(&slot)?.volume.as_ref()
    }
}

/// Captures the dirty entries of a group, each with its flag cleared in the same step.
fn capture_group(entry: &mut VolumeEntry, group: u32, records: &mut Vec<JournalRecord>) {
    let volume = &entry.volume;
    let (slot, epoch) = (volume.slot(), volume.epoch());
    let record = |change| JournalRecord {
        slot,
        epoch,
        change,
        freed: Pcn::NONE,
    };
    for lcn in (group * ENTRIES_PER_GROUP..).take(ENTRIES_PER_GROUP as usize) {
        let lcn = Lcn::new(lcn);
        let Some(captured) = volume.map().word(lcn).and_then(transition::capture) else {
            continue;
        };
        let leaf_group = lcn.get() / CLUSTERS_PER_LEAF_CLUSTER;
        if entry.journaled_leaves.insert(leaf_group) {
            // Before the first entry in its range, in the same batch or an earlier one. No page of it was written yet: those that are
            // stand in the directory page, and then it is in this set.
            let directory = DirectoryEntry::new(volume.leaf_cluster(lcn), 0);
            records.push(record(JournalChange::MapDirectory(leaf_group, directory)));
        }
        entry
            .changed_leaves
            .insert(lcn.get() / crate::format::tree::ENTRIES_PER_PAGE);
        records.push(record(JournalChange::MapEntry(lcn, captured)));
    }
}

fn no_room() -> IoFault {
    IoFault {
        op: crate::medium::IoOp::Write,
        at: crate::units::ByteOffset::new(0),
        len_bytes: 0,
        errno: libc::ENOSPC,
    }
}
