//! The on-disk format, one file a structure. `docs/on-disk-format.md` is the specification, and
//! `tests/format_doc.rs` holds its tables against the `Raw…` structs of these files.
//!
//! Codecs are pure and total: `encode` cannot fail, `decode` rejects with a [`DecodeError`] whatever
//! the bytes, and what it accepts encodes to the same bytes again. No I/O happens here.

mod error;
#[macro_use]
mod layout;
pub mod checksum_page;
pub mod directory;
pub mod geometry;
pub mod header;
pub mod journal;
pub mod map_page;
pub mod members;
pub mod object;
pub mod pair;
pub mod peers;
pub mod root;
pub mod superblock;
pub mod text;
pub mod tree;

pub use error::{DecodeError, DecodeErrorKind, Fault};
pub use header::{Expect, Stamp};
pub use layout::Field;
pub use pair::PairCopy;
