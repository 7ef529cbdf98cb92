//! A request's way through the reactor: fetched, planned, read, copied if it must be, committed.
//!
//! A request that ends is committed exactly once, with its length or with an errno; never with its length unless all of its
//! bytes are in its pages, since what is missing would be kernel memory.

use bedplate_datapath::engine::executor::{Begun, RequestBuffer, RequestIndex};
use bedplate_datapath::units::{ByteOffset, SECTOR_BYTES};
use libublk::sys as lib;

use super::{Reactor, kind};
use crate::copy_pool::BUFFER_BYTES;
use crate::queue::{Descriptor, TagAddress};

/// How often in a row a copy may end in `EAGAIN` or `EINTR`.
const COPY_RETRIES_MAX: u8 = 64;

/// What a tag is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing: of no queue, or handed back by the kernel.
    Idle,
    /// The kernel has its FETCH.
    Fetching,
    /// Its request waits for a buffer or for operations.
    Waiting,
    /// Disk reads are in flight.
    Reading,
    /// A copy into the request's pages is in flight.
    Copying,
    /// Its request is left to the next server.
    Held,
}

/// A tag of a queue that this reactor serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Number of the queue in the reactor.
    queue: u32,
    tag: u16,
    state: State,
    retries: u8,
    /// Buffer of the pool, for a request that must be copied.
    copy_buffer: Option<u16>,
    len_bytes: u32,
    copied_bytes: u32,
}

impl Slot {
    pub(super) fn new(queue: u32, tag: u16) -> Self {
        Self {
            queue,
            tag,
            state: State::Idle,
            retries: 0,
            copy_buffer: None,
            len_bytes: 0,
            copied_bytes: 0,
        }
    }
}

/// A request that cannot be served, by its negated errno; or served without data.
type Answer = i32;

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
            self.working += 1;
            if self.leaving.is_some() {
                self.hold(number);
            } else if self.waiting.is_empty() {
                if !self.begin(number) {
                    self.wait(number);
                }
            } else {
                // Behind those who came before.
                self.wait(number);
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

    /// Tries again what waits, in order.
    pub(super) fn retry_waiting(&mut self) {
        while let Some(number) = self.waiting.front().copied() {
            if !self.begin(number) {
                return;
            }
            self.waiting.pop_front();
        }
    }

    fn wait(&mut self, number: u32) {
        self.slots[number as usize].state = State::Waiting;
        self.waiting.push_back(number);
    }

    /// Leaves a request to the next server.
    pub(super) fn hold(&mut self, number: u32) {
        self.slots[number as usize].state = State::Held;
        self.working -= 1;
        if let Some(queue) = self.queue_of(number) {
            queue.working -= 1;
        }
    }

    /// Begins a request. False, and nothing done, if it has to wait.
    fn begin(&mut self, number: u32) -> bool {
        let slot = self.slots[number as usize];
        let Some(Some(queue)) = self.queues.get(slot.queue as usize) else {
            return true;
        };
        let descriptor = queue.descriptors.get(slot.tag);
        match descriptor.op {
            lib::UBLK_IO_OP_READ => match self.begin_read(number, &descriptor) {
                Ok(begun) => return begun,
                Err(answer) => self.commit(number, answer),
            },
            // Nothing was written, so nothing is missing on the disk.
            lib::UBLK_IO_OP_FLUSH => self.commit(number, 0),
            lib::UBLK_IO_OP_WRITE | lib::UBLK_IO_OP_WRITE_ZEROES | lib::UBLK_IO_OP_DISCARD => {
                self.commit(number, -libc::EROFS);
            }
            _ => self.commit(number, -libc::EOPNOTSUPP),
        }
        true
    }

    fn begin_read(&mut self, number: u32, descriptor: &Descriptor) -> Result<bool, Answer> {
        let slot = self.slots[number as usize];
        let Some(Some(queue)) = self.queues.get(slot.queue as usize) else {
            return Ok(true);
        };
        let len_bytes = descriptor
            .sectors
            .checked_mul(512)
            .filter(|len| *len > 0 && *len as usize <= BUFFER_BYTES);
        let start = descriptor.start_sector.checked_mul(SECTOR_BYTES);
        let (Some(len_bytes), Some(start)) = (len_bytes, start) else {
            return Err(-libc::EINVAL);
        };
        self.plan.clear();
        if let Err(error) = queue
            .stack
            .plan_read(ByteOffset::new(start), len_bytes, &mut self.plan)
        {
            tracing::error!(dev_id = %queue.dev_id, start, len_bytes, %error, "a read cannot be planned");
            return Err(-libc::EIO);
        }
        let registered = queue
            .registered_buffer(slot.tag)
            .filter(|_| !descriptor.lacks_buffer());
        let (buffer, copy_buffer) = match registered {
            Some(index) => (RequestBuffer::Registered(index), None),
            None => match self.pool.take() {
                Some(taken) => (RequestBuffer::Memory(self.pool.start(taken)), Some(taken)),
                None => return Ok(false),
            },
        };
        // SAFETY: a registered buffer is the request's own pages, until its COMMIT. A pool buffer is BUFFER_BYTES long, no
        // shorter than the request, and ours until it is given back, which is after the request ended; `wind_up`
        // leaks the pool if reads are in flight.
        let begun = unsafe {
            self.executor.begin_read(
                &mut self.ring,
                RequestIndex(number),
                buffer,
                self.plan.as_slice(),
            )
        };
        if begun == Begun::Full {
            if let Some(taken) = copy_buffer {
                self.pool.give(taken);
            }
            return Ok(false);
        }
        let slot = &mut self.slots[number as usize];
        slot.state = State::Reading;
        slot.len_bytes = len_bytes;
        slot.copied_bytes = 0;
        slot.retries = 0;
        slot.copy_buffer = copy_buffer;
        if begun == Begun::Done {
            self.data_ready(number, Ok(()));
        }
        Ok(true)
    }

    /// All reads of a request have ended.
    pub(super) fn data_ready(&mut self, number: u32, outcome: Result<(), i32>) {
        let slot = self.slots[number as usize];
        match (outcome, slot.copy_buffer) {
            (Err(errno), _) => {
                if let Some(queue) = self.queue_of(number) {
                    tracing::error!(dev_id = %queue.dev_id, errno, "a read failed");
                }
                self.finish(number, -errno);
            }
            // At most BUFFER_BYTES, so it fits.
            (Ok(()), None) => self.finish(number, slot.len_bytes.cast_signed()),
            (Ok(()), Some(buffer)) => self.copy(number, buffer),
        }
    }

    fn copy(&mut self, number: u32, buffer: u16) {
        let Some(address) = self.address(number) else {
            return;
        };
        let from = self.pool.start(buffer);
        let slot = &mut self.slots[number as usize];
        slot.state = State::Copying;
        let from = from.wrapping_add(slot.copied_bytes as usize);
        let left = slot.len_bytes - slot.copied_bytes;
        let entry = address.copy_in(
            from,
            left,
            slot.copied_bytes,
            kind::COPY | u64::from(number),
        );
        // SAFETY: the buffer is this request's until `finish` gives it back, after the copy; see `begin_read` for the end.
        unsafe { self.ring.push(entry) };
    }

    /// A copy into a request's pages ended.
    pub(super) fn copied(&mut self, number: u32, result: i32) {
        let slot = &mut self.slots[number as usize];
        let Some(buffer) = slot.copy_buffer else {
            return;
        };
        match u32::try_from(result) {
            Ok(0) => self.finish(number, -libc::EIO),
            Ok(moved) => {
                slot.copied_bytes += moved;
                slot.retries = 0;
                if slot.copied_bytes >= slot.len_bytes {
                    let len_bytes = slot.len_bytes.cast_signed();
                    self.finish(number, len_bytes);
                } else {
                    self.copy(number, buffer);
                }
            }
            Err(_)
                if matches!(-result, libc::EAGAIN | libc::EINTR)
                    && slot.retries < COPY_RETRIES_MAX =>
            {
                slot.retries += 1;
                self.copy(number, buffer);
            }
            Err(_) => {
                tracing::error!(errno = -result, "a copy to /dev/ublkcN failed");
                self.finish(number, result);
            }
        }
    }

    fn finish(&mut self, number: u32, answer: Answer) {
        if let Some(buffer) = self.slots[number as usize].copy_buffer.take() {
            self.pool.give(buffer);
        }
        self.commit(number, answer);
    }

    /// Ends the request, and asks for the next one with the same command.
    fn commit(&mut self, number: u32, answer: Answer) {
        let Some(address) = self.address(number) else {
            return;
        };
        self.slots[number as usize].state = State::Fetching;
        self.working -= 1;
        if let Some(queue) = self.queue_of(number) {
            queue.working -= 1;
            queue.fetching += 1;
        }
        let entry = address.commit_and_fetch(answer, kind::COMMAND | u64::from(number));
        // SAFETY: the entry names no memory.
        unsafe { self.ring.push(entry) };
    }

    fn address(&self, number: u32) -> Option<TagAddress> {
        let slot = self.slots.get(number as usize)?;
        let queue = self.queues.get(slot.queue as usize)?.as_ref()?;
        Some(queue.address(slot.tag))
    }

    fn queue_of(&mut self, number: u32) -> Option<&mut super::Served> {
        let slot = self.slots.get(number as usize)?;
        self.queues.get_mut(slot.queue as usize)?.as_mut()
    }
}
