//! Sparse images that a seed describes: each byte can be computed, so none has to be kept to compare with.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Data and holes alternate in pieces of this size.
const PIECE_BYTES: u64 = 128 * 1024;
/// Some blocks inside a piece of data are zero, to show that presence is kept by the block.
const BLOCK_BYTES: u64 = 4096;

/// An image of `size_bytes` of which about `allocated_bytes` are data, spread evenly; the rest are zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// Decides the data.
    pub seed: u64,
    /// Exact length; any number.
    pub size_bytes: u64,
    /// How much of it is data, in whole pieces of 128 KiB.
    pub allocated_bytes: u64,
}

impl Pattern {
    /// Reads `seed:SEED:SIZE:ALLOCATED`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.strip_prefix("seed:")?.split(':').map(str::parse);
        let pattern = Self {
            seed: numbers.next()?.ok()?,
            size_bytes: numbers.next()?.ok()?,
            allocated_bytes: numbers.next()?.ok()?,
        };
        numbers.next().is_none().then_some(pattern)
    }

    /// Fills `into` with what the image holds from `at_bytes` on; zeros past its end.
    pub fn fill(&self, at_bytes: u64, into: &mut [u8]) {
        let mut offset_bytes = at_bytes;
        let mut rest = into;
        while !rest.is_empty() {
            // Up to the next multiple of 8: these bytes come from one number.
            let first = (offset_bytes % 8) as usize;
            let (now, later) = rest.split_at_mut((8 - first).min(rest.len()));
            now.copy_from_slice(&self.eight_bytes(offset_bytes)[first..first + now.len()]);
            let end_bytes = self.size_bytes.saturating_sub(offset_bytes);
            if (now.len() as u64) > end_bytes {
                now[usize::try_from(end_bytes).unwrap_or(0)..].fill(0);
            }
            offset_bytes += now.len() as u64;
            rest = later;
        }
    }

    /// Writes the image into `file`, leaving holes where it has none but zeros.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write_to(&self, file: &File) -> io::Result<()> {
        file.set_len(0)?;
        file.set_len(self.size_bytes)?;
        let mut piece = Vec::new();
        let mut at_bytes = 0;
        while at_bytes < self.size_bytes {
            let len_bytes = PIECE_BYTES.min(self.size_bytes - at_bytes);
            if self.has_data(at_bytes / PIECE_BYTES) {
                piece.resize(usize::try_from(len_bytes).map_err(io::Error::other)?, 0);
                self.fill(at_bytes, &mut piece);
                file.write_all_at(&piece, at_bytes)?;
            }
            at_bytes += len_bytes;
        }
        Ok(())
    }

    /// The eight bytes, from a multiple of 8 on, among which `offset_bytes` is.
    fn eight_bytes(&self, offset_bytes: u64) -> [u8; 8] {
        // Block 0 of the image always has data, so that an image of one block is not empty.
        let is_zero = offset_bytes >= self.size_bytes
            || (offset_bytes / BLOCK_BYTES) % 7 == 3
            || !self.has_data(offset_bytes / PIECE_BYTES);
        if is_zero {
            [0; 8]
        } else {
            mix(self.seed ^ (offset_bytes / 8)).to_le_bytes()
        }
    }

    fn has_data(&self, piece: u64) -> bool {
        let pieces = self.size_bytes.div_ceil(PIECE_BYTES).max(1);
        let with_data = self.allocated_bytes.div_ceil(PIECE_BYTES).min(pieces);
        // Below 2^32 pieces, that is 512 TiB, nothing overflows.
        let up_to = |count: u64| count.saturating_mul(with_data).div_ceil(pieces);
        up_to(piece + 1) > up_to(piece)
    }
}

/// SplitMix64's output function (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_was_made_from() {
        let expected = Pattern {
            seed: 7,
            size_bytes: 100,
            allocated_bytes: 50,
        };
        assert_eq!(Pattern::parse("seed:7:100:50"), Some(expected));
        assert_eq!(Pattern::parse("seed:7:100"), None);
        assert_eq!(Pattern::parse("seed:7:100:50:1"), None);
    }

    #[test]
    fn holds_as_much_data_as_asked() {
        let pattern = Pattern {
            seed: 1,
            size_bytes: 32 << 20,
            allocated_bytes: 6 << 20,
        };
        let pieces = pattern.size_bytes / PIECE_BYTES;
        let with_data = (0..pieces).filter(|piece| pattern.has_data(*piece)).count() as u64;
        assert_eq!(with_data * PIECE_BYTES, pattern.allocated_bytes);
        assert!(pattern.has_data(0));
    }

    #[test]
    fn file_and_formula_agree_up_to_an_odd_end() {
        let pattern = Pattern {
            seed: 9,
            size_bytes: 200_001,
            allocated_bytes: 130_000,
        };
        let file = tempfile::tempfile().unwrap();
        pattern.write_to(&file).unwrap();
        let mut written = vec![0; 200_001];
        file.read_exact_at(&mut written, 0).unwrap();
        let mut computed = vec![1; 200_010];
        // In uneven pieces, as a reader asks for them.
        let mut at = 0;
        while at < computed.len() {
            let end = (at + 4099).min(computed.len());
            pattern.fill(at as u64, &mut computed[at..end]);
            at = end;
        }
        assert_eq!(written, computed[..200_001]);
        assert_eq!(computed[200_001..], [0; 9]);
        assert!(written.iter().any(|byte| *byte != 0));
    }
}
