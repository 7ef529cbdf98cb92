//! Sectors that say whose they are: the object, the place and the write that they come from, so that whoever finds one where it
//! does not belong can tell what happened.

use super::pattern::mix;

/// Bytes of a sector; offsets and lengths are counted in it.
pub const SECTOR_BYTES: usize = 512;

const WORDS: usize = SECTOR_BYTES / 8;
const MAGIC: u64 = u64::from_le_bytes(*b"BPSECTOR");

/// What one sector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Zeros only.
    Zero,
    /// A whole sector, as some write made it.
    Written {
        /// Of which object.
        tag: u64,
        /// For which place.
        sector: u64,
        /// By which write.
        generation: u64,
    },
    /// It begins like one, and is not whole: parts of two, or spoiled.
    Broken,
    /// Anything else: an image's bytes, metadata, garbage.
    Other,
}

/// Fills `into` (one sector) with what write `generation` of object `tag` puts at `sector`.
pub fn fill(tag: u64, sector: u64, generation: u64, into: &mut [u8]) {
    for (word, bytes) in words_of(tag, sector, generation)
        .iter()
        .zip(into.chunks_exact_mut(8))
    {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
}

/// Says what `bytes` (one sector) are.
pub fn classify(bytes: &[u8]) -> Found {
    if bytes.iter().all(|byte| *byte == 0) {
        return Found::Zero;
    }
    let word = |number: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[number * 8..number * 8 + 8]);
        u64::from_le_bytes(eight)
    };
    if word(0) != MAGIC {
        return Found::Other;
    }
    let (tag, sector, generation) = (word(1), word(2), word(3));
    let expected = words_of(tag, sector, generation);
    if (0..WORDS).all(|number| word(number) == expected[number]) {
        Found::Written {
            tag,
            sector,
            generation,
        }
    } else {
        Found::Broken
    }
}

fn words_of(tag: u64, sector: u64, generation: u64) -> [u64; WORDS] {
    let seed = mix(tag ^ mix(sector ^ mix(generation)));
    let mut words = [0; WORDS];
    words[..4].copy_from_slice(&[MAGIC, tag, sector, generation]);
    for (word, number) in words[4..].iter_mut().zip(1..) {
        *word = seed.wrapping_mul(number | 1).rotate_left(17) ^ number;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(tag: u64, sector: u64, generation: u64) -> Vec<u8> {
        let mut bytes = vec![0; SECTOR_BYTES];
        fill(tag, sector, generation, &mut bytes);
        bytes
    }

    #[test]
    fn a_sector_says_what_it_was_made_from() {
        let written = Found::Written {
            tag: 7,
            sector: 1 << 40,
            generation: 3 << 32,
        };
        assert_eq!(classify(&made(7, 1 << 40, 3 << 32)), written);
        assert_eq!(classify(&[0; SECTOR_BYTES]), Found::Zero);
        assert_eq!(classify(&[1; SECTOR_BYTES]), Found::Other);
    }

    #[test]
    fn any_flipped_byte_is_noticed() {
        let whole = made(1, 2, 3);
        for place in 0..SECTOR_BYTES {
            let mut spoiled = whole.clone();
            spoiled[place] ^= 0x10;
            assert!(
                matches!(classify(&spoiled), Found::Broken | Found::Other),
                "byte {place}"
            );
        }
    }

    #[test]
    fn half_of_one_write_and_half_of_another_is_broken() {
        let mut torn = made(1, 2, 3);
        torn[256..].copy_from_slice(&made(1, 2, 4)[256..]);
        assert_eq!(classify(&torn), Found::Broken);
    }
}
