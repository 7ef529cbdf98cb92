//! Marks that tell a commit where to look: a bit for each group of 64 entries, a summary bit for 64 groups, and one flag for the volume.
//!
//! A group with something that is not durable is, at each instant, marked in the *hints* or in *draining*. Both lie in the live file, side by
//! side, so that they survive the process; summaries and flag do not need to, since adoption looks at everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::live::SharedWords;
use crate::units::Lcn;

use super::word::Word;

/// Entries that one hint stands for: 512 bytes of map.
pub const ENTRIES_PER_GROUP: u32 = 64;
/// Groups in a word of hints.
const GROUPS_PER_WORD: u32 = u64::BITS;
/// Entries that a word of hints speaks of.
const ENTRIES_PER_WORD: u32 = ENTRIES_PER_GROUP * GROUPS_PER_WORD;
/// Summary words of the largest volume, 256 TiB: 64 KiB of address space, of which a volume touches what it needs.
const SUMMARY_WORDS: usize = (1 << 31) / (ENTRIES_PER_WORD as usize * u64::BITS as usize);

/// The marks of one volume.
#[derive(Clone, Debug)]
pub struct DirtyBits {
    /// Hints at `2 * i`, draining at `2 * i + 1`: a pair shares a cache line, and a section grows at its end.
    words: SharedWords,
    summary: Arc<Summary>,
}

#[derive(Debug)]
struct Summary {
    /// Bit `i` of word `w`: something in hint word `64 * w + i`.
    words: SharedWords,
    /// Something in the summary.
    any: AtomicBool,
    /// A commit has groups of this volume in its hands.
    draining: AtomicBool,
}

impl DirtyBits {
    /// Words that the marks of a map of `clusters` entries take.
    pub const fn words_of(clusters: u64) -> u64 {
        clusters.div_ceil(ENTRIES_PER_WORD as u64) * 2
    }

    /// Marks in these words. Says nothing of what they hold already: see [`Self::groups_after_a_crash`].
    pub fn new(words: SharedWords) -> Self {
        let summary = Summary {
            words: SharedWords::zeroed(SUMMARY_WORDS as u64),
            any: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        };
        Self {
            words,
            summary: Arc::new(summary),
        }
    }

    /// The same marks for a map that grew; `words` is the same memory, of which more is mapped.
    #[must_use]
    pub fn grown(&self, words: SharedWords) -> Self {
        Self {
            words,
            summary: Arc::clone(&self.summary),
        }
    }

    /// Marks the group of an entry. Before and after the entry changes.
    #[inline]
    pub fn mark(&self, lcn: Lcn) {
        let group = lcn.get() / ENTRIES_PER_GROUP;
        let word = (group / GROUPS_PER_WORD) as usize;
        let Some(hints) = self.words.get(word * 2) else {
            return;
        };
        let summary = &self.summary.words[word / u64::BITS as usize];
        mark(
            hints,
            1 << (group % GROUPS_PER_WORD),
            summary,
            1 << (word % u64::BITS as usize),
        );
        // Last: who clears the flag and then finds the summary empty must have been here before.
        if !self.summary.any.load(Ordering::SeqCst) {
            self.summary.any.store(true, Ordering::SeqCst);
        }
    }

    /// Whether there is nothing to commit and no commit under way. Hints first: a commit sets `draining` before it clears them.
    pub fn is_clean(&self) -> bool {
        !self.summary.any.load(Ordering::SeqCst) && !self.summary.draining.load(Ordering::SeqCst)
    }

    /// Moves every mark to draining. The groups are those of this commit.
    pub fn drain(&self, mut group: impl FnMut(u32)) {
        if !self.summary.any.load(Ordering::SeqCst) {
            return;
        }
        // Before the flag is cleared, see `is_clean`.
        self.summary.draining.store(true, Ordering::SeqCst);
        // Before the summary is looked at: a mark that comes later sets it again.
        self.summary.any.store(false, Ordering::SeqCst);
        for (nth, summary) in self.summary.words.iter().enumerate() {
            let nth_words = (self.words.len() / 2).div_ceil(u64::BITS as usize);
            if nth >= nth_words {
                break;
            }
            let mut words = drain_summary(summary);
            while words != 0 {
                let word = nth * u64::BITS as usize + words.trailing_zeros() as usize;
                words &= words - 1;
                let (Some(hints), Some(draining)) =
                    (self.words.get(word * 2), self.words.get(word * 2 + 1))
                else {
                    continue;
                };
                let mut groups = drain_hints(hints, draining);
                while groups != 0 {
                    let first = u32::try_from(word).unwrap_or(u32::MAX) * GROUPS_PER_WORD;
                    group(first + groups.trailing_zeros());
                    groups &= groups - 1;
                }
            }
        }
    }

    /// Everything that was drained is durable.
    pub fn drained(&self, groups: &[u32]) {
        for group in groups {
            if let Some(draining) = self.words.get((group / GROUPS_PER_WORD) as usize * 2 + 1) {
                Word::fetch_and(draining, !(1 << (group % GROUPS_PER_WORD)));
            }
        }
        self.summary.draining.store(false, Ordering::SeqCst);
    }

    /// The commit failed: what was drained is as dirty as before, and stays in `draining` for the next process.
    pub fn give_up(&self) {
        self.summary.any.store(true, Ordering::SeqCst);
    }

    /// The groups that a process which died left in draining. Hints are not told: the dirty flags of the entries are.
    pub fn groups_after_a_crash(&self) -> Vec<u32> {
        let mut left = Vec::new();
        for (word, first) in (0..self.words.len() / 2).zip((0u32..).step_by(64)) {
            let mut groups = Word::load(&self.words[word * 2 + 1]);
            while groups != 0 {
                left.push(first + groups.trailing_zeros());
                groups &= groups - 1;
            }
        }
        left
    }

    /// Marks every group of which `is_dirty` says so, and empties draining: the last step of an adoption. Others may mark meanwhile.
    pub fn rebuild(&self, mut is_dirty: impl FnMut(u32) -> bool) {
        for (word, first) in (0..self.words.len() / 2).zip((0u32..).step_by(64)) {
            let groups = (0..64)
                .filter(|bit| is_dirty(first + bit))
                .fold(0u64, |groups, bit| groups | 1 << bit);
            // Added to what is there, never in its place: a mark may have come since the entry was looked at.
            let hints = Word::fetch_or(&self.words[word * 2], groups) | groups;
            // Hints before draining is emptied: a crash between must find the group in one of them.
            Word::swap(&self.words[word * 2 + 1], 0);
            if hints != 0 {
                Word::fetch_or(
                    &self.summary.words[word / u64::BITS as usize],
                    1 << (word % u64::BITS as usize),
                );
                self.summary.any.store(true, Ordering::SeqCst);
            }
        }
    }
}

/// Sets a hint, then its summary. A hint that is set already has its summary set, or is being drained by one who will look at the entry
/// after clearing the hint; so nothing is stored, and no cache line moves.
#[inline]
pub fn mark<W: Word>(hints: &W, hint: u64, summary: &W, summary_bit: u64) {
    if hints.load() & hint == 0 {
        hints.fetch_or(hint);
    }
    if summary.load() & summary_bit == 0 {
        summary.fetch_or(summary_bit);
    }
}

/// Takes the summary of some words of hints, before the hints themselves: a mark that comes between is found now or has its summary set again.
#[inline]
pub fn drain_summary<W: Word>(summary: &W) -> u64 {
    if summary.load() == 0 {
        return 0;
    }
    summary.swap(0)
}

/// Moves hints to draining; answers with them. Draining first: at each instant the group is marked in one of the two.
#[inline]
pub fn drain_hints<W: Word>(hints: &W, draining: &W) -> u64 {
    let now = hints.load();
    draining.fetch_or(now);
    // Only those: one that was set meanwhile is not in draining yet.
    hints.fetch_and(!now);
    now
}
