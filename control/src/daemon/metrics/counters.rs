//! What happens seldom, counted where it happens. Since the daemon started.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use crate::api::DiskState;

/// Counters of the daemon.
#[derive(Debug, Default)]
pub struct Counters {
    disks: Mutex<BTreeMap<Uuid, OfDisk>>,
    devices_recovered: AtomicU64,
    scrub_passes: AtomicU64,
}

/// Counters of one disk.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct OfDisk {
    /// Blocks that did not match their checksum, or could not be read, each time that was found.
    pub checksum_errors: u64,
    /// Blocks that were written again from another replica.
    pub blocks_repaired: u64,
    /// Bytes of images that were read again and compared.
    pub scrubbed_bytes: u64,
    /// Changes of state, by the state that came of them.
    pub transitions: BTreeMap<String, u64>,
}

impl Counters {
    fn of_disk(&self, disk: Uuid, count: impl FnOnce(&mut OfDisk)) {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        count(disks.entry(disk).or_default());
    }

    /// A disk is in another state now.
    pub fn disk_changed(&self, disk: Uuid, to: DiskState) {
        self.of_disk(disk, |counters| {
            *counters.transitions.entry(format!("{to:?}")).or_default() += 1;
        });
    }

    /// Blocks of a replica on this disk were found to be bad.
    pub fn checksum_errors(&self, disk: Uuid, blocks: u64) {
        self.of_disk(disk, |counters| counters.checksum_errors += blocks);
    }

    /// Blocks of a replica on this disk were repaired.
    pub fn repaired(&self, disk: Uuid, blocks: u64) {
        self.of_disk(disk, |counters| counters.blocks_repaired += blocks);
    }

    /// So many bytes of a replica on this disk were read and compared.
    pub fn scrubbed(&self, disk: Uuid, bytes: u64) {
        self.of_disk(disk, |counters| counters.scrubbed_bytes += bytes);
    }

    /// All replicas of the node were read once.
    pub fn scrub_passed(&self) {
        self.scrub_passes.fetch_add(1, Ordering::Relaxed);
    }

    /// A device is back by itself.
    pub fn device_recovered(&self) {
        self.devices_recovered.fetch_add(1, Ordering::Relaxed);
    }

    /// Those of each disk.
    pub fn by_disk(&self) -> BTreeMap<Uuid, OfDisk> {
        self.disks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Devices that came back by themselves, and passes of the scrub.
    pub fn totals(&self) -> (u64, u64) {
        (
            self.devices_recovered.load(Ordering::Relaxed),
            self.scrub_passes.load(Ordering::Relaxed),
        )
    }
}
