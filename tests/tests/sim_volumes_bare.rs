//! Write requests without a store: whatever their order, a read shows what it may show, and every change is committed.

use bedplate_tests::sim::volumes::bare::{Bare, Setting};

fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

fn run(setting: &Setting, default: u64) {
    let first = number_from_env("SIM_FIRST_SEED", 0);
    let count = number_from_env("SIM_SCHEDULES", default);
    let mut bare = Bare::default();
    let (mut answered, mut refused) = (0, 0);
    for seed in first..first + count {
        match bare.run(seed, setting) {
            Ok(counts) => {
                answered += counts.answered;
                refused += counts.refused;
            }
            Err(why) => panic!("seed {seed}: {why}\nreplay: SIM_FIRST_SEED={seed} SIM_SCHEDULES=1"),
        }
    }
    println!("{count} schedules, {answered} requests answered, {refused} refused");
}

#[test]
fn concurrent_requests_show_nothing_that_is_not_theirs() {
    run(&Setting::default(), 2_000);
}

#[test]
fn requests_on_a_full_disk_fail_or_succeed_whole() {
    let setting = Setting {
        clusters: 14,
        ..Setting::default()
    };
    run(&setting, 1_000);
}
