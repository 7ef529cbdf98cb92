//! On-disk format, map, allocator, recovery, read planning; disk I/O on io_uring. Knows no ublk.
//!
//! ```text
//! units, format          what lies on a disk: types, pure codecs, zones        no I/O
//! map, replica, plan      maps in memory, who answers, reads planned           no I/O
//! alloc                  free clusters                                         no I/O
//! medium                 the disk as the core sees it: a trait
//! store, import, verify, rebuild   what is done with it, over any medium
//! catalogue              what several disks say, as one                        no I/O
//! engine                 io_uring: a disk claimed, a medium, plans carried out
//! discover               disks found by their superblock
//! ```
//!
//! Each line uses those above it. The simulator of the tests is another medium below the same core.

pub mod alloc;
pub mod catalogue;
pub mod discover;
pub mod engine;
pub mod format;
pub mod import;
pub mod live;
pub mod map;
pub mod medium;
pub mod plan;
pub mod rebuild;
pub mod replica;
pub mod store;
mod superblock_set;
pub mod units;
pub mod verify;
pub mod volume;
