//! What an import works on: stretches of the image, in order.

use std::sync::Arc;

use super::buffer::AlignedBuf;

/// A stretch of the image. Stretches follow each other without gaps.
#[derive(Debug)]
pub enum Chunk {
    /// Bytes. `at` is a multiple of [`super::buffer::CHUNK_BYTES`]; the buffer is zero behind `len_bytes`.
    Data {
        /// Where in the image.
        at: u64,
        /// The bytes.
        buf: Arc<AlignedBuf>,
        /// How many of them belong to the image; fewer than a buffer holds only at the end.
        len_bytes: usize,
    },
    /// Zeros, known without reading them.
    Hole {
        /// How many bytes.
        len_bytes: u64,
    },
}

impl Chunk {
    /// How many bytes of the image this is.
    pub fn len_bytes(&self) -> u64 {
        match self {
            Self::Data { len_bytes, .. } => *len_bytes as u64,
            Self::Hole { len_bytes } => *len_bytes,
        }
    }
}
