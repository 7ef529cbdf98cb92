//! The writer's own journal, on another disk than the one under test: what was flushed, noted after the flush was acknowledged, and
//! which discards were begun, noted before.
//!
//! A header, one word a sector (the floors when the round began), then the round's blocks of records. A block counts only if its
//! checksum is right, so that one that was cut off is as if it had not been written; and if it has the mark of this journal, so that those
//! of a longer one that was there before are nobody's promises, whatever object and round that was of.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::aligned::AlignedBuffer;
use super::promise::Floor;

/// Unit of the journal.
pub const BLOCK_BYTES: usize = 4096;
/// Records in a block.
pub const RECORDS_MAX: usize = (BLOCK_BYTES - HEAD_BYTES) / RECORD_BYTES;

const HEAD_BYTES: usize = 24;
const RECORD_BYTES: usize = 24;
const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"BPWRITER");
const BLOCK_MAGIC: u64 = u64::from_le_bytes(*b"BPWBLOCK");
/// Words of the header, before its checksum.
const WORDS: usize = 5;
/// Blocks are written by several threads, so some may be missing among those that are there; no more than this.
const GAP_MAX: u64 = 256;

/// What a record says about its sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Written and flushed.
    Flushed,
    /// Zeroed and flushed.
    FlushedZero,
    /// About to be zeroed.
    ZeroBegun,
}

/// One write's sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub kind: Kind,
    /// First sector.
    pub first: u64,
    /// Number of sectors.
    pub count: u64,
    /// The write.
    pub generation: u64,
}

/// What the device owes, by sector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promises {
    /// Of which object.
    pub tag: u64,
    /// How many times a writer was started on it.
    pub round: u64,
    /// What was flushed last.
    pub floors: Vec<Floor>,
    /// The last discard that was begun, 0 if none.
    pub zeroed_by: Vec<u64>,
}

impl Promises {
    /// Nothing was ever written.
    pub fn new(tag: u64, sectors: usize) -> Self {
        Self {
            tag,
            round: 0,
            floors: vec![Floor::default(); sectors],
            zeroed_by: vec![0; sectors],
        }
    }

    /// Writes of this round have larger generations than those of all before.
    pub const fn first_generation(&self) -> u64 {
        (self.round << 32) + 1
    }

    fn apply(&mut self, record: Record, floor_only: bool) {
        let sectors = usize_of(record.first)..usize_of(record.first + record.count);
        for sector in sectors {
            if sector >= self.floors.len() {
                return;
            }
            if record.kind == Kind::ZeroBegun {
                self.zeroed_by[sector] = self.zeroed_by[sector].max(record.generation);
                continue;
            }
            let floor = Floor {
                generation: record.generation,
                is_zero: record.kind == Kind::FlushedZero,
            };
            if !floor_only && floor.to_word() > self.floors[sector].to_word() {
                self.floors[sector] = floor;
            }
        }
    }
}

/// An open journal of one round.
#[derive(Debug)]
pub struct Journal {
    file: File,
    mark: u64,
    next_block: AtomicU64,
    blocks_end: u64,
}

impl Journal {
    /// Begins a round: what `promises` says becomes the floor, and the former records are forgotten. `file` must have been opened
    /// so that a write is durable when it returns; `size_bytes` is what may be used of it.
    ///
    /// # Errors
    /// Those of the file, or `InvalidInput` if it is too small.
    pub fn begin(file: File, size_bytes: u64, promises: &Promises) -> io::Result<Self> {
        let mut table: Vec<u8> = promises
            .floors
            .iter()
            .flat_map(|floor| floor.to_word().to_le_bytes())
            .collect();
        table.resize(table.len().next_multiple_of(BLOCK_BYTES), 0);
        let first_block = 1 + (table.len() / BLOCK_BYTES) as u64;
        let blocks_end = size_bytes / BLOCK_BYTES as u64;
        if blocks_end <= first_block {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the journal has no room for its table",
            ));
        }
        write_aligned(&file, BLOCK_BYTES as u64, &table)?;
        let mark = new_mark();
        let mut header = [
            HEADER_MAGIC,
            promises.tag,
            promises.round,
            promises.floors.len() as u64,
            mark,
        ]
        .map(u64::to_le_bytes)
        .concat();
        header.extend(crc32c::crc32c(&header).to_le_bytes());
        header.resize(BLOCK_BYTES, 0);
        write_aligned(&file, 0, &header)?;
        file.sync_data()?;
        Ok(Self {
            file,
            mark,
            next_block: AtomicU64::new(first_block),
            blocks_end,
        })
    }

    /// Adds `records`, durable when it returns. From any thread.
    ///
    /// # Errors
    /// Those of the file, or `StorageFull`.
    pub fn append(&self, records: &[Record]) -> io::Result<()> {
        for some in records.chunks(RECORDS_MAX) {
            let number = self.next_block.fetch_add(1, Ordering::Relaxed);
            if number >= self.blocks_end {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "the writer's journal is full",
                ));
            }
            let block = encode_block(self.mark, some);
            write_aligned(&self.file, number * BLOCK_BYTES as u64, &block)?;
        }
        Ok(())
    }
}

/// Reads the journal in `file`. With `floor_only`, what was flushed in its last round is not counted: only what was before, and which
/// discards were begun.
///
/// # Errors
/// Those of the file; `InvalidData` if it is no journal.
pub fn load(file: &File, floor_only: bool) -> io::Result<Promises> {
    let header = read_block(file, 0)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no journal: it is empty"))?;
    let word = |number: usize| word_at(&header, number * 8);
    let checksum = u32_at(&header, WORDS * 8);
    if word(0) != HEADER_MAGIC || crc32c::crc32c(&header[..WORDS * 8]) != checksum {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no journal: bad header",
        ));
    }
    let mut promises = Promises::new(word(1), usize_of(word(3)));
    promises.round = word(2);
    let table_blocks = (promises.floors.len() * 8).div_ceil(BLOCK_BYTES) as u64;
    for number in 0..table_blocks {
        let block = read_block(file, 1 + number)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let from = usize_of(number) * (BLOCK_BYTES / 8);
        for (floor, offset) in promises.floors[from..]
            .iter_mut()
            .zip((0..BLOCK_BYTES).step_by(8))
        {
            *floor = Floor::from_word(word_at(&block, offset));
        }
    }
    let mut gap = 0;
    let mut number = 1 + table_blocks;
    while gap < GAP_MAX {
        let Some(block) = read_block(file, number)? else {
            break;
        };
        match decode_block(&block, word(4)) {
            Some(records) => {
                gap = 0;
                for record in records {
                    promises.apply(record, floor_only);
                }
            }
            None => gap += 1,
        }
        number += 1;
    }
    Ok(promises)
}

/// Of no journal before.
fn new_mark() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id())
}

fn encode_block(mark: u64, records: &[Record]) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    block.extend(BLOCK_MAGIC.to_le_bytes());
    block.extend(mark.to_le_bytes());
    block.extend(u32::try_from(records.len()).unwrap_or(0).to_le_bytes());
    block.extend([0; 4]);
    for record in records {
        let kind = match record.kind {
            Kind::Flushed => 0,
            Kind::FlushedZero => 1,
            Kind::ZeroBegun => 2,
        };
        for word in [record.first, record.count, record.generation << 2 | kind] {
            block.extend(word.to_le_bytes());
        }
    }
    block.resize(BLOCK_BYTES, 0);
    let checksum = crc32c::crc32c(&block);
    block[20..24].copy_from_slice(&checksum.to_le_bytes());
    block
}

fn decode_block(block: &[u8], mark: u64) -> Option<Vec<Record>> {
    let mut plain = block.to_vec();
    plain[20..24].fill(0);
    let count = u32_at(block, 16) as usize;
    let is_good = word_at(block, 0) == BLOCK_MAGIC
        && word_at(block, 8) == mark
        && count <= RECORDS_MAX
        && crc32c::crc32c(&plain) == u32_at(block, 20);
    if !is_good {
        return None;
    }
    (0..count)
        .map(|number| {
            let at = HEAD_BYTES + number * RECORD_BYTES;
            let last = word_at(block, at + 16);
            Some(Record {
                kind: match last & 3 {
                    0 => Kind::Flushed,
                    1 => Kind::FlushedZero,
                    2 => Kind::ZeroBegun,
                    _ => return None,
                },
                first: word_at(block, at),
                count: word_at(block, at + 8),
                generation: last >> 2,
            })
        })
        .collect()
}

fn write_aligned(file: &File, at_bytes: u64, bytes: &[u8]) -> io::Result<()> {
    let mut buffer = AlignedBuffer::new(bytes.len());
    let aligned = buffer.first(bytes.len());
    aligned.copy_from_slice(bytes);
    file.write_all_at(aligned, at_bytes)
}

/// Block `number`; none past the end.
fn read_block(file: &File, number: u64) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = AlignedBuffer::new(BLOCK_BYTES);
    match file.read_exact_at(buffer.first(BLOCK_BYTES), number * BLOCK_BYTES as u64) {
        Ok(()) => Ok(Some(buffer.first(BLOCK_BYTES).to_vec())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

/// Journals are for small devices, on 64-bit machines.
fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTORS: usize = 1000;
    const ROOM: u64 = 64 * BLOCK_BYTES as u64;

    fn record(kind: Kind, first: u64, generation: u64) -> Record {
        Record {
            kind,
            first,
            count: 2,
            generation,
        }
    }

    fn written(file: &File) -> Journal {
        let mut promises = Promises::new(7, SECTORS);
        promises.round = 1;
        promises.floors[10].generation = 3;
        let journal = Journal::begin(file.try_clone().unwrap(), ROOM, &promises).unwrap();
        journal
            .append(&[
                record(Kind::Flushed, 10, 20),
                record(Kind::ZeroBegun, 20, 21),
                record(Kind::FlushedZero, 30, 22),
            ])
            .unwrap();
        journal
    }

    #[test]
    fn what_was_noted_is_read_back() {
        let file = tempfile::tempfile().unwrap();
        written(&file);
        let promises = load(&file, false).unwrap();
        assert_eq!((promises.tag, promises.round), (7, 1));
        assert_eq!(promises.floors[10].generation, 20);
        assert_eq!(promises.floors[11].generation, 20);
        assert_eq!(promises.floors[12], Floor::default());
        assert_eq!(promises.zeroed_by[21], 21);
        assert_eq!(promises.floors[20], Floor::default());
        assert!(promises.floors[30].is_zero);
    }

    #[test]
    fn floor_only_leaves_out_the_last_round_but_for_begun_discards() {
        let file = tempfile::tempfile().unwrap();
        written(&file);
        let promises = load(&file, true).unwrap();
        assert_eq!(promises.floors[10].generation, 3);
        assert_eq!(promises.floors[30], Floor::default());
        assert_eq!(promises.zeroed_by[20], 21);
    }

    /// As when one object after the other is written, each with its first round.
    #[test]
    fn a_fresh_journal_knows_nothing_of_a_longer_one_that_was_there() {
        let file = tempfile::tempfile().unwrap();
        let fresh = |tag| {
            let mut promises = Promises::new(tag, SECTORS);
            promises.round = 1;
            Journal::begin(file.try_clone().unwrap(), ROOM, &promises).unwrap()
        };
        let longer = fresh(1);
        for first in 0..8 {
            longer
                .append(&[record(Kind::Flushed, first * 10, 100 + first)])
                .unwrap();
        }
        for tag in [2, 1] {
            fresh(tag).append(&[record(Kind::Flushed, 500, 3)]).unwrap();
            let promises = load(&file, false).unwrap();
            let due = promises.floors.iter().filter(|floor| floor.generation > 0);
            assert_eq!((promises.tag, due.count()), (tag, 2));
        }
    }

    #[test]
    fn a_new_round_forgets_former_records_and_keeps_the_floor() {
        let file = tempfile::tempfile().unwrap();
        written(&file);
        let mut promises = load(&file, false).unwrap();
        promises.round = 2;
        Journal::begin(file.try_clone().unwrap(), ROOM, &promises).unwrap();
        let again = load(&file, false).unwrap();
        assert_eq!(again.floors, promises.floors);
        assert_eq!(again.zeroed_by[20], 0);
    }

    #[test]
    fn a_torn_block_does_not_count_and_those_after_it_do() {
        let file = tempfile::tempfile().unwrap();
        let journal = written(&file);
        journal.append(&[record(Kind::Flushed, 40, 30)]).unwrap();
        let first_block = 1 + (SECTORS * 8).div_ceil(BLOCK_BYTES) as u64;
        let at = first_block * BLOCK_BYTES as u64 + 25;
        file.write_all_at(&[0xff], at).unwrap();
        let promises = load(&file, false).unwrap();
        assert_eq!(promises.floors[10].generation, 3);
        assert_eq!(promises.floors[40].generation, 30);
    }

    #[test]
    fn a_full_journal_says_so() {
        let file = tempfile::tempfile().unwrap();
        let journal = written(&file);
        let many = vec![record(Kind::Flushed, 1, 40); RECORDS_MAX];
        let outcomes: Vec<_> = (0..64).map(|_| journal.append(&many)).collect();
        let error = outcomes.into_iter().find_map(Result::err).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
