//! `bedplate`, the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    bedplate_control::cli::main(&std::env::args_os().collect::<Vec<_>>())
}
