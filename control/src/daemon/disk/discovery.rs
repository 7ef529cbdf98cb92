//! Looks for disks: by the paths that are configured or remembered, and on every block device. Whatever they are called this time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bedplate_datapath::discover::{self, ScanReport};
use bedplate_datapath::engine::DiskIdentity;
use tokio::task::JoinSet;

use super::entry::DiskEntry;
use super::online::{came_back, duplicate, duplicate_of_used};
use crate::api::{ApiError, DiskState};
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// How long a disk may take to answer at the start, when devices wait for the daemon.
const PROBE_AT_START: Duration = Duration::from_secs(1);
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
    loop {
        tokio::select! {
            () = node.stopped() => return,
            _ = beat.tick() => look(&node, discover::PROBE_TIMEOUT).await,
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
    let mut opening = JoinSet::new();
    for found in report.found {
        let uuid = found.disk_uuid();
        let (in_use, configured) = {
            let disks = node.disks();
            let in_use = disks
                .iter()
                .filter(|entry| entry.uuid == Some(uuid))
                .find_map(|entry| {
                    entry
                        .actor
                        .as_ref()
                        .map(|actor| (Arc::clone(actor), entry.path.clone(), entry.state.get()))
                });
            (in_use, node.config.disks.contains(&found.path))
        };
        match in_use {
            Some((actor, ..)) if actor.identity == found.identity => continue,
            Some((actor, path, state)) => {
                let error = if state == DiskState::Offline || is_gone(actor.identity) {
                    came_back(uuid, &path, &found.path)
                } else {
                    duplicate_of_used(uuid, &path, &found.path)
                };
                refuse(node, found.path, DiskState::Offline, error);
                continue;
            }
            None if !configured && node.seen().is_removed(uuid) => continue,
            None => {}
        }
        if !found.on_original_hardware {
            tracing::warn!(disk = %found.path.display(), %uuid, "this disk was formatted on other hardware: it was moved, or it is a copy");
        }
        let node = Arc::clone(node);
        opening.spawn(async move {
            if let Err(error) = node.bring_online(&found.path, CLAIM_WITHIN).await {
                tracing::debug!(disk = %found.path.display(), "not in use: {error}");
            }
        });
    }
    while opening.join_next().await.is_some() {}
}

/// Whether the kernel has no such block device any more. A file that is open is never gone.
fn is_gone(identity: DiskIdentity) -> bool {
    match identity {
        DiskIdentity::Block(number) => {
            let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
            let known = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
            PathBuf::from("/sys/dev/block").exists() && !known.exists()
        }
        DiskIdentity::File { .. } => false,
    }
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
