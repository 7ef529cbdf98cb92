//! What is there after a recovery, compared with what may be there.

use std::sync::Arc;

use bedplate_datapath::store::ObjectKind;
use uuid::Uuid;

use super::{DISK, Halt, IMAGE, IMAGE_UUID, Image, Node};
use crate::sim::disk::Crash;
use crate::sim::volumes::oracle::{Rule, Which};
use crate::sim::volumes::word::SECTOR;

impl Node {
    /// Which volumes are there, and how they are described.
    pub(super) fn compare(&mut self) -> Result<(), Halt> {
        let objects: Vec<_> = self.store()?.objects().cloned().collect();
        for object in objects
            .iter()
            .filter(|object| object.kind == ObjectKind::Volume)
        {
            let Some(known) = self
                .known
                .iter_mut()
                .find(|known| known.uuid == object.uuid && !known.gone)
            else {
                return Err(Halt::Violation(format!(
                    "volume {} is there and must not be",
                    object.name
                )));
            };
            let sectors = usize::try_from(object.size_bytes).unwrap_or(usize::MAX) / SECTOR;
            let parent = known.is_clone.then_some(IMAGE_UUID);
            let fits = object.name == known.name
                && object.state.is_ready()
                && object.parent == parent
                && known.sizes.contains(&sectors)
                && known.wanted.contains(&object.want_attached)
                && object.dev_id.is_none_or(|dev_id| dev_id == known.dev_id)
                && (!object.loss_not_accepted || known.lost || self.may_lose);
            if !fits {
                return Err(Halt::Violation(format!(
                    "{known:?} was made, and this is there: {object:?}"
                )));
            }
            known.may_be_absent = false;
            known.sizes = vec![sectors];
            known.wanted = vec![object.want_attached];
            if object.loss_not_accepted && known.flushed && !self.has_failed {
                return Err(Halt::Violation(format!(
                    "{} is held, though all of it was flushed",
                    known.name
                )));
            }
            known.lost = object.loss_not_accepted;
            known.doubtful |= known.lost;
        }
        let image_is_there = objects.iter().any(|object| object.uuid == IMAGE_UUID);
        if !self.known.is_empty() || self.image != Image::There {
            self.image = match (self.image, image_is_there) {
                (Image::There | Image::PerhapsDeleted, true) => Image::There,
                (Image::Deleted | Image::PerhapsDeleted, false) => Image::Deleted,
                (expected, there) => {
                    return Err(Halt::Violation(format!(
                        "the image is {expected:?}, and found: {there}"
                    )));
                }
            };
        }
        for known in self.known.iter_mut().filter(|known| !known.gone) {
            if objects.iter().any(|object| object.uuid == known.uuid) {
                continue;
            }
            if !known.may_be_absent {
                return Err(Halt::Violation(format!(
                    "{} was acknowledged and is not there",
                    known.name
                )));
            }
            known.gone = true;
        }
        Ok(())
    }

    /// No cluster has two owners, and none that has one is free. With `free`, no cluster is lost either.
    pub(super) fn check_owners(&mut self, free: Option<u64>) -> Result<(), Halt> {
        let volumes = self.volumes();
        let uuids: Vec<Uuid> = volumes.iter().map(|at| self.known[*at].uuid).collect();
        // Before that nothing is known to be free, and nothing is handed out.
        let settled = self.settled;
        let store = self.store()?;
        let space = Arc::clone(store.disk_space());
        let mut owned = std::collections::BTreeSet::new();
        for uuid in uuids.into_iter().chain([IMAGE_UUID]) {
            let Ok(layers) = store.layers_of(uuid, DISK) else {
                // Held, or not imported yet.
                continue;
            };
            for entry in layers.layers[0].map.iter() {
                let pcn = entry.pcn();
                if !pcn.is_none() && (!owned.insert(pcn) || settled && space.is_free(pcn)) {
                    return Err(Halt::Violation(format!(
                        "cluster {pcn} of object {uuid} is free, or has two owners"
                    )));
                }
            }
        }
        if let Some(free) = free {
            let now = store.free_clusters();
            if now != free {
                return Err(Halt::Violation(format!(
                    "{free} clusters were free, and now {now} are"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn check_content(&mut self) -> Result<(), Halt> {
        for volume in self.volumes() {
            let known = &self.known[volume];
            if known.lost {
                continue;
            }
            let (uuid, which) = (known.uuid, known.which);
            let kept = (self.powerless && !known.flushed) || known.doubtful;
            self.read_back(uuid, which, kept, kept)?;
            self.known[volume].doubtful = false;
        }
        if self.known.is_empty() || self.image == Image::Deleted {
            return Ok(());
        }
        // The image below is as it was.
        let layers = self.store()?.layers_of(IMAGE_UUID, DISK);
        let layers = layers.map_err(|error| self.judge("reading the image back", &error))?;
        self.front
            .borrow_mut()
            .read_image_back(&layers, IMAGE)
            .map_err(Halt::Violation)
    }

    pub(super) fn read_back(
        &mut self,
        uuid: Uuid,
        which: Which,
        kept: bool,
        settle: bool,
    ) -> Result<(), Halt> {
        let layers = match self.store()?.layers_of(uuid, DISK) {
            Ok(layers) => layers,
            Err(error) => return Err(self.judge("reading back", &error)),
        };
        let mut front = self.front.borrow_mut();
        let rule = if kept {
            Rule::Kept
        } else {
            Rule::Seen {
                since: front.oracle.tick(),
            }
        };
        front.read_back(which, &layers, rule, settle)?;
        Ok(())
    }

    /// Everything ends and is committed: then the same clusters are free after a restart.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn check_idle(&mut self) -> Result<(), Halt> {
        self.front.borrow_mut().to_issue = 0;
        self.drain(None)?;
        self.give_space()?;
        // The second one frees what the requests that ended during the first one had dropped.
        self.commit()?;
        self.commit()?;
        let store = self.store()?;
        if store.needs_commit() {
            return Err(Halt::Violation(
                "something is left to commit, with nothing in flight".to_owned(),
            ));
        }
        let free = store.free_clusters();
        self.check_owners(None)?;
        self.check_content()?;
        if self.front.borrow().counts.refused > 0 || self.leaky {
            return Ok(());
        }
        self.crash(Crash::Process);
        self.open()?;
        self.commit()?;
        self.check_owners(Some(free))
    }
}
