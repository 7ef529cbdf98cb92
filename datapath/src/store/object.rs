//! What the store tells about an object: its description, and whether it can be served.

use std::fmt;

use uuid::Uuid;

use crate::format::object::ObjectKind;
use crate::format::{DecodeError, Fault};
use crate::units::{ByteOffset, DevId, Epoch, Pcn, SlotIndex};

/// One replica of an image on this disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: ObjectKind,
    /// The object below it.
    pub parent: Option<Uuid>,
    /// Acknowledged writes may be missing, and no operator has accepted that: it is not served.
    pub loss_not_accepted: bool,
    /// Its slot in the object table.
    pub slot: SlotIndex,
    /// How often that slot was given to a new object.
    pub epoch: Epoch,
    /// The image. For a lost slot a UUID made from disk and slot, to delete it by.
    pub uuid: Uuid,
    /// This copy of it.
    pub replica_uuid: Uuid,
    /// The image's name; `lost-slot-N` for a lost slot.
    pub name: String,
    /// Exact length.
    pub size_bytes: u64,
    /// SHA-256 of exactly `size_bytes` bytes.
    pub sha256: [u8; 32],
    /// SHA-512 of the same bytes.
    pub sha512: [u8; 64],
    /// Clusters of data.
    pub stored_clusters: u64,
    /// Clusters of map and checksum pages.
    pub tree_clusters: u64,
    /// Replicas wanted.
    pub wanted_copies: u32,
    /// Where it was imported from, for people.
    pub source: String,
    /// When, for people.
    pub created_unix_s: u64,
    /// The ublk device number that it keeps; none before the first attach.
    pub dev_id: Option<DevId>,
    /// Whether it is to be attached whenever the disk is online.
    pub want_attached: bool,
    /// Of its description, over all its replicas.
    pub generation: u64,
    /// The disks that have, or are about to get, a copy of it, sorted; this one among them as a rule. Of a volume: this disk.
    pub member_disks: Vec<Uuid>,
    /// Derived when the disk was opened, never stored.
    pub state: ReplicaState,
}

/// Whether a replica can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// Sealed, and all metadata that describes it checked out.
    Ready,
    /// Being copied from another disk: not served, no source, and no trouble either.
    Building {
        /// Bytes from the start of the image that are copied durably.
        done_bytes: u64,
    },
    /// Not served. Nothing is allocated on this disk until it is deleted.
    Failed(Damage),
}

impl Object {
    /// What people call it.
    pub fn noun(&self) -> &'static str {
        match self.kind {
            ObjectKind::ImageReplica => "image",
            ObjectKind::Volume => "volume",
            ObjectKind::Snapshot => "snapshot",
            ObjectKind::Grave => "grave",
        }
    }
}

impl ReplicaState {
    /// Whether it can be served.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Whether something of it is bad, so that it is not known which clusters are its own.
    pub fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// Why an object cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// Both copies of its slot are bad.
    SlotLost {
        /// The disk byte of the slot.
        at: ByteOffset,
        /// What is wrong with copy A.
        a: DecodeError,
        /// What is wrong with copy B.
        b: DecodeError,
    },
    /// The copies of its slot carry the same sequence and differ.
    SlotConflict {
        /// The disk byte of the slot.
        at: ByteOffset,
    },
    /// A kind or state of object that this version does not write.
    UnknownObject {
        /// The disk byte of the slot.
        at: ByteOffset,
        /// What it holds.
        what: &'static str,
    },
    /// Another slot holds an object with the same UUID or name.
    Duplicate {
        /// The disk byte of this slot.
        at: ByteOffset,
        /// The other slot.
        other: SlotIndex,
    },
    /// Both copies of a page of its trees are bad.
    PageLost {
        /// Which page.
        page: TreePage,
        /// The disk byte of the pair.
        at: ByteOffset,
        /// What is wrong with copy A.
        a: DecodeError,
        /// What is wrong with copy B.
        b: DecodeError,
    },
    /// The copies of a page carry the same sequence and differ.
    PageConflict {
        /// Which page.
        page: TreePage,
        /// The disk byte of the pair.
        at: ByteOffset,
    },
    /// Its metadata names a cluster outside the cluster zone.
    ClusterOutside {
        /// The cluster.
        pcn: Pcn,
    },
    /// A cluster is named twice, by it and by another object, or twice by it.
    ClusterShared {
        /// The cluster.
        pcn: Pcn,
    },
    /// Its slot and its trees do not fit together.
    Inconsistent {
        /// The disk byte of the slot.
        at: ByteOffset,
        /// What was compared.
        what: &'static str,
        /// What the slot says.
        expected: u64,
        /// What the trees say.
        found: u64,
    },
    /// Nothing is bad; the kernel gives no memory for its map.
    NoMemory {
        /// The disk byte of the slot.
        at: ByteOffset,
        /// Length of the map, of which only what is in use takes memory.
        map_bytes: u64,
    },
}

impl Damage {
    /// Whether the disk gave an error in place of bytes. One that goes does so, and this says nothing of what is on it then.
    pub fn is_unreadable(&self) -> bool {
        let gave_none = |copy: &DecodeError| matches!(copy.fault, Fault::Unreadable { .. });
        match self {
            Self::SlotLost { a, b, .. } | Self::PageLost { a, b, .. } => {
                gave_none(a) || gave_none(b)
            }
            _ => false,
        }
    }

    /// Where it was found.
    pub fn disk_offset(&self) -> ByteOffset {
        match self {
            Self::SlotLost { at, .. }
            | Self::SlotConflict { at }
            | Self::UnknownObject { at, .. }
            | Self::Duplicate { at, .. }
            | Self::PageLost { at, .. }
            | Self::PageConflict { at, .. }
            | Self::Inconsistent { at, .. }
            | Self::NoMemory { at, .. } => *at,
            Self::ClusterOutside { pcn } | Self::ClusterShared { pcn } => pcn.offset(),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlotLost { at, a, b } => {
                write!(
                    f,
                    "both copies of its slot at disk byte {at} are bad: {a}; {b}"
                )
            }
            Self::SlotConflict { at } => {
                write!(
                    f,
                    "the two copies of its slot at disk byte {at} have the same sequence and differ"
                )
            }
            Self::UnknownObject { at, what } => {
                write!(f, "its slot at disk byte {at} holds {what}")
            }
            Self::Duplicate { at, other } => {
                write!(
                    f,
                    "its slot at disk byte {at} names the same object as slot {other}"
                )
            }
            Self::PageLost { page, at, a, b } => {
                write!(
                    f,
                    "both copies of {page} at disk byte {at} are bad: {a}; {b}"
                )
            }
            Self::PageConflict { page, at } => {
                write!(
                    f,
                    "the two copies of {page} at disk byte {at} have the same sequence and differ"
                )
            }
            Self::ClusterOutside { pcn } => {
                write!(
                    f,
                    "it names cluster {pcn} (disk byte {}), outside the cluster zone",
                    pcn.offset()
                )
            }
            Self::ClusterShared { pcn } => {
                write!(
                    f,
                    "cluster {pcn} (disk byte {}) is named twice",
                    pcn.offset()
                )
            }
            Self::Inconsistent {
                at,
                what,
                expected,
                found,
            } => {
                write!(
                    f,
                    "{what}: its slot at disk byte {at} says {expected}, its trees say {found}"
                )
            }
            Self::NoMemory { at, map_bytes } => {
                write!(
                    f,
                    "nothing of it is bad (its slot: disk byte {at}), but its map of {map_bytes} bytes gets no memory: see \
                     vm.overcommit_memory and limits of the daemon's address space, then restart it"
                )
            }
        }
    }
}

/// A page of an object's trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreePage {
    /// Leaf of the map.
    MapLeaf(u32),
    /// Directory page of the map.
    MapDirectory(u32),
    /// Leaf of the checksums.
    ChecksumLeaf(u32),
    /// Directory page of the checksums.
    ChecksumDirectory(u32),
}

impl fmt::Display for TreePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MapLeaf(n) => write!(f, "map page {n}"),
            Self::MapDirectory(n) => write!(f, "map directory page {n}"),
            Self::ChecksumLeaf(n) => write!(f, "checksum page {n}"),
            Self::ChecksumDirectory(n) => write!(f, "checksum directory page {n}"),
        }
    }
}
