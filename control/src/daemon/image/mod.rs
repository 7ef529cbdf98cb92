//! Images: which there are, and how they stand.

pub mod catalog;
