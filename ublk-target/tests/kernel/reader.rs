//! Readers that compare every byte, with direct I/O, and keep their file open whatever happens to the server.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::fixture::{Image, mix};

const READ_BYTES_MAX: u64 = 1 << 20;

pub fn open_direct(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

/// Memory that direct I/O accepts.
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    pub fn new(len: usize) -> Self {
        let memory = vec![0xa5; len + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self { memory, start }
    }

    pub fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + len]
    }
}

/// Reads `[at, at + len)` and compares it.
pub fn check(
    file: &File,
    image: &Image,
    at: u64,
    len: usize,
    buffer: &mut Aligned,
) -> Result<(), Box<dyn Error>> {
    let got = buffer.bytes(len);
    got.fill(0xa5);
    file.read_exact_at(got, at)
        .map_err(|error| format!("read of {len} bytes at {at}: {error}"))?;
    let mut expected = vec![0; len];
    image.expect(at, &mut expected);
    match got
        .iter()
        .zip(&expected)
        .position(|(got, expected)| got != expected)
    {
        None => Ok(()),
        Some(byte) => Err(format!(
            "read of {len} bytes at {at}: byte {byte} is {:#x}, expected {:#x}",
            got[byte], expected[byte]
        )
        .into()),
    }
}

/// Every byte, in reads of `step` bytes.
pub fn check_all(file: &File, image: &Image, step: usize) -> Result<(), Box<dyn Error>> {
    let mut buffer = Aligned::new(step);
    let mut at = 0;
    while at < image.device_bytes() {
        let len = usize::try_from(image.device_bytes() - at)?.min(step);
        check(file, image, at, len, &mut buffer)?;
        at += len as u64;
    }
    Ok(())
}

/// A place and length in whole units of `unit` bytes, up to 1 MiB.
pub fn random_read(image: &Image, random: u64, unit: u64) -> (u64, usize) {
    let units = image.device_bytes() / unit;
    let start = mix(random) % units;
    // Short ones more often than long ones.
    let longest = (READ_BYTES_MAX / unit)
        >> (mix(random ^ 1) % 11).min(u64::from((READ_BYTES_MAX / unit).ilog2()));
    let len = (1 + mix(random ^ 2) % longest.max(1)).min(units - start);
    (
        start * unit,
        usize::try_from(len * unit).expect("at most 1 MiB"),
    )
}

/// Threads that read and compare until they are stopped.
pub struct Readers {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Readers {
    pub fn start(path: &Path, image: &Arc<Image>, threads: u64) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let reads = Arc::new(AtomicU64::new(0));
        // One open file for all: it stays the same through every kill.
        let file = Arc::new(open_direct(path)?);
        let threads = (0..threads).map(|thread| {
            let (stop, reads, file, image) =
                (stop.clone(), reads.clone(), file.clone(), image.clone());
            std::thread::spawn(move || {
                let mut buffer = Aligned::new(usize::try_from(READ_BYTES_MAX).expect("1 MiB"));
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let (at, len) = random_read(&image, thread << 32 | round, 512);
                    check(&file, &image, at, len, &mut buffer)
                        .map_err(|error| error.to_string())?;
                    reads.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        Ok(Self {
            threads: threads.collect(),
            stop,
            reads,
        })
    }

    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Waits until `more` reads have been answered.
    pub fn wait_for(&self, more: u64) -> Result<(), Box<dyn Error>> {
        let wanted = self.reads() + more;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while self.reads() < wanted {
            if std::time::Instant::now() > deadline {
                return Err("readers stand still".into());
            }
            if self.threads.iter().any(JoinHandle::is_finished) {
                return Err("a reader ended".into());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(())
    }

    /// Stops them; an error if one of them saw one.
    pub fn finish(self) -> Result<u64, Box<dyn Error>> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| "a reader panicked")??;
        }
        Ok(self.reads.load(Ordering::Relaxed))
    }
}
