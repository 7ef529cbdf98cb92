//! Writes a device with sectors that say whose they are, notes on another disk what was flushed, and after a crash says whether the device
//! kept its promises: nothing flushed is lost, and no sector holds what was never written there.
//!
//! Exits 1 on any error, wrong sector or broken promise.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bedplate_tests::guest::aligned::AlignedBuffer;
use bedplate_tests::guest::check;
use bedplate_tests::guest::expected::Expected;
use bedplate_tests::guest::journal::{self, Journal, Promises};
use bedplate_tests::guest::sector::{self, SECTOR_BYTES};
use bedplate_tests::guest::writer::{Device, Mix, Writer};
use clap::{Args, Parser};
use nix::sys::signal::{SigHandler, Signal, signal};

/// A journal in a regular file may grow to this.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// How often the tally is logged.
const TALLY_INTERVAL: Duration = Duration::from_millis(200);
/// How long operations in flight may take to end after the stop.
const END_LIMIT: Duration = Duration::from_secs(120);

static STOP: AtomicBool = AtomicBool::new(false);

#[derive(Parser)]
#[command(about = "Writes a device, and says after a crash whether it lost anything")]
enum Command {
    /// Write until SIGTERM, or for so many operations, then flush, read everything and compare
    Write(WriteArgs),
    /// Read everything, and judge it by the journal
    Check(CheckArgs),
    /// Write one object's sectors in order, until the device's end or no space is left
    Fill {
        #[arg(long)]
        device: PathBuf,
        #[arg(long)]
        tag: u64,
        /// This many bytes only
        #[arg(long)]
        bytes: Option<u64>,
    },
    /// Count the sectors that name an object, wherever they are
    Count {
        #[arg(long)]
        device: PathBuf,
        #[arg(long)]
        tag: u64,
    },
}

#[derive(Args)]
struct Under {
    #[arg(long)]
    device: PathBuf,
    /// Where it is noted what was flushed: a disk, or a file
    #[arg(long)]
    journal: PathBuf,
    /// What shows where nothing was written: an image file, or seed:SEED:SIZE:ALLOCATED; zeros without
    #[arg(long, default_value = "seed:0:0:0")]
    base: String,
}

#[derive(Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
struct WriteArgs {
    #[command(flatten)]
    under: Under,
    /// Where the tally goes, a line every 200 ms
    #[arg(long)]
    log: PathBuf,
    /// Object that the sectors name
    #[arg(long, default_value_t = 1)]
    tag: u64,
    #[arg(long, default_value_t = 8)]
    threads: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the first so many bytes only; from the first round on, always the same
    #[arg(long)]
    bytes: Option<u64>,
    /// Operations of each thread
    #[arg(long)]
    operations: Option<u64>,
    /// Nothing was written before: forget the journal
    #[arg(long)]
    fresh: bool,
    #[arg(long)]
    no_zeroes: bool,
    #[arg(long)]
    no_flushes: bool,
    #[arg(long)]
    no_fua: bool,
    /// ENOSPC is an answer, not an error
    #[arg(long)]
    no_space_is_fine: bool,
}

#[derive(Args)]
struct CheckArgs {
    #[command(flatten)]
    under: Under,
    /// Leave out what was flushed in the last round: the device is as it was somewhere in it
    #[arg(long)]
    floor_only: bool,
    /// The last round ended in order: nothing may be newer than what was flushed
    #[arg(long)]
    exact: bool,
    /// If all is well, flush, and note what is there now as what must be there from now on
    #[arg(long)]
    settle: bool,
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Write(args) => write(&args),
        Command::Check(args) => judge(&args),
        Command::Fill { device, tag, bytes } => fill(&device, tag, bytes),
        Command::Count { device, tag } => count(&device, tag),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("guest-writer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// The length of a block device is where its end is; its metadata says 0.
fn len_bytes(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

fn open_journal(path: &Path) -> io::Result<(File, u64)> {
    let is_disk = path
        .metadata()
        .is_ok_and(|metadata| metadata.file_type().is_block_device());
    if is_disk {
        let file = open(path, libc::O_DIRECT | libc::O_DSYNC)?;
        let size_bytes = len_bytes(&file)?;
        return Ok((file, size_bytes));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_DSYNC)
        .open(path)?;
    Ok((file, JOURNAL_BYTES_MAX))
}

fn write(args: &WriteArgs) -> io::Result<bool> {
    let file = open(&args.under.device, libc::O_DIRECT)?;
    let is_block_device = file.metadata()?.file_type().is_block_device();
    let device_bytes = len_bytes(&file)?;
    let (journal, journal_bytes) = open_journal(&args.under.journal)?;
    let mut promises = if args.fresh {
        let bytes = args.bytes.unwrap_or(device_bytes).min(device_bytes);
        let sectors = usize::try_from(bytes / SECTOR_BYTES as u64).map_err(io::Error::other)?;
        Promises::new(args.tag, sectors)
    } else {
        journal::load(&journal, false)?
    };
    promises.round += 1;
    let journal = Journal::begin(journal, journal_bytes, &promises)?;
    let device = Device {
        file,
        durable: open(&args.under.device, libc::O_DIRECT | libc::O_DSYNC)?,
        is_block_device,
        base: Expected::open(&args.under.base)?,
    };
    let mix = Mix {
        zeroes: !args.no_zeroes,
        flushes: !args.no_flushes,
        fua: !args.no_flushes && !args.no_fua,
        no_space_is_fine: args.no_space_is_fine,
    };
    let seed = args.seed ^ promises.round << 32;
    let log = File::create(&args.log)?;
    run(
        Writer::new(device, journal, &promises, (args.threads, seed, mix), log),
        args.operations,
    )
}

fn run(writer: Writer, operations: Option<u64>) -> io::Result<bool> {
    extern "C" fn stop(_: i32) {
        STOP.store(true, Ordering::Relaxed);
    }
    // SAFETY: the handler does nothing but store to an atomic, which is async-signal-safe.
    unsafe { signal(Signal::SIGTERM, SigHandler::Handler(stop)) }?;
    // Detached threads: one that waits for a device that never answers must not keep this process from saying so.
    let writer: &'static Writer = Box::leak(Box::new(writer));
    let threads: Vec<_> = (0..writer.threads)
        .map(|number| std::thread::spawn(move || writer.run_thread(number, operations)))
        .collect();
    writer.describe(&format!("writing, seed {}", writer.seed));
    let mut stopped_at = None;
    while threads.iter().any(|thread| !thread.is_finished()) {
        std::thread::sleep(TALLY_INTERVAL);
        writer.describe(&writer.tally.line());
        if STOP.load(Ordering::Relaxed) {
            writer.stop.store(true, Ordering::Relaxed);
            if stopped_at.get_or_insert_with(Instant::now).elapsed() > END_LIMIT {
                writer.describe("fault: operations did not end after the stop");
                println!("hung: {}", writer.tally.line());
                return Ok(false);
            }
        }
    }
    writer.check_all();
    writer.describe(&writer.tally.line());
    println!("{}", writer.tally.line());
    Ok(writer.tally.is_good())
}

fn judge(args: &CheckArgs) -> io::Result<bool> {
    let device = open(&args.under.device, libc::O_DIRECT)?;
    let (journal, journal_bytes) = open_journal(&args.under.journal)?;
    let mut promises = journal::load(&journal, args.floor_only)?;
    let base = Expected::open(&args.under.base)?;
    let verdict = check::check(&device, &base, &mut promises, args.exact)?;
    for fault in &verdict.faults {
        println!("fault: {fault}");
    }
    println!("{}", verdict.line());
    if verdict.is_good() && args.settle {
        device.sync_data()?;
        promises.round += 1;
        Journal::begin(journal, journal_bytes, &promises)?;
    }
    Ok(verdict.is_good())
}

fn fill(device: &Path, tag: u64, bytes: Option<u64>) -> io::Result<bool> {
    let file = open(device, libc::O_DIRECT)?;
    let device_bytes = len_bytes(&file)?;
    let sectors = bytes.unwrap_or(device_bytes).min(device_bytes) / SECTOR_BYTES as u64;
    let mut buffer = AlignedBuffer::new(1 << 20);
    let mut first = 0;
    while first < sectors {
        let count = (sectors - first).min(2048);
        let bytes = buffer.first(usize::try_from(count).map_err(io::Error::other)? * SECTOR_BYTES);
        for (number, one) in (first..).zip(bytes.chunks_exact_mut(SECTOR_BYTES)) {
            sector::fill(tag, number, 1, one);
        }
        match file.write_all_at(bytes, first * SECTOR_BYTES as u64) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                println!("bytes={} no_space=1", first * SECTOR_BYTES as u64);
                file.sync_data()?;
                return Ok(true);
            }
            other => other?,
        }
        first += count;
    }
    file.sync_data()?;
    println!("bytes={} no_space=0", sectors * SECTOR_BYTES as u64);
    Ok(true)
}

fn count(device: &Path, tag: u64) -> io::Result<bool> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(device)?;
    println!("{}", check::count_of(&file, len_bytes(&file)?, tag)?);
    Ok(true)
}
