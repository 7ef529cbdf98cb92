//! Old copies of disks: a disk of which another one knows a later session. Nothing on it is believed, and nothing on it is changed.
//!
//! One that is found with those that know better is opened after them (`disk::order`). Where they come later, what came up from it is cut off.

use std::collections::HashSet;
use std::sync::Arc;

use bedplate_datapath::catalogue::Catalogue;
use uuid::Uuid;

use crate::api::{ApiError, AttachmentState};
use crate::daemon::away::went;
use crate::daemon::node::Node;
use crate::daemon::object::{Located, Noun, attach};
use crate::error_kind::ErrorKind;

/// Whether a disk is an old copy of itself, as the open disks know.
pub fn is_stale(catalogue: &Catalogue, disk: Uuid) -> bool {
    catalogue.stale.iter().any(|stale| stale.disk == disk)
}

impl Node {
    /// The open disks that are old copies of themselves. Locks the disks.
    pub fn stale_disks(&self) -> HashSet<Uuid> {
        let catalogue = self.catalogue();
        catalogue.stale.iter().map(|stale| stale.disk).collect()
    }
}

/// Refuses a change of what is not believed: of an object on an old copy of a disk, or of one that is another than the other disks have.
/// It would be lost as soon as the right disk is back.
///
/// # Errors
/// `Held`.
pub fn require_believed(found: &Located) -> Result<(), ApiError> {
    let Some(why) = &found.refused else {
        return Ok(());
    };
    let (noun, name) = (found.noun(), &found.object.name);
    Err(ApiError::new(
        ErrorKind::Held,
        format!("the {noun} {name} is not served, and nothing of it is changed: {why}"),
    )
    .object(name.clone())
    .disk(found.disk_path.clone())
    .remedy("`bedplate status` says what is with its disk, and what to do"))
}

/// Cuts off what came up from a disk before another one told that it is an old copy. Imports and copies to it end. Requests of its volumes'
/// devices are answered with I/O errors from now on: a guest must neither go on with old data, nor write what is lost later. Devices of
/// images that no other disk has are right all the same. Both go when nobody has them open; this is to be called again until then.
pub async fn cut_off(node: &Arc<Node>) {
    let stale = node.stale_disks();
    if stale.is_empty() {
        return;
    }
    end_jobs(node, &stale);
    let devices = went::with_devices(node, node.objects_where(|disk, _| stale.contains(&disk)));
    // None waits for another one to be gone before its requests fail.
    for (found, number) in &devices {
        if found.noun() == Noun::Volume {
            cut_off_one(node, found, *number, Step::Fail).await;
        }
    }
    for (found, number) in &devices {
        cut_off_one(node, found, *number, Step::TakeDown).await;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Requests are answered with I/O errors.
    Fail,
    /// The device goes, unless somebody has it open.
    TakeDown,
}

async fn cut_off_one(node: &Arc<Node>, found: &Located, number: u32, step: Step) {
    let turn = node.runtimes().of(found.object.uuid).turn.clone();
    // One that is being changed is looked at when that is done, since it tells.
    let Ok(_turn) = turn.try_lock() else { return };
    // Looked up again: an image may have another copy, and the device may be another's by now.
    let Ok(found) = node.find_again(found) else {
        return;
    };
    let Err(why) = require_believed(&found) else {
        return;
    };
    if node.runtimes().of(found.object.uuid).device != Some(number) {
        return;
    }
    let name = &found.object.name;
    let is_news = match step {
        Step::Fail => went::refuse(node, &found, number).await,
        Step::TakeDown => attach::take_down(node, found.object.uuid, name, number)
            .await
            // Each time anew, as long as somebody has it open.
            .inspect_err(|error| tracing::debug!(object = name, "its device stays: {error}"))
            .is_ok(),
    };
    if is_news {
        tracing::error!(object = name, number, "its device is cut off: {why}");
        attach::set_attachment(node, &found.object, AttachmentState::Held, Some(&why), "");
    }
}

/// Ends what is on its way to old copies of disks.
fn end_jobs(node: &Node, stale: &HashSet<Uuid>) {
    for (_, import) in node.runtimes().imports() {
        if stale.contains(&import.disk) {
            import.job.cancel();
        }
    }
    for ((_, disk), job) in &node.replicas.state().rebuilds {
        if stale.contains(disk) {
            job.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::VolumeState;
    use crate::daemon::away::back;
    use crate::daemon::object::recover;
    use crate::daemon::test_node::{TestNode, until};

    #[tokio::test]
    async fn devices_of_volumes_go_when_a_disk_comes_that_knows_theirs_to_be_old() {
        let node = TestNode::new();
        let old = node.make_disk("old").await;
        let (volume, _) = node.make_volume("v").await;
        let found = node.find(Noun::Volume, "v").unwrap();
        attach::attached(&node, &found.object, 7, "attached");
        cut_off(&node).await;
        assert_eq!(node.runtimes().of(volume).device, Some(7), "nobody knows");

        let knows = node.make_disk("knows").await;
        node.knows_better(knows, old).await;
        recover::disk_came(&node, knows, &[]);
        until("its device is gone", || {
            node.runtimes().of(volume).device.is_none()
        })
        .await;
        let shown = node.volume("v").unwrap();
        assert_eq!(shown.state, VolumeState::Detached);
        assert!(shown.why.unwrap().contains("an old copy of itself"));
        // What waits for its disk is not told that it is back.
        until("it says why", || {
            let runtimes = node.runtimes();
            let attachment = &runtimes.get(volume).unwrap().attachment;
            attachment.get() == AttachmentState::Held
                && attachment.why().unwrap_or_default().contains("an old copy")
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_cut_off_does_not_go_on_though_its_disk_answers() {
        let node = TestNode::new();
        let old = node.make_disk("old").await;
        let (volume, _) = node.make_volume("v").await;
        let found = node.find(Noun::Volume, "v").unwrap();
        let knows = node.make_disk("knows").await;
        node.knows_better(knows, old).await;
        // As where somebody has it open.
        attach::attached(&node, &found.object, 7, "attached");
        assert!(went::refuse(&node, &found, 7).await);
        assert!(!went::refuse(&node, &found, 7).await, "told once");
        let gone_on = back::resume_in_turn(&node, volume).await;
        assert_eq!(gone_on.unwrap(), None);
        assert!(node.away.of(volume).unwrap().is_over);
    }
}
