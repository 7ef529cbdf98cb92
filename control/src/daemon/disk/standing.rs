//! How a disk that is in use stands: a pure function of what its checks found and of the time. It reads no clock and does no I/O.
//!
//! ```text
//! Online --K misses in a row--> Suspect --grace time since the first of them--> Offline
//!    \__________________________ its block device is gone, at once _______________^
//! Suspect, Offline --M hits in a row--> Online
//! gone --opened anew--> another standing, Online
//! ```

use std::fmt;
use std::time::Duration;

use crate::api::DiskState;

/// When a disk goes from one state to the other.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Misses in a row that make it Suspect.
    pub suspect_after: u32,
    /// How long after the first of the misses in a row it is Offline.
    pub grace: Duration,
    /// Hits in a row that make it Online again.
    pub online_after: u32,
}

/// What happened to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its superblock was read.
    Hit,
    /// It was not, or not in time.
    Miss,
    /// The kernel has no such block device any more: what was opened never answers again.
    Gone,
}

/// A disk's state, and what led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    state: DiskState,
    hits: u32,
    misses: u32,
    /// When the first of the misses in a row was.
    silent_since: Option<Duration>,
    is_gone: bool,
}

/// A change of state, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The new state.
    pub to: DiskState,
    /// Why.
    pub cause: Cause,
}

/// Why a disk's state changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// So many misses in a row.
    Misses(u32),
    /// Silent for so long, over so many misses.
    Silent(Duration, u32),
    /// Its block device is gone.
    Gone,
    /// So many hits in a row.
    Hits(u32),
}

impl Standing {
    /// Of a disk that was just opened.
    pub const fn online() -> Self {
        Self {
            state: DiskState::Online,
            hits: 0,
            misses: 0,
            silent_since: None,
            is_gone: false,
        }
    }

    /// The state.
    pub const fn state(&self) -> DiskState {
        self.state
    }

    /// How often in a row it has missed.
    pub const fn misses(&self) -> u32 {
        self.misses
    }

    /// What follows from `event` at `now`, a time that only grows.
    #[must_use]
    pub fn after(self, event: Event, now: Duration, rules: &Rules) -> (Self, Option<Change>) {
        match event {
            Event::Gone => Self {
                state: DiskState::Offline,
                hits: 0,
                misses: self.misses,
                silent_since: self.silent_since,
                is_gone: true,
            }
            .told(self, Cause::Gone),
            // What is read from a device that is gone, out of some cache, says nothing.
            Event::Hit | Event::Miss if self.is_gone => (self, None),
            Event::Hit => self.hit(rules),
            Event::Miss => self.miss(now, rules),
        }
    }

    fn hit(self, rules: &Rules) -> (Self, Option<Change>) {
        let hits = self.hits.saturating_add(1);
        let is_back = hits >= rules.online_after;
        let next = Self {
            state: if is_back {
                DiskState::Online
            } else {
                self.state
            },
            hits,
            ..Self::online()
        };
        next.told(self, Cause::Hits(hits))
    }

    fn miss(self, now: Duration, rules: &Rules) -> (Self, Option<Change>) {
        let misses = self.misses.saturating_add(1);
        let since = self.silent_since.unwrap_or(now);
        let silent = now.saturating_sub(since);
        let (state, cause) = if misses < rules.suspect_after && self.state == DiskState::Online {
            (DiskState::Online, Cause::Misses(misses))
        } else if silent >= rules.grace || self.state == DiskState::Offline {
            (DiskState::Offline, Cause::Silent(silent, misses))
        } else {
            (DiskState::Suspect, Cause::Misses(misses))
        };
        let next = Self {
            state,
            hits: 0,
            misses,
            silent_since: Some(since),
            is_gone: false,
        };
        next.told(self, cause)
    }

    fn told(self, before: Self, cause: Cause) -> (Self, Option<Change>) {
        let change = Change {
            to: self.state,
            cause,
        };
        (self, (self.state != before.state).then_some(change))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misses(count) => write!(f, "{count} health checks failed in a row"),
            Self::Silent(time, count) => write!(
                f,
                "it has not answered for {:.1} s ({count} health checks)",
                time.as_secs_f64()
            ),
            Self::Gone => f.write_str("its block device is gone: it was unplugged, or it failed"),
            Self::Hits(count) => write!(f, "{count} health checks answered in a row"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DiskState::{Offline, Online, Suspect};

    const K: u32 = 3;
    const M: u32 = 4;
    const GRACE: Duration = Duration::from_secs(60);
    const ALMOST_GRACE: Duration = Duration::from_millis(59_999);
    const RULES: Rules = Rules {
        suspect_after: K,
        grace: GRACE,
        online_after: M,
    };

    fn repeat(mut standing: Standing, event: Event, count: u32, now: Duration) -> Standing {
        for _ in 0..count {
            standing = standing.after(event, now, &RULES).0;
        }
        standing
    }

    /// Silent since 100 s.
    fn suspect() -> (Standing, Duration) {
        let since = Duration::from_secs(100);
        (repeat(Standing::online(), Event::Miss, K, since), since)
    }

    #[test]
    fn one_miss_less_than_k_does_nothing() {
        let now = Duration::from_secs(1);
        let mut standing = Standing::online();
        for _ in 0..K - 1 {
            let (next, change) = standing.after(Event::Miss, now, &RULES);
            assert_eq!((next.state(), change), (Online, None));
            standing = next;
        }
        // However long that takes.
        let mut slow = Standing::online();
        for at in 0..K - 1 {
            slow = slow.after(Event::Miss, GRACE * at * 2, &RULES).0;
        }
        assert_eq!(slow.state(), Online);
    }

    #[test]
    fn k_misses_in_a_row_are_suspect() {
        let now = Duration::from_secs(1);
        let before = repeat(Standing::online(), Event::Miss, K - 1, now);
        let (after, change) = before.after(Event::Miss, now, &RULES);
        assert_eq!(after.state(), Suspect);
        let expected = Change {
            to: Suspect,
            cause: Cause::Misses(K),
        };
        assert_eq!(change, Some(expected));
    }

    #[test]
    fn misses_that_are_not_in_a_row_are_nothing() {
        let now = Duration::from_secs(1);
        let mut standing = Standing::online();
        for _ in 0..100 {
            standing = repeat(standing, Event::Miss, K - 1, now);
            standing = repeat(standing, Event::Hit, 1, now);
            assert_eq!(standing.state(), Online);
        }
    }

    #[test]
    fn one_millisecond_less_than_the_grace_time_is_suspect_and_the_grace_time_is_offline() {
        let (standing, since) = suspect();
        let (still, change) = standing.after(Event::Miss, since + ALMOST_GRACE, &RULES);
        assert_eq!((still.state(), change), (Suspect, None));
        let (lost, change) = still.after(Event::Miss, since + GRACE, &RULES);
        assert_eq!(lost.state(), Offline);
        assert_eq!(
            change.unwrap().cause,
            Cause::Silent(GRACE, standing.misses() + 2)
        );
        // Said once.
        assert_eq!(lost.after(Event::Miss, since + GRACE * 2, &RULES).1, None);
    }

    #[test]
    fn a_hit_begins_the_grace_time_anew() {
        let (standing, since) = suspect();
        let standing = repeat(standing, Event::Hit, 1, since + GRACE / 2);
        assert_eq!(standing.state(), Suspect);
        let again = since + ALMOST_GRACE;
        let standing = repeat(standing, Event::Miss, 1, again);
        let standing = repeat(standing, Event::Miss, 1, again + ALMOST_GRACE);
        assert_eq!(standing.state(), Suspect);
        assert_eq!(
            repeat(standing, Event::Miss, 1, again + GRACE).state(),
            Offline
        );
    }

    #[test]
    fn one_hit_less_than_m_does_nothing_and_m_hits_are_back() {
        let (suspect, since) = suspect();
        let offline = repeat(suspect, Event::Miss, 1, since + GRACE);
        for (sick, state) in [(suspect, Suspect), (offline, Offline)] {
            let now = since + GRACE * 2;
            let almost = repeat(sick, Event::Hit, M - 1, now);
            assert_eq!(almost.state(), state);
            let (back, change) = almost.after(Event::Hit, now, &RULES);
            assert_eq!(back.state(), Online);
            assert_eq!(change.unwrap().cause, Cause::Hits(M));
            // A miss in between, and the count begins anew.
            let interrupted = repeat(almost, Event::Miss, 1, now);
            let interrupted = repeat(interrupted, Event::Hit, M - 1, now);
            assert_ne!(interrupted.state(), Online);
        }
    }

    #[test]
    fn a_disk_that_is_gone_is_offline_at_once_and_stays_so_whatever_a_cache_answers() {
        let now = Duration::from_secs(1);
        let (gone, change) = Standing::online().after(Event::Gone, now, &RULES);
        assert_eq!(
            (gone.state(), change.unwrap().cause),
            (Offline, Cause::Gone)
        );
        let gone = repeat(gone, Event::Hit, M * 2, now);
        assert_eq!(gone.state(), Offline);
    }
}
