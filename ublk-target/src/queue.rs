//! The protocol of one hardware queue: descriptors in, FETCH and COMMIT commands out.

use std::fs::File;
use std::os::fd::RawFd;

use bedplate_datapath::units::{BLOCK_BYTES, SECTOR_BYTES};
use io_uring::{opcode, squeue, types};
use libublk::sys as lib;
use memmap2::{MmapOptions, MmapRaw};

use crate::sys;

/// A request as its descriptor tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// `UBLK_IO_OP_*`.
    pub(crate) op: u32,
    /// The raw word: operation in the low 8 bits, `UBLK_IO_F_*` above.
    op_flags: u32,
    pub(crate) sectors: u32,
    pub(crate) start_sector: u64,
}

impl Descriptor {
    pub(crate) fn new(op_flags: u32, sectors: u32, start_sector: u64) -> Self {
        Self {
            op: op_flags & 0xff,
            op_flags,
            sectors,
            start_sector,
        }
    }

    /// Whether the kernel could not put the request's pages into the ring's buffer table.
    pub(crate) fn lacks_buffer(&self) -> bool {
        self.op_flags & lib::UBLK_IO_F_NEED_REG_BUF != 0
    }

    /// Whether the request is to be durable before it is answered.
    pub(crate) fn is_fua(&self) -> bool {
        self.op_flags & lib::UBLK_IO_F_FUA != 0
    }

    /// Whether it begins or ends within a block of 4 KiB.
    pub(crate) fn has_partial_blocks(&self) -> bool {
        !(self.start_sector | u64::from(self.sectors)).is_multiple_of(BLOCK_BYTES / SECTOR_BYTES)
    }

    /// Of zeros: whether the space stays allocated.
    pub(crate) fn keeps_space(&self) -> bool {
        self.op_flags & lib::UBLK_IO_F_NOUNMAP != 0
    }
}

/// The descriptors of one queue, mapped read-only. The mapping holds `/dev/ublkcN` open.
pub(crate) struct Descriptors {
    map: MmapRaw,
    depth: u16,
}

impl Descriptors {
    pub(crate) fn map(device: &File, queue: u16, depth: u16) -> std::io::Result<Self> {
        let page_bytes = page_bytes();
        let map = MmapOptions::new()
            .offset(sys::descriptors_position(queue, page_bytes))
            .len(sys::descriptors_len(depth, page_bytes))
            .map_raw_read_only(device)?;
        Ok(Self { map, depth })
    }

    /// The descriptor of `tag`; meaningful only between the completion of the tag's FETCH and its COMMIT.
    pub(crate) fn get(&self, tag: u16) -> Descriptor {
        debug_assert!(tag < self.depth, "tags are below the depth");
        // Page aligned, as every mapping is.
        #[expect(clippy::cast_ptr_alignment)]
        let first = self.map.as_ptr().cast::<lib::ublksrv_io_desc>();
        let start = first.wrapping_add(usize::from(tag));
        // SAFETY: the mapping covers `depth` descriptors of this size (asserted in sys.rs), page aligned, and lives as long as
        // `self`. The kernel wrote the descriptor before the completion that brought us here, and leaves it alone until the
        // COMMIT; volatile, since the compiler cannot see that.
        let raw = unsafe { start.read_volatile() };
        Descriptor::new(raw.op_flags, raw.nr_sectors, raw.start_sector)
    }
}

/// `sysconf(_SC_PAGESIZE)`.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: no memory is passed.
    let answer = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(answer).unwrap_or(4096)
}

/// How FETCH and COMMIT name `/dev/ublkcN`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CommandFile {
    /// By its slot in the file table.
    Slot(u32),
    /// By its descriptor. Up to Linux 6.12 a file that is taken out of the table is put only when every older request that
    /// came by any file of the table has ended (`io_rsrc_node_ref_zero`, io_uring/rsrc.c): one device's idle FETCH would keep
    /// all others from being removed. So there nothing that waits comes by the table.
    Descriptor(RawFd),
}

/// Where a tag's commands go, and what they carry besides a result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TagAddress {
    /// `/dev/ublkcN`.
    pub(crate) commands: CommandFile,
    pub(crate) queue: u16,
    pub(crate) tag: u16,
    /// For a device with auto buffer registration: slot of the buffer table.
    pub(crate) buffer: Option<u16>,
}

impl TagAddress {
    /// Asks for a first request.
    pub(crate) fn fetch(&self, user_data: u64) -> squeue::Entry {
        self.command(lib::UBLK_U_IO_FETCH_REQ, -1, user_data)
    }

    /// Ends the request with `result` (a count or a negated errno) and asks for the next one.
    pub(crate) fn commit_and_fetch(&self, result: i32, user_data: u64) -> squeue::Entry {
        self.command(lib::UBLK_U_IO_COMMIT_AND_FETCH_REQ, result, user_data)
    }

    fn command(&self, op: u32, result: i32, user_data: u64) -> squeue::Entry {
        let command = match self.commands {
            CommandFile::Slot(slot) => opcode::UringCmd16::new(types::Fixed(slot), op),
            CommandFile::Descriptor(fd) => opcode::UringCmd16::new(types::Fd(fd), op),
        };
        let command = command.cmd(sys::io_command(self.queue, self.tag, result));
        command
            .addr(self.buffer.map(sys::auto_buffer))
            .build()
            .user_data(user_data)
    }
}
