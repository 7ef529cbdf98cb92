//! The four superblock copies of a disk, read. Writes nothing, and judges nothing: that is `format::superblock::choose`.

use crate::format::geometry::SUPERBLOCK_OFFSETS;
use crate::format::superblock::{Superblock, SuperblockCopy};
use crate::format::{DecodeError, Expect};
use crate::medium::{IoFault, Medium};
use crate::units::{ByteOffset, CLUSTER_BYTES, PAGE_BYTES, Page};

/// What one copy holds.
pub(crate) type Decoded = Result<Superblock, DecodeError>;

/// The copies, and where they were read, both in the order of [`SuperblockCopy::ALL`].
pub(crate) struct SuperblockSet {
    pub(crate) copies: [Decoded; 4],
    pub(crate) places: [ByteOffset; 4],
}

/// Why the copies were not all read.
#[derive(Debug)]
pub(crate) enum SetError {
    /// There is no room for four copies: no such disk was ever formatted.
    TooSmall { len_bytes: u64 },
    /// The disk has become shorter since it was formatted.
    TooShort { len_bytes: u64, disk_bytes: u64 },
    /// The medium failed.
    Io(IoFault),
}

/// Reads the four copies.
pub(crate) fn read<M: Medium>(medium: &mut M) -> Result<SuperblockSet, SetError> {
    let len_bytes = medium.len_bytes();
    let [first, second, third] = SUPERBLOCK_OFFSETS.map(ByteOffset::new);
    if len_bytes < third.get() + 2 * CLUSTER_BYTES {
        return Err(SetError::TooSmall { len_bytes });
    }
    let mut copy = |at| read_copy(medium, at).map_err(SetError::Io);
    let near_start = [copy(first)?, copy(second)?, copy(third)?];
    // The last copy lies where the disk ended when it was formatted: a device may have grown since. Only where no other copy can
    // be read is the device's own length asked, and then only to name what is there.
    let newest = near_start
        .iter()
        .flatten()
        .max_by_key(|good| good.generation);
    let last_at = match newest.map(|good| good.geometry) {
        Some(formatted) if formatted.disk_bytes() > len_bytes => {
            let disk_bytes = formatted.disk_bytes();
            return Err(SetError::TooShort {
                len_bytes,
                disk_bytes,
            });
        }
        Some(formatted) => formatted.superblock_offset(SuperblockCopy::Last),
        None => ByteOffset::new(len_bytes - len_bytes % CLUSTER_BYTES - CLUSTER_BYTES),
    };
    let last = copy(last_at)?;
    let [a, b, c] = near_start;
    Ok(SuperblockSet {
        copies: [a, b, c, last],
        places: [first, second, third, last_at],
    })
}

fn read_copy<M: Medium>(medium: &mut M, at: ByteOffset) -> Result<Decoded, IoFault> {
    let mut page: Page = [0; PAGE_BYTES];
    medium.read(at, &mut page)?;
    Ok(Superblock::decode(&page, &Expect::at(at)))
}
