//! Deletes an image or a volume: durably, and only when nothing uses it.

use std::sync::Arc;

use bedplate_datapath::store::Object;

use super::{Located, Noun, attach, backing};
use crate::api::ApiError;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// Deletes the object. When this answers, it stays deleted, and its space is free.
///
/// # Errors
/// `Busy` while it is attached, a job uses it, or clones need it.
pub async fn delete(node: &Arc<Node>, noun: Noun, name: &str) -> Result<(), ApiError> {
    node.require_running()?;
    let found = node.find(noun, name)?;
    let uuid = found.object.uuid;
    let turn = node.runtimes().of(uuid).turn.clone();
    let _turn = turn.lock().await;
    let found = node.find_again(&found)?;
    let object = &found.object;
    require_unused(node, &found)?;
    if noun == Noun::Volume && !object.state.is_ready() {
        // Nobody can detach what cannot be read, so its device may be there still.
        attach::remove_left_over(node, &found).await?;
    }
    let actor = node.actor(found.disk)?;
    let deleted = actor.change(move |store| store.delete(uuid)).await?;
    if let Err(error) = deleted {
        node.refresh_disk(found.disk);
        return Err(errors::of_store(&actor.name(), Some(&object.name), &error));
    }
    node.runtimes().forget(uuid, object.replica_uuid);
    node.forget_scrubbed(uuid, object.replica_uuid);
    node.set_problem(&backing::loss_key(uuid), None);
    tracing::info!(object = object.name, %uuid, "deleted the {noun}");
    // An object that kept its disk from allocating may be gone.
    node.refresh_replicas(found.disk);
    node.refresh_space(found.disk);
    Ok(())
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
    let (device, job) = {
        let runtimes = node.runtimes();
        let runtime = runtimes.get(object.uuid);
        (
            runtime.and_then(|runtime| runtime.device),
            runtime.and_then(|runtime| runtime.job.as_ref().map(super::super::jobs::JobRef::id)),
        )
    };
    if device.is_some() || (object.want_attached && object.state.is_ready()) {
        return busy(
            "is attached".to_owned(),
            format!("detach it first: `bedplate {noun} detach {}`", object.name),
        );
    }
    if let Some(job) = job {
        return busy(
            format!("is in use by job {job}"),
            "wait for the job, or cancel it".to_owned(),
        );
    }
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
