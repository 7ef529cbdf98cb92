//! Two copies, A and B, of one page: where they lie, and which of them holds.

use super::error::DecodeError;
use crate::units::{BLOCK_BYTES, Seq};

/// One of the two copies of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PairCopy {
    /// The first.
    A,
    /// The one right after it.
    B,
}

impl PairCopy {
    /// Both, in order.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// 0 for A, 1 for B.
    pub const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The `index` field of structures that carry it: 0 for A, 1 for B.
    pub const fn number(self) -> u32 {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// Bytes from the start of the pair.
    pub const fn offset_bytes(self) -> u64 {
        self.number() as u64 * BLOCK_BYTES
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// A structure of which two copies exist, the one with the higher sequence being newer.
pub trait Versioned: PartialEq {
    /// Its sequence.
    fn seq(&self) -> Seq;
}

/// A page that is too long to be moved from hand to hand.
impl<T: Versioned> Versioned for Box<T> {
    fn seq(&self) -> Seq {
        (**self).seq()
    }
}

/// What two copies amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairChoice<T> {
    /// Never written.
    Blank,
    /// One copy was never written and the other is bad. An object slot's first write was torn, so
    /// that the object does not exist; a page that must be there is lost.
    HalfBlank {
        /// The bad copy.
        bad: PairCopy,
        /// What is wrong with it.
        fault: DecodeError,
    },
    /// Both good and equal.
    Both(T),
    /// One good copy; the other is to be repaired from it.
    Only {
        /// The good copy.
        holds: PairCopy,
        /// Its content.
        value: T,
        /// What is wrong with the other one; blank if it was not written yet.
        other: DecodeError,
    },
    /// Both good; the newer one holds.
    Newer {
        /// The newer copy.
        holds: PairCopy,
        /// Its content.
        value: T,
        /// The older copy's content.
        older: T,
    },
    /// Both good, the same sequence, another content: corruption, since a sequence is used once.
    Conflict {
        /// Content of A.
        a: T,
        /// Content of B.
        b: T,
    },
    /// Both bad.
    Lost {
        /// What is wrong with A.
        a: DecodeError,
        /// What is wrong with B.
        b: DecodeError,
    },
}

impl<T> PairChoice<T> {
    /// The content that holds, if there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Both(value) | Self::Only { value, .. } | Self::Newer { value, .. } => Some(value),
            Self::Blank | Self::HalfBlank { .. } | Self::Conflict { .. } | Self::Lost { .. } => {
                None
            }
        }
    }
}

/// Which of two decoded copies holds. Roots, slots and page pairs share this rule.
pub fn choose<T: Versioned>(a: Result<T, DecodeError>, b: Result<T, DecodeError>) -> PairChoice<T> {
    match (a, b) {
        (Ok(a), Ok(b)) if a == b => PairChoice::Both(a),
        (Ok(a), Ok(b)) if a.seq() == b.seq() => PairChoice::Conflict { a, b },
        (Ok(a), Ok(b)) if a.seq() > b.seq() => PairChoice::Newer {
            holds: PairCopy::A,
            value: a,
            older: b,
        },
        (Ok(a), Ok(b)) => PairChoice::Newer {
            holds: PairCopy::B,
            value: b,
            older: a,
        },
        (Ok(value), Err(other)) => PairChoice::Only {
            holds: PairCopy::A,
            value,
            other,
        },
        (Err(other), Ok(value)) => PairChoice::Only {
            holds: PairCopy::B,
            value,
            other,
        },
        (Err(a), Err(b)) => match (a.is_blank(), b.is_blank()) {
            (true, true) => PairChoice::Blank,
            (true, false) => PairChoice::HalfBlank {
                bad: PairCopy::B,
                fault: b,
            },
            (false, true) => PairChoice::HalfBlank {
                bad: PairCopy::A,
                fault: a,
            },
            (false, false) => PairChoice::Lost { a, b },
        },
    }
}
