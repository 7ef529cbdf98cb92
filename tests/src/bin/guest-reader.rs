//! Reads a device for as long as it is told, and checks every byte. Also makes the images that it checks against.
//!
//! Exits 1 on any error or wrong byte. It opens the device once and never again, so that it notices when a device that
//! went away and came back is not the same one any more.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bedplate_tests::guest::expected::Expected;
use bedplate_tests::guest::pattern::Pattern;
use bedplate_tests::guest::reader::{Reader, Tally};
use clap::{Parser, Subcommand};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{major, minor};

/// How long reads in flight may take to end after the stop.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How often the tally is logged.
const TALLY_INTERVAL: Duration = Duration::from_millis(200);

static STOP: AtomicBool = AtomicBool::new(false);

#[derive(Parser)]
#[command(about = "Checks a device's every byte while it is read; makes images to check against")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the sparse image that SEED describes
    Gen {
        #[arg(long)]
        seed: u64,
        /// Exact length in bytes
        #[arg(long)]
        size: u64,
        /// Bytes of data in it; the rest are holes
        #[arg(long)]
        allocated: u64,
        path: PathBuf,
    },
    /// Read random ranges until SIGTERM, or everything once
    Read {
        #[arg(long)]
        device: PathBuf,
        /// An image file, or seed:SEED:SIZE:ALLOCATED
        #[arg(long)]
        expect: String,
        #[arg(long, default_value_t = 4)]
        threads: u64,
        /// Where the tally goes, a line every 200 ms, the last one at the end
        #[arg(long)]
        log: PathBuf,
        /// Stop after so many seconds
        #[arg(long)]
        seconds: Option<u64>,
        /// Read everything once, in order, instead
        #[arg(long)]
        once: bool,
        /// Decides which ranges are read
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Gen {
            seed,
            size,
            allocated,
            path,
        } => File::create(&path)
            .and_then(|file| {
                Pattern {
                    seed,
                    size_bytes: size,
                    allocated_bytes: allocated,
                }
                .write_to(&file)
            })
            .map(|()| true),
        Command::Read {
            device,
            expect,
            threads,
            log,
            seconds,
            once,
            seed,
        } => open(&device, &expect, &log, seed).map(|reader| {
            if once {
                read_once(&reader)
            } else {
                read_until_stopped(reader, threads, seconds)
            }
        }),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("guest-reader: {error}");
            ExitCode::FAILURE
        }
    }
}

fn open(device: &PathBuf, expect: &str, log: &PathBuf, seed: u64) -> std::io::Result<Reader> {
    let mut device = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_DIRECT)
        .open(device)?;
    // The length of a block device is where its end is; its metadata says 0.
    let device_bytes = device.seek(SeekFrom::End(0))?;
    Ok(Reader {
        block_bytes: block_bytes(&device)?,
        device,
        device_bytes,
        expected: Expected::open(expect)?,
        seed,
        log: Mutex::new(File::create(log)?),
        stop: AtomicBool::new(false),
        tally: Tally::default(),
    })
}

/// The logical block of a block device; a regular file is read in sectors.
fn block_bytes(device: &File) -> std::io::Result<u64> {
    let number = device.metadata()?.rdev();
    let (major, minor) = (major(number), minor(number));
    let queue = format!("/sys/dev/block/{major}:{minor}/queue/logical_block_size");
    match std::fs::read_to_string(queue) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(512),
        text => text?.trim().parse().map_err(std::io::Error::other),
    }
}

fn read_once(reader: &Reader) -> bool {
    reader.run_once();
    finish(reader, true)
}

fn read_until_stopped(reader: Reader, threads: u64, seconds: Option<u64>) -> bool {
    extern "C" fn stop(_: i32) {
        STOP.store(true, Ordering::Relaxed);
    }
    // SAFETY: the handler does nothing but store to an atomic, which is async-signal-safe.
    let handled = unsafe { signal(Signal::SIGTERM, SigHandler::Handler(stop)) };
    if let Err(error) = handled {
        eprintln!("guest-reader: cannot handle SIGTERM: {error}");
        return false;
    }
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    // Detached threads: one that waits for a device that never answers must not keep this process from saying so.
    let reader: &'static Reader = Box::leak(Box::new(reader));
    let threads: Vec<_> = (0..threads)
        .map(|number| std::thread::spawn(move || reader.run_thread(number)))
        .collect();
    reader.describe(&format!(
        "reading {} bytes, seed {}",
        reader.device_bytes, reader.seed
    ));
    while !STOP.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
        std::thread::sleep(TALLY_INTERVAL);
        reader.describe(&reader.tally.line());
    }
    reader.stop.store(true, Ordering::Relaxed);
    let limit = Instant::now() + END_LIMIT;
    while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(10));
    }
    let hung = threads
        .iter()
        .filter(|thread| !thread.is_finished())
        .count();
    if hung > 0 {
        reader.describe(&format!(
            "fault: {hung} reads did not end within {} s of the stop",
            END_LIMIT.as_secs()
        ));
    }
    finish(reader, hung == 0)
}

fn finish(reader: &Reader, all_ended: bool) -> bool {
    reader.describe(&reader.tally.line());
    println!("{}", reader.tally.line());
    all_ended && reader.tally.is_good()
}
