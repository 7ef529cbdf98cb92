//! What is on a disk and who uses it: the questions before `disk format`.

use std::path::Path;

use uuid::Uuid;

use super::PROBE_TIMEOUT;
use super::in_use::{DiskUse, uses_of};
use super::probe::{self, Refusal};
use super::wipefs::{Signature, SignatureError, foreign_signatures};
use crate::format::superblock::ChoiceError;

/// What a format would destroy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskContent {
    /// Signatures of others.
    pub foreign: Vec<Signature>,
    /// It is, or may once have been, a Bedplate disk.
    pub bedplate: Option<BedplateContent>,
    /// Present users. These stand in the way of a format even if it is forced.
    pub uses: Vec<DiskUse>,
}

/// What is left of a Bedplate disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BedplateContent {
    /// A disk that can be opened.
    Disk(Uuid),
    /// Superblocks are there, but damaged or of another version; says what was found.
    Damaged(String),
}

impl DiskContent {
    /// Nothing on it that anybody would miss, and nobody uses it.
    pub fn is_empty(&self) -> bool {
        self.foreign.is_empty() && self.bedplate.is_none() && self.uses.is_empty()
    }
}

/// The disk could not be looked at, so nothing is known about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// It cannot be opened or read.
    #[error(transparent)]
    Disk(Refusal),
    /// Signatures could not be looked for.
    #[error(transparent)]
    Signatures(#[from] SignatureError),
}

impl InspectError {
    /// What the operator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Disk(refusal) => refusal.remedy(),
            Self::Signatures(error) => error.remedy(),
        }
    }
}

/// Looks at the disk at `path`. Only reads; returns within the time limits of the probe and of `wipefs`.
///
/// # Errors
/// If the disk cannot be opened or read, has no length that a disk may have, or signatures cannot be looked for.
pub fn inspect(path: &Path) -> Result<DiskContent, InspectError> {
    let bedplate = match probe::probe_one(path, PROBE_TIMEOUT) {
        Ok(found) => Some(BedplateContent::Disk(found.disk_uuid())),
        Err(Refusal::Superblock(ChoiceError::NotBedplate(_))) => None,
        Err(
            refusal @ (Refusal::Superblock(_)
            | Refusal::TooShort { .. }
            | Refusal::BootBlockOverwritten { .. }),
        ) => Some(BedplateContent::Damaged(refusal.to_string())),
        Err(refusal) => return Err(InspectError::Disk(refusal)),
    };
    Ok(DiskContent {
        foreign: foreign_signatures(path)?,
        bedplate,
        uses: uses_of(path),
    })
}
