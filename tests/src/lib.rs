//! Crash tests on a simulated disk, and the guest-side tools of the node VM harness.

pub mod guest;
pub mod sim;
