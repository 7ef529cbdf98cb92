//! The start of an import, its space, and its giving up. All of it in memory only.

use super::error::{StoreError, StoreErrorKind};
use super::ticket::{ImportTicket, NewImage, PageOwner};
use super::{ReplicaState, Reservation, Store};
use crate::alloc::Extent;
use crate::format::object::{IMAGE_BYTES_MAX, NAME_BYTES_MAX};
use crate::medium::Medium;
use crate::units::{Epoch, SlotIndex};

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
        self.check_allocation()?;
        if image
            .size_bytes
            .is_some_and(|size_bytes| size_bytes > IMAGE_BYTES_MAX)
        {
            return Err(too_large(&image.name));
        }
        let taken = |name: &str, uuid| name == image.name || uuid == image.object_uuid;
        if self
            .objects()
            .any(|object| taken(&object.name, object.uuid))
            || self
                .reserved
                .values()
                .any(|import| taken(&import.name, import.uuid))
        {
            let context = format!(
                "the name {} is taken on disk {}",
                image.name,
                self.disk_uuid()
            );
            return Err(StoreError::new(
                StoreErrorKind::NameTaken,
                context,
                "choose another name, or delete the image that has it",
            ));
        }
        let slots = self.geometry().slots();
        let slot = (0..slots)
            .map(SlotIndex::new)
            .find(|slot| !self.entries.contains_key(slot) && !self.reserved.contains_key(slot))
            .ok_or_else(|| {
                let context = format!("all {slots} slots of disk {} are in use", self.disk_uuid());
                StoreError::new(
                    StoreErrorKind::TableFull,
                    context,
                    "delete an image, or use another disk",
                )
            })?;
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
        let extent = self.space.allocate(clusters).ok_or_else(|| {
            let context = format!(
                "disk {} is full: {} clusters of 128 KiB, none free, while importing {}",
                self.disk_uuid(),
                self.total_clusters(),
                ticket.image.name
            );
            StoreError::new(
                StoreErrorKind::NoSpace,
                context,
                "delete an image, or use a larger disk",
            )
            .of_object(ticket.image.object_uuid)
        })?;
        ticket.take(extent);
        Ok(extent)
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
        let released = self.space.release(extent);
        debug_assert!(released.is_ok(), "{released:?}");
    }

    /// As long as an object could not be read it is not known which clusters are its own.
    pub(super) fn check_allocation(&self) -> Result<(), StoreError> {
        let held = self.objects().find_map(|object| match &object.state {
            ReplicaState::Failed(damage) => Some((object, damage)),
            ReplicaState::Ready => None,
        });
        let Some((object, damage)) = held else {
            return Ok(());
        };
        let context = format!(
            "nothing is allocated on disk {}: image {} ({}) could not be read, and its clusters are not all known: {damage}",
            self.disk_uuid(),
            object.name,
            object.uuid
        );
        Err(StoreError::new(
            StoreErrorKind::AllocationRefused,
            context,
            "copy the disk if the image's content matters, then delete that image",
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
