//! What runs inside a test guest: images whose every byte is known, and a reader that checks them.

pub mod aligned;
pub mod expected;
pub mod pattern;
pub mod reader;
