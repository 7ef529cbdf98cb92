//! Which replica the scrub reads next: a pure function of what is known of them and of the time.
//!
//! 1. What was known to be damaged when the daemon ended.
//! 2. After a session that did not end in order: images of which this is the only good copy. Nothing else could replace it.
//! 3. What was not read for the interval, longest first.

use std::time::Duration;

/// A replica that could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Candidate {
    /// It was known to be damaged when the daemon ended, and was not read since.
    pub is_suspected: bool,
    /// The session before did not end in order, and it was not read since.
    pub is_after_crash: bool,
    /// There is no other Ready one.
    pub is_single: bool,
    /// When all of it was read last, or written, in seconds since 1970.
    pub read_unix_s: u64,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Read this one.
    Read(usize),
    /// Nothing is due for so long.
    Wait(Duration),
}

/// What to do at `now_unix_s`, where everything is to be read once in `interval`.
pub fn next(candidates: &[Candidate], now_unix_s: u64, interval: Duration) -> Next {
    let due_in = |candidate: &Candidate| {
        let age = now_unix_s.saturating_sub(candidate.read_unix_s);
        interval.saturating_sub(Duration::from_secs(age))
    };
    let rank = |candidate: &Candidate| {
        if candidate.is_suspected {
            Some(0)
        } else if candidate.is_after_crash && candidate.is_single {
            Some(1)
        } else {
            due_in(candidate).is_zero().then_some(2)
        }
    };
    candidates
        .iter()
        .enumerate()
        .filter_map(|(index, candidate)| Some((rank(candidate)?, candidate.read_unix_s, index)))
        .min()
        .map_or_else(
            || Next::Wait(candidates.iter().map(due_in).min().unwrap_or(interval)),
            |(_, _, index)| Next::Read(index),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 10_000_000;
    const WEEK: Duration = Duration::from_secs(604_800);

    fn read_ago(seconds: u64) -> Candidate {
        Candidate {
            read_unix_s: NOW - seconds,
            ..Candidate::default()
        }
    }

    #[test]
    fn one_second_less_than_the_interval_is_not_due_and_the_interval_is() {
        let week = WEEK.as_secs();
        assert_eq!(
            next(&[read_ago(week - 1)], NOW, WEEK),
            Next::Wait(Duration::from_secs(1))
        );
        assert_eq!(next(&[read_ago(week)], NOW, WEEK), Next::Read(0));
        assert_eq!(next(&[], NOW, WEEK), Next::Wait(WEEK));
    }

    #[test]
    fn longest_unread_first() {
        let week = WEEK.as_secs();
        let all = [read_ago(week + 5), read_ago(week + 9), read_ago(3)];
        assert_eq!(next(&all, NOW, WEEK), Next::Read(1));
    }

    #[test]
    fn after_a_crash_the_only_copy_goes_first_and_copies_of_which_there_are_more_wait_for_their_turn()
     {
        let week = WEEK.as_secs();
        let crashed = |is_single| Candidate {
            is_after_crash: true,
            is_single,
            ..read_ago(10)
        };
        let all = [read_ago(week * 2), crashed(false), crashed(true)];
        assert_eq!(next(&all, NOW, WEEK), Next::Read(2));
        assert_eq!(next(&all[..2], NOW, WEEK), Next::Read(0));
        assert_eq!(
            next(&[crashed(false)], NOW, WEEK),
            Next::Wait(WEEK.saturating_sub(Duration::from_secs(10)))
        );
    }

    #[test]
    fn what_was_known_to_be_damaged_goes_before_all() {
        let suspected = Candidate {
            is_suspected: true,
            ..read_ago(1)
        };
        let crashed = Candidate {
            is_after_crash: true,
            is_single: true,
            ..read_ago(5)
        };
        assert_eq!(next(&[crashed, suspected], NOW, WEEK), Next::Read(1));
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_due() {
        let future = Candidate {
            read_unix_s: NOW + 500,
            ..Candidate::default()
        };
        assert_eq!(next(&[future], NOW, WEEK), Next::Wait(WEEK));
    }
}
