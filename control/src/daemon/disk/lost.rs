//! A disk that an operator gives up: what the daemon still has of it goes. Nothing waits for its return any more.

use std::sync::Arc;

use bedplate_datapath::plan::DiskIndex;
use uuid::Uuid;

use super::in_change::InChange;
use super::reopen::{CLOSE_WITHIN, turns_of};
use crate::api::{ApiError, AttachmentState};
use crate::daemon::away::went;
use crate::daemon::blocking::blocking;
use crate::daemon::node::Node;
use crate::daemon::object::{Located, Noun, attach};
use crate::daemon::replica::{self, sets};
use crate::error_kind::ErrorKind;

const TRY_AGAIN: &str = "try again in a moment";

/// Whether a disk that is open can be given up: its block device is gone, and never answers again.
pub fn is_lost(entry: &super::entry::DiskEntry) -> bool {
    entry
        .actor
        .as_ref()
        .is_none_or(|actor| actor.presence.is_gone())
}

/// Lets go of a lost disk for good. Devices of its volumes, and of images that were only there, fail their requests from now on, and go: after
/// this nobody knows them by name. Devices that only read from it go on without it, where they can.
///
/// # Errors
/// `Busy` while somebody has such a device open, or it is being changed: then the disk is as it was, and what waits has failed.
pub async fn let_go(node: &Arc<Node>, disk: Uuid) -> Result<(), ApiError> {
    let Some(change) = begin(node, disk)? else {
        return Ok(());
    };
    replica::stop_all_on(node, disk).await;
    let name = node.disk_name(disk);
    let only_there = only_there(node, disk);
    // None comes or goes from here on.
    let _turns = turns_of(node, &only_there, &name, TRY_AGAIN)?;
    take_devices_down(node, only_there).await?;
    fail_what_waits(node, disk).await;
    let slot = close(node, disk, change).await;
    free_place(node, disk, slot).await;
    Ok(())
}

/// Marks the disk as being changed; none if it is not known.
fn begin(node: &Arc<Node>, disk: Uuid) -> Result<Option<InChange>, ApiError> {
    let mut disks = node.disks();
    let Some(entry) = disks.iter().find(|entry| entry.uuid == Some(disk)) else {
        return Ok(None);
    };
    if entry.in_change {
        return Err(super::online::in_change(&entry.name()));
    }
    let path = entry.path.clone();
    Ok(Some(InChange::begin(node, &mut disks, &path)))
}

/// Objects that no other known disk has.
fn only_there(node: &Node, disk: Uuid) -> Vec<Located> {
    let mut objects = node.objects_where(|on, _| on == disk);
    objects.retain(|found| {
        found.noun() == Noun::Volume
            || node
                .copies_of(found.object.uuid)
                .iter()
                .all(|copy| copy.disk == disk)
    });
    objects
}

async fn take_devices_down(node: &Arc<Node>, objects: Vec<Located>) -> Result<(), ApiError> {
    let devices = went::with_devices(node, objects);
    for (found, number) in &devices {
        went::refuse(node, found, *number).await;
    }
    for (found, number) in &devices {
        let (uuid, name) = (found.object.uuid, &found.object.name);
        attach::take_down(node, uuid, name, *number)
            .await
            .map_err(|error| {
                error.remedy(
                    "its requests fail with I/O errors by now: end whoever has it open (a guest, a mount), then forget the disk again",
                )
            })?;
        let (state, cause) = (AttachmentState::Detached, "its disk was forgotten");
        attach::set_attachment(node, &found.object, state, None, cause);
    }
    Ok(())
}

/// Clones on other disks, whose image was only there: they stay known, and go on should a copy turn up.
async fn fail_what_waits(node: &Arc<Node>, disk: Uuid) {
    for (object, waiting) in node.away.all() {
        if waiting.disk != disk {
            continue;
        }
        let all = node.objects_where(|_, known| known.uuid == object);
        let Some(found) = all.into_iter().next() else {
            continue;
        };
        if went::refuse(node, &found, waiting.number).await {
            let message =
                "the disk that it waits for was forgotten: requests are answered with I/O errors";
            let error = ApiError::new(ErrorKind::DiskOffline, message);
            let state = AttachmentState::Recovering;
            attach::set_attachment(node, &found.object, state, Some(&error), "");
        }
    }
}

/// Ends the session as it is; answers with the disk's place with the reactors.
async fn close(node: &Arc<Node>, disk: Uuid, change: InChange) -> Option<DiskIndex> {
    let actor = {
        let disks = node.disks();
        let entry = disks.iter().find(|entry| entry.uuid == Some(disk));
        entry.and_then(|entry| entry.actor.clone())
    };
    if let Some(actor) = &actor
        && tokio::time::timeout(CLOSE_WITHIN, actor.abandon())
            .await
            .is_err()
    {
        tracing::warn!(disk = %actor.name(), "its thread does not end; it is left behind");
    }
    let mut disks = node.disks();
    let entry = change.end(&mut disks)?;
    entry.contents = entry.contents_now();
    entry.actor = None;
    entry.slot.take()
}

async fn free_place(node: &Arc<Node>, disk: Uuid, slot: Option<DiskIndex>) {
    let Some(slot) = slot else { return };
    let freed = async {
        let _leaving = sets::disk_left(node, disk).await?;
        let serving = Arc::clone(node);
        blocking(move || serving.serving.remove_disk(slot)).await?
    };
    if let Err(error) = freed.await {
        tracing::warn!(%disk, "its place with the reactors is not free: {error}");
    }
}

#[cfg(test)]
mod tests {
    use bedplate_datapath::engine::DiskFile;

    use super::*;
    use crate::daemon::disk::remove;
    use crate::daemon::replica::forget::forget;
    use crate::daemon::test_node::TestNode;

    #[tokio::test]
    async fn a_disk_that_was_unplugged_under_the_daemon_is_forgotten_with_the_devices_of_its_volumes()
     {
        let node = TestNode::new();
        let disk = node.make_disk("disk").await;
        let (volume, _) = node.make_volume("v").await;
        let (image, _) = node.import_image("a").await;
        for (noun, name, number) in [(Noun::Volume, "v", 7), (Noun::Image, "a", 8)] {
            let found = node.find(noun, name).unwrap();
            attach::attached(&node, &found.object, number, "attached");
        }
        let name = disk.to_string();
        let there = forget(&node, &name).await.unwrap_err();
        assert_eq!(there.kind, ErrorKind::Busy, "{there}");

        node.actor(disk).unwrap().presence.pretend_gone();
        let needed = remove(&node, &name, false).await.unwrap_err();
        assert!(needed.remedy.unwrap().contains("disk forget"));
        let forgotten = forget(&node, &name).await.unwrap();
        assert_eq!(forgotten.volumes_lost, ["v"]);
        assert_eq!(forgotten.images_lost, ["a"]);
        assert!(node.disk_list().is_empty());
        for object in [volume, image] {
            assert_eq!(node.runtimes().of(object).device, None);
            assert!(node.away.of(object).is_none(), "nothing waits");
        }
        // Nothing of the daemon is open on it.
        DiskFile::claim(&node.path("disk")).unwrap();
    }
}
