//! Buffers for data that must be copied, in user-copy mode: a fixed number for each reactor, taken and given by number.

use memmap2::{MmapMut, MmapOptions};

/// Largest request of a device, and so the size of a buffer.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;

/// Anonymous memory cut into buffers. Untouched pages cost nothing; the last buffer given back is the next one taken, so that
/// a light load stays in few of them.
pub(crate) struct CopyPool {
    memory: MmapMut,
    free: Vec<u16>,
}

impl CopyPool {
    pub(crate) fn new(buffers: u16) -> std::io::Result<Self> {
        let memory = MmapOptions::new()
            .len(usize::from(buffers) * BUFFER_BYTES)
            .map_anon()?;
        Ok(Self {
            memory,
            free: (0..buffers).rev().collect(),
        })
    }

    pub(crate) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    pub(crate) fn give(&mut self, buffer: u16) {
        self.free.push(buffer);
    }

    /// First byte of `buffer`, page aligned. The memory lives as long as the pool.
    pub(crate) fn start(&mut self, buffer: u16) -> *mut u8 {
        self.memory
            .as_mut_ptr()
            .wrapping_add(usize::from(buffer) * BUFFER_BYTES)
    }
}
