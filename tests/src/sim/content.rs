//! What the simulated images hold. A content's number decides every byte of it, and every 512-byte sector names the content and
//! its own place, so that one tenant's bytes are never taken for another's, or for the right bytes in the wrong place.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use bedplate_datapath::units::{BLOCK_BYTES, CLUSTER_BYTES, SECTOR_BYTES};
use sha2::{Digest, Sha256, Sha512};

use super::rng::{Rng, mix};

/// How many contents there are. Hashing one takes longer than everything else that is done with it, so that they are kept.
pub const CONTENTS: usize = 192;

/// The longest content.
pub const CONTENT_BYTES_MAX: u64 = 4 * CLUSTER_BYTES;

/// The bytes of an image, and what is known about them.
#[derive(Debug)]
pub struct Content {
    /// Exact length.
    pub size_bytes: u64,
    /// The bytes, zero-filled to whole clusters.
    pub bytes: Vec<u8>,
    /// SHA-256 of exactly `size_bytes` bytes.
    pub sha256: [u8; 32],
    /// SHA-512 of the same.
    pub sha512: [u8; 64],
}

/// Content number `number % CONTENTS`.
pub fn content(number: usize) -> Arc<Content> {
    static KEPT: [OnceLock<Arc<Content>>; CONTENTS] = [const { OnceLock::new() }; CONTENTS];
    let number = number % CONTENTS;
    Arc::clone(KEPT[number].get_or_init(|| Arc::new(Content::of_number(number as u64))))
}

impl Content {
    fn of_number(number: u64) -> Self {
        let mut rng = Rng::new(mix(number + 1));
        let size_bytes = match rng.below(8) {
            0 => 1 + rng.below(SECTOR_BYTES),
            1 => rng.below(CONTENT_BYTES_MAX / BLOCK_BYTES).max(1) * BLOCK_BYTES,
            2 => 1 + rng.below(CONTENT_BYTES_MAX),
            3 => CLUSTER_BYTES,
            _ => 1 + rng.below(CLUSTER_BYTES + CLUSTER_BYTES / 2),
        };
        let density_percent =
            [100, 100, 60, 20, 0][usize::try_from(rng.below(5)).expect("below 5")];
        Self::generate(number, size_bytes, |_| rng.percent(density_percent))
    }

    /// A content of any length; `stored` says which blocks are not zero.
    pub fn generate(number: u64, size_bytes: u64, mut stored: impl FnMut(u64) -> bool) -> Self {
        let len = size_bytes.next_multiple_of(CLUSTER_BYTES);
        let mut bytes = vec![0; usize::try_from(len).expect("contents are small")];
        let exact = usize::try_from(size_bytes).expect("contents are small");
        for (block, bytes) in (0..).zip(bytes[..exact].chunks_mut(4096)) {
            if !stored(block) {
                continue;
            }
            for (sector, bytes) in (0..).zip(bytes.chunks_mut(512)) {
                let word = mix(mix(number ^ 0x5eed) ^ (block * 8 + sector)) | 1;
                for bytes in bytes.chunks_mut(8) {
                    bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
                }
            }
        }
        let sha256 = Sha256::digest(&bytes[..exact]).into();
        let sha512 = Sha512::digest(&bytes[..exact]).into();
        Self {
            size_bytes,
            bytes,
            sha256,
            sha512,
        }
    }

    /// Clusters, in order, that are not all zero.
    pub fn stored_clusters(&self) -> impl Iterator<Item = u64> + '_ {
        let cluster = usize::try_from(CLUSTER_BYTES).expect("128 KiB");
        (0..)
            .zip(self.bytes.chunks(cluster))
            .filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0))
            .map(|(lcn, _)| lcn)
    }

    /// Clusters that a replica takes, data and trees; counted from the format's description and not from the code under test.
    pub fn clusters_on_disk(&self) -> u64 {
        let lcns: BTreeSet<u64> = self.stored_clusters().collect();
        let data = lcns.len() as u64;
        if data == 0 {
            return 0;
        }
        // A cluster of map pages speaks of 16 * 504 clusters, one of checksum pages of 16 * 31; a directory cluster each.
        let groups = |clusters_each: u64| {
            lcns.iter()
                .map(|lcn| lcn / clusters_each)
                .collect::<BTreeSet<_>>()
                .len() as u64
        };
        let (checksum_groups, map_groups) = (groups(16 * 31), groups(16 * 504));
        data + checksum_groups + map_groups + 2
    }
}
