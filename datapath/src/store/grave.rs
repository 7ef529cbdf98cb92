//! Graves: what is left of a deleted image as long as a disk that may have a copy was not seen since.

use uuid::Uuid;

use super::Store;
use super::error::{StoreError, StoreErrorKind};
use super::object::Object;
use crate::format::members::{MEMBERS_MAX, Members};
use crate::format::object::{ObjectKind, ObjectRecord, ObjectState};
use crate::format::text::Text;
use crate::format::tree::TREE_DIRS;
use crate::medium::Medium;
use crate::units::{Epoch, Pcn};

/// A deleted image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grave {
    /// The image.
    pub object_uuid: Uuid,
    /// What it was called, for people.
    pub name: String,
    /// Of its description when it was deleted.
    pub generation: u64,
    /// When it was deleted, for people.
    pub deleted_unix_s: u64,
    /// Disks that may still have a copy, sorted; at most [`MEMBERS_MAX`].
    pub pending: Vec<Uuid>,
}

/// A grave in its slot.
pub(super) struct GraveSlot {
    pub epoch: Epoch,
    pub grave: Grave,
}

impl GraveSlot {
    pub fn of_record(epoch: Epoch, record: &ObjectRecord) -> Self {
        Self {
            epoch,
            grave: Grave {
                object_uuid: record.object_uuid,
                name: record.name.as_str().to_owned(),
                generation: record.generation,
                deleted_unix_s: record.created_unix_s,
                pending: record.member_disks.as_slice().to_vec(),
            },
        }
    }
}

impl Grave {
    /// Of an image that is being deleted, with every disk but `here` to be told.
    pub fn of(image: &Object, here: Uuid, deleted_unix_s: u64) -> Self {
        let mut pending = image.member_disks.clone();
        pending.retain(|disk| *disk != here);
        Self {
            object_uuid: image.uuid,
            name: image.name.clone(),
            generation: image.generation,
            deleted_unix_s,
            pending,
        }
    }

    /// The same grave on another disk, which is not among those to be told.
    pub(super) fn record_here(&self, here: Uuid) -> Option<ObjectRecord> {
        let others = self.pending.iter().copied().filter(|disk| *disk != here);
        Some(self.record(Members::new(others).ok()?))
    }

    fn record(&self, pending: Members) -> ObjectRecord {
        ObjectRecord {
            kind: ObjectKind::Grave,
            state: ObjectState::Complete,
            want_attached: false,
            loss_not_accepted: false,
            dev_id: None,
            object_uuid: self.object_uuid,
            replica_uuid: Uuid::nil(),
            parent_uuid: Uuid::nil(),
            generation: self.generation,
            size_bytes: 0,
            stored_clusters: 0,
            wanted_copies: 0,
            sha256: [0; 32],
            sha512: [0; 64],
            name: Text::cut(&self.name),
            source: Text::cut(""),
            created_unix_s: self.deleted_unix_s,
            map_dirs: [Pcn::NONE; TREE_DIRS],
            checksum_dirs: [Pcn::NONE; TREE_DIRS],
            member_disks: pending,
            copied_clusters: 0,
        }
    }
}

impl<M: Medium> Store<M> {
    /// The graves on this disk.
    pub fn graves(&self) -> impl Iterator<Item = &Grave> {
        self.graves.values().map(|slot| &slot.grave)
    }

    /// The grave of an image.
    pub fn grave(&self, uuid: Uuid) -> Option<&Grave> {
        self.graves().find(|grave| grave.object_uuid == uuid)
    }

    /// Notes durably that an image is deleted, and which disks may still have a copy; or takes disks off, or adds some, if that is noted.
    ///
    /// If this disk has a copy, its slot becomes the grave, in one change: the copy is gone with it, and its clusters are free. The caller
    /// has no more I/O to them in flight. This disk is never among those to be told.
    ///
    /// # Errors
    /// `Busy` if clones on this disk stand on the copy, or it is being made (abort that first); `BadDescription` for more than
    /// [`MEMBERS_MAX`] disks; `TableFull`, `ReadOnlyLatched`; `Io`, and then it is not known whether the image is deleted before the disk is
    /// opened again.
    pub fn bury(&mut self, grave: &Grave) -> Result<(), StoreError> {
        self.check_writable()?;
        self.settle()?;
        let (here, uuid) = (self.disk_uuid(), grave.object_uuid);
        let others = grave.pending.iter().copied().filter(|disk| *disk != here);
        let pending = Members::new(others).map_err(|error| {
            let remedy = "report this with the daemon's log; nothing was changed";
            let context = format!(
                "grave of image {} ({uuid}): {error}; at most {MEMBERS_MAX} disks are told",
                grave.name
            );
            StoreError::new(StoreErrorKind::BadDescription, context, remedy).of_object(uuid)
        })?;
        let known = self
            .graves
            .iter()
            .find(|(_, slot)| slot.grave.object_uuid == uuid)
            .map(|(slot, known)| (*slot, known.epoch));
        let copy = self.object(uuid);
        if let Some(copy) = copy.filter(|copy| copy.kind != ObjectKind::ImageReplica) {
            let context = format!("{} {} has no copies to be told of", copy.noun(), copy.name);
            let remedy = "name an image: bedplate image list";
            return Err(StoreError::new(StoreErrorKind::NotFound, context, remedy).of_object(uuid));
        }
        let copy_slot = copy.map(|copy| copy.slot);
        if let Some(slot) = copy_slot.filter(|_| known.is_none()) {
            self.check_removable(uuid, slot, false)?;
        }
        let record = grave.record(pending);
        let doing = format!("noting that image {} ({uuid}) is deleted", grave.name);
        let (slot, epoch) = match (known, copy_slot) {
            (Some((slot, epoch)), _) => {
                if self
                    .graves
                    .get(&slot)
                    .is_some_and(|known| known.grave.pending == record.member_disks.as_slice())
                {
                    // It is noted. A copy that is here besides goes by `remove_replica`.
                    return Ok(());
                }
                (slot, epoch)
            }
            (None, copy) => {
                let slot = match copy {
                    Some(slot) => slot,
                    None => self.free_slot()?,
                };
                // The former owner's pages carry its epoch.
                let epoch = Epoch::new(self.history_of(slot).epoch.get().wrapping_add(1));
                (slot, epoch)
            }
        };
        self.use_replicas(&doing)?;

        // 1. The slot is the grave, in both copies, durably. From the first one on the image is deleted.
        self.change_slot(slot, epoch, Some(record.clone()), &doing)?;

        // 2. Only then is the space of a copy that had the slot. Before, an import that got it would write into clusters that the copy
        //    still owns if the power fails.
        self.graves
            .insert(slot, GraveSlot::of_record(epoch, &record));
        if known.is_none() {
            self.forget_entry(slot)?;
        }
        Ok(())
    }

    /// Removes a grave, durably: every disk that could have had a copy was told, or an operator says that it never comes back.
    ///
    /// # Errors
    /// `NotFound`, `ReadOnlyLatched`, `Io`.
    pub fn unbury(&mut self, uuid: Uuid) -> Result<(), StoreError> {
        self.check_writable()?;
        let slot = self
            .graves
            .iter()
            .find(|(_, slot)| slot.grave.object_uuid == uuid)
            .map(|(slot, _)| *slot)
            .ok_or_else(|| {
                let context = format!("no grave of {uuid} on disk {}", self.disk_uuid());
                StoreError::new(StoreErrorKind::NotFound, context, "nothing to do").of_object(uuid)
            })?;
        let epoch = Epoch::new(self.history_of(slot).epoch.get().wrapping_add(1));
        self.change_slot(slot, epoch, None, &format!("removing the grave of {uuid}"))?;
        self.graves.remove(&slot);
        Ok(())
    }
}
