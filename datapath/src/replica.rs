//! Several copies of one layer, on different disks: which of them answers.
//!
//! A layer reads its nearest replica. It reads another one while that one is avoided (it failed, or its disk is silent), where a block of
//! that one is damaged, or where a request has just had an error from it. What is avoided is still better than nothing; what is damaged,
//! or has failed this very request, never is.
//!
//! Read by reactors, for each request; written by them when something fails, and by the supervisor. No lock: in the steady state a reader
//! does one relaxed load. Who is told a moment late that a replica is avoided reads it once more, and gets its error.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::live::SharedWords;
use crate::map::{LayerMap, MapEntry};
use crate::plan::DiskIndex;
use crate::units::{BLOCKS_PER_CLUSTER, Lcn};

/// The most replicas of a layer.
pub const REPLICAS_MAX: usize = 16;

/// Bits of [`ReplicaSet::state`], by replica: to be avoided.
const AVOIDED: u32 = 1;
/// And: has damaged blocks.
const DAMAGED: u32 = 1 << REPLICAS_MAX;

/// One copy of what a layer holds.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Where its disk has what.
    pub map: Arc<LayerMap>,
    /// Its disk. No two replicas of a set are on one.
    pub disk: DiskIndex,
}

/// The copies of one layer, as all devices that read it share them. Which there are is fixed: when one comes or goes, the devices get
/// another set.
pub struct ReplicaSet {
    replicas: Box<[Place]>,
    /// [`AVOIDED`] and [`DAMAGED`] bits, `<<` the replica's number.
    state: AtomicU32,
}

struct Place {
    replica: Replica,
    /// A word a cluster, whose low 32 bits are its damaged blocks. Made with the first one; pages without any take no memory.
    damage: OnceLock<SharedWords>,
    failed: AtomicU64,
    late: AtomicU64,
}

/// Places that a request has had an error from, and does not read again. By blocks, not by disks: each of two disks may have a bad place, and
/// the other one's copy of it be good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excluded {
    places: [(DiskIndex, Range<u64>); EXCLUDED_MAX],
    len: u8,
}

/// Errors of one request, after which it ends with the next one.
const EXCLUDED_MAX: usize = 8;

impl Excluded {
    /// None.
    pub const NONE: Self = Self {
        places: [const { (DiskIndex::new(0), 0..0) }; EXCLUDED_MAX],
        len: 0,
    };

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds blocks (the object's own numbers) on one disk. False if all of them are there already, or there is no room: then the request ends.
    pub fn add(&mut self, disk: DiskIndex, blocks: Range<u64>) -> bool {
        let at = usize::from(self.len);
        let mut places = self.places[..at].iter();
        let is_known = places.any(|(known, there)| {
            *known == disk && there.start <= blocks.start && blocks.end <= there.end
        });
        if is_known || at == EXCLUDED_MAX {
            return false;
        }
        self.places[at] = (disk, blocks);
        self.len += 1;
        true
    }

    /// For how many blocks from `block` on a disk may be read, as far as a cluster goes; 0: it must not be asked for this one.
    fn free_blocks(&self, disk: DiskIndex, block: u64) -> u32 {
        let places = self.places[..usize::from(self.len)].iter();
        let on_disk = places.filter(|(known, _)| *known == disk);
        let free = on_disk.map(|(_, there)| match there.start.checked_sub(block) {
            Some(before) if before > 0 => u32::try_from(before).unwrap_or(u32::MAX),
            _ if there.end <= block => u32::MAX,
            _ => 0,
        });
        free.min().unwrap_or(u32::MAX)
    }
}

impl ReplicaSet {
    /// These replicas, none of them avoided, nothing of them damaged. `None` if there is none, or more than [`REPLICAS_MAX`].
    pub fn new(replicas: Vec<Replica>) -> Option<Arc<Self>> {
        if replicas.is_empty() || replicas.len() > REPLICAS_MAX {
            return None;
        }
        let place = |replica| Place {
            replica,
            damage: OnceLock::new(),
            failed: AtomicU64::new(0),
            late: AtomicU64::new(0),
        };
        Some(Arc::new(Self {
            replicas: replicas.into_iter().map(place).collect(),
            state: AtomicU32::new(0),
        }))
    }

    /// The replicas, by number.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Replica> {
        self.replicas.iter().map(|place| &place.replica)
    }

    /// How many there are; at least one.
    pub fn len(&self) -> usize {
        self.replicas.len()
    }

    /// Never: a layer has a replica.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The number of the replica on a disk.
    pub fn on_disk(&self, disk: DiskIndex) -> Option<usize> {
        self.iter().position(|replica| replica.disk == disk)
    }

    /// Reads go to other replicas from now on, as long as there are any. False if they did already.
    pub fn avoid(&self, number: usize) -> bool {
        // Relaxed: it orders nothing. Who misses it reads this replica once more.
        let bit = self.bit(number, AVOIDED);
        bit != 0 && self.state.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Takes a replica back that was avoided. False if it was not.
    pub fn readmit(&self, number: usize) -> bool {
        let bit = self.bit(number, AVOIDED);
        self.state.fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }

    /// Whether a replica is avoided.
    pub fn is_avoided(&self, number: usize) -> bool {
        self.state.load(Ordering::Relaxed) & self.bit(number, AVOIDED) != 0
    }

    /// These blocks of a replica (by the object's own block numbers: byte / 4096) are never read from it any more.
    pub fn mark_damaged(&self, number: usize, blocks: Range<u64>) {
        let Some(place) = self.replicas.get(number) else {
            return;
        };
        let words = place
            .damage
            .get_or_init(|| SharedWords::zeroed(place.replica.map.len() as u64));
        for_each_cluster(words, blocks, |word, mask| {
            word.fetch_or(mask, Ordering::Relaxed);
        });
        // Release, and acquire at the reader: who sees the bit sees the words. Without it a reader could find the bit, and no damage.
        self.state
            .fetch_or(self.bit(number, DAMAGED), Ordering::Release);
    }

    /// These blocks of a replica were written anew and have been read back. The set goes on looking at its words: that costs a load a
    /// request, and a race with [`ReplicaSet::mark_damaged`] could otherwise hide damage.
    pub fn mark_repaired(&self, number: usize, blocks: Range<u64>) {
        let words = self
            .replicas
            .get(number)
            .and_then(|place| place.damage.get());
        if let Some(words) = words {
            for_each_cluster(words, blocks, |word, mask| {
                word.fetch_and(!mask, Ordering::Relaxed);
            });
        }
    }

    /// Damaged blocks of a replica.
    pub fn damaged_blocks(&self, number: usize) -> u64 {
        let words = self
            .replicas
            .get(number)
            .and_then(|place| place.damage.get());
        words.map_or(0, |words| {
            words
                .iter()
                .map(|word| u64::from(word.load(Ordering::Relaxed).count_ones()))
                .sum()
        })
    }

    /// Reads of a replica that failed, and that were late, since the set was made.
    pub fn troubles(&self, number: usize) -> (u64, u64) {
        self.replicas.get(number).map_or((0, 0), |place| {
            (
                place.failed.load(Ordering::Relaxed),
                place.late.load(Ordering::Relaxed),
            )
        })
    }

    /// Counts a read that failed, and avoids the replica. True for the first of a row.
    pub fn read_failed(&self, number: usize) -> bool {
        if let Some(place) = self.replicas.get(number) {
            place.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.avoid(number)
    }

    /// Counts a read that is late, and avoids the replica. True for the first of a row.
    pub fn read_late(&self, number: usize) -> bool {
        if let Some(place) = self.replicas.get(number) {
            place.late.fetch_add(1, Ordering::Relaxed);
        }
        self.avoid(number)
    }

    fn bit(&self, number: usize, of: u32) -> u32 {
        if number < self.replicas.len() {
            of << number
        } else {
            0
        }
    }

    /// Damaged blocks of a cluster of a replica.
    fn damage_of(&self, number: usize, lcn: Lcn) -> u32 {
        let words = self.replicas[number].damage.get();
        words
            .and_then(|words| words.get(lcn.get() as usize))
            .map_or(0, |word| {
                (word.load(Ordering::Relaxed) & 0xffff_ffff) as u32
            })
    }
}

impl fmt::Debug for ReplicaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaSet")
            .field("disks", &self.iter().map(|r| r.disk).collect::<Vec<_>>())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// A layer's view of its set: which replica it reads first.
#[derive(Clone, Debug)]
pub struct Replicas {
    set: Arc<ReplicaSet>,
    nearest: usize,
}

/// What a layer says of a block, and for how many from it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) entry: MapEntry,
    pub(crate) disk: DiskIndex,
    /// The same replica answers so many blocks: it has no damage in them. 0: the block is held, and no replica can be read.
    pub(crate) blocks: u32,
}

impl Replicas {
    /// `None` if the set has no replica of this number.
    pub(crate) fn new(set: Arc<ReplicaSet>, nearest: usize) -> Option<Self> {
        (nearest < set.len()).then_some(Self { set, nearest })
    }

    /// The set.
    pub fn set(&self) -> &Arc<ReplicaSet> {
        &self.set
    }

    /// The number of the replica that is read first.
    pub fn nearest(&self) -> usize {
        self.nearest
    }

    /// Whether the nearest replica answers everything: the steady state.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        // Acquire costs nothing on the machines that this runs on, and pairs with `mark_damaged`.
        let state = self.set.state.load(Ordering::Acquire);
        state & (AVOIDED | DAMAGED) << self.nearest == 0
    }

    /// Who answers `block` of `lcn`, when it may not be the nearest one.
    #[cold]
    pub(crate) fn answer(&self, lcn: Lcn, block: u32, excluded: &Excluded) -> Answer {
        let count = self.set.len();
        let from_nearest = (0..count).map(|nth| (self.nearest + nth) % count);
        let state = self.set.state.load(Ordering::Acquire);
        let is_avoided = |number: &usize| state & AVOIDED << number != 0;
        let good = from_nearest.clone().filter(|number| !is_avoided(number));
        let sick = from_nearest.filter(is_avoided);
        let mut first = None;
        for number in good.chain(sick) {
            let replica = &self.set.replicas[number].replica;
            let entry = replica.map.get(lcn);
            let disk = replica.disk;
            if !entry.mask().contains(block) || entry.pcn().is_none() {
                // Nothing of it is read: neither damage nor errors count.
                return Answer {
                    entry,
                    disk,
                    blocks: BLOCKS_PER_CLUSTER,
                };
            }
            let damage = if state & DAMAGED << number == 0 {
                0
            } else {
                self.set.damage_of(number, lcn) >> block
            };
            first.get_or_insert(Answer {
                entry,
                disk,
                blocks: 0,
            });
            let position = u64::from(lcn.get()) * u64::from(BLOCKS_PER_CLUSTER) + u64::from(block);
            let blocks = damage
                .trailing_zeros()
                .min(excluded.free_blocks(disk, position));
            if blocks > 0 {
                return Answer {
                    entry,
                    disk,
                    blocks,
                };
            }
        }
        first.unwrap_or(Answer {
            entry: MapEntry::EMPTY,
            disk: DiskIndex::new(0),
            blocks: BLOCKS_PER_CLUSTER,
        })
    }
}

/// Calls `change` for each cluster of `blocks` with the bits of those that lie in it.
fn for_each_cluster(words: &SharedWords, blocks: Range<u64>, change: impl Fn(&AtomicU64, u64)) {
    let per_cluster = u64::from(BLOCKS_PER_CLUSTER);
    let end = blocks.end.min(words.len() as u64 * per_cluster);
    let mut block = blocks.start;
    while block < end {
        let cluster = block / per_cluster;
        let first = block % per_cluster;
        let count = (per_cluster - first).min(end - block);
        let mask = ((1_u64 << count) - 1) << first;
        if let Some(word) = usize::try_from(cluster).ok().and_then(|at| words.get(at)) {
            change(word, mask);
        }
        block += count;
    }
}
