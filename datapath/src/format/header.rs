//! The page header that every structure begins with: identity, version, CRC, address.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::error::{DecodeError, Fault};
use crate::units::{ByteOffset, Epoch, Page, Seq, SlotIndex};

/// Version of every structure in this format.
pub const STRUCTURE_VERSION: u16 = 1;
/// Bytes of a page header.
pub const HEADER_BYTES: usize = 64;
const CRC_AT: usize = 12;

layout!(
    /// The header as it lies on the disk.
    RawPageHeader, HEADER_BYTES, {
        magic: [u8; 8],
        version: U16,
        kind: U16,
        crc32c: U32,
        disk_uuid: [u8; 16],
        seq: U64,
        self_offset: U64,
        slot: U32,
        epoch: U32,
        index: U32,
        reserved: U32,
    }
);

const _: () = assert!(std::mem::offset_of!(RawPageHeader, crc32c) == CRC_AT);

/// The header of one structure, decoded. Magic and CRC are the codec's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The structure's variant, 0 where there is only one.
    pub kind: u16,
    /// The disk that it belongs to.
    pub disk_uuid: Uuid,
    /// Which of two copies is newer.
    pub seq: Seq,
    /// The disk byte that it was written for.
    pub self_offset: ByteOffset,
    /// The owner's slot, 0 where there is none.
    pub slot: SlotIndex,
    /// The owner's epoch, 0 where there is none.
    pub epoch: Epoch,
    /// Copy, page or record count; see each structure.
    pub index: u32,
}

/// Where a page is about to be written: goes into its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The disk.
    pub disk_uuid: Uuid,
    /// The byte of it.
    pub self_offset: ByteOffset,
}

/// What a page that is read must be. What is `None` is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The disk byte that it was read from.
    pub self_offset: ByteOffset,
    /// The disk; unknown only until the superblock is read.
    pub disk_uuid: Option<Uuid>,
    /// The owner, where there is one.
    pub owner: Option<(SlotIndex, Epoch)>,
    /// Copy or page number.
    pub index: Option<u32>,
}

impl Expect {
    /// A page read from `self_offset`, of whatever disk.
    pub const fn at(self_offset: ByteOffset) -> Self {
        Self {
            self_offset,
            disk_uuid: None,
            owner: None,
            index: None,
        }
    }

    /// Must be of this disk.
    #[must_use]
    pub const fn on_disk(self, disk_uuid: Uuid) -> Self {
        Self {
            disk_uuid: Some(disk_uuid),
            ..self
        }
    }

    /// Must belong to this object.
    #[must_use]
    pub const fn owned_by(self, slot: SlotIndex, epoch: Epoch) -> Self {
        Self {
            owner: Some((slot, epoch)),
            ..self
        }
    }

    /// Must carry this copy or page number.
    #[must_use]
    pub const fn with_index(self, index: u32) -> Self {
        Self {
            index: Some(index),
            ..self
        }
    }

    pub(super) fn fail(&self, structure: &'static str, fault: Fault) -> DecodeError {
        DecodeError {
            structure,
            at: self.self_offset,
            fault,
        }
    }
}

/// Name and magic of a structure: what [`open`] looks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub name: &'static str,
    pub magic: [u8; 8],
}

impl Identity {
    pub(super) fn illegal(
        &self,
        expect: &Expect,
        field: &'static str,
        offset: usize,
        expected: &'static str,
        found: impl Into<u64>,
    ) -> DecodeError {
        expect.fail(
            self.name,
            Fault::Illegal {
                field,
                offset,
                expected,
                found: found.into(),
            },
        )
    }

    /// Reserved bytes must be zero: see "Reserved bytes" in the specification.
    pub(super) fn reserved(
        &self,
        expect: &Expect,
        field: &'static str,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), DecodeError> {
        // Most of a journal's batch is reserved: by words first, since byte by byte it was a twentieth of an open.
        let (words, rest) = bytes.as_chunks::<8>();
        if words.iter().all(|word| *word == [0; 8]) && rest.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        match bytes.iter().position(|&byte| byte != 0) {
            None => Ok(()),
            Some(at) => Err(self.illegal(expect, field, offset + at, "0", bytes[at])),
        }
    }
}

impl PageHeader {
    /// The raw header with a CRC of zero; [`seal`] fills it in when the rest of the page stands.
    pub(super) fn raw(&self, magic: [u8; 8]) -> RawPageHeader {
        RawPageHeader {
            magic,
            version: U16::new(STRUCTURE_VERSION),
            kind: U16::new(self.kind),
            crc32c: U32::ZERO,
            disk_uuid: *self.disk_uuid.as_bytes(),
            seq: U64::new(self.seq.get()),
            self_offset: U64::new(self.self_offset.get()),
            slot: U32::new(self.slot.get()),
            epoch: U32::new(self.epoch.get()),
            index: U32::new(self.index),
            reserved: U32::ZERO,
        }
    }
}

/// CRC32C of a structure, its own CRC field taken as zero. `bytes` holds at least a header.
fn checksum(bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&bytes[..CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[CRC_AT + 4..])
}

/// Computes the CRC of a finished structure and puts it into its header.
pub(super) fn seal(bytes: &mut [u8]) {
    let crc = U32::new(checksum(bytes));
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(crc.as_bytes());
}

/// Makes an intact page of the disk `from` one of the disk `to`, written at `at`. False, and nothing is changed, if it is none.
pub(crate) fn restamp(page: &mut Page, from: Uuid, to: Uuid, at: ByteOffset) -> bool {
    let Ok((raw, _)) = RawPageHeader::ref_from_prefix(page.as_slice()) else {
        return false;
    };
    if raw.disk_uuid != *from.as_bytes() || raw.crc32c.get() != checksum(page) {
        return false;
    }
    let mut raw = *raw;
    raw.disk_uuid = *to.as_bytes();
    raw.self_offset = U64::new(at.get());
    page[..HEADER_BYTES].copy_from_slice(raw.as_bytes());
    seal(page);
    true
}

/// Whether nothing was ever written there.
pub(super) fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// The first checks: is it blank, has it the magic? Nothing else can be believed before the CRC.
pub(super) fn recognise<'a>(
    bytes: &'a [u8],
    identity: Identity,
    expect: &Expect,
) -> Result<&'a RawPageHeader, DecodeError> {
    if is_blank(bytes) {
        return Err(expect.fail(identity.name, Fault::Blank));
    }
    let Ok((raw, _)) = RawPageHeader::ref_from_prefix(bytes) else {
        return Err(expect.fail(identity.name, Fault::BadLength { found: 0 }));
    };
    if raw.magic != identity.magic {
        let fault = Fault::ForeignMagic {
            expected: identity.magic,
            found: raw.magic,
        };
        return Err(expect.fail(identity.name, fault));
    }
    Ok(raw)
}

/// The checks that every version of a structure must pass: magic and CRC.
pub(super) fn verify<'a>(
    bytes: &'a [u8],
    identity: Identity,
    expect: &Expect,
) -> Result<&'a RawPageHeader, DecodeError> {
    let raw = recognise(bytes, identity, expect)?;
    let (expected, actual) = (raw.crc32c.get(), checksum(bytes));
    if expected != actual {
        return Err(expect.fail(identity.name, Fault::BadChecksum { expected, actual }));
    }
    if raw.version.get() != STRUCTURE_VERSION {
        let fault = Fault::UnknownVersion {
            field: "version",
            found: raw.version.get().into(),
            supported: STRUCTURE_VERSION.into(),
        };
        return Err(expect.fail(identity.name, fault));
    }
    Ok(raw)
}

/// The checks of a header whose CRC is right: disk, address, owner, index, reserved bytes.
pub(super) fn admit(
    raw: &RawPageHeader,
    identity: Identity,
    expect: &Expect,
) -> Result<PageHeader, DecodeError> {
    let header = PageHeader {
        kind: raw.kind.get(),
        disk_uuid: Uuid::from_bytes(raw.disk_uuid),
        seq: Seq::new(raw.seq.get()),
        self_offset: ByteOffset::new(raw.self_offset.get()),
        slot: SlotIndex::new(raw.slot.get()),
        epoch: Epoch::new(raw.epoch.get()),
        index: raw.index.get(),
    };
    if let Some(expected) = expect.disk_uuid.filter(|&uuid| uuid != header.disk_uuid) {
        let fault = Fault::ForeignDisk {
            expected,
            found: header.disk_uuid,
        };
        return Err(expect.fail(identity.name, fault));
    }
    if header.self_offset != expect.self_offset {
        let fault = Fault::Misdirected {
            found: header.self_offset,
        };
        return Err(expect.fail(identity.name, fault));
    }
    if let Some((expected_slot, expected_epoch)) = expect.owner
        && (header.slot, header.epoch) != (expected_slot, expected_epoch)
    {
        let fault = Fault::ForeignOwner {
            expected_slot,
            expected_epoch,
            found_slot: header.slot,
            found_epoch: header.epoch,
        };
        return Err(expect.fail(identity.name, fault));
    }
    if expect.index.is_some_and(|index| index != header.index) {
        return Err(identity.illegal(
            expect,
            "index",
            56,
            "the number of this copy or page",
            header.index,
        ));
    }
    if raw.reserved.get() != 0 {
        return Err(identity.illegal(expect, "reserved", 60, "0", raw.reserved.get()));
    }
    Ok(header)
}

/// A header without variants, or without an owner, says 0 there.
pub(super) fn require_zero(
    identity: Identity,
    expect: &Expect,
    fields: &[(&'static str, usize, u32)],
) -> Result<(), DecodeError> {
    for &(field, offset, found) in fields {
        if found != 0 {
            return Err(identity.illegal(expect, field, offset, "0", found));
        }
    }
    Ok(())
}
