//! Re-reading the pages of an image that is in service, for [`crate::verify`].

use std::sync::Arc;

use uuid::Uuid;

use super::error::{StoreError, StoreErrorKind};
use super::object::{Damage, Object};
use super::report::Repair;
use super::ticket::PageOwner;
use super::trees::{PendingRepair, Tree, TreeError, TreeReader};
use super::{Store, not_served};
use crate::format::PairCopy;
use crate::format::checksum_page::ChecksumPage;
use crate::format::tree::LeafIndex;
use crate::map::LayerMap;
use crate::medium::Medium;
use crate::units::{Lcn, Pcn};

/// An image whose pages are re-read.
pub(crate) struct ScrubTarget {
    pub object: Object,
    pub map: Arc<LayerMap>,
    map_tree: Tree,
    checksum_tree: Tree,
    buffer: Vec<u8>,
}

/// What was found on the way.
#[derive(Default)]
pub(crate) struct Findings {
    /// Bad copies that were written again from their twins.
    pub repaired: Vec<Repair>,
    /// Bad copies with a good twin on a disk that takes no writes.
    pub repairable: Vec<Repair>,
    /// Pages that are bad in both copies.
    pub lost: Vec<Damage>,
}

impl ScrubTarget {
    /// Directory entries of the map's tree.
    pub fn map_tree_entries(&self) -> usize {
        self.map_tree.entries.len()
    }

    /// Directory entries of the checksums' tree.
    pub fn checksum_tree_entries(&self) -> usize {
        self.checksum_tree.entries.len()
    }

    /// The cluster of a leaf of checksums that was written.
    pub fn checksum_cluster(&self, leaf: LeafIndex) -> Option<Pcn> {
        self.checksum_tree.leaf_cluster(leaf)
    }
}

impl<M: Medium> Store<M> {
    pub(crate) fn scrub_target(&self, uuid: Uuid) -> Result<ScrubTarget, StoreError> {
        let entry = self.entry(uuid)?;
        let object = entry.object.clone();
        match &entry.map {
            Some(map) if object.state.is_ready() => Ok(ScrubTarget {
                map: Arc::clone(map),
                map_tree: entry.map_tree.clone(),
                checksum_tree: entry.checksum_tree.clone(),
                buffer: Vec::new(),
                object,
            }),
            _ => Err(not_served(&object, &object.state)),
        }
    }

    /// The object must still be the one that the scrub began with: its clusters may be another's by now.
    pub(crate) fn check_scrub(&self, target: &ScrubTarget) -> Result<(), StoreError> {
        let was = &target.object;
        if self
            .entries
            .get(&was.slot)
            .is_some_and(|entry| entry.object.epoch == was.epoch)
        {
            return Ok(());
        }
        let context = format!(
            "image {} ({}) was deleted while it was verified",
            was.name, was.uuid
        );
        Err(StoreError::new(StoreErrorKind::NotFound, context, "nothing to do").of_object(was.uuid))
    }

    /// Re-reads the map leaves that the directory entry `entry` names, and compares them with the map in memory.
    pub(crate) fn scrub_map(
        &mut self,
        target: &mut ScrubTarget,
        entry: usize,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        let map = Arc::clone(&target.map);
        let slot_at = self.geometry().slot_offset(target.object.slot, PairCopy::A);
        let differs = |lcn: usize, found: crate::map::MapEntry| {
            let known = u32::try_from(lcn)
                .map(|lcn| map.get(Lcn::new(lcn)))
                .unwrap_or_default();
            if known == found {
                return Ok(());
            }
            let what = "the map in memory";
            Err(Damage::Inconsistent {
                at: slot_at,
                what,
                expected: known.bits(),
                found: found.bits(),
            }
            .into())
        };
        let result = self.with_reader(target, findings, |reader, target| {
            reader.leaves(&target.map_tree, entry..entry + 1, &mut { differs })
        })?;
        findings.lost.extend(result.err().map(|damage| *damage));
        Ok(())
    }

    /// Re-reads a page of checksums; `None` if it was never written or is lost.
    pub(crate) fn scrub_checksums(
        &mut self,
        target: &mut ScrubTarget,
        leaf: LeafIndex,
        findings: &mut Findings,
    ) -> Result<Option<ChecksumPage>, StoreError> {
        let result = self.with_reader(target, findings, |reader, target| {
            reader.checksums(&target.checksum_tree, leaf)
        })?;
        Ok(result.unwrap_or_else(|damage| {
            findings.lost.push(*damage);
            None
        }))
    }

    /// Reads pages, and writes bad copies again from their twins.
    fn with_reader<T>(
        &mut self,
        target: &mut ScrubTarget,
        findings: &mut Findings,
        read: impl FnOnce(&mut TreeReader<'_, M>, &ScrubTarget) -> Result<T, TreeError>,
    ) -> Result<Result<T, Box<Damage>>, StoreError> {
        let (slot, epoch) = (target.object.slot, target.object.epoch);
        let mut repairs = Vec::new();
        let mut buffer = std::mem::take(&mut target.buffer);
        let mut reader = TreeReader {
            geometry: self.superblock.geometry,
            owner: PageOwner {
                disk_uuid: self.disk_uuid(),
                slot,
                epoch,
            },
            slot_at: self.geometry().slot_offset(slot, PairCopy::A),
            disk: &mut self.disk,
            repairs: &mut repairs,
            buffer: &mut buffer,
        };
        let result = read(&mut reader, target);
        target.buffer = buffer;
        self.write_repairs(repairs, findings)?;
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(TreeError::Damage(damage)) => Ok(Err(damage)),
            Err(TreeError::Io(fault)) => {
                let doing = format!("reading the pages of image {}", target.object.name);
                Err(StoreError::io(&doing, fault).of_object(target.object.uuid))
            }
        }
    }

    fn write_repairs(
        &mut self,
        repairs: Vec<PendingRepair>,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        if repairs.is_empty() {
            return Ok(());
        }
        if self.check_writable().is_err() {
            findings
                .repairable
                .extend(repairs.into_iter().map(|pending| pending.repair));
            return Ok(());
        }
        // The good twin of each is durable since the seal, or since the disk was opened.
        let io = |fault| StoreError::io("repairing copies of pages", fault);
        for pending in &repairs {
            self.disk
                .write(pending.repair.at, &pending.page)
                .map_err(io)?;
        }
        self.disk.flush().map_err(io)?;
        findings
            .repaired
            .extend(repairs.into_iter().map(|pending| pending.repair));
        Ok(())
    }
}
