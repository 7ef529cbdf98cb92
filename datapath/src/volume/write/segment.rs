//! The part of a write request that lies in one cluster, and the arithmetic of clusters and blocks.

use crate::plan::REQUEST_BYTES_MAX;
use crate::units::{BLOCK_BYTES, BlockMask, ByteOffset, CLUSTER_BYTES, Lcn, Pcn};
use crate::volume::locks::Hold;

/// Clusters that a request of 1 MiB touches at most.
pub(super) const SEGMENTS_MAX: usize = (REQUEST_BYTES_MAX as u64 / CLUSTER_BYTES) as usize + 1;
pub(super) const BLOCK: u32 = 4096;
const _: () = assert!(BLOCK as u64 == BLOCK_BYTES);
pub(super) const CLUSTER: u32 = 131_072;
const _: () = assert!(CLUSTER as u64 == CLUSTER_BYTES);

/// Blocks `first..end` of a cluster.
#[inline]
pub(super) fn blocks(first: u32, end: u32) -> BlockMask {
    let below = |end: u32| u32::MAX.checked_shr(32 - end.min(32)).unwrap_or(0);
    BlockMask::new(below(end) & !below(first))
}

/// The part of a request that lies in one cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) lcn: Lcn,
    /// From this byte of the cluster on.
    pub(super) from: u32,
    pub(super) len_bytes: u32,
    /// Where the cluster is; none before it has one.
    pub(super) pcn: Pcn,
    /// Blocks of it that are to be published.
    pub(super) publish: BlockMask,
    /// Taken for this cluster, and zeroed before it is claimed.
    pub(super) private: Pcn,
    pub(super) lock: Option<Hold>,
}

pub(super) const NO_SEGMENT: Segment = Segment {
    lcn: Lcn::new(0),
    from: 0,
    len_bytes: 0,
    pcn: Pcn::NONE,
    publish: BlockMask::EMPTY,
    private: Pcn::NONE,
    lock: None,
};

impl Segment {
    #[inline]
    pub(super) fn end(&self) -> u32 {
        self.from + self.len_bytes
    }

    /// Every block that it touches.
    #[inline]
    pub(super) fn touched(&self) -> BlockMask {
        blocks(self.from / BLOCK, self.end().div_ceil(BLOCK))
    }

    /// Blocks that it touches in part: none, one or two.
    #[inline]
    pub(super) fn partial(&self) -> BlockMask {
        let whole = blocks(self.from.div_ceil(BLOCK), self.end() / BLOCK);
        BlockMask::new(self.touched().get() & !whole.get())
    }

    #[inline]
    pub(super) fn at(&self, byte: u32) -> ByteOffset {
        self.pcn.offset().plus(u64::from(byte))
    }
}

#[inline]
pub(super) fn lcn_of(position: u64) -> Lcn {
    // A volume has at most 2^31 clusters.
    Lcn::new(low(position / CLUSTER_BYTES))
}

#[inline]
pub(super) fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}
