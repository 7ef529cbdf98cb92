//! Replays a log of the kernel's dm-log-writes target: `points` says at which entries the disk can be looked at, `to` makes the disk as it was there.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use bedplate_tests::guest::log_writes;
use clap::Parser;

#[derive(Parser)]
#[command(about = "Replays the log of dm-log-writes")]
enum Command {
    /// One line a point, `ENTRIES WHAT`: after so many entries there was a flush, or a mark of that name
    Points {
        log: PathBuf,
        /// Every so many flushes only; marks are always there
        #[arg(long, default_value_t = 1)]
        every: usize,
    },
    /// Carry out entries FROM to TO on DISK, which is as it was after FROM entries
    To {
        log: PathBuf,
        disk: PathBuf,
        #[arg(long, default_value_t = 0)]
        from: usize,
        to: usize,
    },
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("log-replay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> io::Result<()> {
    match command {
        Command::Points { log, every } => {
            let entries = log_writes::entries(&File::open(log)?)?;
            let mut flushes = 0;
            for (count, entry) in (1..).zip(&entries) {
                if let Some(mark) = &entry.mark {
                    println!("{count} {mark}");
                } else if entry.is_flush {
                    flushes += 1;
                    if flushes % every.max(1) == 0 {
                        println!("{count} flush");
                    }
                }
            }
            Ok(())
        }
        Command::To {
            log,
            disk,
            from,
            to,
        } => {
            let log = File::open(log)?;
            let entries = log_writes::entries(&log)?;
            let some = entries.get(from..to).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("the log has {} entries", entries.len()),
                )
            })?;
            let disk = OpenOptions::new().write(true).open(disk)?;
            log_writes::replay(&log, some, &disk)?;
            disk.sync_data()
        }
    }
}
