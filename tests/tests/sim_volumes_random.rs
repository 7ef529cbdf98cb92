//! Random crash schedules of volumes. `SIM_SCHEDULES` says how many, `SIM_FIRST_SEED` from which seed on; `make soak` runs many more.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use bedplate_tests::sim::volumes::node::{Broken, Node};
use bedplate_tests::sim::volumes::schedule::{self, Tally};

fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

fn run(first: u64, count: u64) {
    println!("seeds {first} to {}", first + count - 1);
    let mut node = Node::default();
    let mut tally = Tally::default();
    let mut times = Vec::new();
    for seed in first..first + count {
        let begun = std::time::Instant::now();
        match schedule::run(&mut node, seed, Broken::default()) {
            Ok(one) => tally.add(&one),
            Err(why) => panic!(
                "seed {seed}: {why}\nreplay: soak-volumes --seed {seed} (or SIM_FIRST_SEED={seed} SIM_SCHEDULES=1 cargo test -p bedplate-tests --test sim_volumes_random)"
            ),
        }
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!("{tally:?}; median {:?}", times[times.len() / 2]);
    assert!(
        tally.crashes >= 2 * count,
        "every schedule has a crash and a power loss"
    );
    assert!(tally.operations >= 200 * count, "{tally:?}");
    if count > 500 {
        assert!(
            tally.latched > 0
                && tally.losses > 0
                && tally.adopted > 0
                && tally.refused > 0
                && tally.left_behind > 0,
            "{tally:?}"
        );
        assert!(
            tally.crashes_of_latched > 0 && tally.recoveries_crashed > 0 && tally.full_rings > 0,
            "{tally:?}"
        );
        assert!(
            tally.images_deleted > 0 && tally.images_kept > 0,
            "{tally:?}"
        );
    }
}

/// Two halves, on two cores.
#[test]
fn no_crash_schedule_breaks_a_promise_of_a_volume() {
    let first = number_from_env("SIM_FIRST_SEED", 1_000_000);
    run(first, number_from_env("SIM_SCHEDULES", 10_000));
}

#[test]
fn no_other_crash_schedule_breaks_one_either() {
    if std::env::var_os("SIM_SCHEDULES").is_none() {
        run(2_000_000, 10_000);
    }
}

#[test]
fn a_seed_decides_everything() {
    let mut node = Node::default();
    for seed in 0..20 {
        let first = schedule::run(&mut node, seed, Broken::default()).unwrap();
        let operations = node.disk.borrow().operations();
        let mut fresh = Node::default();
        let other = schedule::run(&mut fresh, seed, Broken::default()).unwrap();
        assert_eq!(
            (first, operations),
            (other, fresh.disk.borrow().operations()),
            "seed {seed}"
        );
    }
}
