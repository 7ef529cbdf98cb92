//! Takes the bytes that a client sends, and makes chunks of them.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::mpsc;

use super::buffer::{AlignedBuf, CHUNK_BYTES};
use super::chunk::Chunk;
use crate::api::ApiError;
use crate::error_kind::ErrorKind;

/// How long the client may take to begin to send.
pub const BEGIN_WITHIN: Duration = Duration::from_secs(30);

/// What comes from the client: bytes, its end, or the reason why no more will come. A channel that closes without `End` is a
/// client that went away.
#[derive(Debug)]
pub enum StreamPart {
    /// The next bytes.
    Bytes(Bytes),
    /// All bytes were sent.
    End,
    /// The connection broke.
    Broken(String),
}

/// Chunks of a stream, in order.
pub struct StreamReader {
    image: String,
    parts: mpsc::Receiver<StreamPart>,
    /// Bytes that did not fit into the chunk before.
    rest: Bytes,
    at: u64,
    begun: bool,
    ended: bool,
}

impl StreamReader {
    /// Reads what comes through `parts`.
    pub fn new(image: &str, parts: mpsc::Receiver<StreamPart>) -> Self {
        Self {
            image: image.to_owned(),
            parts,
            rest: Bytes::new(),
            at: 0,
            begun: false,
            ended: false,
        }
    }

    /// The next chunk, full unless it is the last one; `None` at the end.
    ///
    /// # Errors
    /// `SourceLost` when the stream broke or never began, `SourceEmpty` when it had no byte.
    pub async fn next(&mut self) -> Result<Option<Chunk>, ApiError> {
        let mut buf = AlignedBuf::zeroed();
        let mut have = 0;
        while have < CHUNK_BYTES && !self.ended {
            if self.rest.is_empty() {
                self.receive().await?;
            }
            let step = self.rest.len().min(CHUNK_BYTES - have);
            buf.bytes_mut()[have..have + step].copy_from_slice(&self.rest.split_to(step));
            have += step;
        }
        if have == 0 {
            if self.at == 0 {
                return Err(self
                    .error(ErrorKind::SourceEmpty, "the stream had no bytes".to_owned())
                    .remedy("an image has at least one byte"));
            }
            return Ok(None);
        }
        let at = self.at;
        self.at += have as u64;
        Ok(Some(Chunk::Data {
            at,
            buf: Arc::new(buf),
            len_bytes: have,
        }))
    }

    async fn receive(&mut self) -> Result<(), ApiError> {
        let part = if self.begun {
            self.parts.recv().await
        } else {
            self.begun = true;
            tokio::time::timeout(BEGIN_WITHIN, self.parts.recv())
                .await
                .map_err(|_late| {
                    self.error(
                        ErrorKind::SourceLost,
                        format!(
                            "the client did not begin to send within {} seconds",
                            BEGIN_WITHIN.as_secs()
                        ),
                    )
                })?
        };
        match part {
            Some(StreamPart::Bytes(bytes)) => self.rest = bytes,
            Some(StreamPart::End) => self.ended = true,
            Some(StreamPart::Broken(why)) => return Err(self.lost(&why)),
            None => return Err(self.lost("the client went away")),
        }
        Ok(())
    }

    fn lost(&self, why: &str) -> ApiError {
        let have = self.at + self.rest.len() as u64;
        self.error(
            ErrorKind::SourceLost,
            format!("the stream ended after about {have} bytes, before it was complete: {why}"),
        )
        .remedy("send it again from the start; nothing of it was kept")
    }

    fn error(&self, kind: ErrorKind, message: String) -> ApiError {
        ApiError::new(kind, message).object(self.image.clone())
    }
}
