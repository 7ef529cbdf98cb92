//! Looks for disks: by the paths that are configured or remembered, and on every block device. Whatever they are called this time.
//!
//! It looks when the kernel says that a block device came or went, and from time to time, since that may be missed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::discover::{self, Found, ScanReport};
use tokio::task::JoinSet;

use super::entry::{DiskEntry, Retry};
use super::online::{duplicate, duplicate_of_used};
use super::order;
use super::uevent::Uevents;
use super::way::{self, Way};
use crate::api::{ApiError, DiskState};
use crate::daemon::node::Node;
use crate::daemon::{backoff, errors};
use crate::error_kind::ErrorKind;

/// How long a disk may take to answer at the start, when devices wait for the daemon.
const PROBE_AT_START: Duration = Duration::from_secs(1);
/// Events of block devices come in swarms: how long they may take before there is a look.
const SETTLES_WITHIN: Duration = Duration::from_millis(300);
/// How long a disk that was found is waited for while I/O of a dead daemon still holds it.
const CLAIM_WITHIN: Duration = Duration::from_secs(60);

/// The first look: answers when every disk that was found is in use or refused.
pub async fn at_start(node: &Arc<Node>) {
    {
        let mut disks = node.disks();
        for path in &node.config.disks {
            if !disks.iter().any(|entry| entry.path == *path) {
                disks.push(DiskEntry::absent(path.clone(), None));
            }
        }
        for (uuid, path) in node.seen().iter() {
            match disks.iter_mut().find(|entry| entry.path == *path) {
                Some(entry) => entry.uuid = Some(*uuid),
                None => disks.push(DiskEntry::absent(path.clone(), Some(*uuid))),
            }
        }
    }
    look(node, PROBE_AT_START).await;
}

/// Looks again and again, until the daemon goes down.
pub async fn keep_looking(node: Arc<Node>) {
    let mut beat = tokio::time::interval(node.config.discovery_interval());
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick comes at once, and the look at the start was just made.
    beat.tick().await;
    let mut changes = node.watch_block_devices();
    loop {
        tokio::select! {
            () = node.stopped() => return,
            _ = beat.tick() => {}
            // The sender lives in the node, so the channel cannot close.
            _ = changes.changed() => {
                tokio::time::sleep(SETTLES_WITHIN).await;
                changes.mark_unchanged();
                for entry in node.disks().iter_mut() {
                    entry.retry = Retry::default();
                }
            }
        }
        look(&node, discover::PROBE_TIMEOUT).await;
    }
}

/// Passes on what the kernel says of block devices, until the daemon goes down.
pub async fn keep_listening(node: Arc<Node>) {
    let mut events = match Uevents::listen() {
        Ok(events) => events,
        Err(error) => {
            tracing::warn!(%error, "cannot listen to the kernel's uevents: disks that come or go are found with the next look");
            return;
        }
    };
    loop {
        tokio::select! {
            () = node.stopped() => return,
            event = events.next() => match event {
                Ok(event) => {
                    tracing::debug!(?event, "a block device came or went");
                    node.block_devices_changed();
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot listen to the kernel's uevents any more");
                    return;
                }
            }
        }
    }
}

async fn look(node: &Arc<Node>, probe_within: Duration) {
    let paths: Vec<PathBuf> = {
        let disks = node.disks();
        disks
            .iter()
            .filter(|entry| entry.actor.is_none() && !entry.in_change)
            .map(|entry| entry.path.clone())
            .collect()
    };
    let all = node.config.discovery.all_block_devices;
    if paths.is_empty() && !all {
        return;
    }
    let scan =
        tokio::task::spawn_blocking(move || discover::scan_within(&paths, all, probe_within));
    match scan.await {
        Ok(report) => take(node, report).await,
        Err(error) => tracing::error!(%error, "looking for disks ended unexpectedly"),
    }
}

async fn take(node: &Arc<Node>, report: ScanReport) {
    for copies in &report.duplicates {
        let error = {
            let disks = node.disks();
            let used = disks
                .iter()
                .find(|entry| entry.uuid == Some(copies.disk_uuid) && entry.actor.is_some());
            let other = used.and_then(|used| copies.paths.iter().find(|path| **path != used.path));
            match (used, other) {
                (Some(used), Some(other)) => duplicate_of_used(copies.disk_uuid, &used.path, other),
                _ => duplicate(copies.disk_uuid, &copies.paths),
            }
        };
        for path in &copies.paths {
            refuse(node, path.clone(), DiskState::Offline, error.clone());
        }
    }
    for refused in report.refused {
        let error = errors::of_refusal(&refused.path.display().to_string(), &refused.why);
        let state = if error.kind == ErrorKind::NotFound {
            DiskState::Absent
        } else {
            DiskState::Offline
        };
        refuse(node, refused.path, state, error);
    }
    let mut to_open = Vec::new();
    for found in report.found {
        let uuid = found.disk_uuid();
        let is_in_use = node
            .disks()
            .iter()
            .any(|entry| entry.uuid == Some(uuid) && entry.actor.is_some());
        let is_configured = node.config.disks.contains(&found.path);
        if !is_in_use && !is_configured && node.seen().is_removed(uuid) {
            continue;
        }
        match way::make(node, uuid, found.identity, &found.path).await {
            Ok(Way::Free) => {}
            Ok(Way::Open) => continue,
            Err(error) => {
                refuse(node, found.path, DiskState::Offline, error);
                continue;
            }
        }
        if !found.on_original_hardware {
            tracing::warn!(disk = %found.path.display(), %uuid, "this disk was formatted on other hardware: it was moved, or it is a copy");
        }
        let rests = node
            .disks()
            .iter()
            .any(|entry| entry.path == found.path && entry.retry.is_resting(Instant::now()));
        if !rests {
            to_open.push(found);
        }
    }
    while !to_open.is_empty() {
        let now = order::take_next(&mut to_open, |found| {
            (found.disk_uuid(), &found.superblock.peers)
        });
        open_all(node, now).await;
    }
}

/// Opens disks at the same time, and answers when each is in use or refused.
async fn open_all(node: &Arc<Node>, disks: Vec<Found>) {
    let mut opening = JoinSet::new();
    for found in disks {
        let node = Arc::clone(node);
        opening.spawn(async move {
            if let Err(error) = node.bring_online(&found.path, CLAIM_WITHIN).await {
                tracing::debug!(disk = %found.path.display(), "not in use: {error}");
                let health = &node.config.health;
                let backoff = health.backoff(node.config.discovery.interval_ms);
                let mut disks = node.disks();
                if let Some(entry) = disks.iter_mut().find(|entry| entry.path == found.path) {
                    entry
                        .retry
                        .failed(Instant::now(), &backoff, backoff::random());
                }
            }
        });
    }
    while opening.join_next().await.is_some() {}
}

/// Notes why a disk is not in use; one that is stays as it is.
fn refuse(node: &Node, path: PathBuf, state: DiskState, error: ApiError) {
    let name = path.display().to_string();
    {
        let mut disks = node.disks();
        let at = disks
            .iter()
            .position(|entry| entry.path == path)
            .unwrap_or_else(|| {
                disks.push(DiskEntry::absent(path, None));
                disks.len() - 1
            });
        let entry = &mut disks[at];
        if entry.actor.is_some() || entry.in_change {
            // Of what was found, and not of a path that cannot be read: that is for the health checks to say.
            if matches!(
                error.kind,
                ErrorKind::DuplicateDisk | ErrorKind::DiskOffline
            ) {
                node.set_problem(&format!("disk:{name}"), Some(error));
            }
            return;
        }
        entry.set_state(state, Some(error.clone()), "");
    }
    node.set_problem(&format!("disk:{name}"), Some(error));
}
