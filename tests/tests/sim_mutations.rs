//! Does the oracle notice? Each test breaks one rule of the write order, from the disk's side, and demands that some schedule
//! finds it. A rule that can be broken without anybody noticing is a rule that nobody tests.

use bedplate_datapath::format::geometry::Geometry;
use bedplate_tests::sim::disk::{Phase, Sabotage, SimDisk, Strike};
use bedplate_tests::sim::schedule::{self, DISK_BYTES};
use bedplate_tests::sim::trace::{self, Step};

const SEEDS_MAX: u64 = 4_000;
const ALL_FLUSHES: Strike = Strike::SkipFlushes {
    from: 0,
    until: u64::MAX,
};

const fn flush(nth: u64) -> Strike {
    Strike::SkipFlushes {
        from: nth,
        until: nth + 1,
    }
}

fn is_found(phase: Phase, strike: Strike) {
    let mut disk = SimDisk::new(DISK_BYTES, 0);
    for seed in 0..SEEDS_MAX {
        if let Err(why) = schedule::run(&mut disk, seed, Some(Sabotage { phase, strike })) {
            println!("{phase:?} {strike:?}: found by seed {seed}: {why}");
            return;
        }
    }
    panic!("{phase:?} {strike:?}: not found by {SEEDS_MAX} schedules");
}

#[test]
fn a_slot_written_before_its_data_is_durable_is_found() {
    is_found(Phase::Seal, flush(0));
}

#[test]
fn a_slot_whose_two_copies_may_tear_together_is_found() {
    is_found(Phase::Seal, flush(1));
}

#[test]
fn a_seal_acknowledged_before_its_second_copy_is_durable_is_found() {
    is_found(Phase::Seal, flush(2));
}

#[test]
fn a_delete_whose_two_copies_may_tear_together_is_found() {
    is_found(Phase::Delete, flush(0));
}

#[test]
fn space_released_before_both_slot_copies_are_durable_is_found() {
    is_found(Phase::Delete, flush(1));
}

#[test]
fn space_released_before_any_slot_copy_is_durable_is_found() {
    is_found(Phase::Delete, ALL_FLUSHES);
}

#[test]
fn superblock_copies_without_a_flush_between_them_are_found() {
    is_found(Phase::Open, ALL_FLUSHES);
}

#[test]
fn a_close_without_flushes_is_found() {
    is_found(Phase::Close, ALL_FLUSHES);
}

#[test]
fn repairs_from_a_twin_that_is_only_in_the_drives_cache_are_found() {
    // Two crashes at exactly the right places: too rare for chance, certain for the exhaustive search.
    let sabotage = Sabotage {
        phase: Phase::Open,
        strike: flush(0),
    };
    let before = [Step::Format(0xd15c), Step::Import(1, "a")];
    let traces = [
        &[Step::Delete(1)][..],
        &[Step::Attach(1, true)],
        &[
            Step::Attach(1, true),
            Step::Attach(1, false),
            Step::Attach(1, true),
        ],
    ];
    let found = traces
        .iter()
        .find_map(|trace| trace::crash_everywhere(&before, trace, Some(sabotage)).err());
    println!("found: {}", found.expect("no trace finds it"));
}

#[test]
fn an_older_slot_copy_that_open_leaves_as_it_is_is_found() {
    let geometry = Geometry::of_disk(DISK_BYTES).unwrap();
    let from = geometry.table_offset().get();
    is_found(
        Phase::Open,
        Strike::SkipWrites {
            from,
            until: from + geometry.table_bytes(),
        },
    );
}

#[test]
fn a_format_that_leaves_former_superblocks_to_chance_is_found() {
    is_found(Phase::Format, flush(0));
}

#[test]
fn a_superblock_written_before_its_table_is_durable_is_found() {
    // The flush before the first copy alone is not enough to miss: that of the first copy covers the table too, and one copy is
    // not a disk yet.
    is_found(Phase::Format, Strike::SkipFlushes { from: 1, until: 3 });
}
