//! Carrying out the steps of a merge, and the steps of a deletion.

use uuid::Uuid;

use super::{Catalogue, CatalogueState, MergeStep, RemoveWhy};
use crate::format::members::MEMBERS_MAX;
use crate::medium::Medium;
use crate::store::{Grave, RemoveReplica, Store, StoreError};

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

/// What deletes an image, over the disks that are there: from the first of these steps on, it is deleted over any crash. Merge and apply
/// afterwards, until no steps are left: whoever was told leaves the graves. Empty if there is no such image.
///
/// Whether it is in use, by devices or clones, was looked at before.
pub fn delete_steps(catalogue: &Catalogue, uuid: Uuid, deleted_unix_s: u64) -> Vec<MergeStep> {
    let Some(image) = catalogue.images.iter().find(|image| image.uuid == uuid) else {
        return Vec::new();
    };
    let is_there = |replica: &&super::CatalogueReplica| {
        matches!(
            replica.state,
            CatalogueState::Ready | CatalogueState::Building { .. } | CatalogueState::Failed(_)
        )
    };
    let there: Vec<Uuid> = image
        .replicas
        .iter()
        .filter(is_there)
        .map(|replica| replica.disk)
        .collect();
    let mut named = image.description.member_disks.clone();
    named.extend(
        there
            .iter()
            .filter(|disk| !image.description.member_disks.contains(disk)),
    );
    if let ([only], [_]) = (there.as_slice(), named.as_slice()) {
        // Nobody else ever had a copy: nobody is to be told.
        return vec![MergeStep::RemoveReplica {
            disk: *only,
            uuid,
            why: RemoveWhy::Deleted,
        }];
    }
    let grave = |disk: &Uuid| {
        let mut pending: Vec<Uuid> = named.iter().copied().filter(|one| one != disk).collect();
        pending.truncate(MEMBERS_MAX);
        MergeStep::Bury {
            disk: *disk,
            grave: Grave {
                object_uuid: uuid,
                name: image.object.name.clone(),
                generation: image.description.generation,
                deleted_unix_s,
                pending,
            },
        }
    };
    there.iter().map(grave).collect()
}
