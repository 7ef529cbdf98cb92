//! Watches disks that are in use: each check reads the disk's own superblock. A short fault is not a failure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bedplate_datapath::medium::Medium as _;
use bedplate_datapath::units::{ByteOffset, PAGE_BYTES};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::actor::DiskActor;
use crate::api::{ApiError, DiskState};
use crate::config::Health;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// Superblock copy 0.
const SUPERBLOCK_AT: ByteOffset = ByteOffset::new(4096);

/// Hits and misses in a row.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Streak {
    hits: u32,
    misses: u32,
}

impl Streak {
    /// Counts one check, and says which state follows from it.
    fn count(&mut self, hit: bool, now: DiskState, settings: &Health) -> DiskState {
        if hit {
            *self = Self {
                hits: self.hits.saturating_add(1),
                misses: 0,
            };
            if self.hits >= settings.online_after {
                DiskState::Online
            } else {
                now
            }
        } else {
            *self = Self {
                hits: 0,
                misses: self.misses.saturating_add(1),
            };
            if self.misses >= settings.offline_after {
                DiskState::Offline
            } else if self.misses >= settings.suspect_after {
                DiskState::Suspect
            } else {
                now
            }
        }
    }
}

/// Checks again and again, until the daemon goes down.
pub async fn keep_watching(node: Arc<Node>) {
    let settings = node.config.health.clone();
    let mut streaks: HashMap<Uuid, Streak> = HashMap::new();
    let mut beat = tokio::time::interval(Duration::from_millis(settings.interval_ms));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = node.stopped() => return,
            _ = beat.tick() => {}
        }
        let actors: Vec<Arc<DiskActor>> = node
            .disks()
            .iter()
            .filter_map(|entry| entry.actor.clone())
            .collect();
        streaks.retain(|uuid, _| actors.iter().any(|actor| actor.uuid == *uuid));
        let mut checks = JoinSet::new();
        for actor in actors {
            let within = Duration::from_millis(settings.timeout_ms);
            checks.spawn(async move { (actor.uuid, check(&actor, within).await) });
        }
        while let Some(checked) = checks.join_next().await {
            let Ok((uuid, result)) = checked else {
                continue;
            };
            conclude(
                &node,
                uuid,
                result,
                streaks.entry(uuid).or_default(),
                &settings,
            );
        }
    }
}

async fn check(actor: &DiskActor, within: Duration) -> Result<(), String> {
    let read = actor.ask(|store| {
        let mut page = [0; PAGE_BYTES];
        store.medium_mut().read(SUPERBLOCK_AT, &mut page)
    });
    match tokio::time::timeout(within, read).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(fault))) => Err(fault.to_string()),
        Ok(Err(error)) => Err(error.message),
        Err(_late) => Err(format!("no answer within {} ms", within.as_millis())),
    }
}

fn conclude(
    node: &Arc<Node>,
    uuid: Uuid,
    result: Result<(), String>,
    streak: &mut Streak,
    settings: &Health,
) {
    let changed = {
        let mut disks = node.disks();
        let Some(entry) = disks
            .iter_mut()
            .find(|entry| entry.uuid == Some(uuid) && entry.actor.is_some())
        else {
            return;
        };
        let now = entry.state.get();
        let next = streak.count(result.is_ok(), now, settings);
        if next != now {
            let error = result.err().map(|why| {
                ApiError::new(ErrorKind::Io, format!("{} health checks failed in a row: {why}", streak.misses))
                    .disk(entry.name())
                    .remedy("it comes back by itself; look for errors of the disk in the kernel's log (`dmesg`)")
            });
            entry.set_state(
                next,
                error,
                &format!("{} health checks answered in a row", streak.hits),
            );
        }
        next != now
    };
    if changed {
        node.refresh_replicas(uuid);
    }
    node.refresh_disk(uuid);
    node.refresh_space(uuid);
}

impl Node {
    /// Tells of a disk that takes no more changes.
    pub fn refresh_disk(&self, disk: Uuid) {
        let latched = {
            let disks = self.disks();
            let entry = disks.iter().find(|entry| entry.uuid == Some(disk));
            entry.and_then(|entry| {
                Some((
                    entry.name(),
                    entry.actor.as_ref()?.contents().latched.clone()?,
                ))
            })
        };
        let problem = latched.map(|(name, why)| {
            ApiError::new(
                ErrorKind::ReadOnly,
                format!("the disk {name} takes no more changes: {why}"),
            )
            .disk(name)
            .remedy(
                "images are still served; check the disk, then restart the daemon to open it again",
            )
        });
        self.set_problem(&format!("latched:{disk}"), problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DiskState::{Offline, Online, Suspect};

    #[test]
    fn a_short_fault_is_suspect_and_a_long_one_offline_and_both_heal() {
        let settings = Health {
            suspect_after: 2,
            offline_after: 4,
            online_after: 2,
            ..Health::default()
        };
        let mut streak = Streak::default();
        let mut state = DiskState::Online;
        let mut seen = Vec::new();
        for hit in [
            false, true, false, false, true, true, false, false, false, false, true, true,
        ] {
            state = streak.count(hit, state, &settings);
            seen.push(state);
        }
        let expected = [
            Online, Online, Online, Suspect, Suspect, Online, Online, Suspect, Suspect, Offline,
            Offline, Online,
        ];
        assert_eq!(seen, expected);
    }
}
