//! Names: one for each object, over all disks of the node, images and volumes together.
//!
//! A disk knows its own objects only, so a name is taken here first, then looked for on the disks, and let go of when the object is there
//! or is not to be. In this order no two can get the same name, whichever disks they go to.

use std::sync::Arc;

use crate::api::ApiError;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// A name that is taken until this is dropped.
pub struct TakenName {
    node: Arc<Node>,
    name: String,
}

/// Takes `name` for an object that is about to be made.
///
/// # Errors
/// `Exists`.
pub fn take(node: &Arc<Node>, name: &str) -> Result<TakenName, ApiError> {
    node.runtimes().take_name(name)?;
    let taken = TakenName {
        node: Arc::clone(node),
        name: name.to_owned(),
    };
    require_free(node, name)?;
    Ok(taken)
}

/// Refuses the name of an object on any known disk.
///
/// # Errors
/// `Exists`.
pub fn require_free(node: &Node, name: &str) -> Result<(), ApiError> {
    let objects = node.objects();
    let Some(other) = objects.iter().find(|found| found.object.name == name) else {
        return Ok(());
    };
    let noun = other.noun();
    Err(ApiError::new(
        ErrorKind::Exists,
        format!(
            "{} {noun} named {name} exists already ({}, on {})",
            noun.article(),
            other.object.uuid,
            other.disk_path
        ),
    )
    .object(name)
    .remedy(format!(
        "choose another name, or delete it first: `bedplate {noun} delete {name}`"
    )))
}

impl Drop for TakenName {
    fn drop(&mut self) {
        self.node.runtimes().give_name(&self.name);
    }
}
