//! Turns of fio, which is what others measure with: its io_uring engine, a registered file, and as many requests handed over at once as ours.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

/// fio needs some 200 ms to start, so its turns are longer and fewer.
pub const ROUNDS: usize = 9;
const TURN: Duration = Duration::from_secs(1);

/// Compares; prints a line. `work` does `requests` requests.
pub fn compare(path: &Path, rw: &str, mut work: impl FnMut(), requests: u32) {
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let mut ours = || {
            let (from, mut done) = (Instant::now(), 0.0);
            while from.elapsed() < TURN {
                work();
                done += f64::from(requests);
            }
            done / from.elapsed().as_secs_f64()
        };
        // The order turned about, so that neither always comes second.
        let (ours, theirs) = if round % 2 == 0 {
            let ours = ours();
            (ours, run(path, rw))
        } else {
            let theirs = run(path, rw);
            (ours(), theirs)
        };
        let Some(theirs) = theirs else {
            println!("  skipped: {rw} against fio: fio is not installed, or does not run here");
            return;
        };
        ratios.push(ours / theirs);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "  {:<34} / fio io_uring {:.3} [{:.3} {:.3}]",
        if rw == "randread" {
            "read through an unwritten clone"
        } else {
            "overwrite"
        },
        ratios[ROUNDS / 2],
        ratios[ROUNDS / 4],
        ratios[ROUNDS * 3 / 4],
    );
}

/// Requests a second.
fn run(path: &Path, rw: &str) -> Option<f64> {
    let output = Command::new("fio")
        .args([
            "--name=turn",
            "--ioengine=io_uring",
            "--registerfiles",
            "--direct=1",
            "--bs=4k",
            "--iodepth=32",
        ])
        .args([
            "--iodepth_batch_submit=32",
            "--iodepth_batch_complete_min=1",
            "--iodepth_batch_complete_max=32",
        ])
        .args([
            "--size=96M",
            "--time_based",
            "--runtime=1",
            "--norandommap",
            "--thread",
            "--output-format=json",
        ])
        .args(["--gtod_reduce=1", "--invalidate=0", "--allow_file_create=0"])
        .arg(format!("--rw={rw}"))
        .arg(format!("--filename={}", path.display()))
        .output()
        .ok()?;
    let json: Value = serde_json::from_slice(&output.stdout).ok()?;
    let direction = if rw == "randread" { "read" } else { "write" };
    json.pointer(&format!("/jobs/0/{direction}/iops"))?.as_f64()
}
