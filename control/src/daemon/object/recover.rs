//! Brings devices back by themselves: when a disk comes, after a crash, after a reboot, and when a taken number is free again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bedplate_datapath::store::Lost;
use bedplate_datapath::units::DevId;
use bedplate_ublk_target::{DeviceState, KernelDevice, OwnerTag, Target};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::bring_up::bring_up;
use super::{Located, Noun, attach, backing};
use crate::api::{ApiError, AttachmentState};
use crate::daemon::away::back;
use crate::daemon::blocking::blocking;
use crate::daemon::device_files;
use crate::daemon::disk::actor::DiskStore;
use crate::daemon::node::Node;
use crate::daemon::replica::stale;
use crate::error_kind::ErrorKind;

/// Time between two tries to attach what is held.
const RETRY: Duration = Duration::from_secs(5);

/// A disk came into use: the devices of its objects are brought up, all at the same time, without waiting for them here. Volumes that are
/// held are not: `lost` tells why, where that was found out just now. Then the disk settles what it took over.
pub fn disk_came(node: &Arc<Node>, disk: Uuid, lost: &[Lost]) {
    let mut coming = JoinSet::new();
    let objects = node.objects();
    let here: HashSet<Uuid> = objects
        .iter()
        .filter(|found| found.disk == disk)
        .map(|found| found.object.uuid)
        .collect();
    let mut begun = HashSet::new();
    for found in objects {
        // Also a clone on another disk that waits for its image, which is here.
        let waits_for_this = found.noun() == Noun::Volume
            && found
                .object
                .parent
                .is_some_and(|image| here.contains(&image))
            && waits_for_image(node, found.object.uuid);
        let is_best = found.disk == disk || waits_for_this;
        if !is_best || found.refused.is_some() || !begun.insert(found.object.uuid) {
            continue;
        }
        let has_device = node.runtimes().of(found.object.uuid).device.is_some();
        if hold(node, &found, lost) || !found.object.want_attached || has_device {
            continue;
        }
        let (state, cause) = (AttachmentState::Recovering, "its disk came into use");
        attach::set_attachment(node, &found.object, state, None, cause);
        let node = Arc::clone(node);
        coming.spawn(async move { bring_back(&node, &found).await });
    }
    for (object, _) in node.away.all() {
        coming.spawn(back::resume(Arc::clone(node), object));
    }
    let node = Arc::clone(node);
    tokio::spawn(async move {
        // It may know of another one that it is an old copy.
        stale::cut_off(&node).await;
        while coming.join_next().await.is_some() {}
        // And others may have told that of this one while its devices came up.
        stale::cut_off(&node).await;
        settle(&node, disk).await;
    });
}

/// Until a disk has settled what it took over it allocates nothing, so that writes to new places wait: it does that now and not with the
/// first commit, but after its devices are back, which need not wait for it.
async fn settle(node: &Arc<Node>, disk: Uuid) {
    // On an old copy of a disk nothing is changed, and so nothing is allocated.
    if node.stale_disks().contains(&disk) {
        return;
    }
    // One that was removed meanwhile, or whose daemon goes down, settles when it is opened again.
    let Ok(actor) = node.actor(disk) else { return };
    match actor.change(DiskStore::settle).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(disk = %actor.name(), "settling what was taken over: {error}");
            node.refresh_disk(disk);
        }
        Err(error) => tracing::debug!("settling what was taken over: {error}"),
    }
    node.refresh_space(disk);
}

/// Whether a volume has no device since its image was not there.
fn waits_for_image(node: &Node, volume: Uuid) -> bool {
    let runtimes = node.runtimes();
    runtimes.get(volume).is_some_and(|runtime| {
        let attachment = &runtime.attachment;
        attachment.get() == AttachmentState::Recovering && attachment.why().is_some()
    })
}

/// Whether a disk that answers has a copy of a clone's image.
fn base_is_there(node: &Node, clone: &Located) -> bool {
    let Some(image) = clone.object.parent else {
        return true;
    };
    node.copies_of(image)
        .iter()
        .any(|copy| copy.disk_trouble.is_none() && copy.object.state.is_ready())
}

/// Says that a volume is held, if it is.
fn hold(node: &Node, found: &Located, lost: &[Lost]) -> bool {
    if found.noun() != Noun::Volume {
        return false;
    }
    let lost = lost.iter().find(|lost| lost.uuid == found.object.uuid);
    let Some(error) = backing::held(found, lost.map(|lost| lost.why.as_str())) else {
        return false;
    };
    attach::set_attachment(node, &found.object, AttachmentState::Held, Some(&error), "");
    node.set_problem(&backing::loss_key(found.object.uuid), Some(error));
    true
}

/// Returns when no device is being brought up any more.
pub async fn settled(node: &Arc<Node>) {
    let mut changes = node.watch_changes();
    loop {
        changes.mark_unchanged();
        let recovering: Vec<Uuid> = node.runtimes().recovering().collect();
        // One whose disk is gone is nobody's any more. The first one is nearly always there.
        let recovering = recovering.iter().any(|uuid| {
            let found = node.objects_where(|_, object| object.uuid == *uuid);
            !found.is_empty()
        });
        // The sender lives in the node, so the channel cannot close.
        if !recovering || changes.changed().await.is_err() {
            return;
        }
    }
}

async fn bring_back(node: &Arc<Node>, found: &Located) {
    let uuid = found.object.uuid;
    let turn = node.runtimes().of(uuid).turn.clone();
    let _turn = turn.lock().await;
    if node.is_stopping() || node.runtimes().of(uuid).device.is_some() {
        return;
    }
    // Looked up again: what was asked for while another change had its turn counts.
    let found = match node.find_again(found) {
        Ok(found) => found,
        Err(error) => {
            // Nobody waits for it any more: it was deleted, or its disk was removed.
            if node.runtimes().get(uuid).is_some() {
                let state = AttachmentState::Held;
                attach::set_attachment(node, &found.object, state, Some(&error), "");
            }
            return;
        }
    };
    if !found.object.want_attached {
        attach::set_attachment(
            node,
            &found.object,
            AttachmentState::Detached,
            None,
            "not wanted any more",
        );
        return;
    }
    match bring_up(node, &found).await {
        Ok(number) => {
            attach::attached(node, &found.object, number, "back");
            node.metrics.device_recovered();
        }
        // Its image is on disks that are not there yet. It goes on when one of them is; nobody has to do anything about it.
        Err(error) if found.object.parent.is_some() && !base_is_there(node, &found) => {
            let state = AttachmentState::Recovering;
            attach::set_attachment(node, &found.object, state, Some(&error), "");
        }
        Err(error) => {
            attach::set_attachment(node, &found.object, AttachmentState::Held, Some(&error), "");
        }
    }
}

/// Tries again what is held, and tidies up devices that belong to nothing, until the daemon goes down.
pub async fn keep_trying(node: Arc<Node>) {
    let mut beat = tokio::time::interval(RETRY);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut dead = HashSet::new();
    loop {
        tokio::select! {
            () = node.stopped() => return,
            _ = beat.tick() => {}
        }
        let mut trying = JoinSet::new();
        let mut tried = HashSet::new();
        for found in node.objects() {
            if found.disk_trouble.is_some() || !tried.insert(found.object.uuid) {
                continue;
            }
            let held = {
                let images = node.runtimes();
                let runtime = images.get(found.object.uuid);
                runtime.is_some_and(|runtime| {
                    let attachment = &runtime.attachment;
                    let waits = attachment.get() == AttachmentState::Recovering
                        && attachment.why().is_some();
                    (attachment.get() == AttachmentState::Held || waits) && runtime.device.is_none()
                })
            };
            // What an operator must decide is not tried.
            let decided = backing::held(&found, None).is_none();
            if held && decided && found.object.want_attached && node.actor(found.disk).is_ok() {
                let node = Arc::clone(&node);
                trying.spawn(async move { bring_back(&node, &found).await });
            }
        }
        back::try_all(&node);
        while trying.join_next().await.is_some() {}
        dead = tidy(&node, &dead).await;
    }
}

/// Devices with our tag that nobody wishes for: of an attach that was never answered, or dead. They are removed. Those of an object
/// whose disk is not there are left alone, since the disk may come late; and those of a volume that is held, whose requests wait for an
/// operator.
async fn tidy(node: &Arc<Node>, dead_before: &HashSet<u32>) -> HashSet<u32> {
    let mut dead = HashSet::new();
    let serving = Arc::clone(node);
    let attached = node
        .runtimes()
        .devices()
        .map(|(_, number)| number)
        .collect();
    let strays = move || serving.serving.stray_devices_of_ours(&attached);
    let Ok(devices) = blocking(strays).await else {
        return dead;
    };
    let known = node.objects();
    let mut waiting = HashSet::new();
    for device in devices {
        let number = device.dev_id.get();
        // Two objects may have the same tag: then it is the one's whose number it is.
        let owner = known
            .iter()
            .filter(|found| device.owner == Some(OwnerTag::of(found.object.uuid)))
            .min_by_key(|found| found.object.dev_id != Some(device.dev_id));
        match owner {
            Some(found) => remove_unwanted(node, found, number).await,
            // Served by another daemon.
            None if device.state == DeviceState::Live && device.server_pid.is_some() => {}
            None if device.state == DeviceState::Dead => {
                // One look may catch another daemon between ADD and START.
                if dead_before.contains(&number) {
                    remove(number, "it is dead and belongs to nothing").await;
                }
                dead.insert(number);
            }
            None => {
                let key = format!("device:{number}");
                node.set_problem(&key, Some(waits_for_its_disk(&device)));
                waiting.insert(key);
            }
        }
    }
    for key in node.problem_keys("device:") {
        if !waiting.contains(&key) {
            node.set_problem(&key, None);
        }
    }
    dead
}

/// Removes a device of an object that is not to be attached, unless a change of it is under way.
async fn remove_unwanted(node: &Arc<Node>, found: &Located, number: u32) {
    let turn = node.runtimes().of(found.object.uuid).turn.clone();
    let Ok(_turn) = turn.try_lock() else { return };
    let Ok(now) = node.find_again(found) else {
        return;
    };
    let is_held = now.noun() == Noun::Volume
        && (backing::held(&now, None).is_some()
            || node.runtimes().of(now.object.uuid).attachment.get() == AttachmentState::Held);
    if is_held {
        return;
    }
    let served = node.runtimes().of(found.object.uuid).device == Some(number);
    let wanted = now.object.want_attached && now.object.dev_id == Some(DevId::new(number));
    // Without its disk it is not known what is wished for now.
    if !served && !wanted && node.actor(now.disk).is_ok() {
        remove(number, "its attach was never answered").await;
        device_files::forget(&node.config.run_dir, number);
    }
}

async fn remove(number: u32, why: &str) {
    match blocking(move || Target::remove_device(DevId::new(number))).await {
        Ok(Ok(())) => tracing::info!(number, "removed a device: {why}"),
        Ok(Err(error)) => tracing::warn!(number, "cannot remove a device ({why}): {error}"),
        Err(error) => tracing::warn!(number, "cannot remove a device ({why}): {error}"),
    }
}

fn waits_for_its_disk(device: &KernelDevice) -> ApiError {
    let node = format!("/dev/ublkb{}", device.dev_id);
    ApiError::new(
        ErrorKind::Held,
        format!("{node} belongs to an image or a volume whose disk is not there ({device})"),
    )
    .object(node)
    .remedy("it goes on when its disk is back; `bedplated remove-devices` gives it up")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::test_node::{TestNode, a_while};
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn it_is_settled_when_nothing_that_is_there_recovers() {
        let node = TestNode::new();
        node.make_disk("disk").await;
        node.import_image("a").await;
        let found = node.find(Noun::Image, "a").unwrap();
        // Of an object that went with its disk.
        let gone = Uuid::from_u128(1);
        let recovering = AttachmentState::Recovering;
        node.runtimes()
            .of(gone)
            .attachment
            .set("gone", recovering, "");
        timeout(PATIENCE, settled(&node)).await.unwrap();
        attach::set_attachment(&node, &found.object, recovering, None, "");
        let waiting = Arc::clone(&node);
        let waiting = tokio::spawn(async move { settled(&waiting).await });
        a_while().await;
        assert!(!waiting.is_finished());
        // Who says why waits for a disk, which may never come.
        let why = ApiError::new(ErrorKind::NotReady, "its disk is away");
        attach::set_attachment(&node, &found.object, recovering, Some(&why), "");
        timeout(PATIENCE, waiting).await.unwrap().unwrap();
    }
}
