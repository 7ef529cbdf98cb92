//! On-disk format, map, allocator, recovery, read planning; disk I/O on io_uring. Knows no ublk.

pub mod medium;
