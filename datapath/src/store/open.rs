//! Opening a disk: read everything, check it, and only then write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::error::OpenError;
use super::grave::GraveSlot;
use super::latch::LatchedDisk;
use super::object::{Damage, Object, ReplicaState};
use super::report::{Held, OpenReport, PreviousSession, Repair, Repaired};
use super::returned::{Foreknowledge, LeftDisk};
use super::run_set::RunSet;
use super::table::{self, Found, Table};
use super::ticket::PageOwner;
use super::trees::{
    Hold, PendingRepair, Tree, TreeError, TreeReader, checksum_leaves, hold, map_leaves, no_memory,
};
use super::{Entry, Journal, LiveState, Store, references, replay, superblocks};
use crate::alloc::Allocator;
use crate::format::directory::TreeKind;
use crate::format::object::{ObjectKind, ObjectRecord, ObjectState};
use crate::format::root::CheckpointRoot;
use crate::format::superblock::INCOMPAT_VOLUMES;
use crate::format::superblock::{Choice, Superblock};
use crate::format::{Expect, PairCopy};
use crate::live::{HeapLive, LiveFiles, SharedWords};
use crate::map::{LayerMap, MapEntry};
use crate::medium::{IoFault, Medium};
use crate::units::{CLUSTER_BYTES, Epoch, PAGE_BYTES, Page, Seq, SlotIndex};
use crate::volume::space::Gate;
use crate::volume::{DiskShared, Space};
use replay::{Adoption, Believed};

/// Who opens the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStart {
    /// Of the running kernel, `/proc/sys/kernel/random/boot_id`.
    pub boot_id: Uuid,
    /// Of the device that the disk is on, where it has one: another one on the same boot is a power loss of that disk.
    pub diskseq: Option<u64>,
}

impl<M: Medium> Store<M> {
    /// Opens a disk for which no live state is kept: its images, and volumes that are not attached.
    ///
    /// # Errors
    /// As [`Store::open_live`].
    pub fn open(medium: M, start: &SessionStart) -> Result<(Self, OpenReport), OpenError> {
        Self::open_live(medium, start, Box::new(HeapLive::default()))
    }

    /// Opens a disk: reads and checks all metadata, replays the journal, takes over the live state of a process that died, repairs copies
    /// that are bad or outdated, and begins a session.
    ///
    /// Objects of which something is bad in both copies are there and not Ready; see [`OpenReport::held`]. Content is not
    /// read: that is [`crate::verify`]. Volumes of which acknowledged writes may be missing are in [`OpenReport::lost`].
    ///
    /// # Errors
    /// See [`OpenError`]. Except for `Io` and `LiveState` in one of the last steps, nothing was written.
    pub fn open_live(
        medium: M,
        start: &SessionStart,
        live: Box<dyn LiveFiles>,
    ) -> Result<(Self, OpenReport), OpenError> {
        Self::open_knowing(medium, start, live, &Foreknowledge::default())
    }

    /// As [`Store::open_live`], by one who knows more of the disk than is on it: that it went while it was open, for instance.
    ///
    /// # Errors
    /// As [`Store::open_live`].
    pub fn open_knowing(
        medium: M,
        start: &SessionStart,
        live: Box<dyn LiveFiles>,
        known: &Foreknowledge,
    ) -> Result<(Self, OpenReport), OpenError> {
        Self::open_watched(medium, start, live, known, &|| false)
    }

    /// As [`Store::open_knowing`], for a disk that may go while it is opened. `goes` is asked after a write or flush that failed: whether that
    /// is because the disk goes. Then nothing that the disk had acknowledged is in doubt for it, as with [`Store::has_gone`].
    ///
    /// # Errors
    /// As [`Store::open_live`].
    pub fn open_watched(
        medium: M,
        start: &SessionStart,
        live: Box<dyn LiveFiles>,
        known: &Foreknowledge,
        goes: &dyn Fn() -> bool,
    ) -> Result<(Self, OpenReport), OpenError> {
        let mut disk = LatchedDisk::new(medium);

        // 1. Reading. Whatever is refused is refused here, and nothing has been written.
        let choice = superblocks::read(&mut disk)?;
        let superblock = choice.winner.clone();
        let geometry = superblock.geometry;
        let len_bytes = disk.medium_mut().len_bytes();
        if len_bytes < geometry.disk_bytes() {
            return Err(OpenError::DiskTooShort {
                len_bytes,
                disk_bytes: geometry.disk_bytes(),
            });
        }
        let mut repairs = Vec::new();
        let (root, root_copy) = read_roots(&mut disk, &superblock, &mut repairs)?;
        let table = table::read(&mut disk, &geometry, superblock.disk_uuid, &mut repairs)?;
        let shared = DiskShared {
            space: Arc::new(Space::new(Allocator::new(&geometry), Gate::Refused)),
            locks: Arc::default(),
        };
        let previous = previous_session(&superblock, start);
        let has_volumes = superblock.incompat & INCOMPAT_VOLUMES != 0;
        let mut journal = Journal::after(root, geometry.journal());
        let mut live = LiveState::new(live);
        let left = known.of(superblock.disk_uuid);
        // After another boot the power was gone, for guests too: what was flushed is on the disk. After an orderly end all of it is.
        let believed = if !has_volumes {
            Believed::Disk
        } else if let Some(left) = left
            && !is_as_left(&mut live, &superblock, left, previous, start)?
        {
            Believed::Doubt(replay::USED_ELSEWHERE.to_owned())
        } else if previous == PreviousSession::CrashSameBoot {
            replay::believe(&mut live, &journal, &mut disk, &superblock, start, left)?
        } else {
            replay::used_elsewhere(&mut live, &superblock, start)?
        };
        let is_live = matches!(believed, Believed::Live);
        let mut adoption = Adoption {
            live: &mut live,
            believed,
            disk_uuid: superblock.disk_uuid,
            shared: &shared,
            adopted: Vec::new(),
            lost: Vec::new(),
        };
        let (mut entries, graves, history) =
            load(&mut disk, &superblock, table, &mut adoption, &mut repairs)?;
        let mut journaled = RunSet::default();
        if has_volumes {
            journaled = replay::replay(&mut journal, &mut disk, &superblock, &mut entries)?;
            if !is_live {
                // Live state knows which batch was the last.
                journal.refuse_later_batches(&mut disk, superblock.disk_uuid)?;
            }
        }
        references::hold_duplicates(&mut entries, &geometry);
        // Looking at every entry takes its time: what was adopted is served before, see `Store::settle`.
        let is_unsettled = !adoption.adopted.is_empty();
        let allocator = if is_unsettled {
            Allocator::new(&geometry)
        } else {
            references::rebuild_allocator(&mut entries, &geometry)
        };
        adoption.give_up_unread(&entries);
        let (adopted, lost) = (adoption.adopted, adoption.lost);
        // The trees of an object that is held are left alone: a page of it may lie in a cluster that is another one's.
        repairs.retain(|pending| match pending.repair.what {
            Repaired::Page(slot, ..) => entries
                .get(&slot)
                .is_some_and(|entry| !entry.object.state.is_failed()),
            _ => true,
        });

        let read_only = superblock.must_be_read_only();
        let (reserved, next_ticket) = (BTreeMap::new(), 0);
        let mut store = Self {
            disk,
            superblock,
            read_only,
            entries,
            graves,
            history,
            space: shared.space,
            locks: shared.locks,
            journal,
            journaled,
            root_copy,
            live,
            reserved,
            next_ticket,
            page_stamps: 0,
            is_unsettled,
        };
        let gate = if store.is_allocation_refused() || read_only {
            Gate::Refused
        } else if is_unsettled {
            Gate::Rebuilding
        } else {
            Gate::Open
        };
        store.space.replace(allocator, gate);
        let mut report = OpenReport {
            previous,
            session: store.superblock.session,
            repairs: superblock_repairs(&choice),
            held: store.held(),
            adopted,
            lost,
        };
        report
            .repairs
            .extend(repairs.iter().map(|pending| pending.repair.clone()));

        // 2. Writing.
        if !read_only {
            store
                .repair(&choice, &repairs)
                .map_err(|fault| OpenError::Io {
                    doing: "repairing copies",
                    fault,
                })?;
            // Before the superblock tells of the session: whichever of the two a crash leaves there, the live state is believed.
            let is_adopted = !report.adopted.is_empty();
            // And before that, what the next open would otherwise judge anew, by live state that is this session's: losses are noted, files
            // that were not believed are gone, and volumes that are to be attached have one.
            store.prepare_volumes(&report)?;
            store.begin_live(start, is_adopted, known.keeps_cache)?;
            store.disk.set_alarm(store.live.alarm());
            if let Err(fault) = store.begin_session(&choice, start) {
                // The next open would take the alarm for word of the disk itself.
                if goes() {
                    store.has_gone();
                }
                return Err(OpenError::Io {
                    doing: "beginning the session",
                    fault,
                });
            }
            report.session = store.superblock.session;
            store.live.begun(report.session);
        }
        Ok((store, report))
    }

    fn repair(&mut self, choice: &Choice, repairs: &[PendingRepair]) -> Result<(), IoFault> {
        // First of all: what was read may lie in the drive's cache only, written by a process that died before its flush. Were
        // a twin written from it now, a power loss could tear the one and lose the other.
        self.disk.flush()?;
        // The superblock's copies one at a time, as always. They come before the new session, since while that is being written
        // every copy that is bad already is one less to be torn.
        for &copy in &choice.bad_copies {
            superblocks::write_copy(&mut self.disk, &choice.winner, copy)?;
        }
        self.write_twins(repairs)
    }

    /// Writes copies that were bad or outdated again, durably: a slot's change, for one, relies on both copies being equal. What they were read
    /// from has been flushed.
    pub(super) fn write_twins(&mut self, repairs: &[PendingRepair]) -> Result<(), IoFault> {
        // Each of these has a good and durable twin, so that they may all be torn together.
        for pending in repairs {
            self.disk.write(pending.repair.at, &pending.page)?;
        }
        if repairs.is_empty() {
            Ok(())
        } else {
            self.disk.flush()
        }
    }

    fn begin_session(&mut self, choice: &Choice, start: &SessionStart) -> Result<(), IoFault> {
        self.superblock.generation = Seq::new(choice.max_generation_seen.get() + 1);
        self.superblock.session += 1;
        self.superblock.clean = false;
        self.superblock.boot_id = start.boot_id;
        superblocks::write(&mut self.disk, &self.superblock)
    }

    fn held(&self) -> Vec<Held> {
        let held = |object: &Object| match &object.state {
            ReplicaState::Ready | ReplicaState::Building { .. } => None,
            ReplicaState::Failed(why) => Some(Held {
                slot: object.slot,
                uuid: object.uuid,
                name: object.name.clone(),
                why: why.clone(),
            }),
        };
        self.objects().filter_map(held).collect()
    }
}

fn previous_session(superblock: &Superblock, start: &SessionStart) -> PreviousSession {
    match (superblock.session, superblock.clean) {
        (0, _) => PreviousSession::First,
        (_, true) => PreviousSession::Clean,
        (_, false) if superblock.boot_id == start.boot_id => PreviousSession::CrashSameBoot,
        (_, false) => PreviousSession::CrashOtherBoot,
    }
}

/// Whether nobody had the disk since: who opens a disk to write to it begins another session, and who closes it says that it is clean. An
/// opening by the same daemon during which the disk went again has begun one too: it is the one that the live state knows.
fn is_as_left(
    live: &mut LiveState,
    superblock: &Superblock,
    left: &LeftDisk,
    previous: PreviousSession,
    start: &SessionStart,
) -> Result<bool, OpenError> {
    Ok(previous == PreviousSession::CrashSameBoot
        && (superblock.session == left.session || replay::began(live, superblock, start)?))
}

fn superblock_repairs(choice: &Choice) -> Vec<Repair> {
    let repair = |copy: &crate::format::superblock::SuperblockCopy| Repair {
        what: Repaired::Superblock(copy.number()),
        at: choice.winner.geometry.superblock_offset(*copy),
        why: "it does not hold the disk's state".to_owned(),
    };
    choice.bad_copies.iter().map(repair).collect()
}

/// The roots say where replay of the journal starts. Answers with the newer one, and which copy it is.
fn read_roots<M: Medium>(
    disk: &mut LatchedDisk<M>,
    superblock: &Superblock,
    repairs: &mut Vec<PendingRepair>,
) -> Result<(CheckpointRoot, PairCopy), OpenError> {
    let geometry = &superblock.geometry;
    let mut read = |copy: PairCopy| {
        let at = geometry.root_offset(copy);
        let mut page: Page = [0; PAGE_BYTES];
        disk.read(at, &mut page).map_err(|fault| OpenError::Io {
            doing: "reading a checkpoint root",
            fault,
        })?;
        let expect = Expect::at(at)
            .on_disk(superblock.disk_uuid)
            .with_index(copy.number());
        Ok(CheckpointRoot::decode(&page, &expect, &geometry.journal()))
    };
    let (a, b) = (read(PairCopy::A)?, read(PairCopy::B)?);
    // An older root is no fault: the next checkpoint is written over it.
    if let (Ok(a), Ok(b)) = (&a, &b)
        && a.seq != b.seq
    {
        return Ok(if a.seq > b.seq {
            (*a, PairCopy::A)
        } else {
            (*b, PairCopy::B)
        });
    }
    let at = geometry.root_offset(PairCopy::A);
    match hold(a, b) {
        Hold::Good(root) => Ok((root, PairCopy::B)),
        Hold::Repair { value, bad, why } => {
            let at = geometry.root_offset(bad);
            let repair = Repair {
                what: Repaired::Root(bad),
                at,
                why,
            };
            // Torn in a checkpoint, and then the journal still reaches back to the older one; or it was the newer one and rotted, and then
            // replay finds batches that it cannot reach, and refuses.
            repairs.push(PendingRepair {
                repair,
                page: value.encode(superblock.disk_uuid, bad),
            });
            Ok((value, bad.other()))
        }
        Hold::Conflict => {
            let what = "both checkpoint roots have the same sequence and differ".to_owned();
            Err(OpenError::MetadataDamaged { what, at })
        }
        Hold::Lost { a, b } => Err(OpenError::MetadataDamaged {
            what: format!("both checkpoint roots are bad: {a}; {b}"),
            at,
        }),
    }
}

type Loaded = (
    BTreeMap<SlotIndex, Entry>,
    BTreeMap<SlotIndex, GraveSlot>,
    Vec<super::SlotHistory>,
);

/// Reads the trees of every object.
fn load<M: Medium>(
    disk: &mut LatchedDisk<M>,
    superblock: &Superblock,
    table: Table,
    adoption: &mut Adoption<'_>,
    repairs: &mut Vec<PendingRepair>,
) -> Result<Loaded, OpenError> {
    let mut entries = BTreeMap::new();
    let mut graves = BTreeMap::new();
    let mut buffer = Vec::new();
    for found in table.found {
        let (slot, entry) = match found {
            Found::Lost { slot, damage } => (slot, lost(superblock.disk_uuid, slot, damage)),
            Found::Object {
                slot,
                epoch,
                record,
            } if record.kind == ObjectKind::Grave => {
                graves.insert(slot, GraveSlot::of_record(epoch, &record));
                continue;
            }
            Found::Object {
                slot,
                epoch,
                record,
            } => {
                let reader = TreeReader {
                    disk: &mut *disk,
                    geometry: superblock.geometry,
                    owner: PageOwner {
                        disk_uuid: superblock.disk_uuid,
                        slot,
                        epoch,
                    },
                    slot_at: superblock.geometry.slot_offset(slot, PairCopy::A),
                    repairs: &mut *repairs,
                    buffer: &mut buffer,
                };
                let entry = load_object(reader, adoption, *record)?;
                (slot, entry)
            }
        };
        entries.insert(slot, entry);
    }
    Ok((entries, graves, table.history))
}

fn load_object<M: Medium>(
    mut reader: TreeReader<'_, M>,
    adoption: &mut Adoption<'_>,
    record: ObjectRecord,
) -> Result<Entry, OpenError> {
    let mut trees = (Tree::default(), Tree::default());
    let result = match unknown(&record) {
        None => load_directories(&mut reader, &record, &mut trees),
        Some(what) => Err(Damage::UnknownObject {
            at: reader.slot_at,
            what,
        }
        .into()),
    };
    let mut entry = Entry::of_trees(reader.owner, record, trees);
    let loaded = match result {
        Ok(()) if entry.object.kind == ObjectKind::Volume && adoption.take_over(&mut entry)? => {
            return Ok(entry);
        }
        Ok(()) => load_map(&mut reader, &entry),
        Err(error) => Err(error),
    };
    match loaded {
        Ok(map) if entry.object.kind == ObjectKind::Volume => {
            if let Ok(volume) = replay::volume_of_disk(&mut entry, map, adoption.shared) {
                entry.take_volume(volume, false);
            } else {
                let clusters = entry.object.size_bytes.div_ceil(CLUSTER_BYTES);
                entry.object.state = ReplicaState::Failed(no_memory(reader.slot_at, clusters));
            }
        }
        Ok(map) => entry.map = Some(Arc::new(LayerMap::of_words(map))),
        Err(TreeError::Io(fault)) => {
            return Err(OpenError::Io {
                doing: "reading an object's trees",
                fault,
            });
        }
        Err(TreeError::Damage(damage)) => entry.object.state = ReplicaState::Failed(*damage),
    }
    Ok(entry)
}

fn unknown(record: &ObjectRecord) -> Option<&'static str> {
    match (record.kind, record.state) {
        (ObjectKind::ImageReplica, _) | (ObjectKind::Volume, ObjectState::Complete) => None,
        // Told apart when the table was read.
        (ObjectKind::Grave, _) => Some("a grave"),
        (ObjectKind::Volume, ObjectState::Building) => Some("a volume that was never finished"),
        (ObjectKind::Snapshot, _) => Some("a snapshot, which this version does not know"),
    }
}

pub(super) fn load_directories<M: Medium>(
    reader: &mut TreeReader<'_, M>,
    record: &ObjectRecord,
    trees: &mut (Tree, Tree),
) -> Result<(), TreeError> {
    let clusters = record.size_bytes.div_ceil(CLUSTER_BYTES);
    trees.0 = reader.directory(TreeKind::Map, &record.map_dirs, map_leaves(clusters))?;
    trees.1 = reader.directory(
        TreeKind::Checksums,
        &record.checksum_dirs,
        checksum_leaves(clusters),
    )?;
    Ok(())
}

pub(super) fn load_map<M: Medium>(
    reader: &mut TreeReader<'_, M>,
    entry: &Entry,
) -> Result<SharedWords, TreeError> {
    let record = &entry.object;
    let clusters = record.size_bytes.div_ceil(CLUSTER_BYTES);
    let map = reader.map(&entry.map_tree, clusters)?;
    if record.kind == ObjectKind::Volume {
        // How much it stores changes with every write, and stands nowhere.
        return Ok(map);
    }
    let stored = map
        .iter()
        .map(|word| MapEntry::from_bits(word.load(Ordering::Relaxed)))
        .filter(|entry| !entry.pcn().is_none())
        .count() as u64;
    if stored != record.stored_clusters {
        let (at, what) = (reader.slot_at, "clusters of data");
        return Err(Damage::Inconsistent {
            at,
            what,
            expected: record.stored_clusters,
            found: stored,
        }
        .into());
    }
    Ok(map)
}

/// What stands for an object whose slot is lost, so that it can be seen and deleted.
fn lost(disk_uuid: Uuid, slot: SlotIndex, damage: Damage) -> Entry {
    // The disk's own UUID with the slot mixed in: the same one at every open, and nobody else's.
    let uuid = Uuid::from_u128(disk_uuid.as_u128() ^ (u128::from(slot.get()) + 1));
    let object = Object {
        kind: ObjectKind::ImageReplica,
        parent: None,
        loss_not_accepted: false,
        slot,
        epoch: Epoch::default(),
        uuid,
        replica_uuid: uuid,
        name: format!("lost-slot-{slot}"),
        size_bytes: 0,
        sha256: [0; 32],
        sha512: [0; 64],
        stored_clusters: 0,
        tree_clusters: 0,
        wanted_copies: 0,
        source: String::new(),
        created_unix_s: 0,
        dev_id: None,
        want_attached: false,
        generation: 0,
        member_disks: vec![disk_uuid],
        state: ReplicaState::Failed(damage),
    };
    Entry {
        object,
        record: None,
        map: None,
        map_tree: Tree::default(),
        checksum_tree: Tree::default(),
        volume: None,
    }
}
