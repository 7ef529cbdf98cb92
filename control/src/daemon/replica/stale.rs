//! Old copies of disks: a disk of which another one knows a later session. Nothing on it is believed, and nothing on it is changed.

use std::collections::HashSet;

use bedplate_datapath::catalogue::Catalogue;
use uuid::Uuid;

use crate::api::ApiError;
use crate::daemon::node::Node;
use crate::daemon::object::Located;
use crate::error_kind::ErrorKind;

/// Whether a disk is an old copy of itself, as the open disks know.
pub fn is_stale(catalogue: &Catalogue, disk: Uuid) -> bool {
    catalogue.stale.iter().any(|stale| stale.disk == disk)
}

impl Node {
    /// The open disks that are old copies of themselves. Locks the disks.
    pub fn stale_disks(&self) -> HashSet<Uuid> {
        let catalogue = self.catalogue();
        catalogue.stale.iter().map(|stale| stale.disk).collect()
    }
}

/// Refuses a change of what is not believed: of an object on an old copy of a disk, or of one that is another than the other disks have.
/// It would be lost as soon as the right disk is back.
///
/// # Errors
/// `Held`.
pub fn require_believed(found: &Located) -> Result<(), ApiError> {
    let Some(why) = &found.refused else {
        return Ok(());
    };
    let (noun, name) = (found.noun(), &found.object.name);
    Err(ApiError::new(
        ErrorKind::Held,
        format!("the {noun} {name} is not served, and nothing of it is changed: {why}"),
    )
    .object(name.clone())
    .disk(found.disk_path.clone())
    .remedy("`bedplate status` says what is with its disk, and what to do"))
}
