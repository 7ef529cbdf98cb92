//! The simulated disk: a sparse 4 KiB page store with a volatile cache, faults, and two kinds of crash.
//!
//! What it promises is what `docs/on-disk-format.md` assumes of a medium, and not a bit more: until a flush, every 512-byte
//! sector of every write survives a power loss or not on its own, and an older unflushed version of a sector may survive a newer
//! one. What was never written reads as poison, a pattern that no image holds, so that a wrong read shows.

pub mod pages;

use bedplate_datapath::format::geometry::ROOT_OFFSETS;
use bedplate_datapath::medium::{IoFault, IoOp, LOOK_BYTES, Medium};
use bedplate_datapath::units::{BLOCK_BYTES, ByteOffset, PAGE_BYTES, Page, SECTOR_BYTES};

use super::rng::mix;
use pages::{Data, Pages, SECTOR, SECTORS_PER_PAGE};

/// Errno of an operation on a machine that has crashed already.
pub const ESHUTDOWN: i32 = 108;
/// Errno of an injected I/O error.
pub const EIO: i32 = 5;
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

/// A disk in memory. See the head of this file.
#[derive(Clone, Debug)]
pub struct SimDisk {
    poison: u64,
    len_bytes: u64,
    pages: Pages,
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
    full_rings: u64,
}

impl SimDisk {
    /// A disk of `len_bytes` (whole blocks) full of poison.
    pub fn new(len_bytes: u64, poison: u64) -> Self {
        let pages =
            usize::try_from(len_bytes / BLOCK_BYTES).expect("a simulated disk fits in memory");
        Self {
            poison,
            len_bytes,
            pages: Pages::new(pages, poison),
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
            full_rings: 0,
        }
    }

    /// As new, with another poison; keeps its memory.
    pub fn reset(&mut self, poison: u64) {
        self.poison = poison;
        self.pages.reset(poison);
        self.forget_history();
    }

    /// The content, all of it flushed, for [`Self::reset_to`].
    pub fn flushed_pages(&mut self) -> Pages {
        self.pages.flush();
        self.pages.clone()
    }

    /// A disk that nothing has happened to, with this content, and what was never written of it poisoned anew; keeps its memory.
    pub fn reset_to(&mut self, pages: &Pages, poison: u64) {
        self.poison = poison;
        self.pages.reset_to(pages, poison);
        self.forget_history();
    }

    fn forget_history(&mut self) {
        self.operations = 0;
        self.reads = 0;
        self.full_rings = 0;
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

    /// Checkpoints that a commit began, for want of room in the ring: roots written in its phase.
    pub fn full_rings(&self) -> u64 {
        self.full_rings
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
            self.pages.lose_power(seed);
        }
        self.power_on();
    }

    fn power_on(&mut self) {
        self.crash_at = None;
        self.crashed = false;
    }

    /// Changes bytes behind everybody's back, in the cache and on the platter: bit rot, or a vandal.
    pub fn rot(&mut self, at: ByteOffset, change: impl FnOnce(&mut Page)) {
        self.pages.rot(page_of(at.get()), change);
    }

    /// Makes the device longer or shorter, as an operator might.
    pub fn resize(&mut self, len_bytes: u64) {
        self.pages.resize(page_of(len_bytes));
        self.len_bytes = len_bytes;
    }

    /// The page at `at` as a read would return it.
    pub fn peek(&self, at: ByteOffset) -> Page {
        self.pages.page(page_of(at.get()))
    }

    /// Every page that was written and is not all zero, with its offset.
    pub fn written_pages(&self) -> impl Iterator<Item = (ByteOffset, Page)> {
        self.pages
            .written()
            .map(|(page, bytes)| (ByteOffset::new(page as u64 * BLOCK_BYTES), bytes))
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

    fn begin_read(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
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
        Ok(())
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
        data: Data<'_>,
        durable: bool,
    ) -> Result<(), IoFault> {
        let (first, sectors) = (sector_of(at.get()), data.sectors());
        let is_root = ROOT_OFFSETS.contains(&at.get());
        self.full_rings += u64::from(is_root && self.phase == Phase::Commit);
        let fault = |errno| {
            Err(IoFault {
                op,
                at,
                len_bytes: (sectors * SECTOR) as u64,
                errno,
            })
        };
        match self.next_operation(op, at) {
            Next::Do => self.pages.write(first, data, durable),
            Next::Crashed => return fault(ESHUTDOWN),
            // The write was on its way: it may land like any other that was not flushed.
            Next::CrashNow => {
                self.pages.write(first, data, false);
                return fault(ESHUTDOWN);
            }
            Next::Fault(Fault::Error) => return fault(EIO),
            Next::Fault(Fault::Short) => {
                if sectors > 1 {
                    let half = (sectors / 2).next_multiple_of(SECTORS_PER_PAGE.min(sectors / 2));
                    self.pages.write(first, data.cut(half), false);
                }
                return fault(EIO);
            }
            Next::Fault(Fault::Misdirected { by_blocks }) => {
                let by = usize::try_from(by_blocks).expect("a distance on a simulated disk");
                let end = self.pages.len() * SECTORS_PER_PAGE;
                let there = (first + by * SECTORS_PER_PAGE).min(end - sectors);
                self.pages.write(there, data, durable);
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
        self.change(IoOp::Write, at, Data::Bytes(from), false)
    }

    /// As [`Self::write_sectors`]: a sector for each word, which it repeats.
    ///
    /// # Errors
    /// The fault.
    pub fn write_words(&mut self, at: ByteOffset, words: &[u64]) -> Result<(), IoFault> {
        self.check_sectors(at, (words.len() * SECTOR) as u64);
        self.change(IoOp::Write, at, Data::Words(words), false)
    }

    /// Zeroes whole sectors; else like [`Medium::write_zeroes`].
    ///
    /// # Errors
    /// The fault.
    pub fn zero_sectors(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        self.check_sectors(at, len_bytes);
        let sectors = sector_of(len_bytes);
        self.change(IoOp::WriteZeroes, at, Data::Zeros(sectors), false)
    }

    /// Reads whole sectors, as requests of a volume do.
    pub fn read_sectors(&self, at: ByteOffset, into: &mut [u8]) {
        self.check_sectors(at, into.len() as u64);
        let first = sector_of(at.get());
        let mut page_bytes = [0; PAGE_BYTES];
        let mut copied = usize::MAX;
        for (nth, bytes) in (first..).zip(into.chunks_exact_mut(SECTOR)) {
            let (page, sector) = (nth / SECTORS_PER_PAGE, nth % SECTORS_PER_PAGE);
            if copied != page {
                self.pages.copy_page(page, &mut page_bytes);
                copied = page;
            }
            bytes.copy_from_slice(&page_bytes[sector * SECTOR..][..SECTOR]);
        }
    }

    /// Shows each sector of a range, as a read would return it: the word that it repeats, none if it is of another kind.
    pub fn look(&self, at: ByteOffset, sectors: usize, show: impl FnMut(usize, Option<u64>)) {
        self.pages.look(sector_of(at.get()), sectors, show);
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
        self.begin_read(at, into.len() as u64)?;
        let first = page_of(at.get());
        for (page, bytes) in (first..).zip(into.chunks_exact_mut(PAGE_BYTES)) {
            self.pages.copy_page(page, bytes);
        }
        Ok(())
    }

    fn heads(
        &mut self,
        at: ByteOffset,
        len_bytes: u64,
        head_bytes: usize,
        look: &mut dyn FnMut(ByteOffset, &[u8]),
    ) -> Result<(), IoFault> {
        self.begin_read(at, len_bytes)?;
        // As many as where they are copied.
        self.reads += len_bytes.div_ceil(LOOK_BYTES as u64) - 1;
        let first = page_of(at.get());
        let mut scratch = [0; PAGE_BYTES];
        for nth in 0..page_of(len_bytes) {
            let head = self.pages.head(first + nth, &mut scratch[..head_bytes]);
            look(at.plus(nth as u64 * BLOCK_BYTES), head);
        }
        Ok(())
    }

    fn write(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.check(at, from.len() as u64);
        self.change(IoOp::Write, at, Data::Bytes(from), false)
    }

    fn write_durable(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.check(at, from.len() as u64);
        self.change(IoOp::Write, at, Data::Bytes(from), true)
    }

    fn write_zeroes(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        self.check(at, len_bytes);
        let sectors = sector_of(len_bytes);
        self.change(IoOp::WriteZeroes, at, Data::Zeros(sectors), false)
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
                self.pages.flush();
                Ok(())
            }
            Next::Crashed | Next::CrashNow => fault(ESHUTDOWN),
            Next::Fault(Fault::Error | Fault::Short) => {
                // As a kernel does: what it could not write it drops, and the next flush succeeds.
                self.pages.lose_power(mix(self.poison ^ self.operations));
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
