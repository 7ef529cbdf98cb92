//! What runs inside a test guest: images whose every byte is known, a reader and a writer that check every byte, and the replay of logged
//! writes.

pub mod aligned;
pub mod check;
pub mod expected;
pub mod journal;
pub mod lanes;
pub mod log_writes;
pub mod pattern;
pub mod promise;
pub mod reader;
pub mod sector;
pub mod writer;
