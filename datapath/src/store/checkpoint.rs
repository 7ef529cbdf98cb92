//! A checkpoint: map pages take over what the journal says, and its tail moves.
//!
//! It needs no room in the journal and allocates nothing: pages have their places since the first entry in their range was claimed.

use std::sync::atomic::Ordering;

use super::error::StoreError;
use super::{Entry, Store};
use crate::format::directory::{DirectoryEntry, DirectoryPage, ENTRIES, TreeKind};
use crate::format::map_page::{ENTRIES as LEAF_ENTRIES, MapPage};
use crate::format::tree::{DirectoryIndex, LeafIndex, PAIRS_PER_CLUSTER, page_offset};
use crate::format::{PairCopy, Stamp};
use crate::map::MapEntry;
use crate::medium::{IoFault, Medium};
use crate::units::{Lcn, Page, Pcn, Seq, SlotIndex};

/// A page that is to be written, without the stamp of its copy.
struct PendingPage<T> {
    cluster: Pcn,
    pair: u32,
    page: T,
}

impl<M: Medium> Store<M> {
    /// Brings the map pages up to date, so that the next open has nothing to replay.
    ///
    /// # Errors
    /// `Io`, and the disk takes no more changes.
    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.check_writable()?;
        // With an object that could not be read, replay may be what its next open needs.
        if self.journal.is_empty() || self.is_allocation_refused() {
            return Ok(());
        }
        self.write_checkpoint()
            .map_err(|fault| StoreError::io("writing a checkpoint", fault))
    }

    /// A sequence that no page of a volume was written with before: two contents with one sequence are corruption. The journal's would not do,
    /// since it does not move between two checkpoints that a full ring asks for. A disk has fewer than 2^32 sessions.
    pub(super) fn next_page_seq(&mut self) -> Seq {
        self.page_stamps += 1;
        Seq::new(self.superblock.session << 32 | u64::from(self.page_stamps))
    }

    pub(super) fn write_checkpoint(&mut self) -> Result<(), IoFault> {
        let seq = self.next_page_seq();
        let slots: Vec<SlotIndex> = self
            .entries
            .iter()
            // A page of one that is held may lie in a cluster that is another object's.
            .filter(|(_, entry)| entry.object.state.is_ready())
            .filter(|(_, entry)| {
                entry.volume.as_ref().is_some_and(|volume| {
                    volume.changed_directories || !volume.changed_leaves.is_empty()
                })
            })
            .map(|(slot, _)| *slot)
            .collect();

        // 1. Leaves, as the map is now: entries that are not committed yet may be among them.
        let mut leaves = Vec::new();
        for slot in &slots {
            if let Some(entry) = self.entries.get(slot) {
                leaves.extend(leaf_pages(entry, seq));
            }
        }
        //    So their data is made durable before a page names it.
        self.disk.flush()?;
        self.write_pairs(&leaves, MapPage::encode)?;

        // 2. Directories, once what they say was written is there.
        let mut directories = Vec::new();
        for slot in &slots {
            if let Some(entry) = self.entries.get_mut(slot) {
                directories.extend(directory_pages(entry, seq));
            }
        }
        self.write_pairs(&directories, DirectoryPage::encode)?;

        // 3. The root, when all that it leaves behind is durable: replay from the new tail finds the rest in the pages.
        let root = self.journal.next_root(self.superblock.session);
        let copy = self.root_copy.other();
        let page = root.encode(self.superblock.disk_uuid, copy);
        let at = self.superblock.geometry.root_offset(copy);
        self.disk.write_durable(at, &page)?;

        // 4. Only now batches may go where the old tail was.
        self.root_copy = copy;
        self.journal.checkpointed(root);
        self.journaled.clear();
        for slot in &slots {
            if let Some(volume) = self
                .entries
                .get_mut(slot)
                .and_then(|entry| entry.volume.as_mut())
            {
                volume.changed_leaves.clear();
                volume.changed_directories = false;
            }
        }
        Ok(())
    }

    /// Writes both copies of pages: all first copies, a flush, all second ones, a flush. At each instant one of the two is whole, and the
    /// older of them is as of the last checkpoint, from where the journal still reaches.
    fn write_pairs<T>(
        &mut self,
        pages: &[PendingPage<T>],
        encode: impl Fn(&T, &Stamp) -> Page,
    ) -> Result<(), IoFault> {
        if pages.is_empty() {
            return Ok(());
        }
        for copy in PairCopy::BOTH {
            for pending in pages {
                let at = page_offset(pending.cluster, pending.pair, copy);
                let stamp = Stamp {
                    disk_uuid: self.superblock.disk_uuid,
                    self_offset: at,
                };
                self.disk.write(at, &encode(&pending.page, &stamp))?;
            }
            self.disk.flush()?;
        }
        Ok(())
    }
}

fn leaf_pages(entry: &Entry, seq: Seq) -> Vec<PendingPage<MapPage>> {
    let Some(volume) = &entry.volume else {
        return Vec::new();
    };
    let page = |leaf: u32| {
        let index = LeafIndex::new(leaf)?;
        let first = leaf * u32::try_from(LEAF_ENTRIES).ok()?;
        let mut entries = [MapEntry::EMPTY; LEAF_ENTRIES];
        for (entry, lcn) in entries.iter_mut().zip(first..) {
            *entry = volume.volume.map().get(Lcn::new(lcn));
        }
        let cluster = volume.volume.leaf_cluster(Lcn::new(first));
        Some(PendingPage {
            cluster: Some(cluster).filter(|cluster| !cluster.is_none())?,
            pair: index.pair(),
            page: MapPage {
                slot: volume.volume.slot(),
                epoch: volume.volume.epoch(),
                seq,
                index: leaf,
                entries,
            },
        })
    };
    volume.changed_leaves.iter().filter_map(page).collect()
}

/// The directory pages of the leaves that were just written; their entries say so from now on.
fn directory_pages(entry: &mut Entry, seq: Seq) -> Vec<PendingPage<DirectoryPage>> {
    let Some(volume) = &mut entry.volume else {
        return Vec::new();
    };
    let tree = &mut entry.map_tree;
    let mut pages = std::collections::BTreeSet::new();
    for leaf in volume.changed_leaves.iter() {
        let Some(index) = LeafIndex::new(leaf) else {
            continue;
        };
        let group = index.directory_entry();
        let cluster = volume
            .volume
            .leaves()
            .get(group as usize)
            .and_then(|word| u32::try_from(word.load(Ordering::Acquire)).ok())
            .and_then(Pcn::try_new)
            .unwrap_or(Pcn::NONE);
        if let Some(place) = tree.entries.get_mut(group as usize) {
            let written = place.written() | 1 << index.pair();
            let now = DirectoryEntry::new(cluster, written);
            if *place != now {
                *place = now;
                pages.insert(group / u32::try_from(ENTRIES).unwrap_or(u32::MAX));
            }
        }
        volume.journaled_leaves.insert(group);
    }
    if volume.changed_directories {
        // Some of their entries are in the journal only, which is about to forget them.
        let used = (0u32..)
            .zip(tree.entries.chunks(ENTRIES))
            .filter(|(_, entries)| entries.iter().any(|entry| *entry != DirectoryEntry::EMPTY));
        pages.extend(used.map(|(page, _)| page));
    }
    let page = |number: u32| {
        let index = DirectoryIndex::new(number)?;
        let mut entries = [DirectoryEntry::EMPTY; ENTRIES];
        let known = tree.entries.iter().skip(number as usize * ENTRIES);
        for (entry, known) in entries.iter_mut().zip(known) {
            *entry = *known;
        }
        Some(PendingPage {
            cluster: *tree.dirs.get((number / PAIRS_PER_CLUSTER) as usize)?,
            pair: index.pair(),
            page: DirectoryPage {
                tree: TreeKind::Map,
                slot: volume.volume.slot(),
                epoch: volume.volume.epoch(),
                seq,
                index: number,
                entries,
            },
        })
    };
    pages.into_iter().filter_map(page).collect()
}
