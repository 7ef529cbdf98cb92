//! `/v1/status`, `/v1/doctor`, the document, and the removal of all devices at the end of the node.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::failure::Failure;
use super::finish;
use crate::api::{DoctorReport, Status, openapi as document};
use crate::daemon::blocking::blocking;
use crate::daemon::node::Node;
use crate::daemon::remove_devices;
use crate::doctor;

pub(super) async fn status(State(node): State<Arc<Node>>) -> Json<Status> {
    Json(node.status())
}

pub(super) async fn doctor(State(node): State<Arc<Node>>) -> Result<Json<DoctorReport>, Failure> {
    let place = node.doctor_place();
    Ok(Json(
        blocking(move || doctor::examine(&place, "bedplated")).await?,
    ))
}

pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(document::document())
}

pub(super) async fn remove_devices(State(node): State<Arc<Node>>) -> Result<StatusCode, Failure> {
    finish(async move { remove_devices::in_daemon(&node).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}
