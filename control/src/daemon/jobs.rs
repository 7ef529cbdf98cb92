//! Jobs: long work that survives the client that asked for it. In memory only; a restarted daemon knows none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::history::unix_ms;
use crate::api::{ApiError, Job, JobKind, JobPhase, JobState, Progress, VerifyReport};
use crate::error_kind::ErrorKind;

/// Every job of this life of the daemon that is at work, and the last ones that ended.
#[derive(Debug)]
pub struct Jobs {
    table: Mutex<Table>,
    remembered: usize,
}

#[derive(Debug, Default)]
struct Table {
    last_id: u64,
    jobs: BTreeMap<u64, JobRef>,
}

/// One job, shared by the work itself and by those who look at it.
#[derive(Debug, Clone)]
pub struct JobRef {
    id: u64,
    view: Arc<watch::Sender<Job>>,
    cancel: Arc<watch::Sender<bool>>,
}

impl Jobs {
    /// No jobs yet; `remembered` ended ones are kept.
    pub fn new(remembered: usize) -> Self {
        Self {
            table: Mutex::default(),
            remembered,
        }
    }

    /// A new job about `image`, Pending.
    pub fn create(&self, kind: JobKind, image: &str, total_bytes: Option<u64>) -> JobRef {
        self.create_on(kind, image, None, total_bytes)
    }

    /// A new job about `image` on `disk`, Pending; without an image, about all of the disk.
    pub fn create_on(
        &self,
        kind: JobKind,
        image: &str,
        disk: Option<String>,
        total_bytes: Option<u64>,
    ) -> JobRef {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.last_id += 1;
        let id = table.last_id;
        let job = JobRef {
            id,
            view: Arc::new(watch::Sender::new(Job {
                id,
                kind,
                image: image.to_owned(),
                disk,
                state: JobState::Pending,
                progress: Progress {
                    phase: JobPhase::Waiting,
                    done_bytes: 0,
                    total_bytes,
                },
                created_unix_ms: unix_ms(),
                ended_unix_ms: None,
                error: None,
                verify: None,
            })),
            cancel: Arc::new(watch::Sender::new(false)),
        };
        table.jobs.insert(id, job.clone());
        self.forget_old(&mut table);
        job
    }

    fn forget_old(&self, table: &mut Table) {
        let ended: Vec<u64> = table
            .jobs
            .values()
            .filter(|job| job.view.borrow().state.is_final())
            .map(|job| job.id)
            .collect();
        let too_many = ended.len().saturating_sub(self.remembered);
        for id in ended.into_iter().take(too_many) {
            table.jobs.remove(&id);
        }
    }

    /// The job with this number.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, id: u64) -> Result<JobRef, ApiError> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.jobs.get(&id).cloned().ok_or_else(|| {
            ApiError::new(ErrorKind::NotFound, format!("there is no job {id}"))
                .object(id.to_string())
                .remedy(
                    "`bedplate job list` shows the jobs; a restarted daemon knows none of before",
                )
        })
    }

    /// All of them, by number.
    pub fn list(&self) -> Vec<Job> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.jobs.values().map(JobRef::view).collect()
    }

    /// Asks every job to end.
    pub fn cancel_all(&self) {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.jobs.values().for_each(JobRef::cancel);
    }

    /// Returns once no job is at work.
    pub async fn all_ended(&self) {
        let jobs: Vec<JobRef> = {
            let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            table.jobs.values().cloned().collect()
        };
        for job in jobs {
            job.ended().await;
        }
    }
}

impl JobRef {
    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How it stands.
    pub fn view(&self) -> Job {
        self.view.borrow().clone()
    }

    /// Follows it: the receiver sees every change that it is quick enough for, and the last one.
    pub fn follow(&self) -> watch::Receiver<Job> {
        self.view.subscribe()
    }

    /// Asks it to end. One that has ended stays as it is.
    pub fn cancel(&self) {
        self.cancel.send_replace(true);
    }

    /// Whether somebody asked it to end.
    pub fn is_cancelled(&self) -> bool {
        *self.cancel.borrow()
    }

    /// Returns once somebody asked it to end.
    pub async fn cancelled(&self) {
        // The sender lives in `self`, so the channel cannot close.
        let _ = self.cancel.subscribe().wait_for(|asked| *asked).await;
    }

    /// Returns once it has ended.
    pub async fn ended(&self) {
        let _ = self
            .view
            .subscribe()
            .wait_for(|job| job.state.is_final())
            .await;
    }

    /// It is at work, and this far.
    pub fn progress(&self, phase: JobPhase, done_bytes: u64, total_bytes: Option<u64>) {
        self.view.send_modify(|job| {
            job.state = JobState::Running;
            job.progress = Progress {
                phase,
                done_bytes,
                total_bytes,
            };
        });
    }

    /// It ended. `verify` is what a verification found, good or bad.
    pub fn end(&self, outcome: Result<(), ApiError>, verify: Option<VerifyReport>) {
        let (state, error) = match outcome {
            Ok(()) => (JobState::Done, None),
            Err(error) if error.kind == ErrorKind::Cancelled => (JobState::Cancelled, Some(error)),
            Err(error) => (JobState::Failed, Some(error)),
        };
        self.view.send_modify(|job| {
            match &error {
                None => tracing::info!(
                    job = job.id,
                    image = job.image,
                    disk = job.disk,
                    "{:?} done",
                    job.kind
                ),
                Some(error) => tracing::warn!(
                    job = job.id,
                    image = job.image,
                    disk = job.disk,
                    "{:?} {state:?}: {error}",
                    job.kind
                ),
            }
            job.state = state;
            job.progress.phase = JobPhase::Finished;
            job.ended_unix_ms = Some(unix_ms());
            job.error = error;
            job.verify = verify;
        });
    }
}

/// The error of a job that somebody asked to end.
pub fn cancelled(image: &str) -> ApiError {
    ApiError::new(ErrorKind::Cancelled, "the job was cancelled").object(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_ended_jobs_are_remembered_and_running_ones_always() {
        let jobs = Jobs::new(2);
        let running = jobs.create(JobKind::Import, "busy", None);
        for _ in 0..5 {
            jobs.create(JobKind::Import, "a", None).end(Ok(()), None);
        }
        jobs.create(JobKind::Import, "last", None);
        let ids: Vec<u64> = jobs.list().iter().map(|job| job.id).collect();
        assert_eq!(ids, [running.id(), 5, 6, 7]);
        assert_eq!(jobs.get(2).unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn a_cancelled_job_is_cancelled_and_not_failed() {
        let jobs = Jobs::new(1);
        let job = jobs.create(JobKind::Import, "a", None);
        job.cancel();
        assert!(job.is_cancelled());
        job.end(Err(cancelled("a")), None);
        assert_eq!(job.view().state, JobState::Cancelled);
    }
}
