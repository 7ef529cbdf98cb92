//! Brings devices back by themselves: when a disk comes, after a crash, after a reboot, and when a taken number is free again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bedplate_datapath::units::DevId;
use bedplate_ublk_target::{DeviceState, KernelDevice, OwnerTag, Target};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::attach;
use super::catalog::Located;
use crate::api::{ApiError, AttachmentState};
use crate::daemon::device_files;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// Time between two tries to attach what is held.
const RETRY: Duration = Duration::from_secs(5);

/// A disk came into use: the devices of its images are brought up, all at the same time, without waiting for them here.
pub fn disk_came(node: &Arc<Node>, disk: Uuid) {
    for found in node
        .replicas()
        .into_iter()
        .filter(|found| found.disk == disk && found.object.want_attached)
    {
        let (state, cause) = (AttachmentState::Recovering, "its disk came into use");
        attach::set_attachment(node, &found.object, state, None, cause);
        let node = Arc::clone(node);
        tokio::spawn(async move { bring_back(&node, &found).await });
    }
}

/// Returns when no device is being brought up any more.
pub async fn settled(node: &Arc<Node>) {
    let mut changes = node.watch_changes();
    loop {
        changes.mark_unchanged();
        let recovering = node.replicas().iter().any(|found| {
            let images = node.images();
            images
                .get(found.object.uuid)
                .is_some_and(|runtime| runtime.attachment.get() == AttachmentState::Recovering)
        });
        // The sender lives in the node, so the channel cannot close.
        if !recovering || changes.changed().await.is_err() {
            return;
        }
    }
}

async fn bring_back(node: &Arc<Node>, found: &Located) {
    let image = found.object.uuid;
    let turn = node.images().of(image).turn.clone();
    let _turn = turn.lock().await;
    if node.is_stopping() || node.images().of(image).device.is_some() {
        return;
    }
    // Looked up again: what was asked for while another change had its turn counts.
    let Ok(found) = node.find_image(&image.to_string()) else {
        return;
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
    match attach::bring_up(node, &found).await {
        Ok(number) => attach::attached(node, &found.object, number, "back"),
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
        for found in node.replicas() {
            let held = {
                let images = node.images();
                let runtime = images.get(found.object.uuid);
                runtime.is_some_and(|runtime| {
                    runtime.attachment.get() == AttachmentState::Held && runtime.device.is_none()
                })
            };
            if held && found.object.want_attached && node.actor(found.disk).is_ok() {
                let node = Arc::clone(&node);
                trying.spawn(async move { bring_back(&node, &found).await });
            }
        }
        while trying.join_next().await.is_some() {}
        dead = tidy(&node, &dead).await;
    }
}

/// Devices with our tag that nobody wishes for: of an attach that was never answered, or dead. They are removed. Those of an image
/// whose disk is not there are left alone, since the disk may come late.
async fn tidy(node: &Arc<Node>, dead_before: &HashSet<u32>) -> HashSet<u32> {
    let mut dead = HashSet::new();
    let Ok(devices) = attach::blocking(attach::kernel_devices_of_ours).await else {
        return dead;
    };
    let known = node.replicas();
    let mut waiting = HashSet::new();
    for device in devices {
        let number = device.dev_id.get();
        let owner = known
            .iter()
            .find(|found| device.owner == Some(OwnerTag::of(found.object.uuid)));
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

/// Removes a device of an image that is not to be attached, unless a change of the image is under way.
async fn remove_unwanted(node: &Arc<Node>, found: &Located, number: u32) {
    let turn = node.images().of(found.object.uuid).turn.clone();
    let Ok(_turn) = turn.try_lock() else { return };
    let Ok(now) = node.find_image(&found.object.uuid.to_string()) else {
        return;
    };
    let served = node.images().of(found.object.uuid).device == Some(number);
    let wanted = now.object.want_attached && now.object.dev_id == Some(DevId::new(number));
    // Without its disk it is not known what is wished for now.
    if !served && !wanted && node.actor(now.disk).is_ok() {
        remove(number, "its attach was never answered").await;
        device_files::forget(&node.config.run_dir, number);
    }
}

async fn remove(number: u32, why: &str) {
    match attach::blocking(move || Target::remove_device(DevId::new(number))).await {
        Ok(Ok(())) => tracing::info!(number, "removed a device: {why}"),
        Ok(Err(error)) => tracing::warn!(number, "cannot remove a device ({why}): {error}"),
        Err(error) => tracing::warn!(number, "cannot remove a device ({why}): {error}"),
    }
}

fn waits_for_its_disk(device: &KernelDevice) -> ApiError {
    let node = format!("/dev/ublkb{}", device.dev_id);
    ApiError::new(
        ErrorKind::Held,
        format!("{node} belongs to an image whose disk is not there ({device})"),
    )
    .object(node)
    .remedy("it goes on when its disk is back; `bedplated remove-devices` gives it up")
}
