//! What the daemon knows about one disk, whether it is there or not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bedplate_datapath::plan::DiskIndex;
use bedplate_datapath::store::{Object, PreviousSession};
use uuid::Uuid;

use super::actor::{Contents, DiskActor};
use super::space::Fullness;
use crate::api::{ApiError, Disk, DiskDetail, DiskState};
use crate::daemon::backoff::Backoff;
use crate::daemon::history::Tracked;
use crate::daemon::object::Noun;

/// A known disk.
#[derive(Debug)]
pub struct DiskEntry {
    /// Identity; none for a path that was never opened.
    pub uuid: Option<Uuid>,
    /// Where it was seen last.
    pub path: PathBuf,
    /// State.
    pub state: Tracked<DiskState>,
    /// Why it is not in use.
    pub error: Option<ApiError>,
    /// While it is in use.
    pub actor: Option<Arc<DiskActor>>,
    /// The device's WWID or serial when it was opened last.
    pub hardware_id: Option<String>,
    /// What it held when it was seen last.
    pub contents: Arc<Contents>,
    /// Somebody is opening or closing it right now.
    pub in_change: bool,
    /// Its place in the tables of the reactors.
    pub slot: Option<DiskIndex>,
    /// How full it was when somebody looked last.
    pub fullness: Fullness,
    /// Tries to open it.
    pub retry: Retry,
}

/// Tries to open a disk that failed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retry {
    failures: u32,
    not_before: Option<Instant>,
}

impl Retry {
    /// One more failed at `now`.
    pub fn failed(&mut self, now: Instant, backoff: &Backoff, random: u32) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + backoff.wait(self.failures, random));
    }

    /// Whether the next one is not due yet.
    pub fn is_resting(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|due| now < due)
    }
}

impl DiskEntry {
    /// A disk that nothing is known about but where it should be.
    pub fn absent(path: PathBuf, uuid: Option<Uuid>) -> Self {
        Self {
            uuid,
            path,
            state: Tracked::new("disk", DiskState::Absent),
            error: None,
            actor: None,
            hardware_id: None,
            contents: Arc::default(),
            in_change: false,
            slot: None,
            fullness: Fullness::default(),
            retry: Retry::default(),
        }
    }

    /// Its name in messages.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The actor, where images may be written to the disk.
    pub fn writable(&self) -> Option<&Arc<DiskActor>> {
        let online = self.state.get() == DiskState::Online;
        let takes_changes = |actor: &DiskActor| {
            let contents = actor.contents();
            contents.says.as_ref().is_some_and(|says| says.is_writable)
        };
        self.actor
            .as_ref()
            .filter(|actor| online && !self.in_change && takes_changes(actor))
    }

    /// Changes its state, with the error that is the reason, where there is one.
    pub fn set_state(&mut self, to: DiskState, error: Option<ApiError>, cause: &str) {
        let name = self
            .uuid
            .map_or_else(|| self.name(), |uuid| format!("{} ({uuid})", self.name()));
        match &error {
            Some(error) => self.state.set_because(&name, to, &error.message),
            None => self.state.set(&name, to, cause),
        }
        self.error = error;
    }

    /// What it holds: as of now, or as of when it was last seen.
    pub fn contents_now(&self) -> Arc<Contents> {
        self.actor
            .as_ref()
            .map_or_else(|| Arc::clone(&self.contents), |actor| actor.contents())
    }

    /// Whether it is open, and was not seen gone.
    pub fn is_there(&self) -> bool {
        let actor = self.actor.as_ref();
        actor.is_some_and(|actor| !actor.presence.was_seen_gone())
    }

    /// As the API shows it in a list.
    pub fn view(&self) -> Disk {
        let contents = self.contents_now();
        let actor = self.actor.as_ref();
        let latched = contents.latched.clone();
        let state_why = self.state.why().map(str::to_owned);
        // One that is gone is latched as well, and nobody can mend that.
        let why = if self.is_there() {
            latched.or(state_why)
        } else {
            state_why.or(latched)
        };
        Disk {
            uuid: self.uuid,
            path: self.name(),
            state: self.state.get(),
            why,
            read_only: contents.latched.is_some(),
            // Known to the node, not to the entry: see `Node::disk_view`.
            draining: false,
            size_bytes: actor.map(|actor| actor.size_bytes),
            usable_bytes: actor.map(|actor| actor.usable_bytes),
            free_bytes: actor.map(|actor| actor.free_bytes()),
            replicas: count(&contents, Noun::Image),
            volume_count: count(&contents, Noun::Volume),
        }
    }

    /// As the API shows it alone.
    pub fn detail(&self) -> DiskDetail {
        let report = self.actor.as_ref().map(|actor| &actor.report);
        let contents = self.contents_now();
        DiskDetail {
            disk: self.view(),
            format_version: report.map(|_| 1),
            session: report.map(|report| report.session),
            previous_session: report.map(|report| {
                match report.previous {
                    PreviousSession::First => "first",
                    PreviousSession::Clean => "clean",
                    PreviousSession::CrashSameBoot => "crash_same_boot",
                    PreviousSession::CrashOtherBoot => "crash_other_boot",
                }
                .to_owned()
            }),
            repairs: report
                .map(|report| report.repairs.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            images: names(&contents, Noun::Image),
            volumes: names(&contents, Noun::Volume),
            history: self.state.changes().cloned().collect(),
        }
    }
}

fn of_noun(contents: &Contents, noun: Noun) -> impl Iterator<Item = &Object> {
    contents
        .objects
        .iter()
        .filter(move |object| Noun::of(object) == noun)
}

fn count(contents: &Contents, noun: Noun) -> u32 {
    u32::try_from(of_noun(contents, noun).count()).unwrap_or(u32::MAX)
}

fn names(contents: &Contents, noun: Noun) -> Vec<String> {
    let mut names: Vec<String> = of_noun(contents, noun)
        .map(|object| object.name.clone())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_disk_that_cannot_be_opened_is_tried_less_and_less() {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            most: Duration::from_secs(8),
        };
        let start = Instant::now();
        let mut retry = Retry::default();
        assert!(!retry.is_resting(start));
        for (failure, rest) in [1, 2, 4, 8, 8].into_iter().enumerate() {
            let now = start + Duration::from_secs(100 * failure as u64);
            retry.failed(now, &backoff, u32::MAX / 2);
            let rest = Duration::from_secs(rest);
            assert!(retry.is_resting(now + rest.mul_f64(0.99)));
            assert!(!retry.is_resting(now + rest.mul_f64(1.01)));
        }
    }
}
