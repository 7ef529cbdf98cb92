//! Images: one view, and one description.
use super::{Catalogue, DiskSays};
use std::collections::BTreeMap;
use uuid::Uuid;
pub(super) fn merge(
    _all: &BTreeMap<Uuid, &DiskSays>,
    _believed: &BTreeMap<Uuid, &DiskSays>,
    _catalogue: &mut Catalogue,
) {
}
