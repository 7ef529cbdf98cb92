//! The daemon and the command line.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod error_kind;
pub mod source_format;
