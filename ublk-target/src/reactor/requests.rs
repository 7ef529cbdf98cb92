//! A request's way through the reactor: fetched, begun, answered. What is in between is in `reads` and `writes`.
//!
//! A request that ends is committed exactly once, with its answer or with an errno; never with its length unless all of its
//! bytes are where they belong.

use std::collections::VecDeque;

use bedplate_datapath::engine::executor::FailedIo;
use bedplate_datapath::plan::DiskIndex;
use libublk::sys as lib;

use super::grace::Pin;
use super::{Reactor, kind};
use crate::queue::{Descriptor, TagAddress};

/// What a tag is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing: of no queue, or handed back by the kernel.
    Idle,
    /// The kernel has its FETCH.
    Fetching,
    /// Its request is not begun: it waits for a buffer or for operations.
    Waiting,
    /// Disk reads are in flight.
    Reading,
    /// What was read waits for its checksums.
    Checking,
    /// A list of a write's I/O is in flight.
    Writing,
    /// What a write has read to copy up waits for its checksums.
    CheckingCopyUp,
    /// Its write has nothing in flight, and goes on in a later turn.
    Blocked,
    /// The committer has been asked; the answer ends the request.
    Committing,
    /// Its request waits for a disk that has gone.
    ForDisk,
    /// Its request is left to the next server.
    Held,
    /// No tag: a late read is in flight, whose request has gone on without it.
    Orphan,
}

impl State {
    /// Whether a request may still touch the map, the locks, the clusters or the disks that its device is served from. Every state is named: one
    /// that is forgotten here goes on with what is another store's by then (see `park`).
    pub(super) fn touches_backing(self) -> bool {
        match self {
            Self::Reading | Self::Writing | Self::CheckingCopyUp | Self::Blocked => true,
            // What was read is in a buffer, and begun anew where it is not good; a write that asks for a commit has let go of everything;
            // what an orphan reads goes to a buffer that is nobody's.
            Self::Checking
            | Self::Committing
            | Self::Orphan
            | Self::Idle
            | Self::Fetching
            | Self::Waiting
            | Self::ForDisk
            | Self::Held => false,
        }
    }
}

/// What a request cannot begin without. Those that wait for one thing do not wait behind those that wait for another; a request that needs
/// nothing waits for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A buffer for its data.
    CopyBuffer,
    /// A buffer for the blocks that it begins and ends in.
    Scratch,
    /// Operations of the executor.
    Operations,
}

impl Need {
    pub(super) const COUNT: usize = 3;
    /// In the order in which they are tried: operations last, since buffers are few, and operations many.
    const ALL: [Self; Self::COUNT] = [Self::CopyBuffer, Self::Scratch, Self::Operations];

    /// `has_pages`: the request's pages are in the ring's buffer table. Writes have operations made room for later.
    fn of(descriptor: &Descriptor, has_pages: bool) -> Option<Self> {
        match descriptor.op {
            lib::UBLK_IO_OP_READ if has_pages => Some(Self::Operations),
            lib::UBLK_IO_OP_READ => Some(Self::CopyBuffer),
            lib::UBLK_IO_OP_WRITE if !has_pages => Some(Self::CopyBuffer),
            lib::UBLK_IO_OP_WRITE | lib::UBLK_IO_OP_WRITE_ZEROES | lib::UBLK_IO_OP_DISCARD
                if descriptor.has_partial_blocks() =>
            {
                Some(Self::Scratch)
            }
            _ => None,
        }
    }
}

/// What a write that found no space has done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpaceWait {
    /// Nothing.
    NotAsked,
    /// It asked for a commit.
    Asked,
    /// The commit has ended: what it freed comes after a grace period.
    Committed,
    /// The commit failed with this errno: no space will come.
    Failed(i32),
}

impl SpaceWait {
    /// After the answer to a commit; `None` if the committer is gone.
    pub(super) fn answered(self, outcome: Option<Result<(), i32>>) -> Self {
        match (self, outcome) {
            (Self::Asked, Some(Ok(()))) => Self::Committed,
            (Self::Asked, Some(Err(errno))) => Self::Failed(errno),
            (Self::Asked, None) => Self::Failed(libc::EIO),
            // A later request of the tag, which has not asked.
            (other, _) => other,
        }
    }
}

/// A tag of a queue that this reactor serves.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, of a request that is looked at at every step"
)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Number of the queue in the reactor.
    pub(super) queue: u32,
    pub(super) tag: u16,
    pub(super) state: State,
    /// Buffer of the pool, for a request that must be copied.
    pub(super) copy_buffer: Option<u16>,
    /// Scratch buffer, for a write that begins or ends within a block.
    pub(super) scratch: Option<u16>,
    /// A write whose data is copied: it goes on only with a copy buffer.
    pub(super) copies: bool,
    /// A write that goes on only with a scratch buffer.
    pub(super) needs_scratch: bool,
    /// While it relies on what maps say.
    pub(super) pin: Option<Pin>,
    pub(super) space: SpaceWait,
    /// It has had an error from a replica, which is not asked again.
    pub(super) has_failed: bool,
    /// A read that another replica could answer, and when it began.
    pub(super) is_watched: bool,
    pub(super) begun_tick: u32,
    /// Of a write: the disk that it last had an error from.
    pub(super) failed_disk: Option<DiskIndex>,
    /// The last question to a committer; 0 for none.
    pub(super) question: u64,
    /// To be durable before it is answered.
    pub(super) is_fua: bool,
    /// Of its data; 0 for a request that has none.
    pub(super) len_bytes: u32,
}

impl Slot {
    pub(super) fn new(queue: u32, tag: u16) -> Self {
        Self {
            queue,
            tag,
            state: State::Idle,
            copy_buffer: None,
            scratch: None,
            copies: false,
            needs_scratch: false,
            pin: None,
            space: SpaceWait::NotAsked,
            has_failed: false,
            is_watched: false,
            begun_tick: 0,
            failed_disk: None,
            question: 0,
            is_fua: false,
            len_bytes: 0,
        }
    }

    #[cfg(any(test, feature = "rig"))]
    pub(super) fn is_fetching(&self) -> bool {
        self.state == State::Fetching
    }

    /// Whether a write has the buffers that it needs; not while it waits for space.
    pub(super) fn has_buffers(&self) -> bool {
        (!self.copies || self.copy_buffer.is_some())
            && (!self.needs_scratch || self.scratch.is_some())
    }

    /// What a request that succeeded is answered with: its length, if it has data. Below 2^31, as every request is.
    pub(super) fn success(&self) -> Answer {
        self.len_bytes.cast_signed()
    }
}

/// What the kernel is told: a length, 0, or a negated errno.
pub(super) type Answer = i32;

impl Reactor {
    /// Asks for the first request of a slot.
    pub(super) fn fetch(&mut self, number: u32) {
        let Some(address) = self.address(number) else {
            return;
        };
        self.slots[number as usize].state = State::Fetching;
        if let Some(queue) = self.queue_of(number) {
            queue.fetching += 1;
        }
        let entry = address.fetch(kind::COMMAND | u64::from(number));
        // SAFETY: the entry names no memory.
        unsafe { self.ring.push(entry) };
    }

    /// A FETCH ended: with a request, or because the kernel takes the tag back.
    pub(super) fn command_ended(&mut self, number: u32, result: i32) {
        let Some(queue) = self.queue_of(number) else {
            return;
        };
        queue.fetching -= 1;
        if result == 0 {
            queue.working += 1;
            queue.stats.begun();
            self.working += 1;
            self.stopwatch.begin(number);
            // Behind those who came before.
            let is_first = self.waiting.iter().all(VecDeque::is_empty) && self.leaving.is_none();
            if !is_first || !self.begin(number) {
                self.begin_behind(number, is_first);
            }
            return;
        }
        queue.closing = true;
        if result != lib::UBLK_IO_RES_ABORT {
            queue.refused = Some(-result);
            let (dev_id, hardware_queue) = (queue.dev_id, queue.queue);
            let tag = self.slots[number as usize].tag;
            tracing::error!(%dev_id, queue = hardware_queue, tag, errno = -result, "the kernel refused a FETCH or COMMIT");
        }
        self.slots[number as usize].state = State::Idle;
        let queue = self.slots[number as usize].queue;
        self.release_if_done(queue);
    }

    /// Begins a request that is not the only one that is not begun, or that has to wait.
    #[cold]
    fn begin_behind(&mut self, number: u32, has_tried: bool) {
        if self.leaving.is_some() {
            self.hold(number);
            return;
        }
        let need = self.need(number);
        let is_behind = need.is_some_and(|need| !self.waiting[need as usize].is_empty());
        if has_tried || is_behind || !self.begin(number) {
            // Who needs nothing begins at once.
            self.wait(number, need.unwrap_or(Need::Operations));
        }
    }

    /// Tries again what waits, in order.
    pub(super) fn retry_waiting(&mut self) {
        for need in Need::ALL {
            while let Some(number) = self.waiting[need as usize].front().copied() {
                if !self.begin(number) {
                    break;
                }
                self.waiting[need as usize].pop_front();
            }
        }
    }

    pub(super) fn need(&self, number: u32) -> Option<Need> {
        let slot = self.slots.get(number as usize)?;
        let queue = self.queues.get(slot.queue as usize)?.as_ref()?;
        let descriptor = queue.descriptors.get(slot.tag);
        let is_copied = queue.is_checked && descriptor.op == lib::UBLK_IO_OP_READ;
        let has_pages =
            queue.registered_buffer(slot.tag).is_some() && !descriptor.lacks_buffer() && !is_copied;
        Need::of(&descriptor, has_pages)
    }

    pub(super) fn wait(&mut self, number: u32, need: Need) {
        self.slots[number as usize].state = State::Waiting;
        self.waiting[need as usize].push_back(number);
    }

    /// Leaves a request to the next server.
    pub(super) fn hold(&mut self, number: u32) {
        self.give_buffers(number);
        if self.slots[number as usize].has_failed {
            self.forget_failures(number);
        }
        self.slots[number as usize].state = State::Held;
        self.working -= 1;
        if let Some(queue) = self.queue_of(number) {
            queue.working -= 1;
            queue.stats.left();
        }
    }

    /// Begins a request. False, and nothing done, if it has to wait.
    pub(super) fn begin(&mut self, number: u32) -> bool {
        let slot = &self.slots[number as usize];
        let Some(Some(queue)) = self.queues.get(slot.queue as usize) else {
            return true;
        };
        if queue.standing.is_stopped() {
            self.stop_request(number);
            return true;
        }
        let descriptor = queue.descriptors.get(slot.tag);
        let begun = match descriptor.op {
            lib::UBLK_IO_OP_READ => self.begin_read(number, &descriptor),
            lib::UBLK_IO_OP_FLUSH => {
                self.begin_flush(number);
                Ok(true)
            }
            lib::UBLK_IO_OP_WRITE | lib::UBLK_IO_OP_WRITE_ZEROES | lib::UBLK_IO_OP_DISCARD => {
                self.begin_write(number, &descriptor)
            }
            _ => Err(-libc::EOPNOTSUPP),
        };
        begun.unwrap_or_else(|answer| {
            // No replica is left that could be asked.
            let disk = self.last_failed_disk(number);
            if disk.is_none() || !self.waits_for_disk(number, -answer, disk) {
                self.commit(number, answer);
            }
            true
        })
    }

    /// The last I/O of a request, or one list of it, has ended.
    pub(super) fn io_ended(
        &mut self,
        number: u32,
        outcome: Result<(), i32>,
        failed: Option<FailedIo>,
    ) {
        match self.slots[number as usize].state {
            State::Writing => self.write_io_ended(number, outcome, failed),
            State::Orphan => self.orphan_ended(number),
            _ => self.data_ready(number, outcome, failed),
        }
    }

    /// Gives back what the request has of ours; who waits for it gets a turn.
    #[inline]
    pub(super) fn give_buffers(&mut self, number: u32) {
        let slot = &self.slots[number as usize];
        if slot.copy_buffer.is_some() | slot.scratch.is_some() {
            self.put_buffers_back(number);
            self.has_more |=
                !self.blocked.is_empty() || self.waiting.iter().any(|queue| !queue.is_empty());
        }
    }

    /// As [`Reactor::give_buffers`], of what was just taken.
    pub(super) fn put_buffers_back(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        let (copy_buffer, scratch) = (slot.copy_buffer.take(), slot.scratch.take());
        if let Some(buffer) = copy_buffer {
            self.pool.give(buffer);
        }
        if let Some(buffer) = scratch {
            self.scratch.give(buffer);
        }
    }

    /// The request relies on nothing any more: its last I/O has ended, or it waits with nothing in flight.
    pub(super) fn unpin(&mut self, number: u32) {
        if let Some(pin) = self.slots[number as usize].pin.take() {
            self.grace.leave(pin);
        }
    }

    pub(super) fn finish(&mut self, number: u32, answer: Answer) {
        self.give_buffers(number);
        self.commit(number, answer);
    }

    /// Ends the request, and asks for the next one with the same command.
    pub(super) fn commit(&mut self, number: u32, answer: Answer) {
        if self.slots[number as usize].has_failed {
            self.forget_failures(number);
        }
        let slot = &mut self.slots[number as usize];
        let Some(Some(queue)) = self.queues.get_mut(slot.queue as usize) else {
            return;
        };
        slot.state = State::Fetching;
        self.working -= 1;
        // The descriptor is the request's until the COMMIT is handed over.
        let descriptor = queue.descriptors.get(slot.tag);
        let nanos = self.stopwatch.nanos_since(number);
        queue.stats.ended(&descriptor, answer, nanos);
        queue.working -= 1;
        queue.fetching += 1;
        let to = queue.address(slot.tag);
        let entry = to.commit_and_fetch(answer, kind::COMMAND | u64::from(number));
        // SAFETY: the entry names no memory.
        unsafe { self.ring.push(entry) };
    }

    pub(super) fn address(&self, number: u32) -> Option<TagAddress> {
        let slot = self.slots.get(number as usize)?;
        let queue = self.queues.get(slot.queue as usize)?.as_ref()?;
        Some(queue.address(slot.tag))
    }

    pub(super) fn queue_of(&mut self, number: u32) -> Option<&mut super::Served> {
        let slot = self.slots.get(number as usize)?;
        self.queues.get_mut(slot.queue as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_needs_no_buffer_waits_for_none() {
        let need = |op, sectors, has_pages| Need::of(&Descriptor::new(op, sectors, 8), has_pages);
        for op in [lib::UBLK_IO_OP_DISCARD, lib::UBLK_IO_OP_WRITE_ZEROES] {
            assert_eq!(need(op, 16, false), None);
            assert_eq!(need(op, 7, false), Some(Need::Scratch));
        }
        assert_eq!(need(lib::UBLK_IO_OP_FLUSH, 0, false), None);
        assert_eq!(need(lib::UBLK_IO_OP_WRITE, 8, true), None);
        assert_eq!(need(lib::UBLK_IO_OP_WRITE, 7, true), Some(Need::Scratch));
        assert_eq!(
            need(lib::UBLK_IO_OP_WRITE, 8, false),
            Some(Need::CopyBuffer)
        );
        assert_eq!(need(lib::UBLK_IO_OP_READ, 8, false), Some(Need::CopyBuffer));
        assert_eq!(need(lib::UBLK_IO_OP_READ, 8, true), Some(Need::Operations));
    }

    #[test]
    fn only_who_asked_for_space_takes_the_answer() {
        let outcomes = [Some(Ok(())), Some(Err(libc::ENOSPC)), None];
        let asked = outcomes.map(|outcome| SpaceWait::Asked.answered(outcome));
        assert_eq!(
            asked,
            [
                SpaceWait::Committed,
                SpaceWait::Failed(libc::ENOSPC),
                SpaceWait::Failed(libc::EIO)
            ]
        );
        for outcome in outcomes {
            assert_eq!(SpaceWait::NotAsked.answered(outcome), SpaceWait::NotAsked);
        }
    }
}
