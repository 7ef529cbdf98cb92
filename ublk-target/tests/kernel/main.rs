//! The real kernel: devices attached, read, killed, recovered. Needs root, the module `ublk_drv` and disks to overwrite.
//!
//! ```text
//! kernel [NAME...]        runs the scenarios whose names contain one of NAME; all of them without
//! kernel serve OPTION...  a server that scenarios kill; driven through its standard input
//!
//! BEDPLATE_TEST_DISKS     block devices or files to overwrite, separated by commas; else files in the temporary folder
//! BEDPLATE_TEST_SEED      seed of the images; printed
//! ```
//!
//! Prints `ok NAME SECONDS`, `FAILED NAME: why` or `skipped NAME: why` a scenario, and fails if one failed.

mod edges;
mod fixture;
mod long;
mod many;
mod reader;
mod replicas;
mod scenarios;
mod server;
mod volume;
mod writer;
mod writes;

use std::process::ExitCode;
use std::time::Instant;

use bedplate_ublk_target::KernelSupport;
use scenarios::SCENARIOS;

/// What a scenario returns: why it failed.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "serve") {
        return match server::serve(&args[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("error {error}");
                ExitCode::FAILURE
            }
        };
    }
    // What `cargo test` passes on to every harness is not a name.
    let names: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let support = match KernelSupport::probe() {
        Ok(support) => support,
        Err(error) => {
            println!(
                "skipped all {} scenarios: {error}; {}",
                SCENARIOS.len(),
                error.remedy()
            );
            return ExitCode::SUCCESS;
        }
    };
    println!(
        "seed {} zero_copy {} quiesce {}",
        fixture::seed(),
        support.zero_copy(),
        support.quiesce()
    );
    let mut failed = 0;
    for (name, modes, run) in SCENARIOS {
        if !names.is_empty() && !names.iter().any(|wanted| name.contains(wanted.as_str())) {
            continue;
        }
        for mode in *modes {
            let name = format!("{name}[{mode:?}]");
            if *mode == bedplate_ublk_target::DataMode::ZeroCopy && !support.zero_copy() {
                println!("skipped {name}: this kernel has no zero copy");
                continue;
            }
            let start = Instant::now();
            match run(*mode) {
                Ok(()) => println!("ok {name} {:.1} s", start.elapsed().as_secs_f64()),
                Err(error) => {
                    println!("FAILED {name}: {error}");
                    failed += 1;
                }
            }
            fixture::remove_leftovers();
            many::remove_leftovers();
        }
    }
    println!("{failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
