//! One I/O of a request: what is left of it, and the ring entry that asks for that.
//!
//! It knows nothing of requests and their other operations; it never takes a result for more than it is.

use io_uring::{opcode, squeue, types};

use super::executor::{FileSlots, RequestBuffer};
use crate::plan::RunSource;
use crate::volume::write::WriteIo;

/// How often in a row an operation may end in `EAGAIN` or `EINTR` without a byte of progress before that is its error.
const TRANSIENT_RETRIES_MAX: u8 = 64;

/// The most that one write of zeros needs: a cluster.
const ZEROES_BYTES: u32 = 128 * 1024;
const _: () = assert!(ZEROES_BYTES as u64 == crate::units::CLUSTER_BYTES);

#[repr(C, align(4096))]
struct Zeroes([u8; ZEROES_BYTES as usize]);

/// What zeros are written from. Never changed, and so shared by all writes of all rings; aligned for any disk's DMA.
static ZEROES: Zeroes = Zeroes([0; ZEROES_BYTES as usize]);

/// Which memory an operation moves bytes from or to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A file fills the request.
    IntoRequest,
    /// A file fills the scratch buffer.
    IntoScratch,
    /// The request's bytes go to the file.
    OutOfRequest,
    /// The scratch buffer's do.
    OutOfScratch,
    /// Zeros do.
    OutOfZeroes,
}

/// Memory of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers {
    pub(super) request: RequestBuffer,
    /// Null where there is none.
    pub(super) scratch: *mut u8,
}

/// An operation: of which request, and what is left to move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) request: u32,
    pub(super) way: Way,
    retries: u8,
    /// From this byte of the memory on.
    pub(super) offset: u32,
    pub(super) len_bytes: u32,
    /// The file, and the place in it.
    pub(super) file: RunSource,
}

/// What becomes of an operation after a submission's result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Submit what is left.
    Again,
    /// All is moved.
    Done,
    /// It cannot be, for this (positive) errno.
    Failed(i32),
}

impl Operation {
    pub(super) const fn new(
        request: u32,
        way: Way,
        offset: u32,
        len_bytes: u32,
        file: RunSource,
    ) -> Self {
        Self {
            request,
            way,
            retries: 0,
            offset,
            len_bytes,
            file,
        }
    }

    /// The operation of one I/O of a write; `disk` is where the volume's own clusters are.
    #[inline]
    pub(super) fn of_write(request: u32, io: &WriteIo, disk: crate::plan::DiskIndex) -> Self {
        let at_disk = |at| RunSource::Disk { disk, at };
        match *io {
            WriteIo::FromRequest {
                request_offset,
                len_bytes,
                at,
            } => Self::new(
                request,
                Way::OutOfRequest,
                request_offset,
                len_bytes,
                at_disk(at),
            ),
            WriteIo::Zeroes { len_bytes, at } => {
                debug_assert!(len_bytes <= ZEROES_BYTES, "at most a cluster");
                Self::new(request, Way::OutOfZeroes, 0, len_bytes, at_disk(at))
            }
            WriteIo::FromScratch {
                scratch_offset,
                len_bytes,
                at,
            } => Self::new(
                request,
                Way::OutOfScratch,
                scratch_offset,
                len_bytes,
                at_disk(at),
            ),
            WriteIo::ToScratch {
                scratch_offset,
                len_bytes,
                source,
            } => Self::new(request, Way::IntoScratch, scratch_offset, len_bytes, source),
        }
    }

    /// The entry for what is left. It names memory of `buffers`, or the zeros, which live for ever.
    #[inline]
    pub(super) fn entry(
        &self,
        files: FileSlots,
        buffers_at: usize,
        buffers: Buffers,
    ) -> squeue::Entry {
        let (file, at) = match self.file {
            RunSource::Disk { disk, at } => (files.of(disk), at.get()),
            // It has no position; 0 is accepted and ignored.
            RunSource::Zero => (files.zero, 0),
        };
        let file = types::Fixed(file);
        let (offset, len) = (self.offset as usize, self.len_bytes);
        let in_registered = std::ptr::without_provenance_mut(buffers_at + offset);
        let read_fixed = |to, index| {
            let read = opcode::ReadFixed::new(file, to, len, index);
            read.offset(at).build()
        };
        let write_fixed = |from, index| {
            let write = opcode::WriteFixed::new(file, from, len, index);
            write.offset(at).build()
        };
        let read =
            |start: *mut u8| opcode::Read::new(file, start.wrapping_add(offset), len).offset(at);
        let write =
            |start: *const u8| opcode::Write::new(file, start.wrapping_add(offset), len).offset(at);
        match (self.way, buffers.request) {
            (Way::IntoRequest, RequestBuffer::Registered(index)) => {
                read_fixed(in_registered, index)
            }
            (Way::IntoRequest, RequestBuffer::Pinned { start, index }) => {
                read_fixed(start.wrapping_add(offset), index)
            }
            (Way::IntoRequest, RequestBuffer::Memory(start)) => read(start).build(),
            (Way::OutOfRequest, RequestBuffer::Registered(index)) => {
                write_fixed(in_registered, index)
            }
            (Way::OutOfRequest, RequestBuffer::Pinned { start, index }) => {
                write_fixed(start.wrapping_add(offset), index)
            }
            (Way::OutOfRequest, RequestBuffer::Memory(start)) => write(start).build(),
            (Way::IntoScratch, _) => read(buffers.scratch).build(),
            (Way::OutOfScratch, _) => write(buffers.scratch).build(),
            (Way::OutOfZeroes, _) => {
                // Never longer than there are zeros, whatever the list says: the rest is asked for when this has ended.
                let len = len.min(ZEROES_BYTES);
                opcode::Write::new(file, ZEROES.0.as_ptr(), len)
                    .offset(at)
                    .build()
            }
        }
    }

    /// Moves on by the result of the last submission.
    #[inline]
    pub(super) fn advance(&mut self, result: i32) -> Step {
        let Ok(moved) = u32::try_from(result) else {
            let errno = -result;
            if matches!(errno, libc::EAGAIN | libc::EINTR) && self.retries < TRANSIENT_RETRIES_MAX {
                self.retries += 1;
                return Step::Again;
            }
            return Step::Failed(errno);
        };
        if moved >= self.len_bytes {
            return Step::Done;
        }
        if moved == 0 {
            // A file that ends before the read does, or a disk that takes nothing: there is nothing to wait for.
            return Step::Failed(libc::EIO);
        }
        self.len_bytes -= moved;
        // Zeros are the same from everywhere.
        if self.way != Way::OutOfZeroes {
            self.offset += moved;
        }
        if let RunSource::Disk { at, .. } = &mut self.file {
            *at = at.plus(u64::from(moved));
        }
        self.retries = 0;
        Step::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::DiskIndex;
    use crate::units::ByteOffset;

    const AT: u64 = 1 << 20;

    fn operation(way: Way, len_bytes: u32) -> Operation {
        let file = RunSource::Disk {
            disk: DiskIndex(0),
            at: ByteOffset::new(AT),
        };
        Operation::new(0, way, 512, len_bytes, file)
    }

    fn position(operation: &Operation) -> u64 {
        match operation.file {
            RunSource::Disk { at, .. } => at.get(),
            RunSource::Zero => panic!("the file changed"),
        }
    }

    #[test]
    fn short_ones_go_on_where_they_stopped() {
        for way in [
            Way::IntoRequest,
            Way::OutOfRequest,
            Way::IntoScratch,
            Way::OutOfScratch,
        ] {
            let mut op = operation(way, 8192);
            assert_eq!(op.advance(512), Step::Again);
            assert_eq!((op.offset, op.len_bytes), (1024, 7680));
            assert_eq!(position(&op), AT + 512);
            assert_eq!(op.advance(7680), Step::Done);
        }
    }

    #[test]
    fn a_short_write_of_zeros_never_runs_past_the_zeros() {
        let mut op = operation(Way::OutOfZeroes, ZEROES_BYTES);
        op.offset = 0;
        assert_eq!(op.advance(4096), Step::Again);
        assert_eq!((op.offset, op.len_bytes), (0, ZEROES_BYTES - 4096));
        assert_eq!(position(&op), AT + 4096);
    }

    #[test]
    fn end_of_file_and_a_disk_that_takes_nothing_are_errors_not_short_successes() {
        for way in [Way::IntoRequest, Way::OutOfRequest] {
            assert_eq!(operation(way, 4096).advance(0), Step::Failed(libc::EIO));
        }
    }

    #[test]
    fn transient_errors_are_tried_again_but_not_for_ever() {
        let mut op = operation(Way::IntoRequest, 4096);
        for _ in 0..TRANSIENT_RETRIES_MAX {
            assert_eq!(op.advance(-libc::EAGAIN), Step::Again);
        }
        assert_eq!(op.advance(-libc::EAGAIN), Step::Failed(libc::EAGAIN));
        assert_eq!(
            operation(Way::OutOfRequest, 4096).advance(-libc::ENOSPC),
            Step::Failed(libc::ENOSPC)
        );
    }
}
