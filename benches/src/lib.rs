//! What the benches share: repeatable random numbers, and the ways to read and write a file that the engine bench compares.

pub mod buffers;
mod engine;
pub mod paired;
pub mod random;
pub mod read_loop;
pub mod rig;
pub mod write_loop;

/// Whether the benches are only to be run once, to see that they work: `cargo bench ... -- --test`.
pub fn is_smoke_run() -> bool {
    std::env::args().any(|argument| argument == "--test")
}
