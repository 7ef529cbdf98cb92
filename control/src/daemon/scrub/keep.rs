//! Reads one replica after the other, slowly, until the daemon goes down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::store::PreviousSession;
use uuid::Uuid;

use super::read::{Reading, read};
use super::schedule::{Candidate, Next, next};
use crate::api::{ApiError, ReplicaState};
use crate::daemon::history::unix_ms;
use crate::daemon::jobs::cancelled;
use crate::daemon::node::Node;
use crate::daemon::object::{Located, Noun};
use crate::daemon::pace::wait_after;
use crate::error_kind::ErrorKind;

/// How often it looks for something to read at most: disks come and go.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long after it was read a damaged replica is read again, if there is another one to repair it from.
const REPAIR_AGAIN_S: u64 = 600;
/// How long a replica rests that could not be read.
const REST_AFTER_ERROR: Duration = Duration::from_secs(60);

/// Reads one replica after the other, as the settings have it, until the daemon goes down.
pub async fn keep_scrubbing(node: Arc<Node>) {
    if !node.config.scrub.enabled {
        tracing::info!("images are not scrubbed: the settings say so");
        return;
    }
    // What was read by this process needs not be read first because of the session before.
    let mut read_now: BTreeSet<Uuid> = BTreeSet::new();
    // Those that could not be read rest for a while, so that the others get their turn.
    let mut resting: BTreeMap<Uuid, Instant> = BTreeMap::new();
    let interval = Duration::from_secs(node.config.scrub.interval_s);
    loop {
        resting.retain(|_, until| Instant::now() < *until);
        let mut replicas = replicas(&node);
        replicas.retain(|found| !resting.contains_key(&found.object.replica_uuid));
        let candidates: Vec<Candidate> = replicas
            .iter()
            .map(|found| candidate(&node, found, &replicas, &read_now))
            .collect();
        let rest = match next(&candidates, unix_ms() / 1000, interval) {
            Next::Wait(rest) => rest.clamp(Duration::from_millis(100), LOOK_EVERY),
            Next::Read(index) => {
                let found = &replicas[index];
                let replica = found.object.replica_uuid;
                if scrub_one(&node, found).await {
                    read_now.insert(replica);
                    let is_read = |other: &Located| read_now.contains(&other.object.replica_uuid);
                    if replicas.iter().all(is_read) {
                        node.metrics.scrub_passed();
                    }
                } else {
                    resting.insert(replica, Instant::now() + REST_AFTER_ERROR);
                }
                continue;
            }
        };
        tokio::select! {
            () = node.stopped() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Replicas that can be read now, and that no job is at.
fn replicas(node: &Node) -> Vec<Located> {
    let mut replicas = node.objects_of(Noun::Image);
    let runtimes = node.runtimes();
    replicas.retain(|found| {
        let runtime = runtimes.get(found.object.uuid);
        found.disk_trouble.is_none()
            && found.object.state.is_ready()
            && runtime.is_none_or(|runtime| runtime.job.is_none())
    });
    replicas
}

fn candidate(
    node: &Node,
    found: &Located,
    all: &[Located],
    read_now: &BTreeSet<Uuid>,
) -> Candidate {
    let replica = found.object.replica_uuid;
    let remembered = node.scrub_memory().of(replica);
    let runtimes = node.runtimes();
    let others = all.iter().filter(|other| {
        other.object.uuid == found.object.uuid
            && other.disk != found.disk
            && runtimes
                .replica_state(other.object.replica_uuid)
                .is_some_and(|state| state.get() == ReplicaState::Ready)
    });
    let is_single = others.count() == 0;
    drop(runtimes);
    let after_crash = node.actor(found.disk).is_ok_and(|actor| {
        matches!(
            actor.report.previous,
            PreviousSession::CrashSameBoot | PreviousSession::CrashOtherBoot
        )
    });
    let was_read_now = read_now.contains(&replica);
    let age_s = (unix_ms() / 1000).saturating_sub(remembered.map_or(0, |what| what.read_unix_s));
    // Another replica may have come that has what is bad here.
    let is_repairable =
        node.damage().of(replica).is_some() && !is_single && age_s >= REPAIR_AGAIN_S;
    let was_damaged = !was_read_now && remembered.is_some_and(|what| what.is_damaged);
    Candidate {
        is_suspected: was_damaged || is_repairable,
        is_after_crash: !was_read_now && after_crash,
        is_single,
        // Its import compared all of it.
        read_unix_s: remembered.map_or(found.object.created_unix_s, |what| what.read_unix_s),
    }
}

/// Reads one; answers whether all of it was read.
async fn scrub_one(node: &Arc<Node>, found: &Located) -> bool {
    let bytes_per_s = node.config.scrub.bytes_per_s;
    let (image, disk) = (&found.object.name, &found.disk_path);
    tracing::debug!(image, disk, "scrub begins");
    let uuid = found.object.uuid;
    let mut after_step = |step: super::read::Step| -> Result<Duration, ApiError> {
        let is_wanted = node
            .runtimes()
            .get(uuid)
            .is_some_and(|runtime| runtime.job.is_some());
        // A job reads it all: twice is too much.
        if node.is_stopping() || is_wanted {
            return Err(cancelled(image));
        }
        Ok(wait_after(step.read_bytes, step.took, bytes_per_s))
    };
    let reading = Reading {
        hashes: false,
        after_step: &mut after_step,
    };
    match read(node, found, reading).await {
        Ok(outcome) => {
            let (bad, left) = (outcome.bad.len(), outcome.left().len());
            tracing::debug!(image, disk, bad, left, "scrubbed");
            true
        }
        // Deleted, or its disk went away, or a job came.
        Err(error)
            if matches!(
                error.kind,
                ErrorKind::NotFound | ErrorKind::Cancelled | ErrorKind::DiskOffline
            ) =>
        {
            false
        }
        Err(error) => {
            tracing::warn!(image, disk, "scrub ended early: {error}");
            false
        }
    }
}
