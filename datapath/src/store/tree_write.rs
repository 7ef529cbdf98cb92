//! Writing the trees of an image that is about to be sealed, whole clusters at a time.
//!
//! Pairs that are not needed are written as zeros, so that nothing of what a cluster held before stays in it.

use super::Store;
use super::error::{StoreError, StoreErrorKind};
use super::ticket::ImportTicket;
use super::trees::{Tree, usize_of};
use crate::format::directory::{DirectoryEntry, DirectoryPage, ENTRIES, TreeKind};
use crate::format::map_page::MapPage;
use crate::format::tree::{PAIRS_PER_CLUSTER, TREE_DIRS, page_offset};
use crate::format::{PairCopy, Stamp};
use crate::map::MapEntry;
use crate::medium::Medium;
use crate::units::{CLUSTER_BYTES, PAGE_BYTES, Page, Pcn, Seq};

const PAIRS: usize = PAIRS_PER_CLUSTER as usize;
/// Entries of a map that the leaves of one cluster hold.
pub(super) const MAP_GROUP: usize = ENTRIES * PAIRS;

impl<M: Medium> Store<M> {
    /// Writes the leaves of a map and returns the directory entries that name them. A leaf that maps nothing is not written.
    pub(super) fn write_map_leaves(
        &mut self,
        ticket: &mut ImportTicket,
        map: &[u64],
    ) -> Result<Vec<DirectoryEntry>, StoreError> {
        (0..)
            .zip(map.chunks(MAP_GROUP))
            .map(|(group, words)| self.write_map_group(ticket, group, words))
            .collect()
    }

    /// Writes the leaves of `group`, up to [`MAP_GROUP`] entries of the map, to one cluster.
    pub(super) fn write_map_group(
        &mut self,
        ticket: &mut ImportTicket,
        group: u32,
        words: &[u64],
    ) -> Result<DirectoryEntry, StoreError> {
        let owner = ticket.owner;
        let leaf = |(index, words): (u32, &[u64])| {
            let mut entries = [MapEntry::EMPTY; ENTRIES];
            for (entry, word) in entries.iter_mut().zip(words) {
                *entry = MapEntry::from_bits(*word);
            }
            let used = words.iter().any(|word| *word != 0);
            used.then_some(MapPage {
                slot: owner.slot,
                epoch: owner.epoch,
                seq: Seq::default(),
                index,
                entries,
            })
        };
        let first = group.saturating_mul(PAIRS_PER_CLUSTER);
        let leaves: Vec<Option<MapPage>> = (first..).zip(words.chunks(ENTRIES)).map(leaf).collect();
        self.write_cluster(ticket, &leaves, MapPage::encode)
    }

    /// Writes the directory of a tree, and returns where its clusters are.
    pub(super) fn write_directory(
        &mut self,
        ticket: &mut ImportTicket,
        kind: TreeKind,
        entries: Vec<DirectoryEntry>,
    ) -> Result<(Tree, [Pcn; TREE_DIRS]), StoreError> {
        let owner = ticket.owner;
        let mut places = [Pcn::NONE; TREE_DIRS];
        let per_cluster = ENTRIES * PAIRS;
        if entries.len() > TREE_DIRS * per_cluster {
            return Err(super::import::too_large(&ticket.image.name));
        }
        for (dir, (place, entries)) in places
            .iter_mut()
            .zip(entries.chunks(per_cluster))
            .enumerate()
        {
            if entries.iter().all(|entry| *entry == DirectoryEntry::EMPTY) {
                continue;
            }
            // Nothing says which pages of a directory cluster were written: all of them are, used or not.
            let first = u32::try_from(dir * PAIRS).unwrap_or(u32::MAX);
            let page = |(nth, index): (usize, u32)| {
                let mut page = [DirectoryEntry::EMPTY; ENTRIES];
                for (to, from) in page.iter_mut().zip(entries.iter().skip(nth * ENTRIES)) {
                    *to = *from;
                }
                let (slot, epoch) = (owner.slot, owner.epoch);
                Some(DirectoryPage {
                    tree: kind,
                    slot,
                    epoch,
                    seq: Seq::default(),
                    index,
                    entries: page,
                })
            };
            let pages: Vec<Option<DirectoryPage>> = (0..PAIRS).zip(first..).map(page).collect();
            *place = self
                .write_cluster(ticket, &pages, DirectoryPage::encode)?
                .cluster();
        }
        let dirs = places
            .iter()
            .copied()
            .filter(|pcn| !pcn.is_none())
            .collect();
        Ok((Tree { dirs, entries }, places))
    }

    /// Writes both copies of up to 16 pages to a new cluster; none of them, and there is no cluster.
    fn write_cluster<T>(
        &mut self,
        ticket: &mut ImportTicket,
        pages: &[Option<T>],
        encode: impl Fn(&T, &Stamp) -> Page,
    ) -> Result<DirectoryEntry, StoreError> {
        if pages.iter().all(Option::is_none) {
            return Ok(DirectoryEntry::EMPTY);
        }
        let cluster = self.allocate(ticket, 1)?.pcn;
        let mut bytes = vec![0; usize_of(CLUSTER_BYTES)];
        let mut written = 0;
        for (pair, page) in (0..PAIRS_PER_CLUSTER).zip(pages) {
            let Some(page) = page else { continue };
            written |= 1 << pair;
            for copy in PairCopy::BOTH {
                let at = page_offset(cluster, pair, copy);
                let within = usize_of(at.get() - cluster.offset().get());
                let page = encode(
                    page,
                    &Stamp {
                        disk_uuid: ticket.owner.disk_uuid,
                        self_offset: at,
                    },
                );
                bytes[within..within + PAGE_BYTES].copy_from_slice(&page);
            }
        }
        self.disk.write(cluster.offset(), &bytes).map_err(|fault| {
            StoreError::io(&format!("sealing image {}", ticket.image.name), fault)
        })?;
        Ok(DirectoryEntry::new(cluster, written))
    }
}

/// A seal that contradicts its own map.
pub(super) fn contradiction(name: &str, what: &str) -> StoreError {
    StoreError::new(
        StoreErrorKind::Corrupt,
        format!("seal of image {name}: {what}"),
        "report this: the import was planned wrongly; nothing was changed on the disk",
    )
}
