//! How long a copy that failed is left alone: twice as long after each failure, up to a limit, and never all at the same moment. Pure.

use std::collections::HashMap;
use std::time::Duration;

use uuid::Uuid;

use crate::daemon::backoff;

/// After the first failure.
const FIRST: Duration = Duration::from_secs(5);
/// At most.
const LONGEST: Duration = Duration::from_secs(600);
/// Between two tries.
const PAUSES: backoff::Backoff = backoff::Backoff {
    first: FIRST,
    most: LONGEST,
};

/// Failures of copies, by image and disk.
#[derive(Debug, Default)]
pub struct Backoff {
    failed: HashMap<(Uuid, Uuid), Failed>,
}

#[derive(Debug, Clone)]
struct Failed {
    times: u32,
    until: Duration,
    why: String,
}

impl Backoff {
    /// A copy of `image` on `disk` failed. `random` is any number: it takes or adds up to a quarter of the pause.
    pub fn failed(&mut self, image: Uuid, disk: Uuid, why: &str, now: Duration, random: u32) {
        let entry = self.failed.entry((image, disk)).or_insert_with(|| Failed {
            times: 0,
            until: now,
            why: String::new(),
        });
        entry.times = entry.times.saturating_add(1);
        entry.until = now + PAUSES.wait(entry.times, random);
        why.clone_into(&mut entry.why);
    }

    /// It is there, or is not wanted any more, or its disk was changed: what was before does not count.
    pub fn forget(&mut self, image: Uuid, disk: Uuid) {
        self.failed.remove(&(image, disk));
    }

    /// The disk came back, or an operator did something about it.
    pub fn forget_disk(&mut self, disk: Uuid) {
        self.failed.retain(|(_, on), _| *on != disk);
    }

    /// Disks on which a copy of `image` failed, and until when each is left alone.
    pub fn of(&self, image: Uuid) -> Vec<(Uuid, Duration)> {
        self.failed
            .iter()
            .filter(|((failed, _), _)| *failed == image)
            .map(|((_, disk), entry)| (*disk, entry.until))
            .collect()
    }

    /// Why it failed last.
    pub fn why(&self, image: Uuid, disk: Uuid) -> Option<&str> {
        self.failed
            .get(&(image, disk))
            .map(|entry| entry.why.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_pause_up_to_a_limit_within_a_quarter_of_it() {
        let expected = [5, 10, 20, 40, 80, 160, 320, 600, 600];
        for (times, seconds) in (1..).zip(expected) {
            let whole = Duration::from_secs(seconds);
            assert_eq!(PAUSES.wait(times, 0), whole * 3 / 4, "{times}");
            for random in [1, 77, 12_345, u32::MAX] {
                let pause = PAUSES.wait(times, random);
                assert!(pause >= whole * 3 / 4 && pause <= whole * 5 / 4, "{times}");
            }
        }
        assert!(PAUSES.wait(u32::MAX, u32::MAX) <= LONGEST * 5 / 4);
    }

    #[test]
    fn a_success_ends_it_and_other_disks_are_not_concerned() {
        let (image, a, b) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        let now = Duration::from_secs(100);
        let mut backoff = Backoff::default();
        backoff.failed(image, a, "no", now, 0);
        backoff.failed(image, b, "no", now, 0);
        backoff.forget(image, a);
        assert_eq!(backoff.of(image), [(b, now + FIRST * 3 / 4)]);
        assert_eq!(backoff.why(image, b), Some("no"));
        backoff.forget_disk(b);
        assert_eq!(backoff.of(image), []);
    }
}
