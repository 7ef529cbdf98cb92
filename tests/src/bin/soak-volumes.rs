//! Runs many random crash schedules of volumes on the simulated disk, in shards that can be stopped and resumed.
//!
//! `soak-volumes --schedules 100000 --shard 1/4 --state DIR` runs the first quarter of the seeds, notes its progress in DIR, and goes on from there
//! when it is started again. A violation prints its seed; `soak-volumes --seed S` replays it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bedplate_tests::sim::volumes::node::{Broken, Node};
use bedplate_tests::sim::volumes::schedule::{self, Tally};
use clap::Parser;

const NOTE_EVERY: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(
    version,
    about = "Random crash schedules of volumes on the simulated disk"
)]
struct Args {
    /// Schedules over all shards
    #[arg(long, default_value_t = 1_000_000)]
    schedules: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Which part of the seeds to run: K/M, K from 1 to M
    #[arg(long, default_value = "1/1", value_parser = parse_shard)]
    shard: (u64, u64),
    /// Where to note progress, so that a stopped shard goes on where it was
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Run this one seed and stop
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
}

fn parse_shard(text: &str) -> Result<(u64, u64), String> {
    let parts = text
        .split_once('/')
        .and_then(|(k, m)| Some((k.parse().ok()?, m.parse().ok()?)));
    match parts {
        Some((k, m)) if 1 <= k && k <= m => Ok((k, m)),
        _ => Err(format!("{text:?} is not K/M with 1 <= K <= M")),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut node = Node::default();
    if let Some(seed) = args.seed {
        return match schedule::run(&mut node, seed, Broken::default()) {
            Ok(tally) => {
                println!("seed {seed}: {tally:?}");
                ExitCode::SUCCESS
            }
            Err(why) => {
                println!("seed {seed}: VIOLATION: {why}");
                ExitCode::FAILURE
            }
        };
    }
    let (shard, shards) = args.shard;
    let seeds = (args.first_seed + shard - 1..args.first_seed + args.schedules)
        .step_by(usize::try_from(shards).unwrap_or(1));
    let name = format!(
        "soak-volumes-{}-{}-{shard}-of-{shards}",
        args.first_seed, args.schedules
    );
    let note = args.state.as_deref().map(|dir| dir.join(name));
    let (done, mut violations) = note.as_deref().map(read_note).unwrap_or_default();
    if done > 0 {
        println!("volume soak: shard {shard}/{shards}: {done} schedules were done before");
    }
    let mut tally = Tally::default();
    let mut times = Vec::new();
    let (started, mut noted) = (Instant::now(), Instant::now());
    let mut count = done;
    for seed in seeds.skip(usize::try_from(done).unwrap_or(usize::MAX)) {
        let begun = cpu_time();
        match schedule::run(&mut node, seed, Broken::default()) {
            Ok(one) => tally.add(&one),
            Err(why) => {
                violations += 1;
                println!("seed {seed}: VIOLATION: {why}\n  replay: soak-volumes --seed {seed}");
            }
        }
        times.push(cpu_time().saturating_sub(begun));
        count += 1;
        if noted.elapsed() > NOTE_EVERY {
            noted = Instant::now();
            write_note(note.as_deref(), count, violations);
            let rate = times.len() as u128 * 1000 / started.elapsed().as_millis().max(1);
            println!(
                "volume soak: shard {shard}/{shards}: {count} schedules (seed {seed}), {violations} violations, {rate}/s"
            );
        }
    }
    write_note(note.as_deref(), count, violations);
    times.sort_unstable();
    if let (Some(median), Some(slowest)) = (times.get(times.len() / 2), times.last()) {
        let p99 = times.get(times.len() * 99 / 100).unwrap_or(slowest);
        println!("volume soak: {tally:?}");
        println!(
            "volume soak: CPU time of a schedule: median {median:.2?}, 99 % within {p99:.2?}, slowest {slowest:.2?}"
        );
    }
    println!("volume soak: {count} schedules, {violations} violations");
    if violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What this thread has run so far: other work on the machine does not count. Not from `/proc/thread-self/schedstat`: on an idle kernel that moves
/// only with the timer's tick, 4 ms.
fn cpu_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(Duration::ZERO, Duration::from)
}

/// Schedules done and violations found by an earlier run; none if there is no legible note.
fn read_note(path: &Path) -> (u64, u64) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut numbers = text
        .split_whitespace()
        .map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn write_note(path: Option<&Path>, done: u64, violations: u64) {
    let Some(path) = path else { return };
    let written = path
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(path, format!("{done} {violations}\n")));
    if let Err(error) = written {
        eprintln!(
            "volume soak: progress is not noted in {}: {error}",
            path.display()
        );
    }
}
