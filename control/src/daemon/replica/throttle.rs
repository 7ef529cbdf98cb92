//! Keeps a copy below a number of bytes a second, so that guests on the same disks hardly notice it. Pure: who calls it sleeps.

use std::time::Duration;

use crate::daemon::pace;

/// How far ahead of its rate a copy may be: after a pause it does not make up for more than this.
const AHEAD: Duration = Duration::from_millis(100);

/// Bytes a second, counted.
#[derive(Debug, Clone)]
pub struct Throttle {
    bytes_per_s: u64,
    /// Until when what was moved so far pays for.
    paid_until: Duration,
}

impl Throttle {
    /// At most so many bytes a second; 0 is no limit.
    pub fn new(bytes_per_s: u64, now: Duration) -> Self {
        Self {
            bytes_per_s,
            paid_until: now,
        }
    }

    /// Another limit from now on.
    pub fn set(&mut self, bytes_per_s: u64) {
        self.bytes_per_s = bytes_per_s;
    }

    /// `bytes` were moved; answers how long to wait before the next ones.
    pub fn moved(&mut self, bytes: u64, now: Duration) -> Duration {
        if self.bytes_per_s == 0 {
            return Duration::ZERO;
        }
        let takes = pace::at_rate(bytes, self.bytes_per_s);
        self.paid_until = self.paid_until.max(now.saturating_sub(AHEAD)) + takes;
        self.paid_until.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_hundred_mib_at_ten_a_second_take_ten_seconds() {
        let mut now = Duration::from_secs(5);
        let mut throttle = Throttle::new(10 * MIB, now);
        for _ in 0..100 {
            now += throttle.moved(MIB, now);
        }
        assert_eq!(now, Duration::from_secs(15));
    }

    #[test]
    fn no_limit_never_waits_and_a_pause_is_not_made_up_for() {
        let mut free = Throttle::new(0, Duration::ZERO);
        assert_eq!(free.moved(u64::MAX, Duration::ZERO), Duration::ZERO);
        let mut throttle = Throttle::new(MIB, Duration::ZERO);
        let much_later = Duration::from_secs(1000);
        assert_eq!(throttle.moved(MIB, much_later), Duration::from_millis(900));
        assert_eq!(throttle.moved(MIB, much_later), Duration::from_millis(1900));
    }

    #[test]
    fn a_new_limit_counts_from_the_next_bytes_on() {
        let mut throttle = Throttle::new(MIB, Duration::ZERO);
        assert_eq!(throttle.moved(MIB, Duration::ZERO), Duration::from_secs(1));
        throttle.set(0);
        assert_eq!(throttle.moved(MIB, Duration::ZERO), Duration::ZERO);
    }
}
