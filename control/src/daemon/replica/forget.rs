//! `disk forget`: an operator says that a disk never comes back. Nothing waits for it any more, and copies are made elsewhere at once.

use std::sync::Arc;

use bedplate_datapath::catalogue::MergeStep;
use uuid::Uuid;

use super::{carry_out, describe};
use crate::api::{ApiError, Forgotten};
use crate::daemon::disk;
use crate::daemon::node::Node;
use crate::daemon::object::Noun;
use crate::daemon::object::backing::loss_key;
use crate::error_kind::ErrorKind;

/// Gives up the disk that `name` means: a UUID or a path.
///
/// # Errors
/// `NotFound`; `Busy` for a disk that is there, or while somebody has a device open that nothing but that disk could serve.
pub async fn forget(node: &Arc<Node>, name: &str) -> Result<Forgotten, ApiError> {
    node.require_running()?;
    let uuid = which(node, name)?;
    disk::lost::let_go(node, uuid).await?;
    let (mut images, mut images_lost, mut volumes_lost) = (Vec::new(), Vec::new(), Vec::new());
    let catalogue = node.catalogue();
    for image in &catalogue.images {
        if image.description.member_disks.contains(&uuid) {
            describe(node, image.uuid, |description| {
                description.member_disks.retain(|member| *member != uuid);
            })
            .await?;
            images.push(image.object.name.clone());
        }
    }
    for found in node.objects_where(|disk, _| disk == uuid) {
        let object = &found.object;
        match found.noun() {
            Noun::Volume => volumes_lost.push(object.name.clone()),
            Noun::Image if !images.contains(&object.name) => images_lost.push(object.name.clone()),
            Noun::Image => {}
        }
        node.set_problem(&loss_key(object.uuid), None);
    }
    forget_in_graves(node, uuid).await?;
    forget_as_peer(node, uuid).await;
    {
        let mut disks = node.disks();
        disks.retain(|entry| entry.uuid != Some(uuid) || entry.actor.is_some());
    }
    node.change_seen(|seen| seen.remove(uuid));
    node.set_problem(&disk::space::space_key(uuid), None);
    node.replicas.state().away.remove(&uuid);
    tracing::warn!(disk = name, %uuid, ?images, ?images_lost, ?volumes_lost, "forgotten by an operator's word");
    node.replicas.wake();
    node.notify();
    Ok(Forgotten {
        disk: uuid.to_string(),
        images,
        images_lost,
        volumes_lost,
    })
}

/// A disk was taken out of use: images that have other copies do not count on it any more.
pub async fn no_longer_a_member(node: &Arc<Node>, disk: Uuid) {
    let catalogue = node.catalogue();
    for image in &catalogue.images {
        if !image.description.member_disks.contains(&disk) {
            continue;
        }
        let unnamed = describe(node, image.uuid, |description| {
            description.member_disks.retain(|member| *member != disk);
        });
        if let Err(error) = unnamed.await {
            tracing::warn!(
                image = image.object.name,
                "it still names the disk that was removed: {error}"
            );
        }
    }
    node.replicas.wake();
}

/// The disk's identity: one that the daemon knows and that is not there, or one that only images name.
fn which(node: &Arc<Node>, name: &str) -> Result<Uuid, ApiError> {
    let known = {
        let disks = node.disks();
        match disk::find(&disks, name) {
            Ok(entry) if !disk::lost::is_lost(entry) || entry.in_change => {
                return Err(ApiError::new(
                    ErrorKind::Busy,
                    format!(
                        "the disk {} is there: only one that is lost can be forgotten",
                        entry.name()
                    ),
                )
                .disk(entry.name())
                .remedy(format!(
                    "take it out of use: `bedplate disk remove {}`",
                    entry.name()
                )));
            }
            Ok(entry) => entry.uuid,
            Err(_) => None,
        }
    };
    let named = name.parse::<Uuid>().ok().filter(|uuid| {
        let catalogue = node.catalogue();
        let in_images = catalogue
            .images
            .iter()
            .any(|image| image.description.member_disks.contains(uuid));
        in_images
            || catalogue
                .deleted
                .iter()
                .any(|grave| grave.pending.contains(uuid))
    });
    known.or(named).ok_or_else(|| {
        ApiError::new(ErrorKind::NotFound, format!("there is no disk {name}"))
            .disk(name)
            .remedy("`bedplate disk list` and `bedplate image show` tell the UUIDs of disks that are missing")
    })
}

/// Deleted images wait no more for the disk to be told.
async fn forget_in_graves(node: &Arc<Node>, disk: Uuid) -> Result<(), ApiError> {
    for actor in node.online_actors() {
        if actor.uuid == disk {
            continue;
        }
        let contents = actor.contents();
        let graves = contents.says.iter().flat_map(|says| &says.graves);
        for grave in graves.filter(|grave| grave.pending.contains(&disk)) {
            let mut grave = grave.clone();
            grave.pending.retain(|pending| *pending != disk);
            let step = MergeStep::Bury {
                disk: actor.uuid,
                grave,
            };
            carry_out(node, &step).await?;
        }
    }
    Ok(())
}

/// Should it come back all the same, it is not held against it that others know it to have been further.
async fn forget_as_peer(node: &Arc<Node>, disk: Uuid) {
    for actor in node.online_actors() {
        let forgotten = actor.change(move |store| store.forget_peer(disk)).await;
        if let Ok(Err(error)) = forgotten {
            tracing::warn!(disk = %actor.name(), "forgetting a disk: {error}");
        }
    }
}
