//! The command line as a user meets it: the real program, against a small real HTTP server on a Unix socket that speaks
//! the API's own types.

mod fake_daemon;
mod fake_volumes;
mod golden;
mod imports;
mod program;
mod replicas;
mod requests;
mod unreachable;
mod values;
mod views;
mod volumes;
