//! `verify_reads`: what is read of an image is compared with its recorded checksums before anybody gets it.
//!
//! Only devices whose [`Backing`](crate::Backing) says so. Their reads are whole blocks, into a buffer of ours: what is in a request's own pages
//! is the guest's already. A block that does not match is as one that the disk failed to give: another replica is asked, the replica is
//! avoided, and who listens to the reactors hears of it. So it is with blocks that a write copies up.
//!
//! Checksums are not kept in memory: a reactor keeps a few leaves of them, and asks for others. A request that waits for some has nothing in
//! flight. Without its checksum a block is not given to anybody.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bedplate_datapath::format::checksum_page::{CRCS, block_crc};
use bedplate_datapath::plan::{DiskIndex, LayerStack, Run, RunSource};
use bedplate_datapath::replica::{ReplicaSet, Replicas};
use bedplate_datapath::units::{
    BLOCK_BYTES, BLOCKS_PER_CLUSTER, ByteOffset, CLUSTER_BYTES, Lcn, SECTOR_BYTES,
};
use crossbeam::channel::Sender;
use nix::sys::eventfd::EventFd;
use uuid::Uuid;

use super::Reactor;
use super::command::Command;
use super::requests::{Slot, State};
use crate::backing::ChecksumsAnswer;
use crate::replica_events::ReadFailed;

/// Leaves that a reactor keeps, of 4 KiB each: the checksums of 1 GiB of images.
const LEAVES_KEPT: usize = 256;
/// Bad ranges of one request on one disk that are told apart; more are one.
const BAD_RANGES_MAX: usize = 4;
const BLOCK: usize = 4096;
const BLOCK_LEN: u32 = 4096;
const SECTORS_PER_BLOCK: u64 = BLOCK_BYTES / SECTOR_BYTES;
const _: () = assert!(BLOCK as u64 == BLOCK_BYTES);

/// Blocks of an image, one after the other in the buffer of a request and on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageBlocks {
    /// Where in the buffer.
    offset: u32,
    /// The first one's number in the image: byte / 4096.
    first: u64,
    count: u32,
    disk: DiskIndex,
}

/// Of the slot with the same number: what is to be compared, and how far that has come.
#[derive(Default)]
struct Pending {
    blocks: Vec<ImageBlocks>,
    /// Blocks of these that are done.
    done: (usize, u32),
    bad: Vec<(DiskIndex, Range<u64>)>,
}

impl Pending {
    fn clear(&mut self) {
        self.blocks.clear();
        self.bad.clear();
        self.done = (0, 0);
    }
}

/// Checksums of [`CRCS`] blocks of an image.
struct Leaf {
    image: Uuid,
    number: u32,
    crcs: Arc<[u32]>,
}

/// What a reactor has for this.
#[derive(Default)]
pub(super) struct Checks {
    /// By slot; as many as were needed.
    pending: Vec<Pending>,
    /// By image and number; empty before the first.
    leaves: Vec<Option<Leaf>>,
    /// Slots that wait for a leaf that was asked for.
    waiting: BTreeMap<(Uuid, u32), Vec<u32>>,
}

/// The way back of checksums.
pub(crate) struct ChecksumsReply {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    image: Uuid,
    leaf: u32,
}

impl ChecksumsReply {
    pub(crate) fn send(self, crcs: Option<Arc<[u32]>>) {
        // Fails when the reactor has ended, and then those who waited are the next server's.
        let _ = self.commands.send(Command::Checksums {
            image: self.image,
            leaf: self.leaf,
            crcs,
        });
        // Fails only when the counter is full, and then the reactor is awake.
        let _ = self.wake.write(1);
    }
}

/// What a step of comparing came to.
enum Compared {
    /// All of it, and this is bad.
    All(Vec<(DiskIndex, Range<u64>)>),
    /// This leaf is needed.
    Needs(Uuid, u32),
}

impl Checks {
    fn pending(&mut self, number: u32) -> &mut Pending {
        let number = number as usize;
        if self.pending.len() <= number {
            self.pending.resize_with(number + 1, Pending::default);
        }
        &mut self.pending[number]
    }

    /// The disk of the block of a request that is compared next.
    fn next_disk(&self, number: u32) -> Option<DiskIndex> {
        let pending = self.pending.get(number as usize)?;
        Some(pending.blocks.get(pending.done.0)?.disk)
    }

    fn place(image: Uuid, leaf: u32) -> usize {
        // Its random half; a reactor's images are few.
        let hash = image.as_u64_pair().1.wrapping_add(leaf.into());
        usize::try_from(hash % LEAVES_KEPT as u64).unwrap_or_default()
    }

    fn keep(&mut self, image: Uuid, number: u32, crcs: Arc<[u32]>) {
        self.leaves.resize_with(LEAVES_KEPT, || None);
        self.leaves[Self::place(image, number)] = Some(Leaf {
            image,
            number,
            crcs,
        });
    }

    /// Compares what is in memory with what the leaves that are kept say, from where it stopped last.
    ///
    /// # Safety
    /// `memory` is the request's buffer, filled as its [`ImageBlocks`] say, and nobody writes to it.
    unsafe fn compare(&mut self, number: u32, image: Uuid, memory: *const u8) -> Compared {
        self.pending(number);
        let Self {
            pending, leaves, ..
        } = self;
        let pending = &mut pending[number as usize];
        while let Some(blocks) = pending.blocks.get(pending.done.0).copied() {
            while pending.done.1 < blocks.count {
                let nth = pending.done.1;
                let block = blocks.first + u64::from(nth);
                let Ok(leaf) = u32::try_from(block / CRCS as u64) else {
                    break;
                };
                let kept = leaves
                    .get(Self::place(image, leaf))
                    .and_then(Option::as_ref);
                let Some(kept) = kept.filter(|kept| kept.image == image && kept.number == leaf)
                else {
                    return Compared::Needs(image, leaf);
                };
                let within = usize::try_from(block % CRCS as u64).unwrap_or(usize::MAX);
                let at = blocks.offset as usize + nth as usize * BLOCK;
                // SAFETY: the caller's promise; a list names no more than was read.
                let bytes = unsafe { std::slice::from_raw_parts(memory.wrapping_add(at), BLOCK) };
                if kept.crcs.get(within) != Some(&block_crc(bytes)) {
                    note_bad(&mut pending.bad, blocks.disk, block);
                }
                pending.done.1 += 1;
            }
            pending.done = (pending.done.0 + 1, 0);
        }
        Compared::All(std::mem::take(&mut pending.bad))
    }
}

/// Adds a block to the bad ones of a request; they come in order.
fn note_bad(bad: &mut Vec<(DiskIndex, Range<u64>)>, disk: DiskIndex, block: u64) {
    if let Some((_, last)) = bad.iter_mut().rfind(|(on, _)| *on == disk)
        && last.end == block
    {
        last.end += 1;
        return;
    }
    let on_disk = bad.iter().filter(|(on, _)| *on == disk).count();
    if on_disk < BAD_RANGES_MAX {
        bad.push((disk, block..block + 1));
    } else if let Some((_, last)) = bad.iter_mut().rfind(|(on, _)| *on == disk) {
        // Good blocks among them are read elsewhere, too.
        last.end = block + 1;
    }
}

/// Which blocks of a plan, whose first byte is at `start`, are an image's. By where they lie: an image's clusters are nobody else's.
fn image_blocks(stack: &LayerStack, plan: &[Run], start: u64, into: &mut Vec<ImageBlocks>) {
    let Some(set) = image_of(stack) else { return };
    for run in plan {
        let RunSource::Disk { disk, at } = run.source else {
            continue;
        };
        let Some(replica) = set.on_disk(disk).and_then(|nth| set.iter().nth(nth)) else {
            continue;
        };
        for nth in 0..run.len_bytes / BLOCK_LEN {
            let offset = run.request_offset + nth * BLOCK_LEN;
            let position = start + u64::from(offset);
            let lies_at = at.plus(u64::from(nth) * BLOCK_BYTES);
            let in_cluster = position % CLUSTER_BYTES;
            let entry = u32::try_from(position / CLUSTER_BYTES)
                .map(|lcn| replica.map.get(Lcn::new(lcn)))
                .unwrap_or_default();
            let block = u32::try_from(in_cluster / BLOCK_BYTES).unwrap_or(BLOCKS_PER_CLUSTER);
            let is_image = !entry.pcn().is_none()
                && block < BLOCKS_PER_CLUSTER
                && entry.mask().contains(block)
                && entry.pcn().offset().plus(in_cluster) == lies_at;
            if !is_image {
                continue;
            }
            let first = position / BLOCK_BYTES;
            match into.last_mut() {
                Some(last)
                    if last.disk == disk
                        && last.first + u64::from(last.count) == first
                        && last.offset + last.count * BLOCK_LEN == offset =>
                {
                    last.count += 1;
                }
                _ => into.push(ImageBlocks {
                    offset,
                    first,
                    count: 1,
                    disk,
                }),
            }
        }
    }
}

/// The copies of the image that a device reads.
fn image_of(stack: &LayerStack) -> Option<&Arc<ReplicaSet>> {
    let mut sets = stack.layers.iter().filter_map(|layer| layer.replicas());
    sets.next().map(Replicas::set)
}

impl Reactor {
    /// Whether the reads of a slot's queue are compared.
    pub(super) fn is_checked(&self, slot: &Slot) -> bool {
        let queue = self.queues.get(slot.queue as usize);
        queue.is_some_and(|queue| queue.as_ref().is_some_and(|queue| queue.is_checked))
    }

    /// Bytes of a read's buffer before the request's own first one: it is read from the start of a block on, if it is compared.
    pub(super) fn skipped_bytes(&self, number: u32) -> u32 {
        let slot = &self.slots[number as usize];
        match self.queues.get(slot.queue as usize) {
            Some(Some(queue)) if queue.is_checked => {
                // The descriptor is the request's until it is answered.
                let start = queue.descriptors.get(slot.tag).start_sector;
                u32::try_from(start % SECTORS_PER_BLOCK * SECTOR_BYTES).unwrap_or_default()
            }
            _ => 0,
        }
    }

    /// Notes what of a read that was just planned, in whole blocks, is an image's; the request's first byte is at `start`.
    #[cold]
    pub(super) fn note_image_blocks(&mut self, number: u32, start: u64) {
        let start = start - start % BLOCK_BYTES;
        let queue = self.slots[number as usize].queue;
        let Some(Some(queue)) = self.queues.get(queue as usize) else {
            return;
        };
        let pending = self.checks.pending(number);
        pending.clear();
        image_blocks(
            &queue.stack,
            self.plan.as_slice(),
            start,
            &mut pending.blocks,
        );
    }

    /// Whether a list of a write that has just ended read blocks of an image that are to be compared; they are noted.
    pub(super) fn note_copied_up(&mut self, number: u32) -> bool {
        let slot = self.slots[number as usize];
        let Some(Some(queue)) = self.queues.get(slot.queue as usize) else {
            return false;
        };
        let (Some(_), Some(writes)) = (&queue.checksums, &queue.writes) else {
            return false;
        };
        let Some(op) = writes.op(slot.tag) else {
            return false;
        };
        let pending = self.checks.pending(number);
        pending.clear();
        pending.blocks.extend(op.read_up().map(|read| ImageBlocks {
            offset: read.scratch_offset,
            first: read.position / BLOCK_BYTES,
            count: 1,
            disk: read.disk,
        }));
        !pending.blocks.is_empty()
    }

    /// Compares what a request has read of an image, which is in its buffer, and goes on with it: at once, or when checksums are there.
    #[inline(never)]
    pub(super) fn check(&mut self, number: u32) {
        let slot = self.slots[number as usize];
        let image = self
            .queue_of(number)
            .and_then(|queue| Some(queue.checksums.as_ref()?.image()));
        let memory = if slot.state == State::Writing || slot.state == State::CheckingCopyUp {
            slot.scratch.map(|buffer| self.scratch.start(buffer))
        } else {
            slot.copy_buffer.map(|buffer| self.pool.start(buffer))
        };
        let (Some(image), Some(memory)) = (image, memory) else {
            // It is not wanted any more.
            self.checked(number, &[]);
            return;
        };
        // SAFETY: all reads of the request have ended, and the buffer is its own until it is given back, which is later.
        match unsafe { self.checks.compare(number, image, memory) } {
            Compared::All(bad) => self.checked(number, &bad),
            Compared::Needs(image, leaf) => self.wait_for_checksums(number, image, leaf),
        }
    }

    fn wait_for_checksums(&mut self, number: u32, image: Uuid, leaf: u32) {
        let slot = &mut self.slots[number as usize];
        slot.state = match slot.state {
            State::Writing | State::CheckingCopyUp => State::CheckingCopyUp,
            _ => State::Checking,
        };
        let waiting = self.checks.waiting.entry((image, leaf)).or_default();
        waiting.push(number);
        if waiting.len() > 1 {
            return;
        }
        let answer = ChecksumsAnswer::to_reactor(ChecksumsReply {
            commands: self.own_commands.clone(),
            wake: Arc::clone(&self.wake),
            image,
            leaf,
        });
        match self
            .queue_of(number)
            .and_then(|queue| queue.checksums.as_ref())
        {
            Some(checksums) => checksums.ask(leaf, answer),
            // Dropped, it says that there are none.
            None => drop(answer),
        }
    }

    /// Checksums that were asked for; `None` if nobody has them.
    pub(super) fn checksums_came(&mut self, image: Uuid, leaf: u32, crcs: Option<Arc<[u32]>>) {
        let waiting = self.checks.waiting.remove(&(image, leaf));
        let is_there = crcs.is_some();
        if let Some(crcs) = crcs {
            self.checks.keep(image, leaf, crcs);
        }
        for number in waiting.into_iter().flatten() {
            if is_there {
                self.check(number);
            } else {
                self.cannot_check(number, leaf);
            }
        }
    }

    fn cannot_check(&mut self, number: u32, leaf: u32) {
        let is_write = self.slots[number as usize].state == State::CheckingCopyUp;
        if self.leaving.is_some() {
            // Whoever has them went before us. The next server asks again.
            if is_write {
                self.abandon(number);
            } else {
                self.hold(number);
            }
            return;
        }
        if let Some(queue) = self.queue_of(number) {
            tracing::error!(dev_id = %queue.dev_id, leaf, "no disk gives the checksums of what was read: it is not given to anybody");
        }
        // It gave the block, and may have gone since: then the checksums are there when it is back.
        let disk = self.checks.next_disk(number);
        if is_write {
            self.slots[number as usize].failed_disk = disk;
            self.copied_up(number, Err((None, libc::EIO)));
        } else if !self.waits_for_disk(number, libc::EIO, disk) {
            self.finish(number, -libc::EIO);
        }
    }

    /// All was compared.
    fn checked(&mut self, number: u32, bad: &[(DiskIndex, Range<u64>)]) {
        let is_write = matches!(
            self.slots[number as usize].state,
            State::Writing | State::CheckingCopyUp
        );
        match (bad.first().cloned(), is_write) {
            (None, false) => self.copy_in(number),
            (None, true) => self.copied_up(number, Ok(())),
            (Some((disk, blocks)), true) => {
                let goes_on = self
                    .queue_of(number)
                    .is_some_and(|queue| queue.stack.has_alternatives(disk));
                self.tell_of_bad(number, bad, goes_on);
                self.copied_up(number, Err((Some((disk, blocks)), libc::EIO)));
            }
            (Some(_), false) => {
                let has_others = self
                    .queue_of(number)
                    .and_then(|queue| image_of(&queue.stack))
                    .is_some_and(|set| set.len() > 1);
                let mut goes_on = has_others;
                for (disk, blocks) in bad {
                    goes_on &= has_others && self.exclude(number, *disk, blocks.clone(), libc::EIO);
                }
                self.tell_of_bad(number, bad, goes_on);
                if goes_on {
                    self.begin_again(number);
                } else {
                    self.finish(number, -libc::EIO);
                }
            }
        }
    }

    fn tell_of_bad(&mut self, number: u32, bad: &[(DiskIndex, Range<u64>)], goes_on: bool) {
        let Some(queue) = self.queue_of(number) else {
            return;
        };
        let (dev_id, stack) = (queue.dev_id, Arc::clone(&queue.stack));
        let Some(set) = image_of(&stack) else { return };
        for (disk, blocks) in bad {
            let Some(nth) = set.on_disk(*disk) else {
                continue;
            };
            let at = blocks.start * BLOCK_BYTES;
            if set.read_failed(nth) || !goes_on {
                tracing::error!(%dev_id, %disk, start = at, blocks = blocks.end - blocks.start, goes_on, "what was read of an image is not what was imported");
            }
            let entry = u32::try_from(at / CLUSTER_BYTES)
                .ok()
                .and_then(|lcn| Some(set.iter().nth(nth)?.map.get(Lcn::new(lcn))));
            let disk_at = entry.map_or(0, |entry| entry.pcn().offset().get() + at % CLUSTER_BYTES);
            let len_bytes = (blocks.end - blocks.start).saturating_mul(BLOCK_BYTES);
            self.events.read_failed(ReadFailed {
                dev_id,
                disk: *disk,
                disk_at: ByteOffset::new(disk_at),
                device_at: ByteOffset::new(at),
                len_bytes: u32::try_from(len_bytes).unwrap_or(u32::MAX),
                errno: libc::EIO,
                goes_on,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_blocks_are_ranges_and_many_of_them_are_one() {
        let (one, two) = (DiskIndex::new(1), DiskIndex::new(2));
        let mut bad = Vec::new();
        for block in [3, 4, 5, 9] {
            note_bad(&mut bad, one, block);
        }
        note_bad(&mut bad, two, 10);
        note_bad(&mut bad, one, 10);
        assert_eq!(bad, [(one, 3..6), (one, 9..11), (two, 10..11)]);
        for block in [20, 30, 40, 50] {
            note_bad(&mut bad, one, block);
        }
        let on_one: Vec<_> = bad.iter().filter(|(disk, _)| *disk == one).collect();
        assert_eq!(on_one.len(), BAD_RANGES_MAX);
        assert_eq!(on_one[3].1, 30..51);
    }
}
