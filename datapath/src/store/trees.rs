//! The trees of an object: which clusters hold its directory and leaf pages, and reading them when a disk is opened.
//!
//! Reads go out in pieces of up to 1 MiB: neighbouring clusters of a tree are read together, so that the map of 1 TiB (130 MiB of
//! pages, both copies) takes some hundred reads and not thirty thousand.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::latch::LatchedDisk;
use super::object::{Damage, TreePage};
use super::report::{Repair, Repaired};
use super::ticket::PageOwner;
use crate::format::checksum_page::ChecksumPage;
use crate::format::directory::{DirectoryEntry, DirectoryPage, TreeKind};
use crate::format::geometry::Geometry;
use crate::format::map_page::MapPage;
use crate::format::pair::{self, PairChoice, PairCopy, Versioned};
use crate::format::tree::{
    CLUSTERS_PER_CHECKSUM_PAGE, DirectoryIndex, ENTRIES_PER_PAGE, LeafIndex, PAIRS_PER_CLUSTER,
    TREE_DIRS, page_offset,
};
use crate::format::{DecodeError, Expect, Stamp};
use crate::live::SharedWords;
use crate::map::MapEntry;
use crate::medium::{IoFault, Medium};
use crate::units::{ByteOffset, CLUSTER_BYTES, PAGE_BYTES, Page, Pcn};

/// Clusters that one read fetches.
const CLUSTERS_PER_READ: usize = 8;
const CLUSTER: usize = PAGE_BYTES * 2 * PAIRS_PER_CLUSTER as usize;
const _: () = assert!(CLUSTER as u64 == CLUSTER_BYTES);

/// One of an object's two trees: its clusters, without the content of its leaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    /// Clusters of directory pages, without the empty places.
    pub dirs: Vec<Pcn>,
    /// Entry `e` speaks of the leaves `16 * e` and on.
    pub entries: Vec<DirectoryEntry>,
}

impl Tree {
    /// Every cluster that the tree takes.
    pub fn clusters(&self) -> impl Iterator<Item = Pcn> + '_ {
        let leaves = self
            .entries
            .iter()
            .map(|entry| entry.cluster())
            .filter(|pcn| !pcn.is_none());
        self.dirs.iter().copied().chain(leaves)
    }

    /// The cluster of a leaf that was written.
    pub fn leaf_cluster(&self, leaf: LeafIndex) -> Option<Pcn> {
        let entry = self.entries.get(leaf.directory_entry() as usize)?;
        entry.is_written(leaf.pair()).then(|| entry.cluster())
    }
}

/// Leaves of a map of `clusters` clusters.
pub(super) fn map_leaves(clusters: u64) -> u64 {
    clusters.div_ceil(u64::from(ENTRIES_PER_PAGE))
}

/// Leaves of the checksums of `clusters` clusters.
pub(super) fn checksum_leaves(clusters: u64) -> u64 {
    clusters.div_ceil(u64::from(CLUSTERS_PER_CHECKSUM_PAGE))
}

/// A copy to be written again, and how the report tells of it.
pub(super) struct PendingRepair {
    pub repair: Repair,
    pub page: Page,
}

/// Why a tree could not be read: the object is damaged, or the disk failed.
pub(super) enum TreeError {
    Damage(Box<Damage>),
    Io(IoFault),
}

impl From<Damage> for TreeError {
    fn from(damage: Damage) -> Self {
        Self::Damage(Box::new(damage))
    }
}

impl From<IoFault> for TreeError {
    fn from(fault: IoFault) -> Self {
        Self::Io(fault)
    }
}

/// Reads the trees of one object.
pub(super) struct TreeReader<'a, M> {
    pub disk: &'a mut LatchedDisk<M>,
    pub geometry: Geometry,
    pub owner: PageOwner,
    /// Where the object's slot lies, for messages.
    pub slot_at: ByteOffset,
    /// Copies found bad or outdated on the way.
    pub repairs: &'a mut Vec<PendingRepair>,
    /// Kept from object to object.
    pub buffer: &'a mut Vec<u8>,
}

impl<M: Medium> TreeReader<'_, M> {
    /// Reads the directory of a tree that has `leaves` leaves at most.
    pub fn directory(
        &mut self,
        kind: TreeKind,
        dirs: &[Pcn; TREE_DIRS],
        leaves: u64,
    ) -> Result<Tree, TreeError> {
        let mut tree = Tree::default();
        let entries = leaves.div_ceil(u64::from(PAIRS_PER_CLUSTER));
        for (dir, &cluster) in dirs
            .iter()
            .enumerate()
            .filter(|(_, cluster)| !cluster.is_none())
        {
            self.check_zone(cluster)?;
            tree.dirs.push(cluster);
            let mut bytes = std::mem::take(self.buffer);
            bytes.resize(CLUSTER, 0);
            let pages = self.directory_cluster(kind, dir, cluster, &mut bytes, &mut tree);
            *self.buffer = bytes;
            pages?;
        }
        if let Some(beyond) = tree
            .entries
            .iter()
            .skip(usize_of(entries))
            .position(|entry| *entry != DirectoryEntry::EMPTY)
        {
            return Err(self.inconsistent(
                "entries of a tree's directory",
                entries,
                entries + beyond as u64 + 1,
            ));
        }
        tree.entries.truncate(usize_of(entries));
        for cluster in tree
            .entries
            .iter()
            .map(|entry| entry.cluster())
            .filter(|cluster| !cluster.is_none())
        {
            self.check_zone(cluster)?;
        }
        Ok(tree)
    }

    fn directory_cluster(
        &mut self,
        kind: TreeKind,
        dir: usize,
        cluster: Pcn,
        bytes: &mut [u8],
        tree: &mut Tree,
    ) -> Result<(), TreeError> {
        self.disk.read(cluster.offset(), bytes)?;
        for pair in 0..PAIRS_PER_CLUSTER {
            let number = u32::try_from(dir)
                .unwrap_or(u32::MAX)
                .saturating_mul(PAIRS_PER_CLUSTER)
                + pair;
            let Some(index) = DirectoryIndex::new(number) else {
                continue;
            };
            let name = match kind {
                TreeKind::Map => TreePage::MapDirectory(number),
                TreeKind::Checksums => TreePage::ChecksumDirectory(number),
            };
            let page = self.pair(
                (cluster, pair),
                bytes,
                name,
                |page, expect| {
                    DirectoryPage::decode(page, &expect.with_index(number), kind).map(Box::new)
                },
                |page, stamp| page.encode(stamp),
            )?;
            let first = index.first_leaf(0).map_or(0, LeafIndex::directory_entry) as usize;
            if let Some(last) = page
                .entries
                .iter()
                .rposition(|entry| *entry != DirectoryEntry::EMPTY)
            {
                tree.entries.resize(
                    tree.entries.len().max(first + last + 1),
                    DirectoryEntry::EMPTY,
                );
                tree.entries[first..=first + last].copy_from_slice(&page.entries[..=last]);
            }
        }
        Ok(())
    }

    /// Reads the leaves of a map: the entries of its `clusters` clusters.
    pub fn map(&mut self, tree: &Tree, clusters: u64) -> Result<SharedWords, TreeError> {
        let slot_at = self.slot_at;
        let map = SharedWords::try_zeroed(clusters).map_err(|_| no_memory(slot_at, clusters))?;
        self.leaves(tree, 0..tree.entries.len(), &mut |lcn, entry| {
            if let Some(word) = map.get(lcn) {
                // Nobody else has it yet.
                word.store(entry.bits(), Ordering::Relaxed);
                return Ok(());
            }
            let (what, found) = ("clusters of the map", lcn as u64 + 1);
            Err(Damage::Inconsistent {
                at: slot_at,
                what,
                expected: clusters,
                found,
            }
            .into())
        })?;
        Ok(map)
    }

    /// Reads the leaves that the directory entries `range` name, and hands out every map entry that is not empty.
    pub fn leaves(
        &mut self,
        tree: &Tree,
        range: Range<usize>,
        take: &mut impl FnMut(usize, MapEntry) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let mut bytes = std::mem::take(self.buffer);
        let result = self.leaves_through(&mut bytes, tree, range, take);
        *self.buffer = bytes;
        result
    }

    fn leaves_through(
        &mut self,
        bytes: &mut Vec<u8>,
        tree: &Tree,
        range: Range<usize>,
        take: &mut impl FnMut(usize, MapEntry) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let written: Vec<(usize, DirectoryEntry)> = tree
            .entries
            .iter()
            .copied()
            .enumerate()
            .skip(range.start)
            .take(range.len())
            .filter(|(_, entry)| entry.written() != 0)
            .collect();
        let mut rest = written.as_slice();
        while let [(_, first), ..] = rest {
            let neighbours = rest
                .iter()
                .zip(first.cluster().get()..)
                .take(CLUSTERS_PER_READ)
                .take_while(|((_, entry), pcn)| entry.cluster().get() == *pcn)
                .count();
            let (now, later) = rest.split_at(neighbours);
            rest = later;
            bytes.resize(neighbours * CLUSTER, 0);
            self.disk.read(first.cluster().offset(), bytes)?;
            for ((number, entry), bytes) in now.iter().zip(bytes.chunks_exact(CLUSTER)) {
                self.leaf_cluster(*number, *entry, bytes, take)?;
            }
        }
        Ok(())
    }

    fn leaf_cluster(
        &mut self,
        number: usize,
        entry: DirectoryEntry,
        bytes: &[u8],
        take: &mut impl FnMut(usize, MapEntry) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        for pair in (0..PAIRS_PER_CLUSTER).filter(|&pair| entry.is_written(pair)) {
            let leaf = u32::try_from(number)
                .unwrap_or(u32::MAX)
                .saturating_mul(PAIRS_PER_CLUSTER)
                + pair;
            let page = self.pair(
                (entry.cluster(), pair),
                bytes,
                TreePage::MapLeaf(leaf),
                |page, expect| MapPage::decode(page, &expect.with_index(leaf)).map(Box::new),
                |page, stamp| page.encode(stamp),
            )?;
            let first = leaf as usize * ENTRIES_PER_PAGE as usize;
            for (lcn, entry) in (first..)
                .zip(&page.entries)
                .filter(|(_, entry)| entry.bits() != 0)
            {
                if !entry.pcn().is_none() {
                    self.check_zone(entry.pcn())?;
                }
                take(lcn, *entry)?;
            }
        }
        Ok(())
    }

    /// Reads one leaf of a checksum tree; `None` if it was never written.
    pub fn checksums(
        &mut self,
        tree: &Tree,
        leaf: LeafIndex,
    ) -> Result<Option<ChecksumPage>, TreeError> {
        let Some(cluster) = tree.leaf_cluster(leaf) else {
            return Ok(None);
        };
        let mut bytes = [0; 2 * PAGE_BYTES];
        let unreadable = self.both_copies((cluster, leaf.pair()), &mut bytes);
        self.pair_at(
            (cluster, leaf.pair()),
            (page_in(&bytes, 0), page_in(&bytes, PAGE_BYTES)),
            TreePage::ChecksumLeaf(leaf.get()),
            |page, expect| {
                let fault = unreadable.iter().flatten();
                if let Some(fault) = fault.clone().find(|fault| fault.at == expect.self_offset) {
                    return Err(ChecksumPage::unreadable(fault));
                }
                ChecksumPage::decode(page, &expect.with_index(leaf.get()))
            },
            ChecksumPage::encode,
        )
        .map(Some)
    }

    /// Reads a pair; where that fails, each copy on its own: one that cannot be read is as bad as a torn one, and has a twin. Answers with
    /// those that cannot.
    fn both_copies(
        &mut self,
        (cluster, pair): (Pcn, u32),
        bytes: &mut [u8; 2 * PAGE_BYTES],
    ) -> [Option<IoFault>; 2] {
        let at = page_offset(cluster, pair, PairCopy::A);
        if self.disk.read(at, bytes).is_ok() {
            return [None, None];
        }
        let (a, b) = bytes.split_at_mut(PAGE_BYTES);
        let twin_at = page_offset(cluster, pair, PairCopy::B);
        [
            self.disk.read(at, a).err(),
            self.disk.read(twin_at, b).err(),
        ]
    }

    /// The content of one pair of a cluster that was read.
    fn pair<T: Versioned>(
        &mut self,
        place: (Pcn, u32),
        bytes: &[u8],
        name: TreePage,
        decode: impl Fn(&Page, Expect) -> Result<T, DecodeError>,
        encode: impl Fn(&T, &Stamp) -> Page,
    ) -> Result<T, TreeError> {
        let page = |copy| {
            let at = page_offset(place.0, place.1, copy).get() - place.0.offset().get();
            page_in(bytes, usize_of(at))
        };
        self.pair_at(
            place,
            (page(PairCopy::A), page(PairCopy::B)),
            name,
            decode,
            encode,
        )
    }

    /// The content of one pair; a copy that does not hold it is noted for repair.
    fn pair_at<T: Versioned>(
        &mut self,
        (cluster, pair): (Pcn, u32),
        (a, b): (&Page, &Page),
        name: TreePage,
        decode: impl Fn(&Page, Expect) -> Result<T, DecodeError>,
        encode: impl Fn(&T, &Stamp) -> Page,
    ) -> Result<T, TreeError> {
        let PageOwner {
            disk_uuid,
            slot,
            epoch,
        } = self.owner;
        let place = |copy| page_offset(cluster, pair, copy);
        let read = |page, copy| {
            decode(
                page,
                Expect::at(place(copy))
                    .on_disk(disk_uuid)
                    .owned_by(slot, epoch),
            )
        };
        let at = place(PairCopy::A);
        match hold(read(a, PairCopy::A), read(b, PairCopy::B)) {
            Hold::Good(value) => Ok(value),
            Hold::Repair { value, bad, why } => {
                let what = Repaired::Page(slot, name, bad);
                let page = encode(
                    &value,
                    &Stamp {
                        disk_uuid,
                        self_offset: place(bad),
                    },
                );
                self.repairs.push(PendingRepair {
                    repair: Repair {
                        what,
                        at: place(bad),
                        why,
                    },
                    page,
                });
                Ok(value)
            }
            Hold::Conflict => Err(Damage::PageConflict { page: name, at }.into()),
            Hold::Lost { a, b } => Err(Damage::PageLost {
                page: name,
                at,
                a,
                b,
            }
            .into()),
        }
    }

    fn check_zone(&self, cluster: Pcn) -> Result<(), TreeError> {
        if cluster >= self.geometry.first_pcn() && cluster < self.geometry.end_pcn() {
            return Ok(());
        }
        Err(Damage::ClusterOutside { pcn: cluster }.into())
    }

    fn inconsistent(&self, what: &'static str, expected: u64, found: u64) -> TreeError {
        Damage::Inconsistent {
            at: self.slot_at,
            what,
            expected,
            found,
        }
        .into()
    }
}

/// What a pair that must have been written holds.
pub(super) enum Hold<T> {
    /// Both copies hold it.
    Good(T),
    /// One copy holds it, the other one is bad or older.
    Repair {
        value: T,
        bad: PairCopy,
        why: String,
    },
    /// Both are good and contradict each other.
    Conflict,
    /// Neither is good. A copy that was never written is as bad as a torn one: the directory says that it was.
    Lost { a: DecodeError, b: DecodeError },
}

/// Applies the rule of [`pair::choose`] to a pair that must have been written.
pub(super) fn hold<T: Versioned>(a: Result<T, DecodeError>, b: Result<T, DecodeError>) -> Hold<T> {
    let faults = (a.as_ref().err().cloned(), b.as_ref().err().cloned());
    match (pair::choose(a, b), faults) {
        (PairChoice::Both(value), _) => Hold::Good(value),
        (
            PairChoice::Only {
                holds,
                value,
                other,
            },
            _,
        ) => Hold::Repair {
            value,
            bad: holds.other(),
            why: other.fault.to_string(),
        },
        (PairChoice::Newer { holds, value, .. }, _) => Hold::Repair {
            value,
            bad: holds.other(),
            why: "older than its twin".to_owned(),
        },
        (_, (Some(a), Some(b))) => Hold::Lost { a, b },
        _ => Hold::Conflict,
    }
}

/// The page at byte `at` of `bytes`; a page of zeros if there is none.
pub(super) fn page_in(bytes: &[u8], at: usize) -> &Page {
    const BLANK: Page = [0; PAGE_BYTES];
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .unwrap_or(&BLANK)
}

pub(super) fn no_memory(slot_at: ByteOffset, clusters: u64) -> Damage {
    Damage::NoMemory {
        at: slot_at,
        map_bytes: clusters.saturating_mul(size_of::<u64>() as u64),
    }
}

/// Sizes of objects of this format fit in a `usize` of a 64-bit machine.
pub(super) fn usize_of(value: u64) -> usize {
    const _: () = assert!(usize::BITS == 64);
    usize::try_from(value).unwrap_or(usize::MAX)
}
