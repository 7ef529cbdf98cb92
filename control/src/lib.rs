//! The daemon and the command line.

pub mod api;
pub mod error_kind;
pub mod source_format;
