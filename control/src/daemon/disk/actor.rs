//! A disk's own thread: it alone holds the store, does one thing after the other, and tells the others what it left behind.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use bedplate_datapath::engine::{DiskFile, DiskIdentity, UringMedium};
use bedplate_datapath::store::{Object, OpenReport, SessionStart, Store, StoreError};
use bedplate_datapath::units::CLUSTER_BYTES;
use crossbeam::channel::{Receiver, Sender, unbounded};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::api::ApiError;
use crate::daemon::errors;
use crate::error_kind::ErrorKind;

/// The store of a real disk.
pub type DiskStore = Store<UringMedium>;

enum Command {
    Work(Box<dyn FnOnce(&mut DiskStore) + Send>),
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// What a disk holds, as of the last change.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Its objects.
    pub objects: Vec<Object>,
    /// Bytes of its clusters that are free.
    pub free_bytes: u64,
    /// Why it takes no more changes.
    pub latched: Option<String>,
}

/// An open disk.
#[derive(Debug)]
pub struct DiskActor {
    /// Its identity.
    pub uuid: Uuid,
    /// Where it was opened.
    pub path: PathBuf,
    /// The device or file behind that path.
    pub identity: DiskIdentity,
    /// Size at format.
    pub size_bytes: u64,
    /// Bytes of its clusters.
    pub usable_bytes: u64,
    /// What opening it found out.
    pub report: OpenReport,
    /// Alignment of buffers for direct I/O.
    pub dma_alignment: u32,
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
    /// Why it cannot be claimed or opened. Nothing was written then.
    pub async fn open(path: &Path, deadline: Instant, boot_id: Uuid) -> Result<Self, ApiError> {
        let (answer, opened) = oneshot::channel();
        let (commands, incoming) = unbounded();
        let contents = Arc::new(Mutex::default());
        let thread = {
            let (path, contents) = (path.to_owned(), Arc::clone(&contents));
            std::thread::Builder::new()
                .name("disk".to_owned())
                .spawn(move || run(&path, deadline, boot_id, &incoming, &contents, answer))
                .map_err(|error| errors::of_io("cannot start a thread for the disk", &error))?
        };
        let facts = opened
            .await
            .map_err(|_| errors::internal("the thread of a disk ended while it opened it"))??;
        Ok(Self {
            uuid: facts.uuid,
            path: path.to_owned(),
            identity: facts.identity,
            size_bytes: facts.size_bytes,
            usable_bytes: facts.usable_bytes,
            report: facts.report,
            dma_alignment: facts.dma_alignment,
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
            publish(store, &contents);
            result
        })
        .await
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

    fn offline(&self) -> ApiError {
        ApiError::new(
            ErrorKind::DiskOffline,
            format!("the disk at {} is not in use any more", self.name()),
        )
        .disk(self.name())
        .remedy("`bedplate disk show` says why; it comes back by itself")
    }
}

struct Facts {
    uuid: Uuid,
    identity: DiskIdentity,
    size_bytes: u64,
    usable_bytes: u64,
    dma_alignment: u32,
    report: OpenReport,
    claim: OwnedFd,
}

/// The thread: opens the disk, then does what it is told until it is told to close, or nobody is left to tell.
fn run(
    path: &Path,
    deadline: Instant,
    boot_id: Uuid,
    commands: &Receiver<Command>,
    contents: &Mutex<Arc<Contents>>,
    answer: oneshot::Sender<Result<Facts, ApiError>>,
) {
    let (mut store, facts) = match open(path, deadline, boot_id) {
        Ok(opened) => opened,
        Err(error) => {
            let _ = answer.send(Err(error));
            return;
        }
    };
    publish(&store, contents);
    if answer.send(Ok(facts)).is_err() {
        // Nobody wants the disk any more; what follows closes it.
        tracing::debug!(disk = %path.display(), "opened for nobody");
    }
    while let Ok(command) = commands.recv() {
        match command {
            Command::Work(work) => work(&mut store),
            Command::Close(answer) => {
                let _ = answer.send(store.close().map(drop));
                return;
            }
        }
    }
    if let Err(error) = store.close() {
        tracing::warn!(disk = %path.display(), "closing the disk: {error}");
    }
}

fn open(path: &Path, deadline: Instant, boot_id: Uuid) -> Result<(DiskStore, Facts), ApiError> {
    let name = path.display().to_string();
    let disk = DiskFile::claim_waiting(path, deadline, |busy| {
        tracing::info!(disk = name, "waiting for the claim: {busy}");
    })
    .map_err(|error| errors::of_claim(&error))?;
    let claim = disk
        .try_clone_fd()
        .map_err(|error| errors::of_io("cannot duplicate a disk's descriptor", &error))?;
    let (identity, dma_alignment) = (disk.identity(), disk.dma_alignment());
    let medium = UringMedium::new(disk).map_err(|error| {
        errors::of_io("cannot set up io_uring", &error)
            .disk(name.clone())
            .remedy("allow io_uring: `sysctl kernel.io_uring_disabled=0`; `bedplate doctor` checks more")
    })?;
    let (store, report) = Store::open(
        medium,
        &SessionStart {
            boot_id,
            diskseq: None,
        },
    )
    .map_err(|error| errors::of_open(&name, &error))?;
    let geometry = store.geometry();
    let facts = Facts {
        uuid: store.disk_uuid(),
        identity,
        size_bytes: geometry.disk_bytes(),
        usable_bytes: store.total_clusters() * CLUSTER_BYTES,
        dma_alignment,
        report,
        claim,
    };
    Ok((store, facts))
}

fn publish(store: &DiskStore, contents: &Mutex<Arc<Contents>>) {
    let now = Contents {
        objects: store.objects().cloned().collect(),
        free_bytes: store.free_clusters() * CLUSTER_BYTES,
        latched: store.is_latched().map(ToString::to_string),
    };
    *contents.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
}
