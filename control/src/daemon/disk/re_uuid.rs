//! `disk re-uuid`: a copy of a disk becomes a disk of its own.
//!
//! Only a disk that nothing is open on: one that is refused since another one has its identity, one that is not known yet, or one that is an
//! old copy of itself, of which nothing is served. Never one that may be the disk itself, which is in use and does not answer, or went while it
//! was. Cut short at any point it is the disk that it was, the new one, or refused until this
//! is done again (see `bedplate_datapath::store::re_uuid`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bedplate_datapath::discover::{self, Refusal};
use bedplate_datapath::engine::{DiskFile, DiskIdentity};
use bedplate_datapath::format::superblock::ChoiceError;
use bedplate_datapath::store::{self, NewIdentity, SessionStart};
use uuid::Uuid;

use super::claim::{claim, medium_of};
use super::in_change::InChange;
use super::online::{CHANGE_FOR_USER, CLAIM_FOR_USER, LOOK_AGAIN, absolute, adopt, same_file};
use super::owner::Owner;
use super::{entry::DiskEntry, remove};
use crate::api::{ApiError, Disk, DiskState};
use crate::daemon::blocking::blocking;
use crate::daemon::node::Node;
use crate::daemon::{errors, replica};
use crate::error_kind::ErrorKind;

/// Gives the disk at `path`, and all that is on it, identities of its own, and brings it Online.
///
/// # Errors
/// `Busy` while somebody uses it; `ForeignNode` while it is another node's; `NotFound`, `NotBedplate`, ... as for any disk that cannot be
/// opened; `Held` where objects on it cannot be read; `Io` when it failed on the way, and then doing it again finishes it.
pub async fn re_uuid(node: &Arc<Node>, path: &str) -> Result<Disk, ApiError> {
    node.require_running()?;
    let path = absolute(path)?;
    refuse_other_ways(node, &path).await?;
    let (change, was_known) = begin(node, &path).await?;
    let (on_disk, owner, boot_id) = (
        path.clone(),
        Owner::of(node.config.node_id.as_deref()),
        node.boot_id,
    );
    let written = blocking(move || write(&on_disk, &owner, boot_id))
        .await
        .and_then(|written| written);
    end(node, change, &path, was_known, written.as_ref().err());
    let identity = written?;
    tracing::info!(disk = %path.display(), uuid = %identity, "got an identity of its own");
    // Nobody owns it yet.
    let added = adopt(node, &path.display().to_string()).await;
    // Its original is alone with its identity now.
    node.block_devices_changed();
    added
}

/// Refuses what is no disk of ours, and a path that leads to a disk that is there by another path as well: its copy and itself would be one.
async fn refuse_other_ways(node: &Arc<Node>, path: &Path) -> Result<(), ApiError> {
    let mut paths = vec![path.to_owned()];
    let mut open: Vec<PathBuf> = Vec::new();
    for entry in node.disks().iter().filter(|entry| entry.path != path) {
        paths.push(entry.path.clone());
        open.extend(entry.actor.is_some().then(|| entry.path.clone()));
    }
    let users = users_of(node);
    let all = node.config.discovery.all_block_devices;
    let asked = path.to_owned();
    blocking(move || {
        let scan = discover::scan_within(&paths, all, discover::PROBE_TIMEOUT);
        let name = asked.display().to_string();
        let refused = scan.refused.iter().find(|refused| refused.path == asked);
        if let Some(refused) = refused
            && !was_cut_short(&refused.why)
        {
            return Err(errors::of_refusal(&name, &refused.why));
        }
        let is_asked = |path: &PathBuf| same_file(path, &asked);
        let found = scan.found.iter().find(|found| found.paths().any(is_asked));
        let used = found.and_then(|found| {
            let mut ways = found.paths();
            ways.find(|way| !is_asked(way) && open.iter().any(|open| same_file(open, way)))
        });
        if let Some(used) = used {
            return Err(in_use(&name, used));
        }
        let copies = scan
            .duplicates
            .iter()
            .find(|copies| copies.paths.iter().any(is_asked));
        let others: Vec<&PathBuf> = copies
            .iter()
            .flat_map(|copies| &copies.paths)
            .filter(|other| !is_asked(other))
            .collect();
        for other in &others {
            refuse_same_hardware(&asked, other)?;
        }
        let uuid = copies
            .map(|copies| copies.disk_uuid)
            .or_else(|| found.map(discover::Found::disk_uuid));
        let mut same_uuid = users.iter().filter(|user| Some(user.uuid) == uuid);
        same_uuid.try_for_each(|user| user.refuse_itself(&asked, &others))
    })
    .await?
}

/// A disk that this daemon has in use, or had when it went.
struct User {
    uuid: Uuid,
    path: PathBuf,
    hardware_id: Option<String>,
    /// As which it is open.
    identity: Option<DiskIdentity>,
}

fn users_of(node: &Node) -> Vec<User> {
    let left = node.away.left();
    let disks = node.disks();
    let users = disks.iter().filter_map(|entry| {
        let uuid = entry.uuid?;
        let identity = entry.actor.as_ref().map(|actor| actor.presence.identity());
        let is_user = identity.is_some() || left.iter().any(|left| left.disk == uuid);
        is_user.then(|| User {
            uuid,
            path: entry.path.clone(),
            hardware_id: entry.hardware_id.clone(),
            identity,
        })
    });
    users.collect()
}

impl User {
    /// Refuses the disk at `asked`, which has the same UUID, unless it is known to be another one: by its hardware, or since this one answers
    /// too, among `others`.
    fn refuse_itself(&self, asked: &Path, others: &[&PathBuf]) -> Result<(), ApiError> {
        if let Some(open) = self.identity {
            // What is open there by this very path is told of where it is begun.
            if identity_at(asked) == Some(open) {
                return Ok(());
            }
            let answers = identity_at(&self.path) == Some(open)
                && others.iter().any(|other| same_file(other, &self.path));
            if answers {
                return Ok(());
            }
        }
        if !self.may_be(hardware_id(asked).as_deref()) {
            return Ok(());
        }
        let name = asked.display().to_string();
        let (uuid, used) = (self.uuid, self.path.display());
        let message = format!(
            "the disk {name} may be the one ({uuid}) that this daemon has in use as {used}, and that does not answer there"
        );
        Err(ApiError::new(ErrorKind::Busy, message)
            .disk(name.clone())
            .remedy(format!(
                "if it is that disk: `bedplate disk add {name}`; if it is a copy: try again when the other one is back, or after a restart of \
                 the daemon: `systemctl restart bedplated`"
            )))
    }

    /// Whether this hardware may be it.
    fn may_be(&self, hardware_id: Option<&str>) -> bool {
        match (self.hardware_id.as_deref(), hardware_id) {
            (Some(was), Some(now)) => was == now,
            _ => true,
        }
    }
}

fn identity_at(path: &Path) -> Option<DiskIdentity> {
    DiskIdentity::of(&std::fs::metadata(path).ok()?)
}

fn hardware_id(path: &Path) -> Option<String> {
    let disk = DiskFile::open_read_only(path).ok()?;
    disk.hardware_id().map(str::to_owned)
}

fn was_cut_short(why: &Refusal) -> bool {
    matches!(why, Refusal::Superblock(ChoiceError::Conflict { a_uuid, b_uuid, .. }) if a_uuid != b_uuid)
}

/// Two devices with one UUID and one WWID are two paths to one disk, and no copies.
fn refuse_same_hardware(asked: &Path, other: &Path) -> Result<(), ApiError> {
    let (Some(one), Some(two)) = (hardware_id(asked), hardware_id(other)) else {
        return Ok(());
    };
    if one != two {
        return Ok(());
    }
    let (asked, other) = (asked.display().to_string(), other.display());
    let message =
        format!("{asked} and {other} are two paths to one disk: both say that they are {one}");
    Err(ApiError::new(ErrorKind::Busy, message)
        .disk(asked)
        .remedy("it is no copy: set up multipath (`multipathd`), or take one of the paths away"))
}

fn in_use(name: &str, used: &Path) -> ApiError {
    let used = used.display();
    ApiError::new(
        ErrorKind::Busy,
        format!("the disk {name} is in use by this daemon, as {used}"),
    )
    .disk(name)
    .remedy(format!(
        "name the copy, and not the disk that is in use; if this one is to get another identity: `bedplate disk remove {used} --force` \
         first, which changes nothing on it"
    ))
}

/// What there is at a path now.
enum There {
    /// Nothing that is open.
    Free(InChange),
    /// Somebody opens or closes it.
    InChange,
    /// Open, by this path.
    Open { uuid: Option<Uuid>, path: PathBuf },
}

/// Marks the disk as being changed, so that discovery keeps away. Answers also whether there was an entry of it. One that is an old copy of
/// itself is open and serves nothing: it is closed for this.
async fn begin(node: &Arc<Node>, path: &Path) -> Result<(InChange, bool), ApiError> {
    let deadline = Instant::now() + CHANGE_FOR_USER;
    let was_known = node.disks().iter().any(|entry| entry.path == path);
    loop {
        match there(node, path) {
            There::Free(change) => return Ok((change, was_known)),
            There::InChange if Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            There::InChange => {
                return Err(super::online::in_change(&path.display().to_string()));
            }
            There::Open { uuid, path: used } => {
                let stale = uuid.filter(|uuid| {
                    let catalogue = node.catalogue();
                    catalogue.stale.iter().any(|stale| stale.disk == *uuid)
                });
                let Some(uuid) = stale else {
                    return Err(in_use(&path.display().to_string(), &used));
                };
                return Ok((close_stale(node, uuid, &used).await?, true));
            }
        }
    }
}

fn there(node: &Arc<Node>, path: &Path) -> There {
    let mut disks = node.disks();
    let user = disks
        .iter()
        .filter(|entry| entry.actor.is_some() || entry.in_change)
        .find(|entry| same_file(&entry.path, path));
    match user {
        Some(entry) if entry.in_change => There::InChange,
        Some(entry) => There::Open {
            uuid: entry.uuid,
            path: entry.path.clone(),
        },
        None => There::Free(InChange::begin(node, &mut disks, path)),
    }
}

async fn close_stale(node: &Arc<Node>, uuid: Uuid, path: &Path) -> Result<InChange, ApiError> {
    replica::stop_all_on(node, uuid).await;
    let leaving = replica::sets::disk_left(node, uuid).await?;
    let closed = remove::close(node, &path.display().to_string()).await;
    drop(leaving);
    let closed = closed?;
    if let Some(entry) = node
        .disks()
        .iter_mut()
        .find(|entry| entry.path == closed.path)
    {
        let cause = "closed, to get an identity of its own";
        entry.set_state(DiskState::Offline, None, cause);
    }
    Ok(closed.change)
}

/// Ends the change. Of a disk with another identity nothing holds that was known of its path; one that failed on the way says so.
fn end(node: &Node, change: InChange, path: &Path, was_known: bool, failed: Option<&ApiError>) {
    let mut disks = node.disks();
    let Some(entry) = change.end(&mut disks) else {
        return;
    };
    let at = entry.path.clone();
    let problem = match failed {
        Some(error) if error.kind == ErrorKind::Io => {
            entry.set_state(DiskState::Offline, Some(error.clone()), "");
            Some(error.clone())
        }
        // Nothing was written: what was known of it holds.
        Some(_) if was_known => return,
        _ => {
            let is_other = |entry: &DiskEntry| entry.path != at && entry.path != path;
            disks.retain(is_other);
            None
        }
    };
    drop(disks);
    node.set_problem(&format!("disk:{}", at.display()), problem);
    node.notify();
}

/// Claims the disk and writes the new identity; answers with it.
fn write(path: &Path, owner: &Owner, boot_id: Uuid) -> Result<Uuid, ApiError> {
    let name = path.display().to_string();
    owner.refuse(path)?;
    let disk = claim(path, Instant::now() + CLAIM_FOR_USER)?;
    let start = SessionStart {
        boot_id,
        diskseq: disk.diskseq(),
    };
    let new = NewIdentity {
        disk_uuid: Uuid::new_v4(),
        hardware_id_hash: disk.hardware_id_hash(),
    };
    let mut medium = medium_of(disk, &name)?;
    store::re_uuid(&mut medium, &start, &new, &mut Uuid::new_v4)
        .map_err(|error| errors::of_re_uuid(&name, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::test_node::TestNode;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_may_be_a_disk_in_use_that_does_not_answer_keeps_its_identity() {
        for was_let_go_of in [false, true] {
            let node = TestNode::new();
            let disk = node.make_disk("disk").await;
            let found = node.path("found");
            if was_let_go_of {
                node.unplug_and_find(disk, &found).await;
            } else {
                std::fs::copy(node.path("disk"), &found).unwrap();
                std::fs::remove_file(node.path("disk")).unwrap();
            }
            let before = std::fs::read(&found).unwrap();
            let error = re_uuid(&node, &node.text("found")).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Busy, "{error}");
            assert!(error.message.contains("may be the one"), "{error}");
            assert!(before == std::fs::read(&found).unwrap());
        }
    }

    #[test]
    fn a_copy_is_known_by_its_hardware() {
        let user = |hardware_id: Option<&str>| User {
            uuid: Uuid::new_v4(),
            path: PathBuf::from("/dev/none"),
            hardware_id: hardware_id.map(str::to_owned),
            identity: None,
        };
        let now = Some("b".to_owned());
        for (was, is_refused) in [(Some("a"), false), (Some("b"), true), (None, true)] {
            assert_eq!(user(was).may_be(now.as_deref()), is_refused, "{was:?}");
        }
        assert!(user(Some("a")).may_be(None));
    }
}
