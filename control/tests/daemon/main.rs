//! The real `bedplated` on disks that are regular files, driven by the real `bedplate`. Needs no ublk: devices are tested in the VM.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod damage;
mod disks;
mod harness;
mod imports;
mod lifetime;
mod re_uuid;
mod recheck;
mod replicas;
mod scrub;
mod sources;
mod stale;
mod volumes;
