//! Attach and detach: an image or a volume gets its device, or loses it, and its slot on disk says so.

use std::sync::Arc;

use bedplate_datapath::store::Object;
use bedplate_datapath::units::DevId;
use bedplate_ublk_target::{OwnerTag, Target, TargetError};
use uuid::Uuid;

use super::bring_up::{bring_up, commit};
use super::{Located, Noun, backing};
use crate::api::{ApiError, AttachmentState};
use crate::daemon::away::back;
use crate::daemon::blocking::blocking;
use crate::daemon::device_files;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::daemon::replica::stale::require_believed;
use crate::daemon::serving::Serving;
use crate::error_kind::ErrorKind;

/// Attaches the object, now and after each restart; answers with it, and whether anything changed. One that is attached stays as it is.
/// `accept_loss` is for a volume that is held since acknowledged writes may be missing.
///
/// # Errors
/// `NotReady`, `Held`, `DeviceTaken`, `KernelUnsupported`, ...
pub async fn attach(
    node: &Arc<Node>,
    noun: Noun,
    name: &str,
    accept_loss: bool,
) -> Result<(Located, bool), ApiError> {
    node.require_attaching()?;
    let found = node.find(noun, name)?;
    let turn = node.runtimes().of(found.object.uuid).turn.clone();
    let _turn = turn.lock().await;
    // Looked up again: it may have been deleted while another change had its turn.
    let mut found = node.find_again(&found)?;
    require_believed(&found)?;
    if has_device(node, &found.object) {
        return Ok((found, false));
    }
    let waits = node.away.of(found.object.uuid).is_some();
    if waits && let Some(trouble) = &found.disk_trouble {
        return Err(still_away(&found, trouble));
    }
    if !found.object.want_attached {
        require_name(node, &found)?;
    }
    if accept_loss && found.object.loss_not_accepted {
        self::accept_loss(node, &found).await?;
        found = node.find_again(&found)?;
    }
    // Its device is there still, and was given up: it goes on.
    if waits {
        return match back::resume_in_turn(node, found.object.uuid).await? {
            Some(_) => Ok((node.find_again(&found)?, true)),
            None => Err(still_away(&found, "the disk that it waits for is not back")),
        };
    }
    let held_for_loss = found.object.loss_not_accepted;
    if !held_for_loss {
        let (state, cause) = (AttachmentState::Attaching, "asked to attach");
        set_attachment(node, &found.object, state, None, cause);
    }
    match bring_up(node, &found).await {
        Ok(number) => {
            attached(node, &found.object, number, "attached");
            Ok((node.find_again(&found)?, true))
        }
        // It says why already, with more words.
        Err(error) if held_for_loss => Err(error),
        Err(error) => {
            if found.object.want_attached {
                set_attachment(node, &found.object, AttachmentState::Held, Some(&error), "");
            } else {
                set_attachment(
                    node,
                    &found.object,
                    AttachmentState::Detached,
                    None,
                    &error.message,
                );
            }
            Err(error)
        }
    }
}

/// A device cannot go on without its disk.
fn still_away(found: &Located, trouble: &str) -> ApiError {
    let name = &found.object.name;
    ApiError::new(
        ErrorKind::DiskOffline,
        format!(
            "the {} {name} has a device, and cannot be served: {trouble}",
            found.noun()
        ),
    )
    .object(name.clone())
    .disk(found.disk_path.clone())
    .remedy("it goes on by itself when its disk is back; to give it up: detach it")
}

/// Refuses an object whose name belongs to another one's device: `/dev/disk/by-id/bedplate-NAME` leads to one of them only, and a guest that
/// is started by it must not get the other's disk. Where disks that were apart, or a disk and its copy, have come together.
fn require_name(node: &Node, found: &Located) -> Result<(), ApiError> {
    let (name, uuid) = (&found.object.name, found.object.uuid);
    let same_name = node.objects_where(|_, other| other.name == *name && other.uuid != uuid);
    let runtimes = node.runtimes();
    let other = same_name.iter().find(|other| {
        let runtime = runtimes.get(other.object.uuid);
        other.object.want_attached || runtime.is_some_and(|runtime| runtime.device.is_some())
    });
    let Some(other) = other else { return Ok(()) };
    let (noun, other_uuid, disk) = (other.noun(), other.object.uuid, &other.disk_path);
    let message = format!(
        "the {noun} {other_uuid} on {disk} is named {name} as well, and is attached: /dev/disk/by-id/bedplate-{name} is its device"
    );
    Err(ApiError::new(ErrorKind::Exists, message)
        .object(name.clone())
        .disk(found.disk_path.clone())
        .remedy(format!(
            "detach that one first (`bedplate {noun} detach {other_uuid}`), or delete the one that is not needed, by its UUID"
        )))
}

/// An operator decides that the volume goes on with what the disk has.
async fn accept_loss(node: &Arc<Node>, found: &Located) -> Result<(), ApiError> {
    let actor = node.actor(found.disk)?;
    let (uuid, name) = (found.object.uuid, &found.object.name);
    actor
        .change(move |store| store.accept_loss(uuid))
        .await?
        .map_err(|error| errors::of_store(&actor.name(), Some(name), &error))?;
    tracing::warn!(
        volume = name,
        "its loss was accepted: acknowledged writes may be missing"
    );
    node.set_problem(&backing::loss_key(uuid), None);
    Ok(())
}

/// Removes the device of the object; answers with it, and whether anything changed. One that has none stays so.
///
/// # Errors
/// `Busy` while somebody has the device open; `Held` on an old copy of a disk: the device is gone then, and the wish for it stays.
pub async fn detach(node: &Arc<Node>, noun: Noun, name: &str) -> Result<(Located, bool), ApiError> {
    node.require_running()?;
    let found = node.find(noun, name)?;
    let turn = node.runtimes().of(found.object.uuid).turn.clone();
    let _turn = turn.lock().await;
    let found = node.find_again(&found)?;
    let device = node.runtimes().of(found.object.uuid).device;
    if device.is_none() && !found.object.want_attached {
        return Ok((found, false));
    }
    // The device first: if the daemon dies in between, the wish is still there and the device comes back, as if nobody had asked.
    match device {
        Some(number) => take_down(node, found.object.uuid, &found.object.name, number).await?,
        // One of a dead daemon that was not taken over, since the object is held. What waits in it fails: that was asked for.
        None => remove_left_over(node, &found).await?,
    }
    // The wish stays on a disk that is not to be changed. Where that disk is believed again, it holds again.
    if let Err(refused) = require_believed(&found) {
        let state = AttachmentState::Held;
        set_attachment(node, &found.object, state, Some(&refused), "");
        return Err(refused);
    }
    if let Some(kept) = found.object.dev_id
        && let Err(error) = commit(node, &found, kept, false).await
    {
        // It has no device, and is to have one: as after a device that did not come up, it is tried again.
        set_attachment(node, &found.object, AttachmentState::Held, Some(&error), "");
        return Err(error);
    }
    let (state, cause) = (AttachmentState::Detached, "asked to detach");
    set_attachment(node, &found.object, state, None, cause);
    Ok((node.find_again(&found)?, true))
}

/// Takes the device away; the wish on disk stays as it is.
///
/// # Errors
/// `Busy` while somebody has it open.
pub async fn take_down(
    node: &Arc<Node>,
    uuid: Uuid,
    name: &str,
    number: u32,
) -> Result<(), ApiError> {
    let target = node.serving.started();
    if let Some(target) = target {
        let detached = blocking(move || match target.detach(DevId::new(number)) {
            Err(TargetError::NotFound { .. }) => Ok(()),
            other => other,
        });
        detached
            .await?
            .map_err(|error| errors::of_target(Some(name), &error))?;
    }
    device_files::forget(&node.config.run_dir, number);
    node.runtimes().of(uuid).device = None;
    node.away.forget(uuid);
    node.replicas.sets.released(uuid);
    Ok(())
}

/// Removes devices that the kernel has for the object, and that this daemon does not serve.
///
/// # Errors
/// What the kernel has against it.
pub async fn remove_left_over(node: &Arc<Node>, found: &Located) -> Result<(), ApiError> {
    let owner = OwnerTag::of(found.object.uuid);
    let removed = blocking(move || {
        let mut removed = Vec::new();
        for device in Serving::devices_of_ours() {
            if device.owner == Some(owner) {
                Target::remove_device(device.dev_id)?;
                removed.push(device.dev_id.get());
            }
        }
        Ok::<_, TargetError>(removed)
    });
    let removed = removed
        .await?
        .map_err(|error| errors::of_target(Some(&found.object.name), &error))?;
    for number in removed {
        tracing::info!(number, object = found.object.name, "removed its device");
        device_files::forget(&node.config.run_dir, number);
    }
    Ok(())
}

fn has_device(node: &Node, object: &Object) -> bool {
    let runtimes = node.runtimes();
    runtimes.get(object.uuid).is_some_and(|runtime| {
        runtime.device.is_some()
            && runtime.attachment.get() == AttachmentState::Ready
            && object.want_attached
    })
}

/// Notes that the device answers.
pub fn attached(node: &Node, object: &Object, number: u32, cause: &str) {
    node.runtimes().of(object.uuid).device = Some(number);
    set_attachment(
        node,
        object,
        AttachmentState::Ready,
        None,
        &format!("{cause} as /dev/ublkb{number}"),
    );
}

/// Notes the state of the device.
pub fn set_attachment(
    node: &Node,
    object: &Object,
    to: AttachmentState,
    why: Option<&ApiError>,
    cause: &str,
) {
    {
        let mut runtimes = node.runtimes();
        let state = &mut runtimes.of(object.uuid).attachment;
        match why {
            Some(error) => state.set_because(&object.name, to, &error.message),
            None => state.set(&object.name, to, cause),
        }
    }
    node.notify();
}
