//! Makes a volume: a clone on a disk of its image where one has room, else, as a blank one, where there is most room.

use std::sync::Arc;

use bedplate_datapath::store::{NewVolume, Parent};
use uuid::Uuid;

use super::size;
use crate::api::{ApiError, CreateVolume, ObjectName, ReplicaState, Volume};
use crate::daemon::disk::actor::DiskActor;
use crate::daemon::disk::entry::DiskEntry;
use crate::daemon::errors;
use crate::daemon::history::unix_ms;
use crate::daemon::node::Node;
use crate::daemon::object::{Located, Noun, names};
use crate::error_kind::ErrorKind;

/// Makes the volume. When this answers, it is there after any crash; it has no device yet.
///
/// # Errors
/// `BadName`, `Exists`, `BadSize`, `NotFound` and `NotReady` of its image, `DiskOffline`, `NoSpace`, ...
pub async fn create(node: &Arc<Node>, request: CreateVolume) -> Result<Volume, ApiError> {
    node.require_running()?;
    let name = ObjectName::parse(&request.name)?.into_string();
    let _taken = names::take(node, &name)?;
    let mut image = match &request.image {
        Some(image) => Some(node.find(Noun::Image, image)?),
        None => None,
    };
    // Its image is not deleted meanwhile: its disks cannot tell, since a clone may be where its image is not.
    let _turn = match &mut image {
        Some(image) => {
            let turn = node.runtimes().of(image.object.uuid).turn.clone();
            let turn = turn.lock_owned().await;
            *image = node.find_again(image)?;
            Some(turn)
        }
        None => None,
    };
    let parent = image
        .as_ref()
        .map(|image| (image.object.name.as_str(), image.object.size_bytes));
    // Before its length: an image whose metadata is lost has none.
    let actor = match &image {
        Some(image) => disk_of_clone(node, image)?,
        None => node.disk_with_most_space()?,
    };
    let size_bytes = size::of_new(&name, request.size_bytes, parent)?;
    let new = NewVolume {
        name: name.clone(),
        object_uuid: Uuid::new_v4(),
        size_bytes,
        parent: image.as_ref().map(|image| Parent {
            uuid: image.object.uuid,
            size_bytes: image.object.size_bytes,
        }),
        created_unix_s: unix_ms() / 1000,
    };
    let made = actor.change(move |store| store.create_volume(new)).await?;
    if made.is_err() {
        node.refresh_disk(actor.uuid);
    }
    let uuid = made.map_err(|error| errors::of_store(&actor.name(), Some(&name), &error))?;
    tracing::info!(
        volume = name,
        %uuid,
        disk = %actor.name(),
        size_bytes,
        image = parent.map(|(image, _)| image),
        "made"
    );
    node.refresh_space(actor.uuid);
    node.notify();
    node.volume(&uuid.to_string())
}

/// Where a clone of the image goes: the disk with a Ready replica that has most room, since its reads are the nearest; where none of them
/// takes new objects, the disk with most room of all.
fn disk_of_clone(node: &Node, image: &Located) -> Result<Arc<DiskActor>, ApiError> {
    let ready = node.ready_disks_of(image.object.uuid);
    if ready.is_empty() {
        return Err(not_ready(node, image));
    }
    let near = {
        let disks = node.disks();
        let seen = node.seen();
        disks
            .iter()
            .filter(|entry| {
                entry
                    .uuid
                    .is_some_and(|uuid| ready.contains(&uuid) && !seen.is_draining(uuid))
            })
            .filter_map(DiskEntry::writable)
            .filter(|actor| actor.allocates() && actor.free_bytes() > 0)
            .max_by_key(|actor| actor.free_bytes())
            .cloned()
    };
    match near {
        Some(actor) => Ok(actor),
        None => node.disk_with_most_space(),
    }
}

fn not_ready(node: &Node, image: &Located) -> ApiError {
    let name = &image.object.name;
    let states: Vec<String> = node
        .copies_of(image.object.uuid)
        .iter()
        .map(|copy| {
            let runtimes = node.runtimes();
            let state = runtimes.replica_state(copy.object.replica_uuid);
            let now = state.map_or(ReplicaState::Unknown, crate::daemon::history::Tracked::get);
            let why = state.and_then(|state| state.why()).unwrap_or("");
            format!("{now:?} on {}: {why}", copy.disk_path)
        })
        .collect();
    ApiError::new(
        ErrorKind::NotReady,
        format!("the image {name} cannot be cloned: {}", states.join("; ")),
    )
    .object(name.clone())
    .disk(image.disk_path.clone())
    .remedy(format!(
        "`bedplate image show {name}` and `bedplate disk list` say more"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::object::delete;
    use crate::daemon::test_node::{Busy, TestNode, a_while};

    #[tokio::test]
    async fn a_clone_of_an_image_that_is_being_deleted_is_not_made() {
        let node = TestNode::new();
        let disk = node.make_disk("disk").await;
        node.import_image("a").await;
        let busy = Busy::keep(&node, disk).await;
        let deleting = Arc::clone(&node);
        let deleted = tokio::spawn(async move { delete(&deleting, Noun::Image, "a").await });
        a_while().await;
        let request = CreateVolume {
            name: "v".to_owned(),
            image: Some("a".to_owned()),
            size_bytes: None,
        };
        let making = Arc::clone(&node);
        let made = tokio::spawn(async move { create(&making, request).await });
        a_while().await;
        busy.go_on();
        deleted.await.unwrap().unwrap();
        let error = made.await.unwrap().unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
        assert!(node.volume_list().is_empty());
    }
}
