//! Calls that block, out of the way of everything that must go on meanwhile.

use super::errors;
use crate::api::ApiError;

/// Runs what blocks on a thread for such things.
///
/// # Errors
/// When it panicked.
pub async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| errors::internal("a call that blocks ended unexpectedly"))
}
