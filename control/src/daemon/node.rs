//! Everything that the daemon knows, shared by the API, the jobs and the supervision.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use super::away::Away;
use super::disk::actor::DiskActor;
use super::disk::entry::DiskEntry;
use super::disk::online::in_change;
use super::errors;
use super::hint_file::Unsaved;
use super::jobs::Jobs;
use super::metrics::Counters;
use super::object::runtime::ObjectTable;
use super::replica::Replicas;
use super::scrub::{DamageTable, ScrubMemory};
use super::seen_paths::SeenPaths;
use super::serving::Serving;
use crate::api::{ApiError, DiskState};
use crate::config::Config;
use crate::error_kind::ErrorKind;

/// The daemon's state. Each lock is held for a moment only, never over a wait.
pub struct Node {
    /// Settings.
    pub config: Config,
    /// Of the running kernel.
    pub boot_id: Uuid,
    /// When the daemon started, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Long work.
    pub jobs: Jobs,
    /// Devices.
    pub serving: Serving,
    /// What is counted.
    pub metrics: Counters,
    /// Devices that wait for a disk that has gone.
    pub away: Away,
    /// Copies of images, and who looks after them.
    pub replicas: Replicas,
    /// Imports that may copy now.
    pub import_turns: Semaphore,
    disks: Mutex<Vec<DiskEntry>>,
    runtimes: Mutex<ObjectTable>,
    seen: Mutex<SeenPaths>,
    problems: Mutex<HashMap<String, ApiError>>,
    changed: watch::Sender<u64>,
    block_devices: watch::Sender<u64>,
    pub(super) damage_table: Mutex<DamageTable>,
    pub(super) scrub_memory: Mutex<ScrubMemory>,
    stopping: watch::Sender<bool>,
    no_attach: AtomicBool,
}

impl Node {
    /// A node that knows no disk yet.
    pub fn new(config: Config, boot_id: Uuid, serving: Serving) -> Arc<Self> {
        let seen = SeenPaths::load(&config.state_dir);
        Arc::new(Self {
            boot_id,
            started_unix_ms: super::history::unix_ms(),
            jobs: Jobs::new(config.jobs_remembered),
            serving,
            metrics: Counters::default(),
            away: Away::default(),
            replicas: Replicas::new(&config.rebuild),
            import_turns: Semaphore::new(config.import.at_once),
            disks: Mutex::default(),
            runtimes: Mutex::default(),
            seen: Mutex::new(seen),
            problems: Mutex::default(),
            changed: watch::Sender::new(0),
            block_devices: watch::Sender::new(0),
            damage_table: Mutex::default(),
            scrub_memory: Mutex::new(ScrubMemory::load(&config.state_dir)),
            stopping: watch::Sender::new(false),
            no_attach: AtomicBool::new(false),
            config,
        })
    }

    /// The known disks.
    pub fn disks(&self) -> MutexGuard<'_, Vec<DiskEntry>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the daemon does with images and volumes. Locked after `disks` where both are needed.
    pub fn runtimes(&self) -> MutexGuard<'_, ObjectTable> {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where disks were seen.
    pub fn seen(&self) -> MutexGuard<'_, SeenPaths> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is remembered of disks. Not to be called with a lock held: it waits for the state directory's disk.
    pub fn change_seen(&self, change: impl FnOnce(&mut SeenPaths) -> Option<Unsaved>) {
        let unsaved = change(&mut self.seen());
        if let Some(unsaved) = unsaved {
            unsaved.save();
        }
    }

    /// Tells those who wait for a state that one changed.
    pub fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Sees every later [`Self::notify`].
    pub fn watch_changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A block device of this machine came or went.
    pub fn block_devices_changed(&self) {
        self.block_devices.send_modify(|count| *count += 1);
    }

    /// Sees every later [`Self::block_devices_changed`].
    pub fn watch_block_devices(&self) -> watch::Receiver<u64> {
        self.block_devices.subscribe()
    }

    /// The daemon goes down: no new work.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Whether the daemon goes down.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// The node goes down: what has no device gets none any more.
    pub fn stop_attaching(&self) {
        self.no_attach.store(true, Ordering::Relaxed);
    }

    /// Whether devices may be made.
    ///
    /// # Errors
    /// `ShuttingDown`.
    pub fn require_attaching(&self) -> Result<(), ApiError> {
        self.require_running()?;
        if self.no_attach.load(Ordering::Relaxed) {
            return Err(ApiError::new(
                ErrorKind::ShuttingDown,
                "the node is going down, and all devices were removed",
            )
            .remedy("restart the daemon if it is not: `systemctl restart bedplated`"));
        }
        Ok(())
    }

    /// Returns once the daemon goes down.
    pub async fn stopped(&self) {
        // The sender lives in `self`, so the channel cannot close.
        let _ = self.stopping.subscribe().wait_for(|stop| *stop).await;
    }

    /// Refuses new work while the daemon goes down.
    ///
    /// # Errors
    /// `ShuttingDown`.
    pub fn require_running(&self) -> Result<(), ApiError> {
        if self.is_stopping() {
            return Err(ApiError::new(
                ErrorKind::ShuttingDown,
                "the daemon is going down and takes no new work",
            )
            .remedy("try again when it is back"));
        }
        Ok(())
    }

    /// Notes what somebody should look at, under a key, or that it is over. Logged when it is news.
    pub fn set_problem(&self, key: &str, problem: Option<ApiError>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => {
                if problems.get(key) != Some(&problem) {
                    tracing::warn!("{problem}");
                    problems.insert(key.to_owned(), problem);
                }
            }
            None => {
                if let Some(over) = problems.remove(key) {
                    tracing::info!("over: {over}");
                }
            }
        }
    }

    /// The keys of problems that begin with `prefix`.
    pub fn problem_keys(&self, prefix: &str) -> Vec<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems
            .keys()
            .filter(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// What somebody should look at.
    pub fn problems(&self) -> Vec<ApiError> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<(&String, &ApiError)> = problems.iter().collect();
        list.sort_by_key(|(key, _)| *key);
        list.into_iter()
            .map(|(_, problem)| problem.clone())
            .collect()
    }

    /// The actor of a disk that is in use.
    ///
    /// # Errors
    /// `DiskOffline`, with the reason that the disk has; `Busy` while it is being closed.
    pub fn actor(&self, disk: Uuid) -> Result<Arc<DiskActor>, ApiError> {
        let disks = self.disks();
        let entry = disks.iter().find(|entry| entry.uuid == Some(disk));
        let Some(entry) = entry else {
            return Err(ApiError::new(
                ErrorKind::DiskOffline,
                format!("the disk {disk} is not known any more"),
            )
            .disk(disk.to_string()));
        };
        if entry.in_change && entry.actor.is_some() {
            return Err(in_change(&entry.name()));
        }
        entry.actor.clone().ok_or_else(|| {
            let why = entry.state.why().unwrap_or("it was not found");
            ApiError::new(
                ErrorKind::DiskOffline,
                format!("the disk {} ({disk}) is not in use: {why}", entry.name()),
            )
            .disk(entry.name())
            .remedy("it comes back by itself when it is found; `bedplate disk show` says more")
        })
    }

    /// The disk that has most free space among those that can be written to, and that nobody wants empty. Never an old copy of a disk: what
    /// is put there is lost when the newer one is back. One that hands out no clusters now comes after all the others: it has the error that says why.
    ///
    /// # Errors
    /// `DiskOffline` when there is none.
    pub fn disk_with_most_space(&self) -> Result<Arc<DiskActor>, ApiError> {
        let stale = self.stale_disks();
        let disks = self.disks();
        let seen = self.seen();
        let is_taken = |entry: &&DiskEntry| {
            let uuid = entry.uuid;
            uuid.is_none_or(|uuid| !seen.is_draining(uuid) && !stale.contains(&uuid))
        };
        let writable = disks
            .iter()
            .filter(is_taken)
            .filter_map(DiskEntry::writable);
        writable
            .max_by_key(|actor| (actor.allocates(), actor.free_bytes()))
            .cloned()
            .ok_or_else(|| {
                let known = disks.len();
                ApiError::new(
                    ErrorKind::DiskOffline,
                    format!("no disk is Online and writable ({known} known)"),
                )
                .remedy("make one with `bedplate disk format PATH`, or see `bedplate disk list`")
            })
    }

    /// The number of disks in use.
    pub fn disks_online(&self) -> usize {
        self.disks()
            .iter()
            .filter(|entry| entry.state.get() == DiskState::Online)
            .count()
    }
}

/// The kernel's `boot_id`.
///
/// # Errors
/// When `/proc` does not tell.
pub fn boot_id() -> Result<Uuid, ApiError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).map_err(|error| {
        errors::of_io(
            "cannot read the kernel's boot id (/proc/sys/kernel/random/boot_id)",
            &error,
        )
    })?;
    text.trim()
        .parse()
        .map_err(|_| errors::internal("the kernel's boot id is no UUID"))
}
