//! Does the oracle of volumes notice? Each test breaks one rule, and demands that a schedule finds it. A rule that can be broken without anybody
//! noticing is a rule that nobody tests.

use std::time::{Duration, Instant};

use bedplate_datapath::format::geometry::Geometry;
use bedplate_tests::sim::disk::{Phase, Sabotage, Strike};
use bedplate_tests::sim::volumes::bare::{Bare, Setting};
use bedplate_tests::sim::volumes::front::Break;
use bedplate_tests::sim::volumes::node::{Broken, DISK_BYTES, Node, Ring, Tamper};
use bedplate_tests::sim::volumes::request::What;
use bedplate_tests::sim::volumes::schedule;
use bedplate_tests::sim::volumes::trace::{self, Step};

const TIME_MAX: Duration = Duration::from_secs(60);

fn is_found(broken: Broken) {
    is_found_by(broken, schedule::run);
}

type Run = fn(&mut Node, u64, Broken) -> Result<schedule::Tally, String>;

fn is_found_by(broken: Broken, run: Run) {
    let mut node = Node::default();
    let begun = Instant::now();
    for seed in 0.. {
        if let Err(why) = run(&mut node, seed, broken) {
            println!(
                "{broken:?}: found by seed {seed} after {:?}: {why}",
                begun.elapsed()
            );
            // It is the broken rule that was found.
            let whole = run(&mut node, seed, Broken::default());
            assert!(whole.is_ok(), "with nothing broken: {whole:?}");
            return;
        }
        assert!(
            begun.elapsed() < TIME_MAX,
            "{broken:?}: not found by {seed} schedules"
        );
    }
}

fn is_found_without_a_store(setting: &Setting) {
    let mut bare = Bare::default();
    let begun = Instant::now();
    for seed in 0.. {
        // An assertion of the product may notice first; the oracle must, too.
        if let Err(why) = bare.run(seed, setting)
            && !why.starts_with("panic")
        {
            println!(
                "{setting:?}: found by seed {seed} after {:?}: {why}",
                begun.elapsed()
            );
            return;
        }
        assert!(
            begun.elapsed() < TIME_MAX,
            "{setting:?}: not found by {seed} schedules"
        );
    }
}

fn broken_by(breaks: Break) -> Broken {
    Broken {
        breaks,
        ..Broken::default()
    }
}

fn broken_disk(phase: Phase, strike: Strike) -> Broken {
    Broken {
        sabotage: Some(Sabotage { phase, strike }),
        ..Broken::default()
    }
}

fn tampered(tamper: Tamper) -> Broken {
    Broken {
        tamper,
        ..Broken::default()
    }
}

/// Flushes after writes to clusters, and not to the journal or a root.
fn clusters() -> (u64, u64) {
    let geometry = Geometry::of_disk(DISK_BYTES).expect("a legal size");
    let first = u64::from(geometry.first_pcn().get()) * 131_072;
    (first, DISK_BYTES)
}

#[test]
fn publish_before_data_is_found() {
    is_found(broken_by(Break::PublishBeforeData));
}

#[test]
fn publish_before_data_is_found_without_a_store() {
    is_found_without_a_store(&Setting {
        breaks: Break::PublishBeforeData,
        ..Setting::default()
    });
}

#[test]
fn a_record_before_its_data_is_durable_is_found() {
    let (from, until) = clusters();
    is_found(broken_disk(
        Phase::Commit,
        Strike::SkipFlushAfter { from, until },
    ));
}

/// The flush after the pages makes the data durable too, so that only a power loss between the two shows it: one random schedule of some 3000,
/// and certain for the exhaustive search.
#[test]
fn a_map_page_before_its_data_is_durable_is_found() {
    // After the first checkpoint the directory knows of the page, and an open looks at it.
    let fua = What::Write { fua: true };
    let before = [
        Step::Make(false, 768),
        Step::Ask(0, fua, 0, 256),
        Step::Checkpoint,
        Step::Ask(0, fua, 256, 8),
    ];
    let script = [
        Step::Ask(0, What::Write { fua: false }, 512, 16),
        Step::Checkpoint,
    ];
    let mut node = Node::default();
    let broken = broken_disk(Phase::Checkpoint, Strike::SkipFlushes { from: 0, until: 1 });
    let everywhere = |node: &mut Node, seed, broken| {
        trace::crash_everywhere(node, seed, Ring::Empty, &before, &script, broken)
    };
    let found = (0..20).find_map(|seed| {
        let why = everywhere(&mut node, seed, broken).err()?;
        Some((seed, why))
    });
    let (seed, why) = found.expect("no seed finds it");
    println!("found: {why}");
    let whole = everywhere(&mut node, seed, Broken::default());
    assert!(whole.is_ok(), "with nothing broken: {whole:?}");
}

#[test]
fn a_tail_that_moves_before_the_pages_are_durable_is_found() {
    is_found(broken_disk(
        Phase::Checkpoint,
        Strike::SkipFlushes {
            from: 1,
            until: u64::MAX,
        },
    ));
}

/// Of a commit that finds the ring full, the first flush is its own, and the others are the checkpoint's.
#[test]
fn a_tail_that_moves_too_early_inside_a_commit_is_found() {
    let strike = Strike::SkipFlushes {
        from: 1,
        until: u64::MAX,
    };
    let full_ring: Run =
        |node, seed, broken| schedule::run_with(node, seed, Ring::NearlyFull, broken);
    is_found_by(broken_disk(Phase::Commit, strike), full_ring);
}

/// The disk dropped what it could not write, and the process died: its live state says more than the disk has.
#[test]
fn a_failed_write_that_an_adoption_forgets_is_found() {
    is_found(tampered(Tamper::ForgetFailure));
}

/// A disk came back without its cache, and writes that were in it are taken for flushed.
#[test]
fn unflushed_writes_that_are_taken_for_flushed_are_found() {
    is_found(tampered(Tamper::BelieveAllFlushed));
}

#[test]
fn reuse_without_grace_is_found() {
    is_found(broken_by(Break::NoGrace));
}

#[test]
fn reuse_without_grace_is_found_without_a_store() {
    is_found_without_a_store(&Setting {
        breaks: Break::NoGrace,
        clusters: 40,
        ..Setting::default()
    });
}

#[test]
fn reuse_before_the_drop_is_durable_is_found() {
    is_found(broken_by(Break::ReuseBeforeCommit));
}

#[test]
fn an_answer_before_the_commit_is_found() {
    is_found(broken_by(Break::AcknowledgeBeforeCommit));
}

#[test]
fn drained_records_that_an_adoption_forgets_are_found() {
    is_found(tampered(Tamper::ForgetDraining));
}

/// A drop that was only in memory, and a write that the next process takes up: too rare for chance, certain for the exhaustive search.
#[test]
fn allocation_before_the_covering_commit_is_found() {
    let write = What::Write { fua: false };
    let fua = What::Write { fua: true };
    // The cluster that is dropped lies behind the one that the other volume has: there its next one is looked for.
    let before = [
        Step::Make(false, 512),
        Step::Make(false, 512),
        Step::Ask(0, fua, 256, 8),
        Step::Ask(1, fua, 0, 8),
        Step::Ask(0, fua, 0, 256),
    ];
    let script = [
        Step::Ask(0, What::Zero { keep: false }, 0, 256),
        Step::Begin(1, write, 256, 256),
        Step::Stop,
    ];
    let mut node = Node::default();
    let broken = tampered(Tamper::AllocateBeforeCoveringCommit);
    let found = (0..20).find_map(|seed| {
        trace::crash_everywhere(&mut node, seed, Ring::Empty, &before, &script, broken).err()
    });
    println!("found: {}", found.expect("no seed finds it"));
}

#[test]
fn a_claim_over_tombstones_without_zeroes_is_found() {
    is_found_without_a_store(&Setting {
        breaks: Break::ClaimWithoutZeroes,
        ..Setting::default()
    });
}

#[test]
fn copy_ups_without_locks_are_found() {
    is_found_without_a_store(&Setting {
        without_locks: true,
        ..Setting::default()
    });
}
