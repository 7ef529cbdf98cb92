//! What makes a volume's map when a disk is opened: its pages, then the journal, and after a crash of the process alone its live file instead.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;

use super::error::{OpenError, StoreError};
use super::journal::Journal;
use super::latch::LatchedDisk;
use super::live_state::{Former, LiveState, Owner, Words};
use super::object::{Damage, Object, ReplicaState};
use super::open::SessionStart;
use super::report::{Lost, OpenReport};
use super::returned::LeftDisk;
use super::run_set::RunSet;
use super::{Entry, Store, VolumeEntry, references};
use crate::format::directory::DirectoryEntry;
use crate::format::geometry::Geometry;
use crate::format::journal::{JournalChange, JournalRecord};
use crate::format::object::ObjectKind;
use crate::format::superblock::Superblock;
use crate::format::{PairCopy, tree};
use crate::live::SharedWords;
use crate::map::MapEntry;
use crate::medium::Medium;
use crate::units::{Lcn, Pcn, SlotIndex};
use crate::volume::space::Gate;
use crate::volume::{DiskShared, Volume, dirty, transition};

/// Where the maps of volumes come from.
pub(super) enum Believed {
    /// The disk: pages and journal.
    Disk,
    /// Live files, where there are any.
    Live,
    /// The disk, of these volumes, whose acknowledged writes were flushed; of the others some may be missing, for this reason.
    Flushed {
        volumes: Vec<uuid::Uuid>,
        why: String,
    },
    /// The disk; and what was acknowledged in the last session may be missing from it, for this reason.
    Doubt(String),
}

/// Takes live maps over while objects are loaded, and notes whose acknowledged writes may be missing.
pub(super) struct Adoption<'a> {
    pub live: &'a mut LiveState,
    pub believed: Believed,
    pub disk_uuid: uuid::Uuid,
    pub shared: &'a DiskShared,
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

    fn is_live(&self) -> bool {
        self.volume.as_ref().is_some_and(|volume| volume.is_live)
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
pub(super) fn volume_of_disk(
    entry: &mut Entry,
    map: SharedWords,
    shared: &DiskShared,
) -> io::Result<Volume> {
    let owner = entry.owner();
    let words = Words::around(map, owner.size_bytes)?;
    make_places(entry, &words);
    for (word, directory) in words.leaves.iter().zip(&entry.map_tree.entries) {
        if !directory.cluster().is_none() {
            word.store(u64::from(directory.cluster().get()), Ordering::Relaxed);
        }
    }
    let volume = Volume::new(owner.parts(words, shared.clone()), 0);
    volume.count_allocated();
    Ok(volume)
}

/// Every group has its place in the directory, so that a directory record finds it.
fn make_places(entry: &mut Entry, words: &Words) {
    entry
        .map_tree
        .entries
        .resize(words.leaves.len(), DirectoryEntry::EMPTY);
}

/// Applies the journal to the volumes. Records are whole values, so it does no harm that a page may include some of them already. Answers
/// with the slots of the objects that have records.
pub(super) fn replay<M: Medium>(
    journal: &mut Journal,
    disk: &mut LatchedDisk<M>,
    superblock: &Superblock,
    entries: &mut BTreeMap<SlotIndex, Entry>,
) -> Result<RunSet<SlotIndex>, OpenError> {
    let geometry = superblock.geometry;
    let mut journaled = RunSet::default();
    journal.read_on(disk, superblock.disk_uuid, |batch| {
        for record in &batch.records {
            let Some(entry) = entries.get_mut(&record.slot) else {
                continue;
            };
            // Of a former owner of the slot.
            if entry.object.epoch != record.epoch {
                continue;
            }
            journaled.insert(record.slot);
            if entry.is_live() {
                note(entry, record);
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
        let Some(volume) = entry.volume.as_ref().filter(|volume| !volume.is_live) else {
            continue;
        };
        volume.volume.count_allocated();
        let homeless = volume.changed_leaves.iter().find(|leaf| {
            let first = leaf.saturating_mul(tree::ENTRIES_PER_PAGE);
            volume.volume.leaf_cluster(Lcn::new(first)).is_none()
        });
        if let Some(leaf) = homeless {
            let at = geometry.slot_offset(entry.object.slot, PairCopy::A);
            let what = "map pages in the journal that have no place";
            entry.object.state = ReplicaState::Failed(Damage::Inconsistent {
                at,
                what,
                expected: 0,
                found: u64::from(leaf),
            });
            entry.map = None;
            entry.volume = None;
        }
    }
    Ok(journaled)
}

/// Of a volume that goes on with its live map: which pages the journal knows more of.
fn note(entry: &mut Entry, record: &JournalRecord) {
    let Some(volume) = &mut entry.volume else {
        return;
    };
    match record.change {
        JournalChange::MapEntry(lcn, _) => {
            volume
                .changed_leaves
                .insert(lcn.get() / tree::ENTRIES_PER_PAGE);
        }
        JournalChange::MapDirectory(index, value) => {
            if let Some(place) = entry.map_tree.entries.get_mut(index as usize)
                && place.cluster() != value.cluster()
            {
                *place = value;
                volume.changed_directories = true;
            }
            volume.journaled_leaves.insert(index);
        }
    }
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

/// After a session of another boot, or one that ended in order: whether it was somebody else's, while devices of this boot waited for the disk.
pub(super) fn used_elsewhere(
    live: &mut LiveState,
    superblock: &Superblock,
    start: &SessionStart,
) -> Result<Believed, OpenError> {
    let outdated = live.is_outdated(superblock.disk_uuid, superblock.session, start);
    Ok(if outdated.map_err(|error| no_look(&error))? {
        Believed::Doubt(USED_ELSEWHERE.to_owned())
    } else {
        Believed::Disk
    })
}

/// Whether who has this live state began the session that the superblock tells of.
pub(super) fn began(
    live: &mut LiveState,
    superblock: &Superblock,
    start: &SessionStart,
) -> Result<bool, OpenError> {
    live.is_of_session(superblock.disk_uuid, superblock.session, start)
        .map_err(|error| no_look(&error))
}

/// Why a volume is held then.
pub(super) const USED_ELSEWHERE: &str =
    "the disk was taken away, and somebody else used it before it came back";

/// Whether the live state of the session before is to be believed. Reads the journal's end, and nothing else of the disk.
pub(super) fn believe<M: Medium>(
    live: &mut LiveState,
    journal: &Journal,
    disk: &mut LatchedDisk<M>,
    superblock: &Superblock,
    start: &SessionStart,
    left: Option<&LeftDisk>,
) -> Result<Believed, OpenError> {
    let disk_uuid = superblock.disk_uuid;
    let former = live.former(disk_uuid, superblock.session, start, left.is_some());
    let (committed, submitted, cache_lost) = match former {
        Ok(Former::Matches {
            committed,
            submitted,
            cache_lost,
        }) => (committed, submitted, cache_lost),
        Ok(Former::Not(why)) => return Ok(Believed::Doubt(why)),
        // It may be good, and is all there is of some writes: nothing is decided without a look at it.
        Err(error) => return Err(no_look(&error)),
    };
    let mut ahead = *journal;
    ahead.read_on(disk, disk_uuid, |_| {})?;
    let last = ahead.last_seq();
    // The last one may have been on its way when the process died, and have landed or not.
    if last == committed || last == submitted {
        return Ok(match cache_lost {
            None => Believed::Live,
            Some(why) => Believed::Flushed {
                volumes: left.map(|left| left.flushed.clone()).unwrap_or_default(),
                why: why.to_owned(),
            },
        });
    }
    Ok(Believed::Doubt(format!(
        "the disk's last journal batch is {last}, the live state's {committed}"
    )))
}

impl Adoption<'_> {
    /// The live map of a volume, if it is to be taken over; its directory was read. Looks at no entry.
    pub fn take_over(&mut self, entry: &mut Entry) -> Result<bool, OpenError> {
        let object = &entry.object;
        if object.loss_not_accepted {
            return Ok(false);
        }
        let words = match &self.believed {
            Believed::Disk => return Ok(false),
            Believed::Flushed { volumes, .. } if volumes.contains(&object.uuid) => {
                return Ok(false);
            }
            Believed::Flushed { why, .. } | Believed::Doubt(why) => Err(why.clone()),
            Believed::Live => match self.live.adopt(self.disk_uuid, &entry.owner()) {
                Ok(Some(words)) => Ok(words),
                Ok(None) => Err("its live file is gone or damaged".to_owned()),
                Err(error) => return Err(no_look(&error)),
            },
        };
        match words {
            Ok(words) => {
                make_places(entry, &words);
                let volume = Volume::new(entry.owner().parts(words, self.shared.clone()), 0);
                // Nobody remembers whether its former owner had flushed everything.
                volume.note_unflushed();
                entry.take_volume(volume, true);
                self.adopted.push(entry.object.uuid);
                Ok(true)
            }
            // Without a device nothing was written since the disk was opened.
            Err(_) if !object.want_attached => Ok(false),
            Err(why) => {
                self.lost.push(lost(object, why));
                Ok(false)
            }
        }
    }

    /// Volumes that cannot be read, so that their live state was not taken over. It could not be kept until they can be: a session that ends
    /// in order says that the disk has everything, and a checkpoint may pass over records that a live map builds on. So they are held then.
    pub fn give_up_unread(&mut self, entries: &BTreeMap<SlotIndex, Entry>) {
        for object in entries.values().map(|entry| &entry.object) {
            let is_concerned = object.kind == ObjectKind::Volume
                && object.state.is_failed()
                && object.want_attached
                && !object.loss_not_accepted
                && !self.adopted.contains(&object.uuid)
                && self.lost.iter().all(|lost| lost.uuid != object.uuid);
            if !is_concerned {
                continue;
            }
            let why = match &self.believed {
                Believed::Disk => continue,
                Believed::Flushed { volumes, .. } if volumes.contains(&object.uuid) => continue,
                Believed::Flushed { why, .. } | Believed::Doubt(why) => why.clone(),
                Believed::Live => {
                    "it could not be read, and its live state cannot wait until it can".to_owned()
                }
            };
            self.lost.push(lost(object, why));
        }
    }
}

fn lost(object: &Object, why: String) -> Lost {
    Lost {
        uuid: object.uuid,
        name: object.name.clone(),
        why,
    }
}

/// Marks what a process that died had not committed. Requests may be served meanwhile.
fn mark_uncommitted(volume: &Volume) {
    let entries_of = |group: u32| {
        let first = group * dirty::ENTRIES_PER_GROUP;
        (first..first + dirty::ENTRIES_PER_GROUP).filter_map(|lcn| volume.map().word(Lcn::new(lcn)))
    };
    // Captured by a commit of which it is not known whether its record is durable.
    for group in volume.dirty().groups_after_a_crash() {
        entries_of(group).for_each(transition::make_dirty);
    }
    volume.dirty().rebuild(|group| {
        entries_of(group).any(|word| MapEntry::from_bits(word.load(Ordering::SeqCst)).is_dirty())
    });
}

impl<M: Medium> Store<M> {
    /// Finishes what an adoption has left: looks at every entry of the volumes that were taken over, rebuilds the allocator, and commits what
    /// the former process had not committed. Devices may be served before it, since nothing is allocated until then; whatever needs the
    /// allocator or the marks calls it first.
    ///
    /// # Errors
    /// `Io`, and the disk takes no more changes.
    pub fn settle(&mut self) -> Result<(), StoreError> {
        if !std::mem::take(&mut self.is_unsettled) {
            return Ok(());
        }
        for volume in self
            .entries
            .values()
            .filter_map(|entry| entry.volume.as_ref())
        {
            if volume.is_live {
                mark_uncommitted(&volume.volume);
                volume.volume.count_allocated();
            }
        }
        let geometry = self.superblock.geometry;
        let allocator = references::rebuild_allocator(&mut self.entries, &geometry);
        self.space.replace(allocator, Gate::Rebuilding);
        // Until now a drop may have been in memory only: the disk would still know its cluster as the volume's. With all that is
        // dirty committed, the maps that the allocator was rebuilt from are the disk's own.
        let dropped = self.commit()?;
        self.space.put_back(dropped);
        let gate = if self.is_allocation_refused() {
            Gate::Refused
        } else {
            Gate::Open
        };
        self.space.set_gate(gate);
        Ok(())
    }

    /// Whether there is nothing to settle: the allocator knows who owns what.
    pub fn is_settled(&self) -> bool {
        !self.is_unsettled
    }

    /// Opens the live state of the session that is about to begin.
    pub(super) fn begin_live(
        &mut self,
        start: &SessionStart,
        is_adopted: bool,
        keeps_cache: bool,
    ) -> Result<(), OpenError> {
        self.live
            .begin(
                self.superblock.disk_uuid,
                self.superblock.session + 1,
                start,
                self.journal.last_seq(),
                is_adopted,
                keeps_cache,
            )
            .map_err(|error| OpenError::LiveState {
                why: error.to_string(),
            })
    }

    /// Before the session begins: volumes that lost something are held, durably; live files that are not believed are removed; volumes that are
    /// to be attached get theirs. A crash after the session has begun finds live state that matches it, so all of this must be there by then.
    pub(super) fn prepare_volumes(&mut self, report: &OpenReport) -> Result<(), OpenError> {
        // One that is damaged besides too: the next open may find it whole.
        let lost: Vec<SlotIndex> = self
            .entries
            .iter()
            .filter(|(_, entry)| {
                let uuid = entry.object.uuid;
                report.lost.iter().any(|lost| lost.uuid == uuid)
            })
            .map(|(slot, _)| *slot)
            .collect();
        for slot in lost {
            self.note_loss(slot, true)
                .map_err(|error| unsettled(&error))?;
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
                    && object.state.is_ready()
                    && object.want_attached
                    && !object.loss_not_accepted
            })
            .map(|entry| entry.object.uuid)
            .collect();
        for uuid in wanted {
            // One that has no room is not attached, and says so then; the others are.
            if let Err(error) = self.make_live(uuid)
                && error.fault().is_some()
            {
                return Err(unsettled(&error));
            }
        }
        Ok(())
    }
}

fn no_look(error: &crate::live::LiveError) -> OpenError {
    OpenError::LiveState {
        why: error.to_string(),
    }
}

fn unsettled(error: &StoreError) -> OpenError {
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
