//! Attach and detach: an image gets its device, or loses it, and its slot on disk says so.

use std::sync::Arc;

use bedplate_datapath::plan::{DiskIndex, Layer, LayerStack};
use bedplate_datapath::store::Object;
use bedplate_datapath::units::DevId;
use bedplate_ublk_target::{DeviceSpec, OwnerTag, Target, TargetError};
use uuid::Uuid;

use super::catalog::Located;
use crate::api::{ApiError, AttachmentState, Changed, ReplicaState};
use crate::daemon::device_files;
use crate::daemon::disk::actor::DiskActor;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::daemon::serving::Serving;
use crate::error_kind::ErrorKind;

/// How often another number is tried when somebody takes the chosen one first.
const NUMBER_TRIES: u32 = 16;

/// Attaches the image, now and after each restart. One that is attached stays as it is.
///
/// # Errors
/// `NotReady`, `DeviceTaken`, `KernelUnsupported`, ...
pub async fn attach(node: &Arc<Node>, name: &str) -> Result<Changed, ApiError> {
    node.require_attaching()?;
    let image = node.find_image(name)?.object.uuid;
    let turn = node.images().of(image).turn.clone();
    let _turn = turn.lock().await;
    // Looked up again: it may have been deleted while another change had its turn.
    let found = node.find_image(&image.to_string())?;
    if has_device(node, &found.object) {
        return Ok(changed(node, &found.object, false));
    }
    set_attachment(
        node,
        &found.object,
        AttachmentState::Attaching,
        None,
        "asked to attach",
    );
    match bring_up(node, &found).await {
        Ok(number) => {
            attached(node, &found.object, number, "attached");
            let found = node.find_image(&image.to_string())?;
            Ok(changed(node, &found.object, true))
        }
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

/// Removes the device of the image. One that has none stays so.
///
/// # Errors
/// `Busy` while somebody has the device open.
pub async fn detach(node: &Arc<Node>, name: &str) -> Result<Changed, ApiError> {
    node.require_running()?;
    let image = node.find_image(name)?.object.uuid;
    let turn = node.images().of(image).turn.clone();
    let _turn = turn.lock().await;
    let found = node.find_image(&image.to_string())?;
    let device = node.images().of(image).device;
    if device.is_none() && !found.object.want_attached {
        return Ok(changed(node, &found.object, false));
    }
    // The device first: if the daemon dies in between, the wish is still there and the device comes back, as if nobody had asked.
    if let Some(number) = device {
        take_down(node, &found.object, number).await?;
    }
    if let Some(kept) = found.object.dev_id {
        commit(node, &found, kept, false).await?;
    }
    set_attachment(
        node,
        &found.object,
        AttachmentState::Detached,
        None,
        "asked to detach",
    );
    let found = node.find_image(&image.to_string())?;
    Ok(changed(node, &found.object, true))
}

/// Takes the device away; the wish on disk stays as it is.
///
/// # Errors
/// `Busy` while somebody has it open.
pub async fn take_down(node: &Arc<Node>, object: &Object, number: u32) -> Result<(), ApiError> {
    let target = node.serving.started();
    if let Some(target) = target {
        let detached = blocking(move || match target.detach(DevId::new(number)) {
            Err(TargetError::NotFound { .. }) => Ok(()),
            other => other,
        });
        detached
            .await?
            .map_err(|error| errors::of_target(Some(&object.name), &error))?;
    }
    device_files::forget(&node.config.run_dir, number);
    node.images().of(object.uuid).device = None;
    Ok(())
}

/// Makes the device of an image, or takes over the one that it still has; answers with its number once it answers requests.
/// The caller has the image's turn.
///
/// # Errors
/// What stands in the way. The image has no device of this daemon then.
pub async fn bring_up(node: &Arc<Node>, found: &Located) -> Result<u32, ApiError> {
    node.require_attaching()?;
    let object = &found.object;
    require_ready(node, found)?;
    let actor = node.actor(found.disk)?;
    let (disk, stack) = layers(node, &actor, object).await?;
    tracing::debug!(image = object.name, disk = disk.get(), "bringing up");

    let in_use = numbers_in_use(node, object.uuid);
    let (run_dir, image, kept, uuid) = (
        node.config.run_dir.clone(),
        object.name.clone(),
        object.dev_id,
        object.uuid,
    );
    let wanted = object.want_attached;
    let dma_alignment = actor.dma_alignment;
    let job_node = Arc::clone(node);
    let made = blocking(move || {
        let target = job_node.serving.target()?;
        let spec = |number: u32| DeviceSpec {
            dev_id: DevId::new(number),
            owner: OwnerTag::of(uuid),
            read_only: true,
            dma_alignment,
        };
        let note = |number: u32| device_files::note(&run_dir, number, &image);
        up(
            &target,
            &spec,
            &note,
            &stack,
            kept.map(DevId::get),
            wanted,
            &in_use,
        )
        .map_err(|error| errors::of_target(Some(&image), &error))
    });
    let number = made.await??;

    if kept.map(DevId::get) != Some(number) || !wanted {
        // The device answers already, but nobody was told. If the daemon dies before this is durable, the next one finds a
        // device that nobody wishes for, and removes it.
        if let Err(error) = commit(node, found, DevId::new(number), true).await {
            if let Err(error) = take_down(node, object, number).await {
                tracing::error!(
                    image = object.name,
                    number,
                    "a device that could not be noted cannot be removed: {error}"
                );
            }
            return Err(error);
        }
    }
    Ok(number)
}

fn up(
    target: &Target,
    spec: &impl Fn(u32) -> DeviceSpec,
    note: &impl Fn(u32),
    stack: &Arc<LayerStack>,
    kept: Option<u32>,
    wanted: bool,
    in_use: &[u32],
) -> Result<u32, TargetError> {
    let owner = spec(0).owner;
    let mut taken = in_use.to_vec();
    for device in Target::kernel_devices()? {
        let number = device.dev_id.get();
        if device.owner != Some(owner) {
            taken.push(number);
        } else if wanted && kept == Some(number) {
            note(number);
            target.recover(&spec(number), Arc::clone(stack))?;
            return Ok(number);
        } else {
            tracing::info!(number, "removing a device that was never handed out");
            Target::remove_device(device.dev_id)?;
        }
    }
    if let Some(number) = kept {
        note(number);
        target.attach(&spec(number), Arc::clone(stack))?;
        return Ok(number);
    }
    let mut tries = 0;
    loop {
        let number = (0..=u32::MAX)
            .find(|number| !taken.contains(number))
            .unwrap_or(u32::MAX);
        note(number);
        match target.attach(&spec(number), Arc::clone(stack)) {
            Ok(_) => return Ok(number),
            Err(TargetError::DeviceTaken { .. } | TargetError::Busy { .. })
                if tries < NUMBER_TRIES =>
            {
                tries += 1;
                taken.push(number);
            }
            Err(error) => return Err(error),
        }
    }
}

/// What the device reads: the image's map, over the disk's place in the reactors' tables.
async fn layers(
    node: &Arc<Node>,
    actor: &DiskActor,
    object: &Object,
) -> Result<(DiskIndex, Arc<LayerStack>), ApiError> {
    let known = node
        .disks()
        .iter()
        .find(|entry| entry.uuid == Some(actor.uuid))
        .and_then(|entry| entry.slot);
    let (uuid, serving) = (object.uuid, Arc::clone(node));
    let (disk, map) = actor
        .ask(move |store| {
            let disk = match known {
                Some(disk) => Ok(disk),
                None => serving.serving.add_disk(store.medium_mut().disk()),
            };
            (disk, store.map_of(uuid))
        })
        .await?;
    let disk = disk?;
    let map = map.map_err(|error| errors::of_store(&actor.name(), Some(&object.name), &error))?;
    let extra = {
        let mut disks = node.disks();
        let entry = disks
            .iter_mut()
            .find(|entry| entry.uuid == Some(actor.uuid));
        match entry.map(|entry| *entry.slot.get_or_insert(disk)) {
            Some(first) if first != disk => Some((disk, first)),
            _ => None,
        }
    };
    // Two images of one disk came up at the same time, and both added it.
    let disk = match extra {
        Some((extra, first)) => {
            let serving = Arc::clone(node);
            blocking(move || serving.serving.remove_disk(extra)).await??;
            first
        }
        None => disk,
    };
    let stack = LayerStack {
        layers: vec![Layer { map, disk }],
        size_bytes: object.size_bytes,
    };
    Ok((disk, Arc::new(stack)))
}

fn require_ready(node: &Node, found: &Located) -> Result<(), ApiError> {
    let images = node.images();
    let state = images.replica_state(found.object.replica_uuid);
    let (now, why) = match state {
        Some(state) if state.get() == ReplicaState::Ready => return Ok(()),
        Some(state) => (
            format!("{:?}", state.get()),
            state.why().unwrap_or_default().to_owned(),
        ),
        None => ("Unknown".to_owned(), String::new()),
    };
    let name = &found.object.name;
    let mut error = ApiError::new(
        ErrorKind::NotReady,
        format!("the image {name} is {now} and cannot be served: {why}"),
    )
    .object(name.clone())
    .remedy(format!("`bedplate image show {name}` says more"));
    error.disk = Some(found.disk_path.clone());
    Err(error)
}

/// Numbers that belong to other images, attached or not.
fn numbers_in_use(node: &Node, image: Uuid) -> Vec<u32> {
    let kept = node
        .replicas()
        .into_iter()
        .filter(|replica| replica.object.uuid != image);
    let mut numbers: Vec<u32> = kept
        .filter_map(|replica| replica.object.dev_id.map(DevId::get))
        .collect();
    numbers.extend(
        node.images()
            .devices()
            .filter(|(uuid, _)| *uuid != image)
            .map(|(_, number)| number),
    );
    numbers
}

async fn commit(
    node: &Arc<Node>,
    found: &Located,
    number: DevId,
    wanted: bool,
) -> Result<(), ApiError> {
    let actor = node.actor(found.disk)?;
    let uuid = found.object.uuid;
    let noted = actor
        .change(move |store| store.set_attachment(uuid, number, wanted))
        .await?;
    if noted.is_err() {
        node.refresh_disk(found.disk);
    }
    noted.map_err(|error| errors::of_store(&actor.name(), Some(&found.object.name), &error))
}

fn has_device(node: &Node, object: &Object) -> bool {
    let images = node.images();
    images.get(object.uuid).is_some_and(|runtime| {
        runtime.device.is_some()
            && runtime.attachment.get() == AttachmentState::Ready
            && object.want_attached
    })
}

/// Notes that the device answers.
pub fn attached(node: &Node, object: &Object, number: u32, cause: &str) {
    node.images().of(object.uuid).device = Some(number);
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
        let mut images = node.images();
        let state = &mut images.of(object.uuid).attachment;
        match why {
            Some(error) => state.set_because(&object.name, to, &error.message),
            None => state.set(&object.name, to, cause),
        }
    }
    node.notify();
}

fn changed(node: &Node, object: &Object, changed: bool) -> Changed {
    Changed {
        image: object.name.clone(),
        changed,
        attachment: node.attachment_view(object),
    }
}

/// Runs what blocks on a thread for such things.
///
/// # Errors
/// When it panicked.
pub async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| errors::internal("a call that blocks ended unexpectedly"))
}

/// Whether the kernel has devices of ours.
pub fn kernel_devices_of_ours() -> Vec<bedplate_ublk_target::KernelDevice> {
    Serving::kernel_devices()
        .into_iter()
        .filter(|device| device.owner.is_some())
        .collect()
}
