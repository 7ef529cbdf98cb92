//! WRITE, DISCARD, WRITE_ZEROES: each tag of a writable queue has a [`WriteOp`], which is driven from step to step.
//!
//! A write is answered only when everything is published. While it waits for a lock or for space it has nothing in flight and
//! pins nothing. One step a turn for what has no end soon.

use std::ops::Range;
use std::sync::Arc;

use bedplate_datapath::engine::executor::{
    Begun, FailedIo, RequestBuffer, RequestIndex, WriteBuffers,
};
use bedplate_datapath::plan::{DiskIndex, LayerStack};
use bedplate_datapath::units::{BLOCK_BYTES, ByteOffset, SECTOR_BYTES};
use bedplate_datapath::volume::Volume;
use bedplate_datapath::volume::write::{
    Blocked, ReadUp, WriteIoList, WriteKind, WriteOp, WriteStep,
};
use libublk::sys as lib;

use super::Reactor;
use super::devices::NO_BUFFER;
use super::requests::{Answer, SpaceWait, State};
use crate::backing::{Committer, Writable};
use crate::buffer_pool::COPY_BYTES;
use crate::queue::Descriptor;

/// What a queue has for its writes.
pub(super) struct Writes {
    pub(super) volume: Arc<Volume>,
    pub(super) committer: Arc<dyn Committer>,
    /// By tag. Made when the queue comes, so that no request allocates.
    ops: Box<[WriteOp]>,
}

impl Writes {
    pub(super) fn new(writable: &Writable, depth: u16) -> Self {
        Self {
            volume: Arc::clone(&writable.volume),
            committer: Arc::clone(&writable.committer),
            ops: (0..depth).map(|_| WriteOp::new()).collect(),
        }
    }

    /// The write of a tag.
    pub(super) fn op(&self, tag: u16) -> Option<&WriteOp> {
        self.ops.get(usize::from(tag))
    }

    /// Takes a volume that grew. Requests that have begun go on with it: it is the same memory and the same locks, only longer, and until
    /// every reactor has it, the kernel sends nothing beyond the old end.
    pub(super) fn grow(&mut self, writable: &Writable) {
        self.volume = Arc::clone(&writable.volume);
        self.committer = Arc::clone(&writable.committer);
    }
}

/// Blocks that could not be copied up from a disk.
pub(super) type NotReadUp = (DiskIndex, Range<u64>);

/// What is written, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    kind: WriteKind,
    at: u64,
    len_bytes: u64,
}

impl Wish {
    fn of(descriptor: &Descriptor, stack: &LayerStack) -> Result<Self, Answer> {
        let len_bytes = u64::from(descriptor.sectors) * SECTOR_BYTES;
        let (kind, longest) = match descriptor.op {
            lib::UBLK_IO_OP_WRITE => (WriteKind::Data, COPY_BYTES as u64),
            lib::UBLK_IO_OP_WRITE_ZEROES => {
                let keep = descriptor.keeps_space();
                (WriteKind::Zero { keep }, u64::MAX)
            }
            _ => (WriteKind::Zero { keep: false }, u64::MAX),
        };
        let at = descriptor
            .start_sector
            .checked_mul(SECTOR_BYTES)
            .filter(|_| len_bytes > 0 && len_bytes <= longest)
            .ok_or(-libc::EINVAL)?;
        let end = at.checked_add(len_bytes).ok_or(-libc::EINVAL)?;
        if end > stack.device_bytes() {
            return Err(-libc::EIO);
        }
        Ok(Self {
            kind,
            at,
            len_bytes,
        })
    }
}

impl Reactor {
    /// Begins a write, a discard, or zeros. False, and nothing done, if it has to wait.
    pub(super) fn begin_write(
        &mut self,
        number: u32,
        descriptor: &Descriptor,
    ) -> Result<bool, Answer> {
        let slot = &self.slots[number as usize];
        let Some(Some(queue)) = self.queues.get(slot.queue as usize) else {
            return Ok(true);
        };
        let registered = queue
            .registered_buffer(slot.tag)
            .filter(|_| !descriptor.lacks_buffer());
        if queue.writes.is_none() {
            return Err(-libc::EROFS);
        }
        let wish = Wish::of(descriptor, &queue.stack)?;
        let has_data = wish.kind == WriteKind::Data;
        let copies = has_data && registered.is_none();
        let slot = &mut self.slots[number as usize];
        slot.copies = copies;
        slot.needs_scratch = descriptor.has_partial_blocks();
        if !self.take_buffers(number) {
            return Ok(false);
        }
        let slot = &mut self.slots[number as usize];
        slot.len_bytes = if has_data {
            // At most COPY_BYTES.
            descriptor.sectors * 512
        } else {
            0
        };
        slot.space = SpaceWait::NotAsked;
        slot.failed_disk = None;
        slot.is_fua = descriptor.is_fua();
        let tag = usize::from(slot.tag);
        if let Some(op) = self
            .queue_of(number)
            .and_then(|queue| queue.writes.as_mut()?.ops.get_mut(tag))
        {
            op.begin(wish.kind, ByteOffset::new(wish.at), wish.len_bytes);
        }
        if copies {
            self.copy_out(number);
        } else {
            // It has just been looked at whether it may go on.
            self.go_on(number);
        }
        Ok(true)
    }

    /// Takes the buffers that a write needs: all of them, or none.
    #[inline]
    fn take_buffers(&mut self, number: u32) -> bool {
        let slot = &self.slots[number as usize];
        !(slot.copies | slot.needs_scratch) || self.take_needed_buffers(number)
    }

    fn take_needed_buffers(&mut self, number: u32) -> bool {
        let slot = &mut self.slots[number as usize];
        if slot.copies && slot.copy_buffer.is_none() {
            slot.copy_buffer = self.pool.take();
        }
        if slot.needs_scratch && slot.scratch.is_none() {
            slot.scratch = self.scratch.take();
        }
        let has_all = slot.has_buffers();
        if !has_all {
            self.put_buffers_back(number);
        }
        has_all
    }

    /// A list of a write's I/O has ended.
    pub(super) fn write_io_ended(
        &mut self,
        number: u32,
        outcome: Result<(), i32>,
        failed: Option<FailedIo>,
    ) {
        // The way of most writes.
        if outcome.is_ok() && self.end_shortly(number) {
            self.done(number);
            return;
        }
        // A list of whole blocks has read nothing.
        let may_have_read = self.slots[number as usize].scratch.is_some();
        if outcome.is_ok() && may_have_read && self.note_copied_up(number) {
            self.check(number);
            return;
        }
        let failed_read = failed.filter(|failed| failed.is_read);
        if outcome.is_err() {
            self.slots[number as usize].failed_disk = failed.and_then(|failed| failed.disk);
        }
        if let (Err(errno), Some(failed)) = (outcome, failed_read) {
            self.copy_up_failed(number, failed, errno);
        }
        if let Err(errno) = outcome
            && let Some(queue) = self.queue_of(number)
        {
            let is_read = failed_read.is_some();
            tracing::error!(dev_id = %queue.dev_id, errno, is_read, "I/O of a write failed");
        }
        let blocks = failed_read.and_then(|failed| self.not_read_up(number, failed));
        let outcome = outcome.map_err(|errno| (blocks, errno));
        self.copied_up(number, outcome);
    }

    /// Whether a write is done, whose I/O has ended, without another step.
    #[inline]
    fn end_shortly(&mut self, number: u32) -> bool {
        let slot = &self.slots[number as usize];
        if let Some(Some(queue)) = self.queues.get_mut(slot.queue as usize)
            // What it was served from may be another volume by now, to which it would be news that there is something to flush.
            && !queue.standing.is_stopped()
            && let Some(writes) = &mut queue.writes
            && let Some(op) = writes.ops.get_mut(usize::from(slot.tag))
        {
            return op.end_shortly(&writes.volume);
        }
        false
    }

    /// The disk and the block of a read that failed, of a block to be copied up.
    fn not_read_up(&mut self, number: u32, failed: FailedIo) -> Option<NotReadUp> {
        let disk = failed.disk?;
        let tag = self.slots[number as usize].tag;
        let op = self.queue_of(number)?.writes.as_ref()?.op(tag)?;
        let within = |read: &ReadUp| {
            let scratch = u64::from(read.scratch_offset);
            (scratch..scratch + BLOCK_BYTES).contains(&u64::from(failed.request_offset))
        };
        let block = op.read_up().find(within)?.position / BLOCK_BYTES;
        Some((disk, block..block + 1))
    }

    /// A list of a write's I/O has ended, and what it read was compared. An error is of a read of blocks from a disk, where it says which.
    pub(super) fn copied_up(&mut self, number: u32, outcome: Result<(), (Option<NotReadUp>, i32)>) {
        let tag = usize::from(self.slots[number as usize].tag);
        if let Some(queue) = self.queue_of(number)
            && let Some(op) = queue
                .writes
                .as_mut()
                .and_then(|writes| writes.ops.get_mut(tag))
        {
            match outcome {
                Err((Some((disk, blocks)), errno)) => {
                    op.io_failed(&queue.stack, disk, blocks, errno);
                }
                other => op.io_ended(other.map_err(|(_, errno)| errno)),
            }
        }
        self.drive(number);
    }

    /// Goes on with what is blocked: each request once.
    pub(super) fn retry_blocked(&mut self) {
        for _ in 0..self.blocked.len() {
            if let Some(number) = self.blocked.pop_front() {
                self.drive(number);
            }
        }
    }

    /// Goes on with a write as far as it can.
    pub(super) fn drive(&mut self, number: u32) {
        if self.is_stopped(number) {
            self.abandon_op(number);
            self.unpin(number);
            self.stop_request(number);
            return;
        }
        if !self.slots[number as usize].has_buffers() {
            self.resume(number);
            return;
        }
        self.go_on(number);
    }

    /// As [`Self::drive`], of a write that has its buffers, and whose device is not stopped.
    #[inline]
    fn go_on(&mut self, number: u32) {
        // Before the step: what it plans must be carried out.
        if !self.executor.has_room(WriteIoList::CAPACITY) {
            self.set_aside(number);
            return;
        }
        let step = self.step(number);
        if step != WriteStep::Io {
            self.stepped(number, step);
        }
    }

    /// All of a write is where it belongs, and published.
    fn done(&mut self, number: u32) {
        self.unpin(number);
        let slot = &self.slots[number as usize];
        let answer = slot.success();
        if slot.is_fua {
            self.give_buffers(number);
            self.ask_for_commit(number);
        } else {
            self.finish(number, answer);
        }
    }

    /// Goes on with a write that gave its buffers back: once there is space for it, it takes buffers again, and its data is copied again.
    fn resume(&mut self, number: u32) {
        // Without them a step would be of no use.
        if self.leaving.is_some() || !self.take_buffers(number) {
            self.set_aside(number);
            return;
        }
        let step = self.try_step(number);
        if step != WriteStep::Io {
            // Nobody has missed them.
            self.put_buffers_back(number);
            self.stepped(number, step);
            return;
        }
        // Planned anew when the data is here.
        self.abandon_op(number);
        if self.slots[number as usize].copies {
            self.copy_out(number);
        } else {
            self.drive(number);
        }
    }

    /// A step of which nothing is carried out: what it plans is to be abandoned.
    fn try_step(&mut self, number: u32) -> WriteStep {
        let slot = &self.slots[number as usize];
        let Some(Some(queue)) = self.queues.get_mut(slot.queue as usize) else {
            return WriteStep::Failed(libc::EIO);
        };
        let Some(writes) = &mut queue.writes else {
            return WriteStep::Failed(libc::EROFS);
        };
        let Some(op) = writes.ops.get_mut(usize::from(slot.tag)) else {
            return WriteStep::Failed(libc::EIO);
        };
        let pin = self.grace.enter();
        let step = op.step(&queue.stack, &writes.volume, &mut self.ios);
        self.grace.leave(pin);
        step
    }

    fn stepped(&mut self, number: u32, step: WriteStep) {
        match step {
            WriteStep::Io => {}
            WriteStep::Done => self.done(number),
            WriteStep::Failed(errno) => {
                self.unpin(number);
                self.write_failed(number, errno);
            }
            WriteStep::Blocked(why) => {
                self.unpin(number);
                match why {
                    Blocked::Again => self.has_more = true,
                    Blocked::Lock => {}
                    Blocked::Space => {
                        if let SpaceWait::Failed(errno) = self.slots[number as usize].space {
                            self.abandon_op(number);
                            self.write_failed(number, errno);
                            return;
                        }
                        self.ask_for_space(number);
                        // What frees space may need one. It may take long, too.
                        self.give_buffers(number);
                    }
                }
                self.set_aside(number);
            }
        }
    }

    /// A write that has let go of everything ends with an error, or waits for its disk.
    fn write_failed(&mut self, number: u32, errno: i32) {
        let failed = self.slots[number as usize].failed_disk;
        let disk = failed.or_else(|| self.own_disk(number));
        if !self.waits_for_disk(number, errno, disk) {
            self.finish(number, -errno);
        }
    }

    /// Steps until I/O is in flight, or there is nothing to do now.
    fn step(&mut self, number: u32) -> WriteStep {
        let slot = &mut self.slots[number as usize];
        let Some(Some(queue)) = self.queues.get_mut(slot.queue as usize) else {
            return WriteStep::Failed(libc::EIO);
        };
        let registered = queue.registered_buffer(slot.tag);
        let Some(writes) = &mut queue.writes else {
            return WriteStep::Failed(libc::EROFS);
        };
        let (Some(op), Some(own)) = (
            writes.ops.get_mut(usize::from(slot.tag)),
            queue.stack.layers.first(),
        ) else {
            return WriteStep::Failed(libc::EIO);
        };
        let data = match slot.copy_buffer {
            Some(buffer) => self.pool.request_buffer(buffer, slot.len_bytes as usize),
            // Without data there may be none; a list names none then, and the kernel would refuse this one.
            None => RequestBuffer::Registered(registered.unwrap_or(NO_BUFFER)),
        };
        let scratch = slot
            .scratch
            .map_or(std::ptr::null_mut(), |buffer| self.scratch.start(buffer));
        // Before the step, which looks at the map.
        if slot.pin.is_none() {
            slot.pin = Some(self.grace.enter());
        }
        loop {
            let step = op.step(&queue.stack, &writes.volume, &mut self.ios);
            if step != WriteStep::Io {
                return step;
            }
            // SAFETY: a registered buffer is the request's own pages, until its COMMIT; a pool buffer is as long as any request; both are
            // left alone until the request ends, and `wind_up` leaks the pools if I/O is in flight. Lists name scratch memory, two blocks
            // at most, only for requests that begin or end within a block, and these have a scratch buffer.
            let begun = unsafe {
                self.executor.begin_write(
                    &mut self.ring,
                    RequestIndex(number),
                    own.disk,
                    WriteBuffers { data, scratch },
                    self.ios.as_slice(),
                )
            };
            match begun {
                Begun::InFlight => {
                    slot.state = State::Writing;
                    return WriteStep::Io;
                }
                Begun::Done => op.io_ended(Ok(())),
                // There was room, and nobody took it: a list has no more than its capacity.
                Begun::Full => op.io_ended(Err(libc::EIO)),
            }
        }
    }

    /// Puts a write that has nothing in flight off to a later turn; or leaves it to the next server, if there is no later turn.
    fn set_aside(&mut self, number: u32) {
        if self.leaving.is_some() {
            self.abandon(number);
            return;
        }
        self.slots[number as usize].state = State::Blocked;
        self.blocked.push_back(number);
    }

    /// Leaves a write to the next server. Whatever it has written so far, it is issued again, and no harm is done twice.
    pub(super) fn abandon(&mut self, number: u32) {
        self.abandon_op(number);
        self.unpin(number);
        self.hold(number);
    }

    fn abandon_op(&mut self, number: u32) {
        let tag = usize::from(self.slots[number as usize].tag);
        if let Some(writes) = self
            .queue_of(number)
            .and_then(|queue| queue.writes.as_mut())
            && let Some(op) = writes.ops.get_mut(tag)
        {
            op.abandon(&writes.volume);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE_BYTES: u64 = 8 << 30;

    fn wish(op_flags: u32, start_sector: u64, sectors: u32) -> Result<Wish, Answer> {
        let stack = LayerStack {
            layers: Vec::new(),
            size_bytes: DEVICE_BYTES,
        };
        Wish::of(&Descriptor::new(op_flags, sectors, start_sector), &stack)
    }

    #[test]
    fn a_bad_descriptor_is_an_error_whatever_it_says() {
        let write = lib::UBLK_IO_OP_WRITE;
        assert_eq!(wish(write, 0, 0), Err(-libc::EINVAL));
        assert_eq!(wish(write, 0, 2049), Err(-libc::EINVAL));
        assert_eq!(wish(write, u64::MAX, 1), Err(-libc::EINVAL));
        assert_eq!(wish(write, u64::MAX / 512, 1), Err(-libc::EINVAL));
        assert_eq!(wish(write, DEVICE_BYTES / 512, 1), Err(-libc::EIO));
        let discard = lib::UBLK_IO_OP_DISCARD;
        assert_eq!(wish(discard, 0, u32::MAX), Err(-libc::EIO));
        assert!(wish(discard, 0, u32::MAX >> 9).is_ok());
    }

    #[test]
    fn nounmap_keeps_space_and_a_discard_never_does() {
        let kind = |op_flags| wish(op_flags, 0, 8).map(|wish| wish.kind);
        let nounmap = lib::UBLK_IO_F_NOUNMAP;
        let zeroes = lib::UBLK_IO_OP_WRITE_ZEROES;
        assert_eq!(kind(zeroes), Ok(WriteKind::Zero { keep: false }));
        assert_eq!(kind(zeroes | nounmap), Ok(WriteKind::Zero { keep: true }));
        assert_eq!(
            kind(lib::UBLK_IO_OP_DISCARD),
            Ok(WriteKind::Zero { keep: false })
        );
        assert_eq!(
            kind(lib::UBLK_IO_OP_WRITE | lib::UBLK_IO_F_FUA),
            Ok(WriteKind::Data)
        );
    }

    #[test]
    fn scratch_is_for_parts_of_blocks() {
        let needs = |start, sectors| {
            Descriptor::new(lib::UBLK_IO_OP_WRITE, sectors, start).has_partial_blocks()
        };
        assert!(!needs(8, 16));
        assert!(needs(1, 8));
        assert!(needs(8, 7));
        assert!(needs(1, 7));
    }

    #[test]
    fn a_write_has_its_buffers_or_needs_none() {
        let mut slot = super::super::requests::Slot::new(0, 0);
        assert!(slot.has_buffers());
        slot.copies = true;
        slot.needs_scratch = true;
        slot.copy_buffer = Some(1);
        assert!(!slot.has_buffers());
        slot.scratch = Some(1);
        assert!(slot.has_buffers());
        slot.copy_buffer = None;
        assert!(!slot.has_buffers());
    }
}
