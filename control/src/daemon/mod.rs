//! `bedplated`: disks found and watched, images imported and verified, images and volumes served, devices brought back.
//!
//! ```text
//! run                  the life of the process: start, recovery, end
//! node                 what the daemon knows; everything below shares it
//! disk/                found, opened, watched; an actor thread each
//! away/                devices that wait for a disk that has gone
//! object/              what images and volumes share: attach, detach, delete, recovery of devices
//! replica/             copies of images: made, removed, led to; the disks brought into agreement
//! image/, volume/      catalogues; how a volume is made and grown
//! import/, verify,     jobs
//! recheck              metadata that was not trusted, read again
//! scrub/               images read again, bad blocks repaired
//! metrics/             for Prometheus
//! serving              the ublk target
//! http/                the API
//! ```

pub mod args;
mod away;
mod backoff;
mod blocking;
mod device_files;
pub mod disk;
mod errors;
mod hint_file;
mod history;
mod http;
mod image;
mod import;
mod jobs;
mod log;
mod metrics;
mod node;
mod object;
mod pace;
mod process;
mod recheck;
mod remove_devices;
mod replica;
pub mod run;
mod run_lock;
mod scrub;
mod seen_paths;
mod serving;
mod status;
#[cfg(test)]
mod test_node;
mod verify;
mod volume;
mod watchdog;
