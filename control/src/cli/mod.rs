//! `bedplate`, the command line: a thin client of the API. It keeps no state, and never touches a disk but for
//! `disk format --offline`.

pub mod args;
pub mod client;
pub mod commands;
mod disk;
pub mod follow;
mod image;
pub mod import;
pub mod offline;
pub mod output;
pub mod progress;
pub mod render;
pub mod render_volume;
pub mod size;
pub mod table;
pub mod volume;
pub mod wait;

use crate::api::ApiError;
use crate::error_kind::ErrorKind;
use args::Cli;
use clap::Parser as _;
use clap::error::ErrorKind as ClapErrorKind;
use commands::Context;
use output::Output;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

/// Runs one command line and says how it ended.
pub fn main(args: &[OsString]) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage(&error, wants_json(args))),
    };
    let output = Output::new(&cli.global);
    let context = Context {
        client: client::Client::new(&cli.global.socket),
        output,
        global: cli.global,
    };
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ApiError::new(ErrorKind::Internal, format!("no runtime: {error}")))
        .and_then(|runtime| runtime.block_on(commands::run(&context, cli.command)));
    ExitCode::from(ended.unwrap_or_else(|error| {
        output.error(&error);
        error.kind.exit_code()
    }))
}

/// Prints what clap has to say: help and version, or what is wrong with the command line.
fn usage(error: &clap::Error, json: bool) -> u8 {
    let asked = matches!(
        error.kind(),
        ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion
    );
    if json && !asked {
        let text = error.render().to_string();
        let message = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned();
        let error = ApiError::new(ErrorKind::BadRequest, message).remedy("bedplate --help");
        let line = serde_json::to_string(&error).unwrap_or(error.message);
        let _ = writeln!(std::io::stderr(), "{line}");
    } else {
        // Nobody is left to be told when this fails.
        let _ = error.print();
    }
    if asked {
        0
    } else {
        ErrorKind::BadRequest.exit_code()
    }
}

/// Whether JSON was asked for on a command line that clap could not read.
fn wants_json(args: &[OsString]) -> bool {
    let pair = args
        .windows(2)
        .any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json");
    pair || args
        .iter()
        .any(|arg| matches!(arg.to_str(), Some("-ojson" | "-o=json" | "--output=json")))
}
