//! What the simulated disk holds: pages of 4 KiB, as they are in its cache, and as much of the past as a power loss brings back.
//!
//! Most sectors of a schedule repeat one word (see `volumes/word.rs`, and zeros, and poison), and are kept as that word: what a schedule costs is
//! moving bytes. A page with any other sector is kept as bytes. Nobody outside can tell the one from the other.

use bedplate_datapath::units::{PAGE_BYTES, Page};

use crate::sim::rng::{Rng, mix};

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Sectors of a page.
pub const SECTORS_PER_PAGE: usize = PAGE_BYTES / SECTOR;
const WHOLE: u8 = u8::MAX;
/// A word for each sector of a page.
type Words = [u64; SECTORS_PER_PAGE];

/// A page. Kept small: a fresh disk is a slice of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Poison,
    Zero,
    Words(u32),
    Bytes(u32),
}

/// What is written, in whole sectors.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// So many sectors of zeros.
    Zeros(usize),
    /// A sector for each word, which it repeats.
    Words(&'a [u64]),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl Data<'_> {
    /// How many sectors.
    pub fn sectors(&self) -> usize {
        match self {
            Self::Zeros(sectors) => *sectors,
            Self::Words(words) => words.len(),
            Self::Bytes(bytes) => bytes.len() / SECTOR,
        }
    }

    /// The first `sectors` of them.
    #[must_use]
    pub fn cut(self, sectors: usize) -> Self {
        match self {
            Self::Zeros(_) => Self::Zeros(sectors),
            Self::Words(words) => Self::Words(&words[..sectors]),
            Self::Bytes(bytes) => Self::Bytes(&bytes[..sectors * SECTOR]),
        }
    }
}

/// What a write that is not yet flushed put into one page. Its cell is nobody else's, or the page's own.
#[derive(Clone, Copy, Debug)]
struct Piece {
    page: usize,
    /// A bit for each sector that it wrote; what the cell has in the others means nothing.
    touched: u8,
    cell: Cell,
}

/// A write that is not yet flushed.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// One past its last piece; the first follows the write before.
    pieces_end: usize,
    /// It was durable when it ended; it is here for what comes before and after it.
    durable: bool,
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

/// The pages of a disk. See the head of this file.
#[derive(Clone, Debug)]
pub struct Pages {
    poison: u64,
    cells: Vec<Cell>,
    words: Vec<Words>,
    free_words: Vec<u32>,
    bytes: Vec<Page>,
    free_bytes: Vec<u32>,
    /// Since the last flush: the durable cell of each page that was written.
    durable: Vec<(usize, Cell)>,
    /// A page is in `durable` if its stamp is this one.
    generation: u32,
    stamps: Vec<u32>,
    /// Since the last flush: every cell that was taken, by page. A cell never moves to another page.
    young: Vec<(usize, Cell)>,
    pieces: Vec<Piece>,
    pending: Vec<Pending>,
}

impl Pages {
    /// So many pages of poison.
    pub fn new(pages: usize, poison: u64) -> Self {
        Self {
            poison,
            cells: vec![Cell::Poison; pages],
            words: Vec::new(),
            free_words: Vec::new(),
            bytes: Vec::new(),
            free_bytes: Vec::new(),
            durable: Vec::new(),
            generation: 1,
            stamps: vec![0; pages],
            young: Vec::new(),
            pieces: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// How many pages.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// As new, with another poison; keeps its memory.
    pub fn reset(&mut self, poison: u64) {
        self.poison = poison;
        self.cells.fill(Cell::Poison);
        self.words.clear();
        self.free_words.clear();
        self.bytes.clear();
        self.free_bytes.clear();
        self.forget_past();
    }

    /// As `other`, of which nothing is unflushed, with another poison; keeps its memory.
    pub fn reset_to(&mut self, other: &Self, poison: u64) {
        debug_assert!(other.pending.is_empty() && other.cells.len() == self.cells.len());
        self.poison = poison;
        self.cells.copy_from_slice(&other.cells);
        self.words.clone_from(&other.words);
        self.free_words.clone_from(&other.free_words);
        self.bytes.clone_from(&other.bytes);
        self.free_bytes.clone_from(&other.free_bytes);
        self.forget_past();
    }

    /// More pages, or fewer.
    pub fn resize(&mut self, pages: usize) {
        self.cells.resize(pages, Cell::Poison);
        self.stamps.resize(pages, 0);
    }

    /// Writes to the cache. `durable`: on the platter when this returns.
    pub fn write(&mut self, first: usize, data: Data<'_>, durable: bool) {
        let end = first + data.sectors();
        for page in first / SECTORS_PER_PAGE..end.div_ceil(SECTORS_PER_PAGE) {
            let start = page * SECTORS_PER_PAGE;
            let (from, until) = (first.max(start), end.min(start + SECTORS_PER_PAGE));
            let touched = bits_below(until - start) & !bits_below(from - start);
            let cell = self.cell_of(data, from - first..until - first, from - start);
            self.grow_old(page, cell);
            let now = if touched == WHOLE {
                cell
            } else {
                let merged = self.merge(page, touched, cell);
                self.grow_old(page, merged);
                merged
            };
            let old = std::mem::replace(&mut self.cells[page], now);
            if self.stamps[page] != self.generation {
                self.stamps[page] = self.generation;
                self.durable.push((page, old));
            }
            self.pieces.push(Piece {
                page,
                touched,
                cell,
            });
        }
        self.pending.push(Pending {
            pieces_end: self.pieces.len(),
            durable,
        });
    }

    /// Everything in the cache is durable now.
    pub fn flush(&mut self) {
        for (_, old) in std::mem::take(&mut self.durable) {
            self.release(old);
        }
        self.end_generation();
    }

    /// What was not flushed survives sector by sector, as `seed` says.
    pub fn lose_power(&mut self, seed: u64) {
        for (page, cell) in std::mem::take(&mut self.durable) {
            // It may be replaced once more below.
            self.grow_old(page, cell);
            self.cells[page] = cell;
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
        let pieces = std::mem::take(&mut self.pieces);
        let mut start = 0;
        for write in std::mem::take(&mut self.pending) {
            let whole = match survival {
                Survival::AllLost => Some(false),
                Survival::AllLand => Some(true),
                Survival::ByWrite => Some(rng.percent(50)),
                Survival::BySector(_) => None,
            };
            for piece in &pieces[start..write.pieces_end] {
                let mut landed = 0u8;
                for sector in 0..SECTORS_PER_PAGE {
                    if piece.touched & 1 << sector == 0 {
                        continue;
                    }
                    let survives = write.durable
                        || match (whole, survival) {
                            (None, Survival::BySector(percent)) => rng.percent(percent),
                            (decided, _) => decided.unwrap_or(false),
                        };
                    landed |= u8::from(survives) << sector;
                }
                self.land(piece, landed);
            }
            start = write.pieces_end;
        }
        self.pieces = pieces;
        self.end_generation();
    }

    /// Puts the sectors of `landed` onto the platter.
    fn land(&mut self, piece: &Piece, landed: u8) {
        if landed == 0 {
            return;
        }
        self.cells[piece.page] = if landed == WHOLE {
            piece.cell
        } else {
            let merged = self.merge(piece.page, landed, piece.cell);
            self.grow_old(piece.page, merged);
            merged
        };
    }

    /// Nothing is unflushed any more. Cells that were taken meanwhile and are no page's now are free.
    fn end_generation(&mut self) {
        let mut young = std::mem::take(&mut self.young);
        for (page, cell) in young.drain(..) {
            if self.cells[page] != cell {
                self.release(cell);
            }
        }
        self.young = young;
        self.forget_past();
    }

    fn forget_past(&mut self) {
        self.durable.clear();
        self.young.clear();
        self.pieces.clear();
        self.pending.clear();
        self.generation += 1;
    }

    /// Changes a page, in the cache and on the platter.
    pub fn rot(&mut self, page: usize, change: impl FnOnce(&mut Page)) {
        let mut bytes = self.page(page);
        change(&mut bytes);
        let old = std::mem::replace(&mut self.cells[page], Cell::Zero);
        if let Some(at) = self.durable.iter().position(|(other, _)| *other == page) {
            // The page's own cell is a young one.
            let (_, durable) = self.durable.swap_remove(at);
            self.release(durable);
            self.stamps[page] = 0;
        } else {
            self.release(old);
        }
        self.cells[page] = self.keep_bytes(&bytes);
    }

    /// A page as a read would return it.
    pub fn page(&self, page: usize) -> Page {
        let mut bytes = [0; PAGE_BYTES];
        self.copy_page(page, &mut bytes);
        bytes
    }

    /// A page, or as many of its first bytes as `scratch` has; put together there, where it is not kept as bytes.
    pub fn head<'a>(&'a self, page: usize, scratch: &'a mut [u8]) -> &'a [u8] {
        const ZERO: &Page = &[0; PAGE_BYTES];
        match self.cells[page] {
            Cell::Zero => &ZERO[..scratch.len()],
            Cell::Bytes(at) => &self.bytes[at as usize][..scratch.len()],
            Cell::Words(_) | Cell::Poison => {
                self.copy_page(page, scratch);
                scratch
            }
        }
    }

    /// Copies a page, or its first bytes.
    pub fn copy_page(&self, page: usize, into: &mut [u8]) {
        match self.cells[page] {
            Cell::Zero => into.fill(0),
            Cell::Bytes(at) => into.copy_from_slice(&self.bytes[at as usize][..into.len()]),
            Cell::Words(at) => fill(into, &self.words[at as usize]),
            Cell::Poison => fill(into, &self.poison_of(page)),
        }
    }

    /// Shows each sector of a range: the word that it repeats, none if it is of another kind.
    pub fn look(&self, first: usize, sectors: usize, mut show: impl FnMut(usize, Option<u64>)) {
        let end = first + sectors;
        for page in first / SECTORS_PER_PAGE..end.div_ceil(SECTORS_PER_PAGE) {
            let start = page * SECTORS_PER_PAGE;
            let (from, until) = (first.max(start), end.min(start + SECTORS_PER_PAGE));
            let range = from - start..until - start;
            match self.cells[page] {
                Cell::Bytes(at) => {
                    let bytes = &self.bytes[at as usize];
                    for sector in range {
                        let word = word_of(&bytes[sector * SECTOR..][..SECTOR]);
                        show(start + sector - first, word);
                    }
                }
                cell => {
                    let words = self.words_of(page, cell);
                    for sector in range {
                        show(start + sector - first, Some(words[sector]));
                    }
                }
            }
        }
    }

    /// Every page that was written and is not all zero, by number.
    pub fn written(&self) -> impl Iterator<Item = (usize, Page)> {
        (0..self.cells.len())
            .filter(|page| !matches!(self.cells[*page], Cell::Poison | Cell::Zero))
            .map(|page| (page, self.page(page)))
    }

    fn poison_of(&self, page: usize) -> Words {
        std::array::from_fn(|sector| mix(self.poison ^ (page * SECTORS_PER_PAGE + sector) as u64))
    }

    /// Of a cell that is not kept as bytes.
    fn words_of(&self, page: usize, cell: Cell) -> Words {
        match cell {
            Cell::Words(at) => self.words[at as usize],
            Cell::Poison => self.poison_of(page),
            Cell::Zero | Cell::Bytes(_) => [0; SECTORS_PER_PAGE],
        }
    }

    /// A cell with the sectors `range` of `data`, the first of them in place `at`.
    fn cell_of(&mut self, data: Data<'_>, range: std::ops::Range<usize>, at: usize) -> Cell {
        let mut words = [0; SECTORS_PER_PAGE];
        match data {
            Data::Zeros(_) => {}
            Data::Words(all) => words[at..at + range.len()].copy_from_slice(&all[range]),
            Data::Bytes(bytes) => {
                let bytes = &bytes[range.start * SECTOR..range.end * SECTOR];
                let mut sectors = bytes.chunks_exact(SECTOR).zip(&mut words[at..]);
                let all = sectors.all(|(sector, word)| {
                    let repeated = word_of(sector);
                    *word = repeated.unwrap_or(0);
                    repeated.is_some()
                });
                if !all {
                    let mut page = [0; PAGE_BYTES];
                    page[at * SECTOR..][..bytes.len()].copy_from_slice(bytes);
                    return self.keep_bytes(&page);
                }
            }
        }
        self.keep_words(&words)
    }

    /// What is in `page` now, with the sectors `which` of `cell`.
    fn merge(&mut self, page: usize, which: u8, cell: Cell) -> Cell {
        let under = self.cells[page];
        if !matches!((under, cell), (Cell::Bytes(_), _) | (_, Cell::Bytes(_))) {
            let mut words = self.words_of(page, under);
            let over = self.words_of(page, cell);
            for sector in sectors_in(which) {
                words[sector] = over[sector];
            }
            return self.keep_words(&words);
        }
        let mut bytes = self.page(page);
        for sector in sectors_in(which) {
            let into = &mut bytes[sector * SECTOR..][..SECTOR];
            match cell {
                Cell::Bytes(at) => {
                    into.copy_from_slice(&self.bytes[at as usize][sector * SECTOR..][..SECTOR]);
                }
                cell => {
                    let word = self.words_of(page, cell)[sector];
                    into.as_chunks_mut::<8>().0.fill(word.to_le_bytes());
                }
            }
        }
        self.keep_bytes(&bytes)
    }

    fn keep_words(&mut self, words: &Words) -> Cell {
        if *words == [0; SECTORS_PER_PAGE] {
            return Cell::Zero;
        }
        Cell::Words(keep(&mut self.words, &mut self.free_words, words))
    }

    fn keep_bytes(&mut self, bytes: &Page) -> Cell {
        Cell::Bytes(keep(&mut self.bytes, &mut self.free_bytes, bytes))
    }

    /// It is freed with the generation, unless it is its page's then.
    fn grow_old(&mut self, page: usize, cell: Cell) {
        if matches!(cell, Cell::Words(_) | Cell::Bytes(_)) {
            self.young.push((page, cell));
        }
    }

    fn release(&mut self, cell: Cell) {
        match cell {
            Cell::Words(at) => self.free_words.push(at),
            Cell::Bytes(at) => self.free_bytes.push(at),
            Cell::Poison | Cell::Zero => {}
        }
    }
}

fn keep<T: Copy>(all: &mut Vec<T>, free: &mut Vec<u32>, one: &T) -> u32 {
    if let Some(at) = free.pop() {
        all[at as usize] = *one;
        return at;
    }
    all.push(*one);
    u32::try_from(all.len() - 1).expect("a simulated disk has fewer than 2^32 pages")
}

fn bits_below(sector: usize) -> u8 {
    match sector {
        SECTORS_PER_PAGE.. => WHOLE,
        sector => (1 << sector) - 1,
    }
}

fn sectors_in(which: u8) -> impl Iterator<Item = usize> {
    (0..SECTORS_PER_PAGE).filter(move |sector| which & 1 << sector != 0)
}

/// The word that a sector repeats.
fn word_of(sector: &[u8]) -> Option<u64> {
    let (words, _) = sector.as_chunks::<8>();
    let first = words.first()?;
    words
        .iter()
        .all(|word| word == first)
        .then(|| u64::from_le_bytes(*first))
}

fn fill(into: &mut [u8], words: &Words) {
    for (bytes, word) in into.chunks_mut(SECTOR).zip(words) {
        bytes.as_chunks_mut::<8>().0.fill(word.to_le_bytes());
    }
}
