//! A disk is back, and was opened anew: the devices that waited for it go on; those of volumes that lost writes are held.

use std::sync::Arc;

use bedplate_datapath::units::DevId;
use bedplate_ublk_target::{Backing, Target};
use uuid::Uuid;

use super::{Waiting, went};
use crate::api::{ApiError, AttachmentState};
use crate::daemon::blocking::blocking;
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
        .min_by_key(|found| found.disk_trouble.is_some() || found.refused.is_some());
    let Some(found) = found else {
        return Ok(None);
    };
    if found.refused.is_some() {
        // An old copy of its disk: what the device is to read or write is not on it.
        return Ok(None);
    }
    if found.noun() == Noun::Volume {
        // Whichever disk it began to wait for, its own may have gone after that: only on what that disk has now may it go on.
        if !is_back(node, found.disk) {
            return Ok(None);
        }
        if let Some(error) = held(&found, None) {
            // There is nothing to be waited for: somebody has to decide.
            let _gate = waiting.gate.lock().await;
            if node.away.end(object, &waiting) {
                went::tell(node, waiting.number, Target::give_up).await;
            }
            return Err(error);
        }
    }
    if !has_what_it_waits_for(node, &found, &waiting) {
        return Ok(None);
    }
    match go_on(node, &found, &waiting).await {
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
        .is_some_and(|actor| !actor.presence.is_gone())
}

/// Whether the device's own disk answers, where it waits for that one, or else one that has a copy of the image that it reads: any of them.
fn has_what_it_waits_for(node: &Node, found: &Located, waiting: &Waiting) -> bool {
    let image = match found.noun() {
        Noun::Volume if found.disk == waiting.disk => return is_back(node, waiting.disk),
        Noun::Volume => found.object.parent,
        Noun::Image => Some(found.object.uuid),
    };
    let Some(image) = image else {
        return is_back(node, waiting.disk);
    };
    node.copies_of(image).iter().any(|copy| {
        // A damaged one may lack just what is read; but there was no better one when the device began to wait.
        let is_whole = copy.disk == waiting.disk || !node.is_damaged(copy.object.replica_uuid);
        let is_ready = copy.disk_trouble.is_none() && copy.object.state.is_ready();
        is_ready && is_whole && is_back(node, copy.disk)
    })
}

async fn go_on(node: &Arc<Node>, found: &Located, waiting: &Waiting) -> Result<(), ApiError> {
    let object = found.object.uuid;
    // Of a volume always, since its disk may have been opened anew: then another map, other locks, another committer; else what it has. An
    // image has not changed.
    let (backing, set) = match found.noun() {
        Noun::Volume => {
            let (backing, set) = backing_of(node, found).await?;
            (Some(backing), set)
        }
        Noun::Image => (None, None),
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bedplate_datapath::engine::{DiskFile, UringMedium};
    use bedplate_datapath::store::{SessionStart, Store};

    use super::*;
    use crate::daemon::disk::online::CLAIM_FOR_USER;
    use crate::daemon::test_node::TestNode;
    use crate::error_kind::ErrorKind;

    /// The device of a clone waits for its image's disk, and its own has gone as well, and was found at `own-again`.
    async fn both_gone(node: &TestNode) -> Uuid {
        let image_disk = node.make_disk("images").await;
        let image = node.import_image("img").await.0;
        let own_disk = node.make_disk("own").await;
        let clone = node.clone_on(own_disk, image).await;
        assert!(node.away.begin(clone, image_disk, 0).is_ok());
        node.unplug_and_find(own_disk, &node.path("own-again"))
            .await;
        clone
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_clone_that_waits_for_its_images_disk_waits_for_its_own_too() {
        let node = TestNode::new();
        let clone = both_gone(&node).await;
        // The image's is there, and always was.
        let resumed = resume_in_turn(&node, clone).await;
        assert!(matches!(resumed, Ok(None)), "{resumed:?}");
        assert!(node.away.of(clone).is_some());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_clone_whose_own_disk_came_back_without_what_it_had_is_held_whatever_it_waited_for() {
        let node = TestNode::new();
        let clone = both_gone(&node).await;
        let path = node.path("own-again");
        // Somebody else has it meanwhile.
        let medium = UringMedium::new(DiskFile::claim(&path).unwrap()).unwrap();
        let start = SessionStart {
            boot_id: Uuid::new_v4(),
            diskseq: None,
        };
        drop(Store::open(medium, &start).unwrap().0.abandon());
        let began = Instant::now();
        let opened = node.bring_online(&path, CLAIM_FOR_USER).await;
        assert!(opened.is_ok(), "{opened:?}, {:?}", began.elapsed());
        let error = resume_in_turn(&node, clone).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Held, "{error}");
    }
}
