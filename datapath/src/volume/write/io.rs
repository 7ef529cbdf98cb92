//! What a write request asks of whoever drives it: the I/O of a step, and what comes after it.

use super::segment::SEGMENTS_MAX;
use crate::plan::{JoinedMax, RunSource};
use crate::units::ByteOffset;

/// Two copy-ups besides the segments is the most that one list has.
const IOS_MAX: usize = SEGMENTS_MAX + 2;

/// One I/O of a request. All of a list may be in flight together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteIo {
    /// Bytes of the request to the volume's disk.
    FromRequest {
        /// From this byte of the request on.
        request_offset: u32,
        /// Length.
        len_bytes: u32,
        /// Where to.
        at: ByteOffset,
    },
    /// Zeros to the volume's disk, at most a cluster.
    Zeroes {
        /// Length.
        len_bytes: u32,
        /// Where to.
        at: ByteOffset,
    },
    /// Bytes of the scratch buffer to the volume's disk.
    FromScratch {
        /// From this byte of it on.
        scratch_offset: u32,
        /// Length.
        len_bytes: u32,
        /// Where to.
        at: ByteOffset,
    },
    /// Bytes of a lower layer to the scratch buffer.
    ToScratch {
        /// To this byte of it.
        scratch_offset: u32,
        /// Length.
        len_bytes: u32,
        /// From where.
        source: RunSource,
    },
}

/// The I/O of one step. Made once and reused.
#[derive(Clone, Debug)]
pub struct WriteIoList {
    ios: [WriteIo; IOS_MAX],
    len: usize,
    joined_max: JoinedMax,
}

impl Default for WriteIoList {
    fn default() -> Self {
        Self::new()
    }
}

impl WriteIoList {
    /// An empty list.
    pub const fn new() -> Self {
        let io = WriteIo::Zeroes {
            len_bytes: 0,
            at: ByteOffset::new(0),
        };
        Self {
            ios: [io; IOS_MAX],
            len: 0,
            joined_max: JoinedMax::ANY,
        }
    }

    /// Joins no more than this from now on.
    pub fn join_at_most(&mut self, joined_max: JoinedMax) {
        self.joined_max = joined_max;
    }

    /// The most that a list has: room to be made for before a step.
    pub const CAPACITY: usize = IOS_MAX;

    /// Whether there is nothing to do.
    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is to be done.
    #[inline]
    pub fn as_slice(&self) -> &[WriteIo] {
        &self.ios[..self.len]
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    #[inline]
    pub(super) fn push(&mut self, io: WriteIo) {
        // What follows the last one on disk and in the request is one I/O with it.
        if let (
            Some(WriteIo::FromRequest {
                request_offset,
                len_bytes,
                at,
            }),
            WriteIo::FromRequest {
                request_offset: next_offset,
                len_bytes: next_len,
                at: next_at,
            },
        ) = (self.ios[..self.len].last_mut(), io)
            && *request_offset + *len_bytes == next_offset
            && at.plus(u64::from(*len_bytes)) == next_at
            && self.joined_max.allows(*len_bytes, next_len)
        {
            *len_bytes += next_len;
            return;
        }
        self.ios[self.len] = io;
        self.len += 1;
    }
}

/// What a request needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteStep {
    /// The I/O of the list; then [`WriteOp::io_ended`], and the next step.
    Io,
    /// To be tried again later. It holds nothing meanwhile.
    Blocked(Blocked),
    /// Nothing: all is written and published.
    Done,
    /// Nothing: it failed with this (positive) errno.
    Failed(i32),
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Somebody's lock: whoever has it wakes us.
    Lock,
    /// Space that is on its way: a commit brings it.
    Space,
    /// Nothing: others' turn.
    Again,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_adjacent_is_joined_up_to_what_disks_take_at_once() {
        let part = |number: u32| WriteIo::FromRequest {
            request_offset: number * 131_072,
            len_bytes: 131_072,
            at: ByteOffset::new(u64::from(number + 5) * 131_072),
        };
        let mut list = WriteIoList::new();
        let mut lens = |undivided_bytes_max| {
            list.clear();
            list.join_at_most(JoinedMax::ANY.and(undivided_bytes_max));
            (0..8).for_each(|number| list.push(part(number)));
            let lens = list.as_slice().iter().map(|io| match io {
                WriteIo::FromRequest { len_bytes, .. } => len_bytes >> 10,
                _ => 0,
            });
            lens.collect::<Vec<u32>>()
        };
        assert_eq!(lens(None), [1024]);
        assert_eq!(lens(Some(508 << 10)), [384, 384, 256]);
        assert_eq!(lens(Some(512)), [128; 8]);
    }
}
