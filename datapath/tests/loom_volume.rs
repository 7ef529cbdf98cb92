//! Every interleaving of what reactors and the committer do to one map entry and its marks, under loom. The functions are the daemon's own; only
//! the atomic word is loom's.
//!
//! `RUSTFLAGS="--cfg bedplate_loom" cargo test --release -p bedplate-datapath --test loom_volume`, with a target directory of its own.

#![cfg(bedplate_loom)]
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use bedplate_datapath::map::MapEntry;
use bedplate_datapath::units::{BlockMask, Pcn};
use bedplate_datapath::volume::dirty::{drain_hints, drain_summary, mark};
use bedplate_datapath::volume::transition::{capture, change, published, tombstoned};
use bedplate_datapath::volume::word::Word;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

/// Loom's word.
#[derive(Debug)]
struct LoomWord(AtomicU64);

impl LoomWord {
    fn new(bits: u64) -> Self {
        Self(AtomicU64::new(bits))
    }

    fn entry(&self) -> MapEntry {
        MapEntry::from_bits(Word::load(self))
    }
}

impl Word for LoomWord {
    fn load(&self) -> u64 {
        // Loom takes SeqCst for AcqRel and would let a load see an old value, which the daemon's never do. A read-modify-write sees the last one.
        self.0.fetch_or(0, Ordering::SeqCst)
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.0
            .compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }

    fn fetch_or(&self, bits: u64) -> u64 {
        self.0.fetch_or(bits, Ordering::SeqCst)
    }

    fn fetch_and(&self, bits: u64) -> u64 {
        self.0.fetch_and(bits, Ordering::SeqCst)
    }

    fn swap(&self, new: u64) -> u64 {
        self.0.swap(new, Ordering::SeqCst)
    }
}

const ONE: BlockMask = BlockMask::new(1);
const TWO: BlockMask = BlockMask::new(2);
const BOTH: BlockMask = BlockMask::new(3);

fn pcn(number: u32) -> Pcn {
    Pcn::new(number)
}

fn dropped(_: MapEntry) -> Option<MapEntry> {
    Some(MapEntry::new(Pcn::NONE, BlockMask::ALL))
}

fn claimed(entry: MapEntry, new: Pcn) -> Option<MapEntry> {
    (entry.pcn().is_none() && entry.mask() == BlockMask::EMPTY).then(|| entry.with_pcn(new))
}

/// A first touch: claim (or lose, and use the winner's), write, publish. Answers with the cluster it wrote to, and whether it won it.
fn first_touch(word: &LoomWord, own: Pcn, block: BlockMask) -> (Pcn, bool) {
    let (_, won) = change(word, |entry| claimed(entry, own));
    let used = word.entry().pcn();
    change(word, |entry| published(entry, used, block));
    (used, won)
}

#[test]
fn two_writers_of_a_new_cluster_agree_on_one() {
    loom::model(|| {
        let word = Arc::new(LoomWord::new(0));
        let other = Arc::clone(&word);
        let writer = thread::spawn(move || first_touch(&other, pcn(8), TWO));
        let (used, won) = first_touch(&word, pcn(7), ONE);
        let (other_used, other_won) = writer.join().unwrap();
        assert_eq!(used, other_used);
        assert!(won != other_won, "one of them claims it");
        let entry = word.entry();
        assert_eq!((entry.pcn(), entry.mask()), (used, BOTH));
        assert!(entry.is_dirty());
    });
}

/// A block is held by a cluster only if its data was written to that very cluster.
#[test]
fn a_publish_never_lands_in_a_cluster_that_took_the_place_of_its_own() {
    loom::model(|| {
        // Cluster 7 is claimed, and the data of block 1 on its way to it.
        let word = Arc::new(LoomWord::new(
            MapEntry::new(pcn(7), BlockMask::EMPTY).bits(),
        ));
        let other = Arc::clone(&word);
        let discarder = thread::spawn(move || {
            let (before, _) = change(&*other, dropped);
            // 7 is not free yet: the request below pins it. So this claim, over tombstones, has another cluster, full of zeros.
            let (_, claimed) = change(&*other, |entry| {
                entry.pcn().is_none().then(|| entry.with_pcn(pcn(9)))
            });
            (before, claimed)
        });
        let (before, published_now) = change(&*word, |entry| published(entry, pcn(7), ONE));
        let (dropped_entry, claimed) = discarder.join().unwrap();
        assert!(claimed);
        let entry = word.entry();
        // Whoever came last: a whole cluster of zeros, in 9.
        assert_eq!((entry.pcn(), entry.mask()), (pcn(9), BlockMask::ALL));
        if published_now {
            assert_eq!(before.pcn(), pcn(7));
            assert_eq!(dropped_entry.mask(), ONE, "it came before the drop");
        } else {
            assert!(before.pcn() != pcn(7), "it is planned again");
        }
    });
}

/// What a discard frees is what the map named, once, whoever else discards.
#[test]
fn a_cluster_is_dropped_once() {
    loom::model(|| {
        let word = Arc::new(LoomWord::new(MapEntry::new(pcn(7), ONE).bits()));
        let drop_it = |word: &LoomWord| {
            let (before, changed) = change(word, dropped);
            (changed && !before.pcn().is_none()).then_some(before.pcn())
        };
        let other = Arc::clone(&word);
        let discarder = thread::spawn(move || drop_it(&other));
        let mine = drop_it(&word);
        let freed: Vec<Pcn> = mine.into_iter().chain(discarder.join().unwrap()).collect();
        assert_eq!(freed, [pcn(7)]);
    });
}

/// Tombstones are set only where there is no cluster; a claim over them keeps those that came meanwhile.
#[test]
fn a_tombstone_and_a_claim_over_tombstones_keep_each_other() {
    loom::model(|| {
        let word = Arc::new(LoomWord::new(MapEntry::new(Pcn::NONE, ONE).bits()));
        let other = Arc::clone(&word);
        let zeroer = thread::spawn(move || {
            let (before, _) = change(&*other, |entry| tombstoned(entry, TWO));
            before.pcn().is_none()
        });
        // As `claim_private`: whatever mask there is by now.
        loop {
            let seen = word.entry();
            let (_, claimed) = change(&*word, |entry| {
                (entry.pcn().is_none() && entry.mask() == seen.mask())
                    .then(|| entry.with_pcn(pcn(9)))
            });
            if claimed {
                break;
            }
            thread::yield_now();
        }
        let set = zeroer.join().unwrap();
        let entry = word.entry();
        assert_eq!(entry.pcn(), pcn(9));
        assert_eq!(entry.mask(), if set { BOTH } else { ONE });
    });
}

/// One entry with its marks, and the summary flag of the volume.
struct Marked {
    entry: LoomWord,
    hints: LoomWord,
    draining: LoomWord,
    summary: LoomWord,
}

impl Marked {
    fn new() -> Self {
        Self {
            entry: LoomWord::new(0),
            hints: LoomWord::new(0),
            draining: LoomWord::new(0),
            summary: LoomWord::new(0),
        }
    }

    fn mark(&self) {
        mark(&self.hints, 1, &self.summary, 1);
    }

    /// A change as `Volume::change` makes it.
    fn change(&self, block: BlockMask) {
        self.mark();
        change(&self.entry, |entry| tombstoned(entry, block));
        self.mark();
    }

    /// A commit: what it captured.
    fn commit(&self) -> Option<MapEntry> {
        if drain_summary(&self.summary) & 1 == 0 {
            return None;
        }
        let groups = drain_hints(&self.hints, &self.draining);
        let captured = if groups & 1 == 0 {
            None
        } else {
            capture(&self.entry)
        };
        // Flush and journal come here.
        Word::fetch_and(&self.draining, !groups);
        captured
    }
}

/// A change whose request has ended before the commit begins is in that commit, or in an earlier one. Afterwards nothing is left behind
/// that no later commit would look at.
#[test]
fn no_commit_misses_a_change() {
    loom::model(|| {
        let marked = Arc::new(Marked::new());
        let other = Arc::clone(&marked);
        let writer = thread::spawn(move || other.change(ONE));
        let first = marked.commit();
        writer.join().unwrap();
        // The request has ended; a flush comes now.
        let second = marked.commit();
        let captured = first
            .into_iter()
            .chain(second)
            .map(|entry| entry.mask().get());
        assert_eq!(captured.fold(0, |all, mask| all | mask), 1);
        assert!(!marked.entry.entry().is_dirty());
        assert_eq!(Word::load(&marked.draining), 0);
    });
}

#[test]
fn no_commit_misses_one_of_two_changes() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(|| {
        let marked = Arc::new(Marked::new());
        let other = Arc::clone(&marked);
        let writer = thread::spawn(move || other.change(ONE));
        let another = Arc::clone(&marked);
        let committer = thread::spawn(move || another.commit());
        marked.change(TWO);
        writer.join().unwrap();
        let first = committer.join().unwrap();
        let second = marked.commit();
        let last = second.or(first).unwrap();
        assert_eq!(last.mask(), BOTH, "the last one captured has both");
        assert!(!marked.entry.entry().is_dirty());
    });
}

/// A request that finds its block held, by an entry that is still dirty, relies on a change that somebody else made, and who may not have
/// marked it again yet: it marks it, and its own flush has it.
#[test]
fn who_relies_on_a_dirty_entry_has_it_in_its_commit() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(|| {
        let marked = Arc::new(Marked::new());
        let other = Arc::clone(&marked);
        let writer = thread::spawn(move || other.change(ONE));
        let another = Arc::clone(&marked);
        let earlier = thread::spawn(move || another.commit());
        let seen = marked.entry.entry();
        if seen.is_dirty() {
            marked.mark();
        }
        let mine = marked.commit();
        if seen.mask() == ONE {
            // Taken by this commit, or by the earlier one, which this one waits for.
            let earlier = earlier.join().unwrap();
            let taken = mine.or(earlier);
            assert!(taken.is_some_and(|entry| entry.mask() == ONE), "{taken:?}");
        } else {
            earlier.join().unwrap();
        }
        writer.join().unwrap();
    });
}

/// A crash at any instant: what is dirty, or was captured and is not durable, is marked in the hints or in draining, or its flag is set.
#[test]
fn a_crash_at_any_instant_finds_what_is_not_durable() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(|| {
        let marked = Arc::new(Marked::new());
        marked.change(ONE);
        let durable = Arc::new(AtomicBool::new(false));
        let (other, is_durable) = (Arc::clone(&marked), Arc::clone(&durable));
        let committer = thread::spawn(move || {
            drain_summary(&other.summary);
            let groups = drain_hints(&other.hints, &other.draining);
            let captured = capture(&other.entry);
            assert!(captured.is_some() && groups == 1);
            is_durable.store(true, Ordering::SeqCst);
            Word::fetch_and(&other.draining, !groups);
        });
        // Hints first: they move to draining, never back.
        let hinted = Word::load(&marked.hints) & 1 != 0;
        let draining = Word::load(&marked.draining) & 1 != 0;
        let durable = durable.fetch_or(false, Ordering::SeqCst);
        assert!(hinted || draining || durable, "nobody would commit it");
        committer.join().unwrap();
    });
}
