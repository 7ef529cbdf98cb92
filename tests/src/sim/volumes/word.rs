//! What a sector holds: one word, repeated, that says of which volume it is, which sector of it, and which write put it there. A sector
//! of another tenant, in the wrong place or of the wrong time shows, and says where it comes from.

use std::fmt;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
const MAGIC: u64 = 0xb5;

/// A write of a schedule, by number; 0 is what was there before all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(pub u32);

impl WriteId {
    /// What was there before every write.
    pub const BASE: Self = Self(0);
}

/// The content of a sector, as one word. 0 is a sector of zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Word(u64);

impl Word {
    /// A sector of zeros.
    pub const ZERO: Self = Self(0);
    /// A sector that no write makes.
    pub const TORN: Self = Self(u64::MAX);

    /// What write `write` puts into sector `sector` of object `object`.
    pub fn new(object: u8, sector: usize, write: WriteId) -> Self {
        let sector = sector as u64 & 0xf_ffff;
        Self(MAGIC << 56 | u64::from(object) << 48 | sector << 28 | u64::from(write.0) & 0xfff_ffff)
    }

    /// Fills a sector.
    pub fn fill(self, sector: &mut [u8]) {
        let (words, _) = sector.as_chunks_mut::<8>();
        words.fill(self.0.to_le_bytes());
    }

    /// What a sector holds that repeats `word`.
    pub fn repeated(word: Option<u64>) -> Self {
        word.map_or(Self::TORN, Self)
    }

    /// The word itself.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The write that made it, if it is of this place.
    pub fn write_of(self, object: u8, sector: usize) -> Option<WriteId> {
        let write = WriteId((self.0 & 0xfff_ffff) as u32);
        (self == Self::new(object, sector, write)).then_some(write)
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("zeros"),
            u64::MAX => f.write_str("a sector that is torn"),
            word if word >> 56 == MAGIC => write!(
                f,
                "object {} sector {} write {}",
                (word >> 48) & 0xff,
                (word >> 28) & 0xf_ffff,
                word & 0xfff_ffff
            ),
            word => write!(f, "bytes of nobody ({word:#x})"),
        }
    }
}
