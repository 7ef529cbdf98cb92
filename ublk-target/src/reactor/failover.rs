//! A read of a replica that fails, or is late: another replica answers, and the sick one is avoided.
//!
//! There are never two writers into one memory. A read that *failed* has nothing in flight any more when it ends: it is planned again, without
//! the disk that failed it, into the same pages. A read that is *late* may still land. Where its data goes to a buffer of ours, the buffer
//! stays with the late I/O until that ends (an *orphan*), and the request begins anew with another one. Where it goes to the request's own
//! pages (zero copy), nobody can answer the request before it ends: the kernel itself keeps the request until the last I/O on its pages has
//! ended. So it waits, and only those that come after it are read elsewhere.

use std::sync::Arc;
use std::time::Duration;

use bedplate_datapath::engine::executor::{FailedIo, RequestIndex};
use bedplate_datapath::plan::DiskIndex;
use bedplate_datapath::replica::{Excluded, ReplicaSet};
use bedplate_datapath::units::{BLOCK_BYTES, ByteOffset, SECTOR_BYTES};
use io_uring::{opcode, types};

use super::requests::{Need, Slot, State};
use super::{Reactor, kind};
use crate::queue::Descriptor;
use crate::replica_events::{ReadFailed, ReadLate};

/// Ticks after which a read is late: of half a deadline each, the first of which may be just over when it begins.
const LATE_TICKS: u32 = 3;

/// A request that has had an error, and whom it does not ask any more.
pub(super) struct Failing {
    number: u32,
    excluded: Excluded,
    errno: i32,
    /// Who gave that error.
    disk: DiskIndex,
}

/// The clock of late reads. It ticks only while reads are in flight that another replica could answer.
pub(super) struct LateClock {
    /// Half of the deadline; `None`: nothing is ever late. On the heap: the kernel reads it when the entry is handed over.
    half: Option<Box<types::Timespec>>,
    half_deadline: Duration,
    pub(super) tick: u32,
    is_armed: bool,
}

impl LateClock {
    pub(super) fn new(deadline: Option<Duration>) -> Self {
        Self {
            half_deadline: deadline.unwrap_or_default() / 2,
            half: deadline.map(|deadline| Box::new(types::Timespec::from(deadline / 2))),
            tick: 0,
            is_armed: false,
        }
    }
}

impl Reactor {
    /// Whom a request does not ask.
    pub(super) fn excluded_by(failing: &[Failing], slot: &Slot, number: u32) -> Excluded {
        if !slot.has_failed {
            return Excluded::NONE;
        }
        let found = failing.iter().find(|failing| failing.number == number);
        found.map_or(Excluded::NONE, |failing| failing.excluded.clone())
    }

    /// The request ends: what was noted of it is forgotten.
    pub(super) fn forget_failures(&mut self, number: u32) {
        self.slots[number as usize].has_failed = false;
        self.failing.retain(|failing| failing.number != number);
    }

    /// The error of a request that no replica can answer: the last one that a disk gave.
    pub(super) fn last_error(&self, number: u32) -> i32 {
        let found = self.failing.iter().find(|failing| failing.number == number);
        found.map_or(libc::EIO, |failing| failing.errno)
    }

    /// The disk that gave the last error of a request that asked several.
    pub(super) fn last_failed_disk(&self, number: u32) -> Option<DiskIndex> {
        if !self.slots[number as usize].has_failed {
            return None;
        }
        let found = self.failing.iter().find(|failing| failing.number == number);
        found.map(|failing| failing.disk)
    }

    /// A read ended with an error; nothing of it is in flight. True if it goes on with another replica.
    pub(super) fn fail_over(&mut self, number: u32, failed: Option<FailedIo>, errno: i32) -> bool {
        let Some((failed, disk)) = failed.and_then(|failed| Some((failed, failed.disk?))) else {
            return false;
        };
        let descriptor = self.descriptor(number);
        // What is compared with checksums is read from the start of a block on.
        let skipped = u64::from(self.skipped_bytes(number));
        let device_at = descriptor.map_or(0, |d| d.start_sector.saturating_mul(SECTOR_BYTES));
        let device_at = device_at.saturating_sub(skipped);
        let start = device_at + u64::from(failed.request_offset);
        let end = start + u64::from(failed.len_bytes);
        let blocks = start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        // The layer whose block that is, and no other one: what a disk has of another image may be good.
        let set = self.queue_of(number).and_then(|queue| {
            let replicas = queue.stack.holder(start)?.replicas()?;
            Some(Arc::clone(replicas.set()))
        });
        let has_others = set
            .as_ref()
            .is_some_and(|set| set.len() > 1 && set.on_disk(disk).is_some());
        let goes_on = has_others && self.exclude(number, disk, blocks, errno);
        let sets: Vec<_> = set.into_iter().collect();
        self.report_failed(number, failed, device_at, (errno, goes_on), &sets);
        if goes_on {
            self.begin_again(number);
        }
        goes_on
    }

    /// A block that a write copies up could not be read; the write knows whom to ask next. For the record.
    pub(super) fn copy_up_failed(&mut self, number: u32, failed: FailedIo, errno: i32) {
        let Some(disk) = failed.disk else { return };
        let descriptor = self.descriptor(number);
        let device_at = descriptor.map_or(0, |d| d.start_sector.saturating_mul(SECTOR_BYTES));
        let Some(queue) = self.queue_of(number) else {
            return;
        };
        let goes_on = queue.stack.has_alternatives(disk);
        let layers = queue.stack.layers.iter();
        let replicas = layers.filter_map(|layer| layer.replicas());
        let sets: Vec<_> = replicas
            .map(|replicas| Arc::clone(replicas.set()))
            .collect();
        self.report_failed(number, failed, device_at, (errno, goes_on), &sets);
    }

    fn report_failed(
        &mut self,
        number: u32,
        failed: FailedIo,
        device_at: u64,
        (errno, goes_on): (i32, bool),
        sets: &[Arc<ReplicaSet>],
    ) {
        let (Some(disk), Some(queue)) = (failed.disk, self.queue_of(number)) else {
            return;
        };
        let dev_id = queue.dev_id;
        let mut is_first = false;
        for set in sets {
            if let Some(number) = set.on_disk(disk) {
                is_first |= set.read_failed(number);
            }
        }
        if goes_on && is_first {
            tracing::warn!(%dev_id, %disk, at = %failed.at, errno, "a read failed: another replica answers, this one is avoided");
        }
        self.events.read_failed(ReadFailed {
            dev_id,
            disk,
            disk_at: failed.at,
            device_at: ByteOffset::new(device_at + u64::from(failed.request_offset)),
            len_bytes: failed.len_bytes,
            errno,
            goes_on,
        });
    }

    /// Notes that a request does not ask a disk for some blocks any more. False if it did not ask it already.
    pub(super) fn exclude(
        &mut self,
        number: u32,
        disk: DiskIndex,
        blocks: std::ops::Range<u64>,
        errno: i32,
    ) -> bool {
        self.slots[number as usize].has_failed = true;
        let found = self.failing.iter_mut().find(|f| f.number == number);
        if let Some(failing) = found {
            failing.errno = errno;
            failing.disk = disk;
            return failing.excluded.add(disk, blocks);
        }
        let mut excluded = Excluded::NONE;
        excluded.add(disk, blocks);
        self.failing.push(Failing {
            number,
            excluded,
            errno,
            disk,
        });
        true
    }

    fn descriptor(&mut self, number: u32) -> Option<Descriptor> {
        let tag = self.slots[number as usize].tag;
        Some(self.queue_of(number)?.descriptors.get(tag))
    }

    /// Begins a read once more, with nothing of it in flight in its memory.
    pub(super) fn begin_again(&mut self, number: u32) {
        self.give_buffers(number);
        if self.begin(number) {
            return;
        }
        if self.leaving.is_some() {
            // Nobody looks at those who wait any more.
            self.hold(number);
        } else {
            let need = self.need(number).unwrap_or(Need::Operations);
            self.wait(number, need);
        }
    }

    /// Makes sure that the clock ticks: a read is in flight that another replica could answer.
    #[inline]
    pub(super) fn watch(&mut self) {
        if !self.late.is_armed {
            self.arm();
        }
    }

    #[cold]
    fn arm(&mut self) {
        let Some(half) = &self.late.half else { return };
        let entry = opcode::Timeout::new(&raw const **half)
            .build()
            .user_data(kind::TICK);
        // SAFETY: the time is on the heap, lives as long as the reactor, and is never changed.
        unsafe { self.ring.push(entry) };
        self.late.is_armed = true;
    }

    /// The clock ticked: looks for late reads, and goes on ticking as long as there are any that may become late.
    pub(super) fn ticked(&mut self) {
        self.late.is_armed = false;
        self.late.tick = self.late.tick.wrapping_add(1);
        let mut goes_on = false;
        for at in 0..self.slots.len() {
            let slot = &self.slots[at];
            if slot.state != State::Reading || !slot.is_watched {
                continue;
            }
            goes_on = true;
            let Ok(number) = u32::try_from(at) else {
                return;
            };
            if self.late.tick.wrapping_sub(slot.begun_tick) >= LATE_TICKS {
                self.slots[at].is_watched = false;
                self.is_late(number);
            }
        }
        if goes_on {
            self.watch();
        }
    }

    /// A read is late. It is answered by another replica if its data goes to a buffer of ours.
    fn is_late(&mut self, number: u32) {
        let silent = self.executor.disks_of(RequestIndex(number));
        let Some(Some(queue)) = self.queues.get(self.slots[number as usize].queue as usize) else {
            return;
        };
        let stack = Arc::clone(&queue.stack);
        let dev_id = queue.dev_id;
        let silent: Vec<DiskIndex> = silent
            .into_iter()
            .filter(|disk| stack.has_alternatives(*disk))
            .collect();
        let mut first = Vec::new();
        for disk in &silent {
            for replicas in stack.layers.iter().filter_map(|layer| layer.replicas()) {
                let set = replicas.set();
                if set.on_disk(*disk).is_some_and(|nth| set.read_late(nth)) && !first.contains(disk)
                {
                    first.push(*disk);
                }
            }
        }
        let descriptor = self.descriptor(number);
        let goes_on = descriptor.is_some_and(|d| self.orphan(number, &silent, &d));
        let device_at = descriptor.map_or(0, |d| d.start_sector.saturating_mul(SECTOR_BYTES));
        let waited = self.late.half_deadline * (LATE_TICKS - 1);
        for disk in first {
            tracing::warn!(%dev_id, %disk, goes_on, "a read is late: the replica is avoided");
            self.events.read_late(ReadLate {
                dev_id,
                disk,
                device_at: ByteOffset::new(device_at),
                waited,
                goes_on,
            });
        }
        if goes_on {
            self.begin_again(number);
        }
    }

    /// Leaves the I/O of a read, with its buffer, to a slot that is no tag's. False, and nothing done, if the request must wait for it.
    fn orphan(&mut self, number: u32, silent: &[DiskIndex], descriptor: &Descriptor) -> bool {
        // Half of the buffers at most: the others go on serving, however long the disk is silent.
        let has_place = self.orphans < u32::from(self.copy_buffers / 2);
        let slot = self.slots[number as usize];
        if slot.copy_buffer.is_none() || silent.is_empty() || !has_place {
            return false;
        }
        let mut excluded = Self::excluded_by(&self.failing, &slot, number);
        for disk in silent {
            excluded.add(*disk, 0..u64::MAX);
        }
        let start = ByteOffset::new(descriptor.start_sector.saturating_mul(SECTOR_BYTES));
        let Some(Some(queue)) = self.queues.get(slot.queue as usize) else {
            return false;
        };
        // Somebody else must have all of it, or waiting is better.
        let planned =
            queue
                .stack
                .plan_read_without(&excluded, start, slot.len_bytes, &mut self.plan);
        if planned.is_err() {
            return false;
        }
        let Some(place) = self.tags.take(1) else {
            return false;
        };
        self.make_room(place + 1);
        let mut orphan = Slot::new(slot.queue, slot.tag);
        orphan.state = State::Orphan;
        orphan.copy_buffer = slot.copy_buffer;
        // Its plan names clusters that must not be handed out before it ends.
        orphan.pin = slot.pin;
        self.slots[place as usize] = orphan;
        self.executor
            .move_request(RequestIndex(number), RequestIndex(place));
        let slot = &mut self.slots[number as usize];
        slot.copy_buffer = None;
        slot.pin = None;
        self.orphans += 1;
        for disk in silent {
            self.exclude(number, *disk, 0..u64::MAX, libc::ETIMEDOUT);
        }
        true
    }

    /// The I/O of a late read has ended, one way or the other; nobody waits for it.
    pub(super) fn orphan_ended(&mut self, number: u32) {
        self.unpin(number);
        self.give_buffers(number);
        self.slots[number as usize].state = State::Idle;
        self.tags.give(number, 1);
        self.orphans -= 1;
    }
}
