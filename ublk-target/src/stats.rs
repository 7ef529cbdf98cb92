//! Counters of a device: operations, bytes, latencies. Written by the reactor that serves a queue, read by whoever wants to know.
//!
//! Each queue has its own, on cache lines of its own, with one writer: a plain load and a plain store for each, no locked instruction. The
//! clock is read once a turn of the reactor, not once a request: what is begun and answered within one turn took no time that matters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bedplate_datapath::units::{DevId, SECTOR_BYTES};
use libublk::sys as lib;

use crate::queue::Descriptor;
use crate::target::{Target, locked};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// FLUSH.
    Flush,
    /// DISCARD.
    Discard,
    /// WRITE_ZEROES.
    WriteZeroes,
}

impl OperationKind {
    /// All of them, in the order of [`DeviceStats::operations`].
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Discard,
        Self::WriteZeroes,
    ];

    fn of(op: u32) -> Option<Self> {
        Some(match op {
            lib::UBLK_IO_OP_READ => Self::Read,
            lib::UBLK_IO_OP_WRITE => Self::Write,
            lib::UBLK_IO_OP_FLUSH => Self::Flush,
            lib::UBLK_IO_OP_DISCARD => Self::Discard,
            lib::UBLK_IO_OP_WRITE_ZEROES => Self::WriteZeroes,
            _ => return None,
        })
    }
}

/// Buckets of latencies: the first holds what took less than 2^14 ns (16 us), each next one twice as much, the last all the rest.
pub const LATENCY_BUCKETS: usize = 22;
const FIRST_BUCKET_BITS: u32 = 14;

/// What bucket `number` holds is below this; `None` for the last one.
pub fn latency_below(number: usize) -> Option<Duration> {
    let bits = FIRST_BUCKET_BITS + u32::try_from(number).ok()?;
    (number + 1 < LATENCY_BUCKETS).then(|| Duration::from_nanos(1 << bits))
}

fn bucket_of(nanos: u64) -> usize {
    let bits = (u64::BITS - nanos.leading_zeros()).saturating_sub(FIRST_BUCKET_BITS);
    (bits as usize).min(LATENCY_BUCKETS - 1)
}

/// One kind of operation of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationStats {
    /// Answered without an error.
    pub done: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Answered with an error.
    pub failed: u64,
    /// Time from delivery to answer, of all that were answered, in nanoseconds.
    pub nanos: u64,
    /// How many took how long.
    pub latencies: [u64; LATENCY_BUCKETS],
}

/// What a device has done since it came into service here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// By kind, as in [`OperationKind::ALL`].
    pub operations: [OperationStats; OperationKind::ALL.len()],
    /// Delivered and not answered.
    pub in_flight: u64,
}

#[derive(Default)]
struct Cells {
    done: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    nanos: AtomicU64,
    latencies: [AtomicU64; LATENCY_BUCKETS],
}

/// Counters of one queue, with one writer.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct QueueStats {
    begun: AtomicU64,
    ended: AtomicU64,
    operations: [Cells; OperationKind::ALL.len()],
}

/// By the one who writes it. Relaxed: it orders nothing, and a reader may be a moment late.
#[inline]
fn add(cell: &AtomicU64, count: u64) {
    cell.store(
        cell.load(Ordering::Relaxed).wrapping_add(count),
        Ordering::Relaxed,
    );
}

impl QueueStats {
    /// A request was delivered.
    #[inline]
    pub(crate) fn begun(&self) {
        add(&self.begun, 1);
    }

    /// It is left to the next server.
    pub(crate) fn left(&self) {
        add(&self.ended, 1);
    }

    /// It is answered.
    #[inline]
    pub(crate) fn ended(&self, descriptor: &Descriptor, answer: i32, nanos: u64) {
        add(&self.ended, 1);
        let Some(kind) = OperationKind::of(descriptor.op) else {
            return;
        };
        let cells = &self.operations[kind as usize];
        if answer < 0 {
            add(&cells.failed, 1);
        } else {
            add(&cells.done, 1);
            if kind != OperationKind::Flush {
                add(&cells.bytes, u64::from(descriptor.sectors) * SECTOR_BYTES);
            }
        }
        add(&cells.nanos, nanos);
        add(&cells.latencies[bucket_of(nanos)], 1);
    }

    /// Requests that were answered, and those of them with an error.
    #[cfg(any(test, feature = "rig"))]
    pub(crate) fn answered(&self) -> (u64, u64) {
        let failed = |cells: &Cells| cells.failed.load(Ordering::Relaxed);
        (
            self.ended.load(Ordering::Relaxed),
            self.operations.iter().map(failed).sum(),
        )
    }

    fn add_to(&self, sum: &mut DeviceStats) {
        let get = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        // Ended first: what ends in between would count as less than nothing.
        let ended = get(&self.ended);
        sum.in_flight += get(&self.begun).saturating_sub(ended);
        for (sum, cells) in sum.operations.iter_mut().zip(&self.operations) {
            sum.done += get(&cells.done);
            sum.bytes += get(&cells.bytes);
            sum.failed += get(&cells.failed);
            sum.nanos += get(&cells.nanos);
            for (sum, cell) in sum.latencies.iter_mut().zip(&cells.latencies) {
                *sum += get(cell);
            }
        }
    }
}

/// When the requests of a reactor's slots were delivered.
pub(crate) struct Stopwatch {
    started: Instant,
    /// This turn began so long after that.
    now_nanos: u64,
    /// By slot.
    begun_nanos: Vec<u64>,
}

impl Stopwatch {
    /// A turn begins.
    #[inline]
    pub(crate) fn turn(&mut self) {
        let nanos = self.started.elapsed().as_nanos();
        self.now_nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
    }

    /// There are slots up to this number.
    pub(crate) fn make_room(&mut self, slots: usize) {
        if self.begun_nanos.len() < slots {
            self.begun_nanos.resize(slots, 0);
        }
    }

    #[inline]
    pub(crate) fn begin(&mut self, slot: u32) {
        if let Some(begun) = self.begun_nanos.get_mut(slot as usize) {
            *begun = self.now_nanos;
        }
    }

    #[inline]
    pub(crate) fn nanos_since(&self, slot: u32) -> u64 {
        let begun = self.begun_nanos.get(slot as usize).copied();
        self.now_nanos
            .saturating_sub(begun.unwrap_or(self.now_nanos))
    }
}

impl Default for Stopwatch {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            now_nanos: 0,
            begun_nanos: Vec::new(),
        }
    }
}

/// The counters of the devices that are served. Weak: a queue's counters live as long as the queue is served.
#[derive(Clone, Default)]
pub(crate) struct StatsTable(Arc<Mutex<BTreeMap<DevId, Vec<Weak<QueueStats>>>>>);

impl StatsTable {
    /// Counters for a queue that comes into service.
    pub(crate) fn of_new_queue(&self, dev_id: DevId) -> Arc<QueueStats> {
        let stats = Arc::new(QueueStats::default());
        let mut table = locked(&self.0);
        let queues = table.entry(dev_id).or_default();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(&stats));
        stats
    }
}

impl Target {
    /// What each device that is served here has done, by its number.
    pub fn stats(&self) -> BTreeMap<DevId, DeviceStats> {
        let mut table = locked(&self.stats.0);
        table.retain(|_, queues| queues.iter().any(|queue| queue.strong_count() > 0));
        table
            .iter()
            .map(|(dev_id, queues)| {
                let mut sum = DeviceStats::default();
                for queue in queues.iter().filter_map(Weak::upgrade) {
                    queue.add_to(&mut sum);
                }
                (*dev_id, sum)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_lies_below_the_bound_of_its_bucket_and_not_below_the_one_before() {
        for nanos in [
            0,
            1,
            16_383,
            16_384,
            16_385,
            1_000_000,
            1 << 33,
            (1 << 34) - 1,
            1 << 35,
            u64::MAX,
        ] {
            let bucket = bucket_of(nanos);
            let time = Duration::from_nanos(nanos);
            assert!(
                latency_below(bucket).is_none_or(|bound| time < bound),
                "{nanos}"
            );
            if bucket > 0 {
                assert!(
                    latency_below(bucket - 1).is_some_and(|bound| time >= bound),
                    "{nanos}"
                );
            }
        }
        assert_eq!(latency_below(LATENCY_BUCKETS - 1), None);
    }

    #[test]
    fn a_device_is_the_sum_of_its_queues_and_is_forgotten_with_them() {
        let table = StatsTable::default();
        let dev_id = DevId::new(3);
        let queues = [table.of_new_queue(dev_id), table.of_new_queue(dev_id)];
        let read = Descriptor::new(lib::UBLK_IO_OP_READ, 8, 0);
        for queue in &queues {
            queue.begun();
            queue.begun();
            queue.ended(&read, 4096, 20_000);
        }
        queues[0].ended(&read, -libc::EIO, 5);
        let mut sum = DeviceStats::default();
        for queue in &queues {
            queue.add_to(&mut sum);
        }
        let reads = sum.operations[OperationKind::Read as usize];
        assert_eq!((reads.done, reads.bytes, reads.failed), (2, 8192, 1));
        assert_eq!(
            (reads.latencies[0], reads.latencies[1], reads.nanos),
            (1, 2, 40_005)
        );
        assert_eq!(sum.in_flight, 1);
        assert_eq!(std::mem::align_of::<QueueStats>(), 128);
    }

    #[test]
    fn time_is_that_of_the_turns() {
        let mut watch = Stopwatch::default();
        watch.make_room(2);
        watch.now_nanos = 100;
        watch.begin(1);
        assert_eq!(watch.nanos_since(1), 0);
        watch.now_nanos = 350;
        assert_eq!(watch.nanos_since(1), 250);
        // A slot that is not known has no time.
        assert_eq!(watch.nanos_since(7), 0);
    }
}
