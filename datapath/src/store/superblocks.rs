//! The set of four superblock copies: reading it, and replacing the state that it holds.

use super::error::OpenError;
use super::latch::LatchedDisk;
use crate::format::geometry::SUPERBLOCK_OFFSETS;
use crate::format::superblock::{self, Choice, ChoiceError, Superblock, SuperblockCopy};
use crate::format::{DecodeError, DecodeErrorKind, Expect};
use crate::medium::{IoFault, Medium};
use crate::units::{ByteOffset, CLUSTER_BYTES, PAGE_BYTES, Page};

type Decoded = Result<Superblock, DecodeError>;

/// Reads the four copies and tells which state they hold. Writes nothing.
pub(super) fn read<M: Medium>(disk: &mut LatchedDisk<M>) -> Result<Choice, OpenError> {
    let len_bytes = disk.medium_mut().len_bytes();
    let [first, second, third] = SUPERBLOCK_OFFSETS.map(ByteOffset::new);
    if len_bytes < third.get() + 2 * CLUSTER_BYTES {
        return Err(OpenError::NotBedplate { at: first });
    }
    let near = [
        read_copy(disk, first)?,
        read_copy(disk, second)?,
        read_copy(disk, third)?,
    ];
    // Copy 3 lies where the disk ended when it was formatted: a device may have grown since. Only where no other copy can be
    // read is the device's own length asked, and then only to name what is there.
    let formatted = near.iter().flatten().max_by_key(|copy| copy.generation);
    let last_at = match formatted {
        Some(copy) if copy.geometry.disk_bytes() > len_bytes => {
            let disk_bytes = copy.geometry.disk_bytes();
            return Err(OpenError::DiskTooShort {
                len_bytes,
                disk_bytes,
            });
        }
        Some(copy) => copy.geometry.superblock_offset(SuperblockCopy::Last),
        None => ByteOffset::new(len_bytes - len_bytes % CLUSTER_BYTES - CLUSTER_BYTES),
    };
    let last = read_copy(disk, last_at)?;
    let [a, b, c] = near;
    let copies = [a, b, c, last];
    let places = [first, second, third, last_at];
    superblock::choose(copies.clone()).map_err(|error| refusal(error, &copies, places))
}

fn read_copy<M: Medium>(disk: &mut LatchedDisk<M>, at: ByteOffset) -> Result<Decoded, OpenError> {
    let mut page: Page = [0; PAGE_BYTES];
    disk.read(at, &mut page).map_err(|fault| OpenError::Io {
        doing: "reading a superblock copy",
        fault,
    })?;
    Ok(Superblock::decode(&page, &Expect::at(at)))
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
