//! `disk re-uuid`: a copy of a disk becomes a disk of its own.

use std::sync::Arc;

use super::online::absolute;
use crate::api::{ApiError, Disk};
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// Gives the disk at `path`, and all that is on it, identities of its own, and brings it Online.
///
/// # Errors
/// Not built yet: always.
#[allow(
    clippy::unused_async,
    reason = "the disk is written by a task of its own"
)]
pub async fn re_uuid(node: &Arc<Node>, path: &str) -> Result<Disk, ApiError> {
    node.require_running()?;
    let path = absolute(path)?.display().to_string();
    Err(ApiError::new(
        ErrorKind::Internal,
        format!("the disk {path} keeps its identity: this version cannot give it another one"),
    )
    .disk(path)
    .remedy("take the copy away, or format it with `bedplate disk format --force`"))
}
