//! A replica that is not trusted, since its metadata could not be read: read again. Nothing of it was deleted, and if all of it checks out it
//! is Ready as before. The devices that want it come back by themselves then.

use std::sync::Arc;

use bedplate_datapath::store::{Damage, Recheck};

use super::errors;
use super::node::Node;
use super::object::{Located, recover};
use crate::api::ApiError;
use crate::error_kind::ErrorKind;

/// Reads the metadata of a replica again. Answers with the replica as it is now; none if its slot, which was lost, holds nothing.
///
/// # Errors
/// `Corrupt` where it does not check out, with the cause; the disk's.
pub async fn trust_again(node: &Arc<Node>, found: &Located) -> Result<Option<Located>, ApiError> {
    let (uuid, disk, name) = (found.object.uuid, found.disk, &found.object.name);
    let actor = node.actor(disk)?;
    let outcome = actor.change(move |store| store.recheck(uuid)).await?;
    node.refresh_disk(disk);
    node.refresh_replicas(disk);
    let now = match outcome {
        Ok(Recheck::Trusted(now)) => now,
        Ok(Recheck::Failed(damage)) => return Err(not_trusted(found, &damage)),
        Ok(Recheck::Gone) => {
            tracing::warn!(
                image = name,
                disk = found.disk_path,
                "its slot can be read again, and holds no image"
            );
            forget(node, found);
            node.refresh_space(disk);
            return Ok(None);
        }
        Err(error) => return Err(errors::of_store(&actor.name(), Some(name), &error)),
    };
    if now != uuid {
        forget(node, found);
    }
    node.refresh_space(disk);
    // Its devices, and clones that waited for it.
    recover::disk_came(node, disk, &[]);
    node.replicas.wake();
    let mut copies = node.copies_of(now).into_iter();
    let copy = copies.find(|copy| copy.disk == disk);
    tracing::warn!(
        image = copy.as_ref().map_or(name, |copy| &copy.object.name),
        disk = found.disk_path,
        "its metadata checked out: it is trusted again"
    );
    Ok(copy)
}

/// What stood for an object whose slot was lost.
fn forget(node: &Node, found: &Located) {
    let mut runtimes = node.runtimes();
    runtimes.forget(found.object.uuid);
    runtimes.forget_replica(found.object.replica_uuid);
}

/// The error of a replica whose metadata is bad.
pub fn not_trusted(found: &Located, damage: &Damage) -> ApiError {
    let (name, disk) = (&found.object.name, &found.disk_path);
    let message = format!("the image {name} cannot be read on {disk}: {damage}");
    ApiError::new(ErrorKind::Corrupt, message)
        .object(name.clone())
        .disk(disk.clone())
        .offset(damage.disk_offset().get())
        .remedy(format!(
            "nothing of it was deleted: check the disk (kernel log, SMART); when it is cured, `bedplate image recheck {name}` reads all \
             of it anew; see docs/operations.md, \"An image is Failed\""
        ))
}
