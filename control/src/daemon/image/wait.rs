//! Waits until an image can be used: for boot ordering.

use std::sync::Arc;
use std::time::Duration;

use crate::api::{ApiError, AttachmentState, ImageDetail, ReplicaState};
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// Answers when the image is Ready and, where it is to be attached, its device is.
///
/// # Errors
/// `TimedOut` with the state that it had last.
pub async fn wait(
    node: &Arc<Node>,
    name: &str,
    timeout: Duration,
) -> Result<ImageDetail, ApiError> {
    let mut changes = node.watch_changes();
    let waiting = async {
        loop {
            changes.mark_unchanged();
            if let Ok(detail) = node.image_detail(name)
                && usable(&detail)
            {
                return Ok(detail);
            }
            tokio::select! {
                () = node.stopped() => node.require_running()?,
                _ = changes.changed() => {}
            }
        }
    };
    match tokio::time::timeout(timeout, waiting).await {
        Ok(outcome) => outcome,
        Err(_late) => {
            let (state, why) = match node.image_detail(name) {
                Ok(detail) => (
                    format!(
                        "{:?}, its device {:?}",
                        detail.image.state, detail.image.attachment.state
                    ),
                    detail.image.why.or(detail.image.attachment.why),
                ),
                Err(error) => (error.message, None),
            };
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            Err(ApiError::new(
                ErrorKind::TimedOut,
                format!("waited {timeout:?} for the image {name}: {state}{why}"),
            )
            .object(name)
            .remedy(format!(
                "`bedplate image show {name}` and `bedplate disk list` say more"
            )))
        }
    }
}

fn usable(detail: &ImageDetail) -> bool {
    let attachment = &detail.image.attachment;
    detail.image.state == ReplicaState::Ready
        && (!attachment.wanted || attachment.state == AttachmentState::Ready)
}
