//! The volumes of the fake daemon: one, `vm1`, of 20 GiB.

use crate::fake_daemon::{Shared, failure};
use crate::values;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bedplate_control::api::{
    ApiError, AttachVolume, CreateVolume, ResizeVolume, Volume, VolumeChanged, VolumeList,
};
use bedplate_control::error_kind::ErrorKind;

/// What was asked for, and what is to be answered.
#[derive(Default)]
pub struct Seen {
    pub create: Option<CreateVolume>,
    pub attach: Option<AttachVolume>,
    pub resize: Option<ResizeVolume>,
    pub attached: bool,
    /// What an attach, a resize or a delete answers instead.
    pub refuse: Option<ApiError>,
}

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/volumes", get(list).post(create))
        .route("/v1/volumes/{name}", get(show).delete(delete))
        .route("/v1/volumes/{name}/attach", post(attach))
        .route("/v1/volumes/{name}/detach", post(detach))
        .route("/v1/volumes/{name}/resize", post(resize))
        .route("/v1/volumes/{name}/wait", get(show))
}

fn with<T>(shared: &Shared, look: impl FnOnce(&mut Seen) -> T) -> T {
    look(&mut shared.seen.lock().expect("lock").volumes)
}

fn the_volume(shared: &Shared) -> Volume {
    if with(shared, |seen| seen.attached) {
        values::attached_volume("vm1")
    } else {
        values::volume("vm1")
    }
}

/// `vm1`, unless there is something against it.
fn find(shared: &Shared, name: &str) -> Result<Volume, Response> {
    if let Some(error) = with(shared, |seen| seen.refuse.clone()) {
        return Err(failure(error));
    }
    if name == "vm1" {
        return Ok(the_volume(shared));
    }
    let message = format!("there is no volume named {name}");
    Err(failure(
        ApiError::new(ErrorKind::NotFound, message).object(name),
    ))
}

async fn list(State(shared): State<Shared>) -> Response {
    let volumes = vec![the_volume(&shared)];
    Json(VolumeList { volumes }).into_response()
}

async fn create(State(shared): State<Shared>, Json(request): Json<CreateVolume>) -> Response {
    let mut made = values::volume(&request.name);
    if request.image.is_none() {
        made.image = None;
    }
    with(&shared, |seen| seen.create = Some(request));
    (StatusCode::CREATED, Json(made)).into_response()
}

async fn show(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    match find(&shared, &name) {
        Ok(volume) => Json(values::volume_detail(volume)).into_response(),
        Err(error) => error,
    }
}

async fn delete(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    match find(&shared, &name) {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => error,
    }
}

async fn attach(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Json(request): Json<AttachVolume>,
) -> Response {
    with(&shared, |seen| seen.attach = Some(request));
    set_attached(&shared, &name, true)
}

async fn detach(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    set_attached(&shared, &name, false)
}

fn set_attached(shared: &Shared, name: &str, attached: bool) -> Response {
    if let Err(error) = find(shared, name) {
        return error;
    }
    let before = with(shared, |seen| {
        std::mem::replace(&mut seen.attached, attached)
    });
    Json(VolumeChanged {
        changed: before != attached,
        volume: the_volume(shared),
    })
    .into_response()
}

async fn resize(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Json(request): Json<ResizeVolume>,
) -> Response {
    let volume = match find(&shared, &name) {
        Ok(volume) => volume,
        Err(error) => return error,
    };
    let size_bytes = request
        .size_bytes
        .unwrap_or(volume.size_bytes + request.grow_bytes.unwrap_or(0));
    with(&shared, |seen| seen.resize = Some(request));
    Json(VolumeChanged {
        changed: size_bytes != volume.size_bytes,
        volume: Volume {
            size_bytes,
            ..volume
        },
    })
    .into_response()
}
