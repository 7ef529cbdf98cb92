//! Addressing in the map and checksum trees: from a cluster of an object to the page that speaks of it.

use super::pair::PairCopy;
use crate::units::{BLOCK_BYTES, BLOCKS_PER_CLUSTER, ByteOffset, CLUSTER_BYTES, Lcn, Pcn};

/// Directory clusters that a slot names, for each of its two trees.
pub const TREE_DIRS: usize = 64;
/// Directory pages that a tree has.
pub const DIRECTORY_PAGES_MAX: u32 = 64 * PAIRS_PER_CLUSTER;
/// Entries in a map page, and in a directory page.
pub const ENTRIES_PER_PAGE: u32 = 504;
/// Clusters that a checksum page covers.
pub const CLUSTERS_PER_CHECKSUM_PAGE: u32 = 31;
/// Page pairs in a cluster of a tree.
pub const PAIRS_PER_CLUSTER: u32 = 16;
/// Leaf pages that a tree reaches.
pub const LEAVES_MAX: u32 = DIRECTORY_PAGES_MAX * ENTRIES_PER_PAGE * PAIRS_PER_CLUSTER;

const _: () = assert!(DIRECTORY_PAGES_MAX as usize == TREE_DIRS * PAIRS_PER_CLUSTER as usize);
const PAIR_BYTES: u64 = 2 * BLOCK_BYTES;
const _: () = assert!(PAIRS_PER_CLUSTER as u64 * PAIR_BYTES == CLUSTER_BYTES);
const _: () = assert!(
    LEAVES_MAX as u64 * ENTRIES_PER_PAGE as u64 * CLUSTER_BYTES >= super::object::OBJECT_BYTES_MAX
);
const _: () = assert!(
    LEAVES_MAX as u64 * CLUSTERS_PER_CHECKSUM_PAGE as u64 * CLUSTER_BYTES
        >= super::object::IMAGE_BYTES_MAX
);

/// Where copy `copy` of pair `pair` (0 to 15) of a tree's cluster lies on the disk.
pub fn page_offset(cluster: Pcn, pair: u32, copy: PairCopy) -> ByteOffset {
    debug_assert!(pair < PAIRS_PER_CLUSTER);
    cluster
        .offset()
        .plus(u64::from(pair) * PAIR_BYTES + copy.offset_bytes())
}

/// The map leaf, and the entry in it, of a cluster.
pub fn map_leaf_of(lcn: Lcn) -> (LeafIndex, usize) {
    (
        LeafIndex(lcn.get() / ENTRIES_PER_PAGE),
        (lcn.get() % ENTRIES_PER_PAGE) as usize,
    )
}

/// The checksum leaf, and the entry of the first block in it, of a cluster.
pub fn checksum_leaf_of(lcn: Lcn) -> (LeafIndex, usize) {
    let first = lcn.get() % CLUSTERS_PER_CHECKSUM_PAGE * BLOCKS_PER_CLUSTER;
    (
        LeafIndex(lcn.get() / CLUSTERS_PER_CHECKSUM_PAGE),
        first as usize,
    )
}

/// Number of a leaf page in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafIndex(u32);

impl LeafIndex {
    /// A leaf, if a tree reaches it.
    pub const fn new(leaf: u32) -> Option<Self> {
        if leaf < LEAVES_MAX {
            Some(Self(leaf))
        } else {
            None
        }
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Its pair in the cluster that its directory entry names.
    pub const fn pair(self) -> u32 {
        self.0 % PAIRS_PER_CLUSTER
    }

    /// The directory entry that names its cluster, counted over all directory pages.
    pub const fn directory_entry(self) -> u32 {
        self.0 / PAIRS_PER_CLUSTER
    }

    /// The directory page with that entry.
    pub const fn directory_page(self) -> DirectoryIndex {
        DirectoryIndex(self.directory_entry() / ENTRIES_PER_PAGE)
    }

    /// That entry's place in its directory page.
    pub const fn entry_in_page(self) -> usize {
        (self.directory_entry() % ENTRIES_PER_PAGE) as usize
    }
}

/// Number of a directory page in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryIndex(u32);

impl DirectoryIndex {
    /// A directory page, if a tree has it.
    pub const fn new(page: u32) -> Option<Self> {
        if page < DIRECTORY_PAGES_MAX {
            Some(Self(page))
        } else {
            None
        }
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The slot's `map_dirs` or `checksum_dirs` entry that names its cluster.
    pub const fn dir(self) -> usize {
        (self.0 / PAIRS_PER_CLUSTER) as usize
    }

    /// Its pair in that cluster.
    pub const fn pair(self) -> u32 {
        self.0 % PAIRS_PER_CLUSTER
    }

    /// The first leaf that its entry `entry` speaks of.
    pub fn first_leaf(self, entry: usize) -> Option<LeafIndex> {
        let entry = u32::try_from(entry)
            .ok()
            .filter(|&entry| entry < ENTRIES_PER_PAGE)?;
        LeafIndex::new((self.0 * ENTRIES_PER_PAGE + entry) * PAIRS_PER_CLUSTER)
    }
}
