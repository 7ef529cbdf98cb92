//! Blocks that a request writes in part and the volume does not hold: they are read from the layers below, and written to their place, before
//! the request's own bytes are.

use super::segment::BLOCK;
use super::{Phase, WriteOp};
use crate::plan::{DiskIndex, LayerStack, RunSource};
use crate::units::CLUSTER_BYTES;

/// What a request may need besides its own data: the two blocks that it begins and ends in.
pub const SCRATCH_BYTES: usize = 2 * BLOCK as usize;

/// A block that is written in part, and not held yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyUp {
    pub(super) segment: usize,
    pub(super) block: u32,
    /// Where it is read, decided when it is: whom a layer asks may change meanwhile.
    pub(super) source: RunSource,
}

/// A block that was read from the layers below, to be copied up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadUp {
    /// Where its bytes are in the scratch buffer.
    pub scratch_offset: u32,
    /// Its first byte in the object, a multiple of 4096.
    pub position: u64,
    /// The disk that it was read from.
    pub disk: DiskIndex,
}

pub(super) const NO_COPY_UP: CopyUp = CopyUp {
    segment: 0,
    block: 0,
    source: RunSource::Zero,
};

impl WriteOp {
    /// Blocks that the list that was carried out last has read from the layers below: none if it was another list.
    pub fn read_up(&self) -> impl Iterator<Item = ReadUp> {
        let count = if self.phase == Phase::ReadUp {
            self.copies
        } else {
            0
        };
        let read = self.copy_ups[..count].iter().enumerate();
        read.filter_map(|(nth, copy_up)| {
            let RunSource::Disk { disk, .. } = copy_up.source else {
                return None;
            };
            let first = u64::from(self.segments[copy_up.segment].lcn.get()) * CLUSTER_BYTES;
            Some(ReadUp {
                scratch_offset: scratch_offset(nth),
                position: first + u64::from(copy_up.block * BLOCK),
                disk,
            })
        })
    }

    /// Blocks of a segment that are written in part and not held yet.
    pub(super) fn note_copy_ups(&mut self, at: usize) {
        let segment = self.segments[at];
        let mut blocks = segment.partial().get() & segment.publish.get();
        while blocks != 0 {
            debug_assert!(self.copies < 2, "a request has two ends");
            self.copy_ups[self.copies] = CopyUp {
                segment: at,
                block: blocks.trailing_zeros(),
                source: RunSource::Zero,
            };
            self.copies += 1;
            blocks &= blocks - 1;
        }
    }

    /// Of blocks that somebody else's tombstone holds by now.
    pub(super) fn forget_copy_ups_of_held_blocks(&mut self) {
        let mut kept = 0;
        for nth in 0..self.copies {
            let copy_up = self.copy_ups[nth];
            let segment = &self.segments[copy_up.segment];
            if segment.publish.contains(copy_up.block) {
                self.copy_ups[kept] = copy_up;
                kept += 1;
            }
        }
        self.copies = kept;
    }

    /// Where the blocks are that are copied up.
    pub(super) fn find_sources(&mut self, stack: &LayerStack) -> Result<(), i32> {
        self.reads_again = false;
        for copy_up in &mut self.copy_ups[..self.copies] {
            let first = u64::from(self.segments[copy_up.segment].lcn.get()) * CLUSTER_BYTES;
            let position = first + u64::from(copy_up.block * BLOCK);
            copy_up.source = stack.source_below(&self.excluded, position).ok_or(
                if self.excluded_errno == 0 {
                    libc::EIO
                } else {
                    self.excluded_errno
                },
            )?;
        }
        Ok(())
    }
}

/// Where in the scratch buffer.
#[inline]
pub(super) fn scratch_offset(nth: usize) -> u32 {
    if nth == 0 { 0 } else { BLOCK }
}
