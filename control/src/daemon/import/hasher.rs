//! SHA-256 and SHA-512 of an image while it is read: a thread each, so that neither waits for the other or for the disk.

use std::sync::Arc;

use sha2::digest::Output;
use sha2::{Digest, Sha256, Sha512};
use tokio::sync::{mpsc, oneshot};

use super::buffer::AlignedBuf;

/// Pieces that wait for a hasher before reading waits for it.
const PIECES_WAITING: usize = 8;

/// A block of zeros, fed to a hasher as often as a hole is long.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A piece of the image, in order.
#[derive(Debug, Clone)]
pub enum HashPiece {
    /// The first `len_bytes` bytes of a buffer.
    Data(Arc<AlignedBuf>, usize),
    /// So many zero bytes.
    Zeros(u64),
}

/// The checksums of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    /// SHA-256.
    pub sha256: [u8; 32],
    /// SHA-512.
    pub sha512: [u8; 64],
}

/// Both hashers at work.
#[derive(Debug)]
pub struct Hashers {
    sha256: Worker<Sha256>,
    sha512: Worker<Sha512>,
}

impl Hashers {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start() -> std::io::Result<Self> {
        Ok(Self {
            sha256: Worker::start("import-sha256")?,
            sha512: Worker::start("import-sha512")?,
        })
    }

    /// Hands both the next piece; waits while one of them is behind. Answers whether both still work.
    pub async fn feed(&self, piece: HashPiece) -> bool {
        self.sha256.pieces.send(piece.clone()).await.is_ok()
            && self.sha512.pieces.send(piece).await.is_ok()
    }

    /// The checksums of all that was fed; `None` if a thread died.
    pub async fn finish(self) -> Option<Sums> {
        let sha256 = self.sha256.finish().await?;
        let sha512 = self.sha512.finish().await?;
        Some(Sums {
            sha256: sha256.into(),
            sha512: sha512.into(),
        })
    }
}

#[derive(Debug)]
struct Worker<D: Digest> {
    pieces: mpsc::Sender<HashPiece>,
    sum: oneshot::Receiver<Output<D>>,
}

impl<D: Digest + Send + 'static> Worker<D>
where
    Output<D>: Send,
{
    fn start(name: &str) -> std::io::Result<Self> {
        let (pieces, mut incoming) = mpsc::channel(PIECES_WAITING);
        let (done, sum) = oneshot::channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let mut digest = D::new();
                while let Some(piece) = incoming.blocking_recv() {
                    match piece {
                        HashPiece::Data(buf, len_bytes) => digest.update(&buf.bytes()[..len_bytes]),
                        HashPiece::Zeros(len_bytes) => zeros(&mut digest, len_bytes),
                    }
                }
                // Nobody waits for the sum of an import that failed.
                let _ = done.send(digest.finalize());
            })?;
        Ok(Self { pieces, sum })
    }

    async fn finish(self) -> Option<Output<D>> {
        drop(self.pieces);
        self.sum.await.ok()
    }
}

fn zeros<D: Digest>(digest: &mut D, mut len_bytes: u64) {
    while len_bytes > 0 {
        let step = usize::try_from(len_bytes).map_or(ZEROS.len(), |len| len.min(ZEROS.len()));
        digest.update(&ZEROS[..step]);
        len_bytes -= step as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_holes_hash_like_the_whole() {
        let mut buf = AlignedBuf::zeroed();
        buf.bytes_mut()[..5].copy_from_slice(b"image");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let sums = runtime.block_on(async {
            let hashers = Hashers::start().unwrap();
            assert!(hashers.feed(HashPiece::Data(Arc::new(buf), 5)).await);
            assert!(hashers.feed(HashPiece::Zeros(100_003)).await);
            hashers.finish().await.unwrap()
        });
        let mut whole = b"image".to_vec();
        whole.resize(100_008, 0);
        assert_eq!(sums.sha256, <[u8; 32]>::from(Sha256::digest(&whole)));
        assert_eq!(sums.sha512, <[u8; 64]>::from(Sha512::digest(&whole)));
    }
}
