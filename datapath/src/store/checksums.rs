//! A page of block checksums that is lost on one disk, written again with what another replica of the same image has recorded.
//!
//! Checksums of blocks are part of what an image is: each was made of the bytes that went into its SHA-256 and SHA-512, and a copy takes them
//! over. So two replicas with one UUID, one length and the same hashes have the same checksums. Nothing is computed here from what lies on
//! the disk, and a page that can be read is never changed: not even one of two copies that contradict each other.

use std::sync::LazyLock;

use uuid::Uuid;

use super::Store;
use super::error::{StoreError, StoreErrorKind};
use super::object::{Damage, Object};
use super::scrub::{Findings, ScrubTarget};
use crate::format::checksum_page::{CRCS, ChecksumPage, block_crc};
use crate::format::tree::{CLUSTERS_PER_CHECKSUM_PAGE, LeafIndex, page_offset};
use crate::format::{PairCopy, Stamp};
use crate::medium::Medium;
use crate::units::{BLOCKS_PER_CLUSTER, Lcn, PAGE_BYTES, Page};

/// What a block has that a replica does not store.
static ZERO_BLOCK_CRC: LazyLock<u32> = LazyLock::new(|| block_crc(&[0; PAGE_BYTES]));

/// The checksums of the blocks of one leaf, as a replica has recorded them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedChecksums {
    /// The leaf's number.
    pub leaf: u32,
    image: Identity,
    /// None for a block that is not stored: it is zero.
    blocks: Vec<Option<u32>>,
}

impl RecordedChecksums {
    /// The CRC32C of each of the leaf's blocks as it is read: that of a block that is not stored is a block of zeros'.
    pub fn crcs(&self) -> Vec<u32> {
        let crcs = self.blocks.iter();
        crcs.map(|crc| crc.unwrap_or(*ZERO_BLOCK_CRC)).collect()
    }
}

/// What makes two replicas copies of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    uuid: Uuid,
    size_bytes: u64,
    sha256: [u8; 32],
    sha512: [u8; 64],
}

impl Identity {
    fn of(object: &Object) -> Self {
        Self {
            uuid: object.uuid,
            size_bytes: object.size_bytes,
            sha256: object.sha256,
            sha512: object.sha512,
        }
    }
}

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumsRestored {
    /// It was lost, and is there again: written, flushed, read back.
    Written,
    /// It can be read, and was not touched.
    NotLost,
    /// Its two copies contradict each other, and both can be read: they were not touched.
    Contradictory,
}

impl<M: Medium> Store<M> {
    /// What this replica has recorded for one leaf of checksums; `None` if it has lost it, too, or never had it.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt` or `NotComplete` if the image is not Ready here; `Io` if pages cannot be repaired.
    pub fn recorded_checksums(
        &mut self,
        uuid: Uuid,
        leaf: u32,
    ) -> Result<Option<RecordedChecksums>, StoreError> {
        let mut target = self.scrub_target(uuid)?;
        let Some(index) = LeafIndex::new(leaf) else {
            return Ok(None);
        };
        let page = self.scrub_checksums(&mut target, index, &mut Findings::default())?;
        Ok(page.map(|page| RecordedChecksums {
            leaf,
            image: Identity::of(&target.object),
            blocks: stored_of(&target, leaf)
                .into_iter()
                .zip(page.crcs)
                .map(|(is_stored, crc)| is_stored.then_some(crc))
                .collect(),
        }))
    }

    /// Writes a leaf of checksums again that is bad in both copies, with what another replica of the image has recorded.
    ///
    /// A crash in between leaves it lost, or there in one copy.
    ///
    /// # Errors
    /// As [`Self::recorded_checksums`]; `Corrupt` if they are another image's; `ReadOnlyLatched`; `Io`, also if it is not there after it was
    /// written.
    pub fn restore_checksums(
        &mut self,
        uuid: Uuid,
        recorded: &RecordedChecksums,
    ) -> Result<ChecksumsRestored, StoreError> {
        self.check_writable()?;
        let mut target = self.scrub_target(uuid)?;
        let leaf = LeafIndex::new(recorded.leaf);
        let of_this = recorded.image == Identity::of(&target.object);
        let (true, Some(leaf)) = (of_this && recorded.blocks.len() == CRCS, leaf) else {
            return Err(foreign(&target.object));
        };
        let mut findings = Findings::default();
        let there = self.scrub_checksums(&mut target, leaf, &mut findings)?;
        match findings.lost.first() {
            Some(Damage::PageLost { .. }) => {}
            Some(_) => return Ok(ChecksumsRestored::Contradictory),
            // Also one that was never written: none of its blocks is stored.
            None => {
                debug_assert!(there.is_some() || target.checksum_cluster(leaf).is_none());
                return Ok(ChecksumsRestored::NotLost);
            }
        }
        let mut crcs = [0; CRCS];
        let stored = stored_of(&target, recorded.leaf);
        for ((crc, is_stored), recorded) in crcs.iter_mut().zip(stored).zip(&recorded.blocks) {
            if is_stored {
                *crc = recorded.unwrap_or(*ZERO_BLOCK_CRC);
            }
        }
        let page = ChecksumPage {
            slot: target.object.slot,
            epoch: target.object.epoch,
            index: leaf.get(),
            crcs,
        };
        self.write_checksums(&target, leaf, &page)?;
        let again = self.scrub_checksums(&mut target, leaf, &mut Findings::default())?;
        if again.as_ref() == Some(&page) {
            return Ok(ChecksumsRestored::Written);
        }
        let context = format!(
            "checksum page {} of image {} was written again, and is not there",
            leaf.get(),
            target.object.name
        );
        let remedy =
            "the disk's surface is bad there: check it (kernel log, SMART), and replace it";
        Err(StoreError::new(StoreErrorKind::Io, context, remedy).of_object(uuid))
    }

    fn write_checksums(
        &mut self,
        target: &ScrubTarget,
        leaf: LeafIndex,
        page: &ChecksumPage,
    ) -> Result<(), StoreError> {
        let Some(cluster) = target.checksum_cluster(leaf) else {
            return Err(foreign(&target.object));
        };
        let disk_uuid = self.disk_uuid();
        let io = |fault| {
            StoreError::io("writing a page of checksums again", fault).of_object(target.object.uuid)
        };
        for copy in PairCopy::BOTH {
            let at = page_offset(cluster, leaf.pair(), copy);
            let stamp = Stamp {
                disk_uuid,
                self_offset: at,
            };
            let bytes: Page = page.encode(&stamp);
            self.disk.write(at, &bytes).map_err(io)?;
            // One after the other: torn together, they would be as lost as before.
            self.disk.flush().map_err(io)?;
        }
        Ok(())
    }
}

/// Which blocks of a leaf's clusters a replica stores.
fn stored_of(target: &ScrubTarget, leaf: u32) -> Vec<bool> {
    let first = u64::from(leaf) * u64::from(CLUSTERS_PER_CHECKSUM_PAGE);
    let mut stored = Vec::with_capacity(CRCS);
    for lcn in first..first + u64::from(CLUSTERS_PER_CHECKSUM_PAGE) {
        let entry = u32::try_from(lcn)
            .map(|lcn| target.map.get(Lcn::new(lcn)))
            .unwrap_or_default();
        let has_cluster = !entry.pcn().is_none();
        stored.extend(
            (0..BLOCKS_PER_CLUSTER).map(|block| has_cluster && entry.mask().contains(block)),
        );
    }
    stored
}

fn foreign(object: &Object) -> StoreError {
    let context = format!(
        "checksums of another image were offered for image {} ({})",
        object.name, object.uuid
    );
    let remedy = "report this with the daemon's log; nothing was changed";
    StoreError::new(StoreErrorKind::Corrupt, context, remedy).of_object(object.uuid)
}
