//! Makes one copy of an image from the others: a job. Between the disks' threads, so that neither waits for the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::catalogue::CatalogueState;
use bedplate_datapath::rebuild::{CheckedChunk, RebuildRun, SourceStep};
use bedplate_datapath::store::{Object, RemoveReplica, ReplicaState as Stored, StoreErrorKind};
use uuid::Uuid;

use super::sets;
use super::throttle::Throttle;
use super::view::image_of;
use crate::api::{ApiError, DiskState, JobKind, JobPhase};
use crate::daemon::backoff;
use crate::daemon::disk::actor::DiskActor;
use crate::daemon::errors;
use crate::daemon::jobs::{JobRef, cancelled};
use crate::daemon::node::Node;
use crate::daemon::scrub::prove;
use crate::error_kind::ErrorKind;

/// How often what is copied is made durable, at least.
const MARK_EVERY: Duration = Duration::from_secs(10);
/// How long a source may take for a chunk before another one is asked.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Starts the job, unless one is at it.
pub fn start(node: &Arc<Node>, image: Uuid, disk: Uuid) {
    let catalogue = node.catalogue();
    let Some(found) = image_of(&catalogue, image) else {
        return;
    };
    let job = {
        let name = node.disk_name(disk);
        let mut state = node.replicas.state();
        if node.is_stopping() || state.rebuilds.contains_key(&(image, disk)) {
            return;
        }
        let job = node.jobs.create_on(
            JobKind::Rebuild,
            &found.object.name,
            Some(name),
            Some(found.object.size_bytes),
        );
        state.rebuilds.insert((image, disk), job.clone());
        job
    };
    node.refresh_replicas(disk);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let outcome = supervise(&node, image, disk, &job).await;
        node.replicas.state().rebuilds.remove(&(image, disk));
        match &outcome {
            Ok(()) => node.replicas.state().backoff.forget(image, disk),
            Err(_) if node.is_stopping() => {}
            Err(error) => note_failure(&node, image, disk, &error.message),
        }
        node.refresh_disk(disk);
        node.refresh_replicas(disk);
        node.refresh_space(disk);
        if outcome.is_ok()
            && let Err(error) = sets::refresh(&node, image).await
        {
            tracing::warn!(%image, "its devices do not read the new copy yet: {error}");
        }
        job.end(outcome, None);
        node.replicas.wake();
        node.notify();
    });
}

/// Leaves a copy alone for a while.
pub fn note_failure(node: &Node, image: Uuid, disk: Uuid, why: &str) {
    let now = node.replicas.now();
    let mut state = node.replicas.state();
    state
        .backoff
        .failed(image, disk, why, now, backoff::random());
}

/// Stops the making of copies of `image`, on `disk` or on all, and waits until it has ended. What was copied stays, to be gone on with.
pub async fn stop_all_of(node: &Node, image: Uuid, disk: Option<Uuid>) {
    stop(node, |of, on| {
        of == image && disk.is_none_or(|disk| disk == on)
    })
    .await;
}

/// The same for all copies on a disk.
pub async fn stop_all_on(node: &Node, disk: Uuid) {
    stop(node, |_, on| on == disk).await;
}

async fn stop(node: &Node, which: impl Fn(Uuid, Uuid) -> bool) {
    let jobs: Vec<JobRef> = {
        let state = node.replicas.state();
        let all = state.rebuilds.iter();
        all.filter(|((image, disk), _)| which(*image, *disk))
            .map(|(_, job)| job.clone())
            .collect()
    };
    for job in &jobs {
        job.cancel();
    }
    for job in &jobs {
        job.ended().await;
    }
}

async fn supervise(
    node: &Arc<Node>,
    image: Uuid,
    disk: Uuid,
    job: &JobRef,
) -> Result<(), ApiError> {
    // First the disk's turn: who waits for it must not keep others from copying to other disks.
    let turn = Arc::clone(node.replicas.state().targets.entry(disk).or_default());
    let name = job.view().image;
    let waiting = async {
        let target = turn.lock_owned().await;
        let turn = node.replicas.turns.acquire().await;
        (target, turn)
    };
    let (_target, _turn) = tokio::select! {
        biased;
        () = job.cancelled() => return Err(cancelled(&name)),
        turns = waiting => turns,
    };
    let copy = Copying {
        node,
        image,
        disk,
        job,
        name,
        target: node.actor(disk)?,
    };
    copy.run().await
}

struct Copying<'a> {
    node: &'a Arc<Node>,
    image: Uuid,
    disk: Uuid,
    job: &'a JobRef,
    name: String,
    target: Arc<DiskActor>,
}

impl Copying<'_> {
    async fn run(&self) -> Result<(), ApiError> {
        let mut run = self.begin().await?;
        let resumed_at = run.done_bytes();
        if resumed_at > 0 {
            tracing::info!(image = self.name, disk = %self.target.name(), resumed_at, "goes on with a copy");
        }
        let mut throttle = Throttle::new(self.limit(), self.node.replicas.now());
        let mut marked = Instant::now();
        while let Some(step) = run.next_step() {
            self.job
                .progress(JobPhase::Copying, run.done_bytes(), Some(run.total_bytes()));
            let chunk = match self.chunk(step).await {
                Ok(chunk) => chunk,
                Err(error) => {
                    self.pause(run).await;
                    return Err(error);
                }
            };
            let stored = chunk.stored_bytes();
            let is_due = marked.elapsed() >= MARK_EVERY;
            let (back, outcome) = self
                .target
                .ask(move |store| {
                    let mut outcome = run.write(store, &chunk);
                    if is_due && outcome.is_ok() {
                        outcome = run.mark(store);
                    }
                    (run, outcome)
                })
                .await?;
            run = back;
            if is_due {
                marked = Instant::now();
            }
            if let Err(error) = outcome {
                self.pause(run).await;
                return Err(errors::of_store(
                    &self.target.name(),
                    Some(&self.name),
                    &error,
                ));
            }
            throttle.set(self.limit());
            let wait = throttle.moved(stored, self.node.replicas.now());
            let stopped = tokio::select! {
                biased;
                () = self.job.cancelled() => true,
                () = tokio::time::sleep(wait) => false,
            };
            if stopped || self.job.is_cancelled() {
                self.pause(run).await;
                return Err(cancelled(&self.name));
            }
        }
        self.job
            .progress(JobPhase::Sealing, run.done_bytes(), Some(run.total_bytes()));
        self.seal(run).await
    }

    fn limit(&self) -> u64 {
        let own = self.node.replicas.state().limits.get(&self.image).copied();
        own.unwrap_or(self.node.config.rebuild.limit_bytes_per_s)
    }

    /// The image as a good copy has it, with the description that holds.
    fn source(&self) -> Result<Object, ApiError> {
        let catalogue = self.node.catalogue();
        let found = image_of(&catalogue, self.image).ok_or_else(|| self.no_source())?;
        if !found.object.state.is_ready() {
            return Err(self.no_source());
        }
        let mut source = found.object.clone();
        let description = &found.description;
        source.generation = description.generation;
        source.wanted_copies = description.wanted_copies;
        source.member_disks.clone_from(&description.member_disks);
        source.dev_id = description.dev_id;
        source.want_attached = description.want_attached;
        Ok(source)
    }

    async fn begin(&self) -> Result<RebuildRun, ApiError> {
        let source = self.source()?;
        let image = self.image;
        let begun = self
            .target
            .change(move |store| {
                let is_begun = store
                    .object(image)
                    .is_some_and(|copy| matches!(copy.state, Stored::Building { .. }));
                if !is_begun {
                    let run = RebuildRun::begin(store, &source, Uuid::new_v4())?;
                    return Ok((run, true));
                }
                let resumed = match RebuildRun::resume(store, &source) {
                    // What was copied cannot be gone on with: from the start, then.
                    Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                        let how = RemoveReplica { other_copies: true };
                        store.remove_replica(image, how)?;
                        RebuildRun::begin(store, &source, Uuid::new_v4())
                    }
                    other => other,
                };
                resumed.map(|run| (run, false))
            })
            .await?;
        let (run, is_new) = begun
            .map_err(|error| errors::of_store(&self.target.name(), Some(&self.name), &error))?;
        // A disk that came meanwhile may have told that the image is deleted. Who was told by then does not look for this copy.
        if is_new && let Err(gone) = self.source() {
            let aborted = self.target.change(move |store| run.abort(store)).await;
            if let Ok(Err(error)) = aborted {
                tracing::warn!(image = self.name, "a copy of a deleted image: {error}");
            }
            return Err(gone);
        }
        Ok(run)
    }

    /// A chunk, whole: from one source, and what is bad there from the others.
    async fn chunk(&self, step: SourceStep) -> Result<CheckedChunk, ApiError> {
        let mut chunk: Option<CheckedChunk> = None;
        let mut last_error = None;
        for source in self.sources() {
            let before = chunk.take();
            let kept = before.clone();
            let read = source.ask(move |store| match before {
                None => step.read(store),
                Some(mut chunk) => chunk.fill_from(store).map(|()| chunk),
            });
            let read = match tokio::time::timeout(READ_WITHIN, read).await {
                Ok(Ok(Ok(chunk))) => Ok(chunk),
                Ok(Ok(Err(error))) => {
                    Err(errors::of_store(&source.name(), Some(&self.name), &error))
                }
                Ok(Err(error)) => Err(error),
                Err(_late) => Err(errors::silent(&source.name())),
            };
            match read {
                Ok(mut read) => {
                    let bad = read.take_bad_blocks();
                    match prove(&source, bad).await {
                        Ok(bad) => self.node.found_bad(self.image, source.uuid, &bad),
                        // They are asked of the others all the same.
                        Err(goes) => {
                            tracing::warn!(image = self.name, "a source of a copy: {goes}");
                        }
                    }
                    if read.is_whole() {
                        return Ok(read);
                    }
                    chunk = Some(read);
                }
                Err(error) => {
                    tracing::warn!(image = self.name, "a source of a copy: {error}");
                    last_error = Some(error);
                    chunk = kept;
                }
            }
        }
        Err(match chunk {
            // The blocks that no source has: their number and place are in the log, and in what a verification says.
            Some(_) => ApiError::new(
                ErrorKind::Corrupt,
                format!("the image {} has blocks that are good on no disk", self.name),
            )
            .object(self.name.clone())
            .remedy(format!(
                "`bedplate image verify {}` says which; bring another disk with a copy, or import the image again",
                self.name
            )),
            None => last_error.unwrap_or_else(|| self.no_source()),
        })
    }

    /// Disks with a copy to read from; good ones first, those that do not answer not at all.
    fn sources(&self) -> Vec<Arc<DiskActor>> {
        let catalogue = self.node.catalogue();
        let Some(found) = image_of(&catalogue, self.image) else {
            return Vec::new();
        };
        let mut sources: Vec<(bool, Arc<DiskActor>)> = Vec::new();
        for replica in &found.replicas {
            if replica.disk == self.disk || replica.state != CatalogueState::Ready {
                continue;
            }
            let is_damaged = replica
                .replica_uuid
                .is_some_and(|uuid| self.node.is_damaged(uuid));
            let disks = self.node.disks();
            let entry = disks.iter().find(|entry| entry.uuid == Some(replica.disk));
            if let Some(entry) = entry
                && entry.state.get() == DiskState::Online
                && let Some(actor) = &entry.actor
            {
                sources.push((is_damaged, Arc::clone(actor)));
            }
        }
        sources.sort_by_key(|(is_damaged, _)| *is_damaged);
        sources.into_iter().map(|(_, actor)| actor).collect()
    }

    async fn pause(&self, run: RebuildRun) {
        let paused = self.target.change(move |store| run.pause(store)).await;
        if let Err(error) = paused {
            tracing::debug!(image = self.name, "pausing a copy: {error}");
        }
    }

    async fn seal(&self, mut run: RebuildRun) -> Result<(), ApiError> {
        let outcome = self
            .target
            .change(move |store| match run.seal(store) {
                Ok(()) => Ok(()),
                // Given up: what is no copy of its source is worth nothing.
                Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                    run.abort(store)?;
                    Err(error)
                }
                Err(error) => {
                    run.pause(store);
                    Err(error)
                }
            })
            .await?;
        outcome.map_err(|error| errors::of_store(&self.target.name(), Some(&self.name), &error))
    }

    fn no_source(&self) -> ApiError {
        ApiError::new(
            ErrorKind::NotReady,
            format!(
                "no copy of the image {} is Ready, so that none can be made",
                self.name
            ),
        )
        .object(self.name.clone())
        .remedy(format!(
            "`bedplate image show {}` says what is with them",
            self.name
        ))
    }
}
