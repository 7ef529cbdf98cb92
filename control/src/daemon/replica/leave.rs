//! Takes one copy of an image away: its readers go to others first, then the copy goes, then its name.

use std::sync::Arc;
use std::time::Duration;

use bedplate_datapath::store::RemoveReplica;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::plan::Why;
use super::sets::{self, Leaving};
use super::{describe, stop_all_of};
use crate::api::ApiError;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// How long requests in flight are waited for.
const GRACE_WITHIN: Duration = Duration::from_secs(60);

/// Removes the copy of `image` on `disk`.
///
/// # Errors
/// What stands in the way: then the copy, or at least its name, is still there.
pub async fn remove(node: &Arc<Node>, image: Uuid, disk: Uuid, why: Why) -> Result<(), ApiError> {
    stop_all_of(node, image, Some(disk)).await;
    require_another(node, image, disk)?;
    let leaving = readers(node, image, disk).await?;
    let actor = node.actor(disk)?;
    let how = RemoveReplica { other_copies: true };
    let (removed, leaving) = actor
        .change(move |store| (store.remove_replica(image, how), leaving))
        .await?;
    drop(leaving);
    if let Err(error) = removed {
        node.refresh_disk(disk);
        return Err(errors::of_store(&actor.name(), None, &error));
    }
    tracing::info!(disk = %actor.name(), %image, "removed a copy: {why:?}");
    unname(node, image, disk).await?;
    node.refresh_replicas(disk);
    node.refresh_space(disk);
    Ok(())
}

/// Takes `disk` off the description of `image`.
///
/// # Errors
/// What the other disks have against it.
pub async fn unname(node: &Arc<Node>, image: Uuid, disk: Uuid) -> Result<(), ApiError> {
    describe(node, image, |description| {
        description.member_disks.retain(|member| *member != disk);
    })
    .await
    .map(drop)
}

/// Looked at once more, as late as can be: what was Ready when this was planned may have gone since.
fn require_another(node: &Node, image: Uuid, disk: Uuid) -> Result<(), ApiError> {
    if node
        .ready_disks_of(image)
        .iter()
        .any(|other| *other != disk)
    {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorKind::NotReady,
        format!(
            "the copy of the image {image} on {} is the last one that is Ready",
            node.disk_name(disk)
        ),
    )
    .object(image.to_string())
    .remedy("it stays until another one is"))
}

/// Leads every device that reads the copy to the others, and waits until no request to it is in flight. No device comes to read it as long as
/// what this answers with is there.
///
/// # Errors
/// `Busy` where a device has no other copy to read; `TimedOut`.
pub async fn readers(node: &Arc<Node>, image: Uuid, disk: Uuid) -> Result<Leaving, ApiError> {
    let (leaving, is_read) = sets::leaves(node, image, disk);
    if !is_read {
        return Ok(leaving);
    }
    sets::refresh(node, image).await?;
    if node.serving.started().is_none() {
        return Ok(leaving);
    }
    let (over, waiting) = oneshot::channel();
    node.serving.after_grace(Box::new(move || {
        // Whoever waited may have given up.
        let _ = over.send(());
    }));
    match tokio::time::timeout(GRACE_WITHIN, waiting).await {
        Ok(Ok(())) => Ok(leaving),
        _ => Err(ApiError::new(
            ErrorKind::TimedOut,
            format!(
                "requests to the copy of the image {image} on {} do not end",
                node.disk_name(disk)
            ),
        )
        .object(image.to_string())
        .remedy("it is tried again")),
    }
}
