//! Images: which there are, their devices, their end.

pub mod attach;
pub mod catalog;
mod delete;
pub mod recover;
pub mod runtime;
pub mod wait;

pub use delete::delete;
