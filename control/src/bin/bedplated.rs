//! `bedplated`, the daemon.

use std::process::ExitCode;

use bedplate_control::daemon::{args::Args, run};
use clap::Parser as _;

fn main() -> ExitCode {
    run::main(&Args::parse())
}
