//! A disk's own thread: it alone holds the store, does one thing after the other, and tells the others what it left behind.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use bedplate_datapath::catalogue::DiskSays;
use bedplate_datapath::engine::UringMedium;
use bedplate_datapath::format::superblock::SuperblockCopy;
use bedplate_datapath::medium::Medium as _;
use bedplate_datapath::store::{Object, OpenReport, Store};
use bedplate_datapath::units::{CLUSTER_BYTES, PAGE_BYTES};
use bedplate_datapath::volume::{Space, Volume};
use bedplate_ublk_target::{Committed, Committer};
use crossbeam::channel::{Sender, unbounded};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::gone::Presence;
pub use super::thread::Setup;
use super::thread::{self, Command};
use crate::api::ApiError;
use crate::daemon::blocking::blocking;
use crate::daemon::errors;
use crate::error_kind::ErrorKind;

/// The store of a real disk.
pub type DiskStore = Store<UringMedium>;

/// What a disk holds, as of the last change.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Its objects.
    pub objects: Vec<Object>,
    /// Whether volumes are attached, or are to be.
    pub live_volumes: bool,
    /// Its volumes as reactors change them; weak, since what was known of a disk outlives its use.
    pub volumes: HashMap<Uuid, Weak<Volume>>,
    /// The same, and what it knows of deleted images and of other disks, for the merge of all disks.
    pub says: Option<DiskSays>,
    /// Why it takes no more changes.
    pub latched: Option<String>,
}

impl Contents {
    /// Clusters that are an object's own now.
    pub fn allocated_clusters(&self, object: &Object) -> u64 {
        self.volumes
            .get(&object.uuid)
            .and_then(Weak::upgrade)
            .map_or(object.stored_clusters, |volume| volume.allocated_clusters())
    }
}

/// An open disk.
#[derive(Debug)]
pub struct DiskActor {
    /// Its identity.
    pub uuid: Uuid,
    /// Where it was opened.
    pub path: PathBuf,
    /// As what it was opened, and whether that is there.
    pub presence: Arc<Presence>,
    /// Size at format.
    pub size_bytes: u64,
    /// Bytes of its clusters.
    pub usable_bytes: u64,
    /// What opening it found out.
    pub report: OpenReport,
    /// Alignment of buffers for direct I/O.
    pub dma_alignment: u32,
    /// The device's WWID or serial, which is asked while it is there.
    pub hardware_id: Option<String>,
    /// Why no volume of it can be attached, where none can.
    pub not_live: Option<ApiError>,
    space: Arc<Space>,
    claim: OwnedFd,
    commands: Sender<Command>,
    contents: Arc<Mutex<Arc<Contents>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl DiskActor {
    /// Claims the disk at `path`, waiting until `deadline` while a dead process's I/O still holds it, opens it on a thread of its
    /// own, and answers when it is in use.
    ///
    /// # Errors
    /// Why it cannot be claimed or opened. Nothing was written then, but for what a disk that failed or went on the way has of it.
    pub async fn open(path: &Path, deadline: Instant, setup: Setup) -> Result<Self, ApiError> {
        let (answer, opened) = oneshot::channel();
        let (commands, incoming) = unbounded();
        let contents = Arc::new(Mutex::default());
        let thread = {
            let (path, contents) = (path.to_owned(), Arc::clone(&contents));
            std::thread::Builder::new()
                .name("disk".to_owned())
                .spawn(move || thread::run(&path, deadline, setup, &incoming, &contents, answer))
                .map_err(|error| errors::of_io("cannot start a thread for the disk", &error))?
        };
        let facts = opened
            .await
            .map_err(|_| errors::internal("the thread of a disk ended while it opened it"))??;
        Ok(Self {
            uuid: facts.uuid,
            path: path.to_owned(),
            presence: facts.presence,
            size_bytes: facts.size_bytes,
            usable_bytes: facts.usable_bytes,
            report: facts.report,
            dma_alignment: facts.dma_alignment,
            hardware_id: facts.hardware_id,
            not_live: facts.not_live,
            space: facts.space,
            claim: facts.claim,
            commands,
            contents,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The disk's name in messages.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Another descriptor of the description that holds the claim.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn claim(&self) -> Result<OwnedFd, ApiError> {
        self.claim
            .try_clone()
            .map_err(|error| errors::of_io("cannot duplicate a disk's descriptor", &error))
    }

    /// What it holds.
    pub fn contents(&self) -> Arc<Contents> {
        Arc::clone(&self.contents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes of its clusters that are free now.
    pub fn free_bytes(&self) -> u64 {
        self.space.free_clusters() * CLUSTER_BYTES
    }

    /// Whether clusters are handed out: not while an object on it cannot be read, whose clusters they might be.
    pub fn allocates(&self) -> bool {
        !self.space.is_refused()
    }

    /// Whether volumes of it are attached, or are to be.
    pub fn has_live_volumes(&self) -> bool {
        self.contents().live_volumes
    }

    /// The way to its commits, for devices.
    pub fn committer(&self) -> Arc<dyn Committer> {
        Arc::new(CommitQueue(self.commands.clone()))
    }

    /// Makes durable everything that was acknowledged before.
    ///
    /// # Errors
    /// What the disk has against it; `DiskOffline` when it was closed meanwhile.
    pub async fn commit(&self) -> Result<(), ApiError> {
        let (answer, committed) = oneshot::channel();
        let done = Committed::calling(move |outcome| {
            // Whoever asked may have gone away.
            let _ = answer.send(outcome);
        });
        self.commands
            .send(Command::Commit(done))
            .map_err(|_| self.offline())?;
        let result = committed.await.map_err(|_| self.offline())?;
        result.map_err(|errno| {
            let name = self.name();
            let message = format!("{name}: what was written could not be made durable");
            ApiError::new(ErrorKind::Io, message)
                .disk(name)
                .errno(errno)
                .remedy("look for errors of the disk in the kernel's log (`dmesg`)")
        })
    }

    /// Whether its thread still takes commands.
    pub fn is_alive(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Runs `work` on the disk's thread, for what changes no object.
    ///
    /// # Errors
    /// `DiskOffline` when the disk was closed meanwhile.
    pub async fn ask<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut DiskStore) -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        let (answer, result) = oneshot::channel();
        let work = Box::new(move |store: &mut DiskStore| {
            // Whoever asked may have gone away.
            let _ = answer.send(work(store));
        });
        self.commands
            .send(Command::Work(work))
            .map_err(|_| self.offline())?;
        result.await.map_err(|_| self.offline())
    }

    /// Runs `work` on the disk's thread, for what changes an object: [`Self::contents`] tells of the change before this answers.
    ///
    /// # Errors
    /// `DiskOffline` when the disk was closed meanwhile.
    pub async fn change<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut DiskStore) -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        let contents = Arc::clone(&self.contents);
        self.ask(move |store| {
            let result = work(store);
            thread::publish(store, &contents);
            result
        })
        .await
    }

    /// Whether the disk answers: its own superblock is read.
    ///
    /// # Errors
    /// Why not.
    pub async fn read_superblock(&self) -> Result<(), String> {
        let read = self.ask(|store| {
            let mut page = [0; PAGE_BYTES];
            let at = store.geometry().superblock_offset(SuperblockCopy::First);
            store.medium_mut().read(at, &mut page)
        });
        match read.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fault)) => Err(fault.to_string()),
            Err(error) => Err(error.message),
        }
    }

    /// Ends the session in order and waits for the thread. Others that still hold the claim keep it.
    ///
    /// # Errors
    /// When the clean mark could not be written.
    pub async fn close(&self) -> Result<(), ApiError> {
        let (answer, closed) = oneshot::channel();
        self.commands
            .send(Command::Close(answer))
            .map_err(|_| self.offline())?;
        let result = closed.await.map_err(|_| self.offline())?;
        result.map_err(|error| errors::of_store(&self.name(), None, &error))
    }

    /// Has the thread see that the disk is gone: it writes nothing to it any more, should it answer again.
    pub fn tell_gone(&self) {
        // The thread looks after each piece of work; where it has ended, nobody writes.
        let _ = self.commands.send(Command::Work(Box::new(|_| ())));
    }

    /// Lets go of a disk that is gone, as it is, and waits for the thread. Commits that were asked for are not answered.
    pub async fn abandon(&self) {
        let (answer, ended) = oneshot::channel();
        if self.commands.send(Command::Abandon(answer)).is_ok() {
            // Dropped, if it ended otherwise.
            let _ = ended.await;
        }
    }

    /// Of a disk that just met an error: whether that is because it goes. Takes its time to say no.
    pub async fn goes(&self) -> bool {
        let presence = Arc::clone(&self.presence);
        blocking(move || presence.goes()).await.unwrap_or(false)
    }

    /// That the disk is not in use any more.
    pub fn offline(&self) -> ApiError {
        ApiError::new(
            ErrorKind::DiskOffline,
            format!("the disk at {} is not in use any more", self.name()),
        )
        .disk(self.name())
        .remedy("`bedplate disk show` says why; it comes back by itself")
    }
}

/// Commits, asked for by reactors.
struct CommitQueue(Sender<Command>);

impl Committer for CommitQueue {
    fn commit(&self, done: Committed) {
        // Where the thread has ended, `done` is dropped, which says that nothing was made durable.
        let _ = self.0.send(Command::Commit(done));
    }
}
