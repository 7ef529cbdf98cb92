//! Threads that read random ranges of a device through one open file, and compare every byte.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::aligned::AlignedBuffer;
use super::expected::Expected;
use super::pattern::mix;

/// Longest read.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Faults beyond this number are counted, but not described.
const FAULTS_DESCRIBED_MAX: u64 = 20;

/// What was read so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// Reads that ended, well or not.
    pub reads: AtomicU64,
    /// Bytes compared.
    pub bytes: AtomicU64,
    /// Reads that failed or were short.
    pub errors: AtomicU64,
    /// Reads with a wrong byte.
    pub mismatches: AtomicU64,
    /// The longest that one read took, in milliseconds.
    pub longest_pause_ms: AtomicU64,
}

impl Tally {
    /// One line of `field=value`.
    pub fn line(&self) -> String {
        format!(
            "reads={} bytes={} errors={} mismatches={} longest_pause_ms={}",
            self.reads.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
            self.errors.load(Ordering::Relaxed),
            self.mismatches.load(Ordering::Relaxed),
            self.longest_pause_ms.load(Ordering::Relaxed)
        )
    }

    /// Whether nothing went wrong.
    pub fn is_good(&self) -> bool {
        self.errors.load(Ordering::Relaxed) == 0 && self.mismatches.load(Ordering::Relaxed) == 0
    }
}

/// A device under the eyes of several threads.
#[derive(Debug)]
pub struct Reader {
    /// Opened once, with direct I/O; all threads read through it.
    pub device: File,
    /// Its length.
    pub device_bytes: u64,
    /// Its logical block: every offset and length is a multiple of it.
    pub block_bytes: u64,
    /// What it must hold.
    pub expected: Expected,
    /// Decides which ranges are read.
    pub seed: u64,
    /// Where faults are described.
    pub log: Mutex<File>,
    /// Ends the threads.
    pub stop: AtomicBool,
    /// Shared by the threads.
    pub tally: Tally,
}

impl Reader {
    /// Reads until `stop` is set.
    pub fn run_thread(&self, number: u64) {
        let longest = usize::try_from(READ_BYTES_MAX).unwrap_or(usize::MAX);
        let mut actual = AlignedBuffer::new(longest);
        let mut expected = vec![0; longest];
        let mut random = mix(self.seed ^ mix(number));
        while !self.stop.load(Ordering::Relaxed) {
            random = mix(random);
            let (at_bytes, len_bytes) = self.range(random);
            self.read_and_compare(
                at_bytes,
                actual.first(len_bytes),
                &mut expected[..len_bytes],
            );
        }
    }

    /// Reads everything once, in order.
    pub fn run_once(&self) {
        let mut actual = AlignedBuffer::new(usize::try_from(READ_BYTES_MAX).unwrap_or(usize::MAX));
        let mut at_bytes = 0;
        while at_bytes < self.device_bytes {
            let len_bytes = usize::try_from(READ_BYTES_MAX.min(self.device_bytes - at_bytes))
                .unwrap_or(usize::MAX);
            self.read_and_compare(at_bytes, actual.first(len_bytes), &mut vec![0; len_bytes]);
            at_bytes += len_bytes as u64;
        }
    }

    fn range(&self, random: u64) -> (u64, usize) {
        let blocks = self.device_bytes / self.block_bytes;
        // Small reads are as likely as large ones: a power of two up to 1 MiB, and then not quite.
        let most = (self.block_bytes << (random % 12)).min(READ_BYTES_MAX) / self.block_bytes;
        let wanted = 1 + mix(random ^ 1) % most;
        let first = mix(random ^ 2) % blocks;
        let count = wanted.min(blocks - first);
        (
            first * self.block_bytes,
            usize::try_from(count * self.block_bytes).unwrap_or(usize::MAX),
        )
    }

    fn read_and_compare(&self, at_bytes: u64, actual: &mut [u8], expected: &mut [u8]) {
        let from = Instant::now();
        let outcome = self.device.read_at(actual, at_bytes);
        let took_ms = u64::try_from(from.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.tally.reads.fetch_add(1, Ordering::Relaxed);
        self.tally
            .longest_pause_ms
            .fetch_max(took_ms, Ordering::Relaxed);
        let fault = match outcome {
            Err(error) => Some((&self.tally.errors, error.to_string())),
            Ok(count) if count != actual.len() => {
                Some((&self.tally.errors, format!("short read of {count}")))
            }
            Ok(_) => match self.expected.fill(at_bytes, expected) {
                Err(error) => Some((
                    &self.tally.errors,
                    format!("cannot read what is expected: {error}"),
                )),
                Ok(()) => {
                    first_difference(actual, expected).map(|text| (&self.tally.mismatches, text))
                }
            },
        };
        self.tally
            .bytes
            .fetch_add(actual.len() as u64, Ordering::Relaxed);
        if let Some((counter, text)) = fault
            && counter.fetch_add(1, Ordering::Relaxed) < FAULTS_DESCRIBED_MAX
        {
            self.describe(&format!(
                "fault: {} bytes at {at_bytes}: {text}",
                actual.len()
            ));
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
}

fn first_difference(actual: &[u8], expected: &[u8]) -> Option<String> {
    if actual == expected {
        return None;
    }
    let place = actual
        .iter()
        .zip(expected)
        .position(|(left, right)| left != right)?;
    Some(format!(
        "byte {place} is {:#04x}, must be {:#04x}",
        actual[place], expected[place]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::pattern::Pattern;

    fn reader_over(pattern: Pattern, spoil_at: Option<u64>) -> Reader {
        let device = tempfile::tempfile().unwrap();
        pattern.write_to(&device).unwrap();
        let device_bytes = pattern.size_bytes.next_multiple_of(512);
        device.set_len(device_bytes).unwrap();
        if let Some(at_bytes) = spoil_at {
            let mut byte = [0];
            device.read_exact_at(&mut byte, at_bytes).unwrap();
            device.write_all_at(&[byte[0] ^ 1], at_bytes).unwrap();
        }
        Reader {
            device,
            device_bytes,
            block_bytes: 512,
            expected: Expected::Computed(pattern),
            seed: 1,
            log: Mutex::new(tempfile::tempfile().unwrap()),
            stop: AtomicBool::new(false),
            tally: Tally::default(),
        }
    }

    const ODD: Pattern = Pattern {
        seed: 3,
        size_bytes: 300_001,
        allocated_bytes: 150_000,
    };

    #[test]
    fn a_right_device_is_found_right() {
        let reader = reader_over(ODD, None);
        reader.run_once();
        assert!(reader.tally.is_good(), "{}", reader.tally.line());
        assert_eq!(reader.tally.bytes.load(Ordering::Relaxed), 300_032);
    }

    #[test]
    fn one_flipped_bit_is_found() {
        for spoil_at in [0, 12_345, 300_000, 300_031] {
            let reader = reader_over(ODD, Some(spoil_at));
            reader.run_once();
            assert!(!reader.tally.is_good(), "not found at {spoil_at}");
        }
    }

    #[test]
    fn ranges_are_whole_blocks_inside_the_device() {
        for block_bytes in [512, 4096] {
            let mut reader = reader_over(ODD, None);
            reader.block_bytes = block_bytes;
            for random in 0..10_000 {
                let (at_bytes, len_bytes) = reader.range(mix(random));
                let len_bytes = len_bytes as u64;
                assert!(
                    len_bytes >= block_bytes && at_bytes + len_bytes <= reader.device_bytes,
                    "seed {random}"
                );
                assert_eq!((at_bytes % block_bytes, len_bytes % block_bytes), (0, 0));
            }
        }
    }
}
