//! Commits as requests see them: when what they wrote is durable, and when dropped clusters may be used again.

use bedplate_datapath::volume::Quarantine;

use super::{Break, Front};
use crate::sim::volumes::request::State;

impl Front {
    /// A commit begins; answers with its number.
    pub fn commit_begins(&mut self) -> u64 {
        self.wants_commit = false;
        self.commits_begun += 1;
        self.commits_begun
    }

    /// Commit `number` has ended; these clusters are free once nobody uses them.
    pub fn commit_ended(&mut self, number: u64, clusters: Quarantine) {
        self.commits_ended = number;
        // Those whose commit this was have asked again meanwhile.
        self.wants_commit = self
            .requests
            .iter()
            .any(|request| matches!(request.state, State::Commit(wanted) if wanted > number));
        let before = if self.breaks == Break::NoGrace {
            0
        } else {
            self.next_serial
        };
        self.quarantines.push((clusters, before));
        self.release_what_can_be();
    }

    /// A commit failed, and so will every later one.
    pub fn commit_failed(&mut self) {
        self.commits_fail = true;
    }

    pub(super) fn release_what_can_be(&mut self) {
        if self.quarantines.is_empty() {
            return;
        }
        let oldest = self
            .requests
            .iter()
            .filter(|request| !matches!(request.state, State::New | State::Blocked))
            .map(|request| request.serial)
            .min()
            .unwrap_or(u64::MAX);
        let (ready, waiting) = std::mem::take(&mut self.quarantines)
            .into_iter()
            .partition(|(_, before)| *before <= oldest);
        self.quarantines = waiting;
        let ready: Vec<(Quarantine, u64)> = ready;
        if let Some(space) = &self.space {
            for (clusters, _) in ready {
                space.release(clusters);
            }
        }
    }

    /// Whether clusters wait for requests to end.
    pub fn has_quarantined(&self) -> bool {
        self.quarantines
            .iter()
            .any(|(clusters, _)| !clusters.is_empty())
    }
}
