//! `image copies`: how many copies of an image there are to be.

use std::sync::Arc;

use super::describe;
use super::stale::require_believed;
use crate::api::{ApiError, ImageDetail, SetCopies};
use crate::daemon::node::Node;
use crate::daemon::object::Noun;
use crate::error_kind::ErrorKind;

/// Notes durably how many copies there are to be; the supervisor does the rest.
///
/// # Errors
/// `BadRequest` for none; `NotFound`; `Held` where only an old copy of a disk has it; `NotReady` while none of its disks is in use.
pub async fn set(
    node: &Arc<Node>,
    name: &str,
    request: SetCopies,
) -> Result<ImageDetail, ApiError> {
    node.require_running()?;
    if request.copies == 0 {
        return Err(ApiError::new(
            ErrorKind::BadRequest,
            format!("the image {name} must have at least 1 copy"),
        )
        .object(name)
        .remedy(format!(
            "to have none, delete it: `bedplate image delete {name}`"
        )));
    }
    let found = node.find(Noun::Image, name)?;
    require_believed(&found)?;
    let uuid = found.object.uuid;
    describe(node, uuid, |description| {
        description.wanted_copies = request.copies;
    })
    .await?;
    {
        let mut state = node.replicas.state();
        match request.limit_bytes_per_s {
            Some(limit) => state.limits.insert(uuid, limit),
            None => state.limits.remove(&uuid),
        };
        // Somebody looks at it: what failed is tried at once.
        for (disk, _) in state.backoff.of(uuid) {
            state.backoff.forget(uuid, disk);
        }
    }
    tracing::info!(
        image = found.object.name,
        copies = request.copies,
        "wants so many copies"
    );
    // What stands in the way is to be in the answer, not a moment later.
    super::run::look(node);
    node.replicas.wake();
    node.image_detail(&uuid.to_string())
}
