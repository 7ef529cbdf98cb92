//! Threads that write, zero, flush and read a device, and know at each moment what every sector must hold.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::aligned::AlignedBuffer;
use super::expected::Expected;
use super::journal::{Journal, Kind, Promises, Record};
use super::lanes::{Lanes, WRITE_SECTORS_MAX};
use super::pattern::mix;
use super::promise::{Floor, judge};
use super::sector::{self, SECTOR_BYTES};

/// Faults beyond this number are counted, but not described.
const FAULTS_DESCRIBED_MAX: u64 = 20;
/// Writes that a thread notes at most before it flushes.
const UNFLUSHED_MAX: usize = 1000;
/// Sectors of one read when everything is read.
const READ_SECTORS: u64 = 1024;

// `BLKDISCARD` and `BLKZEROOUT` of linux/fs.h: a pair of offset and length, in bytes.
#[allow(missing_docs, reason = "the macro has no place for a text")]
mod ioctls {
    nix::ioctl_write_ptr_bad!(block_discard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_write_ptr_bad!(block_zero_out, nix::request_code_none!(0x12, 127), [u64; 2]);
}
use ioctls::{block_discard, block_zero_out};

/// What was done so far.
#[derive(Debug, Default)]
pub struct Tally {
    writes: AtomicU64,
    reads: AtomicU64,
    flushes: AtomicU64,
    zeroes: AtomicU64,
    no_space: AtomicU64,
    errors: AtomicU64,
    mismatches: AtomicU64,
    longest_pause_ms: AtomicU64,
}

impl Tally {
    /// One line of `field=value`.
    pub fn line(&self) -> String {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "writes={} reads={} flushes={} zeroes={} no_space={} errors={} mismatches={} longest_pause_ms={}",
            value(&self.writes),
            value(&self.reads),
            value(&self.flushes),
            value(&self.zeroes),
            value(&self.no_space),
            value(&self.errors),
            value(&self.mismatches),
            value(&self.longest_pause_ms)
        )
    }

    /// Whether nothing went wrong.
    pub fn is_good(&self) -> bool {
        self.errors.load(Ordering::Relaxed) == 0 && self.mismatches.load(Ordering::Relaxed) == 0
    }
}

/// The device under test, and its base.
#[derive(Debug)]
pub struct Device {
    /// For reads, writes and flushes.
    pub file: File,
    /// The same, opened so that every write is a FUA write.
    pub durable: File,
    /// Whether it can discard; a regular file is written zeros instead.
    pub is_block_device: bool,
    /// What shows where nothing was written.
    pub base: Expected,
}

/// Which operations there are besides writes and reads.
#[derive(Debug, Clone, Copy)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct Mix {
    /// Discards and writes of zeros.
    pub zeroes: bool,
    /// Flushes.
    pub flushes: bool,
    /// Writes that are durable when they return.
    pub fua: bool,
    /// ENOSPC is an answer, not a fault.
    pub no_space_is_fine: bool,
}

/// A device under several writing threads.
#[derive(Debug)]
pub struct Writer {
    /// What is written to.
    pub device: Device,
    /// Where flushed writes are noted.
    pub journal: Journal,
    /// Object that the sectors name.
    pub tag: u64,
    /// Number of threads.
    pub threads: u64,
    /// Decides ranges and order.
    pub seed: u64,
    /// What is done.
    pub mix: Mix,
    /// Where faults are described.
    pub log: Mutex<File>,
    /// Ends the threads.
    pub stop: AtomicBool,
    /// Shared by the threads.
    pub tally: Tally,
    /// What each sector holds: `Floor` words.
    current: Vec<AtomicU64>,
    next_generation: AtomicU64,
}

/// What is left of a thread when it ended.
struct Hand<'a> {
    writer: &'a Writer,
    unflushed: Vec<Record>,
    buffer: AlignedBuffer,
    base: Vec<u8>,
}

impl Writer {
    /// Goes on from `promises`, which must be exactly what the device holds.
    pub fn new(
        device: Device,
        journal: Journal,
        promises: &Promises,
        (threads, seed, mix): (u64, u64, Mix),
        log: File,
    ) -> Self {
        Self {
            device,
            journal,
            tag: promises.tag,
            threads,
            seed,
            mix,
            log: Mutex::new(log),
            stop: AtomicBool::new(false),
            tally: Tally::default(),
            current: promises
                .floors
                .iter()
                .map(|floor| AtomicU64::new(floor.to_word()))
                .collect(),
            next_generation: AtomicU64::new(promises.first_generation()),
        }
    }

    /// Writes until `stop` is set, or `operations` were done; then flushes, and notes that.
    pub fn run_thread(&self, thread: u64, operations: Option<u64>) {
        let lanes = Lanes::new(self.current.len() as u64, self.threads);
        let longest = usize_of(WRITE_SECTORS_MAX) * SECTOR_BYTES;
        let mut hand = Hand {
            writer: self,
            unflushed: Vec::new(),
            buffer: AlignedBuffer::new(longest),
            base: vec![0; longest],
        };
        let mut random = mix(self.seed ^ mix(thread));
        let mut done = 0;
        while !self.stop.load(Ordering::Relaxed) && operations.is_none_or(|most| done < most) {
            random = mix(random);
            let Some((first, count)) = lanes.range(thread, random) else {
                break;
            };
            let from = Instant::now();
            let outcome = hand.act(mix(random ^ 6) % 100, first, count);
            let took_ms = u64::try_from(from.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.tally
                .longest_pause_ms
                .fetch_max(took_ms, Ordering::Relaxed);
            if let Err(error) = outcome {
                self.fault(
                    &self.tally.errors,
                    &format!("thread {thread}, {count} sectors at {first}: {error}"),
                );
            }
            done += 1;
        }
        if let Err(error) = hand.flush() {
            self.fault(
                &self.tally.errors,
                &format!("thread {thread}, last flush: {error}"),
            );
        }
    }

    /// Reads everything and demands exactly what was written.
    pub fn check_all(&self) {
        let sectors = self.current.len() as u64;
        let mut hand = Hand {
            writer: self,
            unflushed: Vec::new(),
            buffer: AlignedBuffer::new(usize_of(READ_SECTORS) * SECTOR_BYTES),
            base: vec![0; usize_of(READ_SECTORS) * SECTOR_BYTES],
        };
        for first in (0..sectors).step_by(usize_of(READ_SECTORS)) {
            if let Err(error) = hand.read(first, READ_SECTORS.min(sectors - first)) {
                self.fault(&self.tally.errors, &format!("read at {first}: {error}"));
            }
        }
    }

    fn fault(&self, counter: &AtomicU64, text: &str) {
        if counter.fetch_add(1, Ordering::Relaxed) < FAULTS_DESCRIBED_MAX {
            self.describe(&format!("fault: {text}"));
        }
    }

    /// Adds a line to the log.
    pub fn describe(&self, line: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // One write: who reads the log meanwhile sees whole lines.
        if let Err(error) = log.write_all(format!("{line}\n").as_bytes()) {
            eprintln!("cannot write the log ({error}): {line}");
        }
    }

    fn set(&self, first: u64, count: u64, floor: Floor) {
        for current in &self.current[usize_of(first)..usize_of(first + count)] {
            current.store(floor.to_word(), Ordering::Relaxed);
        }
    }
}

impl Hand<'_> {
    /// One operation; `dice` is below 100.
    fn act(&mut self, dice: u64, first: u64, count: u64) -> io::Result<()> {
        let Mix {
            zeroes,
            flushes,
            fua,
            ..
        } = self.writer.mix;
        match dice {
            0..5 if flushes => self.flush(),
            5..9 if fua => self.write(first, count, true),
            9..15 if zeroes => self.zero(first, count, dice.is_multiple_of(2)),
            15..30 => self.read(first, count),
            _ => self.write(first, count, false),
        }?;
        if self.unflushed.len() >= UNFLUSHED_MAX {
            if flushes {
                return self.flush();
            }
            self.unflushed.clear();
        }
        Ok(())
    }

    fn write(&mut self, first: u64, count: u64, durable: bool) -> io::Result<()> {
        let writer = self.writer;
        let generation = writer.next_generation.fetch_add(1, Ordering::Relaxed);
        let bytes = self.buffer.first(usize_of(count) * SECTOR_BYTES);
        for (number, one) in (first..).zip(bytes.chunks_exact_mut(SECTOR_BYTES)) {
            sector::fill(writer.tag, number, generation, one);
        }
        let file = if durable {
            &writer.device.durable
        } else {
            &writer.device.file
        };
        let outcome = file.write_at(bytes, first * SECTOR_BYTES as u64);
        let len_bytes = bytes.len();
        writer.tally.writes.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(written) if written == len_bytes => {}
            Ok(written) => return Err(io::Error::other(format!("short write of {written}"))),
            Err(error)
                if error.raw_os_error() == Some(libc::ENOSPC) && writer.mix.no_space_is_fine =>
            {
                writer.tally.no_space.fetch_add(1, Ordering::Relaxed);
                return self.after_no_space(first, count, generation);
            }
            Err(error) => return Err(error),
        }
        let floor = Floor {
            generation,
            is_zero: false,
        };
        writer.set(first, count, floor);
        let record = Record {
            kind: Kind::Flushed,
            first,
            count,
            generation,
        };
        if durable {
            return writer.journal.append(&[record]);
        }
        self.unflushed.push(record);
        Ok(())
    }

    /// Each sector of a write that found no space is as it was, or new.
    fn after_no_space(&mut self, first: u64, count: u64, generation: u64) -> io::Result<()> {
        let new = Floor {
            generation,
            is_zero: false,
        };
        self.read_as(first, count, |found, sector, old, is_base| {
            let place = (self.writer.tag, sector);
            judge(found, place, old, 0, is_base, true)
                .or_else(|_| judge(found, place, new, 0, false, true))
        })
    }

    fn zero(&mut self, first: u64, count: u64, discard: bool) -> io::Result<()> {
        let writer = self.writer;
        let generation = writer.next_generation.fetch_add(1, Ordering::Relaxed);
        let record = |kind| Record {
            kind,
            first,
            count,
            generation,
        };
        writer.journal.append(&[record(Kind::ZeroBegun)])?;
        let range = [first, count].map(|sectors| sectors * SECTOR_BYTES as u64);
        if writer.device.is_block_device {
            let descriptor = writer.device.file.as_raw_fd();
            // SAFETY: the descriptor is open for as long as the writer is there, and the kernel reads the two words only.
            let outcome = unsafe {
                if discard {
                    block_discard(descriptor, &raw const range)
                } else {
                    block_zero_out(descriptor, &raw const range)
                }
            };
            match outcome {
                Err(nix::errno::Errno::ENOSPC) if writer.mix.no_space_is_fine => {
                    writer.tally.no_space.fetch_add(1, Ordering::Relaxed);
                    return self.after_no_space_to_zero(first, count, generation);
                }
                other => other.map_err(io::Error::from)?,
            };
        } else {
            let bytes = self.buffer.first(usize_of(range[1]));
            bytes.fill(0);
            writer.device.file.write_all_at(bytes, range[0])?;
        }
        writer.tally.zeroes.fetch_add(1, Ordering::Relaxed);
        let floor = Floor {
            generation,
            is_zero: true,
        };
        writer.set(first, count, floor);
        self.unflushed.push(record(Kind::FlushedZero));
        Ok(())
    }

    fn after_no_space_to_zero(
        &mut self,
        first: u64,
        count: u64,
        generation: u64,
    ) -> io::Result<()> {
        self.read_as(first, count, |found, sector, old, is_base| {
            let place = (self.writer.tag, sector);
            judge(found, place, old, 0, is_base, true)
                .or_else(|_| judge(found, place, old, generation, is_base, false))
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.device.file.sync_data()?;
        self.writer.tally.flushes.fetch_add(1, Ordering::Relaxed);
        self.writer.journal.append(&self.unflushed)?;
        self.unflushed.clear();
        Ok(())
    }

    fn read(&mut self, first: u64, count: u64) -> io::Result<()> {
        self.writer.tally.reads.fetch_add(1, Ordering::Relaxed);
        let tag = self.writer.tag;
        self.read_as(first, count, |found, sector, old, is_base| {
            judge(found, (tag, sector), old, 0, is_base, true)
        })
    }

    /// Reads, lets `judged` say what each sector is, and keeps that as its content; what is wrong is a mismatch.
    fn read_as(
        &mut self,
        first: u64,
        count: u64,
        judged: impl Fn(sector::Found, u64, Floor, bool) -> Result<Floor, super::promise::Wrong>,
    ) -> io::Result<()> {
        let writer = self.writer;
        let len_bytes = usize_of(count) * SECTOR_BYTES;
        let bytes = self.buffer.first(len_bytes);
        writer
            .device
            .file
            .read_exact_at(bytes, first * SECTOR_BYTES as u64)?;
        let base = &mut self.base[..len_bytes];
        writer.device.base.fill(first * SECTOR_BYTES as u64, base)?;
        for (number, (one, base)) in (first..).zip(
            bytes
                .chunks_exact(SECTOR_BYTES)
                .zip(base.chunks_exact(SECTOR_BYTES)),
        ) {
            let current = &writer.current[usize_of(number)];
            let old = Floor::from_word(current.load(Ordering::Relaxed));
            let found = sector::classify(one);
            match judged(found, number, old, one == base) {
                Ok(floor) => current.store(floor.to_word(), Ordering::Relaxed),
                Err(wrong) => writer.fault(
                    &writer.tally.mismatches,
                    &format!("sector {number} is {wrong:?}: it must be {old:?}, and is {found:?}"),
                ),
            }
        }
        Ok(())
    }
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
