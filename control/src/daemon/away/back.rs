//! A disk is back, and was opened anew: the devices that waited for it go on; those of volumes that lost writes are held.

use std::sync::Arc;

use bedplate_datapath::units::DevId;
use bedplate_ublk_target::{Backing, Target};
use uuid::Uuid;

use super::{Waiting, went};
use crate::api::{ApiError, AttachmentState};
use crate::daemon::blocking::blocking;
use crate::daemon::disk::gone::is_gone;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::daemon::object::backing::{backing_of, held};
use crate::daemon::object::{Located, Noun, attach};

/// The device of an object goes on, if the disk that it waits for is back. One that goes on already does so.
pub async fn resume(node: Arc<Node>, object: Uuid) {
    let turn = node.runtimes().of(object).turn.clone();
    let _turn = turn.lock().await;
    // The error is told.
    let _ = resume_in_turn(&node, object).await;
}

/// The same, for one who has the object's turn; answers with the device's number.
///
/// # Errors
/// Why it cannot go on; its state tells the same.
pub async fn resume_in_turn(node: &Arc<Node>, object: Uuid) -> Result<Option<u32>, ApiError> {
    let Some(waiting) = node.away.of(object) else {
        return Ok(None);
    };
    let found = node
        .objects_where(|_, known| known.uuid == object)
        .into_iter()
        .min_by_key(|found| found.disk_trouble.is_some());
    let Some(found) = found else {
        return Ok(None);
    };
    let is_own = found.noun() == Noun::Volume && found.disk == waiting.disk;
    if is_own && found.refused.is_some() {
        // It may be there, and is an old copy of itself.
        return Ok(None);
    }
    if !is_back(node, waiting.disk) && (is_own || !has_another_copy(node, &found)) {
        return Ok(None);
    }
    if is_own && let Some(error) = held(&found, None) {
        // There is nothing to be waited for: somebody has to decide.
        let _gate = waiting.gate.lock().await;
        if node.away.end(object, &waiting) {
            went::tell(node, waiting.number, Target::give_up).await;
        }
        return Err(error);
    }
    match go_on(node, &found, &waiting, is_own).await {
        Ok(()) => {
            attach::attached(node, &found.object, waiting.number, "its disk is back:");
            Ok(Some(waiting.number))
        }
        Err(error) => {
            let state = AttachmentState::Held;
            attach::set_attachment(node, &found.object, state, Some(&error), "");
            Err(error)
        }
    }
}

fn is_back(node: &Node, disk: Uuid) -> bool {
    node.online_actor(disk)
        .is_some_and(|actor| !is_gone(actor.identity))
}

/// Whether some disk that answers has a copy of the image that is read: the one that is waited for is not needed then.
fn has_another_copy(node: &Node, found: &Located) -> bool {
    let image = match found.noun() {
        Noun::Image => Some(found.object.uuid),
        Noun::Volume => found.object.parent,
    };
    image.is_some_and(|image| {
        let disks = node.ready_disks_of(image);
        disks.into_iter().any(|disk| is_back(node, disk))
    })
}

async fn go_on(
    node: &Arc<Node>,
    found: &Located,
    waiting: &Waiting,
    is_own: bool,
) -> Result<(), ApiError> {
    let object = found.object.uuid;
    // Of a volume another map, other locks, another committer; an image has not changed.
    let (backing, set) = if is_own {
        let (backing, set) = backing_of(node, found).await?;
        (Some(backing), set)
    } else {
        (None, None)
    };
    let _gate = waiting.gate.lock().await;
    unpark(node, found, waiting.number, backing).await?;
    if let Some(set) = &set {
        node.replicas.sets.given(object, set);
    }
    node.away.forget(object);
    Ok(())
}

async fn unpark(
    node: &Arc<Node>,
    found: &Located,
    number: u32,
    backing: Option<Backing>,
) -> Result<(), ApiError> {
    let target = node.serving.target()?;
    blocking(move || target.unpark(DevId::new(number), backing))
        .await?
        .map_err(|error| errors::of_target(Some(&found.object.name), &error))
}

/// Tries again what waits for a disk that is back.
pub fn try_all(node: &Arc<Node>) {
    for (object, _) in node.away.all() {
        tokio::spawn(resume(Arc::clone(node), object));
    }
}
