//! The disk as the core sees it: bytes at offsets, and a flush. Says nothing about how they get there.
//!
//! Every caller of the store runs on a `Medium`: the daemon on [`crate::engine`]'s, the simulator on its own. What the store
//! assumes of one is written in `docs/on-disk-format.md`, "What is assumed of the medium".

use std::fmt;

use crate::units::{BLOCK_BYTES, ByteOffset, PAGE_BYTES};

/// Bytes that [`Medium::heads`] reads at a time.
pub const LOOK_BYTES: usize = 1 << 20;
const _: () = assert!(PAGE_BYTES as u64 == BLOCK_BYTES && LOOK_BYTES.is_multiple_of(PAGE_BYTES));

/// A disk that is read and written in whole 4 KiB blocks.
///
/// All offsets and lengths are multiples of 4096; buffers need not be aligned in memory. A call returns when the operation has
/// ended, and an operation that was done in part is an error: nothing is ever reported as done that was not.
pub trait Medium {
    /// Length of the disk. May be more than what was formatted, when the device grew.
    fn len_bytes(&self) -> u64;

    /// Fills `into` with the bytes at `at`, read from the device and not from a page cache.
    ///
    /// # Errors
    /// An [`IoFault`] when not every byte could be read.
    fn read(&mut self, at: ByteOffset, into: &mut [u8]) -> Result<(), IoFault>;

    /// Shows the first `head_bytes` of each block of a range, in order: for a search of many blocks for few. A medium in memory need not copy
    /// them, nor put the rest together.
    ///
    /// # Errors
    /// As for [`Medium::read`]. Some of them were shown then.
    fn heads(
        &mut self,
        at: ByteOffset,
        len_bytes: u64,
        head_bytes: usize,
        look: &mut dyn FnMut(ByteOffset, &[u8]),
    ) -> Result<(), IoFault> {
        let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let mut bytes = vec![0; LOOK_BYTES.min(len)];
        let mut offset = 0;
        while offset < len_bytes {
            let piece = bytes
                .len()
                .min(usize::try_from(len_bytes - offset).unwrap_or(usize::MAX));
            let start = at.plus(offset);
            self.read(start, &mut bytes[..piece])?;
            let (blocks, _) = bytes[..piece].as_chunks::<PAGE_BYTES>();
            for (block, nth) in blocks.iter().zip(0..) {
                look(start.plus(nth * BLOCK_BYTES), &block[..head_bytes]);
            }
            offset += piece as u64;
        }
        Ok(())
    }

    /// Writes `from` at `at`. Not durable before a [`Medium::flush`] that was called afterwards has returned.
    ///
    /// # Errors
    /// An [`IoFault`] when not every byte was written; which of them were is then unknown.
    fn write(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault>;

    /// As [`Medium::write`], and durable when it returns. Nothing else becomes durable by it.
    ///
    /// # Errors
    /// As for [`Medium::write`] and [`Medium::flush`].
    fn write_durable(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.write(at, from)?;
        self.flush()
    }

    /// Makes `len_bytes` bytes at `at` read as zero; a write like any other for what a flush covers.
    ///
    /// # Errors
    /// As for [`Medium::write`].
    fn write_zeroes(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault>;

    /// Makes every write that returned before this call durable.
    ///
    /// # Errors
    /// An [`IoFault`]. What is durable is unknown from then on, and calling again would not tell: the kernel reports a lost
    /// write once only.
    fn flush(&mut self) -> Result<(), IoFault>;
}

/// What the disk was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoOp {
    /// [`Medium::read`]
    Read,
    /// [`Medium::write`]
    Write,
    /// [`Medium::write_zeroes`]
    WriteZeroes,
    /// [`Medium::flush`]
    Flush,
}

impl fmt::Display for IoOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IoOp::Read => "read",
            IoOp::Write => "write",
            IoOp::WriteZeroes => "write of zeroes",
            IoOp::Flush => "flush",
        })
    }
}

/// An operation that the disk did not carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoFault {
    /// What was asked.
    pub op: IoOp,
    /// Where; 0 for a flush.
    pub at: ByteOffset,
    /// How much; 0 for a flush.
    pub len_bytes: u64,
    /// The kernel's error number.
    pub errno: i32,
}

impl fmt::Display for IoFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = std::io::Error::from_raw_os_error(self.errno);
        if self.op == IoOp::Flush {
            return write!(f, "flush failed: {why}");
        }
        write!(
            f,
            "{} of {} bytes at byte {} failed: {why}",
            self.op,
            self.len_bytes,
            self.at.get()
        )
    }
}

impl std::error::Error for IoFault {}

impl<M: Medium + ?Sized> Medium for &mut M {
    fn len_bytes(&self) -> u64 {
        (**self).len_bytes()
    }

    fn read(&mut self, at: ByteOffset, into: &mut [u8]) -> Result<(), IoFault> {
        (**self).read(at, into)
    }

    fn heads(
        &mut self,
        at: ByteOffset,
        len_bytes: u64,
        head_bytes: usize,
        look: &mut dyn FnMut(ByteOffset, &[u8]),
    ) -> Result<(), IoFault> {
        (**self).heads(at, len_bytes, head_bytes, look)
    }

    fn write(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        (**self).write(at, from)
    }

    fn write_durable(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        (**self).write_durable(at, from)
    }

    fn write_zeroes(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        (**self).write_zeroes(at, len_bytes)
    }

    fn flush(&mut self) -> Result<(), IoFault> {
        (**self).flush()
    }
}
