//! What makes a volume's map when a disk is opened: its pages, then the journal, and after a crash of the process alone its live file instead.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::error::OpenError;
use super::journal::Journal;
use super::latch::LatchedDisk;
use super::live_state::{Former, LiveState, Owner, Words};
use super::object::{Damage, ReplicaState};
use super::open::SessionStart;
use super::report::{Lost, OpenReport, PreviousSession};
use super::{Entry, Store, VolumeEntry};
use crate::format::directory::DirectoryEntry;
use crate::format::geometry::Geometry;
use crate::format::journal::{JournalChange, JournalRecord};
use crate::format::superblock::Superblock;
use crate::format::{PairCopy, tree};
use crate::map::MapEntry;
use crate::medium::Medium;
use crate::units::{Lcn, Pcn, Seq, SlotIndex};
use crate::volume::space::Gate;
use crate::volume::{DiskShared, Volume, dirty, transition};

/// What is known when live state is looked at.
pub(super) struct Situation<'a> {
    pub superblock: &'a Superblock,
    pub start: &'a SessionStart,
    pub previous: PreviousSession,
    /// The last good batch on the disk.
    pub last_seq: Seq,
    pub shared: &'a DiskShared,
}

/// What became of the volumes of a session that did not end in order.
#[derive(Default)]
pub(super) struct Adoption {
    pub adopted: Vec<uuid::Uuid>,
    pub lost: Vec<Lost>,
}

impl Entry {
    pub(super) fn owner(&self) -> Owner {
        Owner {
            uuid: self.object.uuid,
            slot: self.object.slot,
            epoch: self.object.epoch,
            size_bytes: self.object.size_bytes,
        }
    }

    /// Serves `volume` from now on.
    pub(super) fn take_volume(&mut self, volume: Volume, is_live: bool) {
        self.map = Some(std::sync::Arc::clone(volume.map()));
        let mut taken = VolumeEntry::new(volume, is_live);
        if let Some(former) = self.volume.take() {
            taken.changed_leaves = former.changed_leaves;
            taken.journaled_leaves = former.journaled_leaves;
            taken.changed_directories = former.changed_directories;
        } else {
            let named = (0u32..)
                .zip(&self.map_tree.entries)
                .filter(|(_, entry)| !entry.cluster().is_none());
            taken.journaled_leaves = named.map(|(group, _)| group).collect();
        }
        self.volume = Some(taken);
    }
}

/// A volume as its pages have it.
pub(super) fn volume_of_disk(entry: &mut Entry, map: &[u64], shared: &DiskShared) -> Volume {
    let owner = entry.owner();
    let words = Words::in_memory(owner.size_bytes);
    // Every group has its place, so that a directory record finds it.
    entry
        .map_tree
        .entries
        .resize(words.leaves.len(), DirectoryEntry::EMPTY);
    let mut allocated = 0;
    for (word, bits) in words.entries.iter().zip(map) {
        if *bits != 0 {
            word.store(*bits, Ordering::Relaxed);
            allocated += u64::from(!MapEntry::from_bits(*bits).pcn().is_none());
        }
    }
    for (word, directory) in words.leaves.iter().zip(&entry.map_tree.entries) {
        if !directory.cluster().is_none() {
            word.store(u64::from(directory.cluster().get()), Ordering::Relaxed);
        }
    }
    Volume::new(owner.parts(words, shared.clone()), allocated)
}

/// Applies the journal to the volumes. Records are whole values, so it does no harm that a page may include some of them already.
pub(super) fn replay<M: Medium>(
    journal: &mut Journal,
    disk: &mut LatchedDisk<M>,
    superblock: &Superblock,
    entries: &mut BTreeMap<SlotIndex, Entry>,
) -> Result<(), OpenError> {
    let geometry = superblock.geometry;
    journal.replay(disk, superblock.disk_uuid, |batch| {
        for record in &batch.records {
            let Some(entry) = entries.get_mut(&record.slot) else {
                continue;
            };
            // Of a former owner of the slot.
            if entry.object.epoch != record.epoch {
                continue;
            }
            if let Err(damage) = apply(entry, record, &geometry) {
                entry.object.state = ReplicaState::Failed(damage);
                entry.map = None;
                entry.volume = None;
            }
        }
    })?;
    for entry in entries.values_mut() {
        if let Some(volume) = &entry.volume {
            let allocated = volume
                .volume
                .map()
                .iter()
                .filter(|entry| !entry.pcn().is_none())
                .count();
            volume.volume.set_allocated(allocated as u64);
        }
    }
    Ok(())
}

fn apply(entry: &mut Entry, record: &JournalRecord, geometry: &Geometry) -> Result<(), Damage> {
    let Some(volume) = &mut entry.volume else {
        return Ok(());
    };
    let at = geometry.slot_offset(record.slot, PairCopy::A);
    let outside = |what, found: u64, expected: usize| Damage::Inconsistent {
        at,
        what,
        expected: expected as u64,
        found,
    };
    match record.change {
        JournalChange::MapEntry(lcn, value) => {
            check_zone(value.pcn(), geometry)?;
            let clusters = volume.volume.map().len();
            let word = volume.volume.map().word(lcn).ok_or_else(|| {
                outside(
                    "clusters of the map in the journal",
                    lcn.get().into(),
                    clusters,
                )
            })?;
            word.store(value.bits(), Ordering::Relaxed);
            volume
                .changed_leaves
                .insert(lcn.get() / tree::ENTRIES_PER_PAGE);
        }
        JournalChange::MapDirectory(index, value) => {
            check_zone(value.cluster(), geometry)?;
            let groups = entry.map_tree.entries.len();
            let place = entry
                .map_tree
                .entries
                .get_mut(index as usize)
                .ok_or_else(|| {
                    outside(
                        "entries of the directory in the journal",
                        index.into(),
                        groups,
                    )
                })?;
            // A checkpoint that came later, and that the root may not tell of yet, knows which pages it wrote.
            if place.cluster() != value.cluster() {
                *place = value;
                volume.changed_directories = true;
            }
            volume.journaled_leaves.insert(index);
            if let Some(word) = volume.volume.leaves().get(index as usize) {
                word.store(u64::from(value.cluster().get()), Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

fn check_zone(pcn: Pcn, geometry: &Geometry) -> Result<(), Damage> {
    if pcn.is_none() || (pcn >= geometry.first_pcn() && pcn < geometry.end_pcn()) {
        Ok(())
    } else {
        Err(Damage::ClusterOutside { pcn })
    }
}

/// After a crash of the process alone: takes the live maps over, or finds out whose acknowledged writes may be missing.
pub(super) fn adopt(
    live: &mut LiveState,
    entries: &mut BTreeMap<SlotIndex, Entry>,
    now: &Situation<'_>,
) -> Adoption {
    let mut adoption = Adoption::default();
    let has_volumes = entries.values().any(|entry| entry.volume.is_some());
    // After another boot the power was gone, for guests too: what was flushed is on the disk. After an orderly end all of it is.
    if now.previous != PreviousSession::CrashSameBoot || !has_volumes {
        return adoption;
    }
    let disk_uuid = now.superblock.disk_uuid;
    let former = live.former(disk_uuid, now.superblock.session, now.start);
    let doubt = match former {
        Ok(Former::Matches {
            committed,
            submitted,
        }) if now.last_seq == committed || now.last_seq == submitted => None,
        Ok(Former::Matches { committed, .. }) => Some(format!(
            "the disk's last journal batch is {}, the live state's {committed}",
            now.last_seq
        )),
        Ok(Former::Not(why)) => Some(why),
        Err(error) => Some(error.to_string()),
    };
    for entry in entries.values_mut() {
        if entry.volume.is_none() || entry.object.loss_not_accepted {
            continue;
        }
        let words = match &doubt {
            Some(why) => Err(why.clone()),
            None => match live.adopt(disk_uuid, &entry.owner()) {
                Ok(Some(words)) => Ok(words),
                Ok(None) => Err("its live file is gone or damaged".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        };
        match words {
            Ok(words) => {
                let volume = take_over(entry, words, now.shared);
                entry.take_volume(volume, true);
                adoption.adopted.push(entry.object.uuid);
            }
            // Without a device nothing was written since it was opened.
            Err(_) if !entry.object.want_attached => {}
            Err(why) => adoption.lost.push(Lost {
                uuid: entry.object.uuid,
                name: entry.object.name.clone(),
                why,
            }),
        }
    }
    adoption
}

/// A volume over the words of a process that died.
fn take_over(entry: &Entry, words: Words, shared: &DiskShared) -> Volume {
    let owner = entry.owner();
    let allocated = words
        .entries
        .iter()
        .filter(|word| {
            !MapEntry::from_bits(word.load(Ordering::Relaxed))
                .pcn()
                .is_none()
        })
        .count() as u64;
    let volume = Volume::new(owner.parts(words, shared.clone()), allocated);
    let entries_of = |group: u32| {
        let first = group * dirty::ENTRIES_PER_GROUP;
        (first..first + dirty::ENTRIES_PER_GROUP).filter_map(|lcn| volume.map().word(Lcn::new(lcn)))
    };
    // Captured by a commit of which it is not known whether its record is durable.
    for group in volume.dirty().groups_after_a_crash() {
        entries_of(group).for_each(transition::make_dirty);
    }
    volume.dirty().rebuild(|group| {
        entries_of(group).any(|word| MapEntry::from_bits(word.load(Ordering::Relaxed)).is_dirty())
    });
    volume
}

impl<M: Medium> Store<M> {
    /// Opens the live state of the session that is about to begin.
    pub(super) fn begin_live(
        &mut self,
        start: &SessionStart,
        is_adopted: bool,
    ) -> Result<(), OpenError> {
        self.live
            .begin(
                self.superblock.disk_uuid,
                self.superblock.session + 1,
                start,
                self.journal.last_seq(),
                is_adopted,
            )
            .map_err(|error| OpenError::LiveState {
                why: error.to_string(),
            })
    }

    /// Before the session begins: volumes that lost something are held, durably; live files that are not believed are removed; volumes that are
    /// to be attached get theirs. A crash after the session has begun finds live state that matches it, so all of this must be there by then.
    pub(super) fn prepare_volumes(&mut self, report: &OpenReport) -> Result<(), OpenError> {
        for lost in &report.lost {
            self.set_loss(lost.uuid, true).map_err(unsettled)?;
        }
        self.live
            .of_disk(self.superblock.disk_uuid)
            .and_then(|()| self.live.remove_others(&report.adopted))
            .map_err(|error| OpenError::LiveState {
                why: error.to_string(),
            })?;
        let wanted: Vec<uuid::Uuid> = self
            .entries
            .values()
            .filter(|entry| {
                let object = &entry.object;
                entry.volume.as_ref().is_some_and(|volume| !volume.is_live)
                    && object.want_attached
                    && !object.loss_not_accepted
            })
            .map(|entry| entry.object.uuid)
            .collect();
        for uuid in wanted {
            self.make_live(uuid).map_err(unsettled)?;
        }
        Ok(())
    }

    /// The last steps of an open: what the former process had not committed is committed, before anything is allocated.
    pub(super) fn settle_volumes(&mut self, report: &OpenReport) -> Result<(), OpenError> {
        if !report.adopted.is_empty() {
            // Until now a drop may have been in memory only: the disk would still know its cluster as the volume's. With all that is
            // dirty committed, the maps that the allocator was rebuilt from are the disk's own.
            let quarantine = self.commit().map_err(unsettled)?;
            debug_assert!(quarantine.is_empty(), "nothing was dropped in this process");
            if !self.is_allocation_refused() {
                self.space.set_gate(Gate::Open);
            }
        }
        let keep: Vec<uuid::Uuid> = self
            .entries
            .values()
            .filter(|entry| entry.volume.as_ref().is_some_and(|volume| volume.is_live))
            .map(|entry| entry.object.uuid)
            .collect();
        self.live
            .remove_others(&keep)
            .map_err(|error| OpenError::LiveState {
                why: error.to_string(),
            })
    }
}

fn unsettled(error: super::StoreError) -> OpenError {
    match error.fault() {
        Some(fault) => OpenError::Io {
            doing: "settling volumes",
            fault: *fault,
        },
        None => OpenError::LiveState {
            why: error.to_string(),
        },
    }
}
