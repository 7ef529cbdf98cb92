//! `/v1/disks`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;

use super::failure::Failure;
use super::finish;
use crate::api::{
    AddDisk, Disk, DiskDetail, DiskList, DiskPath, Forgotten, FormatDisk, Job, RemoveDisk,
};
use crate::daemon::node::Node;
use crate::daemon::{disk, replica};

type Name = Result<Path<String>, PathRejection>;

pub(super) async fn list(State(node): State<Arc<Node>>) -> Json<DiskList> {
    Json(DiskList {
        disks: node.disk_list(),
    })
}

pub(super) async fn show(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<Json<DiskDetail>, Failure> {
    let Path(name) = name?;
    Ok(Json(node.disk_detail(&name)?))
}

pub(super) async fn add(
    State(node): State<Arc<Node>>,
    request: Result<Json<AddDisk>, JsonRejection>,
) -> Result<Json<Disk>, Failure> {
    let Json(request) = request?;
    let added = finish(async move { disk::add(&node, &request.path).await });
    Ok(Json(added.await?))
}

pub(super) async fn format(
    State(node): State<Arc<Node>>,
    request: Result<Json<FormatDisk>, JsonRejection>,
) -> Result<(StatusCode, Json<Disk>), Failure> {
    let Json(request) = request?;
    Ok((
        StatusCode::CREATED,
        Json(disk::format(&node, request).await?),
    ))
}

pub(super) async fn remove(
    State(node): State<Arc<Node>>,
    name: Name,
    query: Result<Query<RemoveDisk>, QueryRejection>,
) -> Result<StatusCode, Failure> {
    let (Path(name), Query(query)) = (name?, query?);
    finish(async move { disk::remove(&node, &name, query.force).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn drain(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<(StatusCode, Json<Job>), Failure> {
    let Path(name) = name?;
    Ok((
        StatusCode::ACCEPTED,
        Json(replica::drain::start(&node, &name)?),
    ))
}

pub(super) async fn forget(
    State(node): State<Arc<Node>>,
    name: Name,
) -> Result<Json<Forgotten>, Failure> {
    let Path(name) = name?;
    let forgotten = finish(async move { replica::forget::forget(&node, &name).await });
    Ok(Json(forgotten.await?))
}

pub(super) async fn adopt(
    State(node): State<Arc<Node>>,
    request: Result<Json<DiskPath>, JsonRejection>,
) -> Result<Json<Disk>, Failure> {
    let Json(request) = request?;
    let adopted = finish(async move { disk::adopt(&node, &request.path).await });
    Ok(Json(adopted.await?))
}

pub(super) async fn re_uuid(
    State(node): State<Arc<Node>>,
    request: Result<Json<DiskPath>, JsonRejection>,
) -> Result<Json<Disk>, Failure> {
    let Json(request) = request?;
    let done = finish(async move { disk::re_uuid(&node, &request.path).await });
    Ok(Json(done.await?))
}
