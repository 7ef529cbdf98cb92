//! Proves an image good, or says what is bad: every stored block against its checksum, every page of its map and checksums,
//! and both hashes over exactly its bytes. Reads go to the device, past any cache.
//!
//! A run goes in steps of about 1 MiB, so that the thread that owns the disk can do other work in between; dropping a run
//! cancels it.

use sha2::{Digest, Sha256, Sha512};
use uuid::Uuid;

use crate::format::checksum_page::{ChecksumPage, block_crc};
use crate::format::tree::{LeafIndex, PAIRS_PER_CLUSTER, checksum_leaf_of};
use crate::medium::{IoFault, Medium};
use crate::store::{Damage, Findings, Repair, ScrubTarget, Store, StoreError, TreePage};
use crate::units::{
    BLOCK_BYTES, BLOCKS_PER_CLUSTER, BlockMask, ByteOffset, CLUSTER_BYTES, Lcn, PAGE_BYTES, Pcn,
};

/// Bad blocks, lost pages and repairs that a report lists; more are counted only.
pub const REPORTED_MAX: usize = 64;

const CLUSTERS_PER_STEP: usize = 8;
const CLUSTER: usize = PAGE_BYTES * BLOCKS_PER_CLUSTER as usize;
static ZEROS: [u8; CLUSTER] = [0; CLUSTER];
const _: () = assert!(CLUSTER as u64 == CLUSTER_BYTES && PAGE_BYTES as u64 == BLOCK_BYTES);

/// A block whose bytes are not those that were imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBlock {
    /// Where in the image.
    pub object_offset: ByteOffset,
    /// Where on the disk.
    pub disk_offset: ByteOffset,
    /// The CRC32C that its checksum page carries.
    pub expected_crc: u32,
    /// What is there.
    pub actual: BlockContent,
}

/// What a read of a bad block gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockContent {
    /// Bytes with this CRC32C.
    Crc(u32),
    /// An error.
    Unreadable(IoFault),
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// Call [`VerifyRun::step`] again.
    More,
    /// All was read: [`VerifyRun::finish`] tells.
    Done,
}

/// The hashes of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// SHA-256.
    pub sha256: [u8; 32],
    /// SHA-512.
    pub sha512: [u8; 64],
}

/// What a run found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// The image.
    pub uuid: Uuid,
    /// Its length, which is also how many bytes were hashed.
    pub size_bytes: u64,
    /// Blocks that were compared with a checksum.
    pub checked_blocks: u64,
    /// Stored blocks whose checksum page is lost; the hashes cover them all the same.
    pub unchecked_blocks: u64,
    /// The first [`REPORTED_MAX`] bad blocks.
    pub bad_blocks: Vec<BadBlock>,
    /// How many there are.
    pub bad_block_count: u64,
    /// Pages of its map or checksums that are bad in both copies; the first [`REPORTED_MAX`].
    pub lost_pages: Vec<Damage>,
    /// Copies of pages that were bad and have been written again from their twins.
    pub repaired: Vec<Repair>,
    /// The same on a disk that takes no writes: they are still bad.
    pub repairable: Vec<Repair>,
    /// Pages of checksums that were lost in both copies, and were written again from another replica: see [`VerifyRun::checksums_restored`].
    pub restored_checksum_pages: u64,
    /// As sealed.
    pub expected: Hashes,
    /// Of what is there now; blocks that could not be read count as zeros. Of a run that makes none: as sealed.
    pub actual: Hashes,
}

impl VerifyReport {
    /// Whether the image is what was imported, and everything that says so is intact.
    pub fn is_good(&self) -> bool {
        self.bad_block_count == 0
            && self.unchecked_blocks == 0
            && self.lost_pages.is_empty()
            && self.hashes_match()
    }

    /// Whether its hashes are those that were sealed.
    pub fn hashes_match(&self) -> bool {
        self.expected == self.actual
    }
}

/// A verification on its way.
pub struct VerifyRun {
    target: ScrubTarget,
    findings: Findings,
    /// Directory entries of the map that were re-read.
    map_entries_done: usize,
    /// Directory entries of the checksums that were re-read.
    checksum_entries_done: usize,
    /// Of the lost pages, those that [`Self::take_lost_checksums`] has told of.
    told_lost: usize,
    restored_checksum_pages: u64,
    next_lcn: usize,
    hashes: Option<(Sha256, Sha512)>,
    checksums: Option<(LeafIndex, Option<Box<ChecksumPage>>)>,
    checked_blocks: u64,
    unchecked_blocks: u64,
    bad_blocks: Vec<BadBlock>,
    bad_block_count: u64,
    buffer: Vec<u8>,
}

impl VerifyRun {
    /// Begins to verify a Ready image.
    ///
    /// # Errors
    /// `NotFound`, or `Corrupt` if it is not Ready.
    pub fn new<M: Medium>(store: &Store<M>, uuid: Uuid) -> Result<Self, StoreError> {
        Ok(Self {
            target: store.scrub_target(uuid)?,
            findings: Findings::default(),
            map_entries_done: 0,
            checksum_entries_done: 0,
            told_lost: 0,
            restored_checksum_pages: 0,
            next_lcn: 0,
            hashes: Some((Sha256::new(), Sha512::new())),
            checksums: None,
            checked_blocks: 0,
            unchecked_blocks: 0,
            bad_blocks: Vec::new(),
            bad_block_count: 0,
            buffer: Vec::new(),
        })
    }

    /// As [`Self::new`], and without hashes: for what is done all the time. The checksums of the blocks say as much of them.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_blocks<M: Medium>(store: &Store<M>, uuid: Uuid) -> Result<Self, StoreError> {
        Ok(Self {
            hashes: None,
            ..Self::new(store, uuid)?
        })
    }

    /// Stored blocks that were read and compared so far.
    pub fn checked_blocks(&self) -> u64 {
        self.checked_blocks
    }

    /// Of these, the bad ones.
    pub fn bad_block_count(&self) -> u64 {
        self.bad_block_count
    }

    /// Bytes of the image that are done.
    pub fn done_bytes(&self) -> u64 {
        (self.next_lcn as u64 * CLUSTER_BYTES).min(self.total_bytes())
    }

    /// Bytes of the image.
    pub fn total_bytes(&self) -> u64 {
        self.target.object.size_bytes
    }

    /// Pages of its map and checksums that were found bad in both copies so far, in the order in which they were found.
    pub fn lost_pages(&self) -> &[Damage] {
        &self.findings.lost
    }

    /// Pages of checksums that are bad in both copies, and were not told of yet. Who has them from another replica
    /// ([`Store::restore_checksums`]) says so with [`Self::checksums_restored`].
    pub fn take_lost_checksums(&mut self) -> Vec<u32> {
        let lost = self.findings.lost.iter().skip(self.told_lost);
        let leaves = lost.filter_map(|damage| match damage {
            Damage::PageLost {
                page: TreePage::ChecksumLeaf(leaf),
                ..
            } => Some(*leaf),
            _ => None,
        });
        let leaves = leaves.collect();
        self.told_lost = self.findings.lost.len();
        leaves
    }

    /// A lost page of checksums is there again.
    pub fn checksums_restored(&mut self, leaf: u32) {
        let is_it = |damage: &Damage| matches!(damage, Damage::PageLost { page: TreePage::ChecksumLeaf(lost), .. } if *lost == leaf);
        let before = self.findings.lost.len();
        self.findings.lost.retain(|damage| !is_it(damage));
        self.told_lost = self.told_lost.min(self.findings.lost.len());
        self.restored_checksum_pages += (before - self.findings.lost.len()) as u64;
    }

    fn reread_checksums<M: Medium>(&mut self, store: &mut Store<M>) -> Result<(), StoreError> {
        let first = self.checksum_entries_done as u64 * u64::from(PAIRS_PER_CLUSTER);
        for leaf in first..first + u64::from(PAIRS_PER_CLUSTER) {
            let leaf = u32::try_from(leaf).ok().and_then(LeafIndex::new);
            if let Some(leaf) = leaf {
                store.scrub_checksums(&mut self.target, leaf, &mut self.findings)?;
            }
        }
        Ok(())
    }

    /// Reads and compares about 1 MiB.
    ///
    /// # Errors
    /// `NotFound` if the image was deleted meanwhile; `Io` if its pages cannot be read or repaired. A data block that cannot
    /// be read is no error but a finding.
    pub fn step<M: Medium>(&mut self, store: &mut Store<M>) -> Result<StepOutcome, StoreError> {
        store.check_scrub(&self.target)?;
        if self.map_entries_done < self.target.map_tree_entries() {
            store.scrub_map(&mut self.target, self.map_entries_done, &mut self.findings)?;
            self.map_entries_done += 1;
            return Ok(StepOutcome::More);
        }
        // All of them before the first block: one that is lost can be had from another replica, before blocks go unchecked for it.
        if self.checksum_entries_done < self.target.checksum_tree_entries() {
            self.reread_checksums(store)?;
            self.checksum_entries_done += 1;
            return Ok(StepOutcome::More);
        }
        let clusters = self.target.map.len();
        let until = clusters.min(self.next_lcn + CLUSTERS_PER_STEP);
        while self.next_lcn < until {
            self.next_lcn += self.neighbours(store, until)?;
        }
        Ok(if self.next_lcn < clusters {
            StepOutcome::More
        } else {
            StepOutcome::Done
        })
    }

    /// The report of a run that is done; of one that is not, the hashes do not match.
    pub fn finish(mut self) -> VerifyReport {
        let object = &self.target.object;
        let expected = Hashes {
            sha256: object.sha256,
            sha512: object.sha512,
        };
        self.findings.lost.truncate(REPORTED_MAX);
        self.findings.repaired.truncate(REPORTED_MAX);
        self.findings.repairable.truncate(REPORTED_MAX);
        VerifyReport {
            uuid: object.uuid,
            size_bytes: object.size_bytes,
            checked_blocks: self.checked_blocks,
            unchecked_blocks: self.unchecked_blocks,
            bad_blocks: self.bad_blocks,
            bad_block_count: self.bad_block_count,
            lost_pages: self.findings.lost,
            repaired: self.findings.repaired,
            repairable: self.findings.repairable,
            restored_checksum_pages: self.restored_checksum_pages,
            expected,
            actual: self.hashes.map_or(expected, |(sha256, sha512)| Hashes {
                sha256: sha256.finalize().into(),
                sha512: sha512.finalize().into(),
            }),
        }
    }

    /// Verifies the clusters from `next_lcn` on that lie one after the other on the disk, with one read. Returns how many.
    fn neighbours<M: Medium>(
        &mut self,
        store: &mut Store<M>,
        until: usize,
    ) -> Result<usize, StoreError> {
        let first = self.entry(self.next_lcn);
        let Some((first_pcn, _)) = first else {
            self.hash(self.next_lcn, &ZEROS);
            return Ok(1);
        };
        let count = (self.next_lcn..until)
            .zip(first_pcn.get()..)
            .take_while(|(lcn, pcn)| {
                self.entry(*lcn)
                    .is_some_and(|(there, _)| there.get() == *pcn)
            })
            .count();
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.resize(count * CLUSTER, 0);
        let whole = store.medium_mut().read(first_pcn.offset(), &mut bytes);
        for (lcn, cluster) in (self.next_lcn..).zip(bytes.chunks_exact_mut(CLUSTER)) {
            let Some((pcn, mask)) = self.entry(lcn) else {
                continue;
            };
            self.cluster(store, lcn, (pcn, mask), cluster, whole.is_ok())?;
            self.hash(lcn, cluster);
        }
        self.buffer = bytes;
        Ok(count)
    }

    fn entry(&self, lcn: usize) -> Option<(Pcn, BlockMask)> {
        let entry = self.target.map.get(Lcn::new(u32::try_from(lcn).ok()?));
        let holds = !entry.pcn().is_none() && entry.mask() != BlockMask::EMPTY;
        holds.then(|| (entry.pcn(), entry.mask()))
    }

    /// Compares the stored blocks of a cluster, and zeroes the others, as a reader sees them.
    fn cluster<M: Medium>(
        &mut self,
        store: &mut Store<M>,
        lcn: usize,
        (pcn, mask): (Pcn, BlockMask),
        bytes: &mut [u8],
        was_read: bool,
    ) -> Result<(), StoreError> {
        let (leaf, first) = checksum_leaf_of(Lcn::new(u32::try_from(lcn).unwrap_or(u32::MAX)));
        self.load_checksums(store, leaf)?;
        for (block, bytes) in (0..BLOCKS_PER_CLUSTER).zip(bytes.chunks_exact_mut(PAGE_BYTES)) {
            if !mask.contains(block) {
                bytes.fill(0);
                continue;
            }
            let within = u64::from(block) * BLOCK_BYTES;
            let disk_offset = pcn.offset().plus(within);
            let mut actual = None;
            // One bad block must not hide its neighbours: where the large read failed, each block is read on its own.
            if !was_read && let Err(fault) = store.medium_mut().read(disk_offset, bytes) {
                bytes.fill(0);
                actual = Some(BlockContent::Unreadable(fault));
            }
            let actual = actual.unwrap_or_else(|| BlockContent::Crc(block_crc(bytes)));
            let page = self.checksums.as_ref().and_then(|(_, page)| page.as_ref());
            let expected = page
                .and_then(|page| page.crcs.get(first + block as usize))
                .copied();
            match expected {
                Some(expected_crc) => {
                    self.checked_blocks += 1;
                    if actual != BlockContent::Crc(expected_crc) {
                        let object_offset = ByteOffset::new(lcn as u64 * CLUSTER_BYTES + within);
                        self.bad_block(BadBlock {
                            object_offset,
                            disk_offset,
                            expected_crc,
                            actual,
                        });
                    }
                }
                None => self.unchecked_blocks += 1,
            }
        }
        Ok(())
    }

    fn bad_block(&mut self, block: BadBlock) {
        self.bad_block_count += 1;
        if self.bad_blocks.len() < REPORTED_MAX {
            self.bad_blocks.push(block);
        }
    }

    fn load_checksums<M: Medium>(
        &mut self,
        store: &mut Store<M>,
        leaf: LeafIndex,
    ) -> Result<(), StoreError> {
        if self
            .checksums
            .as_ref()
            .is_some_and(|(loaded, _)| *loaded == leaf)
        {
            return Ok(());
        }
        let mut again = Findings::default();
        let page = store.scrub_checksums(&mut self.target, leaf, &mut again)?;
        // What was bad when all of them were read is known.
        let (known, found) = (&mut self.findings, again);
        known.repaired.extend(found.repaired);
        let is_news = |lost: &Damage| !known.lost.contains(lost);
        let lost: Vec<Damage> = found.lost.into_iter().filter(is_news).collect();
        known.lost.extend(lost);
        self.checksums = Some((leaf, page.map(Box::new)));
        Ok(())
    }

    /// Hashes exactly the bytes of the image: what pads its last block is left out.
    fn hash(&mut self, lcn: usize, cluster: &[u8]) {
        let Some((sha256, sha512)) = &mut self.hashes else {
            return;
        };
        let left = self
            .target
            .object
            .size_bytes
            .saturating_sub(lcn as u64 * CLUSTER_BYTES);
        let len = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(cluster.len());
        sha256.update(&cluster[..len]);
        sha512.update(&cluster[..len]);
    }
}
