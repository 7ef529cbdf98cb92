//! A buffer that direct I/O accepts: it starts at a multiple of 4096.

/// Bytes at an address that is a multiple of 4096.
#[derive(Debug)]
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len_bytes: usize,
}

impl AlignedBuffer {
    const ALIGNMENT_BYTES: usize = 4096;

    /// `len_bytes` zeros.
    pub fn new(len_bytes: usize) -> Self {
        let bytes = vec![0; len_bytes + Self::ALIGNMENT_BYTES];
        // The vector never grows, so its bytes stay where they are.
        let start = bytes.as_ptr().align_offset(Self::ALIGNMENT_BYTES);
        Self {
            bytes,
            start,
            len_bytes,
        }
    }

    /// The first `len_bytes` bytes.
    pub fn first(&mut self, len_bytes: usize) -> &mut [u8] {
        assert!(
            len_bytes <= self.len_bytes,
            "asked for more than the buffer holds"
        );
        &mut self.bytes[self.start..self.start + len_bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_where_direct_io_wants_it() {
        let mut buffer = AlignedBuffer::new(512);
        assert_eq!(buffer.first(512).as_ptr().addr() % 4096, 0);
    }
}
