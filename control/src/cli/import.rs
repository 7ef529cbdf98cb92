//! `image import`: from a file that the daemon reads, or from standard input, which this process sends.

use super::client::path;
use super::commands::{Context, job_id};
use super::follow::{Interrupts, outcome, until_final, wait_for};
use super::progress::Reporter;
use super::render;
use super::size::human;
use crate::api::{
    ApiError, Image, ImageDetail, ImportFormat, ImportImage, ImportSource, Job, ObjectName,
};
use crate::error_kind::ErrorKind;
use hyper::body::Bytes;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Seek as _};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes read from standard input at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks read ahead of what the daemon took.
const CHUNKS_AHEAD: usize = 4;
/// How long the daemon has to say why a job failed, once it no longer takes its bytes.
const LAST_WORD_MS: Duration = Duration::from_secs(5);

/// The image that is wanted, wherever its bytes come from.
pub struct Wanted {
    /// Its name.
    pub name: ObjectName,
    /// What the bytes are.
    pub format: ImportFormat,
    /// Expected SHA-256.
    pub sha256: Option<String>,
    /// Expected SHA-512.
    pub sha512: Option<String>,
    /// Replicas wanted.
    pub copies: u32,
}

impl Wanted {
    fn from(self, source: ImportSource) -> ImportImage {
        ImportImage {
            name: self.name.into_string(),
            source,
            format: self.format,
            sha256: self.sha256,
            sha512: self.sha512,
            copies: self.copies,
        }
    }
}

/// Imports a file that the daemon reads.
///
/// # Errors
/// What the daemon answered, or what made the job fail; `Interrupted`.
pub async fn from_file(context: &Context, wanted: Wanted, source: String) -> Result<(), ApiError> {
    let mut interrupts = Interrupts::catch()?;
    let name = wanted.name.clone();
    let request = wanted.from(ImportSource::File {
        path: source.clone(),
    });
    let seen_here = |error| explain_other_view(error, &name, &source);
    let job: Job = context
        .client
        .post_json(&path(&["images"]), &request)
        .await
        .map_err(seen_here)?;
    if context.global.no_wait {
        return job_id(&context.output, &job);
    }
    let mut reporter = Reporter::new(&context.global);
    wait_for(&context.client, job, &mut interrupts, &mut reporter)
        .await
        .map_err(seen_here)?;
    show_result(context, &name).await
}

/// The daemon does not see a file that this process can read: says so, and how to get around it.
fn explain_other_view(error: ApiError, name: &ObjectName, source: &str) -> ApiError {
    let not_there = matches!(
        error.kind,
        ErrorKind::SourceNotFound | ErrorKind::SourceUnreadable
    );
    if !not_there || File::open(source).is_err() {
        return error;
    }
    let message = format!(
        "the daemon cannot read {source}, although this command can: {}",
        error.message
    );
    ApiError { message, ..error }.remedy(format!(
        "send it instead: bedplate image import {name} - < {source}"
    ))
}

/// Imports standard input.
///
/// # Errors
/// As for [`from_file`]. Ctrl-C fails the job, since nobody sends the rest.
pub async fn from_stdin(context: &Context, wanted: Wanted) -> Result<(), ApiError> {
    if context.global.no_wait {
        return Err(ApiError::new(ErrorKind::BadRequest, "--no-wait cannot be used with standard input")
            .remedy("this command must stay to send it; import from a file, or put the command in the background"));
    }
    if io::stdin().is_terminal() {
        return Err(ApiError::new(
            ErrorKind::BadRequest,
            "standard input is a terminal, not an image",
        )
        .remedy(format!(
            "bedplate image import {} - < FILE, or a pipe",
            wanted.name
        )));
    }
    let mut interrupts = Interrupts::catch()?;
    let name = wanted.name.clone();
    let request = wanted.from(ImportSource::Stream {
        size_bytes: stdin_len(),
    });
    let job: Job = context
        .client
        .post_json(&path(&["images"]), &request)
        .await?;
    let mut reporter = Reporter::new(&context.global);
    let sent = tokio::select! {
        ended = send_and_follow(context, job.clone(), &mut reporter) => ended.and_then(outcome),
        () = interrupts.wait() => Err(ApiError::new(
            ErrorKind::Interrupted,
            format!("interrupted; job {} fails, since the rest of standard input is lost, and its space is given back", job.id),
        )
        .object(job.id.to_string())),
    };
    reporter.clear();
    sent?;
    show_result(context, &name).await
}

/// Sends standard input while the job's events are shown. The answer to the content and the last event both say how
/// the job ended: the first one to come counts.
async fn send_and_follow(
    context: &Context,
    job: Job,
    reporter: &mut Reporter,
) -> Result<Job, ApiError> {
    let content = path(&["jobs", &job.id.to_string(), "content"]);
    let mut sending = pin!(context.client.put_stream::<Job>(&content, read_stdin()));
    let mut following = pin!(until_final(&context.client, job, reporter));
    tokio::select! {
        ended = &mut following => ended,
        answer = &mut sending => match answer {
            Ok(job) => Ok(job),
            // The daemon stopped taking bytes: the job knows the reason better than a broken connection does.
            Err(error) => match tokio::time::timeout(LAST_WORD_MS, following).await {
                Ok(Ok(job)) => Ok(job),
                _ => Err(error),
            },
        },
    }
}

/// Reads standard input on a thread of its own: a read of a pipe may wait for ever, and must not keep the process.
fn read_stdin() -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let read = stdin
                .by_ref()
                .take(CHUNK_BYTES as u64)
                .read_to_end(&mut chunk);
            let message = match read {
                Ok(0) => return,
                Ok(_) => Ok(Bytes::from(chunk)),
                Err(error) => Err(error),
            };
            let failed = message.is_err();
            if sender.blocking_send(message).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// What is left of standard input, where that is a regular file.
fn stdin_len() -> Option<u64> {
    // SAFETY: descriptor 0 is open for the life of the process (the standard library opens it when it is not), and
    // `ManuallyDrop` keeps this borrowed handle from closing it.
    let mut stdin = ManuallyDrop::new(unsafe { File::from_raw_fd(io::stdin().as_raw_fd()) });
    let meta = stdin.metadata().ok()?;
    let at = stdin.stream_position().ok()?;
    meta.is_file().then(|| meta.len().checked_sub(at)).flatten()
}

async fn show_result(context: &Context, name: &ObjectName) -> Result<(), ApiError> {
    let detail: ImageDetail = context
        .client
        .get(&path(&["images", name.as_str()]))
        .await?;
    context
        .output
        .done(&detail, || imported_line(&detail.image))
}

fn imported_line(image: &Image) -> String {
    let size = image.size_bytes.map(human).unwrap_or_default();
    let stored = image
        .stored_bytes
        .map(|bytes| format!(", {} stored", human(bytes)))
        .unwrap_or_default();
    let sha256 = image
        .sha256
        .as_ref()
        .map(|sum| format!(", sha256 {sum}"))
        .unwrap_or_default();
    format!(
        "imported {}: {}, {size}{stored}{sha256}",
        image.name,
        render::image_state_word(image)
    )
}
