//! Brings a disk into use: claim, checks, its thread, its place with the reactors, and then the devices of what is on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::discover;
use bedplate_datapath::engine::DiskIdentity;
use bedplate_datapath::store::PreviousSession;
use uuid::Uuid;

use super::actor::{DiskActor, Setup};
use super::entry::{DiskEntry, Retry};
use super::in_change::InChange;
use super::owner::Owner;
use super::reopen;
use super::way;
use crate::api::{ApiError, Disk, DiskState};
use crate::daemon::blocking::blocking;
use crate::daemon::node::Node;
use crate::daemon::object::recover;
use crate::error_kind::ErrorKind;

/// How long a command of a user waits for the claim on a disk.
pub const CLAIM_FOR_USER: Duration = Duration::from_secs(3);

/// How long a command of a user waits while somebody else, discovery most likely, opens or closes the same disk.
pub const CHANGE_FOR_USER: Duration = Duration::from_secs(30);
/// How often it is looked whether they are done.
pub const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Who changes a disk now.
enum Turn {
    /// The one who asked: its entry says that it is being changed.
    Ours(InChange),
    /// Nobody: it is open already.
    Open(Uuid),
    /// Somebody else.
    Theirs,
}

/// Opens the disk at `path` for a user, and remembers it.
///
/// # Errors
/// Why it cannot be used.
pub async fn add(node: &Arc<Node>, path: &str) -> Result<Disk, ApiError> {
    bring(node, path, false).await
}

/// The same, also for a disk that another node owned: it becomes this one's.
///
/// # Errors
/// Why it cannot be used.
pub async fn adopt(node: &Arc<Node>, path: &str) -> Result<Disk, ApiError> {
    bring(node, path, true).await
}

async fn bring(node: &Arc<Node>, path: &str, adopt: bool) -> Result<Disk, ApiError> {
    node.require_running()?;
    let path = absolute(path)?;
    let deadline = Instant::now() + CHANGE_FOR_USER;
    if let Some((disk, identity)) = node.refuse_copy(&path).await? {
        make_way(node, &path, (disk, identity), deadline).await?;
    }
    while node.is_in_change(&path) && Instant::now() < deadline {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let uuid = if adopt {
        node.adopt_online(&path).await?
    } else {
        node.bring_online(&path, CLAIM_FOR_USER).await?
    };
    // Whoever adds it wants it used.
    node.change_seen(|seen| seen.set_draining(uuid, false));
    let disks = node.disks();
    disks
        .iter()
        .find(|entry| entry.uuid == Some(uuid))
        .map(DiskEntry::view)
        .ok_or_else(|| {
            ApiError::new(ErrorKind::Busy, "the disk was removed while it was added")
                .disk(path.display().to_string())
        })
}

/// A disk that went while it was open, and is there again, is let go of first.
async fn make_way(
    node: &Arc<Node>,
    path: &Path,
    (disk, identity): (Uuid, DiskIdentity),
    deadline: Instant,
) -> Result<(), ApiError> {
    loop {
        match way::make(node, disk, identity, path).await {
            Err(error) if error.kind == ErrorKind::Busy && Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            made => return made.map(drop),
        }
    }
}

/// Whether two paths lead to the same file or device.
pub fn same_file(one: &Path, other: &Path) -> bool {
    one == other
        || one
            .canonicalize()
            .is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// A path that means the same to the daemon as to the user.
pub fn absolute(path: &str) -> Result<PathBuf, ApiError> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(
        ApiError::new(ErrorKind::BadRequest, "the path of a disk must be absolute")
            .disk(path.display().to_string()),
    )
}

impl Node {
    /// Refuses the disk at `path` if another disk has its identity. Before it is opened, since opening writes to it, and then the two
    /// could not be told apart by what is on them any more. Answers with what is there, if that is a disk; opening it tells why not.
    async fn refuse_copy(&self, path: &Path) -> Result<Option<(Uuid, DiskIdentity)>, ApiError> {
        let mut paths = vec![path.to_owned()];
        paths.extend(
            self.disks()
                .iter()
                .filter(|entry| entry.actor.is_some() && entry.path != path)
                .map(|entry| entry.path.clone()),
        );
        let all = self.config.discovery.all_block_devices;
        let scan =
            blocking(move || discover::scan_within(&paths, all, discover::PROBE_TIMEOUT)).await?;
        let copies = scan
            .duplicates
            .iter()
            .find(|copies| copies.paths.iter().any(|copy| same_file(copy, path)));
        let Some(copies) = copies else {
            let is_asked = |way: &PathBuf| same_file(way, path);
            let found = scan.found.iter().find(|found| found.paths().any(is_asked));
            return Ok(found.map(|found| (found.disk_uuid(), found.identity)));
        };
        let disks = self.disks();
        let used = disks
            .iter()
            .find(|entry| entry.actor.is_some() && entry.uuid == Some(copies.disk_uuid));
        Err(match used {
            Some(used) => duplicate_of_used(copies.disk_uuid, &used.path, path),
            None => duplicate(copies.disk_uuid, &copies.paths),
        })
    }

    /// Opens the disk at `path`; one that is open there already stays as it is. Answers with its identity.
    ///
    /// # Errors
    /// Why it cannot be used; its entry tells the same from then on.
    pub async fn bring_online(
        self: &Arc<Self>,
        path: &Path,
        claim_within: Duration,
    ) -> Result<Uuid, ApiError> {
        let change = match self.begin_change(path) {
            Turn::Ours(change) => change,
            Turn::Open(uuid) => return Ok(uuid),
            Turn::Theirs => return Err(in_change(&path.display().to_string())),
        };
        let owner = Owner::of(self.config.node_id.as_deref());
        self.open_as(path, claim_within, owner, change).await
    }

    /// The same for a disk of another node, which becomes this one's.
    ///
    /// # Errors
    /// As [`Self::bring_online`].
    pub async fn adopt_online(self: &Arc<Self>, path: &Path) -> Result<Uuid, ApiError> {
        let change = match self.begin_change(path) {
            Turn::Ours(change) => change,
            Turn::Open(uuid) => return Ok(uuid),
            Turn::Theirs => return Err(in_change(&path.display().to_string())),
        };
        let owner = Owner::of(self.config.node_id.as_deref()).adopting();
        self.open_as(path, CLAIM_FOR_USER, owner, change).await
    }

    async fn open_as(
        self: &Arc<Self>,
        path: &Path,
        claim_within: Duration,
        owner: Owner,
        change: InChange,
    ) -> Result<Uuid, ApiError> {
        let deadline = Instant::now() + claim_within;
        let opened = DiskActor::open(path, deadline, self.setup(path, owner)).await;
        match opened {
            Ok(actor) => self.take_into_use(path, Arc::new(actor), change).await,
            Err(error) => {
                let mut disks = self.disks();
                if let Some(entry) = change.end(&mut disks) {
                    let state = if error.kind == ErrorKind::NotFound {
                        DiskState::Absent
                    } else {
                        DiskState::Offline
                    };
                    entry.set_state(state, Some(error.clone()), "");
                }
                Err(error)
            }
        }
    }

    /// What a disk's thread needs of the daemon.
    fn setup(self: &Arc<Self>, path: &Path, owner: Owner) -> Setup {
        let (graceful, full) = (Arc::downgrade(self), Arc::downgrade(self));
        let (asked, path) = (Arc::downgrade(self), path.to_owned());
        Setup {
            boot_id: self.boot_id,
            live_dir: self.config.run_dir.join("live"),
            keeps_cache: self.config.health.returned_disk_keeps_cache,
            left: self.away.left(),
            owner,
            refused: Box::new(move |disk| match asked.upgrade() {
                Some(node) => node.refuse_used(disk, &path),
                None => Ok(()),
            }),
            after_grace: Box::new(move |then| match graceful.upgrade() {
                Some(node) => node.serving.after_grace(then),
                // The daemon has ended: nothing is handed out any more.
                None => drop(then),
            }),
            space_changed: Box::new(move |disk| {
                if let Some(node) = full.upgrade() {
                    node.refresh_space(disk);
                }
            }),
        }
    }

    /// Marks the entry of `path` as being opened, unless somebody else is at it, by whatever name of the same disk.
    fn begin_change(self: &Arc<Self>, path: &Path) -> Turn {
        let mut disks = self.disks();
        let same = disks.iter().find(|entry| {
            (entry.in_change || entry.actor.is_some()) && same_file(&entry.path, path)
        });
        if let Some(entry) = same {
            return match entry.uuid {
                Some(uuid) if !entry.in_change => Turn::Open(uuid),
                _ => Turn::Theirs,
            };
        }
        let change = InChange::begin(self, &mut disks, path);
        let entry = entry_of(&mut disks, path);
        // A disk that is tried again and again does not change its state each time.
        if entry.state.get() == DiskState::Absent {
            entry.set_state(DiskState::Opening, None, "found");
        }
        Turn::Ours(change)
    }

    /// Whether somebody opens, closes or formats the disk at `path` now.
    fn is_in_change(&self, path: &Path) -> bool {
        self.disks()
            .iter()
            .any(|entry| entry.in_change && same_file(&entry.path, path))
    }

    async fn take_into_use(
        self: &Arc<Self>,
        path: &Path,
        actor: Arc<DiskActor>,
        change: InChange,
    ) -> Result<Uuid, ApiError> {
        let uuid = actor.uuid;
        // Of one that was unplugged under devices that read from it, wherever it was seen last.
        let place = self
            .disks()
            .iter()
            .filter(|entry| entry.path == path || entry.uuid == Some(uuid))
            .find_map(|entry| entry.slot);
        if let Err(error) = self.refuse_duplicate(path, &actor) {
            if let Err(error) = actor.close().await {
                tracing::warn!("closing a duplicate disk: {error}");
            }
            if let Some(entry) = change.end(&mut self.disks()) {
                entry.set_state(DiskState::Offline, Some(error.clone()), "");
            }
            return Err(error);
        }
        for repair in &actor.report.repairs {
            tracing::warn!(disk = %actor.name(), "repaired: {repair}");
        }
        for held in &actor.report.held {
            tracing::error!(disk = %actor.name(), object = held.name, "not served: {}", held.why);
        }
        for lost in &actor.report.lost {
            tracing::error!(disk = %actor.name(), volume = lost.name, "held, since writes that were acknowledged may be missing: {}", lost.why);
        }
        if !actor.report.adopted.is_empty() {
            tracing::info!(disk = %actor.name(), volumes = actor.report.adopted.len(), "took over live state of the daemon before");
        }
        let cause = format!(
            "opened at {}, {}, {} objects",
            path.display(),
            match actor.report.previous {
                PreviousSession::First => "for the first time",
                PreviousSession::Clean => "closed in order before",
                PreviousSession::CrashSameBoot => "after a crash of the daemon",
                PreviousSession::CrashOtherBoot => "after a crash of the node",
            },
            actor.contents().objects.len(),
        );
        let lost = actor.report.lost.clone();
        let place = match place {
            Some(place) => reopen::take_place(self, &actor, place).await,
            None => None,
        };
        {
            let mut disks = self.disks();
            if let Some(entry) = change.end(&mut disks) {
                entry.uuid = Some(uuid);
                entry.contents = actor.contents();
                entry.hardware_id.clone_from(&actor.hardware_id);
                entry.actor = Some(actor);
                entry.slot = place;
                entry.retry = Retry::default();
                entry.set_state(DiskState::Online, None, &cause);
            }
        }
        self.away.returned(uuid);
        self.metrics.disk_changed(uuid, DiskState::Online);
        self.set_problem(&format!("disk:{}", path.display()), None);
        self.change_seen(|seen| seen.remember(uuid, path));
        self.refresh_replicas(uuid);
        self.refresh_space(uuid);
        recover::disk_came(self, uuid, &lost);
        Ok(uuid)
    }

    /// Refuses to open at `path` a disk that is in use by another path, or is being opened there: opening writes to it. Whoever looked for
    /// it may have found it before that.
    fn refuse_used(&self, disk: Uuid, path: &Path) -> Result<(), ApiError> {
        let disks = self.disks();
        let used = disks.iter().find(|entry| {
            let is_used = entry.actor.is_some() || entry.in_change;
            entry.uuid == Some(disk) && entry.path != path && is_used
        });
        used.map_or(Ok(()), |used| {
            Err(duplicate_of_used(disk, &used.path, path))
        })
    }

    /// One entry for each identity: an older one of a disk that was elsewhere goes; one that is in use refuses the newcomer.
    fn refuse_duplicate(&self, path: &Path, actor: &DiskActor) -> Result<(), ApiError> {
        let mut disks = self.disks();
        let other = disks
            .iter()
            .find(|entry| entry.uuid == Some(actor.uuid) && entry.actor.is_some());
        let Some(other) = other else {
            disks.retain(|entry| entry.path == path || entry.uuid != Some(actor.uuid));
            return Ok(());
        };
        Err(duplicate_of_used(actor.uuid, &other.path, path))
    }
}

/// The entry of `path`, made if there is none.
pub fn entry_of<'a>(disks: &'a mut Vec<DiskEntry>, path: &Path) -> &'a mut DiskEntry {
    let at = disks
        .iter()
        .position(|entry| entry.path == path)
        .unwrap_or_else(|| {
            disks.push(DiskEntry::absent(path.to_owned(), None));
            disks.len() - 1
        });
    &mut disks[at]
}

/// The error of a disk that somebody else is at.
pub fn in_change(name: &str) -> ApiError {
    ApiError::new(
        ErrorKind::Busy,
        format!("the disk {name} is being opened, closed or formatted"),
    )
    .disk(name.to_owned())
    .remedy("try again in a moment")
}

/// The error of disks that cannot be told apart.
pub fn duplicate(uuid: Uuid, paths: &[PathBuf]) -> ApiError {
    let names: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    ApiError::new(
        ErrorKind::DuplicateDisk,
        format!(
            "the disks at {} have the same identity {uuid}: one is a copy of the other",
            names.join(" and ")
        ),
    )
    .disk(names.last().cloned().unwrap_or_default())
    .remedy("take the copy away, or give it an identity of its own: `bedplate disk re-uuid PATH`")
}

/// The same where the disk at `used` is in use: which of the two is the copy is not for a command that destroys to guess.
pub fn duplicate_of_used(uuid: Uuid, used: &Path, other: &Path) -> ApiError {
    duplicate(uuid, &[used.to_owned(), other.to_owned()])
        .remedy(format!(
            "the first one is in use; if the other one is a copy, take it away, or give it an identity of its own: `bedplate disk re-uuid {}`",
            other.display()
        ))
}

/// The error of a disk that is in use as `used`, does not answer there, and was found at `now` as well: two paths to one disk, perhaps.
pub fn silent_and_elsewhere(uuid: Uuid, used: &Path, now: &Path) -> ApiError {
    let (used, now) = (used.display(), now.display());
    ApiError::new(
        ErrorKind::DiskOffline,
        format!("the disk {used} ({uuid}) does not answer, and is there as {now} too"),
    )
    .disk(now.to_string())
    .remedy("if it is to be used there, restart the daemon: `systemctl restart bedplated`; if it is a copy, take it away")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::test_node::TestNode;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_in_use_that_does_not_answer_at_its_path_is_not_written_to_by_another() {
        let node = TestNode::new();
        node.make_disk("disk").await;
        std::fs::copy(node.path("disk"), node.path("copy")).unwrap();
        std::fs::remove_file(node.path("disk")).unwrap();
        let before = std::fs::read(node.path("copy")).unwrap();
        // Asked for by a user; and by one who had not looked before.
        let copy = node.path("copy");
        let error = add(&node, &node.text("copy")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::DuplicateDisk, "{error}");
        let late = node.bring_online(&copy, CLAIM_FOR_USER).await;
        assert_eq!(late.unwrap_err().kind, ErrorKind::DuplicateDisk);
        let after = std::fs::read(&copy).unwrap();
        assert!(before == after, "something was written to it");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_that_went_is_let_go_of_when_it_is_added_where_it_is_now() {
        for now in ["elsewhere", "disk"] {
            let node = TestNode::new();
            let disk = node.make_disk("disk").await;
            let old = node.actor(disk).unwrap();
            node.unplug(disk, &node.path("elsewhere"));
            std::fs::rename(node.path("elsewhere"), node.path(now)).unwrap();
            let added = add(&node, &node.text(now)).await.unwrap();
            assert_eq!((added.uuid, added.state), (Some(disk), DiskState::Online));
            let new = node.actor(disk).unwrap();
            assert!(!Arc::ptr_eq(&old, &new) && new.path == node.path(now));
            assert_eq!(new.report.session, old.report.session + 1);
            assert!(node.away.left().is_empty());
        }
    }
}
