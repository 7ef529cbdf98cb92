//! `/v1/volumes`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;

use super::failure::Failure;
use super::finish;
use crate::api::{
    AttachVolume, CreateVolume, ResizeVolume, Volume, VolumeChanged, VolumeDetail, VolumeList,
    WaitQuery,
};
use crate::daemon::node::Node;
use crate::daemon::object::{self, Noun};
use crate::daemon::volume;

type Name = Result<Path<String>, PathRejection>;
type Changed = Result<Json<VolumeChanged>, Failure>;

pub(super) async fn list(State(node): State<Arc<Node>>) -> Json<VolumeList> {
    Json(VolumeList {
        volumes: node.volume_list(),
    })
}

pub(super) async fn show(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<Json<VolumeDetail>, Failure> {
    let Path(name) = name?;
    Ok(Json(node.volume_detail(&name).await?))
}

pub(super) async fn create(
    State(node): State<Arc<Node>>,
    request: Result<Json<CreateVolume>, JsonRejection>,
) -> Result<(StatusCode, Json<Volume>), Failure> {
    let Json(request) = request?;
    let made = finish(async move { volume::create(&node, request).await }).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub(super) async fn delete(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<StatusCode, Failure> {
    let Path(name) = name?;
    finish(async move { object::delete(&node, Noun::Volume, &name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn attach(
    State(node): State<Arc<Node>>,
    name: Name,
    request: Result<Option<Json<AttachVolume>>, JsonRejection>,
) -> Changed {
    let (Path(name), request) = (name?, request?);
    // As of an image, which has nothing to say.
    let Json(request) = request.unwrap_or_default();
    let attached = finish(async move {
        let accept_loss = request.accept_loss;
        let (found, changed) =
            object::attach::attach(&node, Noun::Volume, &name, accept_loss).await?;
        Ok(node.volume_changed(&found, changed))
    });
    Ok(Json(attached.await?))
}

pub(super) async fn detach(State(node): State<Arc<Node>>, name: Name) -> Changed {
    let Path(name) = name?;
    let detached = finish(async move {
        let (found, changed) = object::attach::detach(&node, Noun::Volume, &name).await?;
        Ok(node.volume_changed(&found, changed))
    });
    Ok(Json(detached.await?))
}

pub(super) async fn resize(
    State(node): State<Arc<Node>>,
    name: Name,
    request: Result<Json<ResizeVolume>, JsonRejection>,
) -> Changed {
    let (Path(name), Json(request)) = (name?, request?);
    let resized = finish(async move {
        let (found, changed) = volume::resize(&node, &name, &request).await?;
        Ok(node.volume_changed(&found, changed))
    });
    Ok(Json(resized.await?))
}

pub(super) async fn wait(
    State(node): State<Arc<Node>>,
    name: Name,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Json<VolumeDetail>, Failure> {
    let (Path(name), Query(query)) = (name?, query?);
    let within = Duration::from_millis(query.timeout_ms);
    let look = || node.volume_stand(&name);
    object::wait::wait(&node, Noun::Volume, &name, within, look).await?;
    Ok(Json(node.volume_detail(&name).await?))
}
