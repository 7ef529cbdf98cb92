//! On-disk format, map, allocator, recovery, read planning; disk I/O on io_uring. Knows no ublk.

pub mod engine;
pub mod format;
pub mod map;
pub mod medium;
pub mod units;
