//! Random crash schedules. `SIM_SCHEDULES` says how many, `SIM_FIRST_SEED` from which seed on; `make soak` runs many more.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use bedplate_tests::sim::disk::SimDisk;
use bedplate_tests::sim::schedule::{self, DISK_BYTES, Tally};

fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

#[test]
fn no_crash_schedule_breaks_a_promise() {
    let first = number_from_env("SIM_FIRST_SEED", 1_000_000);
    let count = number_from_env("SIM_SCHEDULES", 2_000);
    println!("seeds {first} to {}", first + count - 1);
    let mut disk = SimDisk::new(DISK_BYTES, 0);
    let mut tally = Tally::default();
    for seed in first..first + count {
        match schedule::run(&mut disk, seed, None) {
            Ok(one) => tally.add(&one),
            Err(why) => panic!(
                "seed {seed}: {why}\nreplay: SIM_FIRST_SEED={seed} SIM_SCHEDULES=1 cargo test -p bedplate-tests --test sim_random"
            ),
        }
    }
    println!("{tally:?}");
    assert!(tally.crashes >= count, "every schedule has a crash");
    assert!(
        tally.faults > 0 && tally.rotted > 0 && tally.operations > count,
        "{tally:?}"
    );
}

#[test]
fn a_seed_decides_everything() {
    let mut disk = SimDisk::new(DISK_BYTES, 0);
    for seed in 0..20 {
        let first = schedule::run(&mut disk, seed, None).unwrap();
        let operations = disk.operations();
        let other = schedule::run(&mut SimDisk::new(DISK_BYTES, 9), seed, None).unwrap();
        assert_eq!((first, operations), (other, operations), "seed {seed}");
        schedule::run(&mut disk, seed, None).unwrap();
        assert_eq!(disk.operations(), operations, "seed {seed}");
    }
}
