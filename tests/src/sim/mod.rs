//! Crash tests of the store: a simulated disk, the operations of a node on it, and an oracle.
//!
//! The store, the import planner, the read planner and verify are the daemon's own; only the disk is not. A run is decided by
//! one seed. `docs/recovery.md` says what the oracle demands and why.

pub mod content;
pub mod disk;
pub mod disks;
pub mod model;
pub mod node;
pub mod rng;
pub mod schedule;
pub mod trace;
pub mod volumes;
