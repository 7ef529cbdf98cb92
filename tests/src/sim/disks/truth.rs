//! What must be on several disks, counted from what was acknowledged and never from what the code under test says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bedplate_datapath::catalogue::{Catalogue, CatalogueState};
use bedplate_datapath::medium::Medium;
use bedplate_datapath::store::{ObjectKind, ReplicaState, Store};
use uuid::Uuid;

use crate::sim::content::Content;
use crate::sim::node;

/// What is known of one disk. Goes with a copy of it.
#[derive(Clone, Debug, Default)]
pub struct DiskTruth {
    /// Whole copies: true if it was acknowledged, false while it may be there or not.
    pub held: BTreeMap<Uuid, bool>,
    /// Deleted images that this disk was told of, or was there for.
    pub told: BTreeSet<Uuid>,
    /// How far it is: counts what it was part of.
    pub moment: u64,
    /// How far others were when it met them, or met who had met them.
    pub knows: BTreeMap<Uuid, u64>,
    /// The same of meetings that may have been cut short by a crash.
    pub may_know: BTreeMap<Uuid, u64>,
}

/// Whether an image is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It lives.
    No,
    /// It was on its way when something crashed; these disks had copies and were there.
    Maybe(BTreeSet<Uuid>),
    /// It was acknowledged, or seen.
    Yes,
}

/// An image.
#[derive(Clone, Debug)]
pub struct ImageTruth {
    /// Its bytes.
    pub content: Arc<Content>,
    /// Whether it is deleted.
    pub deleted: Deleted,
}

/// Everything that is known.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// By image.
    pub images: BTreeMap<Uuid, ImageTruth>,
    /// By disk.
    pub disks: BTreeMap<Uuid, DiskTruth>,
}

impl Truth {
    /// Disks that must be found to be old copies of themselves.
    pub fn stale(&self, present: &[Uuid]) -> BTreeSet<Uuid> {
        let is_stale = |disk: &&Uuid| {
            let own = self.disks.get(*disk).map_or(0, |truth| truth.moment);
            present
                .iter()
                .filter(|other| other != disk)
                .filter_map(|other| self.disks.get(other)?.knows.get(*disk))
                .any(|known| *known > own)
        };
        present.iter().filter(is_stale).copied().collect()
    }

    /// The disks are about to meet.
    pub fn meeting(&mut self, present: &[Uuid], moment: u64) {
        if present.len() < 2 {
            return;
        }
        let mut known: BTreeMap<Uuid, u64> = BTreeMap::new();
        for truth in present.iter().filter_map(|disk| self.disks.get(disk)) {
            for (other, at) in truth.knows.iter().chain(&truth.may_know) {
                let known = known.entry(*other).or_default();
                *known = (*known).max(*at);
            }
        }
        known.extend(present.iter().map(|disk| (*disk, moment)));
        for disk in present {
            self.disks
                .entry(*disk)
                .or_default()
                .may_know
                .clone_from(&known);
        }
    }

    /// Whether a disk may be found to be an old copy, since a meeting that it does not remember was begun.
    fn may_be_stale(&self, disk: Uuid, present: &[Uuid]) -> bool {
        let own = self.disks.get(&disk).map_or(0, |truth| truth.moment);
        present
            .iter()
            .filter(|other| **other != disk)
            .filter_map(|other| self.disks.get(other)?.may_know.get(&disk))
            .any(|known| *known > own)
    }

    /// The disks have met, and a merge came to its end.
    fn met(&mut self, believed: &BTreeSet<Uuid>, moment: u64) {
        if believed.len() < 2 {
            return;
        }
        let mut known = BTreeMap::new();
        for disk in believed {
            let Some(truth) = self.disks.get_mut(disk) else {
                continue;
            };
            truth.moment = moment;
            for (other, at) in &truth.knows {
                let known: &mut u64 = known.entry(*other).or_default();
                *known = (*known).max(*at);
            }
        }
        known.extend(believed.iter().map(|disk| (*disk, moment)));
        for disk in believed {
            if let Some(truth) = self.disks.get_mut(disk) {
                truth.knows.clone_from(&known);
            }
        }
    }

    /// Compares a catalogue without steps, and the disks it came from, with what must be there; narrows what may be to what is.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check<M: Medium>(
        &mut self,
        catalogue: &Catalogue,
        stores: &mut [Store<M>],
        moment: u64,
    ) -> Result<(), String> {
        let present: Vec<Uuid> = stores.iter().map(Store::disk_uuid).collect();
        let stale = self.stale(&present);
        let found: BTreeSet<Uuid> = catalogue.stale.iter().map(|stale| stale.disk).collect();
        if let Some(disk) = stale.difference(&found).next() {
            return Err(format!("disk {disk} is an old copy, and is believed"));
        }
        let wrong = |disk: &&Uuid| !self.may_be_stale(**disk, &present);
        if let Some(disk) = found.difference(&stale).find(wrong) {
            return Err(format!(
                "disk {disk} is taken for an old copy: {:?}",
                catalogue.stale
            ));
        }
        let believed: BTreeSet<Uuid> = present
            .iter()
            .filter(|disk| !found.contains(*disk))
            .copied()
            .collect();
        self.check_views(catalogue, &believed)?;
        let images: Vec<Uuid> = self.images.keys().copied().collect();
        for uuid in images {
            self.check_image(uuid, catalogue, &believed)?;
        }
        for store in stores {
            self.check_disk(store, believed.contains(&store.disk_uuid()))?;
        }
        self.met(&believed, moment);
        Ok(())
    }

    /// Nothing unknown is shown, and nothing of an old copy as current.
    fn check_views(&self, catalogue: &Catalogue, believed: &BTreeSet<Uuid>) -> Result<(), String> {
        for image in &catalogue.images {
            let Some(known) = self.images.get(&image.uuid) else {
                return Err(format!("image {} is there and must not be", image.uuid));
            };
            if image.object.sha256 != known.content.sha256
                || image.object.size_bytes != known.content.size_bytes
            {
                return Err(format!("image {} is not what was imported", image.uuid));
            }
            for replica in &image.replicas {
                let is_current = !matches!(
                    replica.state,
                    CatalogueState::Stale | CatalogueState::Unknown
                );
                if is_current && !believed.contains(&replica.disk) {
                    return Err(format!(
                        "image {} is {:?} on disk {}, which is not there or is stale",
                        image.uuid, replica.state, replica.disk
                    ));
                }
                if matches!(
                    replica.state,
                    CatalogueState::Failed(_) | CatalogueState::Foreign
                ) {
                    return Err(format!("image {}: {replica:?}", image.uuid));
                }
            }
        }
        Ok(())
    }

    fn check_image(
        &mut self,
        uuid: Uuid,
        catalogue: &Catalogue,
        believed: &BTreeSet<Uuid>,
    ) -> Result<(), String> {
        let shown: BTreeMap<Uuid, bool> = catalogue
            .images
            .iter()
            .filter(|image| image.uuid == uuid)
            .flat_map(|image| &image.replicas)
            .filter(|replica| believed.contains(&replica.disk))
            .filter(|replica| replica.replica_uuid.is_some())
            .map(|replica| (replica.disk, replica.state == CatalogueState::Ready))
            .collect();
        self.settle_deletion(uuid, &shown, believed);
        let deleted = self.images.get(&uuid).map(|image| image.deleted.clone());
        if deleted == Some(Deleted::Yes) {
            let told = |disk: &&Uuid| {
                self.disks
                    .get(*disk)
                    .is_some_and(|truth| truth.told.contains(&uuid))
            };
            if let Some(teller) = believed.iter().find(told) {
                if !shown.is_empty() {
                    return Err(format!(
                        "image {uuid} was deleted, disk {teller} was told, and it is back on {shown:?}"
                    ));
                }
                for disk in believed {
                    let truth = self.disks.entry(*disk).or_default();
                    // Who had a copy remembers the deletion, or all were told.
                    if truth.held.remove(&uuid).is_some() {
                        truth.told.insert(uuid);
                    }
                }
            }
        }
        for disk in believed {
            let truth = self.disks.entry(*disk).or_default();
            let is_ready = shown.get(disk).copied().unwrap_or(false);
            let was_sure = truth.held.get(&uuid) == Some(&true);
            if is_ready {
                truth.held.insert(uuid, true);
            } else if was_sure && deleted == Some(Deleted::No) {
                return Err(format!(
                    "the copy of image {uuid} on disk {disk} is gone: {shown:?}"
                ));
            } else {
                truth.held.remove(&uuid);
            }
        }
        Ok(())
    }

    /// What became of a deletion that was cut short.
    fn settle_deletion(
        &mut self,
        uuid: Uuid,
        shown: &BTreeMap<Uuid, bool>,
        believed: &BTreeSet<Uuid>,
    ) {
        let Some(image) = self.images.get_mut(&uuid) else {
            return;
        };
        let Deleted::Maybe(there) = &image.deleted else {
            return;
        };
        if shown.is_empty() && there.iter().any(|disk| believed.contains(disk)) {
            for disk in there.iter().filter(|disk| believed.contains(*disk)) {
                self.disks.entry(*disk).or_default().told.insert(uuid);
            }
            image.deleted = Deleted::Yes;
        } else if !shown.is_empty() && there.is_subset(believed) {
            image.deleted = Deleted::No;
        }
    }

    /// Bytes and space of one disk.
    fn check_disk<M: Medium>(&self, store: &mut Store<M>, is_believed: bool) -> Result<(), String> {
        let disk = store.disk_uuid();
        let mut owned = 0;
        let mut ready = Vec::new();
        for object in store
            .objects()
            .filter(|one| one.kind == ObjectKind::ImageReplica)
        {
            let Some(known) = self.images.get(&object.uuid) else {
                return Err(format!("disk {disk} has an unknown image {}", object.uuid));
            };
            let clusters = object.stored_clusters + object.tree_clusters;
            owned += clusters;
            match object.state {
                ReplicaState::Ready if clusters != known.content.clusters_on_disk() => {
                    return Err(format!(
                        "the copy of image {} on disk {disk} takes {clusters} clusters, not {}",
                        object.uuid,
                        known.content.clusters_on_disk()
                    ));
                }
                ReplicaState::Ready => ready.push((object.uuid, Arc::clone(&known.content))),
                ReplicaState::Building { .. } => {}
                ReplicaState::Failed(_) => {
                    return Err(format!("disk {disk}: {object:?}"));
                }
            }
        }
        let (free, total) = (store.free_clusters(), store.total_clusters());
        if free + owned != total {
            return Err(format!(
                "space is lost on disk {disk}: {free} free + {owned} owned, of {total}"
            ));
        }
        if !is_believed {
            return Ok(());
        }
        for (uuid, content) in ready {
            let bytes = node::read_image(store, uuid, content.size_bytes)
                .map_err(|error| format!("image {uuid} on disk {disk}: {error}"))?;
            if bytes != node::expected_bytes(&content) {
                return Err(format!(
                    "the copy of image {uuid} on disk {disk} has other bytes"
                ));
            }
            let report = node::verify(store, uuid).map_err(|error| error.to_string())?;
            if !report.is_good() {
                return Err(format!(
                    "the copy of image {uuid} on disk {disk}: {report:?}"
                ));
            }
        }
        Ok(())
    }
}
