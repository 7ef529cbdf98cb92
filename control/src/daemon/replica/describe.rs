//! Changes an image's description: one slot change on each of its disks that is there, one after the other, under the next generation.

use std::sync::Arc;

use bedplate_datapath::catalogue::CatalogueState;
use bedplate_datapath::store::Description;
use uuid::Uuid;

use super::view::image_of;
use crate::api::ApiError;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// Lets `change` change the description that holds; answers with what holds now. When this answers well, one disk at least has it
/// durably, and the others get it from there.
///
/// # Errors
/// `NotFound`; what the disks have against it, if none of them has it.
pub async fn describe(
    node: &Arc<Node>,
    image: Uuid,
    change: impl FnOnce(&mut Description),
) -> Result<Description, ApiError> {
    let turn = node.runtimes().of(image).describing.clone();
    let _turn = turn.lock().await;
    let catalogue = node.catalogue();
    let found = image_of(&catalogue, image).ok_or_else(|| gone(image))?;
    let known = &found.description;
    let mut next = known.clone();
    change(&mut next);
    next.member_disks.sort_unstable();
    next.member_disks.dedup();
    next.generation = known.generation;
    if next.says_the_same(known) {
        return Ok(next);
    }
    next.generation = known.generation.saturating_add(1);
    let mut done = 0;
    let mut first_error = None;
    for replica in &found.replicas {
        // One that is named no more loses its copy before; one that is named and has none learns of it with its first slot. One that is not
        // believed is not touched.
        let is_believed = !matches!(
            replica.state,
            CatalogueState::Stale | CatalogueState::Foreign
        );
        let has_copy = replica.replica_uuid.is_some() && is_believed;
        // One that does not answer learns of it when the disks are merged.
        let answers = node.is_disk_online(replica.disk);
        if !has_copy || !answers || !next.member_disks.contains(&replica.disk) {
            continue;
        }
        match on_disk(node, replica.disk, image, &next).await {
            Ok(()) => done += 1,
            Err(error) => {
                tracing::warn!(image = found.object.name, "describing it: {error}");
                first_error.get_or_insert(error);
            }
        }
    }
    if done == 0 {
        return Err(first_error.unwrap_or_else(|| gone(image)));
    }
    node.replicas.wake();
    node.notify();
    Ok(next)
}

async fn on_disk(
    node: &Arc<Node>,
    disk: Uuid,
    image: Uuid,
    description: &Description,
) -> Result<(), ApiError> {
    let actor = node.actor(disk)?;
    let description = description.clone();
    let described = actor
        .change(move |store| store.set_description(image, &description))
        .await?;
    if described.is_err() {
        node.refresh_disk(disk);
    }
    described.map_err(|error| errors::of_store(&actor.name(), None, &error))
}

fn gone(image: Uuid) -> ApiError {
    ApiError::new(
        ErrorKind::NotReady,
        format!("no disk that is in use has a copy of the image {image}"),
    )
    .object(image.to_string())
    .remedy("`bedplate disk list` says which disks are missing")
}
