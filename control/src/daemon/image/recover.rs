//! Brings devices back by themselves: when a disk comes, after a crash, after a reboot, and when a taken number is free again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bedplate_ublk_target::{DeviceState, OwnerTag, Target};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::attach;
use super::catalog::Located;
use crate::api::{ApiError, AttachmentState};
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// Time between two tries to attach what is held.
const RETRY: Duration = Duration::from_secs(5);

/// A disk came into use: the devices of its images are brought up, all at the same time, without waiting for them here.
pub fn disk_came(node: &Arc<Node>, disk: Uuid) {
    for found in node.replicas().into_iter().filter(|found| found.disk == disk && found.object.want_attached) {
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
            images.get(found.object.uuid).is_some_and(|runtime| runtime.attachment.get() == AttachmentState::Recovering)
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
    let Ok(found) = node.find_image(&image.to_string()) else { return };
    if !found.object.want_attached {
        attach::set_attachment(node, &found.object, AttachmentState::Detached, None, "not wanted any more");
        return;
    }
    match attach::bring_up(node, &found).await {
        Ok(number) => attach::attached(node, &found.object, number, "back"),
        Err(error) => attach::set_attachment(node, &found.object, AttachmentState::Held, Some(&error), ""),
    }
}

/// Tries again what is held, and tidies up devices that belong to nothing, until the daemon goes down.
pub async fn keep_trying(node: Arc<Node>) {
    let mut beat = tokio::time::interval(RETRY);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
        tidy(&node).await;
    }
}

/// Devices with our tag that no known object owns: dead ones are removed, others are left alone, since their disk may come late.
pub async fn tidy(node: &Arc<Node>) {
    let Ok(devices) = attach::blocking(attach::kernel_devices_of_ours).await else { return };
    let known: HashSet<OwnerTag> = node.replicas().iter().map(|found| OwnerTag::of(found.object.uuid)).collect();
    let mut waiting = HashSet::new();
    for device in devices {
        if device.owner.is_some_and(|owner| known.contains(&owner)) {
            continue;
        }
        let number = device.dev_id;
        if device.state == DeviceState::Dead {
            match attach::blocking(move || Target::remove_device(number)).await {
                Ok(Ok(())) => tracing::info!(%number, "removed a dead device that belongs to nothing"),
                Ok(Err(error)) => tracing::warn!(%number, "a dead device that belongs to nothing: {error}"),
                Err(error) => tracing::warn!(%number, "a dead device that belongs to nothing: {error}"),
            }
            continue;
        }
        let key = format!("device:{number}");
        let error = ApiError::new(
            ErrorKind::Held,
            format!("/dev/ublkb{number} belongs to an image whose disk is not there ({device})"),
        )
        .object(format!("/dev/ublkb{number}"))
        .remedy("it goes on when its disk is back; `bedplated remove-devices` gives it up");
        node.set_problem(&key, Some(error));
        waiting.insert(key);
    }
    for key in node.problem_keys("device:") {
        if !waiting.contains(&key) {
            node.set_problem(&key, None);
        }
    }
}
