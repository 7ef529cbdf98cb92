//! Plan and engine against fio's io_uring engine and against bare io_uring, without ublk: so it runs on any machine.
//!
//! `engine-ratio [--rounds N] FILE_OR_DEVICE...`: 4 KiB at depth 32 on the first 256 MiB of each, which are overwritten. Reads of an unwritten
//! clone (through its layer to the image), reads of a written one, overwrites, first touches. A round is a turn of each, the order turned
//! about; the ratios are medians over the rounds. Bound: 0.97. fio is left out, and told of, where it is not installed.

mod fio;

use std::error::Error;
use std::path::{Path, PathBuf};

use bedplate_benches::paired::{Comparison, compare, timed};
use bedplate_benches::random::Random;
use bedplate_benches::rig::Rig;

/// Long enough that reading the clock does not show, short enough that a disturbance hits few turns.
const REQUESTS_A_TURN: u32 = 2048;
const BOUND: f64 = 0.97;

fn main() -> Result<(), Box<dyn Error>> {
    let mut rounds = 60;
    let mut paths = Vec::new();
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--rounds" {
            let value = arguments.next().ok_or("--rounds N")?;
            rounds = value.to_string_lossy().parse()?;
        } else {
            paths.push(PathBuf::from(argument));
        }
    }
    if paths.is_empty() {
        return Err("engine-ratio [--rounds N] FILE_OR_DEVICE...".into());
    }
    println!(
        "4 KiB, depth 32, one thread; medians of {rounds} rounds (fio: of {}), quartiles in brackets",
        fio::ROUNDS
    );
    for path in paths {
        match measure(&path, rounds) {
            Ok(()) => {}
            Err(why) => println!("skipped: {}: {why}", path.display()),
        }
    }
    Ok(())
}

fn measure(path: &Path, rounds: usize) -> Result<(), Box<dyn Error>> {
    let mut rig = Rig::new(path)?;
    let (mut ours_random, mut raw_random) = (Random::seeded(6), Random::seeded(6));
    println!("\n{}", path.display());

    let Rig { reads, raw, .. } = &mut rig;
    let read = compare(
        rounds,
        REQUESTS_A_TURN,
        || timed(|| reads.run(&mut ours_random, REQUESTS_A_TURN)),
        || timed(|| raw.run(&mut raw_random, REQUESTS_A_TURN)),
    );
    say("read through an unwritten clone", &read);
    fio::compare(
        path,
        "randread",
        || reads.run(&mut ours_random, REQUESTS_A_TURN),
        REQUESTS_A_TURN,
    );

    first_touches(&mut rig, rounds);

    rig.write_all();
    let blocks = rig.clone.blocks().into();
    let Rig {
        reads,
        writes,
        raw,
        clone,
    } = &mut rig;
    reads.serve(clone.stack());
    let read = compare(
        rounds,
        REQUESTS_A_TURN,
        || timed(|| reads.run(&mut ours_random, REQUESTS_A_TURN)),
        || timed(|| raw.run(&mut raw_random, REQUESTS_A_TURN)),
    );
    say("read of a written clone", &read);
    let mut next = || u32::try_from(ours_random.below(blocks)).unwrap_or(0);
    let overwrite = compare(
        rounds,
        REQUESTS_A_TURN,
        || timed(|| writes.run(clone, REQUESTS_A_TURN, &mut next)),
        || timed(|| raw.write(&mut raw_random, REQUESTS_A_TURN)),
    );
    say("overwrite", &overwrite);
    fio::compare(
        path,
        "randwrite",
        || writes.run(clone, REQUESTS_A_TURN, &mut next),
        REQUESTS_A_TURN,
    );
    Ok(())
}

/// A clone has a first touch for each block: when they are used up, the next clone comes, off the clock.
fn first_touches(rig: &mut Rig, rounds: usize) {
    let mut raw_random = Random::seeded(7);
    let Rig {
        writes, raw, clone, ..
    } = rig;
    let blocks = clone.blocks();
    let mut order = Vec::new();
    let touch = compare(
        rounds,
        REQUESTS_A_TURN,
        || {
            if order.len() < REQUESTS_A_TURN as usize {
                clone.renew();
                order = Random::seeded(8).permutation(blocks);
            }
            timed(|| writes.run(clone, REQUESTS_A_TURN, || order.pop().unwrap_or(0)))
        },
        || timed(|| raw.write(&mut raw_random, REQUESTS_A_TURN)),
    );
    say("first touch / raw write", &touch);
    clone.renew();
}

fn say(what: &str, result: &Comparison) {
    println!(
        "  {what:<34} / raw io_uring {:.3} [{:.3} {:.3}], {:+.0} ns CPU, raw {:.0}/s  {}",
        result.speed_ratio,
        result.quartiles.0,
        result.quartiles.1,
        result.extra_cpu_ns,
        result.yardstick_per_s,
        if result.speed_ratio >= BOUND {
            "holds"
        } else {
            "below 0.97"
        },
    );
}
