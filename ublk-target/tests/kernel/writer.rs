//! Writers that know every byte that a volume must hold, and keep their file open whatever happens to the server.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::fixture::{Image, mix};
use crate::reader::Aligned;
use crate::volume::VOLUME_BYTES;

const SECTOR: u64 = 512;
const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// `BLKDISCARD`, include/uapi/linux/fs.h: `_IO(0x12, 119)`.
const BLKDISCARD: libc::c_ulong = 0x1277;
/// Sectors that one of several writers has for itself: they begin and end within blocks, so that neighbours share some.
const STRIPE_SECTORS: u64 = 21;

pub fn open_to_write(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

/// What a volume over the image holds, before anything is written.
pub fn contents(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(VOLUME_BYTES).expect("a small volume")];
    let held = usize::try_from(image.mapped_bytes()).expect("a small image");
    image.expect(0, &mut bytes[..held]);
    bytes
}

/// A change that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Write,
    /// Durable when it is answered.
    WriteFua,
    Discard,
    /// Zeros; the space may go.
    ZeroUnmap,
    /// Zeros; the space stays.
    ZeroKeep,
    Flush,
}

impl Change {
    fn of(random: u64) -> Self {
        match random % 16 {
            0 => Self::WriteFua,
            1 => Self::Discard,
            2 => Self::ZeroUnmap,
            3 => Self::ZeroKeep,
            4 => Self::Flush,
            _ => Self::Write,
        }
    }
}

/// Makes a change to a device and to what it must hold from `at` on; an error is the device's.
pub fn change(
    file: &File,
    what: Change,
    at: u64,
    expected: &mut [u8],
    random: u64,
    buffer: &mut Aligned,
) -> std::io::Result<()> {
    let len = expected.len();
    match what {
        Change::Write | Change::WriteFua => {
            let bytes = buffer.bytes(len);
            for (word, chunk) in bytes.chunks_exact_mut(8).enumerate() {
                chunk.copy_from_slice(&mix(random ^ (word as u64) << 32).to_le_bytes());
            }
            if what == Change::Write {
                file.write_all_at(bytes, at)?;
            } else {
                write_durable(file, bytes, at)?;
            }
            expected.copy_from_slice(bytes);
        }
        Change::Discard => {
            discard(file, at, len as u64)?;
            expected.fill(0);
        }
        Change::ZeroUnmap => {
            allocate(
                file,
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                at,
                len,
            )?;
            expected.fill(0);
        }
        Change::ZeroKeep => {
            allocate(file, libc::FALLOC_FL_ZERO_RANGE, at, len)?;
            expected.fill(0);
        }
        Change::Flush => file.sync_data()?,
    }
    Ok(())
}

/// With `RWF_DSYNC`, which direct I/O makes a FUA of (`dio_bio_write_op`, block/fops.c).
fn write_durable(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    let part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let at = at.cast_signed();
    // SAFETY: the one part is valid for the call, which only reads it.
    let written =
        unsafe { libc::pwritev2(file.as_raw_fd(), &raw const part, 1, at, libc::RWF_DSYNC) };
    match usize::try_from(written) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(written) => Err(std::io::Error::other(format!("only {written} bytes"))),
        Err(_) => Err(std::io::Error::last_os_error()),
    }
}

pub fn discard(file: &File, at: u64, len: u64) -> std::io::Result<()> {
    let range = [at, len];
    // SAFETY: the two words are valid for the call.
    answer(unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) })
}

fn allocate(file: &File, mode: libc::c_int, at: u64, len: usize) -> std::io::Result<()> {
    let len = i64::try_from(len).map_err(std::io::Error::other)?;
    // SAFETY: no memory is passed.
    answer(unsafe { libc::fallocate(file.as_raw_fd(), mode, at.cast_signed(), len) })
}

fn answer(result: libc::c_int) -> std::io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Reads `expected.len()` bytes from `at` on, and compares them.
pub fn compare(
    file: &File,
    at: u64,
    expected: &[u8],
    buffer: &mut Aligned,
) -> Result<(), Box<dyn Error>> {
    let got = buffer.bytes(expected.len());
    got.fill(0xa5);
    file.read_exact_at(got, at)
        .map_err(|error| format!("read of {} bytes at {at}: {error}", expected.len()))?;
    match got
        .iter()
        .zip(expected)
        .position(|(got, expected)| got != expected)
    {
        None => Ok(()),
        Some(byte) => Err(format!(
            "read of {} bytes at {at}: byte {byte} (position {}) is {:#x}, expected {:#x}",
            expected.len(),
            at + byte as u64,
            got[byte],
            expected[byte]
        )
        .into()),
    }
}

/// Every byte.
pub fn compare_all(file: &File, expected: &[u8]) -> Result<(), Box<dyn Error>> {
    let step = usize::try_from(REQUEST_BYTES_MAX)?;
    let mut buffer = Aligned::new(step);
    for (nth, part) in expected.chunks(step).enumerate() {
        compare(file, (nth * step) as u64, part, &mut buffer)?;
    }
    Ok(())
}

/// One client that does everything, at any sector, of any length up to 1 MiB (discards and zeros up to 3 MiB).
pub fn random_changes(
    file: &File,
    expected: &mut [u8],
    seed: u64,
    rounds: u64,
) -> Result<(), Box<dyn Error>> {
    let mut buffer = Aligned::new(3 << 20);
    let sectors = expected.len() as u64 / SECTOR;
    for round in 0..rounds {
        let random = mix(seed << 32 ^ round);
        let what = Change::of(mix(random ^ 1));
        let unit = if random.is_multiple_of(3) { 8 } else { 1 };
        let longest = match what {
            Change::Write | Change::WriteFua => REQUEST_BYTES_MAX,
            _ => 3 << 20,
        } / SECTOR;
        let longest = (longest >> (mix(random ^ 2) % 11)).max(1);
        let start = mix(random ^ 3) % sectors / unit * unit;
        let len = (1 + mix(random ^ 4) % longest).next_multiple_of(unit);
        let len = len.min(sectors - start);
        let range = usize::try_from(start * SECTOR)?..usize::try_from((start + len) * SECTOR)?;
        let at = start * SECTOR;
        let part = &mut expected[range];
        change(file, what, at, part, random, &mut buffer).map_err(|error| {
            format!("round {round}: {what:?} of {len} sectors at {start}: {error}")
        })?;
        if mix(random ^ 5).is_multiple_of(2) {
            compare(file, at, part, &mut buffer)
                .map_err(|error| format!("round {round}: after {what:?}: {error}"))?;
        }
    }
    Ok(())
}

/// Threads that write and read back, each in stripes of its own that share blocks with its neighbours'.
pub struct Writers {
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    #[expect(clippy::type_complexity)]
    threads: Vec<JoinHandle<Result<Vec<(u64, Vec<u8>)>, String>>>,
}

impl Writers {
    /// Over a device that holds `contents`.
    pub fn start(
        path: &Path,
        contents: &[u8],
        seed: u64,
        threads: u64,
    ) -> Result<Self, Box<dyn Error>> {
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::new(AtomicU64::new(0));
        // One open file for all: it stays the same through every kill.
        let file = Arc::new(open_to_write(path)?);
        let stripe_bytes = usize::try_from(STRIPE_SECTORS * SECTOR)?;
        let mut shares: Vec<Vec<(u64, Vec<u8>)>> = (0..threads).map(|_| Vec::new()).collect();
        for (nth, stripe) in contents.chunks(stripe_bytes).enumerate() {
            let of = nth % shares.len();
            shares[of].push(((nth * stripe_bytes) as u64, stripe.to_vec()));
        }
        let threads = shares.into_iter().enumerate().map(|(thread, mut stripes)| {
            let (stop, writes, file) = (stop.clone(), writes.clone(), file.clone());
            std::thread::spawn(move || {
                let mut buffer = Aligned::new(stripe_bytes);
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let random = mix(seed << 48 ^ (thread as u64) << 40 ^ round);
                    let nth = usize::try_from(random % stripes.len() as u64)
                        .map_err(|error| error.to_string())?;
                    let (start, stripe) = &mut stripes[nth];
                    let what = Change::of(mix(random ^ 1));
                    let sectors = stripe.len() as u64 / SECTOR;
                    let first = mix(random ^ 2) % sectors;
                    let len = 1 + mix(random ^ 3) % (sectors - first);
                    let place = |sector: u64| usize::try_from(sector * SECTOR).expect("small");
                    let part = &mut stripe[place(first)..place(first + len)];
                    let at = *start + first * SECTOR;
                    change(&file, what, at, part, random, &mut buffer)
                        .map_err(|error| format!("{what:?} at {at}: {error}"))?;
                    if random.is_multiple_of(4) {
                        compare(&file, *start, stripe, &mut buffer)
                            .map_err(|error| format!("after {what:?} at {at}: {error}"))?;
                    }
                    writes.fetch_add(1, Ordering::Relaxed);
                }
                Ok(stripes)
            })
        });
        Ok(Self {
            threads: threads.collect(),
            stop,
            writes,
        })
    }

    /// Waits until `more` changes have been answered.
    pub fn wait_for(&self, more: u64) -> Result<(), Box<dyn Error>> {
        let writes = || self.writes.load(Ordering::Relaxed);
        let wanted = writes() + more;
        let deadline = Instant::now() + Duration::from_secs(60);
        while writes() < wanted {
            if Instant::now() > deadline {
                return Err("writers stand still".into());
            }
            if self.threads.iter().any(JoinHandle::is_finished) {
                return Err(format!("a writer ended after {} changes", writes()).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Stops them; answers with what the device must hold, or with what one of them saw.
    pub fn finish(self) -> Result<Vec<u8>, Box<dyn Error>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().map_err(|_| "a writer panicked")??);
        }
        all.sort_by_key(|(start, _)| *start);
        Ok(all.into_iter().flat_map(|(_, bytes)| bytes).collect())
    }
}
