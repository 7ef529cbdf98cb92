//! What a device tells its clients about itself: sizes, limits, alignment.

use bedplate_datapath::engine::DiskFile;
use bedplate_datapath::plan::REQUEST_BYTES_MAX;
use bedplate_datapath::units::SECTOR_BYTES;
use libublk::sys as lib;

use crate::support::DataMode;
use crate::sys::{Params, param_type};

/// Physical block: what is cheapest to write, the block of the map.
const PHYSICAL_BLOCK_SHIFT: u8 = 12;
/// Best request: a cluster.
const BEST_IO_SHIFT: u8 = 17;
/// Beyond it the kernel's own `max_discard_bytes` would not fit in 32 bits.
const DISCARD_SECTORS_MAX: u32 = u32::MAX >> 9;
/// Zeros that one request asks for: with NOUNMAP all of them are written.
const WRITE_ZEROES_SECTORS_MAX: u32 = (64 << 20) >> 9;
/// A discard of less frees nothing.
const DISCARD_GRANULARITY_BYTES: u32 = 1 << 17;

/// What disks below ask of the requests that go straight to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskLimits {
    /// Offsets and lengths are multiples of it.
    pub(crate) logical_block_bytes: u32,
    /// Memory addresses are multiples of it.
    pub(crate) dma_alignment_bytes: u32,
    /// All pieces but the first start, and all but the last end, at a multiple of this plus one; 0 for anywhere.
    pub(crate) virt_boundary_mask: u64,
}

impl DiskLimits {
    /// No wish at all.
    pub(crate) const NONE: Self = Self {
        logical_block_bytes: 512,
        dma_alignment_bytes: 1,
        virt_boundary_mask: 0,
    };

    pub(crate) fn of(disk: &DiskFile) -> Self {
        Self {
            logical_block_bytes: disk.logical_block_bytes().max(512),
            dma_alignment_bytes: disk.dma_alignment().max(1),
            virt_boundary_mask: disk.virt_boundary_mask(),
        }
    }

    /// The most restrictive of both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            logical_block_bytes: self.logical_block_bytes.max(other.logical_block_bytes),
            dma_alignment_bytes: self.dma_alignment_bytes.max(other.dma_alignment_bytes),
            virt_boundary_mask: self.virt_boundary_mask.max(other.virt_boundary_mask),
        }
    }
}

/// The parameters of a device of `device_bytes`, a multiple of the logical block.
pub(crate) fn of_device(
    device_bytes: u64,
    read_only: bool,
    mode: DataMode,
    disks: &DiskLimits,
) -> Params {
    let read_only_attr = if read_only {
        lib::UBLK_ATTR_READ_ONLY
    } else {
        0
    };
    let logical_bs_shift = shift_of(disks.logical_block_bytes);
    let mut params = Params {
        types: param_type::BASIC,
        ..Params::default()
    };
    params.basic = lib::ublk_param_basic {
        // Without the attribute no flush would ever arrive.
        attrs: lib::UBLK_ATTR_VOLATILE_CACHE | lib::UBLK_ATTR_FUA | read_only_attr,
        logical_bs_shift,
        physical_bs_shift: PHYSICAL_BLOCK_SHIFT.max(logical_bs_shift),
        io_opt_shift: BEST_IO_SHIFT,
        io_min_shift: PHYSICAL_BLOCK_SHIFT.max(logical_bs_shift),
        max_sectors: REQUEST_BYTES_MAX >> 9,
        dev_sectors: device_bytes / SECTOR_BYTES,
        ..Default::default()
    };
    if !read_only {
        params.types |= param_type::DISCARD;
        params.discard = lib::ublk_param_discard {
            discard_granularity: DISCARD_GRANULARITY_BYTES,
            max_discard_sectors: DISCARD_SECTORS_MAX,
            max_write_zeroes_sectors: WRITE_ZEROES_SECTORS_MAX,
            max_discard_segments: 1,
            ..Default::default()
        };
    }
    if mode == DataMode::ZeroCopy {
        // A request is cut into runs at multiples of the logical block. Each cut must be a valid address for the disk's
        // DMA, and each piece a whole number of its blocks: so memory is aligned like the blocks.
        let alignment = disks.dma_alignment_bytes.max(disks.logical_block_bytes);
        params.types |= param_type::DMA_ALIGN;
        // ublk_validate_params: below a page, and a power of two minus one.
        params.dma.alignment = alignment.next_power_of_two().min(4096) - 1;
        params.basic.virt_boundary_mask = disks.virt_boundary_mask;
        // No UBLK_PARAM_TYPE_SEGMENT: how many pieces the disk takes at once is our business (`JoinedMax`). Passed on, it would cut a
        // request in several, each with a way through ublk of its own; one that is cut here has one way, and its I/Os run side by side.
    }
    params
}

fn shift_of(block_bytes: u32) -> u8 {
    // At most 31: a u32 has no higher bit.
    u8::try_from(block_bytes.next_power_of_two().trailing_zeros()).unwrap_or(9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_restrictive_disk_wins() {
        let nvme = DiskLimits {
            virt_boundary_mask: 4095,
            dma_alignment_bytes: 4,
            ..DiskLimits::NONE
        };
        let wide = DiskLimits {
            logical_block_bytes: 4096,
            ..DiskLimits::NONE
        };
        let both = nvme.and(wide);
        assert_eq!(
            (both.logical_block_bytes, both.virt_boundary_mask),
            (4096, 4095)
        );
        let params = of_device(1 << 20, true, DataMode::ZeroCopy, &both);
        assert_eq!(params.basic.logical_bs_shift, 12);
        assert_eq!(params.dma.alignment, 4095);
        assert_eq!(params.basic.virt_boundary_mask, 4095);
    }

    #[test]
    fn a_read_only_device_advertises_no_discard() {
        let params = of_device(512, true, DataMode::UserCopy, &DiskLimits::NONE);
        assert_eq!(params.types, param_type::BASIC);
        assert_eq!(
            params.basic.attrs & lib::UBLK_ATTR_READ_ONLY,
            lib::UBLK_ATTR_READ_ONLY
        );
        assert_eq!(
            (params.basic.logical_bs_shift, params.basic.dev_sectors),
            (9, 1)
        );
        let writable = of_device(512, false, DataMode::UserCopy, &DiskLimits::NONE);
        assert!(writable.discard.max_discard_sectors <= u32::MAX >> 9);
        assert_eq!(writable.discard.max_write_zeroes_sectors, 131_072);
    }
}
