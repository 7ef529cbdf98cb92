//! A leaf of a map tree: 504 map entries.

use zerocopy::little_endian::U64;
use zerocopy::{transmute, transmute_ref};

use super::error::DecodeError;
use super::header::{self, Expect, Identity, PageHeader, RawPageHeader, Stamp};
use super::pair::Versioned;
use super::tree::ENTRIES_PER_PAGE;
use crate::map::MapEntry;
use crate::units::{Epoch, Page, Seq, SlotIndex};

/// First eight bytes of a map page.
pub const MAGIC: [u8; 8] = *b"BPMAP\0\0\0";
/// Entries in a page.
pub const ENTRIES: usize = ENTRIES_PER_PAGE as usize;
const IDENTITY: Identity = Identity {
    name: "map page",
    magic: MAGIC,
};

layout!(
    /// A map page as it lies on the disk.
    RawMapPage, 4096, {
        header: RawPageHeader,
        entries: [U64; ENTRIES],
    }
);

/// A leaf of a map tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPage {
    /// The owner's slot.
    pub slot: SlotIndex,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// Another one each time a volume's page is written; 0 for a sealed image's.
    pub seq: Seq,
    /// The leaf's number.
    pub index: u32,
    /// Entries of clusters `index * 504` and on. The dirty bit is never set.
    pub entries: [MapEntry; ENTRIES],
}

impl Versioned for MapPage {
    fn seq(&self) -> Seq {
        self.seq
    }
}

impl MapPage {
    /// The page to write; dirty bits are left out.
    pub fn encode(&self, stamp: &Stamp) -> Page {
        let header = PageHeader {
            kind: 0,
            disk_uuid: stamp.disk_uuid,
            seq: self.seq,
            self_offset: stamp.self_offset,
            slot: self.slot,
            epoch: self.epoch,
            index: self.index,
        };
        let raw = RawMapPage {
            header: header.raw(MAGIC),
            entries: self
                .entries
                .map(|entry| U64::new(entry.with_dirty(false).bits())),
        };
        let mut page: Page = transmute!(raw);
        header::seal(&mut page);
        page
    }

    /// Reads a map page.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn decode(page: &Page, expect: &Expect) -> Result<Self, DecodeError> {
        let raw: &RawMapPage = transmute_ref!(page);
        let header = header::admit(header::verify(page, IDENTITY, expect)?, IDENTITY, expect)?;
        header::require_zero(IDENTITY, expect, &[("kind", 10, header.kind.into())])?;
        let entries = raw.entries.map(|entry| MapEntry::from_bits(entry.get()));
        if let Some(at) = entries.iter().position(|entry| entry.is_dirty()) {
            let (expected, found) = ("bit 31 clear", entries[at].bits());
            return Err(IDENTITY.illegal(expect, "entries", 64 + at * 8, expected, found));
        }
        Ok(Self {
            slot: header.slot,
            epoch: header.epoch,
            seq: header.seq,
            index: header.index,
            entries,
        })
    }
}
