//! `image delete --failed-copies`: an operator gives up the copies of an image that are Failed. The others stay, and so does the image: machinery
//! never removes a copy that is Failed, and as long as it is there nothing is allocated on its disk.

use std::sync::Arc;

use bedplate_datapath::catalogue::CatalogueState;
use uuid::Uuid;

use super::image_of;
use super::leave;
use super::plan::Why;
use crate::api::ApiError;
use crate::daemon::node::Node;
use crate::daemon::object::{Located, Noun, require_no_job};
use crate::error_kind::ErrorKind;

/// Removes every copy of the image that is Failed, and its name from the image: what is missing then is made anew. Attached devices and clones do
/// not stand in the way, since none of them reads such a copy.
///
/// # Errors
/// `NotFound` if no copy is Failed, `NotReady` unless another one is Ready, `Busy` while a job is at the image; or what stands in the way
/// of one, and then those before it are gone.
pub async fn delete(node: &Arc<Node>, name: &str) -> Result<(), ApiError> {
    node.require_running()?;
    let found = node.find(Noun::Image, name)?;
    let uuid = found.object.uuid;
    let turn = node.runtimes().of(uuid).turn.clone();
    let _turn = turn.lock().await;
    let found = node.find_again(&found)?;
    let failed = failed_copies(node, &found)?;
    if node.ready_disks_of(uuid).is_empty() {
        return Err(no_other(&found));
    }
    for (disk, replica) in failed {
        leave::remove(node, uuid, disk, Why::GivenUp).await?;
        node.runtimes().forget_replica(replica);
        node.forget_scrubbed(replica);
    }
    node.replicas.wake();
    node.notify();
    Ok(())
}

/// Disk and replica of each copy that is Failed.
fn failed_copies(node: &Node, found: &Located) -> Result<Vec<(Uuid, Uuid)>, ApiError> {
    let (uuid, name) = (found.object.uuid, &found.object.name);
    require_no_job(node, found)?;
    let catalogue = node.catalogue();
    let replicas = image_of(&catalogue, uuid).map_or(&[][..], |image| &image.replicas);
    let failed: Vec<(Uuid, Uuid)> = replicas
        .iter()
        .filter(|replica| matches!(replica.state, CatalogueState::Failed(_)))
        .filter_map(|replica| Some((replica.disk, replica.replica_uuid?)))
        .collect();
    if failed.is_empty() {
        return Err(ApiError::new(
            ErrorKind::NotFound,
            format!("no copy of the image {name} is Failed"),
        )
        .object(name.clone())
        .remedy(format!("`bedplate image show {name}` lists its copies")));
    }
    Ok(failed)
}

fn no_other(found: &Located) -> ApiError {
    let name = &found.object.name;
    ApiError::new(
        ErrorKind::NotReady,
        format!("no other copy of the image {name} is Ready: without those that are Failed nothing would be left of it"),
    )
    .object(name.clone())
    .remedy(format!(
        "cure the disk, and `bedplate image recheck {name}`; or give the image up: `bedplate image delete {name}`"
    ))
}
