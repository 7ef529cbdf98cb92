//! Well-formed structures of every kind, with any content that the format allows.

use bedplate_datapath::format::checksum_page::{self, ChecksumPage};
use bedplate_datapath::format::directory::{self, DirectoryEntry, DirectoryPage, TreeKind};
use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::format::journal::{JournalBatch, JournalChange, JournalRecord};
use bedplate_datapath::format::map_page::{self, MapPage};
use bedplate_datapath::format::members::Members;
use bedplate_datapath::format::object::{ObjectKind, ObjectRecord, ObjectSlot, ObjectState};
use bedplate_datapath::format::peers::Peers;
use bedplate_datapath::format::root::CheckpointRoot;
use bedplate_datapath::format::superblock::{Superblock, SuperblockCopy};
use bedplate_datapath::format::text::Text;
use bedplate_datapath::format::{PairCopy, Stamp};
use bedplate_datapath::map::MapEntry;
use bedplate_datapath::units::{BlockMask, ByteOffset, DevId, Epoch, Lcn, Pcn, Seq, SlotIndex};
use proptest::prelude::*;
use uuid::Uuid;

pub const DISK: Uuid = Uuid::from_u128(0x1234_5678_9abc_def0_1122_3344_5566_7788);
pub const AT: ByteOffset = ByteOffset::new(140 * 131_072 + 8192);
pub const SLOT: SlotIndex = SlotIndex::new(7);
pub const STAMP: Stamp = Stamp {
    disk_uuid: DISK,
    self_offset: AT,
};

pub fn geometry() -> Geometry {
    Geometry::of_disk(1 << 30).unwrap()
}

pub fn superblock() -> impl Strategy<Value = Superblock> {
    (any::<[u64; 5]>(), any::<bool>(), any::<[u8; 32]>()).prop_map(|(n, clean, hash)| Superblock {
        disk_uuid: DISK,
        generation: Seq::new(n[0]),
        clean,
        incompat: 0,
        ro_compat: n[1],
        compat: n[2],
        hardware_id_hash: hash,
        geometry: geometry(),
        session: n[3],
        boot_id: Uuid::from_u128(n[4].into()),
        created_unix_s: n[4],
        owner_node_hash: hash,
        peers: peers(&n),
    })
}

fn peers(n: &[u64; 5]) -> Peers {
    let mut peers = Peers::default();
    for (nth, session) in n
        .iter()
        .enumerate()
        .take(usize::try_from(n[0] % 6).unwrap())
    {
        peers.note(
            Uuid::from_u128(u128::from(*session) + nth as u128),
            *session,
        );
    }
    peers
}

fn members(n: &[u64; 4]) -> Members {
    let count = usize::try_from(n[0] % 17).unwrap();
    Members::new((0..count).map(|nth| Uuid::from_u128(u128::from(n[nth % 4]) << nth))).unwrap()
}

pub fn root() -> impl Strategy<Value = CheckpointRoot> {
    (any::<[u64; 3]>(), 0u64..4096).prop_map(|(n, block)| CheckpointRoot {
        seq: Seq::new(n[0]),
        tail_offset: geometry().journal().offset.plus(block * 4096),
        tail_seq: Seq::new(n[1]),
        session: n[2],
    })
}

pub fn object_record() -> impl Strategy<Value = ObjectRecord> {
    let numbers = (
        any::<[u64; 4]>(),
        any::<u32>(),
        0..=16u64 << 40,
        any::<u64>(),
    );
    let texts = ("[a-z0-9é]{0,60}", "\\PC{0,120}");
    let dirs = any::<[u32; 32]>();
    (
        numbers,
        texts,
        any::<[u8; 32]>(),
        dirs,
        any::<Option<u32>>(),
        0..4u8,
        any::<(bool, bool)>(),
    )
        .prop_map(
            |((n, copies, size_bytes, stored), (name, source), sha256, dirs, dev, kind, flags)| {
                let kinds = [
                    ObjectKind::ImageReplica,
                    ObjectKind::Volume,
                    ObjectKind::Snapshot,
                ];
                if kind == 3 {
                    return grave(&n, name);
                }
                let state = if flags.0 {
                    ObjectState::Building
                } else {
                    ObjectState::Complete
                };
                let dirs: [Pcn; 64] = std::array::from_fn(|at| Pcn::new(dirs[at / 2] >> 1));
                let mut sha512 = [0; 64];
                sha512[32..].copy_from_slice(&sha256);
                ObjectRecord {
                    kind: kinds[usize::from(kind)],
                    state,
                    want_attached: flags.1,
                    // Only volumes can have lost something.
                    loss_not_accepted: flags.0 && kind == 1,
                    dev_id: dev.filter(|&id| id != u32::MAX).map(DevId::new),
                    object_uuid: Uuid::from_u128(n[0].into()),
                    replica_uuid: Uuid::from_u128(n[1].into()),
                    parent_uuid: Uuid::nil(),
                    generation: n[2],
                    size_bytes,
                    stored_clusters: stored % (size_bytes.div_ceil(131_072) + 1),
                    wanted_copies: copies,
                    sha256,
                    sha512,
                    name: Text::new(name).unwrap(),
                    source: Text::cut(&source),
                    created_unix_s: n[3],
                    map_dirs: dirs,
                    checksum_dirs: dirs,
                    member_disks: if kind == 0 {
                        members(&n)
                    } else {
                        Members::NONE
                    },
                    copied_clusters: if kind == 0 && flags.0 {
                        n[1] % (size_bytes.div_ceil(131_072) + 1)
                    } else {
                        0
                    },
                }
            },
        )
}

fn grave(n: &[u64; 4], name: String) -> ObjectRecord {
    ObjectRecord {
        kind: ObjectKind::Grave,
        state: ObjectState::Complete,
        want_attached: false,
        loss_not_accepted: false,
        dev_id: None,
        object_uuid: Uuid::from_u128(n[0].into()),
        replica_uuid: Uuid::nil(),
        parent_uuid: Uuid::nil(),
        generation: n[2],
        size_bytes: 0,
        stored_clusters: 0,
        wanted_copies: 0,
        sha256: [0; 32],
        sha512: [0; 64],
        name: Text::new(name).unwrap(),
        source: Text::cut(""),
        created_unix_s: n[3],
        map_dirs: [Pcn::NONE; 64],
        checksum_dirs: [Pcn::NONE; 64],
        member_disks: members(n),
        copied_clusters: 0,
    }
}

pub fn object() -> impl Strategy<Value = ObjectSlot> {
    (
        any::<u64>(),
        any::<u32>(),
        proptest::option::of(object_record()),
    )
        .prop_map(|(seq, epoch, object)| ObjectSlot {
            slot: SLOT,
            epoch: Epoch::new(epoch),
            seq: Seq::new(seq),
            object,
        })
}

pub fn map_page() -> impl Strategy<Value = MapPage> {
    (
        any::<(u64, u32, u32)>(),
        proptest::collection::vec(any::<u64>(), map_page::ENTRIES),
    )
        .prop_map(|((seq, epoch, index), words)| MapPage {
            slot: SLOT,
            epoch: Epoch::new(epoch),
            seq: Seq::new(seq),
            index,
            entries: std::array::from_fn(|at| MapEntry::from_bits(words[at]).with_dirty(false)),
        })
}

pub fn directory_entry() -> impl Strategy<Value = DirectoryEntry> {
    any::<(u32, u16)>().prop_map(|(pcn, written)| {
        let pcn = Pcn::new(pcn >> 1);
        DirectoryEntry::new(pcn, if pcn.is_none() { 0 } else { written })
    })
}

pub fn directory_page(tree: TreeKind) -> impl Strategy<Value = DirectoryPage> {
    let entries = proptest::collection::vec(directory_entry(), directory::ENTRIES);
    (any::<(u64, u32, u32)>(), entries).prop_map(move |((seq, epoch, index), entries)| {
        DirectoryPage {
            tree,
            slot: SLOT,
            epoch: Epoch::new(epoch),
            seq: Seq::new(seq),
            index,
            entries: std::array::from_fn(|at| entries[at]),
        }
    })
}

pub fn checksum_page() -> impl Strategy<Value = ChecksumPage> {
    (
        any::<(u32, u32)>(),
        proptest::collection::vec(any::<u32>(), checksum_page::CRCS),
    )
        .prop_map(|((epoch, index), crcs)| ChecksumPage {
            slot: SLOT,
            epoch: Epoch::new(epoch),
            index,
            crcs: std::array::from_fn(|at| crcs[at]),
        })
}

pub fn record() -> impl Strategy<Value = JournalRecord> {
    let numbers = any::<(u32, u32, u32, u32, u32)>();
    (numbers, directory_entry(), any::<bool>()).prop_map(
        |((slot, epoch, index, mask, pcn), entry, map)| JournalRecord {
            slot: SlotIndex::new(slot),
            epoch: Epoch::new(epoch),
            change: if map {
                let entry = MapEntry::new(Pcn::new(pcn >> 1), BlockMask::new(mask));
                JournalChange::MapEntry(Lcn::new(index), entry)
            } else {
                JournalChange::MapDirectory(index, entry)
            },
            freed: Pcn::new(pcn >> 1),
        },
    )
}

pub fn batch() -> impl Strategy<Value = JournalBatch> {
    (
        any::<(u64, u64)>(),
        proptest::collection::vec(record(), 0..300),
    )
        .prop_map(|((seq, session), records)| JournalBatch {
            seq: Seq::new(seq),
            session,
            records,
        })
}

/// A well-formed structure: its place in `CODECS`, and its bytes.
pub fn well_formed() -> impl Strategy<Value = (usize, Vec<u8>)> {
    prop_oneof![
        superblock().prop_map(|s| (0, s.encode(SuperblockCopy::Third).to_vec())),
        root().prop_map(|root| (1, root.encode(DISK, PairCopy::B).to_vec())),
        object().prop_map(|slot| (2, slot.encode(&STAMP, PairCopy::A).to_vec())),
        map_page().prop_map(|page| (3, page.encode(&STAMP).to_vec())),
        directory_page(TreeKind::Map).prop_map(|page| (4, page.encode(&STAMP).to_vec())),
        directory_page(TreeKind::Checksums).prop_map(|page| (5, page.encode(&STAMP).to_vec())),
        checksum_page().prop_map(|page| (6, page.encode(&STAMP).to_vec())),
        batch().prop_map(|batch| (7, batch.encode(&STAMP).unwrap())),
    ]
}
