//! Buffers of one size, a fixed number for each reactor, taken and given by number: for data that must be copied, and for the blocks
//! that writes copy up.

use memmap2::{MmapMut, MmapOptions};

/// Largest request of a device, and so the size of a buffer for its data.
pub(crate) const COPY_BYTES: usize = 1 << 20;

/// A buffer for a request's data: a block longer, since a request that is read in whole blocks may begin and end within one.
pub(crate) const COPY_BUFFER_BYTES: usize = COPY_BYTES + 4096;

/// Anonymous memory cut into buffers. Untouched pages cost nothing; the last buffer given back is the next one taken, so that
/// a light load stays in few of them.
pub(crate) struct BufferPool {
    memory: MmapMut,
    buffer_bytes: usize,
    free: Vec<u16>,
}

impl BufferPool {
    /// `buffer_bytes` a multiple of a page: then every buffer is aligned for any disk's DMA.
    pub(crate) fn new(buffers: u16, buffer_bytes: usize) -> std::io::Result<Self> {
        let memory = MmapOptions::new()
            .len(usize::from(buffers) * buffer_bytes)
            .map_anon()?;
        Ok(Self {
            memory,
            buffer_bytes,
            free: (0..buffers).rev().collect(),
        })
    }

    pub(crate) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    pub(crate) fn give(&mut self, buffer: u16) {
        self.free.push(buffer);
    }

    /// First byte of `buffer`. The memory lives as long as the pool.
    pub(crate) fn start(&mut self, buffer: u16) -> *mut u8 {
        self.memory
            .as_mut_ptr()
            .wrapping_add(usize::from(buffer) * self.buffer_bytes)
    }

    /// All of `buffer`, of which no I/O is in flight; nothing for a number that was never handed out.
    pub(crate) fn bytes(&mut self, buffer: u16) -> &mut [u8] {
        let start = usize::from(buffer) * self.buffer_bytes;
        let bytes = self.memory.get_mut(start..start + self.buffer_bytes);
        bytes.unwrap_or_default()
    }
}
