//! Journal batches and their records. Laid out and coded; this version writes none, since it knows images only.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes, transmute};

use super::directory::DirectoryEntry;
use super::error::{DecodeError, Fault};
use super::header::{self, Expect, Identity, PageHeader, RawPageHeader, Stamp};
use crate::map::MapEntry;
use crate::units::{Epoch, Lcn, PAGE_BYTES, Pcn, Seq, SlotIndex};

/// First eight bytes of a batch.
pub const MAGIC: [u8; 8] = *b"BPJRNL\0\0";
/// Longest batch. Far below the shortest journal, so that a commit always fits beside its forerunner.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Records start here in a batch.
pub const RECORDS_AT: usize = 96;
/// Length of a record.
pub const RECORD_BYTES: usize = 32;
/// Records in the longest batch.
pub const RECORDS_MAX: usize = (BATCH_BYTES_MAX - RECORDS_AT) / RECORD_BYTES;

const IDENTITY: Identity = Identity {
    name: "journal batch",
    magic: MAGIC,
};
const BLOCK: usize = PAGE_BYTES;

layout!(
    /// The start of a batch as it lies on the disk, up to the end of its first record.
    RawJournalBatch, RECORDS_AT + RECORD_BYTES, {
        header: RawPageHeader,
        session: U64,
        batch_bytes: U32,
        reserved: [u8; 20],
        records: RawJournalRecord,
    }
);

layout!(
    /// A record as it lies on the disk.
    RawJournalRecord, RECORD_BYTES, {
        kind: U16,
        reserved0: U16,
        slot: U32,
        epoch: U32,
        index: U32,
        value: U64,
        freed_pcn: U32,
        reserved1: U32,
    }
);

/// What a record changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalChange {
    /// A cluster's map entry, dirty bit clear.
    MapEntry(Lcn, MapEntry),
    /// A map directory entry, by its number over all directory pages.
    MapDirectory(u32, DirectoryEntry),
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalRecord {
    /// The owner's slot.
    pub slot: SlotIndex,
    /// The owner's epoch: a record of a former owner is skipped.
    pub epoch: Epoch,
    /// What changes.
    pub change: JournalChange,
    /// The cluster that this change releases, [`Pcn::NONE`] for none.
    pub freed: Pcn,
}

/// Changes that become durable together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalBatch {
    /// Goes up by one a batch, over sessions and laps of the ring.
    pub seq: Seq,
    /// The session that wrote it.
    pub session: u64,
    /// The changes, in order. At most [`RECORDS_MAX`].
    pub records: Vec<JournalRecord>,
}

/// Too many records for one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{records} records do not fit in one journal batch, which holds {RECORDS_MAX}")]
pub struct BatchTooLong {
    /// How many there are.
    pub records: usize,
}

/// Length of a batch of so many records.
pub const fn batch_bytes(records: usize) -> usize {
    (RECORDS_AT + records * RECORD_BYTES).next_multiple_of(BLOCK)
}

impl JournalRecord {
    fn raw(&self) -> RawJournalRecord {
        let (kind, index, value) = match self.change {
            JournalChange::MapEntry(lcn, entry) => (1, lcn.get(), entry.with_dirty(false).bits()),
            JournalChange::MapDirectory(index, entry) => (2, index, entry.bits()),
        };
        RawJournalRecord {
            kind: U16::new(kind),
            reserved0: U16::ZERO,
            slot: U32::new(self.slot.get()),
            epoch: U32::new(self.epoch.get()),
            index: U32::new(index),
            value: U64::new(value),
            freed_pcn: U32::new(self.freed.get()),
            reserved1: U32::ZERO,
        }
    }
}

impl JournalBatch {
    /// The bytes to write.
    ///
    /// # Errors
    /// If there are more than [`RECORDS_MAX`] records.
    pub fn encode(&self, stamp: &Stamp) -> Result<Vec<u8>, BatchTooLong> {
        let records = self.records.len();
        let too_long = BatchTooLong { records };
        if records > RECORDS_MAX {
            return Err(too_long);
        }
        let index = u32::try_from(records).map_err(|_| too_long)?;
        let len_bytes = batch_bytes(records);
        let header = PageHeader {
            kind: 0,
            disk_uuid: stamp.disk_uuid,
            seq: self.seq,
            self_offset: stamp.self_offset,
            slot: SlotIndex::default(),
            epoch: Epoch::default(),
            index,
        };
        let raw = RawJournalBatch {
            header: header.raw(MAGIC),
            session: U64::new(self.session),
            batch_bytes: U32::new(u32::try_from(len_bytes).map_err(|_| too_long)?),
            reserved: [0; 20],
            records: transmute!([0u8; RECORD_BYTES]),
        };
        let mut bytes = vec![0; len_bytes];
        bytes[..size_of::<RawJournalBatch>()].copy_from_slice(raw.as_bytes());
        for (to, record) in bytes[RECORDS_AT..]
            .chunks_exact_mut(RECORD_BYTES)
            .zip(&self.records)
        {
            to.copy_from_slice(record.raw().as_bytes());
        }
        header::seal(&mut bytes);
        Ok(bytes)
    }

    /// Reads the batch that `bytes` begin with, and tells how long it is. `bytes` reach to the ring's
    /// end, or at least over [`BATCH_BYTES_MAX`].
    ///
    /// # Errors
    /// Whatever is wrong with it: replay stops here.
    pub fn decode(bytes: &[u8], expect: &Expect) -> Result<(Self, usize), DecodeError> {
        let first = bytes.get(..BLOCK).unwrap_or(bytes);
        header::recognise(first, IDENTITY, expect)?;
        let bad_length = |found| expect.fail(IDENTITY.name, Fault::BadLength { found });
        let Ok((raw, _)) = RawJournalBatch::ref_from_prefix(bytes) else {
            return Err(bad_length(0));
        };
        let claimed = raw.batch_bytes.get();
        let batch = bytes
            .get(..claimed as usize)
            .filter(|batch| batch.len() <= BATCH_BYTES_MAX && batch.len().is_multiple_of(BLOCK))
            .filter(|batch| !batch.is_empty())
            .ok_or_else(|| bad_length(claimed))?;
        let header = header::admit(header::verify(batch, IDENTITY, expect)?, IDENTITY, expect)?;
        header::require_zero(
            IDENTITY,
            expect,
            &[
                ("kind", 10, header.kind.into()),
                ("slot", 48, header.slot.get()),
                ("epoch", 52, header.epoch.get()),
            ],
        )?;
        let count = header.index as usize;
        if count > RECORDS_MAX || batch_bytes(count) != batch.len() {
            let expected = "as many blocks as the records need";
            return Err(IDENTITY.illegal(expect, "batch_bytes", 72, expected, claimed));
        }
        IDENTITY.reserved(expect, "reserved", 76, &raw.reserved)?;
        let (records, rest) = batch[RECORDS_AT..].split_at(count * RECORD_BYTES);
        IDENTITY.reserved(expect, "after the records", batch.len() - rest.len(), rest)?;
        let records = records
            .chunks_exact(RECORD_BYTES)
            .enumerate()
            .map(|(at, record)| decode_record(record, RECORDS_AT + at * RECORD_BYTES, expect))
            .collect::<Result<_, _>>()?;
        Ok((
            Self {
                seq: header.seq,
                session: raw.session.get(),
                records,
            },
            batch.len(),
        ))
    }
}

fn decode_record(bytes: &[u8], at: usize, expect: &Expect) -> Result<JournalRecord, DecodeError> {
    let Ok(raw) = RawJournalRecord::ref_from_bytes(bytes) else {
        return Err(IDENTITY.illegal(expect, "records", at, "32 bytes each", bytes.len() as u64));
    };
    let value = raw.value.get();
    let illegal_value = || IDENTITY.illegal(expect, "value", at + 16, "a clean entry", value);
    let change = match raw.kind.get() {
        1 => {
            let entry = MapEntry::from_bits(value);
            if entry.is_dirty() {
                return Err(illegal_value());
            }
            JournalChange::MapEntry(Lcn::new(raw.index.get()), entry)
        }
        2 => {
            let entry = DirectoryEntry::try_from_bits(value).ok_or_else(illegal_value)?;
            JournalChange::MapDirectory(raw.index.get(), entry)
        }
        kind => return Err(IDENTITY.illegal(expect, "kind", at, "1 or 2", kind)),
    };
    let freed = Pcn::try_new(raw.freed_pcn.get()).ok_or_else(|| {
        IDENTITY.illegal(
            expect,
            "freed_pcn",
            at + 24,
            "a pcn of 31 bits",
            raw.freed_pcn.get(),
        )
    })?;
    header::require_zero(
        IDENTITY,
        expect,
        &[
            ("reserved0", at + 2, raw.reserved0.get().into()),
            ("reserved1", at + 28, raw.reserved1.get()),
        ],
    )?;
    Ok(JournalRecord {
        slot: SlotIndex::new(raw.slot.get()),
        epoch: Epoch::new(raw.epoch.get()),
        change,
        freed,
    })
}
