//! Which thread writes where: each sector has one writer, so that it knows what must be there, and all of them meet in the same
//! clusters and blocks.

use super::pattern::mix;

/// Longest write, in sectors: 256 KiB.
pub const WRITE_SECTORS_MAX: u64 = 512;
/// In the first half, lanes are so narrow that two threads share blocks of 4 KiB, and ten share a cluster.
const NARROW_SECTORS: u64 = 12;
/// In the second half, lanes are wide enough for the longest writes.
const WIDE_SECTORS: u64 = 2048;

/// How the sectors of a device are dealt out.
#[derive(Debug, Clone, Copy)]
pub struct Lanes {
    sectors: u64,
    threads: u64,
    half: u64,
    wide: u64,
}

impl Lanes {
    /// For `sectors` sectors and `threads` threads.
    pub fn new(sectors: u64, threads: u64) -> Self {
        let half = sectors / 2;
        Self {
            sectors,
            threads,
            half,
            wide: (half / threads).clamp(1, WIDE_SECTORS),
        }
    }

    /// A range of thread `thread`, by chance: first sector and number of sectors. None if the device is too small for so many.
    pub fn range(&self, thread: u64, random: u64) -> Option<(u64, u64)> {
        let narrow = (0, self.half, NARROW_SECTORS);
        let wide = (self.half, self.sectors - self.half, self.wide);
        let zones = if mix(random ^ 5).is_multiple_of(2) {
            [narrow, wide]
        } else {
            [wide, narrow]
        };
        zones
            .into_iter()
            .find_map(|zone| self.range_in(zone, thread, random))
    }

    fn range_in(
        &self,
        (from, len, lane): (u64, u64, u64),
        thread: u64,
        random: u64,
    ) -> Option<(u64, u64)> {
        let lanes = len.div_ceil(lane);
        let own = lanes.checked_sub(thread)?.div_ceil(self.threads);
        if own == 0 {
            return None;
        }
        let number = thread + self.threads * (mix(random ^ 1) % own);
        let begin = number * lane;
        let end = (begin + lane).min(len);
        let first = begin + mix(random ^ 2) % (end - begin);
        // Short ranges are as likely as long ones.
        let longest = (1 << (mix(random ^ 3) % 10)).min(WRITE_SECTORS_MAX);
        let count = (1 + mix(random ^ 4) % longest).min(end - first);
        Some((from + first, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sector_has_two_writers_and_every_thread_has_some() {
        for (sectors, threads) in [(8192, 8), (4099, 3), (131_072, 16), (64, 4)] {
            let lanes = Lanes::new(sectors, threads);
            let mut owners = vec![None; usize::try_from(sectors).unwrap()];
            for thread in 0..threads {
                let mut ranges = 0;
                for seed in 0..4000 {
                    let Some((first, count)) = lanes.range(thread, mix(seed ^ (thread << 32)))
                    else {
                        continue;
                    };
                    ranges += 1;
                    assert!((1..=WRITE_SECTORS_MAX).contains(&count) && first + count <= sectors);
                    for sector in first..first + count {
                        let owner = &mut owners[usize::try_from(sector).unwrap()];
                        assert!(owner.is_none_or(|other| other == thread), "sector {sector}");
                        *owner = Some(thread);
                    }
                }
                assert!(ranges > 0, "{sectors} sectors, thread {thread}");
            }
        }
    }

    #[test]
    fn writes_are_as_long_as_256_kib_and_as_short_as_a_sector() {
        let lanes = Lanes::new(131_072, 8);
        let counts: Vec<u64> = (0..20_000)
            .filter_map(|seed| lanes.range(1, mix(seed)))
            .map(|(_, count)| count)
            .collect();
        assert_eq!(counts.iter().min(), Some(&1));
        assert!(counts.iter().any(|count| *count > 400));
    }
}
