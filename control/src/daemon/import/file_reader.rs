//! Reads a source file ahead, several chunks at once, and hands them out in order. Holes are not read.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_uring::buf::BoundedBuf as _;
use tokio_uring::fs::File;

use super::buffer::{AlignedBuf, CHUNK_BYTES};
use super::chunk::Chunk;
use super::source::SourceFile;
use crate::api::ApiError;

/// A longer hole is told in parts, so that progress is seen and cancelling works.
const HOLE_BYTES_MAX: u64 = 64 << 20;

/// Chunks of a file, in order.
pub struct FileReader {
    source: SourceFile,
    file: Rc<File>,
    ahead: VecDeque<Ahead>,
    ahead_max: usize,
    /// Where the next chunk to be asked for begins.
    next: u64,
    /// The stretch of data that was found last; `next` is never behind its end.
    data: (u64, u64),
    direct: bool,
}

enum Ahead {
    Reading {
        at: u64,
        len_bytes: usize,
        done: JoinHandle<(io::Result<usize>, AlignedBuf)>,
    },
    Hole {
        len_bytes: u64,
    },
}

impl FileReader {
    /// Reads all of `source`, with at most `ahead_max` reads in flight.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new(source: SourceFile, ahead_max: usize) -> Result<Self, ApiError> {
        let file = source
            .reader()
            .map_err(|error| source.read_failed(0, &error))?;
        Ok(Self {
            source,
            file: Rc::new(File::from_std(file)),
            ahead: VecDeque::new(),
            ahead_max,
            next: 0,
            data: (0, 0),
            direct: true,
        })
    }

    /// The next chunk; `None` at the end. The source is looked at each time, so that a change ends the import soon.
    ///
    /// # Errors
    /// `SourceChanged` when it is not what it was at the start, `SourceUnreadable` when a read fails.
    pub async fn next(&mut self) -> Result<Option<Chunk>, ApiError> {
        self.source.require_unchanged()?;
        self.read_ahead();
        match self.ahead.pop_front() {
            None => Ok(None),
            Some(Ahead::Hole { len_bytes }) => Ok(Some(Chunk::Hole { len_bytes })),
            Some(Ahead::Reading {
                at,
                len_bytes,
                done,
            }) => {
                let (result, buf) = match done.await {
                    Ok(read) => read,
                    // The runtime ends only after the import; a read task neither panics nor is it aborted.
                    Err(error) => (Err(io::Error::other(error)), AlignedBuf::zeroed()),
                };
                let buf = self.complete(at, len_bytes, result, buf).await?;
                Ok(Some(Chunk::Data {
                    at,
                    buf: Arc::new(buf),
                    len_bytes,
                }))
            }
        }
    }

    fn read_ahead(&mut self) {
        while self.ahead.len() < self.ahead_max && self.next < self.source.size_bytes() {
            if self.next >= self.data.1 {
                let end = self.source.size_bytes();
                self.data = self.source.next_data(self.next).unwrap_or((end, end));
            }
            // A chunk that holds any data is read whole.
            let data_from = self.data.0 - self.data.0 % CHUNK_BYTES as u64;
            let data_from = if self.data.0 >= self.source.size_bytes() {
                self.source.size_bytes()
            } else {
                data_from
            };
            if data_from > self.next {
                let len_bytes = HOLE_BYTES_MAX.min(data_from - self.next);
                self.ahead.push_back(Ahead::Hole { len_bytes });
                self.next += len_bytes;
                continue;
            }
            let at = self.next;
            let len_bytes = usize::try_from(self.source.size_bytes() - at)
                .map_or(CHUNK_BYTES, |len| len.min(CHUNK_BYTES));
            self.next += len_bytes as u64;
            let file = Rc::clone(&self.file);
            // The whole buffer even at the end, since direct I/O reads whole blocks; the end of the file cuts it off.
            let done =
                tokio_uring::spawn(async move { file.read_at(AlignedBuf::zeroed(), at).await });
            self.ahead.push_back(Ahead::Reading {
                at,
                len_bytes,
                done,
            });
        }
    }

    /// Reads what a short read left out.
    async fn complete(
        &mut self,
        at: u64,
        len_bytes: usize,
        first: io::Result<usize>,
        mut buf: AlignedBuf,
    ) -> Result<AlignedBuf, ApiError> {
        let mut result = first;
        let mut have = 0;
        loop {
            match result {
                Ok(0) => {
                    return Err(self
                        .source
                        .changed(&format!("it ends before byte {}", at + len_bytes as u64)));
                }
                Ok(more) => have += more,
                Err(error) if self.direct && error.raw_os_error() == Some(libc::EINVAL) => {
                    self.read_buffered(at)?;
                }
                // Reads that were sent before the change to buffered ones end here.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(self.source.read_failed(at + have as u64, &error)),
            }
            if have >= len_bytes {
                // A file that grew would put bytes behind the image's end into its last block.
                buf.bytes_mut()[len_bytes..].fill(0);
                return Ok(buf);
            }
            let (again, part) = self.file.read_at(buf.slice(have..), at + have as u64).await;
            buf = part.into_inner();
            result = match again {
                Err(error) if !self.direct && error.raw_os_error() == Some(libc::EINVAL) => {
                    return Err(self.source.read_failed(at + have as u64, &error));
                }
                other => other,
            };
        }
    }

    fn read_buffered(&mut self, at: u64) -> Result<(), ApiError> {
        let file = self
            .source
            .buffered_reader()
            .map_err(|error| self.source.read_failed(at, &error))?;
        self.file = Rc::new(File::from_std(file));
        self.direct = false;
        Ok(())
    }
}
