//! Who has to know that blocks of a replica are bad, or good again: the devices that read it, the state of the replica, the memory.

use std::ops::Range;
use std::sync::{MutexGuard, PoisonError};

use bedplate_datapath::units::BLOCK_BYTES;
use bedplate_datapath::verify::{BadBlock, BlockContent};
use uuid::Uuid;

use super::damage::{Damage, DamageTable, joined};
use super::memory::{Remembered, ScrubMemory};
use super::proof::ProvenBad;
use crate::daemon::history::unix_ms;
use crate::daemon::node::Node;
use crate::daemon::object::Located;

/// The number of a bad block in its image.
pub fn block_of(bad: &BadBlock) -> u64 {
    bad.object_offset.get() / BLOCK_BYTES
}

/// What is wrong, in words: how many, the first place, what is expected and what is there.
pub fn words(found: &Located, bad: &[BadBlock]) -> String {
    let Some(first) = bad.first() else {
        return String::new();
    };
    let actual = match first.actual {
        BlockContent::Crc(crc) => format!("actual {crc:#010x}"),
        BlockContent::Unreadable(fault) => format!("unreadable: {fault}"),
    };
    format!(
        "{} bad blocks; the first at byte {} of the image, byte {} of {}: CRC32C expected {:#010x}, {actual}",
        bad.len(),
        first.object_offset,
        first.disk_offset,
        found.disk_path,
        first.expected_crc
    )
}

impl Node {
    /// What is known to be bad.
    pub fn damage(&self) -> MutexGuard<'_, DamageTable> {
        self.damage_table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// When replicas were read.
    pub fn scrub_memory(&self) -> MutexGuard<'_, ScrubMemory> {
        self.scrub_memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks of a replica are bad: from now on nobody is given them from there.
    pub fn blocks_are_bad(&self, found: &Located, bad: &ProvenBad) {
        let bad = bad.blocks();
        if bad.is_empty() {
            return;
        }
        let replica = found.object.replica_uuid;
        let blocks: Vec<u64> = bad.iter().map(block_of).collect();
        let why = words(found, bad);
        let news = self.damage().found(replica, &blocks, &why);
        if news > 0 {
            tracing::error!(image = found.object.name, disk = found.disk_path, "{why}");
        }
        self.metrics.checksum_errors(found.disk, news);
        for range in joined(blocks) {
            self.mark(found, range, true);
        }
        self.remember(found, true);
        self.refresh_replicas(found.disk);
    }

    /// Blocks of a replica are good again.
    pub fn blocks_are_good(&self, found: &Located, blocks: &[u64]) {
        if blocks.is_empty() {
            return;
        }
        let count = blocks.len() as u64;
        tracing::warn!(
            image = found.object.name,
            disk = found.disk_path,
            blocks = count,
            "repaired from another replica"
        );
        self.damage().repaired(found.object.replica_uuid, blocks);
        self.metrics.repaired(found.disk, count);
        for range in joined(blocks.to_vec()) {
            self.mark(found, range, false);
        }
        self.refresh_replicas(found.disk);
    }

    /// All of a replica was read, and this is what is bad; `before` is what was known to be when that began.
    pub fn replica_was_read(&self, found: &Located, before: &[Range<u64>], damage: Option<Damage>) {
        let replica = found.object.replica_uuid;
        let (healed, is_damaged) = {
            let mut table = self.damage();
            let healed = table.settle(replica, before, damage);
            (healed, table.of(replica).is_some())
        };
        for range in healed {
            self.mark(found, range, false);
        }
        self.remember(found, is_damaged);
        self.refresh_replicas(found.disk);
    }

    /// Forgets a replica that was deleted.
    pub fn forget_scrubbed(&self, replica: Uuid) {
        self.damage().forget(replica);
        let unsaved = self.scrub_memory().forget(replica);
        if let Some(unsaved) = unsaved {
            unsaved.save();
        }
    }

    fn remember(&self, found: &Located, is_damaged: bool) {
        let what = Remembered {
            read_unix_s: unix_ms() / 1000,
            is_damaged,
        };
        let unsaved = self.scrub_memory().note(found.object.replica_uuid, what);
        if let Some(unsaved) = unsaved {
            unsaved.save();
        }
    }

    /// Tells the devices that read this replica.
    fn mark(&self, found: &Located, blocks: Range<u64>, is_bad: bool) {
        let place = self.disk_index(found.disk);
        let set = self.replica_set(found.object.uuid);
        let (Some(place), Some(set)) = (place, set) else {
            // Nobody reads it now; who will is told when the set is made.
            return;
        };
        let Some(number) = set.on_disk(place) else {
            return;
        };
        if is_bad {
            set.mark_damaged(number, blocks);
        } else {
            set.mark_repaired(number, blocks);
        }
    }
}
