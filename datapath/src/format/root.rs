//! Checkpoint roots A and B: where replay of the journal starts.

use uuid::Uuid;
use zerocopy::little_endian::U64;
use zerocopy::{transmute, transmute_ref};

use super::error::DecodeError;
use super::geometry::JournalZone;
use super::header::{self, Expect, Identity, PageHeader, RawPageHeader};
use super::pair::{PairCopy, Versioned};
use crate::format::geometry::ROOT_OFFSETS;
use crate::units::{ByteOffset, Epoch, Page, Seq, SlotIndex};

/// First eight bytes of a root.
pub const MAGIC: [u8; 8] = *b"BPROOT\0\0";
const IDENTITY: Identity = Identity {
    name: "checkpoint root",
    magic: MAGIC,
};

layout!(
    /// A checkpoint root as it lies on the disk.
    RawCheckpointRoot, 4096, {
        header: RawPageHeader,
        tail_offset: U64,
        tail_seq: U64,
        session: U64,
        reserved: [u8; 4008],
    }
);

/// Where replay of the journal starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRoot {
    /// Counts checkpoints.
    pub seq: Seq,
    /// Disk byte, in the journal zone, where the first batch to replay begins.
    pub tail_offset: ByteOffset,
    /// The sequence that this batch will have.
    pub tail_seq: Seq,
    /// The session that wrote this root.
    pub session: u64,
}

impl Versioned for CheckpointRoot {
    fn seq(&self) -> Seq {
        self.seq
    }
}

impl CheckpointRoot {
    /// The page to write at [`Geometry::root_offset`](super::geometry::Geometry::root_offset) of `copy`.
    pub fn encode(&self, disk_uuid: Uuid, copy: PairCopy) -> Page {
        let header = PageHeader {
            kind: 0,
            disk_uuid,
            seq: self.seq,
            self_offset: ByteOffset::new(ROOT_OFFSETS[copy.index()]),
            slot: SlotIndex::default(),
            epoch: Epoch::default(),
            index: copy.number(),
        };
        let raw = RawCheckpointRoot {
            header: header.raw(MAGIC),
            tail_offset: U64::new(self.tail_offset.get()),
            tail_seq: U64::new(self.tail_seq.get()),
            session: U64::new(self.session),
            reserved: [0; 4008],
        };
        let mut page: Page = transmute!(raw);
        header::seal(&mut page);
        page
    }

    /// Reads a root; its tail must lie in `journal`.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn decode(
        page: &Page,
        expect: &Expect,
        journal: &JournalZone,
    ) -> Result<Self, DecodeError> {
        let raw: &RawCheckpointRoot = transmute_ref!(page);
        let header = header::admit(header::verify(page, IDENTITY, expect)?, IDENTITY, expect)?;
        header::require_zero(
            IDENTITY,
            expect,
            &[
                ("kind", 10, header.kind.into()),
                ("slot", 48, header.slot.get()),
                ("epoch", 52, header.epoch.get()),
            ],
        )?;
        let tail_offset = ByteOffset::new(raw.tail_offset.get());
        if !journal.may_begin(tail_offset) {
            let expected = "a block of the journal zone";
            return Err(IDENTITY.illegal(expect, "tail_offset", 64, expected, tail_offset.get()));
        }
        IDENTITY.reserved(expect, "reserved", 88, &raw.reserved)?;
        Ok(Self {
            seq: header.seq,
            tail_offset,
            tail_seq: Seq::new(raw.tail_seq.get()),
            session: raw.session.get(),
        })
    }
}
