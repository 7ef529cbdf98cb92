//! The short way of a write: data for blocks of one cluster, of which none is to be copied up and none is a tombstone. One I/O, and then at
//! most one entry to publish.
//!
//! It does what the phases do, with the same locks and in the same order, in half of their instructions or less. Whatever is not as it hopes,
//! it leaves to them, holding nothing.

use super::claim::needed;
use super::segment::{NO_SEGMENT, Segment, lcn_of, low};
use super::{Phase, WriteIo, WriteIoList, WriteKind, WriteOp};
use crate::units::{BLOCK_BYTES, BlockMask, CLUSTER_BYTES};
use crate::volume::Volume;
use crate::volume::locks::Hold;

impl WriteOp {
    /// Begins it, in the first step: true, and its I/O is in the list; or nothing has changed.
    #[inline]
    pub(super) fn begin_shortly(&mut self, volume: &Volume, ios: &mut WriteIoList) -> bool {
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
        match needed(&segment, entry) {
            None => {
                volume.relies_on(segment.lcn, entry);
                segment.pcn = entry.pcn();
                self.segments[0] = segment;
                self.count = 1;
            }
            Some(Hold::Shared) if self.touch_first(volume, segment) => {}
            Some(_) => return false,
        }
        self.copies = 0;
        self.phase = Phase::Write;
        let segment = &self.segments[0];
        ios.push(WriteIo::FromRequest {
            request_offset: 0,
            len_bytes: segment.len_bytes,
            at: segment.at(segment.from),
        });
        true
    }

    /// Takes the lock and the cluster of a segment with blocks that the volume does not hold, all of them to be written whole.
    fn touch_first(&mut self, volume: &Volume, segment: Segment) -> bool {
        if !volume
            .locks()
            .try_take(volume.slot(), segment.lcn, Hold::Shared)
        {
            return false;
        }
        self.segments[0] = Segment {
            lock: Some(Hold::Shared),
            ..segment
        };
        self.count = 1;
        // One cluster is asked for, so nothing is spared.
        let claimed = self.claim_one(volume, &mut None, 0);
        if claimed.is_err() {
            self.let_go(volume);
            return false;
        }
        debug_assert!(
            self.segments[0].private.is_none(),
            "over tombstones the lock would have to be ours alone"
        );
        true
    }

    /// What the next step would do where that was all: the request's one segment has been written without an error. True: it is published, and
    /// the request done. Else the request is to be told that its I/O has ended, as ever.
    #[inline]
    pub fn end_shortly(&mut self, volume: &Volume) -> bool {
        let segment = &mut self.segments[0];
        let is_all = self.phase == Phase::Write
            && self.count == 1
            && self.done == self.start
            && u64::from(segment.len_bytes) == self.end - self.start;
        // Not published: its cluster was dropped meanwhile. The next step finds the same, and begins anew.
        if !is_all
            || (segment.publish != BlockMask::EMPTY
                && !volume.publish(segment.lcn, segment.pcn, segment.publish))
        {
            return false;
        }
        if let Some(hold) = segment.lock.take() {
            volume.locks().give(volume.slot(), segment.lcn, hold);
        }
        self.done = self.end;
        (self.count, self.copies) = (0, 0);
        self.phase = Phase::Plan;
        volume.note_unflushed();
        true
    }
}
