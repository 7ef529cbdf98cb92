//! What libublk's bindings lack of `include/uapi/linux/ublk_cmd.h`, and the same file's encodings.
//!
//! libublk 0.4.8 has the commands, flags and most structs (`libublk::sys`), but its `ublk_params` ends at `zoned`. Facts
//! are those of Linux 7.3.4, the file of each is named; sizes are asserted below.

use libublk::sys as lib;

/// `UBLK_F_*` bits: what a kernel can do, or what a device was added with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// Auto buffer registration needs it not, but says with it that zero copy was asked for.
    pub const SUPPORT_ZERO_COPY: Self = Self(1 << 0);
    /// The device outlives its server.
    pub const USER_RECOVERY: Self = Self(1 << 3);
    /// Requests that the dead server owned are issued again.
    pub const USER_RECOVERY_REISSUE: Self = Self(1 << 4);
    /// Data moves by pread and pwrite on `/dev/ublkcN`.
    pub const USER_COPY: Self = Self(1 << 7);
    /// A device can be resized.
    pub const UPDATE_SIZE: Self = Self(1 << 10);
    /// The kernel puts a request's pages into the ring's buffer table before it delivers the request.
    pub const AUTO_BUF_REG: Self = Self(1 << 11);
    /// `QUIESCE_DEV`.
    pub const QUIESCE: Self = Self(1 << 12);
    /// `TRY_STOP_DEV`: stops only what nobody has open.
    pub const SAFE_STOP_DEV: Self = Self(1 << 17);
    /// The kernel does not read the partition table when the device starts.
    pub const NO_AUTO_PART_SCAN: Self = Self(1 << 18);

    /// These bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether all of `other` is there.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both have.
    #[must_use]
    pub const fn among(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Parameter groups of [`Params::types`], `UBLK_PARAM_TYPE_*`.
pub(crate) mod param_type {
    pub(crate) const BASIC: u32 = libublk::sys::UBLK_PARAM_TYPE_BASIC;
    pub(crate) const DISCARD: u32 = libublk::sys::UBLK_PARAM_TYPE_DISCARD;
    pub(crate) const DMA_ALIGN: u32 = libublk::sys::UBLK_PARAM_TYPE_DMA_ALIGN;
}

/// `struct ublk_params` up to `seg`. An older kernel takes the part that it knows and drops the bits of `types` that it
/// does not (`ublk_ctrl_set_params`, drivers/block/ublk_drv.c).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Params {
    pub(crate) len: u32,
    pub(crate) types: u32,
    pub(crate) basic: lib::ublk_param_basic,
    pub(crate) discard: lib::ublk_param_discard,
    pub(crate) devt: lib::ublk_param_devt,
    pub(crate) zoned: lib::ublk_param_zoned,
    pub(crate) dma: lib::ublk_param_dma_align,
    pub(crate) seg: lib::ublk_param_segment,
}

pub(crate) const PARAMS_BYTES: u16 = 136;
pub(crate) const DEV_INFO_BYTES: u16 = 64;
pub(crate) const FEATURES_BYTES: u16 = 8;

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<lib::ublk_param_basic>() == 32);
    assert!(size_of::<lib::ublk_param_discard>() == 20);
    assert!(size_of::<lib::ublk_param_devt>() == 16);
    assert!(size_of::<lib::ublk_param_zoned>() == 32);
    assert!(size_of::<lib::ublk_param_dma_align>() == 8);
    assert!(size_of::<lib::ublk_param_segment>() == 16);
    assert!(offset_of!(Params, basic) == 8);
    assert!(offset_of!(Params, discard) == 40);
    assert!(offset_of!(Params, devt) == 60);
    assert!(offset_of!(Params, zoned) == 76);
    assert!(offset_of!(Params, dma) == 108);
    // 108 + 8 is 116; `seg` starts with a u64.
    assert!(offset_of!(Params, seg) == 120);
    assert!(size_of::<Params>() == PARAMS_BYTES as usize);
    assert!(size_of::<lib::ublksrv_ctrl_dev_info>() == DEV_INFO_BYTES as usize);
    assert!(size_of::<lib::ublksrv_ctrl_cmd>() == 32);
    assert!(size_of::<lib::ublksrv_io_cmd>() == 16);
    assert!(size_of::<lib::ublksrv_io_desc>() == DESCRIPTOR_BYTES);
};

/// Bytes of one request descriptor. Devices of ours are added without `UBLK_F_IO_DESC_SIZE`, so it is this size on every
/// kernel.
pub(crate) const DESCRIPTOR_BYTES: usize = 24;

/// `struct ublksrv_ctrl_cmd` in the 80 command bytes of a 128-byte SQE.
pub(crate) fn control_command(dev_id: u32, buffer: (u64, u16), data: u64) -> [u8; 80] {
    let mut bytes = [0; 80];
    bytes[0..4].copy_from_slice(&dev_id.to_ne_bytes());
    // queue_id: -1, the command is for no queue.
    bytes[4..6].copy_from_slice(&u16::MAX.to_ne_bytes());
    bytes[6..8].copy_from_slice(&buffer.1.to_ne_bytes());
    bytes[8..16].copy_from_slice(&buffer.0.to_ne_bytes());
    bytes[16..24].copy_from_slice(&data.to_ne_bytes());
    bytes
}

/// `struct ublksrv_io_cmd`; its `addr` is 0 in user-copy and zero-copy mode (`ublk_check_fetch_buf`).
pub(crate) fn io_command(queue: u16, tag: u16, result: i32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0..2].copy_from_slice(&queue.to_ne_bytes());
    bytes[2..4].copy_from_slice(&tag.to_ne_bytes());
    bytes[4..8].copy_from_slice(&result.to_ne_bytes());
    bytes
}

/// `struct ublk_auto_buf_reg` as it goes into `sqe->addr`: index in bits 0 to 15, flags in 16 to 23. With the fallback flag: a
/// request whose pages could not be registered is delivered all the same, marked `UBLK_IO_F_NEED_REG_BUF`; without it the
/// kernel would fail the request unseen.
pub(crate) const fn auto_buffer(index: u16) -> u64 {
    index as u64 | (lib::UBLK_AUTO_BUF_REG_FALLBACK as u64) << 16
}

/// Position in `/dev/ublkcN` of the first byte of a request's data, for pread and pwrite.
pub(crate) const fn copy_position(queue: u16, tag: u16) -> u64 {
    lib::UBLKSRV_IO_BUF_OFFSET as u64
        + ((queue as u64) << lib::UBLK_QID_OFF | (tag as u64) << lib::UBLK_TAG_OFF)
}

/// Bytes of the descriptor area of a queue of `depth` tags, as mmap wants it.
pub(crate) const fn descriptors_len(depth: u16, page_bytes: usize) -> usize {
    (depth as usize * DESCRIPTOR_BYTES).next_multiple_of(page_bytes)
}

/// Where in `/dev/ublkcN` the descriptors of queue `queue` lie. The stride is that of the deepest queue, 4096 entries,
/// whatever the depth (`ublk_max_cmd_buf_size`).
pub(crate) const fn descriptors_position(queue: u16, page_bytes: usize) -> u64 {
    let stride = descriptors_len(4096, page_bytes) as u64;
    lib::UBLKSRV_CMD_BUF_OFFSET as u64 + queue as u64 * stride
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_flags_are_the_headers() {
        // include/uapi/linux/ublk_cmd.h of Linux 7.3.4; and UBLK_U_CMD_UPDATE_SIZE is _IOWR('u', 0x15, 32 bytes).
        assert_eq!(lib::UBLK_IO_F_FUA, 1 << 13);
        assert_eq!(lib::UBLK_IO_F_NOUNMAP, 1 << 15);
        assert_eq!(
            lib::UBLK_U_CMD_UPDATE_SIZE,
            3 << 30 | 32 << 16 | 0x75 << 8 | 0x15
        );
    }

    #[test]
    fn auto_buffer_is_what_the_header_makes_of_it() {
        // ublk_auto_buf_reg_to_sqe_addr: index | flags << 16
        assert_eq!(auto_buffer(0x1234), 0x0001_1234);
        assert_eq!(auto_buffer(u16::MAX), 0x0001_ffff);
    }

    #[test]
    fn copy_position_decodes_as_the_driver_does() {
        // ublk_pos_to_hwq, ublk_pos_to_tag, ublk_pos_to_buf_off
        let position = copy_position(3, 77) - 0x8000_0000;
        assert_eq!(position >> 41, 3);
        assert_eq!(position >> 25 & 0xffff, 77);
        assert_eq!(position & ((1 << 25) - 1), 0);
    }

    #[test]
    fn descriptor_stride_does_not_depend_on_the_depth() {
        assert_eq!(descriptors_position(1, 4096), 4096 * 24);
        assert_eq!(descriptors_len(64, 4096), 4096);
        assert_eq!(descriptors_len(256, 4096), 8192);
    }

    #[test]
    fn control_command_fields_lie_where_the_struct_has_them() {
        use std::mem::offset_of;
        let bytes = control_command(7, (0x1122_3344_5566_7788, 64), 99);
        let at = offset_of!(lib::ublksrv_ctrl_cmd, addr);
        assert_eq!(bytes[at..at + 8], 0x1122_3344_5566_7788_u64.to_ne_bytes());
        let at = offset_of!(lib::ublksrv_ctrl_cmd, len);
        assert_eq!(bytes[at..at + 2], 64_u16.to_ne_bytes());
        let at = offset_of!(lib::ublksrv_ctrl_cmd, data);
        assert_eq!(bytes[at..at + 8], 99_u64.to_ne_bytes());
        let at = offset_of!(lib::ublksrv_ctrl_cmd, queue_id);
        assert_eq!(bytes[at..at + 2], [0xff, 0xff]);
    }
}
