//! Bytes of an image become clusters to write, a map and checksums. Pure: what to write comes out, nothing is written here.
//!
//! Checksums are handed out as soon as a cluster of their pages is full (62 MiB of image), so that those of a large image are never
//! in memory together.

use std::collections::VecDeque;

use crate::format::Stamp;
use crate::format::checksum_page::{CRCS, ChecksumPage, block_crc};
use crate::format::directory::DirectoryEntry;
use crate::format::object::IMAGE_BYTES_MAX;
use crate::format::pair::PairCopy;
use crate::format::tree::{PAIRS_PER_CLUSTER, checksum_leaf_of, page_offset};
use crate::map::MapEntry;
use crate::store::PageOwner;
use crate::units::{
    BLOCKS_PER_CLUSTER, BlockMask, ByteOffset, CLUSTER_BYTES, Lcn, PAGE_BYTES, Page, Pcn,
};

const LEAVES: usize = PAIRS_PER_CLUSTER as usize;
const CLUSTER: usize = PAGE_BYTES * 2 * LEAVES;
const BLOCKS: usize = BLOCKS_PER_CLUSTER as usize;

/// What a cluster of an image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterVerdict {
    /// Zeros only: nothing is stored.
    Zero,
    /// At least one block that is not zero. The whole cluster is written, zeros included, so that nothing of what lay
    /// there before stays on the disk.
    Store {
        /// Blocks that are not zero.
        mask: BlockMask,
    },
}

/// Looks for blocks that are not zero in one cluster, zero-filled at an image's end.
pub fn verdict(bytes: &[u8]) -> ClusterVerdict {
    const ZERO: Page = [0; PAGE_BYTES];
    let mask = bytes
        .chunks(ZERO.len())
        .enumerate()
        .filter(|(_, block)| **block != ZERO[..block.len()])
        .fold(0, |mask, (block, _)| mask | 1 << block);
    match mask {
        0 => ClusterVerdict::Zero,
        mask => ClusterVerdict::Store {
            mask: BlockMask::new(mask),
        },
    }
}

/// Something that the planner was told and that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportPlanError {
    /// The image is longer than an image can be.
    #[error("cluster {lcn} lies past the largest image, {IMAGE_BYTES_MAX} bytes")]
    TooLarge {
        /// The cluster.
        lcn: Lcn,
    },
    /// Clusters are told in order, since finished checksums are handed out.
    #[error("cluster {lcn} was told after a later one")]
    OutOfOrder {
        /// The cluster.
        lcn: Lcn,
    },
    /// Checksums have not all been placed.
    #[error("{count} clusters of checksums have no place yet")]
    Unplaced {
        /// How many.
        count: usize,
    },
}

/// A cluster of pages to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterWrite {
    /// Where.
    pub at: ByteOffset,
    /// What: one whole cluster.
    pub bytes: Vec<u8>,
}

/// What an import has come to: the input of [`Store::seal`](crate::store::Store::seal).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedImage {
    /// Exact length.
    pub size_bytes: u64,
    /// SHA-256 of exactly `size_bytes` bytes.
    pub sha256: [u8; 32],
    /// SHA-512 of the same.
    pub sha512: [u8; 64],
    /// An entry for each cluster.
    pub map: Vec<u64>,
    /// Where the checksum pages were written.
    pub checksums: Vec<DirectoryEntry>,
    /// Clusters of data.
    pub stored_clusters: u64,
}

/// Checksums of the clusters whose pages share one cluster.
pub(crate) struct Filling {
    /// Which entry of the directory names it.
    pub number: u32,
    /// A bit for each page that is written.
    pub written: u16,
    /// Of each page.
    pub crcs: Vec<[u32; CRCS]>,
}

/// Plans one import.
pub struct ImportPlanner {
    owner: PageOwner,
    map: Vec<u64>,
    filling: Option<Filling>,
    filled: VecDeque<Filling>,
    checksums: Vec<DirectoryEntry>,
    stored_clusters: u64,
}

impl ImportPlanner {
    /// For the image of a ticket ([`ImportTicket::owner`](crate::store::ImportTicket::owner)), of `size_bytes` bytes if that is known.
    pub fn new(owner: PageOwner, size_bytes: Option<u64>) -> Self {
        let clusters = size_bytes
            .unwrap_or(0)
            .min(IMAGE_BYTES_MAX)
            .div_ceil(CLUSTER_BYTES);
        Self {
            owner,
            map: Vec::with_capacity(usize::try_from(clusters).unwrap_or(0)),
            filling: None,
            filled: VecDeque::new(),
            checksums: Vec::new(),
            stored_clusters: 0,
        }
    }

    /// Records that cluster `lcn`, `bytes`, goes to `pcn` with the blocks of `mask` stored. Clusters are told in ascending
    /// order; those that hold zeros only are left out.
    ///
    /// # Errors
    /// If the cluster is past the largest image, or comes after a later one.
    pub fn stored(
        &mut self,
        lcn: Lcn,
        pcn: Pcn,
        mask: BlockMask,
        bytes: &[u8],
    ) -> Result<(), ImportPlanError> {
        let mut crcs = [0; BLOCKS];
        for (block, (crc, bytes)) in crcs
            .iter_mut()
            .zip(bytes.chunks_exact(PAGE_BYTES))
            .enumerate()
        {
            if mask.contains(u32::try_from(block).unwrap_or(u32::MAX)) {
                *crc = block_crc(bytes);
            }
        }
        self.stored_with(lcn, pcn, mask, &crcs)
    }

    /// As [`Self::stored`], with checksums that are known: those that a copy's source recorded. Of blocks that are not stored they are 0.
    pub(crate) fn stored_with(
        &mut self,
        lcn: Lcn,
        pcn: Pcn,
        mask: BlockMask,
        crcs: &[u32; BLOCKS],
    ) -> Result<(), ImportPlanError> {
        let at = lcn.get() as usize;
        if u64::from(lcn.get()) >= IMAGE_BYTES_MAX / CLUSTER_BYTES {
            return Err(ImportPlanError::TooLarge { lcn });
        }
        if at < self.map.len() {
            return Err(ImportPlanError::OutOfOrder { lcn });
        }
        self.map.resize(at + 1, 0);
        self.map[at] = MapEntry::new(pcn, mask).bits();
        self.stored_clusters += 1;

        let (leaf, first) = checksum_leaf_of(lcn);
        let number = leaf.directory_entry();
        if self
            .filling
            .as_ref()
            .is_some_and(|group| group.number != number)
        {
            self.filled.extend(self.filling.take());
        }
        let group = self.filling.get_or_insert_with(|| Filling {
            number,
            written: 0,
            crcs: vec![[0; CRCS]; LEAVES],
        });
        group.written |= 1 << leaf.pair();
        group.crcs[leaf.pair() as usize][first..first + BLOCKS].copy_from_slice(crcs);
        Ok(())
    }

    /// Goes on with a copy of which `map` is done. `checksums` names the clusters that are full; `filling` is what the one after them
    /// holds so far: which pages, and their checksums.
    pub(crate) fn resumed(
        owner: PageOwner,
        map: Vec<u64>,
        checksums: Vec<DirectoryEntry>,
        filling: Option<Filling>,
    ) -> Self {
        let is_stored = |word: &&u64| !MapEntry::from_bits(**word).pcn().is_none();
        let stored_clusters = map.iter().filter(is_stored).count() as u64;
        Self {
            owner,
            map,
            filling,
            filled: VecDeque::new(),
            checksums,
            stored_clusters,
        }
    }

    /// The entries so far, up to the last cluster that is stored.
    pub(crate) fn map(&self) -> &[u64] {
        &self.map
    }

    /// Clusters of data so far.
    pub(crate) fn stored_clusters(&self) -> u64 {
        self.stored_clusters
    }

    /// The directory of the checksums so far, and what to write at `pcn`, where the cluster that is still filling goes for now.
    pub(crate) fn checksums_with(
        &self,
        pcn: Option<Pcn>,
    ) -> (Vec<DirectoryEntry>, Option<ClusterWrite>) {
        let mut checksums = self.checksums.clone();
        let write = self.filling.as_ref().zip(pcn).map(|(group, pcn)| {
            let entry = group.number as usize;
            checksums.resize(checksums.len().max(entry + 1), DirectoryEntry::EMPTY);
            checksums[entry] = DirectoryEntry::new(pcn, group.written);
            self.pages_of(group, pcn)
        });
        (checksums, write)
    }

    /// Whether a cluster of checksums is filling.
    pub(crate) fn is_filling(&self) -> bool {
        self.filling.is_some()
    }

    /// Whether a cluster of checksums is full and waits for [`Self::place`].
    pub fn needs_cluster(&self) -> bool {
        !self.filled.is_empty()
    }

    /// Gives the oldest full cluster of checksums its place, and says what to write there. `None` if there is none.
    pub fn place(&mut self, pcn: Pcn) -> Option<ClusterWrite> {
        let group = self.filled.pop_front()?;
        let entry = group.number as usize;
        self.checksums
            .resize(self.checksums.len().max(entry + 1), DirectoryEntry::EMPTY);
        self.checksums[entry] = DirectoryEntry::new(pcn, group.written);
        Some(self.pages_of(&group, pcn))
    }

    fn pages_of(&self, group: &Filling, pcn: Pcn) -> ClusterWrite {
        // Pages that are not written are zeros, for the same reason as in a cluster of data.
        let mut bytes = vec![0; CLUSTER];
        for (pair, crcs) in (0..PAIRS_PER_CLUSTER).zip(&group.crcs) {
            if group.written & (1 << pair) == 0 {
                continue;
            }
            let index = group.number * PAIRS_PER_CLUSTER + pair;
            let page = ChecksumPage {
                slot: self.owner.slot,
                epoch: self.owner.epoch,
                index,
                crcs: *crcs,
            };
            for copy in PairCopy::BOTH {
                let at = page_offset(pcn, pair, copy);
                let stamp = Stamp {
                    disk_uuid: self.owner.disk_uuid,
                    self_offset: at,
                };
                let within = usize::try_from(at.get() - pcn.offset().get()).unwrap_or(0);
                bytes[within..within + PAGE_BYTES].copy_from_slice(&page.encode(&stamp));
            }
        }
        ClusterWrite {
            at: pcn.offset(),
            bytes,
        }
    }

    /// Ends the image: what is left of the checksums is full now, and waits for [`Self::place`].
    pub fn finish(&mut self) {
        self.filled.extend(self.filling.take());
    }

    /// The input of the seal, once everything is placed and written.
    ///
    /// # Errors
    /// If checksums have no place yet, or there are clusters past `size_bytes`.
    pub fn seal_input(
        mut self,
        size_bytes: u64,
        sha256: [u8; 32],
        sha512: [u8; 64],
    ) -> Result<SealedImage, ImportPlanError> {
        self.finish();
        if self.needs_cluster() {
            return Err(ImportPlanError::Unplaced {
                count: self.filled.len(),
            });
        }
        let clusters = usize::try_from(size_bytes.div_ceil(CLUSTER_BYTES)).unwrap_or(usize::MAX);
        if self.map.len() > clusters || size_bytes > IMAGE_BYTES_MAX {
            let lcn = Lcn::new(u32::try_from(clusters).unwrap_or(u32::MAX));
            return Err(ImportPlanError::TooLarge { lcn });
        }
        self.map.resize(clusters, 0);
        Ok(SealedImage {
            size_bytes,
            sha256,
            sha512,
            map: self.map,
            checksums: self.checksums,
            stored_clusters: self.stored_clusters,
        })
    }
}
