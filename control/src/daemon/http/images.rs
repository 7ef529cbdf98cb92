//! `/v1/images`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;

use super::failure::Failure;
use crate::api::{Changed, ImageDetail, ImageList, ImportImage, Job, WaitQuery};
use crate::daemon::node::Node;
use crate::daemon::{image, import, verify};

type Name = Result<Path<String>, PathRejection>;

pub(super) async fn list(State(node): State<Arc<Node>>) -> Json<ImageList> {
    Json(ImageList {
        images: node.image_list(),
    })
}

pub(super) async fn show(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<Json<ImageDetail>, Failure> {
    let Path(name) = name?;
    Ok(Json(node.image_detail(&name)?))
}

pub(super) async fn import(
    State(node): State<Arc<Node>>,
    request: Result<Json<ImportImage>, JsonRejection>,
) -> Result<(StatusCode, Json<Job>), Failure> {
    let Json(request) = request?;
    Ok((
        StatusCode::ACCEPTED,
        Json(import::start(&node, request).await?),
    ))
}

pub(super) async fn delete(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<StatusCode, Failure> {
    let Path(name) = name?;
    finish(async move { image::delete(&node, &name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn attach(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<Json<Changed>, Failure> {
    let Path(name) = name?;
    Ok(Json(
        finish(async move { image::attach::attach(&node, &name).await }).await?,
    ))
}

pub(super) async fn detach(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<Json<Changed>, Failure> {
    let Path(name) = name?;
    Ok(Json(
        finish(async move { image::attach::detach(&node, &name).await }).await?,
    ))
}

pub(super) async fn verify(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<(StatusCode, Json<Job>), Failure> {
    let Path(name) = name?;
    Ok((
        StatusCode::ACCEPTED,
        Json(verify::start(&node, &name).await?),
    ))
}

pub(super) async fn wait(
    State(node): State<Arc<Node>>,
    name: Name,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Json<ImageDetail>, Failure> {
    let (Path(name), Query(query)) = (name?, query?);
    Ok(Json(
        image::wait::wait(&node, &name, Duration::from_millis(query.timeout_ms)).await?,
    ))
}

/// A change that was begun is finished even if the client goes away: half of it must never be what is left.
async fn finish<R: Send + 'static>(
    change: impl Future<Output = Result<R, crate::api::ApiError>> + Send + 'static,
) -> Result<R, crate::api::ApiError> {
    tokio::spawn(change)
        .await
        .map_err(|_| crate::daemon::errors::internal("a change of an image ended unexpectedly"))?
}
