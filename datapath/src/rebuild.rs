//! A missing copy of an image is made from the others: chunk by chunk, every block checked against the recorded CRC32C when it is read and
//! again before it is written.
//!
//! Source and target are two disks, each with its own thread. A run goes to the target's thread for each of its steps; a
//! [`SourceStep`] and the [`CheckedChunk`] that comes of it go to any source's. No I/O of one disk ever waits for the other here.
//!
//! ```text
//! while let Some(step) = run.next_step() {
//!     let mut chunk = step.read(source)?;                  // on the source's thread
//!     if !chunk.is_whole() { chunk.fill_from(another)?; }  // on another source's
//!     run.write(target, &chunk)?;                          // on the target's
//! }
//! run.seal(target)?;
//! ```

use uuid::Uuid;

use crate::format::checksum_page::block_crc;
use crate::medium::Medium;
use crate::store::{
    CheckedBlock, CopiedCluster, CopyTicket, Object, Store, StoreError, StoreErrorKind,
};
use crate::units::{BLOCKS_PER_CLUSTER, BlockMask, CLUSTER_BYTES, Lcn, PAGE_BYTES};
use crate::verify::BadBlock;

/// Stored clusters of a chunk: 1 MiB.
pub const CHUNK_CLUSTERS_MAX: usize = 8;
/// How much is copied before it is made durable.
pub const MARK_BYTES: u64 = 256 << 20;

const BLOCKS: usize = BLOCKS_PER_CLUSTER as usize;
const CLUSTER: usize = PAGE_BYTES * BLOCKS;

/// One copy on its way. To be ended with [`Self::seal`], [`Self::pause`] or [`Self::abort`].
#[must_use = "a copy that is not ended keeps its space"]
pub struct RebuildRun {
    copy: CopyTicket,
    source: Object,
}

/// A chunk that is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceStep {
    image: Uuid,
    first: Lcn,
    clusters_max: usize,
}

/// A piece of an image, with what is known of its blocks.
#[derive(Clone, Debug)]
pub struct CheckedChunk {
    image: Uuid,
    first: Lcn,
    /// One past its last cluster. What lies between and is not stored is zero.
    until: Lcn,
    clusters: Vec<ChunkCluster>,
    bad: Vec<BadBlock>,
    unchecked_blocks: u64,
}

#[derive(Clone, Debug)]
struct ChunkCluster {
    lcn: Lcn,
    mask: BlockMask,
    /// Blocks whose bytes are what was imported.
    good: u32,
    /// What each stored block must be, as far as a source has said; 0 for the others.
    crcs: [u32; BLOCKS],
    known: u32,
    bytes: Vec<u8>,
}

impl RebuildRun {
    /// Begins a copy on `target`. `source` is the image as a disk with a Ready replica has it, and names the target among its members.
    ///
    /// # Errors
    /// As [`Store::begin_copy`].
    pub fn begin<M: Medium>(
        target: &mut Store<M>,
        source: &Object,
        replica_uuid: Uuid,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            copy: target.begin_copy(source, replica_uuid)?,
            source: source.clone(),
        })
    }

    /// Goes on with the copy that `target` has.
    ///
    /// # Errors
    /// As [`Store::resume_copy`].
    pub fn resume<M: Medium>(target: &mut Store<M>, source: &Object) -> Result<Self, StoreError> {
        Ok(Self {
            copy: target.resume_copy(source.uuid)?,
            source: source.clone(),
        })
    }

    /// What is to be read next; `None` when it is time to [`Self::seal`].
    pub fn next_step(&self) -> Option<SourceStep> {
        (!self.copy.is_whole()).then(|| SourceStep {
            image: self.copy.image(),
            first: self.copy.next(),
            clusters_max: CHUNK_CLUSTERS_MAX,
        })
    }

    /// Writes a chunk to the target, and makes the copy so far durable every [`MARK_BYTES`].
    ///
    /// # Errors
    /// `NotComplete` for a chunk with blocks that no source had; `Corrupt` if its bytes changed since they were read, or it is another
    /// one than was asked for; `NoSpace`, `Io`, `ReadOnlyLatched`. The same chunk can be written again.
    pub fn write<M: Medium>(
        &mut self,
        target: &mut Store<M>,
        chunk: &CheckedChunk,
    ) -> Result<(), StoreError> {
        chunk.check(&self.copy)?;
        let stored: Vec<CopiedCluster<'_>> =
            chunk.clusters.iter().map(ChunkCluster::copied).collect();
        target.write_copy(&mut self.copy, &stored, chunk.until)?;
        if self.unmarked_bytes() >= MARK_BYTES {
            self.mark(target)?;
        }
        Ok(())
    }

    /// Makes what is copied durable: a crash goes on from here. To be called every 10 s as well.
    ///
    /// # Errors
    /// As [`Store::mark_progress`].
    pub fn mark<M: Medium>(&mut self, target: &mut Store<M>) -> Result<(), StoreError> {
        target.mark_progress(&mut self.copy)
    }

    /// Bytes that a crash would have copied again.
    pub fn unmarked_bytes(&self) -> u64 {
        self.copy.done_bytes() - self.copy.marked_bytes()
    }

    /// Bytes of the image that are copied.
    pub fn done_bytes(&self) -> u64 {
        self.copy.done_bytes()
    }

    /// Bytes of the image.
    pub fn total_bytes(&self) -> u64 {
        self.copy.size_bytes()
    }

    /// The copy is whole: makes it a Ready replica.
    ///
    /// # Errors
    /// As [`Store::seal_copy`]; the run is as it was.
    pub fn seal<M: Medium>(&mut self, target: &mut Store<M>) -> Result<(), StoreError> {
        target.seal_copy(&mut self.copy, &self.source)
    }

    /// Leaves the copy as it is, to be resumed. What can be made durable of it is.
    pub fn pause<M: Medium>(mut self, target: &mut Store<M>) {
        // Without room for its pages the last mark stands.
        let _ = self.mark(target);
        target.pause_copy(self.copy);
    }

    /// Gives the copy up.
    ///
    /// # Errors
    /// As [`Store::abort_copy`].
    pub fn abort<M: Medium>(self, target: &mut Store<M>) -> Result<(), StoreError> {
        target.abort_copy(self.copy)
    }
}

impl SourceStep {
    /// With no more than so many stored clusters, at least one: for a limit that a whole chunk would overstep.
    #[must_use]
    pub fn of_clusters(self, clusters_max: usize) -> Self {
        Self {
            clusters_max: clusters_max.clamp(1, CHUNK_CLUSTERS_MAX),
            ..self
        }
    }

    /// Reads up to [`CHUNK_CLUSTERS_MAX`] stored clusters, and as many empty ones as lie between.
    ///
    /// # Errors
    /// As [`Store::read_checked`]: this disk cannot be a source. Bad blocks are no error: see [`CheckedChunk::is_whole`].
    pub fn read<M: Medium>(self, source: &mut Store<M>) -> Result<CheckedChunk, StoreError> {
        let map = source.map_of(self.image)?;
        let end = u32::try_from(map.len()).unwrap_or(u32::MAX);
        let mut chunk = CheckedChunk {
            image: self.image,
            first: self.first,
            until: Lcn::new(end),
            clusters: Vec::new(),
            bad: Vec::new(),
            unchecked_blocks: 0,
        };
        for lcn in (self.first.get()..end).map(Lcn::new) {
            let entry = map.get(lcn);
            if entry.pcn().is_none() || entry.mask() == BlockMask::EMPTY {
                continue;
            }
            if chunk.clusters.len() == self.clusters_max {
                chunk.until = lcn;
                break;
            }
            chunk.clusters.push(ChunkCluster {
                lcn,
                mask: entry.mask(),
                good: 0,
                crcs: [0; BLOCKS],
                known: 0,
                bytes: vec![0; CLUSTER],
            });
        }
        chunk.fill_from(source)?;
        Ok(chunk)
    }
}

impl CheckedChunk {
    /// Whether every block of it is what was imported.
    pub fn is_whole(&self) -> bool {
        self.clusters.iter().all(|cluster| cluster.missing() == 0)
    }

    /// What the sources had that is not what was imported. Each source's damage, to be noted of its replica.
    pub fn bad_blocks(&self) -> &[BadBlock] {
        &self.bad
    }

    /// Takes what the sources had that is bad: of the last one that was asked, if this is called after each.
    pub fn take_bad_blocks(&mut self) -> Vec<BadBlock> {
        std::mem::take(&mut self.bad)
    }

    /// Blocks of which a source could not say what they must be.
    pub fn unchecked_blocks(&self) -> u64 {
        self.unchecked_blocks
    }

    /// Bytes that it takes from a disk.
    pub fn stored_bytes(&self) -> u64 {
        self.clusters.len() as u64 * CLUSTER_BYTES
    }

    /// Reads the blocks that are still missing from another source. Two sources that are damaged at different places make one whole chunk.
    ///
    /// # Errors
    /// As [`Store::read_checked`]: this disk cannot be a source.
    pub fn fill_from<M: Medium>(&mut self, source: &mut Store<M>) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        let mut rest = self.clusters.as_mut_slice();
        while !rest.is_empty() {
            // Clusters that follow each other in the image often do so on the disk: one call for them.
            let run = rest
                .iter()
                .zip(rest[0].lcn.get()..)
                .take_while(|(cluster, lcn)| cluster.lcn.get() == *lcn)
                .count();
            let (now, later) = rest.split_at_mut(run);
            rest = later;
            if now.iter().all(|cluster| cluster.missing() == 0) {
                continue;
            }
            let first = u64::from(now[0].lcn.get()) * u64::from(BLOCKS_PER_CLUSTER);
            let blocks = (run * BLOCKS) as u64;
            bytes.resize(run * CLUSTER, 0);
            let found = source.read_checked(self.image, first..first + blocks, &mut bytes)?;
            for ((cluster, found), bytes) in now
                .iter_mut()
                .zip(found.chunks_exact(BLOCKS))
                .zip(bytes.chunks_exact(CLUSTER))
            {
                self.unchecked_blocks += cluster.take(found, bytes, &mut self.bad);
            }
        }
        Ok(())
    }

    fn check(&self, copy: &CopyTicket) -> Result<(), StoreError> {
        let refuse = |kind, what: &str, remedy| {
            let context = format!("copying image {}: {what}", self.image);
            Err(StoreError::new(kind, context, remedy).of_object(self.image))
        };
        if self.image != copy.image() || self.first != copy.next() {
            let what = format!(
                "a chunk of image {} at cluster {} where cluster {} is next",
                self.image,
                self.first,
                copy.next()
            );
            let remedy = "report this with the daemon's log; nothing was written";
            return refuse(StoreErrorKind::Corrupt, &what, remedy);
        }
        if !self.is_whole() {
            let blocks: u32 = self
                .clusters
                .iter()
                .map(|one| one.missing().count_ones())
                .sum();
            let what = format!("{blocks} blocks are good on no source");
            let remedy = "bring another disk with a copy, or import the image again";
            return refuse(StoreErrorKind::NotComplete, &what, remedy);
        }
        if !self.clusters.iter().all(ChunkCluster::is_intact) {
            let what = "bytes changed in memory between the disks";
            return refuse(StoreErrorKind::Corrupt, what, "check this node's memory");
        }
        Ok(())
    }
}

impl ChunkCluster {
    fn missing(&self) -> u32 {
        self.mask.get() & !self.good
    }

    fn block(&self, block: usize) -> &[u8] {
        self.bytes
            .get(block * PAGE_BYTES..(block + 1) * PAGE_BYTES)
            .unwrap_or_default()
    }

    /// Takes the blocks that are good and missing. Answers how many stand there unchecked.
    fn take(&mut self, found: &[CheckedBlock], bytes: &[u8], bad: &mut Vec<BadBlock>) -> u64 {
        let mut unchecked = 0;
        for (block, found) in found.iter().enumerate().take(BLOCKS) {
            let bit = 1 << block;
            if self.missing() & bit == 0 {
                continue;
            }
            match *found {
                // Where two sources have recorded different checksums, the first one's stands, and the block stays missing.
                CheckedBlock::Good { crc } if self.known & bit == 0 || self.crcs[block] == crc => {
                    let range = block * PAGE_BYTES..(block + 1) * PAGE_BYTES;
                    self.bytes[range.clone()].copy_from_slice(&bytes[range]);
                    self.crcs[block] = crc;
                    self.known |= bit;
                    self.good |= bit;
                }
                CheckedBlock::Bad(found) => {
                    if self.known & bit == 0 {
                        self.crcs[block] = found.expected_crc;
                        self.known |= bit;
                    }
                    bad.push(found);
                }
                CheckedBlock::Unchecked => unchecked += 1,
                // A source that stores less than another one has no say.
                CheckedBlock::Hole | CheckedBlock::Good { .. } => {}
            }
        }
        unchecked
    }

    /// The bytes are still what was recorded, and zero where nothing is stored.
    fn is_intact(&self) -> bool {
        (0..BLOCKS).all(|block| {
            let bytes = self.block(block);
            if self.mask.get() & (1 << block) == 0 {
                bytes.iter().all(|byte| *byte == 0)
            } else {
                block_crc(bytes) == self.crcs[block]
            }
        })
    }

    fn copied(&self) -> CopiedCluster<'_> {
        CopiedCluster {
            lcn: self.lcn,
            mask: self.mask,
            crcs: &self.crcs,
            bytes: &self.bytes,
        }
    }
}
