//! The journal's ring: where the next batch goes, and reading it when a disk is opened.

use uuid::Uuid;

use super::error::OpenError;
use super::latch::LatchedDisk;
use super::trees::usize_of;
use crate::format::geometry::JournalZone;
use crate::format::header::HEADER_BYTES;
use crate::format::journal::{BATCH_BYTES_MAX, JournalBatch, JournalRecord, MAGIC, batch_bytes};
use crate::format::root::CheckpointRoot;
use crate::format::{Expect, Stamp};
use crate::medium::{IoFault, Medium};
use crate::units::{BLOCK_BYTES, ByteOffset, PAGE_BYTES, Seq};

/// Where a batch's sequence lies, see PageHeader.
const SEQ_AT: usize = 32;
/// The first part of the ring that is read: more than an empty journal needs, and no more than a disk answers at once.
const PART_BYTES_MIN: usize = 64 << 10;

/// The ring of an open disk. Its owner writes batches in order, each after the one before is durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Journal {
    zone: JournalZone,
    /// The newest root: what is before its tail is not needed any more.
    pub root: CheckpointRoot,
    /// Where the last batch ended.
    next: ByteOffset,
    /// The sequence of the next batch.
    pub next_seq: Seq,
}

impl Journal {
    /// An empty journal that begins where `root` says.
    pub fn after(root: CheckpointRoot, zone: JournalZone) -> Self {
        Self {
            zone,
            root,
            next: root.tail_offset,
            next_seq: root.tail_seq,
        }
    }

    /// The last batch that was written; 0 if there was none ever.
    pub fn last_seq(&self) -> Seq {
        Seq::new(self.next_seq.get().saturating_sub(1))
    }

    /// Whether a checkpoint would make replay shorter.
    pub fn is_empty(&self) -> bool {
        self.next_seq == self.root.tail_seq
    }

    /// Where a batch of so many records goes. `None` if it would overwrite what replay needs: first a checkpoint.
    pub fn place(&self, records: usize) -> Option<ByteOffset> {
        let len_bytes = batch_bytes(records) as u64;
        let at = self.zone.place(self.next, len_bytes)?;
        if self.is_empty() {
            return Some(at);
        }
        let (tail, end) = (self.root.tail_offset, at.plus(len_bytes));
        // Not even up to the tail: a full ring would look like an empty one.
        let clear = if self.next > tail {
            // Used: tail to next.
            at >= self.next || end < tail
        } else {
            // Used: tail to the zone's end, and its start to next.
            at >= self.next && end < tail
        };
        clear.then_some(at)
    }

    /// Writes a batch where [`Self::place`] said; durable when this returns.
    pub fn write<M: Medium>(
        &mut self,
        disk: &mut LatchedDisk<M>,
        disk_uuid: Uuid,
        session: u64,
        at: ByteOffset,
        records: Vec<JournalRecord>,
    ) -> Result<(), IoFault> {
        let batch = JournalBatch {
            seq: self.next_seq,
            session,
            records,
        };
        let stamp = Stamp {
            disk_uuid,
            self_offset: at,
        };
        let Ok(bytes) = batch.encode(&stamp) else {
            debug_assert!(false, "batches are cut before they are too long");
            return Ok(());
        };
        disk.write_durable(at, &bytes)?;
        self.next = at.plus(bytes.len() as u64);
        self.next_seq = Seq::new(self.next_seq.get() + 1);
        Ok(())
    }

    /// A checkpoint is done: nothing before the next batch is needed any more.
    pub fn checkpointed(&mut self, root: CheckpointRoot) {
        self.root = root;
    }

    /// The root of a checkpoint that includes every batch so far.
    pub fn next_root(&self, session: u64) -> CheckpointRoot {
        CheckpointRoot {
            seq: Seq::new(self.root.seq.get() + 1),
            // At the zone's very end the next batch starts over.
            tail_offset: self
                .zone
                .place(self.next, BLOCK_BYTES)
                .unwrap_or(self.zone.offset),
            tail_seq: self.next_seq,
            session,
        }
    }

    /// Reads every batch from where this one is, and hands it out. What follows the last good one is a torn tail, or damage: see
    /// [`Self::refuse_later_batches`].
    pub fn read_on<M: Medium>(
        &mut self,
        disk: &mut LatchedDisk<M>,
        disk_uuid: Uuid,
        mut take: impl FnMut(&JournalBatch),
    ) -> Result<(), OpenError> {
        let mut ahead = ReadAhead::new(self.zone);
        loop {
            let here = self.read(disk, &mut ahead, disk_uuid, self.next)?;
            // One that did not fit before the zone's end starts over.
            let found = match here {
                None if self.next != self.zone.offset => self
                    .read(disk, &mut ahead, disk_uuid, self.zone.offset)?
                    .map(|found| (self.zone.offset, found)),
                other => other.map(|found| (self.next, found)),
            };
            let Some((at, (batch, len_bytes))) = found else {
                return Ok(());
            };
            take(&batch);
            self.next = at.plus(len_bytes);
            self.next_seq = Seq::new(self.next_seq.get() + 1);
        }
    }

    /// The batch at `at`, if it is the next one.
    fn read<M: Medium>(
        &self,
        disk: &mut LatchedDisk<M>,
        ahead: &mut ReadAhead,
        disk_uuid: Uuid,
        at: ByteOffset,
    ) -> Result<Option<(JournalBatch, u64)>, OpenError> {
        if !self.zone.may_begin(at) {
            return Ok(None);
        }
        let io = |fault| OpenError::Io {
            doing: "reading the journal",
            fault,
        };
        // How long it is stands in its first block.
        let left = usize_of(self.zone.end().get() - at.get());
        let mut bytes = ahead.read(disk, at, PAGE_BYTES.min(left)).map_err(io)?;
        if bytes[..8] != MAGIC || seq_in(bytes) != self.next_seq.get() {
            return Ok(None);
        }
        let claimed = u32::from_le_bytes([bytes[72], bytes[73], bytes[74], bytes[75]]) as usize;
        if claimed > PAGE_BYTES
            && claimed <= BATCH_BYTES_MAX.min(left)
            && claimed.is_multiple_of(PAGE_BYTES)
        {
            bytes = ahead.read(disk, at, claimed).map_err(io)?;
        }
        let expect = Expect::at(at).on_disk(disk_uuid);
        Ok(JournalBatch::decode(bytes, &expect)
            .ok()
            .filter(|(batch, _)| batch.seq == self.next_seq)
            .map(|(batch, len)| (batch, len as u64)))
    }

    /// A good batch after the end means that one before it is lost: acknowledged flushes would be missing without a word.
    pub fn refuse_later_batches<M: Medium>(
        &self,
        disk: &mut LatchedDisk<M>,
        disk_uuid: Uuid,
    ) -> Result<(), OpenError> {
        // What is no batch by its first bytes, which is nearly all of the ring, is not read twice.
        let mut suspects = Vec::new();
        let look = &mut |at, head: &[u8]| {
            if head[..8] == MAGIC && seq_in(head) >= self.next_seq.get() {
                suspects.push(at);
            }
        };
        disk.heads(self.zone.offset, self.zone.len_bytes, HEADER_BYTES, look)
            .map_err(|fault| OpenError::Io {
                doing: "reading the journal",
                fault,
            })?;
        for at in suspects {
            if let Some(seq) = self.good_batch(disk, disk_uuid, at)? {
                return Err(OpenError::MetadataDamaged {
                    what: format!(
                        "the journal has no good batch {} (expected at disk byte {}), but batch {seq}",
                        self.next_seq,
                        self.next.get()
                    ),
                    at,
                });
            }
        }
        Ok(())
    }

    fn good_batch<M: Medium>(
        &self,
        disk: &mut LatchedDisk<M>,
        disk_uuid: Uuid,
        at: ByteOffset,
    ) -> Result<Option<Seq>, OpenError> {
        let left = usize_of(self.zone.end().get() - at.get());
        let mut bytes = vec![0; BATCH_BYTES_MAX.min(left)];
        disk.read(at, &mut bytes).map_err(|fault| OpenError::Io {
            doing: "reading the journal",
            fault,
        })?;
        let expect = Expect::at(at).on_disk(disk_uuid);
        Ok(JournalBatch::decode(&bytes, &expect)
            .ok()
            .map(|(batch, _)| batch.seq))
    }
}

/// The zone, read in parts that grow: most batches are a block, and a full ring has 65,536 of those, a round trip to the disk each.
struct ReadAhead {
    zone: JournalZone,
    at: ByteOffset,
    bytes: Vec<u8>,
    /// How much the next part has.
    part_bytes: usize,
}

impl ReadAhead {
    fn new(zone: JournalZone) -> Self {
        Self {
            zone,
            at: zone.offset,
            bytes: Vec::new(),
            part_bytes: PART_BYTES_MIN,
        }
    }

    /// `len` bytes from `at` on, which lie within the zone.
    fn read<M: Medium>(
        &mut self,
        disk: &mut LatchedDisk<M>,
        at: ByteOffset,
        len: usize,
    ) -> Result<&[u8], IoFault> {
        let start = at.get().checked_sub(self.at.get()).map(usize_of);
        if let Some(start) = start
            && start.saturating_add(len) <= self.bytes.len()
        {
            return Ok(&self.bytes[start..start + len]);
        }
        let left = usize_of(self.zone.end().get() - at.get());
        let part = self.part_bytes.max(len).min(left);
        self.part_bytes = (self.part_bytes * 4).min(BATCH_BYTES_MAX);
        self.at = at;
        self.bytes.resize(part, 0);
        if let Err(fault) = disk.read(at, &mut self.bytes) {
            if part == len {
                self.bytes.clear();
                return Err(fault);
            }
            // What lies beyond the journal's end need not be readable.
            self.bytes.resize(len, 0);
            if let Err(fault) = disk.read(at, &mut self.bytes) {
                self.bytes.clear();
                return Err(fault);
            }
        }
        Ok(&self.bytes[..len])
    }
}

fn seq_in(block: &[u8]) -> u64 {
    block
        .get(SEQ_AT..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::medium::IoOp;

    const ZONE: JournalZone = JournalZone {
        offset: ByteOffset::new(4 << 20),
        len_bytes: 16 << 20,
    };

    /// Each block is full of its own number. From some byte on nothing can be read.
    struct Numbered {
        readable_bytes: u64,
        reads: u32,
    }

    impl Medium for Numbered {
        fn len_bytes(&self) -> u64 {
            ZONE.end().get()
        }
        fn read(&mut self, at: ByteOffset, into: &mut [u8]) -> Result<(), IoFault> {
            self.reads += 1;
            let len_bytes = into.len() as u64;
            if at.get() + len_bytes > self.readable_bytes {
                return Err(IoFault {
                    op: IoOp::Read,
                    at,
                    len_bytes,
                    errno: 5,
                });
            }
            for (block, number) in into.chunks_mut(PAGE_BYTES).zip(at.get() / BLOCK_BYTES..) {
                block.fill(number.to_le_bytes()[0]);
            }
            Ok(())
        }
        fn write(&mut self, _: ByteOffset, _: &[u8]) -> Result<(), IoFault> {
            Ok(())
        }
        fn write_zeroes(&mut self, _: ByteOffset, _: u64) -> Result<(), IoFault> {
            Ok(())
        }
        fn flush(&mut self) -> Result<(), IoFault> {
            Ok(())
        }
    }

    fn disk(readable_bytes: u64) -> LatchedDisk<Numbered> {
        LatchedDisk::new(Numbered {
            readable_bytes,
            reads: 0,
        })
    }

    fn block(ahead: &mut ReadAhead, disk: &mut LatchedDisk<Numbered>, at: ByteOffset) -> bool {
        let number = (at.get() / BLOCK_BYTES).to_le_bytes()[0];
        let bytes = ahead.read(disk, at, PAGE_BYTES);
        bytes.is_ok_and(|bytes| bytes.iter().all(|byte| *byte == number))
    }

    #[test]
    fn a_ring_of_single_blocks_takes_few_reads() {
        let mut disk = disk(ZONE.end().get());
        let mut ahead = ReadAhead::new(ZONE);
        for nth in 0..ZONE.len_bytes / BLOCK_BYTES {
            let at = ZONE.offset.plus(nth * BLOCK_BYTES);
            assert!(block(&mut ahead, &mut disk, at), "block {nth}");
        }
        // Batches of several blocks, over the parts' borders, and back at the zone's start.
        for (nth, pages) in [(0, 3), (2, 255), (200, 256), (4095, 1), (1, 1)] {
            let at = ZONE.offset.plus(nth * BLOCK_BYTES);
            let bytes = ahead.read(&mut disk, at, pages * PAGE_BYTES).unwrap();
            assert_eq!(bytes.len(), pages * PAGE_BYTES);
            let last = (at.get() / BLOCK_BYTES + pages as u64 - 1).to_le_bytes()[0];
            assert_eq!(bytes.last(), Some(&last));
        }
        assert!(disk.medium_mut().reads < 30, "{}", disk.medium_mut().reads);
    }

    #[test]
    fn what_lies_beyond_the_journals_end_need_not_be_readable() {
        let mut disk = disk(ZONE.offset.get() + 20 * BLOCK_BYTES);
        let mut ahead = ReadAhead::new(ZONE);
        for nth in 0..20 {
            let at = ZONE.offset.plus(nth * BLOCK_BYTES);
            assert!(block(&mut ahead, &mut disk, at), "block {nth}");
        }
        let beyond = ZONE.offset.plus(20 * BLOCK_BYTES);
        assert!(ahead.read(&mut disk, beyond, PAGE_BYTES).is_err());
        assert!(ahead.read(&mut disk, beyond, PAGE_BYTES).is_err());
        assert!(block(&mut ahead, &mut disk, ZONE.offset));
    }
}
