//! Devices that came up by the word of one disk before a newer word was heard: the image was detached, or deleted, while that disk was away.

use std::sync::Arc;

use bedplate_datapath::catalogue::Catalogue;
use uuid::Uuid;

use super::view::image_of;
use crate::api::AttachmentState;
use crate::daemon::node::Node;
use crate::daemon::object::attach;

/// Takes down devices of images that all disks together say are not to have one. One that is open stays, and is tried again.
pub async fn take_down(node: &Arc<Node>) {
    let devices: Vec<(Uuid, u32)> = node.runtimes().devices().collect();
    for (uuid, number) in devices {
        let Some(name) = unwanted(&node.catalogue(), uuid) else {
            continue;
        };
        let turn = node.runtimes().of(uuid).turn.clone();
        let Ok(_turn) = turn.try_lock() else { continue };
        // Looked at again: somebody may have asked for it since.
        let still = node.runtimes().of(uuid).device == Some(number)
            && unwanted(&node.catalogue(), uuid).is_some();
        if !still {
            continue;
        }
        match attach::take_down(node, uuid, &name, number).await {
            Ok(()) => {
                let state = AttachmentState::Detached;
                let cause = "it was detached, or deleted, while its disk was away";
                node.runtimes().of(uuid).attachment.set(&name, state, cause);
                node.notify();
            }
            Err(error) => {
                tracing::warn!(image = name, "its device is not wanted any more: {error}");
            }
        }
    }
}

/// The name of an image that is to have no device.
fn unwanted(catalogue: &Catalogue, uuid: Uuid) -> Option<String> {
    if let Some(image) = image_of(catalogue, uuid) {
        return (!image.description.want_attached).then(|| image.object.name.clone());
    }
    let mut graves = catalogue.deleted.iter();
    graves
        .find(|grave| grave.object_uuid == uuid)
        .map(|grave| grave.name.clone())
}
