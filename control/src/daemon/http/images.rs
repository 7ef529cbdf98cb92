//! `/v1/images`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;

use super::failure::Failure;
use super::finish;
use crate::api::{
    Changed, DeleteImage, ImageDetail, ImageList, ImportImage, Job, SetCopies, WaitQuery,
};
use crate::daemon::node::Node;
use crate::daemon::object::{self, Noun};
use crate::daemon::{import, replica, verify};

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
    query: Result<Query<DeleteImage>, QueryRejection>,
) -> Result<StatusCode, Failure> {
    let (Path(name), Query(query)) = (name?, query?);
    finish(async move {
        if query.failed_copies {
            replica::failed::delete(&node, &name).await
        } else {
            object::delete(&node, Noun::Image, &name).await
        }
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn attach(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<Json<Changed>, Failure> {
    let Path(name) = name?;
    let attached = finish(async move {
        let (found, changed) = object::attach::attach(&node, Noun::Image, &name, false).await?;
        Ok(node.image_changed(&found, changed))
    });
    Ok(Json(attached.await?))
}

pub(super) async fn detach(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<Json<Changed>, Failure> {
    let Path(name) = name?;
    let detached = finish(async move {
        let (found, changed) = object::attach::detach(&node, Noun::Image, &name).await?;
        Ok(node.image_changed(&found, changed))
    });
    Ok(Json(detached.await?))
}

pub(super) async fn verify(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<(StatusCode, Json<Job>), Failure> {
    let Path(name) = name?;
    Ok((StatusCode::ACCEPTED, Json(verify::start(&node, &name)?)))
}

pub(super) async fn recheck(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<(StatusCode, Json<Job>), Failure> {
    let Path(name) = name?;
    Ok((StatusCode::ACCEPTED, Json(verify::recheck(&node, &name)?)))
}

pub(super) async fn copies(
    State(node): State<Arc<Node>>,
    name: Name,
    request: Result<Json<SetCopies>, JsonRejection>,
) -> Result<Json<ImageDetail>, Failure> {
    let (Path(name), Json(request)) = (name?, request?);
    let set = finish(async move { replica::copies::set(&node, &name, request).await });
    Ok(Json(set.await?))
}

pub(super) async fn wait(
    State(node): State<Arc<Node>>,
    name: Name,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Json<ImageDetail>, Failure> {
    let (Path(name), Query(query)) = (name?, query?);
    let within = Duration::from_millis(query.timeout_ms);
    let look = || node.image_stand(&name);
    Ok(Json(
        object::wait::wait(&node, Noun::Image, &name, within, look).await?,
    ))
}
