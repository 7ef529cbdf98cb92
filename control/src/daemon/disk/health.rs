//! Watches disks that are in use: each check reads the disk's own superblock. A short fault is not a failure; `standing` decides.
//!
//! One check of a disk at a time: while a disk does not answer, it is asked nothing more, and the answer that comes late counts.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::actor::DiskActor;
use super::standing::{Cause, Event, Rules, Standing};
use crate::api::{ApiError, DiskState};
use crate::config::Health;
use crate::daemon::away::went;
use crate::daemon::backoff::{self, Backoff};
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// How often it is looked for disks that are not watched yet.
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl Health {
    /// When a disk changes its state.
    pub fn rules(&self) -> Rules {
        Rules {
            suspect_after: self.suspect_after,
            grace: Duration::from_millis(self.grace_ms),
            online_after: self.online_after,
        }
    }

    /// Between two checks of a disk that is Offline, and two tries to open one.
    pub fn backoff(&self, first_ms: u64) -> Backoff {
        Backoff {
            first: Duration::from_millis(first_ms),
            most: Duration::from_millis(self.retry_max_ms.max(first_ms)),
        }
    }
}

/// Watches each disk that is in use, until the daemon goes down.
pub async fn keep_watching(node: Arc<Node>) {
    let mut watched: Vec<Arc<DiskActor>> = Vec::new();
    let mut beat = tokio::time::interval(LOOK_EVERY);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = node.stopped() => return,
            _ = beat.tick() => {}
        }
        let actors = node.disk_actors();
        watched.retain(|old| actors.iter().any(|actor| Arc::ptr_eq(actor, old)));
        for actor in actors {
            if !watched.iter().any(|old| Arc::ptr_eq(&actor, old)) {
                watched.push(Arc::clone(&actor));
                tokio::spawn(watch(Arc::clone(&node), actor));
            }
        }
    }
}

type Check = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Watches one disk as long as it is in use.
async fn watch(node: Arc<Node>, actor: Arc<DiskActor>) {
    let settings = node.config.health.clone();
    let rules = settings.rules();
    let began = Instant::now();
    let mut standing = Standing::online();
    let mut late: Option<Check> = None;
    let mut due = Instant::now();
    let mut changes = node.watch_block_devices();
    while node.is_used(&actor) {
        tokio::select! {
            () = node.stopped() => return,
            // Somebody unplugged something: this one, perhaps. The sender lives in the node, so the channel cannot close.
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(due) => {}
        }
        let asked_at = Instant::now();
        let (event, why) = if actor.presence.is_gone() {
            (Event::Gone, None)
        } else if asked_at < due {
            continue;
        } else {
            check(
                &actor,
                &mut late,
                Duration::from_millis(settings.timeout_ms),
            )
            .await
        };
        let (next, change) = standing.after(event, began.elapsed(), &rules);
        standing = next;
        due = asked_at + until_next(&standing, &settings);
        let told = change.map(|change| (change.to, change.cause));
        conclude(&node, &actor, told, why.as_deref());
    }
}

/// Asks once. What is still not answered is waited for the next time.
async fn check(
    actor: &Arc<DiskActor>,
    late: &mut Option<Check>,
    within: Duration,
) -> (Event, Option<String>) {
    let mut read = late.take().unwrap_or_else(|| {
        let actor = Arc::clone(actor);
        Box::pin(async move { actor.read_superblock().await })
    });
    match tokio::time::timeout(within, &mut read).await {
        Ok(Ok(())) => (Event::Hit, None),
        Ok(Err(why)) => (Event::Miss, Some(why)),
        Err(_still_waiting) => {
            *late = Some(read);
            let why = format!("no answer within {} ms", within.as_millis());
            (Event::Miss, Some(why))
        }
    }
}

/// A disk that is Offline is asked less and less often.
fn until_next(standing: &Standing, settings: &Health) -> Duration {
    let rounds = match standing.state() {
        DiskState::Offline => standing.misses().saturating_sub(settings.suspect_after),
        _ => 0,
    };
    if rounds == 0 {
        return Duration::from_millis(settings.interval_ms);
    }
    settings
        .backoff(settings.interval_ms)
        .wait(rounds, backoff::random())
}

fn conclude(
    node: &Arc<Node>,
    actor: &Arc<DiskActor>,
    change: Option<(DiskState, Cause)>,
    why: Option<&str>,
) {
    let uuid = actor.uuid;
    if let Some((to, cause)) = change {
        {
            let mut disks = node.disks();
            let entry = disks.iter_mut().find(|entry| {
                let used = entry.actor.as_ref();
                used.is_some_and(|used| Arc::ptr_eq(used, actor))
            });
            let Some(entry) = entry else { return };
            let error = trouble(&entry.name(), to, cause, why);
            entry.set_state(to, error, &cause.to_string());
        }
        node.refresh_replicas(uuid);
        node.metrics.disk_changed(uuid, to);
        if cause == Cause::Gone {
            let node = Arc::clone(node);
            tokio::spawn(async move { went::disk_went(&node, uuid).await });
        }
    }
    node.refresh_disk(uuid);
    node.refresh_space(uuid);
}

/// What is wrong with a disk that is not Online.
fn trouble(name: &str, to: DiskState, cause: Cause, why: Option<&str>) -> Option<ApiError> {
    let why = why.map_or(String::new(), |why| format!(": {why}"));
    let remedy = match (to, cause) {
        (DiskState::Online, _) => return None,
        (_, Cause::Gone) => {
            "plug it in again, under whatever name; for one that is lost, see `bedplate disk forget` and docs/operations.md"
        }
        (DiskState::Offline, _) => {
            "it comes back by itself when it answers; look for its errors in the kernel's log (`dmesg`); docs/operations.md says what else"
        }
        _ => "it comes back by itself; look for errors of the disk in the kernel's log (`dmesg`)",
    };
    Some(
        ApiError::new(ErrorKind::Io, format!("{cause}{why}"))
            .disk(name)
            .remedy(remedy),
    )
}

impl Node {
    /// The disks in use.
    fn disk_actors(&self) -> Vec<Arc<DiskActor>> {
        self.disks()
            .iter()
            .filter_map(|entry| entry.actor.clone())
            .collect()
    }

    fn is_used(&self, actor: &Arc<DiskActor>) -> bool {
        self.disks().iter().any(|entry| {
            let used = entry.actor.as_ref();
            used.is_some_and(|used| Arc::ptr_eq(used, actor))
        })
    }

    /// Tells of a disk that takes no more changes.
    pub fn refresh_disk(&self, disk: Uuid) {
        let latched = {
            let disks = self.disks();
            let mut all = disks.iter();
            let entry = all.find(|entry| entry.uuid == Some(disk) && entry.is_there());
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
                "images are still served; check the disk, then restart the daemon to open it again (docs/operations.md)",
            )
        });
        self.set_problem(&format!("latched:{disk}"), problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_offline_is_asked_less_and_less_and_any_other_one_steadily() {
        let settings = Health::default();
        let interval = Duration::from_millis(settings.interval_ms);
        let rules = settings.rules();
        let mut standing = Standing::online();
        for at in 0..settings.suspect_after {
            standing = standing.after(Event::Miss, interval * at, &rules).0;
            assert_eq!(until_next(&standing, &settings), interval);
        }
        for _ in 0..20 {
            standing = standing.after(Event::Miss, rules.grace * 2, &rules).0;
        }
        assert_eq!(standing.state(), DiskState::Offline);
        let most = Duration::from_millis(settings.retry_max_ms);
        let wait = until_next(&standing, &settings);
        assert!(
            wait >= most.mul_f64(0.75) && wait <= most.mul_f64(1.25),
            "{wait:?}"
        );
        // The first answer, and it is asked at its usual pace.
        standing = standing.after(Event::Hit, rules.grace * 3, &rules).0;
        assert_eq!(until_next(&standing, &settings), interval);
    }

    #[test]
    fn what_is_wrong_names_the_disk_its_cause_and_what_to_do() {
        let error = trouble("/dev/x", DiskState::Offline, Cause::Gone, None).unwrap();
        assert!(error.message.contains("unplugged"), "{error}");
        assert_eq!(error.disk.as_deref(), Some("/dev/x"));
        assert!(error.remedy.unwrap().contains("plug it in again"));
        let error = trouble(
            "/dev/x",
            DiskState::Suspect,
            Cause::Misses(2),
            Some("no answer within 5 ms"),
        );
        assert_eq!(
            error.unwrap().message,
            "2 health checks failed in a row: no answer within 5 ms"
        );
        assert_eq!(
            trouble("/dev/x", DiskState::Online, Cause::Hits(2), None),
            None
        );
    }
}
