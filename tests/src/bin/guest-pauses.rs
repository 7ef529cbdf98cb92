//! Keeps one 4 KiB request in flight on each of many devices, reads and writes by turns, until SIGTERM; then says for each device when its longest
//! request was answered and how long that took: after a kill of what serves them, that is when each came back.
//!
//! Without devices it prints the time on the same clock, in milliseconds since the boot. Content is not looked at: guest-reader and
//! guest-writer do that. Exits 1 if any request failed.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bedplate_tests::guest::aligned::AlignedBuffer;
use bedplate_tests::guest::pattern::mix;
use clap::Parser;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::time::{ClockId, clock_gettime};

const REQUEST_BYTES: usize = 4096;

static STOP: AtomicBool = AtomicBool::new(false);

#[derive(Parser)]
#[command(about = "Tells how long each of many devices did not answer")]
struct Arguments {
    devices: Vec<PathBuf>,
}

/// Of one device.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    ended: Duration,
    longest: Duration,
    requests: u64,
}

fn main() -> ExitCode {
    let devices = Arguments::parse().devices;
    if devices.is_empty() {
        println!("{}", milliseconds(now()));
        return ExitCode::SUCCESS;
    }
    // SAFETY: the handler only stores to an atomic.
    if let Err(errno) = unsafe { signal(Signal::SIGTERM, SigHandler::Handler(stop)) } {
        eprintln!("cannot take SIGTERM: {errno}");
        return ExitCode::FAILURE;
    }
    let pauses: Vec<io::Result<Pause>> = std::thread::scope(|scope| {
        let watch = |path| scope.spawn(move || watch(path));
        let threads: Vec<_> = devices.iter().map(|path| watch(path.as_path())).collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined
            .map(|ended| ended.unwrap_or_else(|_| Err(io::Error::other("its thread panicked"))))
            .collect()
    });
    let mut status = ExitCode::SUCCESS;
    for (device, pause) in devices.iter().zip(pauses) {
        match pause {
            Ok(pause) => println!(
                "{} ended_ms={} longest_ms={} requests={}",
                device.display(),
                milliseconds(pause.ended),
                milliseconds(pause.longest),
                pause.requests
            ),
            Err(error) => {
                eprintln!("{}: {error}", device.display());
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}

extern "C" fn stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

fn watch(path: &Path) -> io::Result<Pause> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC);
    let mut device: File = options.open(path)?;
    let request_bytes = REQUEST_BYTES as u64;
    let blocks = device.seek(SeekFrom::End(0))? / request_bytes;
    let mut buffer = AlignedBuffer::new(REQUEST_BYTES);
    let bytes = buffer.first(REQUEST_BYTES);
    let mut pause = Pause::default();
    while !STOP.load(Ordering::Relaxed) {
        let at = mix(pause.requests) % blocks * request_bytes;
        let from = now();
        if pause.requests.is_multiple_of(2) {
            device.write_all_at(bytes, at)?;
        } else {
            device.read_exact_at(bytes, at)?;
        }
        let ended = now();
        if ended.saturating_sub(from) > pause.longest {
            pause.longest = ended.saturating_sub(from);
            pause.ended = ended;
        }
        pause.requests += 1;
    }
    Ok(pause)
}

/// Since the boot. A kernel without this clock there is not.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

fn milliseconds(time: Duration) -> String {
    format!("{}.{:03}", time.as_millis(), time.subsec_micros() % 1000)
}
