//! Which clusters of a disk are free. Never stored: rebuilt from the maps when a disk is opened.
//!
//! One bit a cluster, and above it one bit for each word that is full, so that used stretches are
//! skipped 4096 clusters at a time: 100 TiB take 100 MiB of RAM and, nearly full, some 50 us a search.

use crate::format::geometry::Geometry;
use crate::units::Pcn;

const WORD_BITS: usize = u64::BITS as usize;
const FULL: u64 = u64::MAX;

/// Free ranges looked at for one that is long enough, before the longest of them is taken.
const RANGES_EXAMINED_MAX: u32 = 64;

/// Clusters that are left behind the first one of a stream: 1 MiB.
const ROOM_FOR_A_STREAM: u32 = 8;

/// Clusters that follow each other on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The first.
    pub pcn: Pcn,
    /// How many.
    pub count: u32,
}

impl Extent {
    /// Every cluster of it.
    pub fn clusters(self) -> impl ExactSizeIterator<Item = Pcn> {
        (self.pcn.get()..self.pcn.get() + self.count).map(Pcn::new)
    }
}

/// A cluster that cannot be what somebody says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// Two owners refer to it.
    #[error("cluster {0} is referenced twice")]
    AlreadyReferenced(Pcn),
    /// Not in the cluster zone of this disk.
    #[error("cluster {0} is outside the disk's cluster zone")]
    OutsideZone(Pcn),
    /// Released, but free already.
    #[error("cluster {0} is released but was not allocated")]
    NotAllocated(Pcn),
}

/// The allocator of one disk.
#[derive(Debug)]
pub struct Allocator {
    first_pcn: u32,
    total: u32,
    free: u32,
    /// Where the last allocation ended: the next one looks from here on.
    cursor: usize,
    /// Bit set: used, or beyond the zone's end.
    used: Vec<u64>,
    /// Bit set: that word of `used` is full, or does not exist.
    full: Vec<u64>,
}

impl Allocator {
    /// Every cluster of the disk free.
    pub fn new(geometry: &Geometry) -> Self {
        Self::of_zone(geometry.first_pcn(), geometry.clusters())
    }

    fn of_zone(first_pcn: Pcn, total: u32) -> Self {
        let words = (total as usize).div_ceil(WORD_BITS);
        let mut used = vec![0; words];
        let mut full = vec![0; words.div_ceil(WORD_BITS)];
        mark_beyond(&mut used, total as usize);
        mark_beyond(&mut full, words);
        Self {
            first_pcn: first_pcn.get(),
            total,
            free: total,
            cursor: 0,
            used,
            full,
        }
    }

    /// Clusters in the zone.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Clusters that are free.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Whether a cluster is free; false outside the zone.
    pub fn is_free(&self, pcn: Pcn) -> bool {
        self.index_of(pcn).is_ok_and(|at| !self.is_used(at))
    }

    /// Takes a cluster that a map refers to.
    ///
    /// # Errors
    /// If it is taken already, or outside the zone; nothing changes then.
    pub fn mark(&mut self, pcn: Pcn) -> Result<(), ClusterError> {
        let at = self.index_of(pcn)?;
        if self.is_used(at) {
            return Err(ClusterError::AlreadyReferenced(pcn));
        }
        self.set_used(at, 1);
        Ok(())
    }

    /// Takes up to `max` clusters that follow each other. Continues where the last call ended, and
    /// passes over ranges that are too short as long as a longer one is near. `None` if nothing is
    /// free, or `max` is 0.
    pub fn allocate(&mut self, max: u32) -> Option<Extent> {
        if max == 0 || self.free == 0 {
            return None;
        }
        let (start, count) = self.best_range(max)?;
        self.set_used(start, count);
        self.cursor = start + count as usize;
        Some(Extent {
            pcn: self.pcn_of(start)?,
            count,
        })
    }

    /// Takes up to `max` clusters that follow each other, from `wanted` on if that is free: so a stream of writes that goes on, goes on
    /// on the disk. If it is taken, another stream is in the way: this one begins anew where there is room for more than it needs now, and
    /// the next one who has no wish begins behind that room.
    pub fn allocate_at(&mut self, wanted: Pcn, max: u32) -> Option<Extent> {
        if max == 0 || self.free == 0 {
            return None;
        }
        let (start, count) = match self.index_of(wanted) {
            Ok(at) if !self.is_used(at) => {
                let count = self.free_from(at, max);
                let end = at + count as usize;
                if (at..end).contains(&self.cursor) {
                    self.cursor = end;
                }
                (at, count)
            }
            _ => {
                let (start, room) = self.best_range(max.max(ROOM_FOR_A_STREAM))?;
                self.cursor = start + room as usize;
                (start, room.min(max))
            }
        };
        self.set_used(start, count);
        Some(Extent {
            pcn: self.pcn_of(start)?,
            count,
        })
    }

    /// Gives clusters back.
    ///
    /// # Errors
    /// If one of them is free already, or outside the zone; nothing changes then.
    pub fn release(&mut self, extent: Extent) -> Result<(), ClusterError> {
        for pcn in extent.clusters() {
            if !self.is_used(self.index_of(pcn)?) {
                return Err(ClusterError::NotAllocated(pcn));
            }
        }
        for pcn in extent.clusters() {
            let at = self.index_of(pcn)?;
            let word = at / WORD_BITS;
            self.used[word] &= !(1 << (at % WORD_BITS));
            self.full[word / WORD_BITS] &= !(1 << (word % WORD_BITS));
        }
        self.free += extent.count;
        Ok(())
    }

    /// The range to take: the first from the cursor on, over the end, that has `max` clusters; else the
    /// longest of those looked at.
    fn best_range(&self, max: u32) -> Option<(usize, u32)> {
        let mut best: Option<(usize, u32)> = None;
        let mut examined = 0;
        for (from, until) in [(self.cursor, self.total as usize), (0, self.cursor)] {
            let mut at = from;
            while let Some(start) = self.next_free(at).filter(|&start| start < until) {
                let count = self.free_from(start, max);
                if best.is_none_or(|(_, longest)| count > longest) {
                    best = Some((start, count));
                }
                examined += 1;
                if count == max || examined == RANGES_EXAMINED_MAX {
                    return best;
                }
                at = start + count as usize;
            }
        }
        best
    }

    /// The first free cluster at or after `at`.
    fn next_free(&self, at: usize) -> Option<usize> {
        let word = at / WORD_BITS;
        let bits = !self.used.get(word)? & (FULL << (at % WORD_BITS));
        if bits != 0 {
            return Some(word * WORD_BITS + bits.trailing_zeros() as usize);
        }
        let word = first_clear(&self.full, word + 1)?;
        Some(word * WORD_BITS + self.used[word].trailing_ones() as usize)
    }

    /// How many clusters from `at` on are free, counted up to `max`.
    fn free_from(&self, at: usize, max: u32) -> u32 {
        let mut count = 0;
        let mut bit = at % WORD_BITS;
        for word in &self.used[at / WORD_BITS..] {
            let left = WORD_BITS - bit;
            let here = ((word >> bit).trailing_zeros() as usize).min(left);
            count += here;
            if here < left || count >= max as usize {
                break;
            }
            bit = 0;
        }
        u32::try_from(count).map_or(max, |count| count.min(max))
    }

    fn set_used(&mut self, at: usize, count: u32) {
        for at in at..at + count as usize {
            let word = at / WORD_BITS;
            self.used[word] |= 1 << (at % WORD_BITS);
            if self.used[word] == FULL {
                self.full[word / WORD_BITS] |= 1 << (word % WORD_BITS);
            }
        }
        self.free -= count;
    }

    fn is_used(&self, at: usize) -> bool {
        self.used[at / WORD_BITS] & (1 << (at % WORD_BITS)) != 0
    }

    fn index_of(&self, pcn: Pcn) -> Result<usize, ClusterError> {
        pcn.get()
            .checked_sub(self.first_pcn)
            .filter(|&at| at < self.total)
            .map(|at| at as usize)
            .ok_or(ClusterError::OutsideZone(pcn))
    }

    fn pcn_of(&self, at: usize) -> Option<Pcn> {
        Pcn::try_new(self.first_pcn + u32::try_from(at).ok()?)
    }
}

/// Sets every bit of the last word that stands for nothing.
fn mark_beyond(words: &mut [u64], bits: usize) {
    if let Some(last) = words.last_mut()
        && !bits.is_multiple_of(WORD_BITS)
    {
        *last |= FULL << (bits % WORD_BITS);
    }
}

/// The first clear bit at or after `at`.
fn first_clear(words: &[u64], at: usize) -> Option<usize> {
    let first = at / WORD_BITS;
    let bits = !words.get(first)? & (FULL << (at % WORD_BITS));
    if bits != 0 {
        return Some(first * WORD_BITS + bits.trailing_zeros() as usize);
    }
    let found = words[first + 1..].iter().position(|&word| word != FULL)? + first + 1;
    Some(found * WORD_BITS + words[found].trailing_ones() as usize)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const FIRST: u32 = 140;

    fn allocator(total: u32) -> Allocator {
        Allocator::of_zone(Pcn::new(FIRST), total)
    }

    #[test]
    fn a_cluster_referenced_twice_is_told() {
        let mut allocator = allocator(100);
        let pcn = Pcn::new(FIRST + 7);
        allocator.mark(pcn).unwrap();
        assert_eq!(
            allocator.mark(pcn),
            Err(ClusterError::AlreadyReferenced(pcn))
        );
        assert_eq!(allocator.free(), 99);
    }

    #[test]
    fn clusters_outside_the_zone_are_refused() {
        let mut allocator = allocator(100);
        for pcn in [
            Pcn::NONE,
            Pcn::new(FIRST - 1),
            Pcn::new(FIRST + 100),
            Pcn::MAX,
        ] {
            assert_eq!(allocator.mark(pcn), Err(ClusterError::OutsideZone(pcn)));
            assert!(!allocator.is_free(pcn));
        }
    }

    #[test]
    fn a_long_range_near_by_is_preferred_to_a_hole() {
        let mut allocator = allocator(1000);
        for at in [2, 5, 9] {
            allocator.mark(Pcn::new(FIRST + at)).unwrap();
        }
        let extent = allocator.allocate(500).unwrap();
        assert_eq!(
            extent,
            Extent {
                pcn: Pcn::new(FIRST + 10),
                count: 500
            }
        );
        // The next one continues, and only a lap later the holes are used.
        assert_eq!(allocator.allocate(490).unwrap().pcn.get(), FIRST + 510);
        assert_eq!(allocator.allocate(1).unwrap().pcn.get(), FIRST);
    }

    #[test]
    fn two_streams_that_take_turns_lie_apart() {
        let mut allocator = allocator(1000);
        let mut streams: [Vec<u32>; 2] = Default::default();
        for _ in 0..64 {
            for stream in &mut streams {
                let extent = match stream.last() {
                    Some(last) => allocator.allocate_at(Pcn::new(last + 1), 1),
                    None => allocator.allocate(1),
                };
                stream.push(extent.unwrap().pcn.get());
            }
        }
        for stream in &streams {
            let breaks = stream.windows(2).filter(|two| two[1] != two[0] + 1);
            assert!(breaks.count() <= 64 / 8, "{stream:?}");
        }
        assert_eq!(allocator.free(), 1000 - 128);
    }

    #[test]
    fn who_comes_too_early_leaves_room_for_the_others() {
        let mut allocator = allocator(1000);
        let first = allocator.allocate(8).unwrap().pcn.get();
        let later = allocator.allocate_at(Pcn::new(first + 16), 8).unwrap();
        let between = allocator.allocate_at(Pcn::new(first + 8), 8).unwrap();
        assert_eq!(later.pcn.get(), first + 16);
        assert_eq!((between.pcn.get(), between.count), (first + 8, 8));
        // Beyond the end there is nothing to go on with.
        let end = Pcn::new(FIRST + 1000);
        assert!(allocator.allocate_at(end, 1).is_some());
    }

    #[test]
    fn releasing_what_is_free_changes_nothing() {
        let mut allocator = allocator(100);
        let extent = allocator.allocate(10).unwrap();
        let longer = Extent {
            count: 11,
            ..extent
        };
        let beyond = Pcn::new(extent.pcn.get() + 10);
        assert_eq!(
            allocator.release(longer),
            Err(ClusterError::NotAllocated(beyond))
        );
        assert_eq!(allocator.free(), 90);
        allocator.release(extent).unwrap();
        assert_eq!(allocator.free(), 100);
    }

    #[test]
    fn a_disk_of_100_tib_is_filled_and_its_last_free_cluster_found() {
        let total = 800_000_000;
        let mut allocator = allocator(total);
        // Full but for one cluster, without the time that marking each would take.
        allocator.used.fill(FULL);
        allocator.full.fill(FULL);
        allocator.free = 0;
        assert_eq!(allocator.allocate(1), None);
        let last = Extent {
            pcn: Pcn::new(FIRST + total - 1),
            count: 1,
        };
        allocator.release(last).unwrap();
        assert_eq!(allocator.allocate(1000), Some(last));
        assert_eq!((allocator.allocate(1), allocator.free()), (None, 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Mark(u32),
        Allocate(u32),
        AllocateAt(u32, u32),
        Release(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u32..700).prop_map(Step::Mark),
            (0u32..200).prop_map(Step::Allocate),
            (0u32..700, 0u32..40).prop_map(|(at, max)| Step::AllocateAt(at, max)),
            any::<usize>().prop_map(Step::Release),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_free_clusters(
            total in 1u32..600,
            steps in proptest::collection::vec(step(), 1..120),
        ) {
            let mut allocator = allocator(total);
            let mut free: BTreeSet<u32> = (FIRST..FIRST + total).collect();
            let mut taken: Vec<Extent> = Vec::new();
            for step in steps {
                match step {
                    Step::Mark(at) => {
                        let pcn = Pcn::new(FIRST + at);
                        let was_free = free.remove(&pcn.get());
                        prop_assert_eq!(allocator.mark(pcn).is_ok(), was_free);
                        if was_free {
                            taken.push(Extent { pcn, count: 1 });
                        }
                    }
                    Step::Allocate(max) => match allocator.allocate(max) {
                        None => prop_assert!(max == 0 || free.is_empty()),
                        Some(extent) => {
                            prop_assert!((1..=max).contains(&extent.count));
                            for pcn in extent.clusters() {
                                prop_assert!(free.remove(&pcn.get()));
                            }
                            // Shorter than asked only where the range ends.
                            let next = extent.pcn.get() + extent.count;
                            prop_assert!(extent.count == max || !free.contains(&next));
                            taken.push(extent);
                        }
                    },
                    Step::AllocateAt(at, max) => {
                        let wanted = Pcn::new(FIRST + at);
                        let was_free = free.contains(&wanted.get());
                        match allocator.allocate_at(wanted, max) {
                            None => prop_assert!(max == 0 || free.is_empty()),
                            Some(extent) => {
                                prop_assert!((1..=max).contains(&extent.count));
                                prop_assert!(!was_free || extent.pcn == wanted);
                                for pcn in extent.clusters() {
                                    prop_assert!(free.remove(&pcn.get()));
                                }
                                taken.push(extent);
                            }
                        }
                    }
                    Step::Release(_) if taken.is_empty() => {}
                    Step::Release(at) => {
                        let extent = taken.swap_remove(at % taken.len());
                        free.extend(extent.clusters().map(Pcn::get));
                        prop_assert_eq!(allocator.release(extent), Ok(()));
                    }
                }
                prop_assert_eq!(allocator.free() as usize, free.len());
            }
            for at in 0..total {
                prop_assert_eq!(allocator.is_free(Pcn::new(FIRST + at)), free.contains(&(FIRST + at)));
            }
        }
    }
}
