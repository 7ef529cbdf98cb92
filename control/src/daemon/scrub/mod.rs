//! Images read again and compared with their checksums: what is bad is repaired from another replica, or known to be bad and not read.
//!
//! ```text
//! keep       one replica after the other, all the time, slowly
//!   schedule which one is next: pure
//!   pace     how fast: pure
//!   memory   when each was read last, and what is to be read first after a restart: a hint
//! read       one replica, step by step through its disk's thread; for verifications too
//!   repair   bad blocks from another replica
//!   checksums lost pages of checksums, too
//! proof      what was found to be bad is so: the disk does not go
//! damage     what is known to be bad now
//! tell       who has to know
//! ```
//!
//! The checksums that are recorded with an image are never changed by any of this.

mod checksums;
mod damage;
mod keep;
mod memory;
mod proof;
mod read;
mod repair;
mod schedule;
mod tell;

pub use damage::DamageTable;
pub use keep::keep_scrubbing;
pub use memory::ScrubMemory;
pub use proof::{ProvenBad, prove};
pub use read::{Found, Reading, Step, read};
