//! Following a job until it ends, and what Ctrl-C does meanwhile.

use super::client::{Client, path};
use super::progress::Reporter;
use crate::api::{ApiError, Job, JobState};
use crate::error_kind::ErrorKind;
use std::pin::pin;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C, caught from the moment this is made, so that none falls between the start of a job and its following.
pub struct Interrupts(Signal);

impl Interrupts {
    /// Begins to catch.
    ///
    /// # Errors
    /// `Internal` when the runtime cannot.
    pub fn catch() -> Result<Self, ApiError> {
        signal(SignalKind::interrupt()).map(Self).map_err(|error| {
            ApiError::new(
                ErrorKind::Internal,
                format!("SIGINT cannot be caught: {error}"),
            )
        })
    }

    /// Returns at the first Ctrl-C.
    pub async fn wait(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Follows a job until it ends; Ctrl-C leaves it running.
///
/// # Errors
/// What made the job fail; `Cancelled`; `Interrupted`; `DaemonUnreachable`.
pub async fn wait_for(
    client: &Client,
    job: Job,
    interrupts: &mut Interrupts,
    reporter: &mut Reporter,
) -> Result<Job, ApiError> {
    let id = job.id;
    let ended = {
        let mut following = pin!(until_final(client, job, reporter));
        tokio::select! {
            ended = &mut following => ended,
            () = interrupts.wait() => Err(goes_on(id)),
        }
    };
    reporter.clear();
    outcome(ended?)
}

/// Shows every state of a job up to the final one, and returns that.
///
/// # Errors
/// `DaemonUnreachable`, or what the daemon answered.
pub async fn until_final(
    client: &Client,
    job: Job,
    reporter: &mut Reporter,
) -> Result<Job, ApiError> {
    reporter.show(&job);
    if job.state.is_final() {
        return Ok(job);
    }
    let id = job.id;
    let mut lines = client
        .lines(&path(&["jobs", &id.to_string(), "events"]))
        .await?;
    while let Some(job) = lines
        .next::<Job>()
        .await
        .map_err(|error| went_away(id, error))?
    {
        reporter.show(&job);
        if job.state.is_final() {
            return Ok(job);
        }
    }
    Err(went_away(
        id,
        ApiError::new(
            ErrorKind::DaemonUnreachable,
            "the stream of its events ended",
        ),
    ))
}

/// A job that ended, as success or failure.
///
/// # Errors
/// What made the job fail; `Cancelled`.
pub fn outcome(job: Job) -> Result<Job, ApiError> {
    match job.state {
        JobState::Cancelled => {
            let error = ApiError::new(
                ErrorKind::Cancelled,
                format!("job {} was cancelled", job.id),
            );
            Err(error.object(job.image))
        }
        JobState::Failed => Err(job.error.unwrap_or_else(|| {
            ApiError::new(
                ErrorKind::Internal,
                format!("job {} failed and does not say why", job.id),
            )
            .object(job.image)
        })),
        JobState::Done | JobState::Pending | JobState::Running => Ok(job),
    }
}

fn goes_on(id: u64) -> ApiError {
    ApiError::new(
        ErrorKind::Interrupted,
        format!("interrupted; job {id} goes on"),
    )
    .object(id.to_string())
    .remedy(format!(
        "bedplate job wait {id} to follow it, bedplate job cancel {id} to stop it"
    ))
}

fn went_away(id: u64, error: ApiError) -> ApiError {
    let message = format!("the daemon went away while job {id} ran: {}", error.message);
    ApiError { message, ..error }.remedy(
        "an import that had not ended is gone and its space is given back: see bedplate image list, then start it again",
    )
}
