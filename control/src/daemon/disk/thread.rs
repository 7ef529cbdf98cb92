//! What a disk's thread does: it opens the disk, then does one thing after the other, and commits.
//!
//! Commits go before other work, and all that are asked for meanwhile share one. Other work keeps its order. Between two commits one
//! piece of other work gets its turn, so that neither can starve the other.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bedplate_datapath::engine::WriteCache;
use bedplate_datapath::store::{
    Foreknowledge, LeftDisk, Object, OpenReport, SessionStart, Store, StoreError, uuid_on,
};
use bedplate_datapath::units::CLUSTER_BYTES;
use bedplate_datapath::volume::Space;
use bedplate_ublk_target::Committed;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::actor::{Contents, DiskStore};
use super::claim::{claim, medium_of};
use super::gone::Presence;
use super::live;
use super::owner::Owner;
use crate::api::ApiError;
use crate::daemon::errors;
use crate::daemon::object::Noun;

/// How long what was written may stay undurable while nobody asks for a flush. An idle disk without
/// attached volumes is not looked at.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// Least time between two looks at how full the disk is, after commits.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Something to be run later.
pub type Later = Box<dyn FnOnce() + Send>;

/// What a disk's thread needs of the daemon.
pub struct Setup {
    /// Of the running kernel.
    pub boot_id: Uuid,
    /// Where live files are.
    pub live_dir: PathBuf,
    /// The operator's word: what a disk acknowledged before it went is on it when it is back.
    pub keeps_cache: bool,
    /// Disks that went while this daemon had them open.
    pub left: Vec<LeftDisk>,
    /// Whose disks this node uses, and whether those of others become its own.
    pub owner: Owner,
    /// Why the disk of this identity must not be opened, where it must not. Asked before anything is written to it.
    pub refused: Box<dyn Fn(Uuid) -> Result<(), ApiError> + Send>,
    /// Runs something once no request that is in flight now is left.
    pub after_grace: Box<dyn Fn(Later) + Send>,
    /// Space was taken or given back on this disk.
    pub space_changed: Box<dyn Fn(Uuid) + Send>,
}

/// What the thread can be told.
pub enum Command {
    /// To do something with the store.
    Work(Box<dyn FnOnce(&mut DiskStore) + Send>),
    /// To make durable what was acknowledged.
    Commit(Committed),
    /// To let go of a disk that is gone, as it is.
    Abandon(oneshot::Sender<()>),
    /// To end the session in order.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// What became known when the disk was opened.
pub struct Facts {
    pub uuid: Uuid,
    pub presence: Arc<Presence>,
    pub size_bytes: u64,
    pub usable_bytes: u64,
    pub dma_alignment: u32,
    pub hardware_id: Option<String>,
    pub report: OpenReport,
    pub claim: OwnedFd,
    pub space: Arc<Space>,
    pub not_live: Option<ApiError>,
}

/// The thread: opens the disk, then does what it is told until it is told to close, or nobody is left to tell.
pub fn run(
    path: &Path,
    deadline: Instant,
    setup: Setup,
    commands: &Receiver<Command>,
    contents: &Mutex<Arc<Contents>>,
    answer: oneshot::Sender<Result<Facts, ApiError>>,
) {
    let _guard = AbortOnPanic;
    let (store, facts) = match open(path, deadline, &setup) {
        Ok(opened) => opened,
        Err(error) => {
            let _ = answer.send(Err(error));
            return;
        }
    };
    publish(&store, contents);
    let presence = Arc::clone(&facts.presence);
    if answer.send(Ok(facts)).is_err() {
        // Nobody wants the disk any more; what follows closes it.
        tracing::debug!(disk = %path.display(), "opened for nobody");
    }
    let now = Instant::now();
    let thread = Thread {
        name: path.display().to_string(),
        presence,
        store,
        setup,
        contents,
        waiting: Waiting::default(),
        commit_at: now + COMMIT_EVERY,
        looked_at: now,
        failing: false,
        is_judged: false,
    };
    thread.serve(commands);
}

/// Devices whose disk's thread unwound would get `EIO` for each flush: the process ends instead, so that the kernel quiesces them, and
/// what was asked for waits for the next one. Where unanswered commits are held, one of these is dropped before they are.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn open(path: &Path, deadline: Instant, setup: &Setup) -> Result<(DiskStore, Facts), ApiError> {
    let name = path.display().to_string();
    setup.owner.refuse(path)?;
    let disk = claim(path, deadline)?;
    let claim = disk
        .try_clone_fd()
        .map_err(|error| errors::of_io("cannot duplicate a disk's descriptor", &error))?;
    let presence = Arc::new(Presence::of(disk.identity()));
    let (dma_alignment, diskseq) = (disk.dma_alignment(), disk.diskseq());
    let write_cache = disk.write_cache();
    let hardware_id = disk.hardware_id().map(str::to_owned);
    let mut medium = medium_of(disk, &name)?;
    let uuid = uuid_on(&mut medium).map_err(|error| errors::of_open(&name, &error))?;
    (setup.refused)(uuid)?;
    let (live, not_live) = live::open(&setup.live_dir).map_err(|error| error.disk(name.clone()))?;
    let start = SessionStart {
        boot_id: setup.boot_id,
        diskseq,
    };
    let known = Foreknowledge {
        keeps_cache: setup.keeps_cache || write_cache == WriteCache::WriteThrough,
        left: setup.left.clone(),
    };
    let goes = || presence.goes();
    let (mut store, report) = Store::open_watched(medium, &start, live, &known, &goes)
        .map_err(|error| errors::of_open(&name, &error))?;
    if let Err(error) = setup.owner.mark(&mut store, &report) {
        if goes() {
            store.has_gone();
        }
        return Err(errors::of_store(&name, None, &error));
    }
    let geometry = store.geometry();
    let facts = Facts {
        uuid: store.disk_uuid(),
        presence: Arc::clone(&presence),
        size_bytes: geometry.disk_bytes(),
        usable_bytes: store.total_clusters() * CLUSTER_BYTES,
        dma_alignment,
        hardware_id,
        report,
        claim,
        space: Arc::clone(store.disk_space()),
        not_live: not_live.map(|error| error.disk(name.clone())),
    };
    Ok((store, facts))
}

/// Tells the others what the disk holds.
pub fn publish(store: &DiskStore, contents: &Mutex<Arc<Contents>>) {
    let objects: Vec<Object> = store.objects().cloned().collect();
    let is_volume = |object: &&Object| Noun::of(object) == Noun::Volume;
    let now = Contents {
        live_volumes: objects
            .iter()
            .filter(is_volume)
            .any(|object| object.want_attached),
        volumes: objects
            .iter()
            .filter(is_volume)
            .filter_map(|object| {
                let volume = store.volume_of(object.uuid).ok()?;
                Some((object.uuid, Arc::downgrade(&volume)))
            })
            .collect(),
        objects,
        says: Some(store.says()),
        latched: store.is_latched().map(ToString::to_string),
    };
    *contents.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
}

/// What was told and is not done.
#[derive(Default)]
struct Waiting {
    commits: Vec<Committed>,
    others: VecDeque<Command>,
}

impl Waiting {
    fn take(&mut self, command: Command) {
        match command {
            Command::Commit(done) => self.commits.push(done),
            other => self.others.push_back(other),
        }
    }
}

struct Thread<'a> {
    name: String,
    presence: Arc<Presence>,
    store: DiskStore,
    setup: Setup,
    contents: &'a Mutex<Arc<Contents>>,
    waiting: Waiting,
    /// When the next commit is due that nobody asked for.
    commit_at: Instant,
    /// When the space was looked at last.
    looked_at: Instant,
    /// The last commit failed; said once.
    failing: bool,
    /// Whether it was judged why the first write or flush failed.
    is_judged: bool,
}

impl Thread<'_> {
    fn serve(mut self, commands: &Receiver<Command>) {
        let _guard = AbortOnPanic;
        let mut open_ended = true;
        while open_ended || !self.waiting.others.is_empty() {
            if self.waiting.others.is_empty() {
                open_ended = self.sleep(commands);
            }
            for command in commands.try_iter() {
                self.waiting.take(command);
            }
            if !self.waiting.commits.is_empty() {
                self.commit();
            } else if self.watches() && Instant::now() >= self.commit_at {
                self.commit_if_needed();
            }
            match self.waiting.others.pop_front() {
                Some(Command::Work(work)) => {
                    work(&mut self.store);
                    self.judge();
                }
                Some(Command::Abandon(answer)) => {
                    drop(self.store.abandon());
                    // Whoever asked may have gone away.
                    let _ = answer.send(());
                    return;
                }
                // Nothing can be said to a disk that is gone, and a flush that fails would say of it that it failed.
                Some(Command::Close(_unanswered)) if self.presence.is_gone() => {
                    // Nobody may have seen it before: the next daemon must know, should the same device answer it.
                    self.judge();
                    drop(self.store.abandon());
                    return;
                }
                Some(Command::Close(answer)) => {
                    // It commits; nobody acknowledges a flush any more, since the reactors have ended.
                    let _ = answer.send(self.store.close().map(drop));
                    return;
                }
                Some(commit) => self.waiting.take(commit),
                None => {}
            }
        }
        if self.presence.is_gone() {
            self.judge();
            drop(self.store.abandon());
        } else if let Err(error) = self.store.close() {
            tracing::warn!(disk = self.name, "closing the disk: {error}");
        }
    }

    /// Waits for the next command, or until a commit is due; false when nobody is left to tell anything.
    fn sleep(&mut self, commands: &Receiver<Command>) -> bool {
        let command = if self.watches() {
            let left = self.commit_at.saturating_duration_since(Instant::now());
            commands.recv_timeout(left)
        } else {
            commands.recv().map_err(RecvTimeoutError::from)
        };
        match command {
            Ok(command) => self.waiting.take(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    /// Whether a commit may be due that nobody asks for: while volumes are attached, and for what the last detach left to be freed.
    fn watches(&self) -> bool {
        self.contents_now().live_volumes || self.store.needs_commit()
    }

    fn contents_now(&self) -> Arc<Contents> {
        Arc::clone(&self.contents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn commit_if_needed(&mut self) {
        self.commit_at = Instant::now() + COMMIT_EVERY;
        if self.store.needs_commit() {
            self.commit();
        }
    }

    /// After the first write or flush that failed: did the disk fail, or is it gone? In the latter case it said nothing of what it has. And
    /// whatever failed or not: a disk that was seen gone is told nothing more. It may answer again, without what its cache had.
    fn judge(&mut self) {
        if self.is_judged {
            return;
        }
        let has_failed = self.store.is_latched().is_some();
        let has_gone = self.presence.was_seen_gone() || (has_failed && self.presence.goes());
        self.is_judged = has_failed || has_gone;
        if has_gone {
            self.store.has_gone();
            publish(&self.store, self.contents);
        }
    }

    /// One commit for all that ask for one.
    fn commit(&mut self) {
        // Taken before it begins: who asks from now on gets the next one.
        let commits = std::mem::take(&mut self.waiting.commits);
        let _guard = AbortOnPanic;
        self.commit_at = Instant::now() + COMMIT_EVERY;
        // Before it writes: a disk that is back without its cache must not be told that all is there.
        self.judge();
        let outcome = match self.store.commit() {
            Ok(quarantine) => {
                if !quarantine.is_empty() {
                    let space = Arc::clone(self.store.disk_space());
                    (self.setup.after_grace)(Box::new(move || space.release(quarantine)));
                }
                self.failing = false;
                Ok(())
            }
            Err(error) => {
                if !self.failing {
                    tracing::error!(disk = self.name, "a commit failed: {error}");
                    self.failing = true;
                }
                Err(error)
            }
        };
        self.judge();
        let has_gone = self.presence.was_seen_gone();
        let errno = outcome.as_ref().map_err(|error| {
            // What a device waits for, and not what it is answered with at once.
            let gone = has_gone.then_some(libc::ENODEV);
            gone.or_else(|| error.errno()).unwrap_or(libc::EIO)
        });
        for done in commits {
            done.done(errno.map(|&()| ()));
        }
        if outcome.is_err() {
            publish(&self.store, self.contents);
        }
        if self.looked_at.elapsed() >= LOOK_EVERY {
            self.looked_at = Instant::now();
            (self.setup.space_changed)(self.store.disk_uuid());
        }
    }
}

#[cfg(test)]
mod tests {
    use bedplate_datapath::engine::{DiskFile, UringMedium};
    use bedplate_datapath::store::PreviousSession;

    use super::*;
    use crate::daemon::test_node::{TestNode, until};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_that_was_seen_gone_gets_no_commit_and_no_clean_mark_though_it_answers() {
        let node = TestNode::new();
        let disk = node.make_disk("disk").await;
        let actor = node.actor(disk).unwrap();
        actor.commit().await.unwrap();
        assert!(actor.contents().latched.is_none());
        actor.presence.pretend_gone();
        actor.tell_gone();
        until("its thread has seen it", || {
            actor.contents().latched.is_some()
        })
        .await;
        let error = actor.commit().await.unwrap_err();
        assert_eq!(error.errno, Some(libc::ENODEV), "{error}");
        actor.close().await.unwrap_err();
        // Restarting the daemon mends nothing.
        node.refresh_disk(disk);
        assert!(node.problems().is_empty(), "{:?}", node.problems());
        let now = node.path("as it is");
        std::fs::copy(&actor.path, &now).unwrap();
        let medium = UringMedium::new(DiskFile::claim(&now).unwrap()).unwrap();
        let start = SessionStart {
            boot_id: Uuid::new_v4(),
            diskseq: None,
        };
        let (_, report) = Store::open(medium, &start).unwrap();
        assert_ne!(report.previous, PreviousSession::Clean);
    }
}
