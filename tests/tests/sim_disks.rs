//! Several disks: every crash of short traces, random schedules with late, lost and old disks, and broken rules that must be found.

use bedplate_tests::sim::disk::{Phase, Sabotage, Strike};
use bedplate_tests::sim::disks::node::{Break, Op, content_of};
use bedplate_tests::sim::disks::{schedule, trace};

fn crash_everywhere(before: &[Op], trace: &[Op], after: &[Op]) {
    match trace::crash_everywhere(2, before, trace, after, None) {
        Ok(tried) => println!("{trace:?}: {tried:?}"),
        Err(why) => panic!("{why}"),
    }
}

#[test]
fn a_copy_goes_on_after_any_crash_and_loses_no_space() {
    // Several chunks, each with a mark of its own.
    let image = (0..100).find(|image| content_of(*image).stored_clusters().count() == 3);
    let image = image.expect("contents of every kind");
    let copy = Op::Copy(image, 1, None);
    crash_everywhere(
        &[Op::Import(image, 0, 2)],
        &[copy],
        &[copy, Op::Check, Op::Delete(image)],
    );
}

#[test]
fn a_copy_that_is_given_up_leaves_no_trace_after_any_crash() {
    crash_everywhere(
        &[Op::Import(0, 0, 2)],
        &[Op::GiveUp(0, 1)],
        &[Op::Copy(0, 1, None)],
    );
}

#[test]
fn a_deleted_image_stays_deleted_whoever_comes_late() {
    let before = [Op::Import(0, 0, 2), Op::Copy(0, 1, None)];
    crash_everywhere(&before, &[Op::Delete(0)], &[Op::Import(1, 0, 1)]);
}

#[test]
fn a_removed_copy_and_a_description_agree_after_any_crash() {
    let before = [Op::Import(0, 0, 2), Op::Copy(0, 1, None)];
    crash_everywhere(
        &before,
        &[Op::Describe(0, 1), Op::Remove(0, 1)],
        &[Op::Copy(0, 1, None)],
    );
}

/// `SIM_DISKS_SEEDS` says how many, `SIM_DISKS_FIRST` from which on.
#[test]
fn random_schedules_of_late_lost_and_old_disks() {
    let number = |name: &str, default: u64| {
        let given = std::env::var(name).ok();
        given.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (first, count) = (number("SIM_DISKS_FIRST", 0), number("SIM_DISKS_SEEDS", 150));
    let mut sum = schedule::Done::default();
    for seed in first..first + count {
        let done = schedule::run(seed, Break::Nothing, None).unwrap_or_else(|why| panic!("{why}"));
        sum.sessions += done.sessions;
        sum.crashes += done.crashes;
        sum.swaps += done.swaps;
        sum.forks += done.forks;
    }
    println!("{count} seeds from {first}: {sum:?}");
}

fn is_found(broken: Break, sabotage: Option<Sabotage>) {
    let seeds = 600;
    let found = (0..seeds).find_map(|seed| schedule::run(seed, broken, sabotage).err());
    match found {
        Some(why) => println!("{broken:?} {sabotage:?}: found: {why}"),
        None => panic!("{broken:?} {sabotage:?}: not found by {seeds} schedules"),
    }
}

#[test]
fn a_deletion_without_graves_is_found() {
    is_found(Break::NoGraves, None);
}

#[test]
fn graves_that_go_before_all_were_told_are_found() {
    is_found(Break::GravesGoAtOnce, None);
}

#[test]
fn an_old_copy_of_a_disk_that_is_believed_is_found() {
    is_found(Break::NoPeers, None);
}

#[test]
fn a_copy_marked_before_its_data_is_durable_is_found() {
    // A crash at exactly the right place, and the right sectors surviving: too rare for chance, certain for the exhaustive search.
    let (phase, strike) = (Phase::Seal, Strike::SkipFlushes { from: 0, until: 1 });
    let sabotage = Some(Sabotage { phase, strike });
    let found = (0..8).find_map(|image| {
        let before = [Op::Import(image, 0, 2)];
        let copy = [Op::Copy(image, 1, None)];
        trace::crash_everywhere(2, &before, &copy, &copy, sabotage).err()
    });
    println!("found: {}", found.expect("no trace finds it"));
}

#[test]
fn a_grave_whose_slot_copies_may_tear_together_is_found() {
    let (phase, strike) = (
        Phase::Delete,
        Strike::SkipFlushes {
            from: 0,
            until: u64::MAX,
        },
    );
    is_found(Break::Nothing, Some(Sabotage { phase, strike }));
}
