//! An import on its way: what it has reserved in memory. Nothing of it is on the disk before the seal.

use uuid::Uuid;

use super::error::{StoreError, StoreErrorKind};
use crate::alloc::Extent;
use crate::units::{Epoch, Pcn, SlotIndex};

/// Who a page of metadata belongs to: goes into its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageOwner {
    /// The disk.
    pub disk_uuid: Uuid,
    /// The object's slot.
    pub slot: SlotIndex,
    /// That slot's epoch.
    pub epoch: Epoch,
}

/// An image that is about to be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImage {
    /// Its name.
    pub name: String,
    /// Its length, where it is known beforehand.
    pub size_bytes: Option<u64>,
    /// Where it comes from, for people; cut at 512 bytes.
    pub source: String,
    /// Replicas wanted.
    pub wanted_copies: u32,
    /// For people.
    pub created_unix_s: u64,
    /// The image.
    pub object_uuid: Uuid,
    /// This copy of it.
    pub replica_uuid: Uuid,
}

/// A slot, a name and clusters, reserved for one import. Ends with [`Store::seal`](super::Store::seal) or
/// [`Store::abort`](super::Store::abort); one that is dropped keeps what it reserved until the disk is opened again.
#[must_use = "an import that is neither sealed nor aborted keeps its space"]
#[derive(Debug)]
pub struct ImportTicket {
    pub(super) id: u64,
    pub(super) owner: PageOwner,
    pub(super) image: NewImage,
    /// In the order in which they were taken, neighbours joined.
    pub(super) taken: Vec<Extent>,
}

impl ImportTicket {
    /// Who its pages belong to.
    pub fn owner(&self) -> PageOwner {
        self.owner
    }

    /// The image.
    pub fn image(&self) -> &NewImage {
        &self.image
    }

    /// Clusters taken so far.
    pub fn taken_clusters(&self) -> u64 {
        self.taken
            .iter()
            .map(|extent| u64::from(extent.count))
            .sum()
    }

    /// Another one for the same image, with no cluster: for what is given back apart.
    pub(super) fn sibling(&self) -> Self {
        Self {
            id: self.id,
            owner: self.owner,
            image: self.image.clone(),
            taken: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, extent: Extent) {
        match self.taken.last_mut() {
            Some(last) if last.pcn.get() + last.count == extent.pcn.get() => {
                last.count += extent.count;
            }
            _ => self.taken.push(extent),
        }
    }
}

/// Ticks off the clusters of a ticket, each once.
pub(super) struct Ledger {
    /// Sorted by cluster, each with the number of clusters before it.
    extents: Vec<(Extent, usize)>,
    used: Vec<bool>,
}

impl Ledger {
    pub fn new(taken: &[Extent]) -> Self {
        let mut sorted = taken.to_vec();
        sorted.sort_by_key(|extent| extent.pcn);
        let mut before = 0;
        let extents = sorted
            .into_iter()
            .map(|extent| {
                let at = before;
                before += extent.count as usize;
                (extent, at)
            })
            .collect();
        Self {
            extents,
            used: vec![false; before],
        }
    }

    /// Notes that `pcn` is referred to.
    ///
    /// # Errors
    /// If the ticket does not have it, or it was referred to before: sealing that would hand one cluster to two owners.
    pub fn refer(&mut self, pcn: Pcn) -> Result<(), StoreError> {
        let after = self
            .extents
            .partition_point(|(extent, _)| extent.pcn <= pcn);
        let found = after
            .checked_sub(1)
            .and_then(|at| self.extents.get(at))
            .and_then(|(extent, before)| {
                let within = pcn.get() - extent.pcn.get();
                (within < extent.count).then_some(before + within as usize)
            });
        match found.and_then(|at| self.used.get_mut(at)) {
            Some(used) if !*used => {
                *used = true;
                Ok(())
            }
            _ => Err(StoreError::new(
                StoreErrorKind::Corrupt,
                format!("seal: cluster {pcn} is not the import's own, or is named twice"),
                "report this: the import was planned wrongly; nothing was changed on the disk",
            )
            .at(pcn.offset())),
        }
    }

    /// Clusters that nothing refers to.
    pub fn unused(&self) -> impl Iterator<Item = Pcn> + '_ {
        self.extents.iter().flat_map(|(extent, before)| {
            let used = self.used.iter().skip(*before);
            extent
                .clusters()
                .zip(used)
                .filter(|(_, used)| !**used)
                .map(|(pcn, _)| pcn)
        })
    }
}
