//! A leaf of a checksum tree: the CRC32C of each block of 31 clusters.

use zerocopy::little_endian::U32;
use zerocopy::{transmute, transmute_ref};

use super::error::{DecodeError, Fault};
use super::header::{self, Expect, Identity, PageHeader, RawPageHeader, Stamp};
use super::pair::Versioned;
use super::tree::CLUSTERS_PER_CHECKSUM_PAGE;
use crate::medium::IoFault;
use crate::units::{BLOCKS_PER_CLUSTER, Epoch, Page, Seq, SlotIndex};

/// First eight bytes of a checksum page.
pub const MAGIC: [u8; 8] = *b"BPCRC\0\0\0";
/// Checksums in a page.
pub const CRCS: usize = (CLUSTERS_PER_CHECKSUM_PAGE * BLOCKS_PER_CLUSTER) as usize;
const IDENTITY: Identity = Identity {
    name: "checksum page",
    magic: MAGIC,
};

layout!(
    /// A checksum page as it lies on the disk.
    RawChecksumPage, 4096, {
        header: RawPageHeader,
        reserved: [u8; 64],
        crcs: [U32; CRCS],
    }
);

/// A leaf of a checksum tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChecksumPage {
    /// The owner's slot.
    pub slot: SlotIndex,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// The leaf's number.
    pub index: u32,
    /// CRC32C of each block as it lies on the disk; 0, and meaning nothing, for a block that is not stored.
    pub crcs: [u32; CRCS],
}

impl Versioned for ChecksumPage {
    /// Checksums are written once.
    fn seq(&self) -> Seq {
        Seq::default()
    }
}

/// The checksum of one block.
pub fn block_crc(block: &[u8]) -> u32 {
    crc32c::crc32c(block)
}

impl ChecksumPage {
    /// What is wrong with a page that the disk does not give.
    pub fn unreadable(fault: &IoFault) -> DecodeError {
        DecodeError {
            structure: IDENTITY.name,
            at: fault.at,
            fault: Fault::Unreadable { errno: fault.errno },
        }
    }

    /// The page to write.
    pub fn encode(&self, stamp: &Stamp) -> Page {
        let header = PageHeader {
            kind: 0,
            disk_uuid: stamp.disk_uuid,
            seq: Seq::default(),
            self_offset: stamp.self_offset,
            slot: self.slot,
            epoch: self.epoch,
            index: self.index,
        };
        let raw = RawChecksumPage {
            header: header.raw(MAGIC),
            reserved: [0; 64],
            crcs: self.crcs.map(U32::new),
        };
        let mut page: Page = transmute!(raw);
        header::seal(&mut page);
        page
    }

    /// Reads a checksum page.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn decode(page: &Page, expect: &Expect) -> Result<Self, DecodeError> {
        let raw: &RawChecksumPage = transmute_ref!(page);
        let header = header::admit(header::verify(page, IDENTITY, expect)?, IDENTITY, expect)?;
        header::require_zero(IDENTITY, expect, &[("kind", 10, header.kind.into())])?;
        if header.seq != Seq::default() {
            return Err(IDENTITY.illegal(expect, "seq", 32, "0", header.seq.get()));
        }
        IDENTITY.reserved(expect, "reserved", 64, &raw.reserved)?;
        Ok(Self {
            slot: header.slot,
            epoch: header.epoch,
            index: header.index,
            crcs: raw.crcs.map(U32::get),
        })
    }
}
