//! Every change that a map entry may make: one compare-and-swap of the whole word, which also sets its dirty flag. What is dirty can so never
//! part from what changed. The table of `docs/volumes.md` lists them.

use super::word::Word;
use crate::map::MapEntry;
use crate::units::{BlockMask, Pcn};

/// Changes an entry as `change` says, and makes it dirty. `None`, or the same cluster and mask, leave it. Answers with the entry before, and
/// whether it changed.
#[inline]
pub fn change(word: &impl Word, change: impl Fn(MapEntry) -> Option<MapEntry>) -> (MapEntry, bool) {
    let mut bits = word.load();
    loop {
        let before = MapEntry::from_bits(bits);
        let Some(after) = change(before) else {
            return (before, false);
        };
        let after = after.with_dirty(true);
        if after.with_dirty(before.is_dirty()) == before {
            return (before, false);
        }
        match word.compare_exchange(bits, after.bits()) {
            Ok(_) => return (before, true),
            Err(now) => bits = now,
        }
    }
}

/// The entry after `blocks` were written to its cluster `pcn`. `None` if the cluster is another one: never an OR on whatever is there.
#[inline]
pub fn published(entry: MapEntry, pcn: Pcn, blocks: BlockMask) -> Option<MapEntry> {
    (entry.pcn() == pcn).then(|| entry.with_mask(BlockMask::new(entry.mask().get() | blocks.get())))
}

/// The entry after `blocks` became tombstones. `None` where there is a cluster: there zeros are written.
#[inline]
pub fn tombstoned(entry: MapEntry, blocks: BlockMask) -> Option<MapEntry> {
    entry
        .pcn()
        .is_none()
        .then(|| entry.with_mask(BlockMask::new(entry.mask().get() | blocks.get())))
}

/// Takes an entry for a commit: what it holds, with the dirty flag cleared in the same step. `None` if it is not dirty.
#[inline]
pub fn capture(word: &impl Word) -> Option<MapEntry> {
    let mut bits = word.load();
    loop {
        let entry = MapEntry::from_bits(bits);
        if !entry.is_dirty() {
            return None;
        }
        let clean = entry.with_dirty(false);
        match word.compare_exchange(bits, clean.bits()) {
            Ok(_) => return Some(clean),
            Err(now) => bits = now,
        }
    }
}

/// Marks an entry as not committed, after a crash in the middle of a commit. One that was never changed stays as it is.
#[inline]
pub fn make_dirty(word: &impl Word) {
    let mut bits = word.load();
    while bits != 0 {
        let dirty = MapEntry::from_bits(bits).with_dirty(true);
        match word.compare_exchange(bits, dirty.bits()) {
            Ok(_) => return,
            Err(now) => bits = now,
        }
    }
}
