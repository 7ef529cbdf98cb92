//! Many devices on one node: attached one after the other, idle, and recovered all at the same time, by fewer reactors.
//!
//! `BEDPLATE_TEST_DEVICES` says how many. Times of an emulated machine count instructions; what is asked of them is that they do not grow with the
//! number of devices.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bedplate_datapath::units::DevId;
use bedplate_ublk_target::{DataMode, DeviceSpec, Target, TargetConfig};

use crate::Outcome;
use crate::fixture::{Bench, bench, config, spec};
use crate::reader::{Aligned, check, check_all, open_direct, random_read};
use crate::scenarios::ensure;

/// Device numbers of this scenario.
const FIRST: u32 = 2000;
const THREADS: usize = 32;

fn count() -> u32 {
    let wanted = std::env::var("BEDPLATE_TEST_DEVICES").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(48)
}

fn numbered(number: u32) -> DeviceSpec {
    spec(FIRST + number)
}

fn settings(mode: DataMode, reactors: usize) -> TargetConfig {
    TargetConfig {
        reactors,
        queues: 1,
        queue_depth: 64,
        devices_max: count() + 8,
        ..config(mode)
    }
}

pub fn many_devices_come_and_come_back(mode: DataMode) -> Outcome {
    let count = count();
    let Bench {
        target,
        image,
        stack,
        ..
    } = bench(settings(mode, 2))?;
    let before = Memory::now()?;
    let mut took = Vec::new();
    for number in 0..count {
        let started = Instant::now();
        target.attach(&numbered(number), Arc::clone(&stack))?;
        took.push(started.elapsed());
    }
    let after = Memory::now()?;
    let tenth = (took.len() / 8).max(1);
    let (first, last) = (median(&took[..tenth]), median(&took[took.len() - tenth..]));
    println!(
        "  {count} devices: attached in {first:?} at first, {last:?} at last; {} KiB of RAM each, {} of them ours; {} idle",
        (before.available_kib.saturating_sub(after.available_kib)) / u64::from(count),
        (after.ours_kib.saturating_sub(before.ours_kib)) / u64::from(count),
        idle(Duration::from_secs(3))?,
    );
    ensure(
        last < first * 3,
        "attaching takes longer the more devices there are",
    )?;
    read_some(&image, count)?;
    target.quiesce_all()?;
    let Bench {
        target,
        image,
        stack,
        ..
    } = bench(settings(mode, 1))?;
    let back = Mutex::new(Vec::new());
    let started = Instant::now();
    in_parallel(count, |number| {
        let attached = target
            .recover(&numbered(number), Arc::clone(&stack))
            .map_err(|error| error.to_string())?;
        let file = open_direct(&attached.path).map_err(|error| error.to_string())?;
        check(&file, &image, 0, 4096, &mut Aligned::new(4096))
            .map_err(|error| error.to_string())?;
        let mut back = back.lock().unwrap_or_else(PoisonError::into_inner);
        back.push(started.elapsed());
        Ok(())
    })?;
    let mut back = back.into_inner().unwrap_or_else(PoisonError::into_inner);
    back.sort_unstable();
    println!(
        "  recovered by one reactor, from the first command to an answered read: half within {:?}, all within {:?}",
        back[back.len() / 2],
        back[back.len() - 1]
    );
    read_some(&image, count)?;
    in_parallel(count, |number| {
        let detached = target.detach(DevId::new(FIRST + number));
        detached.map_err(|error| error.to_string())
    })?;
    Ok(target.quiesce_all()?)
}

/// Eight devices at the same time, far apart and next to each other.
fn read_some(image: &crate::fixture::Image, count: u32) -> Outcome {
    in_parallel(8, |reader| {
        let number = FIRST + reader * (count - 1) / 7;
        let path = std::path::PathBuf::from(format!("/dev/ublkb{number}"));
        let file = open_direct(&path).map_err(|error| error.to_string())?;
        let mut buffer = Aligned::new(1 << 20);
        for nth in 0..50 {
            let (at, len) = random_read(image, u64::from(reader) << 32 | nth, 512);
            check(&file, image, at, len, &mut buffer).map_err(|error| error.to_string())?;
        }
        check_all(&file, image, 1 << 20).map_err(|error| error.to_string())
    })
}

fn in_parallel(count: u32, work: impl Fn(u32) -> Result<(), String> + Sync) -> Outcome {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(count as usize) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let Ok(number) = u32::try_from(number) else {
                        return;
                    };
                    if number >= count {
                        return;
                    }
                    if let Err(error) = work(number) {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.get_or_insert(format!("device {number}: {error}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

struct Memory {
    available_kib: u64,
    ours_kib: u64,
}

impl Memory {
    fn now() -> Result<Self, Box<dyn Error>> {
        let field = |path: &str, name: &str| -> Result<u64, Box<dyn Error>> {
            let text = std::fs::read_to_string(path)?;
            let line = text.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(number.ok_or("no such field")?.parse()?)
        };
        Ok(Self {
            available_kib: field("/proc/meminfo", "MemAvailable")?,
            ours_kib: field("/proc/self/status", "VmRSS")?,
        })
    }
}

/// The part of a core that this process takes for nothing.
fn idle(time: Duration) -> Result<String, Box<dyn Error>> {
    let ticks = || -> Result<u64, Box<dyn Error>> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let fields = stat.rsplit(')').next().unwrap_or_default();
        // utime and stime are the 14th and 15th of all fields, in hundredths of a second.
        let of = |nth: usize| {
            fields
                .split_whitespace()
                .nth(nth)
                .unwrap_or("0")
                .parse::<u64>()
        };
        Ok(of(11)? + of(12)?)
    };
    let before = ticks()?;
    std::thread::sleep(time);
    let used = ticks()? - before;
    // Hundredths of a second a second are percent.
    let millis = u64::try_from(time.as_millis())?;
    ensure(
        used * 1000 < millis,
        "idle devices take more than 1 % of a core",
    )?;
    Ok(format!("{used} hundredths of a second of CPU in {time:?}"))
}

/// Removes what a failed run left.
pub fn remove_leftovers() {
    for device in Target::kernel_devices().unwrap_or_default() {
        if device.dev_id.get() >= FIRST
            && let Err(error) = Target::remove_device(device.dev_id)
        {
            println!("cannot remove device {}: {error}", device.dev_id);
        }
    }
}
