//! Imports: from a request to an image that is Ready, or to nothing at all.

pub mod buffer;
mod chunk;
mod copy;
mod file_reader;
mod hasher;
mod source;
mod stream_reader;
mod writer;

use std::path::Path;
use std::sync::Arc;

use bedplate_datapath::store::NewImage;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use self::copy::{ExpectedSums, Plan, Reader};
use self::file_reader::FileReader;
use self::source::SourceFile;
pub use self::stream_reader::StreamPart;
use self::stream_reader::StreamReader;
use super::errors;
use super::history::unix_ms;
use super::jobs::{JobRef, cancelled};
use super::node::Node;
use super::object::names;
use super::object::runtime::Importing;
use crate::api::{ApiError, ImportImage, ImportSource, Job, JobKind, ObjectName};
use crate::error_kind::ErrorKind;

/// Parts of a stream that wait for the import before the client waits.
const PARTS_WAITING: usize = 16;

enum Origin {
    File(SourceFile),
    Stream(mpsc::Receiver<StreamPart>),
}

/// Starts an import and answers with its job. What can be refused at once is.
///
/// # Errors
/// Anything that is wrong with the name, the source or the checksums, or no disk.
pub async fn start(node: &Arc<Node>, request: ImportImage) -> Result<Job, ApiError> {
    node.require_running()?;
    let name = ObjectName::parse(&request.name)?.into_string();
    let expected = ExpectedSums {
        sha256: parse_sum("sha256", request.sha256.as_deref())?,
        sha512: parse_sum("sha512", request.sha512.as_deref())?,
    };
    if request.copies == 0 {
        return Err(
            ApiError::new(ErrorKind::BadRequest, "`copies` must be at least 1")
                .object(name)
                .remedy("leave it out for one copy"),
        );
    }
    names::require_free(node, &name)?;

    let mut content = None;
    let (origin, source, size_bytes) = match request.source {
        ImportSource::File { path } => {
            let opened = {
                let path = path.clone();
                tokio::task::spawn_blocking(move || SourceFile::open(Path::new(&path))).await
            };
            let file =
                opened.map_err(|_| errors::internal("opening the source ended unexpectedly"))??;
            let size_bytes = file.size_bytes();
            (Origin::File(file), path, Some(size_bytes))
        }
        ImportSource::Stream { size_bytes } => {
            let (sender, parts) = mpsc::channel(PARTS_WAITING);
            content = Some(sender);
            (Origin::Stream(parts), "-".to_owned(), size_bytes)
        }
    };
    let disk = node.disk_with_most_space()?;

    let image = NewImage {
        name: name.clone(),
        size_bytes,
        source: source.clone(),
        wanted_copies: request.copies,
        created_unix_s: unix_ms() / 1000,
        object_uuid: Uuid::new_v4(),
        replica_uuid: Uuid::new_v4(),
    };
    let job = node.jobs.create(JobKind::Import, &name, size_bytes);
    let importing = Importing {
        uuid: image.object_uuid,
        disk: disk.uuid,
        job: job.clone(),
        source,
        copies: request.copies,
        content,
    };
    // Taken first, then looked for: see `names`.
    let taken = node.runtimes().begin_import(&name, importing);
    let taken = taken.and_then(|()| {
        names::require_free(node, &name).inspect_err(|_| node.runtimes().end_import(&name))
    });
    if let Err(error) = taken {
        job.end(Err(error.clone()), None);
        return Err(error);
    }
    let plan = Plan {
        job: job.clone(),
        disk,
        image,
        format: request.format,
        expected,
        writes_in_flight: node.config.import.writes_in_flight,
    };
    let view = job.view();
    tokio::spawn(supervise(Arc::clone(node), plan, origin));
    Ok(view)
}

/// Waits for the import's turn, runs it on a thread of its own, and ends the job.
async fn supervise(node: Arc<Node>, plan: Plan, origin: Origin) {
    let (job, name, disk) = (plan.job.clone(), plan.image.name.clone(), plan.disk.uuid);
    let outcome = match wait_for_turn(&node, &job, &name).await {
        Ok(turn) => {
            let outcome = on_own_thread(plan, origin, node.config.import.reads_in_flight).await;
            drop(turn);
            outcome
        }
        Err(error) => Err(error),
    };
    if let Err(ApiError {
        kind: ErrorKind::Io | ErrorKind::ReadOnly,
        ..
    }) = &outcome
    {
        node.refresh_disk(disk);
    }
    node.refresh_replicas(disk);
    node.runtimes().end_import(&name);
    job.end(outcome.map(|_| ()), None);
    // The first copy is there; the others are made from it.
    node.replicas.wake();
    node.notify();
}

async fn wait_for_turn<'a>(
    node: &'a Node,
    job: &JobRef,
    name: &str,
) -> Result<tokio::sync::SemaphorePermit<'a>, ApiError> {
    tokio::select! {
        biased;
        () = job.cancelled() => Err(cancelled(name)),
        turn = node.import_turns.acquire() => turn.map_err(|_| errors::internal("imports were ended")),
    }
}

async fn on_own_thread(
    plan: Plan,
    origin: Origin,
    reads_in_flight: usize,
) -> Result<Uuid, ApiError> {
    let (answer, outcome) = oneshot::channel();
    let spawned = std::thread::Builder::new()
        .name("import".to_owned())
        .spawn(move || {
            // The import was asked for by a job, and the job waits as long as the daemon lives.
            let _ = answer.send(on_this_thread(plan, origin, reads_in_flight));
        });
    spawned.map_err(|error| errors::of_io("cannot start a thread for the import", &error))?;
    outcome
        .await
        .map_err(|_| errors::internal("the thread of an import ended unexpectedly"))?
}

fn on_this_thread(plan: Plan, origin: Origin, reads_in_flight: usize) -> Result<Uuid, ApiError> {
    let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(256)).map_err(|error| {
        errors::of_io("cannot set up io_uring for the import", &error)
            .remedy("allow io_uring: `sysctl kernel.io_uring_disabled=0`; `bedplate doctor` checks more")
    })?;
    runtime.block_on(async move {
        let reader = match origin {
            Origin::File(file) => Reader::File(FileReader::new(file, reads_in_flight)?),
            Origin::Stream(parts) => Reader::Stream(StreamReader::new(&plan.image.name, parts)),
        };
        copy::run(plan, reader).await
    })
}

fn parse_sum<const BYTES: usize>(
    field: &str,
    digits: Option<&str>,
) -> Result<Option<[u8; BYTES]>, ApiError> {
    let Some(digits) = digits else {
        return Ok(None);
    };
    let wrong = || {
        ApiError::new(
            ErrorKind::BadRequest,
            format!(
                "`{field}` must be {} hexadecimal digits, not {digits:?}",
                BYTES * 2
            ),
        )
    };
    if digits.len() != BYTES * 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut sum = [0; BYTES];
    for (byte, pair) in sum.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(Some(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_hexadecimal_and_of_the_right_length() {
        assert_eq!(
            parse_sum::<2>("s", Some("0aFf")).unwrap(),
            Some([0x0a, 0xff])
        );
        assert_eq!(parse_sum::<2>("s", None).unwrap(), None);
        for wrong in ["", "0a", "0aFf0", "0aFg", "+aFf", "äää"] {
            assert!(parse_sum::<2>("s", Some(wrong)).is_err(), "{wrong}");
        }
    }
}
