//! Replicas: which copies of images there are to be, and what is done about it. See `docs/replicas.md`.
//!
//! ```text
//! view        what the open disks say together
//! settle      brings the disks into agreement about it
//! describe    changes an image's description, on all its disks
//! plan        (catalogue, disks, time) -> actions; pure
//!   situation what the plan is made of
//!   backoff   when a copy that failed is tried again; pure
//! run         the supervisor: plans, and carries out
//!   rebuild   makes one copy, as a job
//!     throttle how fast it may be; pure
//!   leave     takes one copy away
//!   unwanted  devices that are not to be
//! stale       old copies of disks
//! sets        which copies devices read
//!   failover  what is done when one of them fails
//!   damage    blocks that are bad
//! copies      `image copies`
//! drain       `disk drain`
//! forget      `disk forget`
//! ```

mod backoff;
pub mod copies;
mod damage;
mod describe;
pub mod drain;
pub mod failed;
pub mod failover;
pub mod forget;
mod leave;
mod plan;
mod rebuild;
pub mod run;
pub mod sets;
mod settle;
mod situation;
pub mod stale;
mod throttle;
mod unwanted;
mod view;

pub use describe::describe;
pub use rebuild::{stop_all_of, stop_all_on};
pub use settle::{carry_out, settle};
pub use view::{image_of, state_of};

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use uuid::Uuid;

use self::backoff::Backoff;
use self::sets::Sets;
use self::view::View;
use crate::config;
use crate::daemon::jobs::JobRef;

/// What the supervisor knows. In memory only: all that must last is on the disks.
pub struct Replicas {
    /// Which copies devices read.
    pub sets: Sets,
    view: View,
    epoch: Instant,
    woken: Notify,
    /// One image less is `at_work`.
    work_ended: Notify,
    settling: tokio::sync::Mutex<()>,
    /// Rebuilds that may copy now.
    turns: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    backoff: Backoff,
    /// Since when each disk that is not in use is not.
    away: HashMap<Uuid, Duration>,
    /// Copies in the making, by image and disk.
    rebuilds: HashMap<(Uuid, Uuid), JobRef>,
    /// Images of which a copy or a name is being changed, or that are being deleted.
    at_work: HashSet<Uuid>,
    /// Why images do not get what they want.
    blocked: HashMap<Uuid, String>,
    /// Rates that operators asked for.
    limits: HashMap<Uuid, u64>,
    /// Turns of disks that copies are written to.
    targets: HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>,
}

impl Replicas {
    /// Nothing is known yet.
    pub fn new(settings: &config::Rebuild) -> Self {
        Self {
            sets: Sets::default(),
            view: View::default(),
            epoch: Instant::now(),
            woken: Notify::new(),
            work_ended: Notify::new(),
            settling: tokio::sync::Mutex::default(),
            turns: Semaphore::new(settings.at_once),
            state: Mutex::default(),
        }
    }

    /// Something changed that a plan depends on.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Why an image does not get what it wants now.
    pub fn blocked(&self, image: Uuid) -> Option<String> {
        self.state().blocked.get(&image).cloned()
    }

    /// The job that makes a copy of `image` on `disk`.
    pub fn rebuild_of(&self, image: Uuid, disk: Uuid) -> Option<JobRef> {
        self.state().rebuilds.get(&(image, disk)).cloned()
    }

    /// Any job that makes a copy of `image`.
    pub fn any_rebuild_of(&self, image: Uuid) -> Option<JobRef> {
        let state = self.state();
        let mut all = state.rebuilds.iter();
        all.find(|((of, _), _)| *of == image)
            .map(|(_, job)| job.clone())
    }

    /// Why the last copy of `image` on `disk` failed.
    pub fn failure_of(&self, image: Uuid, disk: Uuid) -> Option<String> {
        self.state().backoff.why(image, disk).map(str::to_owned)
    }

    /// Since the daemon started.
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
