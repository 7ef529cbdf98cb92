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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cluster_is_the_first_entry_of_the_first_pages() {
        let (leaf, entry) = map_leaf_of(Lcn::new(0));
        assert_eq!((leaf.get(), entry), (0, 0));
        assert_eq!(
            (leaf.pair(), leaf.directory_entry(), leaf.entry_in_page()),
            (0, 0, 0)
        );
        assert_eq!(
            (leaf.directory_page().dir(), leaf.directory_page().pair()),
            (0, 0)
        );
    }

    #[test]
    fn each_level_turns_over_where_the_one_below_is_full() {
        let leaf_of = |lcn| map_leaf_of(Lcn::new(lcn));
        assert_eq!((leaf_of(503).0.get(), leaf_of(503).1), (0, 503));
        assert_eq!((leaf_of(504).0.get(), leaf_of(504).1), (1, 0));

        let leaf = |leaf| LeafIndex::new(leaf).unwrap();
        assert_eq!((leaf(15).directory_entry(), leaf(15).pair()), (0, 15));
        assert_eq!((leaf(16).directory_entry(), leaf(16).pair()), (1, 0));

        let last = 16 * 504 - 1;
        assert_eq!(
            (
                leaf(last).directory_page().get(),
                leaf(last).entry_in_page()
            ),
            (0, 503)
        );
        assert_eq!(
            (
                leaf(last + 1).directory_page().get(),
                leaf(last + 1).entry_in_page()
            ),
            (1, 0)
        );

        let page = |page| DirectoryIndex::new(page).unwrap();
        assert_eq!((page(15).dir(), page(15).pair()), (0, 15));
        assert_eq!((page(16).dir(), page(16).pair()), (1, 0));
    }

    #[test]
    fn checksum_pages_cover_31_clusters() {
        let leaf_of = |lcn| checksum_leaf_of(Lcn::new(lcn));
        assert_eq!((leaf_of(30).0.get(), leaf_of(30).1), (0, 960));
        assert_eq!((leaf_of(31).0.get(), leaf_of(31).1), (1, 0));
        assert_eq!((leaf_of(33).0.get(), leaf_of(33).1), (1, 64));
    }

    #[test]
    fn the_largest_objects_stay_within_reach() {
        let last = |bytes: u64| Lcn::new(u32::try_from(bytes / CLUSTER_BYTES - 1).unwrap());
        let (leaf, _) = map_leaf_of(last(super::super::object::OBJECT_BYTES_MAX));
        assert_eq!(LeafIndex::new(leaf.get()), Some(leaf));
        assert!(leaf.directory_page().dir() < TREE_DIRS);
        let (leaf, _) = checksum_leaf_of(last(super::super::object::IMAGE_BYTES_MAX));
        assert!(leaf.directory_page().dir() < TREE_DIRS);

        assert_eq!(LeafIndex::new(LEAVES_MAX), None);
        assert_eq!(DirectoryIndex::new(DIRECTORY_PAGES_MAX), None);
        let end = LeafIndex::new(LEAVES_MAX - 1).unwrap();
        assert_eq!(
            (end.directory_page().dir(), end.directory_page().pair()),
            (63, 15)
        );
    }

    #[test]
    fn a_directory_entry_leads_back_to_its_leaves() {
        for number in [0, 15, 16, 8063, 8064, 123_456, LEAVES_MAX - 1] {
            let leaf = LeafIndex::new(number).unwrap();
            let first = leaf
                .directory_page()
                .first_leaf(leaf.entry_in_page())
                .unwrap();
            assert_eq!(first.get() + leaf.pair(), number);
        }
        assert_eq!(DirectoryIndex::new(0).unwrap().first_leaf(504), None);
    }

    #[test]
    fn pairs_fill_their_cluster() {
        let cluster = Pcn::new(3);
        assert_eq!(page_offset(cluster, 0, PairCopy::A), cluster.offset());
        assert_eq!(
            page_offset(cluster, 2, PairCopy::B).get(),
            3 * 131_072 + 2 * 8192 + 4096
        );
        let end = page_offset(cluster, 15, PairCopy::B).plus(BLOCK_BYTES);
        assert_eq!(end, Pcn::new(4).offset());
    }
}
