//! The real `bedplated` on disks that are regular files, driven by the real `bedplate`. Needs no ublk: devices are tested in the VM.

mod damage;
mod disks;
mod harness;
mod imports;
mod lifetime;
mod sources;
