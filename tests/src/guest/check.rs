//! Reads a device after a crash and judges every sector by what the journal says.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::aligned::AlignedBuffer;
use super::expected::Expected;
use super::journal::Promises;
use super::promise::{Wrong, judge};
use super::sector::{self, Found, SECTOR_BYTES};

const READ_BYTES: usize = 1 << 20;
const FAULTS_DESCRIBED_MAX: u64 = 20;

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// As it was flushed.
    pub flushed: u64,
    /// Newer than what was flushed.
    pub newer: u64,
    /// Never written: the base.
    pub untouched: u64,
    /// Flushed, and gone.
    pub lost: u64,
    /// Another object's, or of another place.
    pub foreign: u64,
    /// Never written by anybody.
    pub garbage: u64,
    /// The first that are wrong, in words.
    pub faults: Vec<String>,
}

impl Verdict {
    /// Whether every promise was kept.
    pub const fn is_good(&self) -> bool {
        self.lost + self.foreign + self.garbage == 0
    }

    /// One line of `field=value`.
    pub fn line(&self) -> String {
        format!(
            "flushed={} newer={} untouched={} lost={} foreign={} garbage={}",
            self.flushed, self.newer, self.untouched, self.lost, self.foreign, self.garbage
        )
    }
}

/// Judges all of `device`, and sets the floors of `promises` to what is there.
///
/// # Errors
/// Those of the device.
pub fn check(
    device: &File,
    base: &Expected,
    promises: &mut Promises,
    exact: bool,
) -> io::Result<Verdict> {
    let mut verdict = Verdict::default();
    let mut buffer = AlignedBuffer::new(READ_BYTES);
    let mut expected = vec![0; READ_BYTES];
    let per_read = READ_BYTES / SECTOR_BYTES;
    for first in (0..promises.floors.len()).step_by(per_read) {
        let count = per_read.min(promises.floors.len() - first);
        let bytes = buffer.first(count * SECTOR_BYTES);
        let expected = &mut expected[..count * SECTOR_BYTES];
        device.read_exact_at(bytes, (first * SECTOR_BYTES) as u64)?;
        base.fill((first * SECTOR_BYTES) as u64, expected)?;
        let sectors = bytes
            .chunks_exact(SECTOR_BYTES)
            .zip(expected.chunks_exact(SECTOR_BYTES));
        for (number, (one, base)) in (first..).zip(sectors) {
            let floor = promises.floors[number];
            let found = sector::classify(one);
            let judged = judge(
                found,
                (promises.tag, number as u64),
                floor,
                promises.zeroed_by[number],
                one == base,
                exact,
            );
            match judged {
                Ok(seen) if seen != floor => verdict.newer += 1,
                Ok(_) if floor.generation == 0 => verdict.untouched += 1,
                Ok(_) => verdict.flushed += 1,
                Err(wrong) => {
                    match wrong {
                        Wrong::Lost => verdict.lost += 1,
                        Wrong::Foreign => verdict.foreign += 1,
                        Wrong::Garbage => verdict.garbage += 1,
                    }
                    if (verdict.faults.len() as u64) < FAULTS_DESCRIBED_MAX {
                        verdict.faults.push(format!(
                            "sector {number} is {wrong:?}: at least {floor:?} is due, and it is {found:?}"
                        ));
                    }
                }
            }
            if let Ok(seen) = judged {
                promises.floors[number] = seen;
            }
        }
    }
    Ok(verdict)
}

/// How many sectors of `device` name object `tag`.
///
/// # Errors
/// Those of the device.
pub fn count_of(device: &File, device_bytes: u64, tag: u64) -> io::Result<u64> {
    let mut buffer = AlignedBuffer::new(READ_BYTES);
    let mut count = 0;
    let mut at_bytes = 0;
    while at_bytes < device_bytes {
        let len = READ_BYTES.min(usize::try_from(device_bytes - at_bytes).unwrap_or(READ_BYTES));
        let bytes = buffer.first(len);
        device.read_exact_at(bytes, at_bytes)?;
        count += bytes
            .chunks_exact(SECTOR_BYTES)
            .filter(|one| {
                matches!(sector::classify(one), Found::Written { tag: its, .. } if its == tag)
            })
            .count() as u64;
        at_bytes += len as u64;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::journal::{self, Journal};
    use crate::guest::pattern::Pattern;
    use crate::guest::writer::{Device, Mix, Writer};

    const SECTORS: usize = 4096;
    const JOURNAL_BYTES: u64 = 16 << 20;
    const BASE: Pattern = Pattern {
        seed: 4,
        size_bytes: 1 << 20,
        allocated_bytes: 1 << 19,
    };

    /// A device after one round of three threads, and its journal.
    fn after_a_round() -> (File, File) {
        let device = tempfile::tempfile().unwrap();
        BASE.write_to(&device).unwrap();
        device.set_len((SECTORS * SECTOR_BYTES) as u64).unwrap();
        let notes = tempfile::tempfile().unwrap();
        let mut promises = Promises::new(5, SECTORS);
        promises.round = 1;
        let journal = Journal::begin(notes.try_clone().unwrap(), JOURNAL_BYTES, &promises).unwrap();
        let mix = Mix {
            zeroes: true,
            flushes: true,
            fua: true,
            no_space_is_fine: false,
        };
        let writer = Writer::new(
            Device {
                file: device.try_clone().unwrap(),
                durable: device.try_clone().unwrap(),
                is_block_device: false,
                base: Expected::Computed(BASE),
            },
            journal,
            &promises,
            (3, 11, mix),
            tempfile::tempfile().unwrap(),
        );
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let writer = &writer;
                scope.spawn(move || writer.run_thread(thread, Some(200)));
            }
        });
        writer.check_all();
        assert!(writer.tally.is_good(), "{}", writer.tally.line());
        (device, notes)
    }

    fn verdict(device: &File, notes: &File, exact: bool) -> Verdict {
        let mut promises = journal::load(notes, false).unwrap();
        check(device, &Expected::Computed(BASE), &mut promises, exact).unwrap()
    }

    #[test]
    fn an_undisturbed_device_keeps_every_promise() {
        let (device, notes) = after_a_round();
        let verdict = verdict(&device, &notes, true);
        assert!(verdict.is_good(), "{}", verdict.line());
        assert_eq!(verdict.newer, 0);
        assert!(
            verdict.flushed > 1000 && verdict.untouched > 100,
            "{}",
            verdict.line()
        );
    }

    #[test]
    fn a_lost_a_foreign_and_a_spoiled_sector_are_found() {
        let (device, notes) = after_a_round();
        let promises = journal::load(&notes, false).unwrap();
        let number = promises
            .floors
            .iter()
            .position(|floor| floor.generation > 0 && !floor.is_zero)
            .unwrap();
        let at = (number * SECTOR_BYTES) as u64;
        let mut sector = [0; SECTOR_BYTES];
        device.read_exact_at(&mut sector, at).unwrap();

        let base = BASE;
        let mut old = [0; SECTOR_BYTES];
        base.fill(at, &mut old);
        device.write_all_at(&old, at).unwrap();
        assert_eq!(verdict(&device, &notes, false).lost, 1);

        let mut foreign = [0; SECTOR_BYTES];
        sector::fill(6, number as u64, u64::MAX >> 1, &mut foreign);
        device.write_all_at(&foreign, at).unwrap();
        assert_eq!(verdict(&device, &notes, false).foreign, 1);

        sector[100] ^= 1;
        device.write_all_at(&sector, at).unwrap();
        let found = verdict(&device, &notes, false);
        assert_eq!(found.garbage, 1);
        assert_eq!(found.faults.len(), 1);
    }

    #[test]
    fn sectors_of_an_object_are_counted() {
        let (device, _) = after_a_round();
        let bytes = (SECTORS * SECTOR_BYTES) as u64;
        assert!(count_of(&device, bytes, 5).unwrap() > 1000);
        assert_eq!(count_of(&device, bytes, 6).unwrap(), 0);
    }
}
