//! READ: planned, read from the disks into the request's pages, or into a buffer and copied.
//!
//! What is missing of an answered read would be kernel memory: success is only ever said of all bytes.

use bedplate_datapath::engine::executor::{Begun, FailedIo, RequestBuffer, RequestIndex};
use bedplate_datapath::plan::{LayerStack, PlanError, RunList};
use bedplate_datapath::replica::Excluded;
use bedplate_datapath::units::{BLOCK_BYTES, ByteOffset, SECTOR_BYTES};

use super::Reactor;
use super::requests::{Answer, State};
use crate::buffer_pool::{COPY_BUFFER_BYTES, COPY_BYTES};
use crate::queue::Descriptor;

/// The plan of a read that has had an error from a replica, or is compared with checksums: out of the way of all others.
#[cold]
#[inline(never)]
fn plan_rarely(
    stack: &LayerStack,
    excluded: &Excluded,
    is_checked: bool,
    at: ByteOffset,
    len_bytes: u32,
    plan: &mut RunList,
) -> Result<(), PlanError> {
    if !is_checked {
        return stack.plan_read_without(excluded, at, len_bytes, plan);
    }
    let (at, len_bytes) = whole_blocks(at.get(), len_bytes);
    stack.plan_blocks_without(excluded, at, len_bytes, plan)
}

/// The blocks that a request lies in.
fn whole_blocks(start: u64, len_bytes: u32) -> (ByteOffset, u32) {
    let first = start - start % BLOCK_BYTES;
    let end = start.saturating_add(len_bytes.into());
    let blocks = end.div_ceil(BLOCK_BYTES) - first / BLOCK_BYTES;
    // A request has 1 MiB at most; more would be refused by the plan.
    let len_bytes = u32::try_from(blocks.saturating_mul(BLOCK_BYTES)).unwrap_or(u32::MAX);
    (ByteOffset::new(first), len_bytes)
}

impl Reactor {
    /// Begins a read. False, and nothing done, if it has to wait.
    pub(super) fn begin_read(
        &mut self,
        number: u32,
        descriptor: &Descriptor,
    ) -> Result<bool, Answer> {
        let slot = self.slots[number as usize];
        let Some(Some(queue)) = self.queues.get(slot.queue as usize) else {
            return Ok(true);
        };
        let len_bytes = descriptor
            .sectors
            .checked_mul(512)
            .filter(|len| *len > 0 && *len as usize <= COPY_BYTES);
        let start = descriptor.start_sector.checked_mul(SECTOR_BYTES);
        let (Some(len_bytes), Some(start)) = (len_bytes, start) else {
            return Err(-libc::EINVAL);
        };
        let registered = queue
            .read_buffer(slot.tag)
            .filter(|_| !descriptor.lacks_buffer());
        self.plan.clear();
        let at = ByteOffset::new(start);
        // Not `||`: one branch for what is rare.
        let planned = if slot.has_failed | queue.is_checked {
            let excluded = Self::excluded_by(&self.failing, &slot, number);
            plan_rarely(
                &queue.stack,
                &excluded,
                queue.is_checked,
                at,
                len_bytes,
                &mut self.plan,
            )
        } else {
            queue.stack.plan_read(at, len_bytes, &mut self.plan)
        };
        if let Err(PlanError::Unreadable { at }) = planned {
            tracing::error!(dev_id = %queue.dev_id, start, len_bytes, %at, "no replica can answer a read");
            return Err(-self.last_error(number));
        }
        if let Err(error) = planned {
            tracing::error!(dev_id = %queue.dev_id, start, len_bytes, %error, "a read cannot be planned");
            return Err(-libc::EIO);
        }
        let (has_replicas, is_checked) = (queue.has_replicas, queue.is_checked);
        let (buffer, copy_buffer) = match registered {
            Some(index) => (RequestBuffer::Registered(index), None),
            None => match self.pool.take() {
                Some(taken) => {
                    if is_checked {
                        self.note_image_blocks(number, start);
                    }
                    // Of what is compared, whole blocks are read.
                    let len = if is_checked {
                        COPY_BUFFER_BYTES
                    } else {
                        len_bytes as usize
                    };
                    (self.pool.request_buffer(taken, len), Some(taken))
                }
                None => return Ok(false),
            },
        };
        // SAFETY: a registered buffer is the request's own pages, until its COMMIT. A pool buffer is COPY_BUFFER_BYTES long, no
        // shorter than the blocks that the request lies in, and ours until it is given back, which is after the request ended; `wind_up`
        // leaks the pool if I/O is in flight.
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
        slot.copy_buffer = copy_buffer;
        slot.is_watched = has_replicas;
        slot.begun_tick = self.late.tick;
        if begun == Begun::Done {
            self.data_ready(number, Ok(()), None);
        } else {
            // The plan names clusters that must not be handed out again under it. Nothing came between: this thread answers for
            // grace periods too.
            slot.pin = Some(self.grace.enter());
            if has_replicas {
                self.watch();
            }
        }
        Ok(true)
    }

    /// All reads of a request have ended.
    pub(super) fn data_ready(
        &mut self,
        number: u32,
        outcome: Result<(), i32>,
        failed: Option<FailedIo>,
    ) {
        self.unpin(number);
        let slot = &self.slots[number as usize];
        match outcome {
            // The way of most reads: the request's own pages are filled.
            Ok(()) if slot.copy_buffer.is_none() => {
                let answer = slot.success();
                self.commit(number, answer);
            }
            Ok(()) if self.is_checked(slot) => self.check(number),
            Ok(()) => self.copy_in(number),
            Err(errno) => self.read_failed(number, errno, failed),
        }
    }

    /// A read goes on with another replica, waits for its disk, or ends with its error.
    #[cold]
    fn read_failed(&mut self, number: u32, errno: i32, failed: Option<FailedIo>) {
        let disk = failed.and_then(|failed| failed.disk);
        if self.fail_over(number, failed, errno) || self.waits_for_disk(number, errno, disk) {
            return;
        }
        if let Some(queue) = self.queue_of(number) {
            tracing::error!(dev_id = %queue.dev_id, errno, "a read failed");
        }
        self.finish(number, -errno);
    }
}
