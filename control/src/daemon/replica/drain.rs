//! `disk drain`: the copies of a disk move to other disks, and it gets no more. The wish outlives the daemon; its job does not.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::plan::{self, Blocked};
use super::situation;
use super::view::image_of;
use crate::api::{ApiError, DiskState, Job, JobKind, JobPhase};
use crate::daemon::disk;
use crate::daemon::jobs::{JobRef, cancelled};
use crate::daemon::node::Node;
use crate::daemon::object::Noun;
use crate::error_kind::ErrorKind;

/// How often it is looked at, should nobody tell of a change.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Starts to drain the disk that `name` means; answers with the job.
///
/// # Errors
/// `NotFound`; `DiskOffline`; `NoSpace` where other disks lack the room; `NotReady` where an image cannot be copied now.
pub fn start(node: &Arc<Node>, name: &str) -> Result<Job, ApiError> {
    node.require_running()?;
    let uuid = {
        let disks = node.disks();
        let entry = disk::find(&disks, name)?;
        match entry.uuid {
            Some(uuid) if entry.state.get() == DiskState::Online && entry.actor.is_some() => uuid,
            _ => {
                return Err(ApiError::new(
                    ErrorKind::DiskOffline,
                    format!(
                        "the disk {} is {:?}: what is on it cannot be moved",
                        entry.name(),
                        entry.state.get()
                    ),
                )
                .disk(entry.name())
                .remedy(format!(
                    "wait until it is back; if it never comes back: `bedplate disk forget {}`",
                    entry.name()
                )));
            }
        }
    };
    require_room(node, uuid)?;
    node.change_seen(|seen| seen.set_draining(uuid, true));
    node.replicas.wake();
    Ok(follow(node, uuid).view())
}

/// Goes on with what the daemon before was asked for.
pub fn resume(node: &Arc<Node>) {
    let draining: Vec<Uuid> = node.seen().draining().collect();
    for disk in draining {
        follow(node, disk);
    }
}

/// The job: ends when no copy is left on the disk.
fn follow(node: &Arc<Node>, disk: Uuid) -> JobRef {
    let running = node
        .jobs
        .list()
        .into_iter()
        .find(|job| {
            job.kind == JobKind::Drain
                && !job.state.is_final()
                && job.disk.as_deref() == Some(&node.disk_name(disk))
        })
        .and_then(|job| node.jobs.get(job.id).ok());
    if let Some(job) = running {
        return job;
    }
    let name = node.disk_name(disk);
    let job = node.jobs.create_on(JobKind::Drain, "", Some(name), None);
    let (node, of) = (Arc::clone(node), job.clone());
    tokio::spawn(async move {
        let outcome = until_empty(&node, disk, &of).await;
        if outcome.is_err() && !node.is_stopping() {
            node.change_seen(|seen| seen.set_draining(disk, false));
            node.replicas.wake();
        }
        of.end(outcome, None);
        node.notify();
    });
    job
}

async fn until_empty(node: &Arc<Node>, disk: Uuid, job: &JobRef) -> Result<(), ApiError> {
    let mut changes = node.watch_changes();
    let mut total = 0;
    loop {
        changes.mark_unchanged();
        let left = bytes_on(node, disk);
        total = total.max(left.bytes);
        job.progress(JobPhase::Copying, total - left.bytes, Some(total));
        if !node.seen().is_draining(disk) {
            // Taken out of use, or into use again.
            return Err(cancelled(&node.disk_name(disk)));
        }
        if left.copies == 0 && left.is_known {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = job.cancelled() => return Err(cancelled(&node.disk_name(disk))),
            _ = changes.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

struct Left {
    copies: usize,
    bytes: u64,
    /// Whether the disk is there to be asked.
    is_known: bool,
}

fn bytes_on(node: &Node, disk: Uuid) -> Left {
    let is_known = node.actor(disk).is_ok();
    let copies: Vec<u64> = node
        .objects_where(|on, object| on == disk && Noun::of(object) == Noun::Image)
        .into_iter()
        .map(|found| found.object.size_bytes)
        .collect();
    Left {
        copies: copies.len(),
        bytes: copies.iter().sum(),
        is_known,
    }
}

/// Looks before anything is moved whether all of it can be.
fn require_room(node: &Arc<Node>, disk: Uuid) -> Result<(), ApiError> {
    let situation = situation::now(node, Some(disk));
    let plan = plan::plan(&situation);
    let catalogue = node.catalogue();
    let name = node.disk_name(disk);
    let here = |image: &Uuid| {
        situation
            .images
            .iter()
            .any(|now| now.uuid == *image && now.copies.iter().any(|copy| copy.disk == disk))
    };
    let names = |of: &dyn Fn(&Blocked) -> bool| -> Vec<String> {
        plan.blocked
            .iter()
            .filter(|(image, why)| here(image) && of(why))
            .map(|(image, _)| {
                image_of(&catalogue, *image)
                    .map_or_else(|| image.to_string(), |found| found.object.name.clone())
            })
            .collect()
    };
    let no_place = names(&|why| matches!(why, Blocked::NoPlace { .. }));
    if !no_place.is_empty() {
        let images = no_place.join(", ");
        return Err(ApiError::new(
            ErrorKind::NoSpace,
            format!(
                "the disk {name} cannot be drained: no other disk has room for a copy of {images}"
            ),
        )
        .disk(name)
        .remedy("add a disk, make room, or want fewer copies: `bedplate image copies NAME N`"));
    }
    let no_source = names(&|why| matches!(why, Blocked::NoSource));
    if !no_source.is_empty() {
        let images = no_source.join(", ");
        return Err(ApiError::new(
            ErrorKind::NotReady,
            format!("the disk {name} cannot be drained: no copy of {images} is Ready to be copied"),
        )
        .disk(name)
        .remedy("`bedplate image show` says what is with it; mend or delete it first"));
    }
    Ok(())
}
