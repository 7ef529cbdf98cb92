//! Deletes an image: durably, and only when nothing uses it.

use std::sync::Arc;

use crate::api::ApiError;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// Deletes the image. When this answers, it stays deleted, and its space is free.
///
/// # Errors
/// `Busy` while it is attached, or a job uses it.
pub async fn delete(node: &Arc<Node>, name: &str) -> Result<(), ApiError> {
    node.require_running()?;
    let image = node.find_image(name)?.object.uuid;
    let turn = node.images().of(image).turn.clone();
    let _turn = turn.lock().await;
    let found = node.find_image(&image.to_string())?;
    let object = &found.object;
    {
        let images = node.images();
        let runtime = images.get(image);
        let job = runtime.and_then(|runtime| runtime.job.as_ref());
        let busy = |what: String, remedy: String| {
            Err(ApiError::new(
                ErrorKind::Busy,
                format!("the image {} is {what}", object.name),
            )
            .object(object.name.clone())
            .remedy(remedy))
        };
        let attached = runtime.is_some_and(|runtime| runtime.device.is_some());
        if attached || (object.want_attached && object.state.is_ready()) {
            return busy(
                "attached".to_owned(),
                format!("detach it first: `bedplate image detach {}`", object.name),
            );
        }
        if let Some(job) = job {
            return busy(
                format!("in use by job {}", job.id()),
                "wait for the job, or cancel it".to_owned(),
            );
        }
    }
    let actor = node.actor(found.disk)?;
    let deleted = actor.change(move |store| store.delete(image)).await?;
    if let Err(error) = deleted {
        node.refresh_disk(found.disk);
        return Err(errors::of_store(&actor.name(), Some(&object.name), &error));
    }
    node.images().forget(image, object.replica_uuid);
    tracing::info!(image = object.name, uuid = %image, "deleted");
    // An image that kept its disk from allocating may be gone.
    node.refresh_replicas(found.disk);
    Ok(())
}
