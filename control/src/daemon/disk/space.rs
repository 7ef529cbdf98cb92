//! Warns before a disk is full: a first touch on a full one fails, and its guests see that as an I/O error.
//!
//! Each threshold is crossed once: up at its percentage, down one percent below it, so that a disk at the edge does not fill the log.

use uuid::Uuid;

use crate::api::ApiError;
use crate::config;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// How far below a threshold use must fall before its warning is over, in percent of the disk.
const HYSTERESIS_PERCENT: u64 = 1;

/// How full a disk is, in the words that matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fullness {
    /// There is room.
    #[default]
    Fine,
    /// Above the first threshold.
    Warn,
    /// Above the second one.
    Critical,
}

impl Fullness {
    /// What it is with this use, after it was `self`.
    fn next(self, used: u64, total: u64, settings: &config::Space) -> Self {
        let above = |percent: u8, was: bool| {
            let back = if was { HYSTERESIS_PERCENT } else { 0 };
            let limit = u128::from(u64::from(percent).saturating_sub(back)) * u128::from(total);
            let used = u128::from(used) * 100;
            // Up when it is reached, down when it is fallen below.
            used >= limit && total > 0
        };
        if above(settings.critical_percent, self == Self::Critical) {
            Self::Critical
        } else if above(settings.warn_percent, self >= Self::Warn) {
            Self::Warn
        } else {
            Self::Fine
        }
    }
}

impl Node {
    /// Tells of a disk that gets full, or has room again.
    pub fn refresh_space(&self, disk: Uuid) {
        let settings = &self.config.space;
        let (name, fullness) = {
            let mut disks = self.disks();
            let Some(entry) = disks.iter_mut().find(|entry| entry.uuid == Some(disk)) else {
                return;
            };
            let Some(actor) = &entry.actor else { return };
            let total = actor.usable_bytes;
            let used = total.saturating_sub(actor.free_bytes());
            entry.fullness = entry.fullness.next(used, total, settings);
            (entry.name(), entry.fullness)
        };
        self.set_problem(&space_key(disk), problem(&name, fullness, settings));
    }
}

/// The key of the problem of a disk that is nearly full.
pub fn space_key(disk: Uuid) -> String {
    format!("space:{disk}")
}

/// Without numbers that change all the time: each text is logged once.
fn problem(name: &str, fullness: Fullness, settings: &config::Space) -> Option<ApiError> {
    let (percent, means) = match fullness {
        Fullness::Fine => return None,
        Fullness::Warn => (settings.warn_percent, ""),
        Fullness::Critical => (
            settings.critical_percent,
            "; when it is full, writes to new places of its volumes fail (ENOSPC)",
        ),
    };
    Some(
        ApiError::new(
            ErrorKind::NoSpace,
            format!("the disk {name} is {percent} % full or more{means}"),
        )
        .disk(name)
        .remedy(
            "delete images or volumes that are not needed, or discard in the guests (`fstrim`)",
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_threshold_is_crossed_once_each_way() {
        use Fullness::{Critical, Fine, Warn};
        let settings = config::Space::default();
        let mut now = Fine;
        let seen: Vec<Fullness> = [0, 799, 800, 795, 791, 789, 960, 941, 939, 800, 10]
            .into_iter()
            .map(|used| {
                now = now.next(used, 1000, &settings);
                now
            })
            .collect();
        assert_eq!(
            seen,
            [
                Fine, Fine, Warn, Warn, Warn, Fine, Critical, Critical, Warn, Warn, Fine
            ]
        );
        assert_eq!(Fine.next(0, 0, &settings), Fine);
    }
}
