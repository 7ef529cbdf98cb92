//! Lets a volume grow, also under a guest.
//!
//! Its slot first, then the device: a crash in between leaves a device that is shorter than its volume, and recovery lets it grow. The
//! other way round a guest could write where the volume does not reach.

use std::sync::Arc;

use bedplate_datapath::units::DevId;
use bedplate_ublk_target::Target;

use super::size;
use crate::api::{ApiError, ResizeVolume};
use crate::daemon::blocking::blocking;
use crate::daemon::disk::actor::DiskActor;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::daemon::object::backing::{self, volume_backing};
use crate::daemon::object::{Located, Noun};
use crate::daemon::replica::sets;
use crate::error_kind::ErrorKind;

/// Lets the volume grow; answers with it, and whether anything changed.
///
/// # Errors
/// `BadSize`; `KernelUnsupported` while it is attached and the kernel cannot change a device's size.
pub async fn resize(
    node: &Arc<Node>,
    name: &str,
    request: &ResizeVolume,
) -> Result<(Located, bool), ApiError> {
    node.require_running()?;
    let found = node.find(Noun::Volume, name)?;
    let turn = node.runtimes().of(found.object.uuid).turn.clone();
    let _turn = turn.lock().await;
    let found = node.find_again(&found)?;
    let (uuid, name) = (found.object.uuid, found.object.name.clone());
    let size_bytes = size::of_grown(&name, found.object.size_bytes, request)?;
    let device = node.runtimes().of(uuid).device;
    if size_bytes == found.object.size_bytes {
        // Its device may be shorter, where the one before could not tell the kernel. Telling it twice changes nothing.
        let target = node.serving.started().filter(|target| target.can_resize());
        if backing::require_servable(node, &found).is_ok()
            && let Some((target, number)) = target.zip(device)
        {
            let actor = node.actor(found.disk)?;
            grow_device(node, &actor, &found, target, number).await?;
        }
        return Ok((found, false));
    }
    backing::require_servable(node, &found)?;
    let target = require_can_grow(node, &found, device)?;
    let actor = node.actor(found.disk)?;
    let grown = actor
        .change(move |store| store.resize_volume(uuid, size_bytes))
        .await?;
    if grown.is_err() {
        node.refresh_disk(found.disk);
    }
    grown.map_err(|error| errors::of_store(&actor.name(), Some(&name), &error))?;
    if let Some((target, number)) = device.and_then(|number| Some((target?, number))) {
        grow_device(node, &actor, &found, target, number).await?;
    }
    tracing::info!(volume = name, size_bytes, "grown");
    node.notify();
    Ok((node.find_again(&found)?, true))
}

/// Gives the device of a volume the size that its slot has.
async fn grow_device(
    node: &Arc<Node>,
    actor: &DiskActor,
    found: &Located,
    target: Arc<Target>,
    number: u32,
) -> Result<(), ApiError> {
    let name = &found.object.name;
    let shared = match found.object.parent {
        Some(image) => Some(sets::set_of(node, image).await?),
        None => None,
    };
    let backing = volume_backing(node, actor, &found.object, shared.as_ref()).await?;
    let resized = blocking(move || target.resize(DevId::new(number), backing)).await?;
    if let (Ok(()), Some(shared)) = (&resized, &shared) {
        node.replicas.sets.given(found.object.uuid, &shared.set);
    }
    resized.map_err(|error| {
        errors::of_target(Some(name), &error).remedy(format!(
            "the volume has its new size, its device the old one: resize it again, or detach it and attach it again (`bedplate volume detach {name}`)"
        ))
    })
}

/// The target, where the volume has a device.
fn require_can_grow(
    node: &Node,
    found: &Located,
    device: Option<u32>,
) -> Result<Option<Arc<Target>>, ApiError> {
    let name = &found.object.name;
    if device.is_none() {
        if found.object.want_attached {
            return Err(ApiError::new(
                ErrorKind::NotReady,
                format!("the volume {name} is to be attached, and has no device yet"),
            )
            .object(name.clone())
            .remedy(format!(
                "wait for it (`bedplate wait volume {name}`), or detach it first"
            )));
        }
        return Ok(None);
    }
    let target = node.serving.target()?;
    if !target.can_resize() {
        return Err(ApiError::new(
            ErrorKind::KernelUnsupported,
            format!(
                "the volume {name} is attached, and this kernel cannot change the size of a ublk device (UBLK_F_UPDATE_SIZE)"
            ),
        )
        .object(name.clone())
        .remedy("detach it, resize, attach again"));
    }
    Ok(Some(target))
}
