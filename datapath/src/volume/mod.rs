//! Writable volumes in memory: the map that reactors change, the marks that tell the committer what changed, the space that they take.
//!
//! In the order of a write, see `docs/volumes.md`:
//!
//! ```text
//! write        a write request as a state machine: planned, its I/O told, published
//! locks        who may copy a block up, and who may not meanwhile
//! space        free clusters, shared by all who take some; dropped ones on their way back
//! transition   every change that a map entry may make, one compare-and-swap each
//! dirty        hints: which entries a commit must look at
//! word         the atomic word below both, a trait, so that loom can look at the very same code
//! ```
//!
//! Nothing here waits or does I/O.

pub mod dirty;
pub mod locks;
pub mod space;
pub mod transition;
pub mod word;
pub mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use uuid::Uuid;

use crate::live::SharedWords;
use crate::map::{LayerMap, MapEntry};
use crate::units::{BlockMask, CLUSTER_BYTES, Epoch, Lcn, Pcn, SlotIndex};
use dirty::DirtyBits;

pub use locks::ClusterLocks;
pub use space::{Quarantine, Space, Unavailable};

/// Clusters whose map entries lie in one cluster of map pages: 16 leaves of 504 entries.
pub const CLUSTERS_PER_LEAF_CLUSTER: u32 =
    crate::format::tree::PAIRS_PER_CLUSTER * crate::format::tree::ENTRIES_PER_PAGE;

/// What all volumes of a disk share.
#[derive(Clone, Debug)]
pub struct DiskShared {
    /// Its free clusters.
    pub space: Arc<Space>,
    /// Locks of clusters.
    pub locks: Arc<ClusterLocks>,
}

/// What a volume keeps when it grows: its next [`Volume`] shares it.
#[derive(Debug, Default)]
struct Counters {
    allocated: AtomicI64,
    /// How often a cluster was dropped.
    drops: AtomicU64,
    /// A write was acknowledged that no flush has covered.
    unflushed: AtomicBool,
}

/// A writable volume, as reactors and committer share it. When it grows, a new one takes its place over the same memory.
#[derive(Debug)]
pub struct Volume {
    uuid: Uuid,
    slot: SlotIndex,
    epoch: Epoch,
    size_bytes: u64,
    map: Arc<LayerMap>,
    dirty: DirtyBits,
    /// By group of [`CLUSTERS_PER_LEAF_CLUSTER`]: the cluster of its map pages, 0 for none yet.
    leaves: SharedWords,
    counters: Arc<Counters>,
    disk: DiskShared,
}

/// What a [`Volume`] is made of.
#[derive(Debug)]
pub struct VolumeParts {
    /// The volume.
    pub uuid: Uuid,
    /// Its slot in the object table.
    pub slot: SlotIndex,
    /// That slot's epoch.
    pub epoch: Epoch,
    /// Its length, a multiple of 512.
    pub size_bytes: u64,
    /// A word a cluster.
    pub entries: SharedWords,
    /// [`DirtyBits::words_of`] words.
    pub dirty: SharedWords,
    /// A word a group of clusters.
    pub leaves: SharedWords,
    /// Of its disk.
    pub disk: DiskShared,
}

/// Clusters of an object of `size_bytes`.
pub const fn clusters_of(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(CLUSTER_BYTES)
}

/// Groups of clusters whose map pages share a cluster, of an object of `size_bytes`.
pub const fn leaf_groups_of(size_bytes: u64) -> u64 {
    clusters_of(size_bytes).div_ceil(CLUSTERS_PER_LEAF_CLUSTER as u64)
}

impl Volume {
    /// A volume over these words. `allocated` clusters of its map are in use.
    pub fn new(parts: VolumeParts, allocated: u64) -> Self {
        let counters = Counters {
            allocated: AtomicI64::new(allocated.cast_signed()),
            ..Counters::default()
        };
        Self {
            uuid: parts.uuid,
            slot: parts.slot,
            epoch: parts.epoch,
            size_bytes: parts.size_bytes,
            map: Arc::new(LayerMap::of_words(parts.entries)),
            dirty: DirtyBits::new(parts.dirty),
            leaves: parts.leaves,
            counters: Arc::new(counters),
            disk: parts.disk,
        }
    }

    /// An empty volume over memory of this process, which is lost with it: for benches and tests. In slot 1, at its first epoch.
    pub fn in_memory(uuid: Uuid, size_bytes: u64, disk: DiskShared) -> Self {
        let clusters = clusters_of(size_bytes);
        let parts = VolumeParts {
            uuid,
            slot: SlotIndex::new(1),
            epoch: Epoch::new(1),
            size_bytes,
            entries: SharedWords::zeroed(clusters),
            dirty: SharedWords::zeroed(DirtyBits::words_of(clusters)),
            leaves: SharedWords::zeroed(leaf_groups_of(size_bytes)),
            disk,
        };
        Self::new(parts, 0)
    }

    /// The same volume, longer: over the same memory, of which `parts` maps more.
    #[must_use]
    pub fn grown(&self, parts: VolumeParts) -> Self {
        Self {
            uuid: self.uuid,
            slot: self.slot,
            epoch: self.epoch,
            size_bytes: parts.size_bytes,
            map: Arc::new(LayerMap::of_words(parts.entries)),
            dirty: self.dirty.grown(parts.dirty),
            leaves: parts.leaves,
            counters: Arc::clone(&self.counters),
            disk: self.disk.clone(),
        }
    }

    /// Its identity.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Its slot in the object table.
    pub fn slot(&self) -> SlotIndex {
        self.slot
    }

    /// That slot's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Its length.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Its own layer.
    pub fn map(&self) -> &Arc<LayerMap> {
        &self.map
    }

    /// Free clusters of its disk.
    pub fn space(&self) -> &Arc<Space> {
        &self.disk.space
    }

    /// Locks of its disk's clusters.
    pub fn locks(&self) -> &Arc<ClusterLocks> {
        &self.disk.locks
    }

    /// Marks of what changed.
    pub fn dirty(&self) -> &DirtyBits {
        &self.dirty
    }

    /// Clusters of map pages, by group.
    pub fn leaves(&self) -> &[AtomicU64] {
        &self.leaves
    }

    /// Whether a flush has no record to write: nothing changed since the last commit, and none is under way. Says nothing of a volume that was
    /// adopted and has not settled.
    pub fn is_clean(&self) -> bool {
        self.dirty.is_clean()
    }

    /// Notes that a write is about to be acknowledged, all of whose I/O has ended: until a flush that begins later, the disk may have it in its
    /// cache only. Also where the map does not change, since an overwrite leaves no record.
    #[inline]
    pub fn note_unflushed(&self) {
        // A flush that clears it meanwhile begins after that I/O ended, and covers it: see `begin_flush`.
        if !self.counters.unflushed.load(Ordering::SeqCst) {
            self.counters.unflushed.store(true, Ordering::SeqCst);
        }
    }

    /// A flush of the disk is about to be sent; whether it has anything to cover. One that fails is told by [`Self::note_unflushed`].
    ///
    /// Cleared before the flush is sent, and seen by all before that (a swap): who found the flag set had its data on the disk by then.
    pub fn begin_flush(&self) -> bool {
        // Most volumes of a disk have nothing: their cache lines stay where they are.
        self.counters.unflushed.load(Ordering::SeqCst)
            && self.counters.unflushed.swap(false, Ordering::SeqCst)
    }

    /// Whether a power loss of the disk could take a write that was acknowledged. To be asked when no write and no commit is under way.
    pub fn has_unflushed(&self) -> bool {
        self.counters.unflushed.load(Ordering::SeqCst)
    }

    /// Clusters of data that it has.
    pub fn allocated_clusters(&self) -> u64 {
        self.counters
            .allocated
            .load(Ordering::Relaxed)
            .max(0)
            .cast_unsigned()
    }

    /// Counts the clusters of its map, which was filled by other means than writes. Nothing is claimed meanwhile; drops may come.
    pub fn count_allocated(&self) {
        const TRIES: u32 = 8;
        for _ in 0..TRIES {
            let drops = self.counters.drops.load(Ordering::SeqCst);
            let count = self.map.iter().filter(|entry| !entry.pcn().is_none());
            let count = i64::try_from(count.count()).unwrap_or(i64::MAX);
            self.counters.allocated.store(count, Ordering::SeqCst);
            if self.counters.drops.load(Ordering::SeqCst) == drops {
                return;
            }
        }
    }

    /// The cluster that holds the map page of `lcn`, where there is one.
    pub fn leaf_cluster(&self, lcn: Lcn) -> Pcn {
        let group = lcn.get() / CLUSTERS_PER_LEAF_CLUSTER;
        self.leaves
            .get(group as usize)
            .and_then(|word| u32::try_from(word.load(Ordering::Acquire)).ok())
            .and_then(Pcn::try_new)
            .unwrap_or(Pcn::NONE)
    }

    /// Makes sure that the map page of `lcn` has a place, before its entry becomes dirty: a commit must never lack space.
    ///
    /// # Errors
    /// No space for it.
    pub fn ensure_leaf(&self, lcn: Lcn) -> Result<(), Unavailable> {
        let group = lcn.get() / CLUSTERS_PER_LEAF_CLUSTER;
        let Some(word) = self.leaves.get(group as usize) else {
            return Ok(());
        };
        if word.load(Ordering::Acquire) != 0 {
            return Ok(());
        }
        let taken = self.disk.space.take(1)?;
        let new = u64::from(taken.pcn.get());
        if word
            .compare_exchange(0, new, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            // Somebody was faster. Nobody has seen ours.
            self.disk.space.give(taken);
        }
        Ok(())
    }

    /// Changes the entry of `lcn` as `change` says, marking it for the committer. `None` from `change` leaves it as it is; so does an
    /// entry that is the same already. Answers with the entry before and whether it was changed.
    ///
    /// The caller made sure of its leaf.
    pub fn change(
        &self,
        lcn: Lcn,
        change: impl Fn(MapEntry) -> Option<MapEntry>,
    ) -> (MapEntry, bool) {
        let Some(word) = self.map.word(lcn) else {
            return (MapEntry::EMPTY, false);
        };
        // Before: should the process die between the change and the second mark, the group is looked at all the same.
        self.dirty.mark(lcn);
        let (before, changed) = transition::change(word, change);
        if changed || before.is_dirty() {
            // After: the committer may have cleared the first mark and passed the entry before it changed.
            self.dirty.mark(lcn);
        }
        (before, changed)
    }

    /// Notes that a request relies on the entry of `lcn`, which it found dirty: whoever changed it may not have marked it the second time.
    #[inline]
    pub fn relies_on(&self, lcn: Lcn, entry: MapEntry) {
        if entry.is_dirty() {
            self.dirty.mark(lcn);
        }
    }

    /// Drops a whole cluster: its blocks are zero from now on, whatever the layers below hold.
    pub fn drop_cluster(&self, lcn: Lcn) {
        let Some(word) = self.map.word(lcn) else {
            return;
        };
        let dropped = |_| Some(MapEntry::new(Pcn::NONE, BlockMask::ALL));
        self.dirty.mark(lcn);
        self.disk.space.dropping(|| {
            let (before, changed) = transition::change(word, dropped);
            // Before the cluster is on the list of dropped ones: who takes the list and then drains the marks is sure to capture this change.
            // The first mark alone may have been drained before the change.
            self.dirty.mark(lcn);
            let pcn = Some(before.pcn()).filter(|pcn| changed && !pcn.is_none())?;
            self.counters.allocated.fetch_sub(1, Ordering::SeqCst);
            self.counters.drops.fetch_add(1, Ordering::SeqCst);
            Some(pcn)
        });
    }

    /// Gives `lcn`, which has no cluster, the cluster `pcn`; whether it did. Of an entry with tombstones, those blocks are zero in `pcn`.
    pub fn claim(&self, lcn: Lcn, expected: MapEntry, pcn: Pcn) -> bool {
        let (_, claimed) = self.change(lcn, |entry| {
            (entry.pcn().is_none() && entry.mask() == expected.mask()).then(|| entry.with_pcn(pcn))
        });
        if claimed {
            self.counters.allocated.fetch_add(1, Ordering::Relaxed);
        }
        claimed
    }

    /// Publishes blocks that were written to `pcn`; false if the cluster is another one by now, and they must be written again.
    pub fn publish(&self, lcn: Lcn, pcn: Pcn, blocks: BlockMask) -> bool {
        let (before, changed) = self.change(lcn, |entry| transition::published(entry, pcn, blocks));
        changed || (before.pcn() == pcn && before.mask().get() & blocks.get() == blocks.get())
    }

    /// Makes blocks zero where there is no cluster; false if there is one.
    pub fn tombstone(&self, lcn: Lcn, blocks: BlockMask) -> bool {
        let (before, _) = self.change(lcn, |entry| transition::tombstoned(entry, blocks));
        before.pcn().is_none()
    }
}
