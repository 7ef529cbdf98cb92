//! Memory for image bytes: aligned for direct I/O, read into once, then shared without copying by the hashers and the writes.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

use tokio_uring::buf::{IoBuf, IoBufMut};

/// How much of a source one buffer holds, and so the longest read and write of an import.
pub const CHUNK_BYTES: usize = 1 << 20;

/// What every device and file system accepts as the address of direct I/O.
const ALIGNMENT_BYTES: usize = 4096;

const LAYOUT: Layout = match Layout::from_size_align(CHUNK_BYTES, ALIGNMENT_BYTES) {
    Ok(layout) => layout,
    Err(_) => panic!("a legal layout"),
};

/// `CHUNK_BYTES` bytes at an aligned address, zero at first, with one owner.
#[derive(Debug)]
pub struct AlignedBuf {
    start: NonNull<u8>,
}

// SAFETY: the memory belongs to this value alone, as that of a `Box<[u8]>` does.
unsafe impl Send for AlignedBuf {}
// SAFETY: through a shared reference the bytes can only be read.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A zeroed buffer.
    pub fn zeroed() -> Self {
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(LAYOUT) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(LAYOUT)
        };
        Self { start }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start` points to CHUNK_BYTES bytes, initialised by alloc_zeroed, that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), CHUNK_BYTES) }
    }

    /// Its bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`; `&mut self` is the only way to them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), CHUNK_BYTES) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this very layout and is freed only here.
        unsafe { dealloc(self.start.as_ptr(), LAYOUT) }
    }
}

// SAFETY: the bytes are on the heap, so they stay where they are when this value moves, and all of them are initialised.
unsafe impl IoBuf for AlignedBuf {
    fn stable_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        CHUNK_BYTES
    }

    fn bytes_total(&self) -> usize {
        CHUNK_BYTES
    }
}

// SAFETY: as for IoBuf; the owner of the value is the only one who can reach the bytes.
unsafe impl IoBufMut for AlignedBuf {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    unsafe fn set_init(&mut self, _pos: usize) {}
}

/// A part of a buffer that several hold: what a write reads from.
#[derive(Debug, Clone)]
pub struct SharedPart {
    buf: Arc<AlignedBuf>,
    start: usize,
    len_bytes: usize,
}

impl SharedPart {
    /// `len_bytes` bytes from `start` on; cut off at the end of the buffer.
    pub fn new(buf: Arc<AlignedBuf>, start: usize, len_bytes: usize) -> Self {
        let start = start.min(CHUNK_BYTES);
        Self {
            buf,
            start,
            len_bytes: len_bytes.min(CHUNK_BYTES - start),
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buf.bytes()[self.start..self.start + self.len_bytes]
    }
}

// SAFETY: the Arc keeps the heap memory alive and in place, `new` keeps the part inside of it, and nobody can get a mutable
// reference to a buffer that is in an Arc.
unsafe impl IoBuf for SharedPart {
    fn stable_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len_bytes
    }

    fn bytes_total(&self) -> usize {
        self.len_bytes
    }
}
