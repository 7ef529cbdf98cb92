//! The description of an image: what may change of it, written to every copy with a generation. See `docs/replicas.md`.

use uuid::Uuid;

use super::error::{StoreError, StoreErrorKind};
use super::object::{Damage, Object, ReplicaState};
use super::{Store, superblocks};
use crate::format::members::Members;
use crate::format::object::ObjectKind;
use crate::medium::Medium;
use crate::units::{DevId, Seq};

/// What may change of an image. The description of the highest generation holds, over all copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Goes up with every change.
    pub generation: u64,
    /// Copies wanted, at least one.
    pub wanted_copies: u32,
    /// Every disk that has, or is about to get, a copy: 1 to [`MEMBERS_MAX`](crate::format::members::MEMBERS_MAX), in any order.
    pub member_disks: Vec<Uuid>,
    /// The ublk device number that the image keeps.
    pub dev_id: Option<DevId>,
    /// Whether it is to be attached.
    pub want_attached: bool,
}

impl Description {
    /// Whether two descriptions say the same, whatever their generations.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let content = |one: &Self| {
            let mut members = one.member_disks.clone();
            members.sort_unstable();
            members.dedup();
            (one.wanted_copies, members, one.dev_id, one.want_attached)
        };
        content(self) == content(other)
    }
}

impl Object {
    /// The description that this copy carries.
    pub fn description(&self) -> Description {
        Description {
            generation: self.generation,
            wanted_copies: self.wanted_copies,
            member_disks: self.member_disks.clone(),
            dev_id: self.dev_id,
            want_attached: self.want_attached,
        }
    }
}

/// The disks that a slot on `disk` names.
pub(super) fn members_of(disk: Uuid, stored: &Members) -> Vec<Uuid> {
    if stored.is_empty() {
        return vec![disk];
    }
    stored.as_slice().to_vec()
}

/// What a slot on `disk` stores of them. One that names only itself names none, so that a disk without copies elsewhere opens with versions
/// that know of none, and stays right when the disk gets another UUID.
pub(super) fn stored_members(disk: Uuid, members: &[Uuid]) -> Result<Members, StoreError> {
    let bad = |context: String| {
        let remedy = "report this with the daemon's log; nothing was changed";
        StoreError::new(StoreErrorKind::BadDescription, context, remedy)
    };
    if !members.contains(&disk) {
        return Err(bad(format!(
            "the description does not name disk {disk}, which has or gets a copy"
        )));
    }
    if members.iter().all(|member| *member == disk) {
        return Ok(Members::NONE);
    }
    Members::new(members.iter().copied()).map_err(|error| bad(error.to_string()))
}

impl<M: Medium> Store<M> {
    /// Gives this disk's copy of an image another description, durably: one slot change. It is there already: nothing is written.
    ///
    /// # Errors
    /// `NotFound`; `Stale` if it is not newer than what the copy has; `BadDescription` if it wants no copy, names too many disks, or not
    /// this one; `Corrupt` if the slot cannot be read; `ReadOnlyLatched`, `Io`.
    pub fn set_description(
        &mut self,
        uuid: Uuid,
        description: &Description,
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        let entry = self.entry(uuid)?;
        let object = &entry.object;
        let ambiguous = matches!(
            object.state,
            ReplicaState::Failed(Damage::Duplicate { .. } | Damage::UnknownObject { .. })
        );
        let Some(record) = entry.record.as_ref().filter(|_| !ambiguous) else {
            return Err(super::not_served(object, &object.state));
        };
        if object.kind != ObjectKind::ImageReplica {
            let context = format!("{} {} has one copy only", object.noun(), object.name);
            let remedy = "name an image: bedplate image list";
            return Err(StoreError::new(StoreErrorKind::NotFound, context, remedy).of_object(uuid));
        }
        let member_disks = stored_members(self.disk_uuid(), &description.member_disks)
            .map_err(|error| error.of_object(uuid))?;
        if description.wanted_copies == 0 {
            let context = format!("image {} ({uuid}) shall have no copy", object.name);
            let remedy = "want at least one copy, or delete the image";
            return Err(
                StoreError::new(StoreErrorKind::BadDescription, context, remedy).of_object(uuid),
            );
        }
        let known = object.description();
        if description.generation == known.generation && description.says_the_same(&known) {
            return Ok(());
        }
        if description.generation <= known.generation {
            let context = format!(
                "a description of generation {} for image {} ({uuid}) on disk {}, which has generation {}",
                description.generation,
                object.name,
                self.disk_uuid(),
                known.generation
            );
            let remedy = "look at the image again, and change what it is now";
            return Err(StoreError::new(StoreErrorKind::Stale, context, remedy).of_object(uuid));
        }
        let mut record = record.clone();
        record.generation = description.generation;
        record.wanted_copies = description.wanted_copies;
        record.member_disks = member_disks;
        record.dev_id = description.dev_id;
        record.want_attached = description.want_attached;
        let (slot, epoch) = (object.slot, object.epoch);
        let doing = format!("describing image {}", object.name);
        if !record.member_disks.is_empty() {
            self.use_replicas(&doing)?;
        }
        self.change_slot(slot, epoch, Some(record.clone()), &doing)?;
        let members = members_of(self.disk_uuid(), &record.member_disks);
        if let Some(entry) = self.entries.get_mut(&slot) {
            entry.object.generation = record.generation;
            entry.object.wanted_copies = record.wanted_copies;
            entry.object.member_disks = members;
            entry.object.dev_id = record.dev_id;
            entry.object.want_attached = record.want_attached;
            entry.record = Some(record);
        }
        Ok(())
    }

    /// Notes in the superblock that the disk has what only versions that know of replicas understand. Before the first such slot: an
    /// older version would otherwise open the disk after a crash in between, and serve what it does not understand.
    pub(super) fn use_replicas(&mut self, doing: &str) -> Result<(), StoreError> {
        self.use_feature(crate::format::superblock::INCOMPAT_REPLICAS, doing)
    }

    /// Sets bits of `incompat`, durably, if they are not set.
    pub(super) fn use_feature(&mut self, feature: u64, doing: &str) -> Result<(), StoreError> {
        if self.superblock.incompat & feature == feature {
            return Ok(());
        }
        self.superblock.incompat |= feature;
        self.write_superblock(doing)
    }

    /// Makes what was changed of the superblock the disk's state.
    pub(super) fn write_superblock(&mut self, doing: &str) -> Result<(), StoreError> {
        self.superblock.generation = Seq::new(self.superblock.generation.get() + 1);
        superblocks::write(&mut self.disk, &self.superblock)
            .map_err(|fault| StoreError::io(doing, fault))
    }
}
