//! `/v1/jobs`: how they stand, their events, and the content of imports that a client sends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::failure::Failure;
use crate::api::{ApiError, Job, JobList, NDJSON};
use crate::daemon::import::StreamPart;
use crate::daemon::jobs::JobRef;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// Least time between two events of a job.
const EVENT_INTERVAL: Duration = Duration::from_millis(200);

type Id = Result<Path<u64>, PathRejection>;

pub(super) async fn list(State(node): State<Arc<Node>>) -> Json<JobList> {
    Json(JobList {
        jobs: node.jobs.list(),
    })
}

pub(super) async fn show(State(node): State<Arc<Node>>, id: Id) -> Result<Json<Job>, Failure> {
    let Path(id) = id?;
    Ok(Json(node.jobs.get(id)?.view()))
}

pub(super) async fn cancel(State(node): State<Arc<Node>>, id: Id) -> Result<Json<Job>, Failure> {
    let Path(id) = id?;
    let job = node.jobs.get(id)?;
    job.cancel();
    job.ended().await;
    Ok(Json(job.view()))
}

pub(super) async fn events(State(node): State<Arc<Node>>, id: Id) -> Result<Response, Failure> {
    let Path(id) = id?;
    let job = node.jobs.get(id)?;
    let (lines, stream) = mpsc::channel(1);
    tokio::spawn(tell(job, lines));
    Ok((
        [(CONTENT_TYPE, NDJSON)],
        Body::from_stream(ReceiverStream::new(stream)),
    )
        .into_response())
}

async fn tell(job: JobRef, lines: mpsc::Sender<Result<Bytes, Infallible>>) {
    let mut changes = job.follow();
    loop {
        let now = changes.borrow_and_update().clone();
        let Ok(mut line) = serde_json::to_vec(&now) else {
            return;
        };
        line.push(b'\n');
        // A client that went away needs no more lines; a final state is the last one.
        if lines.send(Ok(line.into())).await.is_err() || now.state.is_final() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(EVENT_INTERVAL) => {}
            () = job.ended() => {}
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

pub(super) async fn content(
    State(node): State<Arc<Node>>,
    id: Id,
    mut body: Body,
) -> Result<Json<Job>, Failure> {
    let Path(id) = id?;
    let job = node.jobs.get(id)?;
    let Some(parts) = node.runtimes().take_content(id) else {
        return Err(ApiError::new(
            ErrorKind::BadRequest,
            format!("job {id} takes no content, or takes it already"),
        )
        .object(id.to_string())
        .remedy("start an import with a source of type `stream`, and send its content once")
        .into());
    };
    // The client is there: however long it takes to produce its first byte, it is not late.
    let mut part = StreamPart::Bytes(Bytes::new());
    loop {
        let last = !matches!(part, StreamPart::Bytes(_));
        // An import that ended takes no more: its job says why, and the rest of the body is not read.
        if parts.send(part).await.is_err() || last {
            break;
        }
        part = next_part(&mut body).await;
    }
    job.ended().await;
    Ok(Json(job.view()))
}

async fn next_part(body: &mut Body) -> StreamPart {
    loop {
        match body.frame().await {
            None => return StreamPart::End,
            Some(Err(error)) => return StreamPart::Broken(error.to_string()),
            Some(Ok(frame)) => {
                // Trailers say nothing here, and empty frames neither.
                if let Ok(bytes) = frame.into_data()
                    && !bytes.is_empty()
                {
                    return StreamPart::Bytes(bytes);
                }
            }
        }
    }
}
