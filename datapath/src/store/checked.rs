//! Blocks of an image read and compared with their checksums, and blocks put right in place from another copy.

use std::ops::Range;

use uuid::Uuid;

use super::error::{StoreError, StoreErrorKind};
use super::scrub::Findings;
use super::trees::usize_of;
use super::{ScrubTarget, Store};
use crate::format::checksum_page::{ChecksumPage, block_crc};
use crate::format::object::ObjectKind;
use crate::format::tree::{LeafIndex, checksum_leaf_of};
use crate::medium::Medium;
use crate::units::{BLOCK_BYTES, BLOCKS_PER_CLUSTER, ByteOffset, Lcn, PAGE_BYTES};
use crate::verify::{BadBlock, BlockContent};

/// Most blocks of one call: 1 MiB.
pub const CHECKED_BLOCKS_MAX: usize = 256;

/// What a checked read found of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckedBlock {
    /// Nothing is stored: zeros.
    Hole,
    /// What was imported.
    Good {
        /// Its CRC32C, as recorded.
        crc: u32,
    },
    /// Something else; the buffer has what was read, or zeros.
    Bad(BadBlock),
    /// Both copies of its checksum page are bad, so that nothing can be said of it.
    Unchecked,
}

impl CheckedBlock {
    /// What is wrong with it, if something is.
    pub fn bad(&self) -> Option<BadBlock> {
        match self {
            Self::Bad(bad) => Some(*bad),
            Self::Hole | Self::Good { .. } | Self::Unchecked => None,
        }
    }
}

/// What became of blocks that were to be put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockRepair {
    /// Blocks that are what was imported now: written, flushed, read back.
    pub repaired: u32,
    /// Blocks of which the bytes that were handed in are not what was imported: not written. `actual` is of those bytes.
    pub refused: Vec<BadBlock>,
    /// Blocks that are not what was written to them: the disk's surface is bad there.
    pub still_bad: Vec<BadBlock>,
}

/// Where one stored block lies, and what it must be.
struct Stored {
    /// Of those asked for.
    nth: usize,
    at: ByteOffset,
    object_offset: ByteOffset,
    /// None if its checksum page is lost.
    crc: Option<u32>,
}

impl<M: Medium> Store<M> {
    /// Reads blocks of a Ready image (block = byte / 4096) into `into`, and compares each with its checksum.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt` or `NotComplete` if the image is not Ready here; `BadSize` for more than [`CHECKED_BLOCKS_MAX`] blocks, or a
    /// buffer of another length; `Io` if checksum pages cannot be read. A block that cannot be read is no error but a finding.
    pub fn read_checked(
        &mut self,
        uuid: Uuid,
        blocks: Range<u64>,
        into: &mut [u8],
    ) -> Result<Vec<CheckedBlock>, StoreError> {
        let count = usize_of(blocks.end.saturating_sub(blocks.start));
        check_range(uuid, count, into.len())?;
        let stored = self.locate(uuid, &blocks)?;
        into.fill(0);
        let mut found = vec![CheckedBlock::Hole; count];
        for run in stored.chunk_by(|a, b| a.nth + 1 == b.nth && a.at.plus(BLOCK_BYTES) == b.at) {
            self.read_run(run, into, &mut found);
        }
        Ok(found)
    }

    fn read_run(&mut self, run: &[Stored], into: &mut [u8], found: &mut [CheckedBlock]) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return;
        };
        let Some(bytes) = into.get_mut(first.nth * PAGE_BYTES..(last.nth + 1) * PAGE_BYTES) else {
            return;
        };
        let whole = self.medium_mut().read(first.at, bytes);
        for (block, bytes) in run.iter().zip(bytes.chunks_exact_mut(PAGE_BYTES)) {
            // One bad block must not hide its neighbours: where the large read failed, each block is read on its own.
            let read = match &whole {
                Ok(()) => Ok(()),
                Err(_) => self.medium_mut().read(block.at, bytes),
            };
            let actual = match read {
                Ok(()) => BlockContent::Crc(block_crc(bytes)),
                Err(fault) => {
                    bytes.fill(0);
                    BlockContent::Unreadable(fault)
                }
            };
            let Some(place) = found.get_mut(block.nth) else {
                continue;
            };
            *place = match block.crc {
                None => CheckedBlock::Unchecked,
                Some(crc) if actual == BlockContent::Crc(crc) => CheckedBlock::Good { crc },
                Some(expected_crc) => CheckedBlock::Bad(BadBlock {
                    object_offset: block.object_offset,
                    disk_offset: block.at,
                    expected_crc,
                    actual,
                }),
            };
        }
    }

    /// Puts blocks of a Ready image right, from `first_block` on, with the bytes of another copy: those that are what was imported, by
    /// their recorded checksums, are written in place, flushed and read back. Checksums are never changed. Blocks that are not stored are
    /// passed over.
    ///
    /// A crash in between leaves a block that was bad bad.
    ///
    /// # Errors
    /// As [`Store::read_checked`]; `ReadOnlyLatched`; `Io` if the flush fails. A write that fails is told in
    /// [`BlockRepair::still_bad`].
    pub fn repair_blocks(
        &mut self,
        uuid: Uuid,
        first_block: u64,
        bytes: &[u8],
    ) -> Result<BlockRepair, StoreError> {
        self.check_writable()?;
        let count = bytes.len() / PAGE_BYTES;
        check_range(uuid, count, bytes.len())?;
        let stored = self.locate(uuid, &(first_block..first_block + count as u64))?;
        let mut repair = BlockRepair::default();
        let mut written = Vec::new();
        for block in &stored {
            let Some(bytes) = bytes.get(block.nth * PAGE_BYTES..(block.nth + 1) * PAGE_BYTES)
            else {
                continue;
            };
            let bad = |expected_crc, actual| BadBlock {
                object_offset: block.object_offset,
                disk_offset: block.at,
                expected_crc,
                actual,
            };
            let handed_in = block_crc(bytes);
            match block.crc {
                Some(crc) if crc == handed_in => {}
                // Without its checksum nothing can be proven right.
                expected => {
                    let content = BlockContent::Crc(handed_in);
                    repair.refused.push(bad(expected.unwrap_or(0), content));
                    continue;
                }
            }
            // Data: a write that fails says that this block stays bad, and nothing about the rest of the disk.
            match self.medium_mut().write(block.at, bytes) {
                Ok(()) => written.push((block, bytes)),
                Err(fault) => {
                    let content = BlockContent::Unreadable(fault);
                    repair.still_bad.push(bad(handed_in, content));
                }
            }
        }
        if written.is_empty() {
            return Ok(repair);
        }
        // Before reading back: otherwise the drive's cache would answer, and not its surface.
        self.disk
            .flush()
            .map_err(|fault| StoreError::io("putting blocks right", fault).of_object(uuid))?;
        let mut there = vec![0; PAGE_BYTES];
        for (block, bytes) in written {
            let content = match self.medium_mut().read(block.at, &mut there) {
                Ok(()) if there == bytes => {
                    repair.repaired += 1;
                    continue;
                }
                Ok(()) => BlockContent::Crc(block_crc(&there)),
                Err(fault) => BlockContent::Unreadable(fault),
            };
            repair.still_bad.push(BadBlock {
                object_offset: block.object_offset,
                disk_offset: block.at,
                expected_crc: block_crc(bytes),
                actual: content,
            });
        }
        Ok(repair)
    }

    /// The stored ones of these blocks, in order.
    fn locate(&mut self, uuid: Uuid, blocks: &Range<u64>) -> Result<Vec<Stored>, StoreError> {
        let mut target = self.scrub_target(uuid)?;
        if target.object.kind != ObjectKind::ImageReplica {
            let context = format!("{} has no checksums", target.object.name);
            let remedy = "name an image: bedplate image list";
            return Err(StoreError::new(StoreErrorKind::NotFound, context, remedy).of_object(uuid));
        }
        let mut page: Option<(LeafIndex, Option<Box<ChecksumPage>>)> = None;
        let mut stored = Vec::new();
        for (nth, block) in blocks.clone().enumerate() {
            let within = block % u64::from(BLOCKS_PER_CLUSTER);
            let Ok(lcn) = u32::try_from(block / u64::from(BLOCKS_PER_CLUSTER)) else {
                break;
            };
            let lcn = Lcn::new(lcn);
            let entry = target.map.get(lcn);
            let bit = u32::try_from(within).unwrap_or(u32::MAX);
            if entry.pcn().is_none() || !entry.mask().contains(bit) {
                continue;
            }
            let (leaf, first) = checksum_leaf_of(lcn);
            if page.as_ref().is_none_or(|(loaded, _)| *loaded != leaf) {
                page = Some((leaf, self.checksum_page(&mut target, leaf)?));
            }
            let crc = page
                .as_ref()
                .and_then(|(_, page)| page.as_ref())
                .and_then(|page| page.crcs.get(first + usize_of(within)))
                .copied();
            stored.push(Stored {
                nth,
                at: entry.pcn().offset().plus(within * BLOCK_BYTES),
                object_offset: ByteOffset::new(block * BLOCK_BYTES),
                crc,
            });
        }
        Ok(stored)
    }

    /// None if both of its copies are bad.
    fn checksum_page(
        &mut self,
        target: &mut ScrubTarget,
        leaf: LeafIndex,
    ) -> Result<Option<Box<ChecksumPage>>, StoreError> {
        // What is found of twins is told by a verification, which looks at them all.
        let mut findings = Findings::default();
        let page = self.scrub_checksums(target, leaf, &mut findings)?;
        Ok(page.map(Box::new))
    }
}

fn check_range(uuid: Uuid, count: usize, buffer_bytes: usize) -> Result<(), StoreError> {
    if count <= CHECKED_BLOCKS_MAX && buffer_bytes == count * PAGE_BYTES {
        return Ok(());
    }
    let context = format!(
        "{count} blocks of image {uuid} and {buffer_bytes} bytes: at most {CHECKED_BLOCKS_MAX} blocks of 4096 bytes at a time"
    );
    let remedy = "report this with the daemon's log; nothing was changed";
    Err(StoreError::new(StoreErrorKind::BadSize, context, remedy).of_object(uuid))
}
