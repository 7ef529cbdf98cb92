//! A directory page of a map or checksum tree: which clusters hold the leaves, and which of them were written.

use zerocopy::little_endian::U64;
use zerocopy::{transmute, transmute_ref};

use super::error::DecodeError;
use super::header::{self, Expect, Identity, PageHeader, RawPageHeader, Stamp};
use super::pair::Versioned;
use super::tree::{ENTRIES_PER_PAGE, PAIRS_PER_CLUSTER};
use crate::units::{Epoch, Page, Pcn, Seq, SlotIndex};

/// First eight bytes of a directory page.
pub const MAGIC: [u8; 8] = *b"BPDIR\0\0\0";
/// Entries in a page.
pub const ENTRIES: usize = ENTRIES_PER_PAGE as usize;
const IDENTITY: Identity = Identity {
    name: "directory page",
    magic: MAGIC,
};

layout!(
    /// A directory page as it lies on the disk.
    RawDirectoryPage, 4096, {
        header: RawPageHeader,
        entries: [U64; ENTRIES],
    }
);

/// The tree that a directory page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum TreeKind {
    /// Map pages.
    Map = 0,
    /// Checksum pages.
    Checksums = 1,
}

/// A cluster of leaf pages, and a bit for each of its 16 leaves that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct DirectoryEntry(u64);

impl DirectoryEntry {
    const PCN_BITS: u64 = Pcn::MAX.get() as u64;
    const WRITTEN_SHIFT: u32 = 32;

    /// No cluster.
    pub const EMPTY: Self = Self(0);

    /// A cluster of which the pages `written` (bit `k` is pair `k`) were written.
    pub const fn new(cluster: Pcn, written: u16) -> Self {
        Self(cluster.get() as u64 | (written as u64) << Self::WRITTEN_SHIFT)
    }

    /// The entry of these bits, if they are legal: nothing but pcn and page bits, and no page without
    /// a cluster.
    pub const fn try_from_bits(bits: u64) -> Option<Self> {
        let entry = Self(bits);
        let known = Self::PCN_BITS | (u16::MAX as u64) << Self::WRITTEN_SHIFT;
        let homeless = entry.cluster().is_none() && entry.written() != 0;
        if bits & !known != 0 || homeless {
            None
        } else {
            Some(entry)
        }
    }

    /// The bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The cluster of leaf pages.
    pub const fn cluster(self) -> Pcn {
        Pcn::new((self.0 & Self::PCN_BITS) as u32)
    }

    /// Which of its 16 pages were written.
    pub const fn written(self) -> u16 {
        ((self.0 >> Self::WRITTEN_SHIFT) & 0xffff) as u16
    }

    /// Whether page `pair` (0 to 15) was written; false for any other number.
    pub const fn is_written(self, pair: u32) -> bool {
        pair < PAIRS_PER_CLUSTER && self.written() & (1 << pair) != 0
    }
}

/// A directory page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPage {
    /// The tree.
    pub tree: TreeKind,
    /// The owner's slot.
    pub slot: SlotIndex,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// Another one each time a volume's page is written; 0 for a sealed image's.
    pub seq: Seq,
    /// The directory page's number.
    pub index: u32,
    /// Entries `index * 504` and on.
    pub entries: [DirectoryEntry; ENTRIES],
}

impl Versioned for DirectoryPage {
    fn seq(&self) -> Seq {
        self.seq
    }
}

impl DirectoryPage {
    /// The page to write.
    pub fn encode(&self, stamp: &Stamp) -> Page {
        let header = PageHeader {
            kind: self.tree as u16,
            disk_uuid: stamp.disk_uuid,
            seq: self.seq,
            self_offset: stamp.self_offset,
            slot: self.slot,
            epoch: self.epoch,
            index: self.index,
        };
        let raw = RawDirectoryPage {
            header: header.raw(MAGIC),
            entries: self.entries.map(|entry| U64::new(entry.bits())),
        };
        let mut page: Page = transmute!(raw);
        header::seal(&mut page);
        page
    }

    /// Reads a directory page of `tree`.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn decode(page: &Page, expect: &Expect, tree: TreeKind) -> Result<Self, DecodeError> {
        let raw: &RawDirectoryPage = transmute_ref!(page);
        let header = header::admit(header::verify(page, IDENTITY, expect)?, IDENTITY, expect)?;
        if header.kind != tree as u16 {
            return Err(IDENTITY.illegal(expect, "kind", 10, "this tree's kind", header.kind));
        }
        let mut entries = [DirectoryEntry::EMPTY; ENTRIES];
        // Of a volume nearly all pages are empty, and every open reads them.
        let used = raw.entries.iter().rposition(|raw| *raw != U64::ZERO);
        let used = used.map_or(0, |last| last + 1);
        for (at, (entry, raw)) in entries.iter_mut().zip(&raw.entries[..used]).enumerate() {
            *entry = DirectoryEntry::try_from_bits(raw.get()).ok_or_else(|| {
                let expected = "a pcn, page bits if it is not 0, nothing else";
                IDENTITY.illegal(expect, "entries", 64 + at * 8, expected, raw.get())
            })?;
        }
        Ok(Self {
            tree,
            slot: header.slot,
            epoch: header.epoch,
            seq: header.seq,
            index: header.index,
            entries,
        })
    }
}
