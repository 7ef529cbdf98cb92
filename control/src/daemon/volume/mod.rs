//! Volumes: which there are, how one is made, and how it grows. What they share with images is in [`super::object`].

pub mod catalog;
mod create;
mod resize;
mod size;

pub use create::create;
pub use resize::resize;
