//! Several disks of one node, any of them crashing, lost, late, or an old copy of itself: images with copies, and the merge.
//!
//! The store, the catalogue and the rebuild are the daemon's own. [`node`] does what the daemon does with them, [`truth`] knows what must
//! be there, [`schedule`] chooses by a seed, and [`trace`] crashes short traces at every write.

pub mod node;
pub mod schedule;
pub mod trace;
pub mod truth;
