//! The set of four superblock copies: reading it, and replacing the state that it holds.

use uuid::Uuid;

use super::error::OpenError;
use super::latch::LatchedDisk;
use crate::format::DecodeErrorKind;
use crate::format::geometry::SUPERBLOCK_OFFSETS;
use crate::format::superblock::{self, Choice, ChoiceError, Superblock, SuperblockCopy};
use crate::medium::{IoFault, Medium};
use crate::superblock_set::{self, Decoded, SetError};
use crate::units::ByteOffset;

/// Which disk it is, for one who has to know before it is opened. Writes nothing.
///
/// # Errors
/// As of opening it.
pub fn uuid_on<M: Medium>(medium: &mut M) -> Result<Uuid, OpenError> {
    Ok(read_on(medium)?.winner.disk_uuid)
}

/// Reads the four copies and tells which state they hold. Writes nothing.
pub(super) fn read<M: Medium>(disk: &mut LatchedDisk<M>) -> Result<Choice, OpenError> {
    read_on(disk.medium_mut())
}

fn read_on<M: Medium>(medium: &mut M) -> Result<Choice, OpenError> {
    let set = superblock_set::read(medium).map_err(|error| match error {
        SetError::TooSmall { .. } => OpenError::NotBedplate {
            at: ByteOffset::new(SUPERBLOCK_OFFSETS[0]),
        },
        SetError::TooShort {
            len_bytes,
            disk_bytes,
        } => OpenError::DiskTooShort {
            len_bytes,
            disk_bytes,
        },
        SetError::Io(fault) => OpenError::Io {
            doing: "reading a superblock copy",
            fault,
        },
    })?;
    superblock::choose(set.copies.clone()).map_err(|error| refusal(error, &set.copies, set.places))
}

fn refusal(error: ChoiceError, copies: &[Decoded; 4], places: [ByteOffset; 4]) -> OpenError {
    match error {
        ChoiceError::NotBedplate(why) => OpenError::NotBedplate { at: why.at },
        ChoiceError::Unknown(why) if why.kind() == DecodeErrorKind::UnknownFeature => {
            OpenError::UnknownFeature { why }
        }
        ChoiceError::Unknown(why) => OpenError::UnknownVersion { why },
        _ => {
            let mut good = Vec::new();
            let mut bad = Vec::new();
            for ((copy, decoded), at) in SuperblockCopy::ALL.into_iter().zip(copies).zip(places) {
                match decoded {
                    Ok(state) => {
                        good.push(copy.number());
                        let why = format!(
                            "good, disk {} generation {}",
                            state.disk_uuid, state.generation
                        );
                        bad.push((copy.number(), at, why));
                    }
                    Err(why) => bad.push((copy.number(), at, why.fault.to_string())),
                }
            }
            OpenError::SuperblockLost { good, bad }
        }
    }
}

/// Makes `state` the disk's state. Its generation is above every one on the disk.
///
/// One copy at a time, a flush after each. Without the flush between them a power loss could tear several copies at
/// once, and fewer than two would be left. With it at most the one being written is torn, and the other three hold
/// either the old state or, from the second copy on, the new one twice.
pub(super) fn write<M: Medium>(
    disk: &mut LatchedDisk<M>,
    state: &Superblock,
) -> Result<(), IoFault> {
    SuperblockCopy::ALL
        .into_iter()
        .try_for_each(|copy| write_copy(disk, state, copy))
}

/// Writes one copy and flushes it.
pub(super) fn write_copy<M: Medium>(
    disk: &mut LatchedDisk<M>,
    state: &Superblock,
    copy: SuperblockCopy,
) -> Result<(), IoFault> {
    disk.write(state.geometry.superblock_offset(copy), &state.encode(copy))?;
    disk.flush()
}
