//! A write request as a state machine. It plans, says which I/O it needs, and publishes what has landed; whoever drives it carries the I/O
//! out: a reactor on its ring, the simulator on its disk.
//!
//! What it must never do: publish a block before its bytes are in its cluster; answer before everything is published; keep a lock while
//! it waits for another one.

use super::locks::Hold;
use super::space::Unavailable;
use super::{Pcn, Volume};
use crate::alloc::Extent;
use crate::map::MapEntry;
use crate::plan::{DiskIndex, LayerStack, REQUEST_BYTES_MAX, RunSource};
use crate::replica::Excluded;
use crate::units::{BLOCK_BYTES, BlockMask, ByteOffset, CLUSTER_BYTES, Lcn};

/// What a request may need besides its own data: the two blocks that it begins and ends in.
pub const SCRATCH_BYTES: usize = 2 * BLOCK as usize;
/// Clusters that a request of 1 MiB touches at most.
const SEGMENTS_MAX: usize = (REQUEST_BYTES_MAX as u64 / CLUSTER_BYTES) as usize + 1;
/// Two copy-ups besides the segments is the most that one list has.
const IOS_MAX: usize = SEGMENTS_MAX + 2;
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
        }
    }

    /// The most that a list has: room to be made for before a step.
    pub const CAPACITY: usize = IOS_MAX;

    /// What is to be done.
    pub fn as_slice(&self) -> &[WriteIo] {
        &self.ios[..self.len]
    }

    fn clear(&mut self) {
        self.len = 0;
    }

    fn push(&mut self, io: WriteIo) {
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

/// The part of a request that lies in one cluster.
#[derive(Clone, Copy, Debug)]
struct Segment {
    lcn: Lcn,
    /// From this byte of the cluster on.
    from: u32,
    len_bytes: u32,
    /// Where the cluster is; none before it has one.
    pcn: Pcn,
    /// Blocks of it that are to be published.
    publish: BlockMask,
    /// Taken for this cluster, and zeroed before it is claimed.
    private: Pcn,
    lock: Option<Hold>,
}

const NO_SEGMENT: Segment = Segment {
    lcn: Lcn::new(0),
    from: 0,
    len_bytes: 0,
    pcn: Pcn::NONE,
    publish: BlockMask::EMPTY,
    private: Pcn::NONE,
    lock: None,
};

impl Segment {
    fn end(&self) -> u32 {
        self.from + self.len_bytes
    }

    /// Every block that it touches.
    fn touched(&self) -> BlockMask {
        blocks(self.from / BLOCK, self.end().div_ceil(BLOCK))
    }

    /// Blocks that it touches in part: none, one or two.
    fn partial(&self) -> BlockMask {
        let whole = blocks(self.from.div_ceil(BLOCK), self.end() / BLOCK);
        BlockMask::new(self.touched().get() & !whole.get())
    }

    fn at(&self, byte: u32) -> ByteOffset {
        self.pcn.offset().plus(u64::from(byte))
    }
}

/// How far a cluster looks for one to lie in a row with: 2 MiB, two of the longest requests.
const NEIGHBOURS: u32 = 16;

const BLOCK: u32 = 4096;
const _: () = assert!(BLOCK as u64 == BLOCK_BYTES);
const CLUSTER: u32 = 131_072;
const _: () = assert!(CLUSTER as u64 == CLUSTER_BYTES);

/// Blocks `first..end` of a cluster.
fn blocks(first: u32, end: u32) -> BlockMask {
    let below = |end: u32| u32::MAX.checked_shr(32 - end.min(32)).unwrap_or(0);
    BlockMask::new(below(end) & !below(first))
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
    /// Disks that a copy-up of this request could not be read from.
    excluded: Excluded,
    /// Why not; 0 if there are none.
    excluded_errno: i32,
    /// The last list read something that another replica is to be asked for.
    reads_again: bool,
    failed: i32,
}

/// A block that is written in part, and not held yet.
#[derive(Clone, Copy, Debug)]
struct CopyUp {
    segment: usize,
    block: u32,
    /// Where it is read, decided when it is: whom a layer asks may change meanwhile.
    source: RunSource,
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

const NO_COPY_UP: CopyUp = CopyUp {
    segment: 0,
    block: 0,
    source: RunSource::Zero,
};

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
    pub fn begin(&mut self, kind: WriteKind, at: ByteOffset, len_bytes: u64) {
        debug_assert_eq!(self.count, 0, "the former request let go of everything");
        self.kind = kind;
        self.start = at.get();
        self.end = at.get().saturating_add(len_bytes);
        self.done = at.get();
        self.phase = Phase::Plan;
        self.excluded = Excluded::NONE;
        self.excluded_errno = 0;
        self.reads_again = false;
        self.failed = 0;
    }

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
        if self.overwrite(volume, ios) {
            return WriteStep::Io;
        }
        if self.has_overwritten() {
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
                        Ok(None) if self.done >= self.end => return WriteStep::Done,
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
                if ios.len > 0 {
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

    /// The way of most writes: data for blocks of one cluster that the volume holds already. No lock, nothing to publish, one I/O. It does
    /// what the phases would do, which take all cases, in a third of their instructions.
    #[inline]
    fn overwrite(&mut self, volume: &Volume, ios: &mut WriteIoList) -> bool {
        let in_cluster = self.start % CLUSTER_BYTES;
        let len_bytes = self.end - self.start;
        let is_first_step = self.phase == Phase::Plan && self.done == self.start;
        if !is_first_step
            || self.kind != WriteKind::Data
            || len_bytes == 0
            || in_cluster + len_bytes > CLUSTER_BYTES
            || self.end > volume.size_bytes().next_multiple_of(BLOCK_BYTES)
        {
            return false;
        }
        let mut segment = Segment {
            lcn: lcn_of(self.start),
            from: low(in_cluster),
            len_bytes: low(len_bytes),
            ..NO_SEGMENT
        };
        let entry = volume.map().get(segment.lcn);
        if entry.pcn().is_none() || segment.touched().get() & !entry.mask().get() != 0 {
            return false;
        }
        volume.relies_on(segment.lcn, entry);
        segment.pcn = entry.pcn();
        self.segments[0] = segment;
        self.count = 1;
        self.phase = Phase::Write;
        ios.push(WriteIo::FromRequest {
            request_offset: 0,
            len_bytes: segment.len_bytes,
            at: segment.at(segment.from),
        });
        true
    }

    /// Whether that was all: the request's one segment has been written, and there is nothing to publish.
    #[inline]
    fn has_overwritten(&mut self) -> bool {
        let segment = &self.segments[0];
        let is_all = self.phase == Phase::Write
            && self.count == 1
            && segment.publish == BlockMask::EMPTY
            && segment.lock.is_none()
            && self.done == self.start
            && u64::from(segment.len_bytes) == self.end - self.start;
        if is_all {
            self.done = self.end;
            self.count = 0;
            self.phase = Phase::Plan;
        }
        is_all
    }

    /// The I/O of the last step ended; an error is the request's, and the next step says so.
    pub fn io_ended(&mut self, outcome: Result<(), i32>) {
        if let Err(errno) = outcome {
            self.failed = errno;
        }
    }

    /// As [`Self::io_ended`], for a list of which an I/O on `disk` failed with `errno` (positive). A block of a lower layer that another
    /// replica has is read from there with the next step.
    pub fn io_failed(&mut self, stack: &LayerStack, disk: DiskIndex, errno: i32) {
        if self.phase == Phase::ReadUp
            && stack.has_alternatives(disk)
            && self.excluded.add(disk, 0..u64::MAX)
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

    /// Does what of a zeroing needs no I/O. True when a segment is left that does; false when others should have their turn, or all is done.
    fn zero_without_io(
        &mut self,
        stack: &LayerStack,
        volume: &Volume,
        keep: bool,
    ) -> Result<bool, Stop> {
        for _ in 0..CLUSTERS_PER_TURN {
            if self.done >= self.end {
                return Ok(false);
            }
            let position = self.done;
            let in_cluster = position % CLUSTER_BYTES;
            let in_block = position % BLOCK_BYTES;
            let until_cluster_end = (CLUSTER_BYTES - in_cluster).min(self.end - position);
            let lcn = lcn_of(position);
            if in_block != 0 || until_cluster_end < BLOCK_BYTES {
                // The last block of a volume whose length is no multiple of a block is whole all the same.
                let len = (BLOCK_BYTES - in_block).min(until_cluster_end);
                if in_block != 0 || position + len < volume.size_bytes() {
                    if !is_zero(stack, volume, lcn, position) {
                        self.cut(position, position + len);
                        return Ok(true);
                    }
                    self.done += len;
                    continue;
                }
            }
            let reaches_end = position + until_cluster_end == volume.size_bytes();
            let len = if reaches_end {
                until_cluster_end
            } else {
                until_cluster_end / BLOCK_BYTES * BLOCK_BYTES
            };
            let is_whole = in_cluster == 0 && (len == CLUSTER_BYTES || reaches_end);
            let entry = volume.map().get(lcn);
            let nothing_to_hide =
                entry.bits() == MapEntry::EMPTY.bits() && holds_nothing(stack, lcn);
            if nothing_to_hide {
                self.done += len;
                continue;
            }
            if is_whole && (!keep || entry.pcn().is_none()) {
                if entry.pcn().is_none() && entry.mask() == BlockMask::ALL {
                    volume.relies_on(lcn, entry);
                } else {
                    volume.ensure_leaf(lcn)?;
                    volume.drop_cluster(lcn);
                }
                self.done += len;
                continue;
            }
            let first = low(in_cluster) / BLOCK;
            let zeroed = blocks(first, (low(in_cluster) + low(len)).div_ceil(BLOCK));
            if entry.pcn().is_none() {
                volume.ensure_leaf(lcn)?;
                if volume.tombstone(lcn, zeroed) {
                    self.done += len;
                    continue;
                }
            }
            self.cut(position, position + len);
            return Ok(true);
        }
        Ok(false)
    }

    /// Takes the locks that the segments need as their entries are now, all or none.
    fn take_locks(&mut self, volume: &Volume) -> Result<(), Stop> {
        for at in 0..self.count {
            let segment = self.segments[at];
            let entry = volume.map().get(segment.lcn);
            if let Some(hold) = needed(&segment, entry) {
                if !volume.locks().try_take(volume.slot(), segment.lcn, hold) {
                    return Err(Stop::Blocked(Blocked::Lock));
                }
                self.segments[at].lock = Some(hold);
            }
        }
        Ok(())
    }

    /// Gives every segment its cluster: the one that it has, a new one, or a private one that is still to be zeroed.
    fn claim(&mut self, volume: &Volume) -> Result<(), Stop> {
        // Clusters for segments that follow each other lie side by side, where there is room.
        let mut spare: Option<Extent> = None;
        let outcome = self.claim_all(volume, &mut spare);
        if let Some(extent) = spare {
            volume.space().give(extent);
        }
        outcome
    }

    fn claim_all(&mut self, volume: &Volume, spare: &mut Option<Extent>) -> Result<(), Stop> {
        self.copies = 0;
        for at in 0..self.count {
            let lcn = self.segments[at].lcn;
            loop {
                let entry = volume.map().get(lcn);
                let segment = &mut self.segments[at];
                // Looked at again under the lock: the entry may have changed between the look and the lock.
                if needed(segment, entry) > segment.lock {
                    return Err(Stop::Blocked(Blocked::Again));
                }
                volume.relies_on(lcn, entry);
                let held = entry.mask().get();
                if !entry.pcn().is_none() {
                    segment.pcn = entry.pcn();
                    segment.publish = BlockMask::new(segment.touched().get() & !held);
                    break;
                }
                volume.ensure_leaf(lcn)?;
                let pcn = take_one(volume, spare, lcn, self.count - at)?;
                if held != 0 {
                    segment.private = pcn;
                    segment.publish = BlockMask::new(segment.touched().get() & !held);
                    break;
                }
                if volume.claim(lcn, entry, pcn) {
                    segment.pcn = pcn;
                    segment.publish = segment.touched();
                    break;
                }
                // Somebody else claimed it, or made a tombstone of it.
                volume.space().give(Extent { pcn, count: 1 });
            }
            self.note_copy_ups(at);
        }
        Ok(())
    }

    /// Blocks of a segment that are written in part and not held yet.
    fn note_copy_ups(&mut self, at: usize) {
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

    /// The private clusters are all zero now: they are claimed over whatever tombstones there are by now. `None` to plan again.
    fn claim_private(&mut self, volume: &Volume) -> Option<Phase> {
        for segment in &mut self.segments[..self.count] {
            if segment.private.is_none() {
                continue;
            }
            loop {
                let entry = volume.map().get(segment.lcn);
                if !entry.pcn().is_none() {
                    // Not while we have the lock alone.
                    debug_assert!(false, "claimed under our lock");
                    break;
                }
                if volume.claim(segment.lcn, entry, segment.private) {
                    segment.pcn = segment.private;
                    segment.private = Pcn::NONE;
                    // Tombstones take no lock: of those that came since the plan the blocks are held now, and zero in the new cluster.
                    // A copy-up would bring back what they hide.
                    segment.publish = BlockMask::new(segment.publish.get() & !entry.mask().get());
                    break;
                }
            }
        }
        let all = self.segments[..self.count]
            .iter()
            .all(|segment| !segment.pcn.is_none());
        if all {
            self.forget_copy_ups_of_held_blocks();
            return Some(Phase::ReadUp);
        }
        self.let_go(volume);
        None
    }

    fn forget_copy_ups_of_held_blocks(&mut self) {
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

    /// Where the blocks are that are copied up.
    fn find_sources(&mut self, stack: &LayerStack) -> Result<(), i32> {
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

/// Whether a part of a block reads as zero already: it is a tombstone, or held by nobody.
fn is_zero(stack: &LayerStack, volume: &Volume, lcn: Lcn, position: u64) -> bool {
    let entry = volume.map().get(lcn);
    let block = low(position % CLUSTER_BYTES) / BLOCK;
    if entry.mask().contains(block) {
        volume.relies_on(lcn, entry);
        return entry.pcn().is_none();
    }
    let below = stack.source_below(&Excluded::NONE, position / BLOCK_BYTES * BLOCK_BYTES);
    below == Some(RunSource::Zero)
}

/// How the lock of a segment's cluster must be held for what its entry says.
fn needed(segment: &Segment, entry: MapEntry) -> Option<Hold> {
    let held = entry.mask().get();
    let missing = segment.touched().get() & !held;
    if entry.pcn().is_none() && held != 0 {
        // A claim over tombstones.
        return Some(Hold::Alone);
    }
    if missing & segment.partial().get() != 0 {
        // A copy-up.
        return Some(Hold::Alone);
    }
    (missing != 0).then_some(Hold::Shared)
}

/// Whether no layer below holds anything of a cluster.
fn holds_nothing(stack: &LayerStack, lcn: Lcn) -> bool {
    stack
        .layers
        .iter()
        .skip(1)
        .all(|layer| layer.map.get(lcn).mask() == BlockMask::EMPTY)
}

fn take_one(
    volume: &Volume,
    spare: &mut Option<Extent>,
    lcn: Lcn,
    count: usize,
) -> Result<Pcn, Unavailable> {
    let extent = match spare.take() {
        Some(extent) => extent,
        None => volume.space().take_at(
            beside_neighbours(volume, lcn),
            u32::try_from(count).unwrap_or(1).max(1),
        )?,
    };
    if extent.count > 1 {
        *spare = Some(Extent {
            pcn: Pcn::new(extent.pcn.get() + 1),
            count: extent.count - 1,
        });
    }
    Ok(extent.pcn)
}

/// Where a cluster would lie in one row with the nearest one that the volume has: what is written in order is then read in order,
/// also when the writes come a little out of order, over several queues.
fn beside_neighbours(volume: &Volume, lcn: Lcn) -> Option<Pcn> {
    let has = |lcn: Option<u32>| {
        let pcn = volume.map().get(Lcn::new(lcn?)).pcn();
        (!pcn.is_none()).then_some(pcn.get())
    };
    (1..=NEIGHBOURS).find_map(|distance| {
        let before = has(lcn.get().checked_sub(distance)).and_then(|pcn| pcn.checked_add(distance));
        let place = before.or_else(|| {
            has(lcn.get().checked_add(distance)).and_then(|pcn| pcn.checked_sub(distance))
        });
        Pcn::try_new(place?)
    })
}

fn scratch_offset(nth: usize) -> u32 {
    if nth == 0 { 0 } else { BLOCK }
}

fn lcn_of(position: u64) -> Lcn {
    // A volume has at most 2^31 clusters.
    Lcn::new(low(position / CLUSTER_BYTES))
}

fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}
