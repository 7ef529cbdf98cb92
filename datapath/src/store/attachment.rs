//! Whether an image is to be attached, and under which device number.

use uuid::Uuid;

use super::error::{StoreError, StoreErrorKind};
use super::{Store, not_served};
use crate::format::object::ObjectKind;
use crate::medium::Medium;
use crate::units::DevId;

impl<M: Medium> Store<M> {
    /// Notes durably that an object has the device number `dev_id`, and whether it is to be attached whenever the disk is
    /// online. The number is kept for the object's lifetime.
    ///
    /// # Errors
    /// `NotFound`; `BadDescription` for an image with copies on other disks, which are told by [`Store::set_description`]; `Corrupt` if the
    /// object is not Ready; `DevIdFixed` if it has another number; `ReadOnlyLatched`; `Io`.
    pub fn set_attachment(
        &mut self,
        uuid: Uuid,
        dev_id: DevId,
        want_attached: bool,
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        let entry = self.entry(uuid)?;
        let object = &entry.object;
        let Some(record) = entry.record.as_ref().filter(|_| object.state.is_ready()) else {
            return Err(not_served(object, &object.state));
        };
        if let Some(kept) = object.dev_id.filter(|kept| *kept != dev_id) {
            let context = format!(
                "{} {} ({uuid}) keeps device number {kept}, not {dev_id}",
                object.noun(),
                object.name
            );
            let remedy =
                "attach it under its own number; find out who has that number: bedplate doctor";
            return Err(
                StoreError::new(StoreErrorKind::DevIdFixed, context, remedy).of_object(uuid)
            );
        }
        if !record.member_disks.is_empty() {
            // Without a new generation on all of them, the next merge could take this back.
            let context = format!("image {} ({uuid}) has copies on other disks", object.name);
            let remedy = "report this with the daemon's log; nothing was changed";
            return Err(
                StoreError::new(StoreErrorKind::BadDescription, context, remedy).of_object(uuid),
            );
        }
        let is_volume = object.kind == ObjectKind::Volume;
        if object.dev_id == Some(dev_id) && object.want_attached == want_attached {
            if is_volume && !want_attached {
                // It may have been written to before the wish was durable.
                let dropped = self.commit()?;
                self.space.put_back(dropped);
                return self.retire_live(uuid);
            }
            return Ok(());
        }
        let mut record = record.clone();
        record.dev_id = Some(dev_id);
        record.want_attached = want_attached;
        let (slot, epoch) = (object.slot, object.epoch);
        if is_volume && !want_attached && !object.loss_not_accepted {
            // Before the wish is gone: without it, nobody looks for a live file after a crash.
            let quarantine = self.commit()?;
            // Its own device is gone, but those of others may have requests in flight: the next commit of theirs brings these along.
            self.space.put_back(quarantine);
        }
        self.change_slot(
            slot,
            epoch,
            Some(record.clone()),
            &format!("noting the attachment of object {uuid}"),
        )?;
        if let Some(entry) = self.entries.get_mut(&slot) {
            entry.object.dev_id = Some(dev_id);
            entry.object.want_attached = want_attached;
            entry.record = Some(record);
        }
        if is_volume && !want_attached {
            self.retire_live(uuid)?;
        }
        Ok(())
    }
}
