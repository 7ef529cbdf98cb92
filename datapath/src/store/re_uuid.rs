//! A copied disk gets an identity of its own, so that it and its original can be used on one node. Offline: the disk is opened and closed
//! for it.
//!
//! Every page carries the disk's UUID. All copies A are written with the new one first, while copies B and the superblock still say the old
//! one: a crash leaves the disk that it was. Then the superblock's copies: mixed ones refuse to open, and doing this again finishes it. Then
//! the copies B, which opening would repair from A as well.

use uuid::Uuid;

use super::error::{OpenError, StoreError};
use super::latch::LatchedDisk;
use super::open::SessionStart;
use super::trees::usize_of;
use super::{Store, superblocks};
use crate::format::geometry::Geometry;
use crate::format::header;
use crate::format::members::Members;
use crate::format::object::{ObjectKind, ObjectRecord, ObjectSlot};
use crate::format::root::CheckpointRoot;
use crate::format::superblock::Superblock;
use crate::format::tree::{PAIRS_PER_CLUSTER, page_offset};
use crate::format::{Expect, PairCopy, Stamp};
use crate::medium::{IoFault, Medium};
use crate::superblock_set;
use crate::units::{CLUSTER_BYTES, PAGE_BYTES, Page, Pcn, Seq};

/// The identity of a copied disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewIdentity {
    /// Never used before.
    pub disk_uuid: Uuid,
    /// SHA-256 of the device's WWID or serial, zero where it has none.
    pub hardware_id_hash: [u8; 32],
}

/// Why a disk has not got its new identity. What to do: do it again, unless `Held`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReUuidError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be closed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Objects cannot be read, so that it is not known which pages are theirs. Nothing but the session was changed.
    #[error(
        "{count} objects on the disk cannot be read, {first} among them: delete them first, or use the original disk"
    )]
    Held {
        /// One of them.
        first: String,
        /// How many.
        count: usize,
    },
    /// The disk failed.
    #[error("re-uuid: {doing}: {fault}")]
    Io {
        /// The step.
        doing: &'static str,
        /// What the disk did not do.
        fault: IoFault,
    },
}

/// Gives a disk another UUID, and its replicas and volumes too; volumes are not attached by themselves any more, and have no device number.
/// Answers with the disk's UUID: that of an earlier attempt, if a crash has cut one short.
///
/// # Errors
/// See [`ReUuidError`].
pub fn re_uuid<M: Medium>(
    medium: &mut M,
    start: &SessionStart,
    new: &NewIdentity,
    fresh: &mut dyn FnMut() -> Uuid,
) -> Result<Uuid, ReUuidError> {
    let io = |doing| move |fault| ReUuidError::Io { doing, fault };
    let superblock = if let Some(begun) = begun(medium).map_err(io("reading superblocks"))? {
        begun
    } else {
        write_first_copies(medium, start, new, fresh)?
    };
    // All that they point at is durable under the new UUID.
    superblocks::write(&mut LatchedDisk::new(&mut *medium), &superblock)
        .map_err(io("writing a superblock copy"))?;

    let (store, _) = Store::open(&mut *medium, start)?;
    let clusters = tree_clusters(&store);
    store.close()?;
    for pcn in clusters {
        copy_twins(medium, pcn, superblock.disk_uuid).map_err(io("writing second copies"))?;
    }
    medium.flush().map_err(io("writing second copies"))?;
    Ok(superblock.disk_uuid)
}

/// The state of an attempt that had come to the superblock's copies: two good ones of two disks, the newer one is what it wrote.
fn begun<M: Medium>(medium: &mut M) -> Result<Option<Superblock>, IoFault> {
    let set = match superblock_set::read(medium) {
        Ok(set) => set,
        Err(superblock_set::SetError::Io(fault)) => return Err(fault),
        // Opening says what is wrong.
        Err(_) => return Ok(None),
    };
    let good: Vec<&Superblock> = set.copies.iter().flatten().collect();
    let newest = good.iter().max_by_key(|one| one.generation);
    let is_mixed = good
        .iter()
        .any(|one| newest.is_some_and(|newest| one.disk_uuid != newest.disk_uuid));
    Ok(newest
        .filter(|newest| is_mixed && newest.clean)
        .map(|newest| (*newest).clone()))
}

/// Copy A of every page with the new identity, durably. Answers with the superblock to write.
fn write_first_copies<M: Medium>(
    medium: &mut M,
    start: &SessionStart,
    new: &NewIdentity,
    fresh: &mut dyn FnMut() -> Uuid,
) -> Result<Superblock, ReUuidError> {
    // In order: everything in pages, both copies of each equal, and nothing in the journal that counts.
    let (store, _) = Store::open(&mut *medium, start)?;
    store.close()?;
    let (store, report) = Store::open(&mut *medium, start)?;
    if let Some(held) = report.held.first() {
        return Err(ReUuidError::Held {
            first: held.name.clone(),
            count: report.held.len(),
        });
    }
    let former = store.disk_uuid();
    let clusters = tree_clusters(&store);
    let geometry = *store.geometry();
    let slots = slots_of(&store, new.disk_uuid, fresh);
    store.close()?;
    let superblock = former_superblock(medium)?;

    let io = |doing| move |fault| ReUuidError::Io { doing, fault };
    for pcn in clusters {
        restamp_first(medium, pcn, former, new.disk_uuid).map_err(io("writing first copies"))?;
    }
    for slot in slots {
        let at = geometry.slot_offset(slot.slot, PairCopy::A);
        let stamp = Stamp {
            disk_uuid: new.disk_uuid,
            self_offset: at,
        };
        medium
            .write(at, &slot.encode(&stamp, PairCopy::A))
            .map_err(io("writing slots"))?;
    }
    write_root(medium, &geometry, former, new.disk_uuid)?;
    medium.flush().map_err(io("writing first copies"))?;

    Ok(Superblock {
        disk_uuid: new.disk_uuid,
        generation: Seq::new(superblock.generation.get() + 1),
        clean: true,
        hardware_id_hash: new.hardware_id_hash,
        // It belongs to nobody yet, and nobody has met it.
        owner_node_hash: [0; 32],
        peers: crate::format::peers::Peers::default(),
        ..superblock
    })
}

fn former_superblock<M: Medium>(medium: &mut M) -> Result<Superblock, ReUuidError> {
    let choice = superblocks::read(&mut LatchedDisk::new(medium))?;
    Ok(choice.winner)
}

fn tree_clusters<M: Medium>(store: &Store<M>) -> Vec<Pcn> {
    let trees = store.entries.values().flat_map(|entry| {
        entry
            .map_tree
            .clusters()
            .chain(entry.checksum_tree.clusters())
    });
    trees.collect()
}

/// Every slot that was ever used, as the new disk has it.
fn slots_of<M: Medium>(
    store: &Store<M>,
    disk: Uuid,
    fresh: &mut dyn FnMut() -> Uuid,
) -> Vec<ObjectSlot> {
    let mut slots = Vec::new();
    for (number, history) in (0..).zip(&store.history) {
        if history.seq == Seq::default() {
            continue;
        }
        let slot = crate::units::SlotIndex::new(number);
        let object = match (store.entries.get(&slot), store.graves.get(&slot)) {
            (Some(entry), _) => entry
                .record
                .as_ref()
                .map(|record| renew(record, disk, fresh)),
            (None, Some(grave)) => grave.grave.record_here(disk),
            (None, None) => None,
        };
        slots.push(ObjectSlot {
            slot,
            epoch: history.epoch,
            // Another content than copy B has.
            seq: Seq::new(history.seq.get() + 1),
            object,
        });
    }
    slots
}

fn renew(record: &ObjectRecord, disk: Uuid, fresh: &mut dyn FnMut() -> Uuid) -> ObjectRecord {
    let mut record = record.clone();
    record.replica_uuid = fresh();
    if record.kind == ObjectKind::Volume {
        // From now on it is another volume than the original's. Under the same number, or wanted as well, they would be in each other's way.
        record.object_uuid = record.replica_uuid;
        record.dev_id = None;
        record.want_attached = false;
    } else if !record.member_disks.is_empty() {
        // One copy more. If the list is full, the merge has the say.
        let members = record.member_disks.as_slice().iter().copied();
        record.member_disks = Members::new(members.chain([disk])).unwrap_or(Members::NONE);
    }
    record
}

/// The newer root over the older one, so that the disk that it was keeps its newer one until the superblock says otherwise.
fn write_root<M: Medium>(
    medium: &mut M,
    geometry: &Geometry,
    former: Uuid,
    disk_uuid: Uuid,
) -> Result<(), ReUuidError> {
    let doing = "writing a checkpoint root";
    let io = |fault| ReUuidError::Io { doing, fault };
    let mut newest: Option<(CheckpointRoot, PairCopy)> = None;
    for copy in PairCopy::BOTH {
        let at = geometry.root_offset(copy);
        let mut page: Page = [0; PAGE_BYTES];
        medium.read(at, &mut page).map_err(io)?;
        let expect = Expect::at(at).on_disk(former).with_index(copy.number());
        if let Ok(root) = CheckpointRoot::decode(&page, &expect, &geometry.journal())
            && newest.is_none_or(|(newest, _)| root.seq > newest.seq)
        {
            newest = Some((root, copy));
        }
    }
    let Some((mut root, copy)) = newest else {
        return Err(ReUuidError::Open(OpenError::MetadataDamaged {
            what: "neither checkpoint root can be read".to_owned(),
            at: geometry.root_offset(PairCopy::A),
        }));
    };
    root.seq = Seq::new(root.seq.get() + 1);
    let over = copy.other();
    medium
        .write(geometry.root_offset(over), &root.encode(disk_uuid, over))
        .map_err(io)
}

fn restamp_first<M: Medium>(
    medium: &mut M,
    pcn: Pcn,
    former: Uuid,
    disk_uuid: Uuid,
) -> Result<(), IoFault> {
    let mut bytes = vec![0; usize_of(CLUSTER_BYTES)];
    medium.read(pcn.offset(), &mut bytes)?;
    for pair in 0..PAIRS_PER_CLUSTER {
        // From B, which is equal: an attempt that was cut short may have written A.
        let Some(mut page) = page_at(&bytes, pcn, pair, PairCopy::B) else {
            continue;
        };
        let at = page_offset(pcn, pair, PairCopy::A);
        if header::restamp(&mut page, former, disk_uuid, at) {
            medium.write(at, &page)?;
        }
    }
    Ok(())
}

/// Copies B, where they still are the former disk's.
fn copy_twins<M: Medium>(medium: &mut M, pcn: Pcn, disk_uuid: Uuid) -> Result<(), IoFault> {
    let mut bytes = vec![0; usize_of(CLUSTER_BYTES)];
    medium.read(pcn.offset(), &mut bytes)?;
    for pair in 0..PAIRS_PER_CLUSTER {
        let Some(mut page) = page_at(&bytes, pcn, pair, PairCopy::A) else {
            continue;
        };
        let at = page_offset(pcn, pair, PairCopy::B);
        if header::restamp(&mut page, disk_uuid, disk_uuid, at)
            && page_at(&bytes, pcn, pair, PairCopy::B).as_ref() != Some(&page)
        {
            medium.write(at, &page)?;
        }
    }
    Ok(())
}

fn page_at(bytes: &[u8], pcn: Pcn, pair: u32, copy: PairCopy) -> Option<Page> {
    let within = usize_of(page_offset(pcn, pair, copy).get() - pcn.offset().get());
    bytes.get(within..)?.first_chunk().copied()
}
