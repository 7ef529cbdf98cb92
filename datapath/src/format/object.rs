//! A slot of the object table: one image replica, volume, snapshot or grave, or none.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{IntoBytes, transmute, transmute_ref};

use super::error::DecodeError;
use super::header::{self, Expect, Identity, PageHeader, RawPageHeader, Stamp};
use super::members::{MEMBERS_MAX, Members};
use super::pair::{PairCopy, Versioned};
use super::text::Text;
use super::tree::TREE_DIRS;
use crate::units::{CLUSTER_BYTES, DevId, Epoch, PAGE_BYTES, Page, Pcn, Seq, SlotIndex};

/// First eight bytes of a slot.
pub const MAGIC: [u8; 8] = *b"BPOBJECT";
/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest source, in bytes.
pub const SOURCE_BYTES_MAX: usize = 512;
/// Largest object.
pub const OBJECT_BYTES_MAX: u64 = 256 << 40;
/// Largest image: its checksums reach no further.
pub const IMAGE_BYTES_MAX: u64 = 16 << 40;
/// Bit of `flags`: to be attached whenever the disk is online.
pub const FLAG_WANT_ATTACHED: u16 = 1;
/// Bit of `flags`, of volumes: acknowledged writes may be missing, and no operator has accepted that. It is not served.
pub const FLAG_LOSS: u16 = 2;
/// `dev_id` before the first attach.
pub const NO_DEV_ID: u32 = u32::MAX;

const IDENTITY: Identity = Identity {
    name: "object slot",
    magic: MAGIC,
};
const STATE_FREE: u16 = 0;

layout!(
    /// An object slot as it lies on the disk.
    RawObjectSlot, 4096, {
        header: RawPageHeader,
        state: U16,
        flags: U16,
        dev_id: U32,
        object_uuid: [u8; 16],
        replica_uuid: [u8; 16],
        parent_uuid: [u8; 16],
        generation: U64,
        size_bytes: U64,
        stored_clusters: U64,
        wanted_copies: U32,
        reserved0: U32,
        sha256: [u8; 32],
        sha512: [u8; 64],
        name_bytes: U16,
        source_bytes: U16,
        reserved1: U32,
        name: [u8; NAME_BYTES_MAX],
        source: [u8; SOURCE_BYTES_MAX],
        created_unix_s: U64,
        reserved2: [u8; 120],
        map_dirs: [U32; TREE_DIRS],
        checksum_dirs: [U32; TREE_DIRS],
        member_disks: [[u8; 16]; MEMBERS_MAX],
        copied_clusters: U64,
        reserved3: [u8; 2296],
    }
);

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ObjectKind {
    /// A copy of an image.
    ImageReplica = 1,
    /// A writable disk.
    Volume = 2,
    /// What a volume held at one time.
    Snapshot = 3,
    /// What is left of a deleted image as long as a disk that may have a copy has not been seen.
    Grave = 4,
}

/// How far an object has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ObjectState {
    /// Being made; not served.
    Building = 1,
    /// Sealed (images, snapshots), or live (volumes).
    Complete = 2,
}

/// An object as its slot describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRecord {
    /// What it is.
    pub kind: ObjectKind,
    /// How far it has come.
    pub state: ObjectState,
    /// To be attached whenever the disk is online.
    pub want_attached: bool,
    /// Acknowledged writes may be missing, and no operator has accepted that. Only of volumes.
    pub loss_not_accepted: bool,
    /// Its ublk device number, from the first attach on.
    pub dev_id: Option<DevId>,
    /// The image, volume or snapshot.
    pub object_uuid: Uuid,
    /// This copy of it.
    pub replica_uuid: Uuid,
    /// The object below; nil for none.
    pub parent_uuid: Uuid,
    /// Of the object's description, over all its copies.
    pub generation: u64,
    /// Exact length.
    pub size_bytes: u64,
    /// Data clusters at seal.
    pub stored_clusters: u64,
    /// Replicas wanted.
    pub wanted_copies: u32,
    /// SHA-256 of exactly `size_bytes` bytes.
    pub sha256: [u8; 32],
    /// SHA-512 of the same.
    pub sha512: [u8; 64],
    /// Its name.
    pub name: Text<NAME_BYTES_MAX>,
    /// Where it was imported from.
    pub source: Text<SOURCE_BYTES_MAX>,
    /// For people.
    pub created_unix_s: u64,
    /// Clusters of map directory pages, [`Pcn::NONE`] for none.
    pub map_dirs: [Pcn; TREE_DIRS],
    /// Clusters of checksum directory pages, [`Pcn::NONE`] for none.
    pub checksum_dirs: [Pcn; TREE_DIRS],
    /// Of an image: every disk that has, or is about to get, a copy; none for this one only. Of a grave: the disks that may still have
    /// one.
    pub member_disks: Members,
    /// Of an image's copy that is being made: how many clusters of the image, from its start, the trees above tell of.
    pub copied_clusters: u64,
}

/// A slot of the object table. Neither `epoch` nor `seq` ever restarts, over objects that come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSlot {
    /// Its place in the table.
    pub slot: SlotIndex,
    /// How often it was given to a new object.
    pub epoch: Epoch,
    /// Counts its changes.
    pub seq: Seq,
    /// What it holds; `None` if it is free.
    pub object: Option<ObjectRecord>,
}

impl Versioned for ObjectSlot {
    fn seq(&self) -> Seq {
        self.seq
    }
}

impl ObjectSlot {
    /// The page to write as `copy` of this slot.
    pub fn encode(&self, stamp: &Stamp, copy: PairCopy) -> Page {
        let header = PageHeader {
            kind: self.object.as_ref().map_or(0, |object| object.kind as u16),
            disk_uuid: stamp.disk_uuid,
            seq: self.seq,
            self_offset: stamp.self_offset,
            slot: self.slot,
            epoch: self.epoch,
            index: copy.number(),
        };
        let header = header.raw(MAGIC);
        let mut page: Page = if let Some(object) = &self.object {
            transmute!(object.raw(header))
        } else {
            let mut page = [0; PAGE_BYTES];
            page[..header::HEADER_BYTES].copy_from_slice(header.as_bytes());
            page
        };
        header::seal(&mut page);
        page
    }

    /// Reads copy `expect.index` of slot `slot`. The owner in `expect` is not used: a slot's epoch is
    /// known only from itself.
    ///
    /// # Errors
    /// Whatever is wrong with it; `Blank` if this copy was never written.
    pub fn decode(page: &Page, expect: &Expect, slot: SlotIndex) -> Result<Self, DecodeError> {
        let raw: &RawObjectSlot = transmute_ref!(page);
        let expect = &Expect {
            owner: None,
            ..*expect
        };
        let header = header::admit(header::verify(page, IDENTITY, expect)?, IDENTITY, expect)?;
        if header.slot != slot {
            let expected = "the slot that lies here";
            return Err(IDENTITY.illegal(expect, "slot", 48, expected, header.slot.get()));
        }
        let object = if raw.state.get() == STATE_FREE {
            // A free slot says nothing but when it became free.
            if header.kind != 0 {
                return Err(IDENTITY.illegal(expect, "kind", 10, "0 in a free slot", header.kind));
            }
            IDENTITY.reserved(expect, "free slot", 64, &page[64..])?;
            None
        } else {
            Some(raw.decode_object(&header, expect)?)
        };
        Ok(Self {
            slot,
            epoch: header.epoch,
            seq: header.seq,
            object,
        })
    }
}

impl ObjectRecord {
    fn raw(&self, header: RawPageHeader) -> RawObjectSlot {
        let (name, name_bytes) = self.name.to_raw();
        let (source, source_bytes) = self.source.to_raw();
        RawObjectSlot {
            header,
            state: U16::new(self.state as u16),
            flags: U16::new(
                if self.want_attached {
                    FLAG_WANT_ATTACHED
                } else {
                    0
                } | if self.loss_not_accepted { FLAG_LOSS } else { 0 },
            ),
            dev_id: U32::new(self.dev_id.map_or(NO_DEV_ID, DevId::get)),
            object_uuid: *self.object_uuid.as_bytes(),
            replica_uuid: *self.replica_uuid.as_bytes(),
            parent_uuid: *self.parent_uuid.as_bytes(),
            generation: U64::new(self.generation),
            size_bytes: U64::new(self.size_bytes),
            stored_clusters: U64::new(self.stored_clusters),
            wanted_copies: U32::new(self.wanted_copies),
            reserved0: U32::ZERO,
            sha256: self.sha256,
            sha512: self.sha512,
            name_bytes: U16::new(name_bytes),
            source_bytes: U16::new(source_bytes),
            reserved1: U32::ZERO,
            name,
            source,
            created_unix_s: U64::new(self.created_unix_s),
            reserved2: [0; 120],
            map_dirs: self.map_dirs.map(|pcn| U32::new(pcn.get())),
            checksum_dirs: self.checksum_dirs.map(|pcn| U32::new(pcn.get())),
            member_disks: self.member_disks.to_raw(),
            copied_clusters: U64::new(self.copied_clusters),
            reserved3: [0; 2296],
        }
    }
}

impl RawObjectSlot {
    fn decode_object(
        &self,
        header: &PageHeader,
        expect: &Expect,
    ) -> Result<ObjectRecord, DecodeError> {
        let kind = match header.kind {
            1 => ObjectKind::ImageReplica,
            2 => ObjectKind::Volume,
            3 => ObjectKind::Snapshot,
            4 => ObjectKind::Grave,
            kind => return Err(IDENTITY.illegal(expect, "kind", 10, "1 to 4", kind)),
        };
        let state = match self.state.get() {
            1 => ObjectState::Building,
            2 => ObjectState::Complete,
            state => return Err(IDENTITY.illegal(expect, "state", 64, "0 to 2", state)),
        };
        self.check_numbers(kind, expect)?;
        self.check_copies(kind, state, expect)?;
        let (name_bytes, source_bytes) = (self.name_bytes.get(), self.source_bytes.get());
        Ok(ObjectRecord {
            kind,
            state,
            want_attached: self.flags.get() & FLAG_WANT_ATTACHED != 0,
            loss_not_accepted: self.flags.get() & FLAG_LOSS != 0,
            dev_id: Some(self.dev_id.get())
                .filter(|&id| id != NO_DEV_ID)
                .map(DevId::new),
            object_uuid: Uuid::from_bytes(self.object_uuid),
            replica_uuid: Uuid::from_bytes(self.replica_uuid),
            parent_uuid: Uuid::from_bytes(self.parent_uuid),
            generation: self.generation.get(),
            size_bytes: self.size_bytes.get(),
            stored_clusters: self.stored_clusters.get(),
            wanted_copies: self.wanted_copies.get(),
            sha256: self.sha256,
            sha512: self.sha512,
            name: Text::from_raw(&self.name, name_bytes).ok_or_else(|| {
                let expected = "name_bytes bytes of UTF-8, then zeros";
                IDENTITY.illegal(expect, "name", 256, expected, name_bytes)
            })?,
            source: Text::from_raw(&self.source, source_bytes).ok_or_else(|| {
                let expected = "source_bytes bytes of UTF-8, then zeros";
                IDENTITY.illegal(expect, "source", 384, expected, source_bytes)
            })?,
            created_unix_s: self.created_unix_s.get(),
            map_dirs: decode_dirs(&self.map_dirs, "map_dirs", 1024, expect)?,
            checksum_dirs: decode_dirs(&self.checksum_dirs, "checksum_dirs", 1280, expect)?,
            member_disks: Members::from_raw(&self.member_disks).ok_or_else(|| {
                let expected = "disks in order, each once, then zeros";
                IDENTITY.illegal(
                    expect,
                    "member_disks",
                    1536,
                    expected,
                    self.member_disks[0][0],
                )
            })?,
            copied_clusters: self.copied_clusters.get(),
        })
    }

    fn check_numbers(&self, kind: ObjectKind, expect: &Expect) -> Result<(), DecodeError> {
        let (known, expected) = match kind {
            ObjectKind::Volume => (FLAG_WANT_ATTACHED | FLAG_LOSS, "no bit but bits 0 and 1"),
            ObjectKind::ImageReplica | ObjectKind::Snapshot => {
                (FLAG_WANT_ATTACHED, "no bit but bit 0")
            }
            ObjectKind::Grave => (0, "no bit in a grave"),
        };
        if self.flags.get() & !known != 0 {
            return Err(IDENTITY.illegal(expect, "flags", 66, expected, self.flags.get()));
        }
        let size_bytes = self.size_bytes.get();
        let (size_max, expected) = match kind {
            ObjectKind::ImageReplica => (IMAGE_BYTES_MAX, "at most 16 TiB"),
            ObjectKind::Volume | ObjectKind::Snapshot => (OBJECT_BYTES_MAX, "at most 256 TiB"),
            ObjectKind::Grave => (0, "0 in a grave"),
        };
        if size_bytes > size_max {
            return Err(IDENTITY.illegal(expect, "size_bytes", 128, expected, size_bytes));
        }
        let stored = self.stored_clusters.get();
        if stored > size_bytes.div_ceil(CLUSTER_BYTES) {
            let expected = "no more clusters than size_bytes has";
            return Err(IDENTITY.illegal(expect, "stored_clusters", 136, expected, stored));
        }
        header::require_zero(
            IDENTITY,
            expect,
            &[
                ("reserved0", 148, self.reserved0.get()),
                ("reserved1", 252, self.reserved1.get()),
            ],
        )?;
        IDENTITY.reserved(expect, "reserved2", 904, &self.reserved2)?;
        IDENTITY.reserved(expect, "reserved3", 1800, &self.reserved3)
    }

    /// What only some kinds have is zero in the others.
    fn check_copies(
        &self,
        kind: ObjectKind,
        state: ObjectState,
        expect: &Expect,
    ) -> Result<(), DecodeError> {
        if !matches!(kind, ObjectKind::ImageReplica | ObjectKind::Grave) {
            IDENTITY.reserved(
                expect,
                "member_disks of no image",
                1536,
                self.member_disks.as_bytes(),
            )?;
        }
        let copied = self.copied_clusters.get();
        let copied_max = if kind == ObjectKind::ImageReplica && state == ObjectState::Building {
            self.size_bytes.get().div_ceil(CLUSTER_BYTES)
        } else {
            0
        };
        if copied > copied_max {
            let expected = "no more clusters than size_bytes has, 0 but in a copy that is made";
            return Err(IDENTITY.illegal(expect, "copied_clusters", 1792, expected, copied));
        }
        if kind != ObjectKind::Grave {
            return Ok(());
        }
        if state != ObjectState::Complete {
            let found = self.state.get();
            return Err(IDENTITY.illegal(expect, "state", 64, "2 in a grave", found));
        }
        if self.dev_id.get() != NO_DEV_ID {
            let expected = "no device number in a grave";
            return Err(IDENTITY.illegal(expect, "dev_id", 68, expected, self.dev_id.get()));
        }
        // A grave says what was deleted, when, and who has not been told. All else would be lost when it is written again.
        for (field, at, bytes) in [
            ("replica_uuid", 88, self.replica_uuid.as_bytes()),
            ("parent_uuid", 104, self.parent_uuid.as_bytes()),
            ("wanted_copies", 144, self.wanted_copies.as_bytes()),
            ("sha256", 152, self.sha256.as_bytes()),
            ("sha512", 184, self.sha512.as_bytes()),
            ("source_bytes", 250, self.source_bytes.as_bytes()),
            ("source", 384, self.source.as_bytes()),
            ("map_dirs", 1024, self.map_dirs.as_bytes()),
            ("checksum_dirs", 1280, self.checksum_dirs.as_bytes()),
        ] {
            IDENTITY.reserved(expect, field, at, bytes)?;
        }
        Ok(())
    }
}

fn decode_dirs(
    raw: &[U32; TREE_DIRS],
    field: &'static str,
    offset: usize,
    expect: &Expect,
) -> Result<[Pcn; TREE_DIRS], DecodeError> {
    let mut dirs = [Pcn::NONE; TREE_DIRS];
    for (at, (pcn, raw)) in dirs.iter_mut().zip(raw).enumerate() {
        *pcn = Pcn::try_new(raw.get()).ok_or_else(|| {
            IDENTITY.illegal(
                expect,
                field,
                offset + at * 4,
                "a pcn of 31 bits",
                raw.get(),
            )
        })?;
    }
    Ok(dirs)
}
