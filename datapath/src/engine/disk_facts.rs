//! Facts of an open disk that alignment, durability and identity rest on. Asked once, when the disk is opened.

use std::ffi::CString;
use std::fs::{File, Metadata};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use nix::errno::Errno;

use super::sysfs::SysfsBlock;

mod ioctl {
    //! From `include/uapi/linux/fs.h`, group 0x12.
    use nix::libc::{c_int, c_uint};

    nix::ioctl_read!(block_bytes_total, 0x12, 114, u64);
    nix::ioctl_read_bad!(
        logical_block_bytes,
        nix::request_code_none!(0x12, 104),
        c_int
    );
    nix::ioctl_read_bad!(
        physical_block_bytes,
        nix::request_code_none!(0x12, 123),
        c_uint
    );
    nix::ioctl_read!(disk_sequence, 0x12, 128, u64);
}

/// Whether a write that completed may still be lost with the power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteCache {
    /// Only a flush makes it durable. Every regular file counts as volatile: its file system has state of its own.
    Volatile,
    /// The device has no volatile cache, and the kernel sends it no flushes.
    WriteThrough,
}

/// What two paths are compared by: equal means that both lead to the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DiskIdentity {
    /// A block device, by its device number.
    Block(u64),
    /// A regular file, by its file system's device number and its inode.
    File {
        /// `st_dev`
        file_system: u64,
        /// `st_ino`
        inode: u64,
    },
}

impl DiskIdentity {
    /// `None` where the file is neither a block device nor a regular file.
    pub fn of(metadata: &Metadata) -> Option<Self> {
        let kind = metadata.file_type();
        if kind.is_block_device() {
            Some(Self::Block(metadata.rdev()))
        } else if kind.is_file() {
            Some(Self::File {
                file_system: metadata.dev(),
                inode: metadata.ino(),
            })
        } else {
            None
        }
    }
}

/// Facts of a disk, see the accessors of [`super::DiskFile`].
#[derive(Debug, Clone)]
pub(super) struct DiskFacts {
    pub(super) identity: DiskIdentity,
    pub(super) len_bytes: u64,
    pub(super) logical_block_bytes: u32,
    pub(super) physical_block_bytes: u32,
    pub(super) dma_alignment: u32,
    pub(super) undivided_bytes_max: Option<u64>,
    pub(super) virt_boundary_mask: u64,
    pub(super) diskseq: Option<u64>,
    pub(super) write_cache: WriteCache,
    pub(super) hardware_id: Option<String>,
}

impl DiskFacts {
    pub(super) fn ask(file: &File, identity: DiskIdentity) -> Result<Self, (&'static str, Errno)> {
        match identity {
            DiskIdentity::Block(number) => Self::of_block_device(file, identity, number),
            DiskIdentity::File { file_system, .. } => {
                Self::of_regular_file(file, identity, file_system)
            }
        }
    }

    fn of_block_device(
        file: &File,
        identity: DiskIdentity,
        number: u64,
    ) -> Result<Self, (&'static str, Errno)> {
        let fd = file.as_raw_fd();
        let mut len_bytes = 0_u64;
        let mut logical = 0;
        let mut physical = 0;
        // SAFETY: the kernel writes one u64 (64-bit size_t) for BLKGETSIZE64, and the pointer is to a live one.
        unsafe { ioctl::block_bytes_total(fd, &raw mut len_bytes) }
            .map_err(|errno| ("BLKGETSIZE64", errno))?;
        // SAFETY: the kernel writes one int for BLKSSZGET, and the pointer is to a live one.
        unsafe { ioctl::logical_block_bytes(fd, &raw mut logical) }
            .map_err(|errno| ("BLKSSZGET", errno))?;
        // SAFETY: the kernel writes one unsigned int for BLKPBSZGET, and the pointer is to a live one.
        unsafe { ioctl::physical_block_bytes(fd, &raw mut physical) }
            .map_err(|errno| ("BLKPBSZGET", errno))?;
        let logical_block_bytes =
            u32::try_from(logical).map_err(|_| ("BLKSSZGET", Errno::EINVAL))?;

        let sysfs = SysfsBlock::of(number);
        let of_disk = |name: &str| sysfs.as_ref()?.disk_attribute(name);
        // sysfs gives a mask, statx a number of bytes. A logical block always satisfies the driver.
        let dma_alignment = of_disk("queue/dma_alignment")
            .and_then(|mask| mask.parse::<u32>().ok()?.checked_add(1))
            .or_else(|| Some(direct_io_alignment(fd)?.memory_bytes))
            .unwrap_or(logical_block_bytes);
        let number_of = |name: &str| of_disk(name)?.parse::<u64>().ok();
        let undivided_bytes_max = undivided(
            number_of("queue/max_sectors_kb"),
            number_of("queue/max_segments"),
            number_of("queue/max_segment_size"),
        );
        // Unknown counts as volatile: a flush too many costs time, one too few costs data.
        let write_cache = match of_disk("queue/write_cache").as_deref() {
            Some("write through") => WriteCache::WriteThrough,
            _ => WriteCache::Volatile,
        };
        Ok(Self {
            identity,
            len_bytes,
            logical_block_bytes,
            physical_block_bytes: physical,
            dma_alignment,
            undivided_bytes_max,
            virt_boundary_mask: number_of("queue/virt_boundary_mask").unwrap_or(0),
            diskseq: disk_sequence(fd).or_else(|| of_disk("diskseq")?.parse().ok()),
            write_cache,
            hardware_id: sysfs.as_ref().and_then(SysfsBlock::hardware_id),
        })
    }

    fn of_regular_file(
        file: &File,
        identity: DiskIdentity,
        file_system: u64,
    ) -> Result<Self, (&'static str, Errno)> {
        let metadata = file.metadata().map_err(|error| {
            (
                "fstat",
                Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)),
            )
        })?;
        let below = SysfsBlock::of(file_system);
        let of_disk = |name: &str| below.as_ref()?.disk_attribute(name);
        let block_bytes_below = |name: &str| of_disk(name)?.parse().ok();
        let asked = direct_io_alignment(file.as_raw_fd());
        let logical_block_bytes = asked
            .map(|alignment| alignment.offset_bytes)
            .or_else(|| block_bytes_below("queue/logical_block_size"))
            .unwrap_or(DIRECT_IO_ALIGNMENT_UNKNOWN_BYTES);
        Ok(Self {
            identity,
            len_bytes: metadata.len(),
            logical_block_bytes,
            physical_block_bytes: block_bytes_below("queue/physical_block_size")
                .unwrap_or(logical_block_bytes),
            dma_alignment: asked.map_or(DIRECT_IO_ALIGNMENT_UNKNOWN_BYTES, |alignment| {
                alignment.memory_bytes
            }),
            // The file system decides, and does not tell.
            undivided_bytes_max: None,
            virt_boundary_mask: 0,
            diskseq: of_disk("diskseq").and_then(|text| text.parse().ok()),
            write_cache: WriteCache::Volatile,
            // A copy of a file is no other hardware: a file has no identity besides its UUID.
            hardware_id: None,
        })
    }
}

/// The longest I/O from pages that lie anywhere in memory that the block layer passes on as it is: by length, and by one segment a page.
fn undivided(
    sectors_max_kib: Option<u64>,
    segments_max: Option<u64>,
    segment_bytes_max: Option<u64>,
) -> Option<u64> {
    let by_length = sectors_max_kib.map(|kib| kib.saturating_mul(1024));
    let by_segments = segments_max.map(|segments| {
        segments.saturating_mul(segment_bytes_max.map_or(PAGE, |most| most.min(PAGE)))
    });
    by_length.into_iter().chain(by_segments).min()
}

/// Memory page.
const PAGE: u64 = 4096;

/// What every file system that we know of accepts, where the kernel does not tell.
const DIRECT_IO_ALIGNMENT_UNKNOWN_BYTES: u32 = 4096;

#[derive(Debug, Clone, Copy)]
struct DirectIoAlignment {
    memory_bytes: u32,
    offset_bytes: u32,
}

/// `STATX_DIOALIGN`, Linux 6.1; `None` where kernel or file system do not tell.
fn direct_io_alignment(fd: RawFd) -> Option<DirectIoAlignment> {
    let empty_path = CString::default();
    // SAFETY: all-zero bytes are a valid `statx`: it holds integers only.
    let mut answer: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is an empty C string that lives through the call, and `answer` a live, writable `statx`.
    let result = unsafe {
        libc::statx(
            fd,
            empty_path.as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut answer,
        )
    };
    let told = result == 0 && answer.stx_mask & libc::STATX_DIOALIGN != 0;
    // Zero means that this file has no direct I/O; open() has said so before, or will.
    (told && answer.stx_dio_mem_align != 0 && answer.stx_dio_offset_align != 0).then_some(
        DirectIoAlignment {
            memory_bytes: answer.stx_dio_mem_align,
            offset_bytes: answer.stx_dio_offset_align,
        },
    )
}

/// `BLKGETDISKSEQ`, Linux 5.15: changes whenever another medium takes this device number.
fn disk_sequence(fd: RawFd) -> Option<u64> {
    let mut sequence = 0_u64;
    // SAFETY: the kernel writes one u64 for BLKGETDISKSEQ, and the pointer is to a live one.
    unsafe { ioctl::disk_sequence(fd, &raw mut sequence) }.ok()?;
    Some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_is_no_longer_than_its_length_and_its_pages_allow() {
        for (sectors_kib, segments, segment_bytes, longest) in [
            // NVMe with MDTS 7; brd; a disk of long transfers and few segments.
            (Some(512), Some(127), Some(1 << 31), Some(508 << 10)),
            (Some(1280), Some(128), None, Some(512 << 10)),
            (Some(128), Some(1024), Some(65_536), Some(128 << 10)),
            (Some(1024), Some(256), Some(512), Some(128 << 10)),
            (None, None, None, None),
        ] {
            assert_eq!(undivided(sectors_kib, segments, segment_bytes), longest);
        }
    }
}
