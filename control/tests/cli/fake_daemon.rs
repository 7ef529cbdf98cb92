//! A small HTTP server on a Unix socket that answers as the daemon would, with the API's own types. It has one image,
//! `debian-13`, and one job, number 7.

use crate::{fake_volumes, values};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use bedplate_control::api::{
    ApiError, AttachmentState, Changed, Forgotten, FormatDisk, Image, ImportImage, Job, JobState,
    NDJSON, SetCopies, WaitQuery,
};
use bedplate_control::error_kind::ErrorKind;
use http_body_util::BodyExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;

pub const JOB: u64 = 7;

/// What it has seen and what it is to say.
#[derive(Default)]
pub struct Seen {
    /// Method and path of each request, in order.
    pub requests: Vec<String>,
    pub import: Option<ImportImage>,
    pub format: Option<FormatDisk>,
    pub copies: Option<SetCopies>,
    /// Bytes of the content that were taken, and whether the body came to its end.
    pub content: Vec<u8>,
    pub content_complete: Option<bool>,
    pub attached: bool,
    pub volumes: fake_volumes::Seen,
    /// What the import answers instead of a job.
    pub refuse_import: Option<ApiError>,
}

#[derive(Clone)]
pub struct Shared {
    pub seen: Arc<Mutex<Seen>>,
    job: watch::Sender<Job>,
}

/// The server; it ends when this is dropped.
pub struct FakeDaemon {
    pub socket: PathBuf,
    shared: Shared,
    _runtime: Runtime,
    _folder: TempDir,
}

impl FakeDaemon {
    pub fn start() -> Self {
        let folder = TempDir::new().expect("folder");
        let socket = folder.path().join("bedplate.sock");
        let (job, _) = watch::channel(values::job(JOB, JobState::Running));
        let shared = Shared {
            seen: Arc::default(),
            job,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let listener = runtime
            .block_on(async { UnixListener::bind(&socket) })
            .expect("socket");
        let router = router(shared.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            socket,
            shared,
            _runtime: runtime,
            _folder: folder,
        }
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.shared.seen.lock().expect("lock"))
    }

    /// The job goes on to this state.
    pub fn job_is(&self, state: JobState) {
        self.shared.job.send_replace(values::job(JOB, state));
    }

    /// Waits until `what` holds; a test that waits in vain fails.
    pub fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.with(|seen| holds(seen)) {
            assert!(Instant::now() < deadline, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn saw(&self, request: &str) -> bool {
        self.with(|seen| seen.requests.iter().any(|seen| seen == request))
    }
}

fn router(shared: Shared) -> Router {
    let seen = shared.seen.clone();
    Router::new()
        .route("/v1/disks/format", post(format_disk))
        .route("/v1/disks/{disk}", get(show_disk).delete(no_content))
        .route("/v1/disks/adopt", post(adopt))
        .route("/v1/disks/{disk}/drain", post(drain))
        .route("/v1/disks/{disk}/forget", post(forget))
        .route("/v1/images/{name}/copies", post(copies))
        .route("/v1/images", post(import))
        .route("/v1/images/{name}", get(show_image).delete(delete_image))
        .route("/v1/images/{name}/attach", post(attach))
        .route("/v1/images/{name}/detach", post(detach))
        .route("/v1/images/{name}/verify", post(verify))
        .route("/v1/images/{name}/wait", get(wait_image))
        .merge(fake_volumes::routes())
        .route("/v1/jobs/{id}", get(show_job))
        .route("/v1/jobs/{id}/events", get(events))
        .route("/v1/jobs/{id}/cancel", post(cancel))
        .route("/v1/jobs/{id}/content", put(content))
        .layer(axum::middleware::map_request(
            move |request: axum::extract::Request| {
                let line = format!("{} {}", request.method(), request.uri());
                seen.lock().expect("lock").requests.push(line);
                std::future::ready(request)
            },
        ))
        .with_state(shared)
}

pub fn failure(error: ApiError) -> Response {
    let status = StatusCode::from_u16(error.kind.http_status()).expect("status");
    (status, Json(error)).into_response()
}

fn no_image(name: &str) -> Response {
    failure(
        ApiError::new(ErrorKind::NotFound, format!("there is no image {name}"))
            .object(name)
            .remedy("bedplate image list shows those that are there"),
    )
}

fn the_image(shared: &Shared) -> Image {
    let attached = shared.seen.lock().expect("lock").attached;
    let attachment = if attached {
        values::attachment(AttachmentState::Ready, Some("/dev/ublkb0"))
    } else {
        values::attachment(AttachmentState::Detached, None)
    };
    Image {
        attachment,
        ..values::image("debian-13")
    }
}

async fn format_disk(State(shared): State<Shared>, Json(request): Json<FormatDisk>) -> Response {
    shared.seen.lock().expect("lock").format = Some(request);
    (StatusCode::CREATED, Json(values::disk())).into_response()
}

async fn show_disk(Path(disk): Path<String>) -> Response {
    if disk == "/dev/nvme0n1" || disk == values::uuid(1).to_string() {
        Json(values::disk_detail()).into_response()
    } else {
        failure(ApiError::new(ErrorKind::NotFound, format!("there is no disk {disk}")).disk(disk))
    }
}

async fn adopt() -> Response {
    Json(values::disk()).into_response()
}

async fn drain(State(shared): State<Shared>) -> Response {
    (StatusCode::ACCEPTED, Json(shared.job.borrow().clone())).into_response()
}

async fn forget(Path(disk): Path<String>) -> Response {
    Json(Forgotten {
        disk,
        images: vec!["debian-13".to_owned()],
        images_lost: Vec::new(),
        volumes_lost: vec!["vm1".to_owned(), "vm2".to_owned()],
    })
    .into_response()
}

async fn copies(State(shared): State<Shared>, Json(request): Json<SetCopies>) -> Response {
    shared.seen.lock().expect("lock").copies = Some(request);
    let image = Image {
        copies_wanted: request.copies,
        degraded: true,
        degraded_why: Some("no disk has room for 2 more copies".to_owned()),
        ..the_image(&shared)
    };
    Json(values::image_detail(image)).into_response()
}

async fn no_content() -> StatusCode {
    StatusCode::NO_CONTENT
}

async fn import(State(shared): State<Shared>, Json(request): Json<ImportImage>) -> Response {
    let mut seen = shared.seen.lock().expect("lock");
    seen.import = Some(request);
    match seen.refuse_import.clone() {
        Some(error) => failure(error),
        None => (StatusCode::ACCEPTED, Json(shared.job.borrow().clone())).into_response(),
    }
}

async fn show_image(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    if name == "debian-13" {
        Json(values::image_detail(the_image(&shared))).into_response()
    } else {
        no_image(&name)
    }
}

async fn delete_image(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    if shared.seen.lock().expect("lock").attached {
        return failure(
            ApiError::new(
                ErrorKind::Busy,
                format!("{name} is attached as /dev/ublkb0"),
            )
            .object(name)
            .remedy("bedplate image detach debian-13"),
        );
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn attach(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    set_attached(&shared, &name, true)
}

async fn detach(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    set_attached(&shared, &name, false)
}

fn set_attached(shared: &Shared, name: &str, attached: bool) -> Response {
    if name != "debian-13" {
        return no_image(name);
    }
    let before = std::mem::replace(&mut shared.seen.lock().expect("lock").attached, attached);
    let attachment = the_image(shared).attachment;
    Json(Changed {
        image: name.to_owned(),
        changed: before != attached,
        attachment,
    })
    .into_response()
}

async fn verify(State(shared): State<Shared>) -> Response {
    shared.job.send_replace(values::verified(JOB));
    (StatusCode::ACCEPTED, Json(values::verified(JOB))).into_response()
}

async fn wait_image(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Response {
    if name == "debian-13" {
        return Json(values::image_detail(the_image(&shared))).into_response();
    }
    tokio::time::sleep(Duration::from_millis(query.timeout_ms)).await;
    failure(ApiError::new(ErrorKind::TimedOut, format!("{name} is not there")).object(name))
}

async fn show_job(State(shared): State<Shared>, Path(id): Path<u64>) -> Response {
    if id == JOB {
        Json(shared.job.borrow().clone()).into_response()
    } else {
        failure(
            ApiError::new(ErrorKind::NotFound, format!("there is no job {id}"))
                .object(id.to_string()),
        )
    }
}

async fn events(State(shared): State<Shared>) -> Response {
    let mut ended = false;
    let lines = WatchStream::new(shared.job.subscribe())
        .take_while(move |job| !std::mem::replace(&mut ended, job.state.is_final()))
        .map(|job| serde_json::to_string(&job).map(|line| line + "\n"));
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}

async fn cancel(State(shared): State<Shared>) -> Response {
    if !shared.job.borrow().state.is_final() {
        shared
            .job
            .send_replace(values::job(JOB, JobState::Cancelled));
    }
    Json(shared.job.borrow().clone()).into_response()
}

async fn content(State(shared): State<Shared>, body: Body) -> Response {
    let mut body = body;
    while let Some(frame) = body.frame().await {
        let mut seen = shared.seen.lock().expect("lock");
        let Ok(frame) = frame else {
            seen.content_complete = Some(false);
            drop(seen);
            return job_ends(&shared, JobState::Failed);
        };
        seen.content
            .extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        // A disk that is full ends the job in the middle of its content.
        if seen.content.starts_with(b"full") {
            drop(seen);
            return job_ends(&shared, JobState::Failed);
        }
    }
    shared.seen.lock().expect("lock").content_complete = Some(true);
    job_ends(&shared, JobState::Done)
}

fn job_ends(shared: &Shared, state: JobState) -> Response {
    shared.job.send_replace(values::job(JOB, state));
    Json(shared.job.borrow().clone()).into_response()
}
