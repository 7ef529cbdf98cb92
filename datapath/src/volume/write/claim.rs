//! A cluster for every segment: the one that it has, a new one that is claimed at once, or a private one that is claimed over tombstones
//! when it is zero.

use super::segment::Segment;
use super::{Blocked, Phase, Stop, WriteOp};
use crate::alloc::Extent;
use crate::map::MapEntry;
use crate::units::{BlockMask, Lcn, Pcn};
use crate::volume::Volume;
use crate::volume::locks::Hold;
use crate::volume::space::Unavailable;

/// How far a cluster looks for one to lie in a row with: 2 MiB, two of the longest requests.
const NEIGHBOURS: u32 = 16;

impl WriteOp {
    /// Takes the locks that the segments need as their entries are now, all or none.
    pub(super) fn take_locks(&mut self, volume: &Volume) -> Result<(), Stop> {
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
    pub(super) fn claim(&mut self, volume: &Volume) -> Result<(), Stop> {
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
            self.claim_one(volume, spare, at)?;
            self.note_copy_ups(at);
        }
        Ok(())
    }

    /// Gives a segment its cluster, under its lock.
    #[inline]
    pub(super) fn claim_one(
        &mut self,
        volume: &Volume,
        spare: &mut Option<Extent>,
        at: usize,
    ) -> Result<(), Stop> {
        let count = self.count - at;
        let segment = &mut self.segments[at];
        let lcn = segment.lcn;
        loop {
            let entry = volume.map().get(lcn);
            // Looked at again under the lock: the entry may have changed between the look and the lock.
            if needed(segment, entry) > segment.lock {
                return Err(Stop::Blocked(Blocked::Again));
            }
            volume.relies_on(lcn, entry);
            let held = entry.mask().get();
            if !entry.pcn().is_none() {
                segment.pcn = entry.pcn();
                segment.publish = BlockMask::new(segment.touched().get() & !held);
                return Ok(());
            }
            volume.ensure_leaf(lcn)?;
            let pcn = take_one(volume, spare, lcn, count)?;
            if held != 0 {
                segment.private = pcn;
                segment.publish = BlockMask::new(segment.touched().get() & !held);
                return Ok(());
            }
            if volume.claim(lcn, entry, pcn) {
                segment.pcn = pcn;
                segment.publish = segment.touched();
                return Ok(());
            }
            // Somebody else claimed it, or made a tombstone of it.
            volume.space().give(Extent { pcn, count: 1 });
        }
    }

    /// The private clusters are all zero now: they are claimed over whatever tombstones there are by now. `None` to plan again.
    pub(super) fn claim_private(&mut self, volume: &Volume) -> Option<Phase> {
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
}

/// How the lock of a segment's cluster must be held for what its entry says.
#[inline]
pub(super) fn needed(segment: &Segment, entry: MapEntry) -> Option<Hold> {
    let held = entry.mask().get();
    let missing = segment.touched().get() & !held;
    if entry.pcn().is_none() && held != 0 {
        // A claim over tombstones.
        return Some(Hold::Alone);
    }
    if missing == 0 {
        return None;
    }
    if missing & segment.partial().get() != 0 {
        // A copy-up.
        return Some(Hold::Alone);
    }
    Some(Hold::Shared)
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
