//! A write request as a state machine. It plans, says which I/O it needs, and publishes what has landed; whoever drives it carries the I/O
//! out: a reactor on its ring, the simulator on its disk.
//!
//! What it must never do: publish a block before its bytes are in its cluster; answer before everything is published; keep a lock while
//! it waits for another one.

mod claim;
mod copy_up;
mod io;
mod segment;
mod short;
mod zero;

use std::ops::Range;

pub use copy_up::{ReadUp, SCRATCH_BYTES};
pub use io::{Blocked, WriteIo, WriteIoList, WriteStep};

use self::copy_up::{CopyUp, NO_COPY_UP, scratch_offset};
use self::segment::{BLOCK, CLUSTER, NO_SEGMENT, SEGMENTS_MAX, Segment, lcn_of, low};
use super::Volume;
use super::space::Unavailable;
use crate::alloc::Extent;
use crate::plan::{DiskIndex, LayerStack, RunSource};
use crate::replica::Excluded;
use crate::units::{BLOCK_BYTES, BlockMask, ByteOffset, CLUSTER_BYTES, Pcn};

/// Clusters that a long discard passes in one turn.
const CLUSTERS_PER_TURN: u32 = 1024;
/// How often a request is planned anew before others get their turn.
const PLANS_PER_TURN: u32 = 8;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// The request's data.
    Data,
    /// Zeros.
    Zero {
        /// Whether clusters are kept (`NOUNMAP`), or given back.
        keep: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The next slice is to be planned.
    Plan,
    /// Private clusters are being zeroed, to be claimed over tombstones.
    ZeroPrivate,
    /// Blocks are read from the layers below.
    ReadUp,
    /// They are written to their place.
    CopyUp,
    /// The data is being written.
    Write,
}

/// A write request on its way. Made once for each tag, and reused.
#[derive(Debug)]
pub struct WriteOp {
    kind: WriteKind,
    /// The request's first byte, and one past its last.
    start: u64,
    end: u64,
    /// One past the last byte that is done.
    done: u64,
    phase: Phase,
    segments: [Segment; SEGMENTS_MAX],
    count: usize,
    /// Blocks being copied up.
    copy_ups: [CopyUp; 2],
    copies: usize,
    /// Blocks that this request could not copy up from a disk. By blocks: the other block may be good there, and be bad elsewhere.
    excluded: Excluded,
    /// Why not; 0 if there are none.
    excluded_errno: i32,
    /// The last list read something that another replica is to be asked for.
    reads_again: bool,
    failed: i32,
}

impl Default for WriteOp {
    fn default() -> Self {
        Self::new()
    }
}

/// Why planning stops.
enum Stop {
    Blocked(Blocked),
    Errno(i32),
}

impl From<Unavailable> for Stop {
    fn from(why: Unavailable) -> Self {
        match why {
            Unavailable::Soon => Self::Blocked(Blocked::Space),
            Unavailable::Full | Unavailable::Refused => Self::Errno(libc::ENOSPC),
        }
    }
}

impl WriteOp {
    /// One that has nothing to do.
    pub const fn new() -> Self {
        Self {
            kind: WriteKind::Data,
            start: 0,
            end: 0,
            done: 0,
            phase: Phase::Plan,
            segments: [NO_SEGMENT; SEGMENTS_MAX],
            count: 0,
            copy_ups: [NO_COPY_UP; 2],
            copies: 0,
            excluded: Excluded::NONE,
            excluded_errno: 0,
            reads_again: false,
            failed: 0,
        }
    }

    /// Starts a request; the one before has ended or was abandoned.
    #[inline]
    pub fn begin(&mut self, kind: WriteKind, at: ByteOffset, len_bytes: u64) {
        debug_assert_eq!(self.count, 0, "the former request let go of everything");
        self.kind = kind;
        self.start = at.get();
        self.end = at.get().saturating_add(len_bytes);
        self.done = at.get();
        self.phase = Phase::Plan;
        self.excluded.clear();
        self.excluded_errno = 0;
        self.reads_again = false;
        self.failed = 0;
    }

    /// Goes on as far as it can without I/O, and says what it needs next.
    pub fn step(
        &mut self,
        stack: &LayerStack,
        volume: &Volume,
        ios: &mut WriteIoList,
    ) -> WriteStep {
        ios.clear();
        if self.failed != 0 {
            return self.fail(volume);
        }
        if self.begin_shortly(volume, ios) {
            return WriteStep::Io;
        }
        if self.end_shortly(volume) {
            return WriteStep::Done;
        }
        let mut plans = 0;
        loop {
            let next = match self.phase {
                Phase::Plan => {
                    if plans == PLANS_PER_TURN {
                        return WriteStep::Blocked(Blocked::Again);
                    }
                    plans += 1;
                    match self.plan(stack, volume) {
                        Ok(Some(phase)) => Some(phase),
                        Ok(None) if self.done >= self.end => {
                            volume.note_unflushed();
                            return WriteStep::Done;
                        }
                        Ok(None) => {
                            return WriteStep::Blocked(Blocked::Again);
                        }
                        Err(stop) => {
                            self.let_go(volume);
                            return match stop {
                                Stop::Blocked(why) => WriteStep::Blocked(why),
                                Stop::Errno(errno) => WriteStep::Failed(errno),
                            };
                        }
                    }
                }
                Phase::ZeroPrivate => self.claim_private(volume),
                // Again, from another replica.
                Phase::ReadUp if self.reads_again => Some(Phase::ReadUp),
                Phase::ReadUp => Some(Phase::CopyUp),
                Phase::CopyUp => Some(Phase::Write),
                Phase::Write => {
                    if self.publish(volume) {
                        let written: u64 = self.segments[..self.count]
                            .iter()
                            .map(|segment| u64::from(segment.len_bytes))
                            .sum();
                        self.done += written;
                    }
                    // Published, or written to a cluster that was dropped meanwhile: then all over again.
                    self.let_go(volume);
                    None
                }
            };
            let Some(mut phase) = next else {
                self.phase = Phase::Plan;
                continue;
            };
            loop {
                self.phase = phase;
                if phase == Phase::ReadUp
                    && let Err(errno) = self.find_sources(stack)
                {
                    // Nothing of it was written: its clusters are as good as before.
                    self.let_go(volume);
                    return WriteStep::Failed(errno);
                }
                self.list(ios);
                if !ios.is_empty() {
                    return WriteStep::Io;
                }
                // A phase with nothing to do.
                phase = match phase {
                    Phase::ZeroPrivate => Phase::ReadUp,
                    Phase::ReadUp => Phase::CopyUp,
                    Phase::CopyUp | Phase::Plan | Phase::Write => Phase::Write,
                };
            }
        }
    }

    /// The I/O of the last step ended; an error is the request's, and the next step says so.
    pub fn io_ended(&mut self, outcome: Result<(), i32>) {
        if let Err(errno) = outcome {
            self.failed = errno;
        }
    }

    /// As [`Self::io_ended`], for a list of which a read of `blocks` (the object's own numbers) on `disk` failed with `errno` (positive). A
    /// block of a lower layer that another replica has is read from there with the next step.
    pub fn io_failed(
        &mut self,
        stack: &LayerStack,
        disk: DiskIndex,
        blocks: Range<u64>,
        errno: i32,
    ) {
        if self.phase == Phase::ReadUp
            && stack.has_alternatives(disk)
            && self.excluded.add(disk, blocks)
        {
            self.excluded_errno = errno;
            self.reads_again = true;
        } else {
            self.failed = errno;
        }
    }

    fn fail(&mut self, volume: &Volume) -> WriteStep {
        for segment in &mut self.segments[..self.count] {
            for pcn in [segment.pcn, segment.private] {
                if !pcn.is_none() {
                    volume.space().taint(pcn);
                }
            }
            // Not given back.
            segment.private = Pcn::NONE;
        }
        self.let_go(volume);
        WriteStep::Failed(self.failed)
    }

    /// Gives up a request that has no I/O in flight.
    pub fn abandon(&mut self, volume: &Volume) {
        if self.failed != 0 {
            // What it has written may land still, whoever gives it up.
            self.fail(volume);
        }
        self.let_go(volume);
        self.phase = Phase::Plan;
    }

    fn let_go(&mut self, volume: &Volume) {
        for segment in &mut self.segments[..self.count] {
            if !segment.private.is_none() {
                volume.space().give(Extent {
                    pcn: segment.private,
                    count: 1,
                });
            }
            if let Some(hold) = segment.lock.take() {
                volume.locks().give(volume.slot(), segment.lcn, hold);
            }
        }
        self.count = 0;
        self.copies = 0;
    }

    /// Plans the next slice. `None`: what needs no I/O was done, there may be more.
    fn plan(&mut self, stack: &LayerStack, volume: &Volume) -> Result<Option<Phase>, Stop> {
        debug_assert_eq!(self.count, 0, "a plan starts with nothing held");
        // Over disks with larger blocks a device ends on such a block, and so may its last request: see `whole_blocks` in ublk-target.
        if self.end > volume.size_bytes().next_multiple_of(BLOCK_BYTES) {
            return Err(Stop::Errno(libc::EIO));
        }
        match self.kind {
            WriteKind::Data => self.cut(self.done, self.end),
            WriteKind::Zero { keep } => {
                if !self.zero_without_io(stack, volume, keep)? {
                    return Ok(None);
                }
            }
        }
        if self.count == 0 {
            return Ok(None);
        }
        self.take_locks(volume)?;
        self.claim(volume)?;
        let has_private = self.segments[..self.count]
            .iter()
            .any(|segment| !segment.private.is_none());
        Ok(Some(if has_private {
            Phase::ZeroPrivate
        } else {
            Phase::ReadUp
        }))
    }

    /// Cuts a range, at most a request long, into segments.
    fn cut(&mut self, from: u64, end: u64) {
        let mut position = from;
        self.count = 0;
        while position < end && self.count < SEGMENTS_MAX {
            let in_cluster = position % CLUSTER_BYTES;
            let len_bytes = (CLUSTER_BYTES - in_cluster).min(end - position);
            self.segments[self.count] = Segment {
                lcn: lcn_of(position),
                from: low(in_cluster),
                len_bytes: low(len_bytes),
                ..NO_SEGMENT
            };
            self.count += 1;
            position += len_bytes;
        }
    }

    /// The I/O of the phase.
    fn list(&self, ios: &mut WriteIoList) {
        match self.phase {
            Phase::Plan => {}
            Phase::ZeroPrivate => {
                for segment in &self.segments[..self.count] {
                    if !segment.private.is_none() {
                        ios.push(WriteIo::Zeroes {
                            len_bytes: CLUSTER,
                            at: segment.private.offset(),
                        });
                    }
                }
            }
            Phase::ReadUp => {
                for (nth, copy_up) in self.copy_ups[..self.copies].iter().enumerate() {
                    if copy_up.source != RunSource::Zero {
                        ios.push(WriteIo::ToScratch {
                            scratch_offset: scratch_offset(nth),
                            len_bytes: BLOCK,
                            source: copy_up.source,
                        });
                    }
                }
            }
            Phase::CopyUp => {
                for (nth, copy_up) in self.copy_ups[..self.copies].iter().enumerate() {
                    let to = self.segments[copy_up.segment].at(copy_up.block * BLOCK);
                    ios.push(match copy_up.source {
                        RunSource::Zero => WriteIo::Zeroes {
                            len_bytes: BLOCK,
                            at: to,
                        },
                        RunSource::Disk { .. } => WriteIo::FromScratch {
                            scratch_offset: scratch_offset(nth),
                            len_bytes: BLOCK,
                            at: to,
                        },
                    });
                }
            }
            Phase::Write => {
                let mut request_offset = low(self.done - self.start);
                for segment in &self.segments[..self.count] {
                    let (len_bytes, at) = (segment.len_bytes, segment.at(segment.from));
                    ios.push(match self.kind {
                        WriteKind::Data => WriteIo::FromRequest {
                            request_offset,
                            len_bytes,
                            at,
                        },
                        // The last block of an odd volume: zeros to the block's end do no harm and keep its padding zero.
                        WriteKind::Zero { .. } => WriteIo::Zeroes { len_bytes, at },
                    });
                    request_offset += len_bytes;
                }
            }
        }
    }

    /// Publishes what was written. False if a cluster was dropped meanwhile.
    fn publish(&self, volume: &Volume) -> bool {
        let mut all = true;
        for segment in &self.segments[..self.count] {
            if segment.publish != BlockMask::EMPTY {
                all &= volume.publish(segment.lcn, segment.pcn, segment.publish);
            }
        }
        all
    }
}
