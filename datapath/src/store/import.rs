//! The start of an import, its space, and its giving up. All of it in memory only.

use super::error::{StoreError, StoreErrorKind};
use super::ticket::{ImportTicket, NewImage, PageOwner};
use super::{ReplicaState, Reservation, Store};
use crate::alloc::Extent;
use crate::format::object::{IMAGE_BYTES_MAX, NAME_BYTES_MAX};
use crate::medium::Medium;
use crate::units::{Epoch, SlotIndex};
use crate::volume::Unavailable;
use uuid::Uuid;

/// Whether `name` is legal: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
///
/// # Errors
/// `BadName`.
pub fn check_name(name: &str) -> Result<(), StoreError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let starts = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts && name.len() <= NAME_BYTES_MAX && name.bytes().all(legal) {
        return Ok(());
    }
    Err(StoreError::new(
        StoreErrorKind::BadName,
        format!("illegal name {name:?}"),
        "use 1 to 128 letters, digits, '.', '_' and '-', beginning with a letter or digit",
    ))
}

impl<M: Medium> Store<M> {
    /// Reserves a slot and the name. Nothing is written: a crash before the seal leaves no trace.
    ///
    /// # Errors
    /// `BadName`, `NameTaken`, `TooLarge`, `TableFull`, `ReadOnlyLatched`, and `AllocationRefused` while objects could not be read.
    pub fn begin_import(&mut self, image: NewImage) -> Result<ImportTicket, StoreError> {
        check_name(&image.name)?;
        self.check_writable()?;
        self.settle()?;
        self.check_allocation()?;
        if image
            .size_bytes
            .is_some_and(|size_bytes| size_bytes > IMAGE_BYTES_MAX)
        {
            return Err(too_large(&image.name));
        }
        self.check_free_name(&image.name, image.object_uuid)?;
        let slot = self.free_slot()?;
        let epoch = Epoch::new(self.history_of(slot).epoch.get().wrapping_add(1));
        let id = self.next_ticket;
        self.next_ticket += 1;
        let reservation = Reservation {
            ticket: id,
            name: image.name.clone(),
            uuid: image.object_uuid,
        };
        self.reserved.insert(slot, reservation);
        let owner = PageOwner {
            disk_uuid: self.disk_uuid(),
            slot,
            epoch,
        };
        Ok(ImportTicket {
            id,
            owner,
            image,
            taken: Vec::new(),
        })
    }

    /// Takes clusters that follow each other, at least one and at most `clusters`.
    ///
    /// # Errors
    /// `NoSpace`, `ReadOnlyLatched`, `AllocationRefused`.
    pub fn allocate(
        &mut self,
        ticket: &mut ImportTicket,
        clusters: u32,
    ) -> Result<Extent, StoreError> {
        self.check_writable()?;
        self.check_allocation()?;
        let doing = format!("importing {}", ticket.image.name);
        let extent = self
            .take_clusters(clusters, &doing)
            .map_err(|error| error.of_object(ticket.image.object_uuid))?;
        ticket.take(extent);
        Ok(extent)
    }

    /// Takes clusters that follow each other, at least one and at most `clusters`.
    pub(super) fn take_clusters(&self, clusters: u32, doing: &str) -> Result<Extent, StoreError> {
        self.space.take(clusters).map_err(|why| {
            let what = match why {
                Unavailable::Full => "none free",
                Unavailable::Soon => "none free now",
                Unavailable::Refused => "none handed out",
            };
            let context = format!(
                "disk {} is full: {} clusters of 128 KiB, {what}, while {doing}",
                self.disk_uuid(),
                self.total_clusters(),
            );
            StoreError::new(
                StoreErrorKind::NoSpace,
                context,
                "delete an image or volume, discard what volumes do not need (fstrim), or use a larger disk",
            )
        })
    }

    /// A slot that holds nothing, and that no import has.
    pub(super) fn free_slot(&self) -> Result<SlotIndex, StoreError> {
        let slots = self.geometry().slots();
        (0..slots)
            .map(SlotIndex::new)
            .find(|slot| {
                !self.entries.contains_key(slot)
                    && !self.reserved.contains_key(slot)
                    && !self.graves.contains_key(slot)
            })
            .ok_or_else(|| {
                let context = format!("all {slots} slots of disk {} are in use", self.disk_uuid());
                StoreError::new(
                    StoreErrorKind::TableFull,
                    context,
                    "delete an image or volume, or use another disk",
                )
            })
    }

    /// Refuses a name or UUID that an object or an import on this disk has.
    pub(super) fn check_free_name(&self, name: &str, uuid: Uuid) -> Result<(), StoreError> {
        let taken = |other: &str, other_uuid: Uuid| other == name || other_uuid == uuid;
        let is_taken = self
            .objects()
            .any(|object| taken(&object.name, object.uuid))
            || self
                .reserved
                .values()
                .any(|import| taken(&import.name, import.uuid))
            // The name of what was deleted is free, its UUID never again.
            || self.grave(uuid).is_some();
        if !is_taken {
            return Ok(());
        }
        let context = format!("the name {name} is taken on disk {}", self.disk_uuid());
        Err(StoreError::new(
            StoreErrorKind::NameTaken,
            context,
            "choose another name, or delete what has it",
        ))
    }

    /// Gives back all that an import reserved. The caller has no more writes to its clusters in flight.
    pub fn abort(&mut self, ticket: ImportTicket) {
        if self
            .reserved
            .get(&ticket.owner.slot)
            .is_some_and(|import| import.ticket == ticket.id)
        {
            self.reserved.remove(&ticket.owner.slot);
            for extent in ticket.taken {
                self.give_back(extent);
            }
        }
    }

    /// Makes clusters free that this store took or found referred to, each once.
    pub(super) fn give_back(&mut self, extent: Extent) {
        self.space.give(extent);
    }

    /// As long as an object could not be read it is not known which clusters are its own.
    pub(super) fn check_allocation(&self) -> Result<(), StoreError> {
        let held = self.objects().find_map(|object| match &object.state {
            ReplicaState::Failed(damage) => Some((object, damage)),
            ReplicaState::Ready | ReplicaState::Building { .. } => None,
        });
        let Some((object, damage)) = held else {
            return Ok(());
        };
        let context = format!(
            "nothing is allocated on disk {}: {} {} ({}) could not be read, and its clusters are not all known: {damage}",
            self.disk_uuid(),
            object.noun(),
            object.name,
            object.uuid
        );
        Err(StoreError::new(
            StoreErrorKind::AllocationRefused,
            context,
            "if the disk was at fault, cure it, and `bedplate image recheck NAME` (a volume: restart the daemon). Otherwise copy the disk if its \
             content matters; then, of an image that is Ready elsewhere, `bedplate image delete NAME --failed-copies`, else delete it",
        )
        .of_object(object.uuid)
        .at(damage.disk_offset()))
    }
}

pub(super) fn too_large(name: &str) -> StoreError {
    let context = format!("image {name} is larger than {IMAGE_BYTES_MAX} bytes");
    StoreError::new(
        StoreErrorKind::TooLarge,
        context,
        "split it, or import it as a volume",
    )
}
