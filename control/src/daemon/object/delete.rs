//! Deletes an image or a volume: durably, and only when nothing uses it.

use std::sync::Arc;

use bedplate_datapath::catalogue::delete_steps;
use bedplate_datapath::store::Object;

use super::{Located, Noun, attach, backing};
use crate::api::ApiError;
use crate::daemon::errors;
use crate::daemon::history::unix_ms;
use crate::daemon::jobs::JobRef;
use crate::daemon::node::Node;
use crate::daemon::replica::run::AtWork;
use crate::daemon::replica::stale::require_believed;
use crate::daemon::replica::{self, image_of};
use crate::error_kind::ErrorKind;

/// Deletes the object. When this answers, it stays deleted, and its space is free.
///
/// # Errors
/// `Busy` while it is attached, a job uses it, or clones need it; `Held` on an old copy of a disk.
pub async fn delete(node: &Arc<Node>, noun: Noun, name: &str) -> Result<(), ApiError> {
    node.require_running()?;
    let found = node.find(noun, name)?;
    let uuid = found.object.uuid;
    // A copy whose making is just being decided, and that no job is at yet, would be begun after the last one is gone. Before the object's
    // turn, as the supervisor takes them.
    let _at_work = match noun {
        Noun::Image => Some(AtWork::wait(node, uuid).await),
        Noun::Volume => None,
    };
    let turn = node.runtimes().of(uuid).turn.clone();
    let _turn = turn.lock().await;
    let found = node.find_again(&found)?;
    let object = &found.object;
    require_believed(&found)?;
    require_unused(node, &found)?;
    if noun == Noun::Volume && !object.state.is_ready() {
        // Nobody can detach what cannot be read, so its device may be there still.
        attach::remove_left_over(node, &found).await?;
    }
    let copies = match noun {
        Noun::Image => node.copies_of(uuid),
        Noun::Volume => vec![found.clone()],
    };
    let whole = image_of(&node.catalogue(), uuid).is_some() && noun == Noun::Image;
    if whole {
        delete_everywhere(node, &found).await?;
    } else {
        let actor = node.actor(found.disk)?;
        let deleted = actor.change(move |store| store.delete(uuid)).await?;
        if let Err(error) = deleted {
            node.refresh_disk(found.disk);
            return Err(errors::of_store(&actor.name(), Some(&object.name), &error));
        }
    }
    {
        let mut runtimes = node.runtimes();
        runtimes.forget(uuid);
        for copy in &copies {
            runtimes.forget_replica(copy.object.replica_uuid);
        }
    }
    node.replicas.sets.forget(uuid);
    for copy in &copies {
        node.forget_scrubbed(copy.object.replica_uuid);
    }
    node.set_problem(&backing::loss_key(uuid), None);
    tracing::info!(object = object.name, %uuid, "deleted the {noun}");
    for copy in copies {
        // An object that kept its disk from allocating may be gone.
        node.refresh_replicas(copy.disk);
        node.refresh_space(copy.disk);
    }
    node.replicas.wake();
    Ok(())
}

/// Deletes every copy of an image. Disks that are not there learn of it from the graves on the others: it stays deleted.
async fn delete_everywhere(node: &Arc<Node>, found: &Located) -> Result<(), ApiError> {
    let uuid = found.object.uuid;
    // A copy that is being made would be a new one.
    replica::stop_all_of(node, uuid, None).await;
    let mut steps = delete_steps(&node.catalogue(), uuid, unix_ms() / 1000);
    // A disk that is open and does not answer is told like one that is away: by the graves on the others.
    steps.retain(|step| node.is_disk_online(step.disk()));
    let mut is_deleted = false;
    let mut first_error = None;
    for step in steps {
        match replica::carry_out(node, &step).await {
            // The first grave decides. What is left is done when the disks are merged next.
            Ok(()) => is_deleted = true,
            Err(error) => {
                tracing::warn!(image = found.object.name, "deleting a copy: {error}");
                first_error.get_or_insert(error);
            }
        }
    }
    if is_deleted {
        return Ok(());
    }
    Err(match first_error {
        Some(error) => error,
        None => node.actor(found.disk).err().unwrap_or_else(|| {
            let name = &found.object.name;
            ApiError::new(
                ErrorKind::DiskOffline,
                format!(
                    "the image {name} cannot be deleted now: no disk with a copy of it answers"
                ),
            )
            .object(name.clone())
            .disk(found.disk_path.clone())
            .remedy("delete it when one of its disks is back; `bedplate disk list` says more")
        }),
    })
}

fn require_unused(node: &Node, found: &Located) -> Result<(), ApiError> {
    let (noun, object) = (found.noun(), &found.object);
    let busy = |what: String, remedy: String| {
        Err(ApiError::new(
            ErrorKind::Busy,
            format!("the {noun} {} {what}", object.name),
        )
        .object(object.name.clone())
        .remedy(remedy))
    };
    let device = node
        .runtimes()
        .get(object.uuid)
        .and_then(|runtime| runtime.device);
    if device.is_some() || (object.want_attached && object.state.is_ready()) {
        return busy(
            "is attached".to_owned(),
            format!("detach it first: `bedplate {noun} detach {}`", object.name),
        );
    }
    require_no_job(node, found)?;
    let clones = clones_of(node, object);
    if !clones.is_empty() {
        return busy(
            format!("has clones: {}", clones.join(", ")),
            "delete them first: `bedplate volume delete`".to_owned(),
        );
    }
    Ok(())
}

/// Names of the volumes over an image.
fn clones_of(node: &Node, image: &Object) -> Vec<String> {
    let mut names: Vec<String> = node
        .objects_of(Noun::Volume)
        .into_iter()
        .filter(|volume| volume.object.parent == Some(image.uuid))
        .map(|volume| volume.object.name)
        .collect();
    names.sort();
    names
}

/// Refuses what a job is at.
///
/// # Errors
/// `Busy`.
pub fn require_no_job(node: &Node, found: &Located) -> Result<(), ApiError> {
    let job = node
        .runtimes()
        .get(found.object.uuid)
        .and_then(|runtime| runtime.job.as_ref().map(JobRef::id));
    let Some(job) = job else { return Ok(()) };
    let (noun, name) = (found.noun(), &found.object.name);
    Err(ApiError::new(
        ErrorKind::Busy,
        format!("the {noun} {name} is in use by job {job}"),
    )
    .object(name.clone())
    .remedy("wait for the job, or cancel it"))
}
