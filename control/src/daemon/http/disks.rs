//! `/v1/disks`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::failure::Failure;
use super::finish;
use crate::api::{AddDisk, Disk, DiskDetail, DiskList, FormatDisk};
use crate::daemon::disk;
use crate::daemon::node::Node;

pub(super) async fn list(State(node): State<Arc<Node>>) -> Json<DiskList> {
    Json(DiskList {
        disks: node.disk_list(),
    })
}

pub(super) async fn show(
    State(node): State<Arc<Node>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<DiskDetail>, Failure> {
    let Path(name) = name?;
    Ok(Json(disk::find(&node.disks(), &name)?.detail()))
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
    name: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Failure> {
    let Path(name) = name?;
    finish(async move { disk::remove(&node, &name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}
