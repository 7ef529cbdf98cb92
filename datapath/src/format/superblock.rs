//! The superblock, of which a disk has four copies, and the rule by which they are believed.

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{transmute, transmute_ref};

use super::error::{DecodeError, DecodeErrorKind, Fault};
use super::geometry::Geometry;
use super::header::{self, Expect, Identity, PageHeader, RawPageHeader};
use super::peers::{PEERS_MAX, Peers};
use crate::units::{BLOCK_BYTES, CLUSTER_BYTES, Epoch, Page, Seq, SlotIndex};

/// The format version of this code.
pub const FORMAT_VERSION: u32 = 1;
/// First eight bytes of a superblock.
pub const MAGIC: [u8; 8] = *b"BPSUPER\0";
/// How many copies a disk has.
pub const SUPERBLOCK_COPIES: usize = 4;
/// Bit of `flags`: the last session ended in order.
pub const FLAG_CLEAN: u32 = 1;
/// Bit of `incompat`: there is, or was, a volume. A version that cannot replay the journal must refuse the disk.
pub const INCOMPAT_VOLUMES: u64 = 1;
/// Bit of `incompat`: an object's slot names other disks, a grave or a half-made copy is or was there, or the superblock names an owner
/// or peers. A version that does not know of them would serve deleted images, and half copies as whole ones.
pub const INCOMPAT_REPLICAS: u64 = 2;
/// Incompatible features that this code has.
pub const INCOMPAT_KNOWN: u64 = INCOMPAT_VOLUMES | INCOMPAT_REPLICAS;
/// Features that an older version may only read around, and that this code has: none yet.
pub const RO_COMPAT_KNOWN: u64 = 0;

const IDENTITY: Identity = Identity {
    name: "superblock",
    magic: MAGIC,
};

layout!(
    /// The superblock as it lies on the disk.
    RawSuperblock, 4096, {
        header: RawPageHeader,
        format_version: U32,
        flags: U32,
        incompat: U64,
        ro_compat: U64,
        compat: U64,
        hardware_id_hash: [u8; 32],
        disk_bytes: U64,
        table_offset: U64,
        table_slots: U32,
        first_pcn: U32,
        end_pcn: U32,
        block_bytes: U32,
        cluster_bytes: U32,
        reserved0: U32,
        journal_offset: U64,
        journal_bytes: U64,
        session: U64,
        boot_id: [u8; 16],
        created_unix_s: U64,
        owner_node_hash: [u8; 32],
        peers: [RawPeer; PEERS_MAX],
        reserved1: [u8; 3080],
    }
);

layout!(
    /// What a superblock knows of one other disk.
    RawPeer, 24, {
        disk_uuid: [u8; 16],
        session: U64,
    }
);

impl RawPeer {
    pub(super) const NONE: Self = Self {
        disk_uuid: [0; 16],
        session: U64::ZERO,
    };

    pub(super) fn new(disk: Uuid, session: u64) -> Self {
        Self {
            disk_uuid: *disk.as_bytes(),
            session: U64::new(session),
        }
    }

    /// `None` for an empty place.
    pub(super) fn get(&self) -> Option<(Uuid, u64)> {
        let disk = Uuid::from_bytes(self.disk_uuid);
        (!disk.is_nil()).then_some((disk, self.session.get()))
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.disk_uuid == other.disk_uuid && self.session == other.session
    }
}

/// One of the four copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SuperblockCopy {
    /// Copy 0, near the start.
    First,
    /// Copy 1, near the start.
    Second,
    /// Copy 2, near the start.
    Third,
    /// Copy 3, in the last cluster.
    Last,
}

impl SuperblockCopy {
    /// All copies, in the order in which they are written.
    pub const ALL: [Self; SUPERBLOCK_COPIES] = [Self::First, Self::Second, Self::Third, Self::Last];

    /// 0 to 3.
    pub const fn index(self) -> usize {
        self.number() as usize
    }

    /// 0 to 3, as the copy's `index` field holds it.
    pub const fn number(self) -> u32 {
        match self {
            Self::First => 0,
            Self::Second => 1,
            Self::Third => 2,
            Self::Last => 3,
        }
    }
}

/// What a disk is, and how its last session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The disk's identity.
    pub disk_uuid: Uuid,
    /// Goes up with every change.
    pub generation: Seq,
    /// The last session ended in order.
    pub clean: bool,
    /// Features that a version without them must refuse. Decoding accepts only known ones.
    pub incompat: u64,
    /// Features that a version without them may only read around.
    pub ro_compat: u64,
    /// Features that a version without them may ignore and must keep.
    pub compat: u64,
    /// SHA-256 of the device's WWID or serial, zero where it has none.
    pub hardware_id_hash: [u8; 32],
    /// The disk's zones.
    pub geometry: Geometry,
    /// Counts the lives of the daemon on this disk.
    pub session: u64,
    /// Of the kernel that ran that session.
    pub boot_id: Uuid,
    /// For people; nothing is ordered by it.
    pub created_unix_s: u64,
    /// SHA-256 of what tells the node that uses the disk from others; zero for any node.
    pub owner_node_hash: [u8; 32],
    /// The latest sessions of this disk and of others that were open together with it.
    pub peers: Peers,
}

impl Superblock {
    /// Whether features are in use that this code may only read around.
    pub fn must_be_read_only(&self) -> bool {
        self.ro_compat & !RO_COMPAT_KNOWN != 0
    }

    /// The page to write at [`Geometry::superblock_offset`] of `copy`.
    pub fn encode(&self, copy: SuperblockCopy) -> Page {
        let header = PageHeader {
            kind: 0,
            disk_uuid: self.disk_uuid,
            seq: self.generation,
            self_offset: self.geometry.superblock_offset(copy),
            slot: SlotIndex::default(),
            epoch: Epoch::default(),
            index: copy.number(),
        };
        let geometry = &self.geometry;
        let raw = RawSuperblock {
            header: header.raw(MAGIC),
            format_version: U32::new(FORMAT_VERSION),
            flags: U32::new(if self.clean { FLAG_CLEAN } else { 0 }),
            incompat: U64::new(self.incompat),
            ro_compat: U64::new(self.ro_compat),
            compat: U64::new(self.compat),
            hardware_id_hash: self.hardware_id_hash,
            disk_bytes: U64::new(geometry.disk_bytes()),
            table_offset: U64::new(geometry.table_offset().get()),
            table_slots: U32::new(geometry.slots()),
            first_pcn: U32::new(geometry.first_pcn().get()),
            end_pcn: U32::new(geometry.end_pcn().get()),
            block_bytes: U32::new((BLOCK_BYTES & 0xffff_ffff) as u32),
            cluster_bytes: U32::new((CLUSTER_BYTES & 0xffff_ffff) as u32),
            reserved0: U32::ZERO,
            journal_offset: U64::new(geometry.journal().offset.get()),
            journal_bytes: U64::new(geometry.journal().len_bytes),
            session: U64::new(self.session),
            boot_id: *self.boot_id.as_bytes(),
            created_unix_s: U64::new(self.created_unix_s),
            owner_node_hash: self.owner_node_hash,
            peers: self.peers.to_raw(),
            reserved1: [0; 3080],
        };
        let mut page: Page = transmute!(raw);
        header::seal(&mut page);
        page
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// Whatever is wrong with it. An intact superblock of another format version, or with unknown
    /// incompatible features, is told as such before its other fields are looked at.
    pub fn decode(page: &Page, expect: &Expect) -> Result<Self, DecodeError> {
        let raw: &RawSuperblock = transmute_ref!(page);
        let raw_header = header::verify(page, IDENTITY, expect)?;
        if raw.format_version.get() != FORMAT_VERSION {
            let fault = Fault::UnknownVersion {
                field: "format_version",
                found: raw.format_version.get(),
                supported: FORMAT_VERSION,
            };
            return Err(expect.fail(IDENTITY.name, fault));
        }
        let unknown = raw.incompat.get() & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(expect.fail(IDENTITY.name, Fault::UnknownFeature { unknown }));
        }
        let header = header::admit(raw_header, IDENTITY, expect)?;
        raw.check_fields(&header, expect)?;
        let geometry = raw.check_geometry(expect)?;
        let copy = SuperblockCopy::ALL.get(header.index as usize);
        if copy.is_none_or(|&copy| geometry.superblock_offset(copy) != header.self_offset) {
            return Err(IDENTITY.illegal(
                expect,
                "index",
                56,
                "the copy that lies here",
                header.index,
            ));
        }
        Ok(Self {
            disk_uuid: header.disk_uuid,
            generation: header.seq,
            clean: raw.flags.get() & FLAG_CLEAN != 0,
            incompat: raw.incompat.get(),
            ro_compat: raw.ro_compat.get(),
            compat: raw.compat.get(),
            hardware_id_hash: raw.hardware_id_hash,
            geometry,
            session: raw.session.get(),
            boot_id: Uuid::from_bytes(raw.boot_id),
            created_unix_s: raw.created_unix_s.get(),
            owner_node_hash: raw.owner_node_hash,
            peers: Peers::from_raw(&raw.peers).ok_or_else(|| {
                let expected = "disks in order, each once with a session, then zeros";
                IDENTITY.illegal(expect, "peers", 248, expected, raw.peers[0].session.get())
            })?,
        })
    }
}

impl RawSuperblock {
    fn check_fields(&self, header: &PageHeader, expect: &Expect) -> Result<(), DecodeError> {
        header::require_zero(
            IDENTITY,
            expect,
            &[
                ("kind", 10, header.kind.into()),
                ("slot", 48, header.slot.get()),
                ("epoch", 52, header.epoch.get()),
                ("reserved0", 164, self.reserved0.get()),
            ],
        )?;
        if self.flags.get() & !FLAG_CLEAN != 0 {
            return Err(IDENTITY.illegal(
                expect,
                "flags",
                68,
                "no bit but bit 0",
                self.flags.get(),
            ));
        }
        IDENTITY.reserved(expect, "reserved1", 1016, &self.reserved1)
    }

    /// In version 1 the zones are a function of the disk's length; anything else is refused.
    fn check_geometry(&self, expect: &Expect) -> Result<Geometry, DecodeError> {
        let disk_bytes = self.disk_bytes.get();
        let geometry = Geometry::of_disk(disk_bytes)
            .ok()
            .filter(|geometry| geometry.disk_bytes() == disk_bytes)
            .ok_or_else(|| {
                let expected = "whole clusters, 64 MiB to 256 TiB";
                IDENTITY.illegal(expect, "disk_bytes", 128, expected, disk_bytes)
            })?;
        let journal = geometry.journal();
        let fields: [(&'static str, usize, u64, u64); 8] = [
            (
                "table_offset",
                136,
                self.table_offset.get(),
                geometry.table_offset().get(),
            ),
            (
                "table_slots",
                144,
                self.table_slots.get().into(),
                geometry.slots().into(),
            ),
            (
                "first_pcn",
                148,
                self.first_pcn.get().into(),
                geometry.first_pcn().get().into(),
            ),
            (
                "end_pcn",
                152,
                self.end_pcn.get().into(),
                geometry.end_pcn().get().into(),
            ),
            (
                "block_bytes",
                156,
                self.block_bytes.get().into(),
                BLOCK_BYTES,
            ),
            (
                "cluster_bytes",
                160,
                self.cluster_bytes.get().into(),
                CLUSTER_BYTES,
            ),
            (
                "journal_offset",
                168,
                self.journal_offset.get(),
                journal.offset.get(),
            ),
            (
                "journal_bytes",
                176,
                self.journal_bytes.get(),
                journal.len_bytes,
            ),
        ];
        for (field, offset, found, expected) in fields {
            if found != expected {
                let expected = "what disk_bytes gives in version 1";
                return Err(IDENTITY.illegal(expect, field, offset, expected, found));
            }
        }
        Ok(geometry)
    }
}

/// What the four copies of a disk amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The disk's state.
    pub winner: Superblock,
    /// A new state takes a generation above this one.
    pub max_generation_seen: Seq,
    /// The copies that do not hold the winner: bad, older, or newer without a second one.
    pub bad_copies: Vec<SuperblockCopy>,
}

/// Why no state of the disk can be believed. Nothing is written to such a disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChoiceError {
    /// No copy looks like a superblock.
    #[error("not a Bedplate disk: {0}")]
    NotBedplate(DecodeError),
    /// At least one intact copy is of a version or has a feature that this code does not know.
    #[error("made by another version of Bedplate: {0}")]
    Unknown(DecodeError),
    /// Fewer than two equal good copies.
    #[error("fewer than two equal superblock copies: {} good of {SUPERBLOCK_COPIES}, first fault: {}",
        .good_copies.len(), .faults.first().map_or_else(|| "copies differ".to_owned(), ToString::to_string))]
    Lost {
        /// Copies that are good in themselves.
        good_copies: Vec<SuperblockCopy>,
        /// What is wrong with the others.
        faults: Vec<DecodeError>,
    },
    /// Good copies of two disks, or two states with the same generation.
    #[error(
        "superblock copies contradict each other: disk {a_uuid} and {b_uuid}, generation {generation}"
    )]
    Conflict {
        /// One disk.
        a_uuid: Uuid,
        /// The other one; the same if only the states differ.
        b_uuid: Uuid,
        /// The generation of the first.
        generation: Seq,
    },
}

/// Which state four copies, in order, stand for: the highest generation with at least two good and
/// equal copies.
///
/// # Errors
/// If there is none, if they contradict each other, or if any intact copy is of an unknown version: a
/// newer Bedplate may have been at work, and it is not for this one to undo that.
pub fn choose(
    copies: [Result<Superblock, DecodeError>; SUPERBLOCK_COPIES],
) -> Result<Choice, ChoiceError> {
    let mut good = Vec::with_capacity(SUPERBLOCK_COPIES);
    let mut faults = Vec::new();
    for (copy, result) in SuperblockCopy::ALL.into_iter().zip(copies) {
        match result {
            Ok(superblock) => good.push((copy, superblock)),
            Err(error) => faults.push(error),
        }
    }
    if let Some(error) = faults.iter().find(|error| {
        matches!(
            error.kind(),
            DecodeErrorKind::UnknownVersion | DecodeErrorKind::UnknownFeature
        )
    }) {
        return Err(ChoiceError::Unknown(error.clone()));
    }
    if good.is_empty() {
        let foreign =
            |error: &DecodeError| matches!(error.fault, Fault::Blank | Fault::ForeignMagic { .. });
        if faults.iter().all(foreign) {
            return Err(ChoiceError::NotBedplate(faults.swap_remove(0)));
        }
    }
    contradiction(&good)?;
    let Some(max_generation_seen) = good
        .iter()
        .map(|(_, superblock)| superblock.generation)
        .max()
    else {
        return Err(ChoiceError::Lost {
            good_copies: Vec::new(),
            faults,
        });
    };
    let winner = good
        .iter()
        .filter(|(_, one)| good.iter().filter(|(_, other)| one == other).count() >= 2)
        .max_by_key(|(_, superblock)| superblock.generation)
        .map(|(_, superblock)| superblock.clone());
    let Some(winner) = winner else {
        let good_copies = good.into_iter().map(|(copy, _)| copy).collect();
        return Err(ChoiceError::Lost {
            good_copies,
            faults,
        });
    };
    let holds = |copy| {
        good.iter()
            .any(|(other, state)| *other == copy && *state == winner)
    };
    let bad_copies = SuperblockCopy::ALL
        .into_iter()
        .filter(|&copy| !holds(copy))
        .collect();
    Ok(Choice {
        winner,
        max_generation_seen,
        bad_copies,
    })
}

/// Copies of two disks cannot be ordered, and a generation is used once.
fn contradiction(good: &[(SuperblockCopy, Superblock)]) -> Result<(), ChoiceError> {
    for (at, (_, a)) in good.iter().enumerate() {
        for (_, b) in &good[at + 1..] {
            if a.disk_uuid != b.disk_uuid || (a.generation == b.generation && a != b) {
                return Err(ChoiceError::Conflict {
                    a_uuid: a.disk_uuid,
                    b_uuid: b.disk_uuid,
                    generation: a.generation,
                });
            }
        }
    }
    Ok(())
}
