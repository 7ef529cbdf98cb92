//! Takes disks out of use: one for a user, all at the daemon's end. Nothing on them changes but the clean mark.

use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use crate::api::{ApiError, DiskState};
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::daemon::object::Noun;
use crate::daemon::object::backing::loss_key;
use crate::error_kind::ErrorKind;

/// Takes the disk that `name` means (a UUID or a path) out of use and forgets it.
///
/// # Errors
/// `NotFound`; `Busy` while an image or a volume on it is attached, or a job uses it.
pub async fn remove(node: &Arc<Node>, name: &str) -> Result<(), ApiError> {
    node.require_running()?;
    let (uuid, path) = begin(node, name)?;
    let (actor, slot) = {
        let disks = node.disks();
        let entry = disks.iter().find(|entry| entry.path == path);
        (
            entry.and_then(|entry| entry.actor.clone()),
            entry.and_then(|entry| entry.slot),
        )
    };
    if let Some(slot) = slot
        && let Err(error) = node.serving.remove_disk(slot)
    {
        if let Some(entry) = node.disks().iter_mut().find(|entry| entry.path == path) {
            entry.in_change = false;
        }
        return Err(error);
    }
    if let Some(actor) = actor
        && let Err(error) = actor.close().await
    {
        // It is closed all the same; only the clean mark is missing, and the next opening reads everything anyway.
        tracing::warn!(disk = %path.display(), "closing the disk: {error}");
    }
    for found in node.objects() {
        if Some(found.disk) == uuid {
            node.set_problem(&loss_key(found.object.uuid), None);
        }
    }
    node.disks().retain(|entry| entry.path != path);
    if let Some(uuid) = uuid {
        node.seen().remove(uuid);
        node.set_problem(&super::space::space_key(uuid), None);
    }
    node.set_problem(&format!("disk:{}", path.display()), None);
    tracing::info!(disk = %path.display(), "removed");
    node.notify();
    Ok(())
}

/// Marks the disk as being closed, if nothing uses it.
fn begin(node: &Node, name: &str) -> Result<(Option<Uuid>, PathBuf), ApiError> {
    let mut disks = node.disks();
    let runtimes = node.runtimes();
    let path = super::find(&disks, name)?.path.clone();
    let Some(entry) = disks.iter_mut().find(|entry| entry.path == path) else {
        return Err(errors::internal("a disk that was there is gone"));
    };
    let busy = |what: String, remedy: &str| {
        Err(ApiError::new(
            ErrorKind::Busy,
            format!("the disk {name} is in use: {what}"),
        )
        .disk(name)
        .remedy(remedy))
    };
    if entry.in_change {
        return busy(
            "it is being opened or closed".to_owned(),
            "try again in a moment",
        );
    }
    for object in &entry.contents_now().objects {
        let Some(runtime) = runtimes.get(object.uuid) else {
            continue;
        };
        if runtime.device.is_some() {
            return busy(
                format!("the {} {} is attached", Noun::of(object), object.name),
                "detach its images and volumes first",
            );
        }
        if let Some(job) = &runtime.job {
            return busy(
                format!("job {} works on the image {}", job.id(), object.name),
                "wait for the job, or cancel it",
            );
        }
    }
    let importing = runtimes
        .imports()
        .find(|(_, import)| entry.uuid == Some(import.disk));
    if let Some((image, import)) = importing {
        return busy(
            format!("job {} imports the image {image}", import.job.id()),
            "wait for the job, or cancel it",
        );
    }
    entry.in_change = true;
    Ok((entry.uuid, entry.path.clone()))
}

/// Closes every disk, at the daemon's end. All at the same time; one that hangs does not keep the others open.
pub async fn close_all(node: &Arc<Node>) {
    let actors: Vec<_> = node
        .disks()
        .iter()
        .filter_map(|entry| entry.actor.clone())
        .collect();
    let mut closing = tokio::task::JoinSet::new();
    for actor in actors {
        closing.spawn(async move {
            match actor.close().await {
                Ok(()) => tracing::info!(disk = %actor.name(), "closed"),
                Err(error) => tracing::warn!(disk = %actor.name(), "closing the disk: {error}"),
            }
        });
    }
    while closing.join_next().await.is_some() {}
    for entry in node.disks().iter_mut() {
        entry.actor = None;
        entry.set_state(DiskState::Absent, None, "the daemon goes down");
    }
}
