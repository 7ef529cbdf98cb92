//! Takes disks out of use: one for a user, all at the daemon's end. Nothing on them changes but the clean mark.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::in_change::InChange;
use crate::api::{ApiError, AttachmentState, DiskState};
use crate::daemon::blocking::blocking;
use crate::daemon::node::Node;
use crate::daemon::object::Noun;
use crate::daemon::object::backing::loss_key;
use crate::daemon::replica;
use crate::error_kind::ErrorKind;

/// A disk that is being taken out of use.
struct Removal {
    uuid: Option<Uuid>,
    path: PathBuf,
    change: InChange,
    /// Of every object on it: none gets a device until the disk is gone.
    _turns: Vec<OwnedMutexGuard<()>>,
}

/// Takes the disk that `name` means (a UUID or a path) out of use and forgets it. With `force`, whatever is on it.
///
/// # Errors
/// `NotFound`; `Busy` while an image or a volume on it is attached, or a job uses it; without `force` also while it holds anything, or an
/// image counts on it.
pub async fn remove(node: &Arc<Node>, name: &str, force: bool) -> Result<(), ApiError> {
    node.require_running()?;
    let known = super::find(&node.disks(), name)?.uuid;
    let mut leaving = Vec::new();
    if let Some(uuid) = known {
        if !force {
            require_empty(node, uuid)?;
        }
        replica::stop_all_on(node, uuid).await;
        leaving = replica::sets::disk_left(node, uuid).await?;
    }
    let removed = take_out(node, name).await;
    drop(leaving);
    removed?;
    if let Some(uuid) = known {
        replica::forget::no_longer_a_member(node, uuid).await;
    }
    Ok(())
}

/// Refuses a disk that something would be missed of.
fn require_empty(node: &Node, disk: Uuid) -> Result<(), ApiError> {
    let name = node.disk_name(disk);
    let refuse = |what: String, remedy: String| {
        let message = format!("the disk {name} is still needed: {what}");
        Err(ApiError::new(ErrorKind::Busy, message)
            .disk(name.clone())
            .remedy(remedy))
    };
    let objects = node.objects_where(|on, _| on == disk);
    let names = |noun: Noun| -> Vec<String> {
        let of_noun = objects.iter().filter(|found| found.noun() == noun);
        of_noun.map(|found| found.object.name.clone()).collect()
    };
    let is_there = node
        .actor(disk)
        .is_ok_and(|actor| !actor.presence.is_gone());
    let volumes = names(Noun::Volume);
    if !volumes.is_empty() {
        let remedy = if is_there {
            "volumes do not move: delete them, or take the disk out of use with all that is on it: `--force`".to_owned()
        } else {
            format!("wait until it is back; if it is lost: `bedplate disk forget {name}`")
        };
        return refuse(
            format!("it holds the volumes {}", volumes.join(", ")),
            remedy,
        );
    }
    let images = names(Noun::Image);
    if !images.is_empty() {
        let remedy = if is_there {
            format!(
                "`bedplate disk drain {name}` moves them; `--force` leaves them on the disk, out of reach"
            )
        } else {
            format!("wait until it is back; if it is lost: `bedplate disk forget {name}`")
        };
        return refuse(
            format!("it holds copies of the images {}", images.join(", ")),
            remedy,
        );
    }
    let catalogue = node.catalogue();
    let counting: Vec<&str> = catalogue
        .images
        .iter()
        .filter(|image| image.description.member_disks.contains(&disk))
        .map(|image| image.object.name.as_str())
        .collect();
    if !counting.is_empty() && !is_there {
        return refuse(
            format!("the images {} count on a copy on it", counting.join(", ")),
            format!("wait until it is back; if it is lost: `bedplate disk forget {name}`"),
        );
    }
    Ok(())
}

async fn take_out(node: &Arc<Node>, name: &str) -> Result<(), ApiError> {
    let Closed { uuid, path, change } = close(node, name).await?;
    {
        let mut disks = node.disks();
        change.end(&mut disks);
        disks.retain(|entry| entry.path != path);
    }
    if let Some(uuid) = uuid {
        node.change_seen(|seen| seen.remove(uuid));
        node.set_problem(&super::space::space_key(uuid), None);
    }
    node.set_problem(&format!("disk:{}", path.display()), None);
    tracing::info!(disk = %path.display(), "removed");
    node.notify();
    Ok(())
}

/// A disk that nothing is open on any more; its entry is still being changed.
pub(super) struct Closed {
    pub uuid: Option<Uuid>,
    pub path: PathBuf,
    pub change: InChange,
}

/// Closes the disk that `name` means, if nothing uses it: its session ends, and its place with the reactors is free.
///
/// # Errors
/// `NotFound`, `Busy`.
pub(super) async fn close(node: &Arc<Node>, name: &str) -> Result<Closed, ApiError> {
    let Removal {
        uuid,
        path,
        change,
        _turns,
    } = begin(node, name)?;
    let (actor, slot) = {
        let disks = node.disks();
        let entry = disks.iter().find(|entry| entry.path == path);
        (
            entry.and_then(|entry| entry.actor.clone()),
            entry.and_then(|entry| entry.slot),
        )
    };
    if let Some(slot) = slot {
        let serving = Arc::clone(node);
        blocking(move || serving.serving.remove_disk(slot)).await??;
        // Given to the next disk, whatever becomes of this one.
        if let Some(entry) = node.disks().iter_mut().find(|entry| entry.path == path) {
            entry.slot = None;
        }
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
    if let Some(entry) = node.disks().iter_mut().find(|entry| entry.path == path) {
        entry.contents = entry.contents_now();
        entry.actor = None;
    }
    Ok(Closed { uuid, path, change })
}

/// Images on the disk whose devices read other copies by now.
fn images_with_other_copies(node: &Node, name: &str) -> Result<Vec<Uuid>, ApiError> {
    let Some(disk) = super::find(&node.disks(), name)?.uuid else {
        return Ok(Vec::new());
    };
    let images: Vec<Uuid> = node
        .objects_of(Noun::Image)
        .into_iter()
        .filter(|found| found.disk == disk)
        .map(|found| found.object.uuid)
        .collect();
    let mut elsewhere = images;
    elsewhere.retain(|image| {
        let others = node.ready_disks_of(*image);
        others.iter().any(|other| *other != disk)
    });
    Ok(elsewhere)
}

/// Marks the disk as being closed, if nothing uses it.
fn begin(node: &Arc<Node>, name: &str) -> Result<Removal, ApiError> {
    let read_elsewhere = images_with_other_copies(node, name)?;
    let mut disks = node.disks();
    let mut runtimes = node.runtimes();
    let entry = super::find(&disks, name)?;
    let (uuid, path) = (entry.uuid, entry.path.clone());
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
    let mut turns = Vec::new();
    let contents = entry.contents_now();
    let needed = contents
        .objects
        .iter()
        .filter(|object| !read_elsewhere.contains(&object.uuid));
    for object in needed {
        let runtime = runtimes.of(object.uuid);
        // A device that is on its way is not known yet, and would be served by whatever disk gets this one's place.
        let on_its_way = matches!(
            runtime.attachment.get(),
            AttachmentState::Attaching | AttachmentState::Recovering
        );
        let turn = runtime.turn.clone().try_lock_owned();
        let (Ok(turn), false) = (turn, on_its_way) else {
            return busy(
                format!("the {} {} is being changed", Noun::of(object), object.name),
                "try again in a moment",
            );
        };
        turns.push(turn);
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
        .find(|(_, import)| uuid == Some(import.disk));
    if let Some((image, import)) = importing {
        return busy(
            format!("job {} imports the image {image}", import.job.id()),
            "wait for the job, or cancel it",
        );
    }
    drop(runtimes);
    Ok(Removal {
        uuid,
        change: InChange::begin(node, &mut disks, &path),
        path,
        _turns: turns,
    })
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
