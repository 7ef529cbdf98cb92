//! Zeroing and discarding: most of it needs no I/O, only tombstones and dropped clusters.

use super::segment::{BLOCK, blocks, lcn_of, low};
use super::{CLUSTERS_PER_TURN, Stop, WriteOp};
use crate::map::MapEntry;
use crate::plan::{LayerStack, RunSource};
use crate::replica::Excluded;
use crate::units::{BLOCK_BYTES, BlockMask, CLUSTER_BYTES, Lcn};
use crate::volume::Volume;

impl WriteOp {
    /// Does what of a zeroing needs no I/O. True when a segment is left that does; false when others should have their turn, or all is done.
    pub(super) fn zero_without_io(
        &mut self,
        stack: &LayerStack,
        volume: &Volume,
        keep: bool,
    ) -> Result<bool, Stop> {
        for _ in 0..CLUSTERS_PER_TURN {
            if self.done >= self.end {
                return Ok(false);
            }
            let position = self.done;
            let in_cluster = position % CLUSTER_BYTES;
            let in_block = position % BLOCK_BYTES;
            let until_cluster_end = (CLUSTER_BYTES - in_cluster).min(self.end - position);
            let lcn = lcn_of(position);
            if in_block != 0 || until_cluster_end < BLOCK_BYTES {
                // The last block of a volume whose length is no multiple of a block is whole all the same.
                let len = (BLOCK_BYTES - in_block).min(until_cluster_end);
                if in_block != 0 || position + len < volume.size_bytes() {
                    if !is_zero(stack, volume, lcn, position) {
                        self.cut(position, position + len);
                        return Ok(true);
                    }
                    self.done += len;
                    continue;
                }
            }
            let reaches_end = position + until_cluster_end == volume.size_bytes();
            let len = if reaches_end {
                until_cluster_end
            } else {
                until_cluster_end / BLOCK_BYTES * BLOCK_BYTES
            };
            let is_whole = in_cluster == 0 && (len == CLUSTER_BYTES || reaches_end);
            let entry = volume.map().get(lcn);
            let nothing_to_hide =
                entry.bits() == MapEntry::EMPTY.bits() && holds_nothing(stack, lcn);
            if nothing_to_hide {
                self.done += len;
                continue;
            }
            if is_whole && (!keep || entry.pcn().is_none()) {
                if entry.pcn().is_none() && entry.mask() == BlockMask::ALL {
                    volume.relies_on(lcn, entry);
                } else {
                    volume.ensure_leaf(lcn)?;
                    volume.drop_cluster(lcn);
                }
                self.done += len;
                continue;
            }
            let first = low(in_cluster) / BLOCK;
            let zeroed = blocks(first, (low(in_cluster) + low(len)).div_ceil(BLOCK));
            if entry.pcn().is_none() {
                volume.ensure_leaf(lcn)?;
                if volume.tombstone(lcn, zeroed) {
                    self.done += len;
                    continue;
                }
            }
            self.cut(position, position + len);
            return Ok(true);
        }
        Ok(false)
    }
}

/// Whether a part of a block reads as zero already: it is a tombstone, or held by nobody.
fn is_zero(stack: &LayerStack, volume: &Volume, lcn: Lcn, position: u64) -> bool {
    let entry = volume.map().get(lcn);
    let block = low(position % CLUSTER_BYTES) / BLOCK;
    if entry.mask().contains(block) {
        volume.relies_on(lcn, entry);
        return entry.pcn().is_none();
    }
    let below = stack.source_below(&Excluded::NONE, position / BLOCK_BYTES * BLOCK_BYTES);
    below == Some(RunSource::Zero)
}

/// Whether no layer below holds anything of a cluster.
fn holds_nothing(stack: &LayerStack, lcn: Lcn) -> bool {
    stack
        .layers
        .iter()
        .skip(1)
        .all(|layer| layer.map.get(lcn).mask() == BlockMask::EMPTY)
}
