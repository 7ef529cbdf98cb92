//! Which blocks of which replicas are known to be bad, as the supervisor and the sets ask for it.

use std::ops::Range;

use bedplate_datapath::units::BLOCK_BYTES;
use bedplate_datapath::verify::BadBlock;
use uuid::Uuid;

use crate::daemon::node::Node;

impl Node {
    /// Whether blocks of a replica are known to be bad.
    pub fn is_damaged(&self, replica: Uuid) -> bool {
        !self.damaged_blocks(replica).is_empty()
    }

    /// Blocks of a replica that are known to be bad: numbers of the image's blocks.
    pub fn damaged_blocks(&self, replica: Uuid) -> Vec<Range<u64>> {
        let state = self.replicas.state();
        state.damage.get(&replica).cloned().unwrap_or_default()
    }

    /// Blocks of the copy of an image on a disk were found to be bad: nobody reads them there any more.
    pub fn found_bad(&self, image: Uuid, disk: Uuid, bad: &[BadBlock]) {
        let copies = self.copies_of(image);
        let Some(copy) = copies.iter().find(|copy| copy.disk == disk) else {
            return;
        };
        let set = self.replica_set(image);
        let number = self
            .disk_index(disk)
            .and_then(|index| set.as_ref()?.on_disk(index));
        for block in bad {
            let first = block.object_offset.get() / BLOCK_BYTES;
            let blocks = first..first + 1;
            if let (Some(set), Some(number)) = (&set, number) {
                set.mark_damaged(number, blocks.clone());
            }
            let mut state = self.replicas.state();
            let known = state.damage.entry(copy.object.replica_uuid).or_default();
            if !known.contains(&blocks) {
                tracing::error!(
                    image = copy.object.name,
                    disk = copy.disk_path,
                    offset = block.object_offset.get(),
                    "a block is not what was imported: CRC32C expected {:#010x}, actual {:?}",
                    block.expected_crc,
                    block.actual
                );
                known.push(blocks);
            }
        }
        self.refresh_replicas(disk);
        self.replicas.wake();
    }
}
