//! What a device owes for each sector after a crash: at least what was flushed, and nothing that was never written there.

use super::sector::Found;

/// One sector's promise: the write that was flushed last, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// The write; 0 if there was none, and the base shows.
    pub generation: u64,
    /// It was a discard or a write of zeros.
    pub is_zero: bool,
}

impl Floor {
    /// As one word, the later the larger.
    pub const fn to_word(self) -> u64 {
        self.generation << 1 | self.is_zero as u64
    }

    /// From `to_word`.
    pub const fn from_word(word: u64) -> Self {
        Self {
            generation: word >> 1,
            is_zero: word & 1 == 1,
        }
    }
}

/// Why a sector is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Older than what was flushed.
    Lost,
    /// Of another object, or of another place.
    Foreign,
    /// No sector that anybody wrote as a whole, and not the base.
    Garbage,
}

/// Judges sector number `sector` of object `tag`, which holds `found`. `zeroed_by` is the last discard that was begun there
/// (0: none); `is_base` whether the bytes are those of the base. `exact`: nothing may be newer than the floor.
///
/// # Errors
/// What is wrong.
pub fn judge(
    found: Found,
    (tag, sector): (u64, u64),
    floor: Floor,
    zeroed_by: u64,
    is_base: bool,
    exact: bool,
) -> Result<Floor, Wrong> {
    let untouched = floor.generation == 0 && is_base;
    match found {
        Found::Written {
            tag: its_tag,
            sector: its_sector,
            generation,
        } => {
            if (its_tag, its_sector) != (tag, sector) {
                // A clone of a device that was written like this has its base's sectors.
                return if untouched {
                    Ok(floor)
                } else {
                    Err(Wrong::Foreign)
                };
            }
            let seen = Floor {
                generation,
                is_zero: false,
            };
            let is_newer = generation > floor.generation && !exact;
            if is_newer || seen == floor {
                Ok(seen)
            } else {
                Err(Wrong::Lost)
            }
        }
        Found::Zero if zeroed_by > floor.generation && !exact => Ok(Floor {
            generation: zeroed_by,
            is_zero: true,
        }),
        Found::Zero if floor.is_zero || untouched => Ok(floor),
        Found::Other if untouched => Ok(floor),
        // The base, or a hole, where something was flushed.
        Found::Zero => Err(Wrong::Lost),
        Found::Other if is_base => Err(Wrong::Lost),
        Found::Other | Found::Broken => Err(Wrong::Garbage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: (u64, u64) = (9, 100);
    const NOTHING: Floor = Floor {
        generation: 0,
        is_zero: false,
    };
    const WRITTEN: Floor = Floor {
        generation: 5,
        is_zero: false,
    };
    const ZEROED: Floor = Floor {
        generation: 5,
        is_zero: true,
    };

    fn own(generation: u64) -> Found {
        Found::Written {
            tag: 9,
            sector: 100,
            generation,
        }
    }

    #[test]
    fn what_was_flushed_or_came_later_is_right() {
        for (floor, found) in [
            (NOTHING, own(1)),
            (WRITTEN, own(5)),
            (WRITTEN, own(6)),
            (ZEROED, own(6)),
            (ZEROED, Found::Zero),
        ] {
            assert!(judge(found, PLACE, floor, 0, false, false).is_ok());
        }
        assert!(judge(Found::Zero, PLACE, WRITTEN, 6, false, false).is_ok());
        assert!(judge(Found::Other, PLACE, NOTHING, 0, true, false).is_ok());
        assert!(judge(Found::Zero, PLACE, NOTHING, 0, true, false).is_ok());
    }

    #[test]
    fn a_flushed_write_that_is_gone_is_lost() {
        for (floor, found, zeroed_by, is_base) in [
            (WRITTEN, own(4), 0, false),
            (ZEROED, own(5), 0, false),
            (ZEROED, own(4), 0, false),
            (WRITTEN, Found::Zero, 0, false),
            (WRITTEN, Found::Zero, 5, false),
            (WRITTEN, Found::Other, 0, true),
            (WRITTEN, Found::Zero, 0, true),
            (ZEROED, Found::Other, 0, true),
        ] {
            assert_eq!(
                judge(found, PLACE, floor, zeroed_by, is_base, false),
                Err(Wrong::Lost),
                "{floor:?} {found:?}"
            );
        }
    }

    #[test]
    fn what_nobody_wrote_there_is_wrong_even_if_nothing_was_flushed() {
        let of_another = Found::Written {
            tag: 8,
            sector: 100,
            generation: 9,
        };
        let elsewhere = Found::Written {
            tag: 9,
            sector: 101,
            generation: 9,
        };
        for floor in [NOTHING, WRITTEN, ZEROED] {
            for found in [of_another, elsewhere] {
                assert_eq!(
                    judge(found, PLACE, floor, 0, false, false),
                    Err(Wrong::Foreign)
                );
            }
            for found in [Found::Other, Found::Broken] {
                assert_eq!(
                    judge(found, PLACE, floor, 0, false, false),
                    Err(Wrong::Garbage)
                );
            }
        }
        // Zeros where the base has data, and no discard was begun: nobody wrote them.
        assert!(judge(Found::Zero, PLACE, NOTHING, 0, false, false).is_err());
    }

    #[test]
    fn exact_means_that_nothing_is_newer_either() {
        assert!(judge(own(5), PLACE, WRITTEN, 0, false, true).is_ok());
        assert!(judge(own(6), PLACE, WRITTEN, 0, false, true).is_err());
        assert!(judge(Found::Zero, PLACE, WRITTEN, 6, false, true).is_err());
    }

    #[test]
    fn words_keep_a_floor() {
        for floor in [NOTHING, WRITTEN, ZEROED] {
            assert_eq!(Floor::from_word(floor.to_word()), floor);
        }
        assert!(ZEROED.to_word() > WRITTEN.to_word());
    }
}
