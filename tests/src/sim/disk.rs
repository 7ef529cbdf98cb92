//! The simulated disk: a sparse 4 KiB page store with a volatile cache, faults, and two kinds of crash.
//!
//! What it promises is what `docs/on-disk-format.md` assumes of a medium, and not a bit more: until a flush, every 512-byte
//! sector of every write survives a power loss or not on its own, and an older unflushed version of a sector may survive a newer
//! one. What was never written reads as poison, a pattern that no image holds, so that a wrong read shows.

use std::collections::HashMap;

use bedplate_datapath::medium::{IoFault, IoOp, Medium};
use bedplate_datapath::units::{BLOCK_BYTES, ByteOffset, PAGE_BYTES, Page, SECTOR_BYTES};

use super::rng::{Rng, mix};

/// Errno of an operation on a machine that has crashed already.
pub const ESHUTDOWN: i32 = 108;
/// Errno of an injected I/O error.
pub const EIO: i32 = 5;
const SECTOR: usize = 512;
const SECTORS_PER_PAGE: usize = PAGE_BYTES / SECTOR;
const _: () = assert!(SECTOR as u64 == SECTOR_BYTES);

/// How the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies: what it wrote is in the disk's cache, not yet flushed, and the disk keeps its power.
    Process,
    /// The power fails: what was not flushed survives sector by sector, as `seed` says.
    Power {
        /// Decides which sectors survive.
        seed: u64,
    },
}

/// What happens to one write or flush, besides a crash. Operations are counted from 0, reads not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It returns an error, and nothing of it was done.
    Error,
    /// It returns an error after the first half of its sectors was written. Of a flush: nothing was flushed.
    Short,
    /// A write that reports success lands `by_blocks` blocks further on.
    Misdirected {
        /// Distance, in blocks of 4 KiB.
        by_blocks: u64,
    },
    /// It reports success and nothing was done: a broken disk, or a missing flush in the code under test.
    Ignored,
}

/// A rule of the write order that the disk breaks on the code's behalf, to prove that the oracle would notice code that does.
/// Counted from [`SimDisk::enter`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sabotage {
    /// Where it strikes.
    pub phase: Phase,
    /// What it does.
    pub strike: Strike,
}

/// What the node is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing in particular.
    Other,
    /// Format.
    Format,
    /// Open.
    Open,
    /// Seal of an import.
    Seal,
    /// Delete.
    Delete,
    /// Close.
    Close,
    /// Create of a volume.
    Create,
    /// Resize.
    Resize,
    /// Attach, with what comes before it.
    Attach,
    /// Detach.
    Detach,
    /// Commit.
    Commit,
    /// Checkpoint.
    Checkpoint,
}

/// How a [`Sabotage`] strikes. All of it reports success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// The flushes with these numbers do nothing, counted in each phase from 0 on.
    SkipFlushes {
        /// The first of them.
        from: u64,
        /// One past the last.
        until: u64,
    },
    /// Writes that begin in this range do nothing: repairs of a zone are left out.
    SkipWrites {
        /// First byte.
        from: u64,
        /// One past the last.
        until: u64,
    },
    /// A flush does nothing if the write before it began in this range: it comes after the writes of that zone.
    SkipFlushAfter {
        /// First byte.
        from: u64,
        /// One past the last.
        until: u64,
    },
}

/// A page of the store. Kept small: a fresh disk is a slice of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Poison,
    Zero,
    At(u32),
}

/// What a write that is not yet flushed put where.
#[derive(Clone, Debug)]
struct Pending {
    /// In sectors, from the disk's start.
    first: usize,
    sectors: usize,
    /// Empty: zeros.
    bytes: Vec<u8>,
    /// It was durable when it ended; it is here for what comes before and after it.
    durable: bool,
}

impl Pending {
    /// What it puts into each page: the page, a bit for each sector, and the bytes of the first of these; no bytes are zeros.
    fn pages(&self) -> impl Iterator<Item = (usize, u8, Option<&[u8]>)> {
        let end = self.first + self.sectors;
        (self.first / SECTORS_PER_PAGE..end.div_ceil(SECTORS_PER_PAGE)).map(move |page| {
            let from = self.first.max(page * SECTORS_PER_PAGE);
            let until = end.min((page + 1) * SECTORS_PER_PAGE);
            let below = |sector: usize| match sector - page * SECTORS_PER_PAGE {
                SECTORS_PER_PAGE.. => u8::MAX,
                sector => (1 << sector) - 1,
            };
            let range = (from - self.first) * SECTOR..(until - self.first) * SECTOR;
            let bytes = (!self.bytes.is_empty()).then(|| &self.bytes[range]);
            (page, below(until) & !below(from), bytes)
        })
    }
}

/// How unflushed writes fare at a power loss; the seed picks one, since each finds other mistakes.
#[derive(Clone, Copy)]
enum Survival {
    AllLost,
    AllLand,
    /// Each write wholly or not at all.
    ByWrite,
    /// Each sector on its own, `percent` of a hundred survive.
    BySector(u64),
}

/// A disk in memory. See the head of this file.
#[derive(Clone, Debug)]
pub struct SimDisk {
    poison: u64,
    len_bytes: u64,
    cells: Vec<Cell>,
    arena: Vec<Page>,
    free: Vec<u32>,
    /// The durable cell of each page that was written since the last flush.
    durable: HashMap<usize, Cell, std::hash::BuildHasherDefault<PageHasher>>,
    pending: Vec<Pending>,
    operations: u64,
    reads: u64,
    crash_at: Option<u64>,
    crashed: bool,
    faults: Vec<(u64, Fault)>,
    log: Option<Vec<IoOp>>,
    sabotage: Option<Sabotage>,
    phase: Phase,
    flushes_in_phase: u64,
    last_write: u64,
}

impl SimDisk {
    /// A disk of `len_bytes` (whole blocks) full of poison.
    pub fn new(len_bytes: u64, poison: u64) -> Self {
        let pages =
            usize::try_from(len_bytes / BLOCK_BYTES).expect("a simulated disk fits in memory");
        Self {
            poison,
            len_bytes,
            cells: vec![Cell::Poison; pages],
            arena: Vec::new(),
            free: Vec::new(),
            durable: HashMap::default(),
            pending: Vec::new(),
            operations: 0,
            reads: 0,
            crash_at: None,
            crashed: false,
            faults: Vec::new(),
            log: None,
            sabotage: None,
            phase: Phase::Other,
            flushes_in_phase: 0,
            last_write: 0,
        }
    }

    /// As new, with another poison; keeps its memory.
    pub fn reset(&mut self, poison: u64) {
        self.poison = poison;
        self.cells.fill(Cell::Poison);
        self.free.clear();
        self.arena.clear();
        self.durable.clear();
        self.pending.clear();
        self.operations = 0;
        self.reads = 0;
        self.power_on();
        self.faults.clear();
        self.log = None;
        self.sabotage = None;
        self.enter(Phase::Other);
    }

    /// Writes and flushes so far.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Reads so far.
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// The machine stops in place of operation `operation` (counted as [`Self::operations`] does): it fails, and so does
    /// every later one until [`Self::crash`].
    pub fn crash_at(&mut self, operation: u64) {
        self.crash_at = Some(operation);
    }

    /// Forgets the crash point.
    pub fn crash_at_nothing(&mut self) {
        self.crash_at = None;
    }

    /// Whether the crash point was reached.
    pub fn has_crashed(&self) -> bool {
        self.crashed
    }

    /// Adds a fault at operation `operation`.
    pub fn inject(&mut self, operation: u64, fault: Fault) {
        self.faults.push((operation, fault));
    }

    /// Forgets the faults that have not happened yet.
    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// Breaks a rule from here on.
    pub fn sabotage(&mut self, sabotage: Option<Sabotage>) {
        self.sabotage = sabotage;
    }

    /// Tells what comes next.
    pub fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.flushes_in_phase = 0;
    }

    fn is_struck(&mut self, op: IoOp, at: ByteOffset) -> bool {
        let last_write = self.last_write;
        if op != IoOp::Flush {
            self.last_write = at.get();
        }
        let nth = self.flushes_in_phase;
        self.flushes_in_phase += u64::from(op == IoOp::Flush);
        let Some(sabotage) = self
            .sabotage
            .filter(|sabotage| sabotage.phase == self.phase)
        else {
            return false;
        };
        match sabotage.strike {
            Strike::SkipFlushes { from, until } => {
                op == IoOp::Flush && (from..until).contains(&nth)
            }
            Strike::SkipWrites { from, until } => {
                op != IoOp::Flush && (from..until).contains(&at.get())
            }
            Strike::SkipFlushAfter { from, until } => {
                op == IoOp::Flush && (from..until).contains(&last_write)
            }
        }
    }

    /// Notes the kind of every write and flush from here on.
    pub fn start_log(&mut self) {
        self.log = Some(Vec::new());
    }

    /// What was noted since [`Self::start_log`].
    pub fn log(&self) -> &[IoOp] {
        self.log.as_deref().unwrap_or_default()
    }

    /// Stops the machine and starts it again.
    pub fn crash(&mut self, crash: Crash) {
        if let Crash::Power { seed } = crash {
            self.lose_power(seed);
        }
        self.power_on();
    }

    fn power_on(&mut self) {
        self.crash_at = None;
        self.crashed = false;
    }

    /// Changes bytes behind everybody's back, in the cache and on the platter: bit rot, or a vandal.
    pub fn rot(&mut self, at: ByteOffset, change: impl FnOnce(&mut Page)) {
        let page = page_of(at.get());
        let mut bytes = self.page(page);
        change(&mut bytes);
        if let Some(old) = self.durable.remove(&page) {
            self.release(old);
        }
        let old = std::mem::replace(&mut self.cells[page], Cell::Zero);
        self.release(old);
        self.cells[page] = self.keep(&bytes);
    }

    /// Makes the device longer or shorter, as an operator might.
    pub fn resize(&mut self, len_bytes: u64) {
        self.cells.resize(page_of(len_bytes), Cell::Poison);
        self.len_bytes = len_bytes;
    }

    /// The page at `at` as a read would return it.
    pub fn peek(&self, at: ByteOffset) -> Page {
        self.page(page_of(at.get()))
    }

    /// Every page that was written and is not all zero, with its offset.
    pub fn written_pages(&self) -> impl Iterator<Item = (ByteOffset, &Page)> {
        self.cells
            .iter()
            .enumerate()
            .filter_map(|(page, cell)| match cell {
                Cell::At(at) => Some((ByteOffset::new(offset_of(page)), &self.arena[*at as usize])),
                Cell::Poison | Cell::Zero => None,
            })
    }

    fn lose_power(&mut self, seed: u64) {
        for (page, cell) in std::mem::take(&mut self.durable) {
            let lost = std::mem::replace(&mut self.cells[page], cell);
            self.release(lost);
        }
        let mut rng = Rng::new(seed);
        let survival = match rng.below(8) {
            0 => Survival::AllLost,
            1 => Survival::AllLand,
            2 | 3 => Survival::ByWrite,
            4 => Survival::BySector(10),
            5 => Survival::BySector(90),
            _ => Survival::BySector(50),
        };
        for write in std::mem::take(&mut self.pending) {
            let whole = match survival {
                Survival::AllLost => Some(false),
                Survival::AllLand => Some(true),
                Survival::ByWrite => Some(rng.percent(50)),
                Survival::BySector(_) => None,
            };
            let survives = |rng: &mut Rng| match (whole, survival) {
                (None, Survival::BySector(percent)) => rng.percent(percent),
                (decided, _) => decided.unwrap_or(false),
            };
            for (page, touched, source) in write.pages() {
                let mut landed = 0u8;
                for sector in (0..SECTORS_PER_PAGE).filter(|sector| touched & (1 << sector) != 0) {
                    landed |= u8::from(write.durable || survives(&mut rng)) << sector;
                }
                self.land(page, touched, landed, source);
            }
        }
    }

    /// Puts the sectors of `landed`, out of the `touched` ones that `source` has the bytes of, onto the platter; no source is zeros.
    fn land(&mut self, page: usize, touched: u8, landed: u8, source: Option<&[u8]>) {
        if landed == 0 {
            return;
        }
        let old = self.cells[page];
        let new = if landed == u8::MAX && source.is_none() {
            Cell::Zero
        } else {
            let mut bytes = self.page(page);
            put(&mut bytes, touched, landed, source);
            self.keep(&bytes)
        };
        self.cells[page] = new;
        self.release(old);
    }

    fn page(&self, page: usize) -> Page {
        let mut bytes = [0; PAGE_BYTES];
        self.copy_page(page, &mut bytes);
        bytes
    }

    fn copy_page(&self, page: usize, into: &mut [u8]) {
        match self.cells[page] {
            Cell::Zero => into.fill(0),
            Cell::At(at) => into.copy_from_slice(&self.arena[at as usize]),
            Cell::Poison => {
                for (sector, bytes) in into.chunks_exact_mut(SECTOR).enumerate() {
                    let word = mix(self.poison ^ (page * SECTORS_PER_PAGE + sector) as u64);
                    let (words, _) = bytes.as_chunks_mut::<8>();
                    words.fill(word.to_le_bytes());
                }
            }
        }
    }

    fn keep(&mut self, bytes: &Page) -> Cell {
        if let Some(at) = self.free.pop() {
            self.arena[at as usize] = *bytes;
            return Cell::At(at);
        }
        self.arena.push(*bytes);
        Cell::At(
            u32::try_from(self.arena.len() - 1)
                .expect("a simulated disk has fewer than 2^32 pages"),
        )
    }

    fn release(&mut self, cell: Cell) {
        if let Cell::At(at) = cell {
            self.free.push(at);
        }
    }

    /// Replaces a page in the cache; its durable state is remembered until a flush.
    fn replace(&mut self, page: usize, new: Cell) {
        let old = std::mem::replace(&mut self.cells[page], new);
        if let std::collections::hash_map::Entry::Vacant(entry) = self.durable.entry(page) {
            entry.insert(old);
        } else {
            self.release(old);
        }
    }

    fn apply(&mut self, write: Pending) {
        for (page, touched, source) in write.pages() {
            let cell = match (touched, source) {
                (u8::MAX, None) => Cell::Zero,
                (u8::MAX, Some(source)) => {
                    let mut bytes = [0; PAGE_BYTES];
                    bytes.copy_from_slice(source);
                    self.keep(&bytes)
                }
                _ => {
                    let mut bytes = self.page(page);
                    put(&mut bytes, touched, touched, source);
                    self.keep(&bytes)
                }
            };
            self.replace(page, cell);
        }
        self.pending.push(write);
    }

    fn settle(&mut self) {
        for (_, cell) in std::mem::take(&mut self.durable) {
            self.release(cell);
        }
        self.pending.clear();
    }

    /// Counts an operation and says what happens to it.
    fn next_operation(&mut self, op: IoOp, at: ByteOffset) -> Next {
        if self.crashed {
            return Next::Crashed;
        }
        let operation = self.operations;
        self.operations += 1;
        if let Some(log) = &mut self.log {
            log.push(op);
        }
        if self.crash_at == Some(operation) {
            self.crashed = true;
            return Next::CrashNow;
        }
        if self.is_struck(op, at) {
            return Next::Fault(Fault::Ignored);
        }
        match self.faults.iter().find(|(at, _)| *at == operation) {
            Some((_, fault)) => Next::Fault(*fault),
            None => Next::Do,
        }
    }

    fn check(&self, at: ByteOffset, len_bytes: u64) {
        assert!(
            at.get().is_multiple_of(BLOCK_BYTES) && len_bytes.is_multiple_of(BLOCK_BYTES),
            "not in whole blocks: {len_bytes} bytes at {at}"
        );
        self.check_sectors(at, len_bytes);
    }

    fn check_sectors(&self, at: ByteOffset, len_bytes: u64) {
        assert!(
            at.get().is_multiple_of(SECTOR_BYTES)
                && len_bytes.is_multiple_of(SECTOR_BYTES)
                && len_bytes > 0,
            "not in whole sectors: {len_bytes} bytes at {at}"
        );
        assert!(
            at.get() + len_bytes <= self.len_bytes,
            "past the disk's end: {len_bytes} bytes at {at}"
        );
    }

    fn change(
        &mut self,
        op: IoOp,
        at: ByteOffset,
        len_bytes: u64,
        from: Option<&[u8]>,
        durable: bool,
    ) -> Result<(), IoFault> {
        let (first, sectors) = (sector_of(at.get()), sector_of(len_bytes));
        let write = |first: usize, sectors: usize, durable: bool| Pending {
            first,
            sectors,
            bytes: from.map_or(Vec::new(), |from| from[..sectors * SECTOR].to_vec()),
            durable,
        };
        let fault = |errno| {
            Err(IoFault {
                op,
                at,
                len_bytes,
                errno,
            })
        };
        match self.next_operation(op, at) {
            Next::Do => self.apply(write(first, sectors, durable)),
            Next::Crashed => return fault(ESHUTDOWN),
            // The write was on its way: it may land like any other that was not flushed.
            Next::CrashNow => {
                self.apply(write(first, sectors, false));
                return fault(ESHUTDOWN);
            }
            Next::Fault(Fault::Error) => return fault(EIO),
            Next::Fault(Fault::Short) => {
                if sectors > 1 {
                    let half = (sectors / 2).next_multiple_of(SECTORS_PER_PAGE.min(sectors / 2));
                    self.apply(write(first, half, false));
                }
                return fault(EIO);
            }
            Next::Fault(Fault::Misdirected { by_blocks }) => {
                let by = usize::try_from(by_blocks).expect("a distance on a simulated disk");
                let end = self.cells.len() * SECTORS_PER_PAGE;
                let there = (first + by * SECTORS_PER_PAGE).min(end - sectors);
                self.apply(write(there, sectors, durable));
            }
            Next::Fault(Fault::Ignored) => {}
        }
        Ok(())
    }

    /// Writes whole sectors, as requests of a volume do; else like [`Medium::write`].
    ///
    /// # Errors
    /// The fault.
    pub fn write_sectors(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.check_sectors(at, from.len() as u64);
        self.change(IoOp::Write, at, from.len() as u64, Some(from), false)
    }

    /// Zeroes whole sectors; else like [`Medium::write_zeroes`].
    ///
    /// # Errors
    /// The fault.
    pub fn zero_sectors(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        self.check_sectors(at, len_bytes);
        self.change(IoOp::WriteZeroes, at, len_bytes, None, false)
    }

    /// Shows each sector of a range, as a read would return it.
    pub fn look(&self, at: ByteOffset, sectors: usize, mut show: impl FnMut(usize, &[u8])) {
        let first = sector_of(at.get());
        let mut page_bytes = [0; PAGE_BYTES];
        let mut copied = usize::MAX;
        for nth in 0..sectors {
            let (page, sector) = (
                (first + nth) / SECTORS_PER_PAGE,
                (first + nth) % SECTORS_PER_PAGE,
            );
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            if let Cell::At(at) = self.cells[page] {
                show(nth, &self.arena[at as usize][range]);
                continue;
            }
            if copied != page {
                self.copy_page(page, &mut page_bytes);
                copied = page;
            }
            show(nth, &page_bytes[range]);
        }
    }

    /// The machine stops now, between two operations: every later one fails until [`Self::crash`].
    pub fn stop(&mut self) {
        self.crashed = true;
    }
}

enum Next {
    Do,
    Crashed,
    CrashNow,
    Fault(Fault),
}

impl Medium for SimDisk {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read(&mut self, at: ByteOffset, into: &mut [u8]) -> Result<(), IoFault> {
        let len_bytes = into.len() as u64;
        self.check(at, len_bytes);
        self.reads += 1;
        if self.crashed {
            return Err(IoFault {
                op: IoOp::Read,
                at,
                len_bytes,
                errno: ESHUTDOWN,
            });
        }
        let first = page_of(at.get());
        for (nth, bytes) in into.chunks_exact_mut(PAGE_BYTES).enumerate() {
            self.copy_page(first + nth, bytes);
        }
        Ok(())
    }

    fn write(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.check(at, from.len() as u64);
        self.change(IoOp::Write, at, from.len() as u64, Some(from), false)
    }

    fn write_durable(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.check(at, from.len() as u64);
        self.change(IoOp::Write, at, from.len() as u64, Some(from), true)
    }

    fn write_zeroes(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        self.check(at, len_bytes);
        self.change(IoOp::WriteZeroes, at, len_bytes, None, false)
    }

    fn flush(&mut self) -> Result<(), IoFault> {
        let fault = |errno| {
            Err(IoFault {
                op: IoOp::Flush,
                at: ByteOffset::new(0),
                len_bytes: 0,
                errno,
            })
        };
        match self.next_operation(IoOp::Flush, ByteOffset::new(0)) {
            Next::Do => {
                self.settle();
                Ok(())
            }
            Next::Crashed | Next::CrashNow => fault(ESHUTDOWN),
            Next::Fault(Fault::Error | Fault::Short) => {
                // As a kernel does: what it could not write it drops, and the next flush succeeds.
                self.lose_power(mix(self.poison ^ self.operations));
                fault(EIO)
            }
            Next::Fault(Fault::Ignored | Fault::Misdirected { .. }) => Ok(()),
        }
    }
}

fn page_of(bytes: u64) -> usize {
    usize::try_from(bytes / BLOCK_BYTES).expect("a simulated disk fits in memory")
}

fn sector_of(bytes: u64) -> usize {
    usize::try_from(bytes / SECTOR_BYTES).expect("a simulated disk fits in memory")
}

/// Puts the sectors of `which`, out of the `touched` ones that `source` has the bytes of, into a page; no source is zeros.
fn put(page: &mut Page, touched: u8, which: u8, source: Option<&[u8]>) {
    let skip = touched.trailing_zeros() as usize;
    for sector in (0..SECTORS_PER_PAGE).filter(|sector| which & (1 << sector) != 0) {
        let range = sector * SECTOR..(sector + 1) * SECTOR;
        match source {
            Some(source) => {
                page[range].copy_from_slice(&source[(sector - skip) * SECTOR..][..SECTOR]);
            }
            None => page[range].fill(0),
        }
    }
}

fn offset_of(page: usize) -> u64 {
    page as u64 * BLOCK_BYTES
}

/// Page numbers are spread well enough by one multiplication, and the map is the simulator's hot spot.
#[derive(Clone, Debug, Default)]
pub struct PageHasher(u64);

impl std::hash::Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = mix(self.0 ^ u64::from(byte));
        }
    }

    fn write_usize(&mut self, page: usize) {
        self.0 = (page as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
