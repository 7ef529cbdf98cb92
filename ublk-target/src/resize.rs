//! A volume that grew: its device grows with it, under whoever has it open.
//!
//! First every reactor gets the longer layers and the longer volume, then the kernel the new length: no request beyond the old end
//! reaches a reactor that knows only the old volume.

use bedplate_datapath::plan::Layer;
use bedplate_datapath::units::{DevId, SECTOR_BYTES};

use crate::attach::whole_blocks;
use crate::backing::Backing;
use crate::error::TargetError;
use crate::params::DiskLimits;
use crate::sys::Features;
use crate::target::{DeviceEntry, DiskEntry, Target, ask_each, locked};

impl Target {
    /// Whether the kernel can change the length of a device that is up.
    pub fn can_resize(&self) -> bool {
        self.support.features.contains(Features::UPDATE_SIZE)
    }

    /// Gives a device that is served here the longer layers and the longer volume in `backing`, which is what it has, grown: the same
    /// volume on the same disks. Then its block device becomes as long. Requests in flight go on.
    ///
    /// # Errors
    /// [`TargetError::KernelTooOld`] where the kernel cannot, and nothing is changed; [`TargetError::NotFound`];
    /// [`TargetError::Busy`] if another operation changes the device; [`TargetError::Mismatch`] if `backing` is shorter, or not what the
    /// device has; what the kernel answered: the reactors have the new layers then, the device its old length.
    pub fn resize(&self, dev_id: DevId, backing: Backing) -> Result<(), TargetError> {
        if !self.can_resize() {
            return Err(TargetError::KernelTooOld {
                lacks: "UBLK_F_UPDATE_SIZE",
            });
        }
        self.change_served(dev_id, backing, Self::grow)
    }

    /// Gives a device that is served here the layers in `backing`: of the same length and with the same volume, over other replicas.
    /// Requests in flight go on with the ones they have: a disk that is not among the new ones is read until a grace period
    /// ([`Target::after_grace`]) is over.
    ///
    /// # Errors
    /// [`TargetError::NotFound`]; [`TargetError::Busy`]; [`TargetError::Mismatch`] if the length or the volume is another one;
    /// [`TargetError::Disk`] if one of its disks is not known here.
    pub fn replace_layers(&self, dev_id: DevId, backing: Backing) -> Result<(), TargetError> {
        self.change_served(dev_id, backing, Self::relayer)
    }

    /// Has `change` give a device another backing, while nobody else changes the device; notes what its reactors have then.
    pub(crate) fn change_served(
        &self,
        dev_id: DevId,
        backing: Backing,
        change: impl FnOnce(
            &Self,
            DevId,
            &[usize],
            Backing,
            Backing,
        ) -> (Backing, Result<(), TargetError>),
    ) -> Result<(), TargetError> {
        let (reactors, old) = self.take_served(dev_id, Some(&backing.stack))?;
        let (backing, outcome) = change(self, dev_id, &reactors, old, backing);
        let entry = DeviceEntry::Served { reactors, backing };
        locked(&self.devices).insert(dev_id, entry);
        outcome
    }

    fn relayer(
        &self,
        dev_id: DevId,
        reactors: &[usize],
        old: Backing,
        new: Backing,
    ) -> (Backing, Result<(), TargetError>) {
        let new = match self.relayered(dev_id, &old, new) {
            Ok(new) => new,
            Err(error) => return (old, Err(error)),
        };
        let told = self.tell(dev_id, reactors, &new);
        (new, told)
    }

    /// `new` as the device is to have it in place of `old`: the same object, over other disks or another map.
    pub(crate) fn relayered(
        &self,
        dev_id: DevId,
        old: &Backing,
        new: Backing,
    ) -> Result<Backing, TargetError> {
        self.are_known(&new)?;
        // As the device was added with: the new replicas lie on disks that take what it takes.
        let new = match &old.stack {
            stack if stack.size_bytes == new.stack.size_bytes => new,
            _ => whole_blocks(new, &self.blocks_below(old)),
        };
        let lengths = [old, &new].map(|backing| backing.stack.device_bytes());
        if lengths[0] != lengths[1] {
            return Err(TargetError::Mismatch {
                dev_id,
                what: "a size in bytes of",
                actual: lengths[0],
                expected: lengths[1],
            });
        }
        is_grown(dev_id, old, &new)?;
        Ok(new)
    }

    fn are_known(&self, backing: &Backing) -> Result<(), TargetError> {
        let disks = locked(&self.disks);
        for disk in backing.stack.layers.iter().flat_map(Layer::disks) {
            let entry = disks.get(usize::from(disk.get())).copied();
            if entry.and_then(DiskEntry::limits).is_none() {
                return Err(TargetError::Disk {
                    index: disk.get(),
                    why: "is not known here",
                });
            }
        }
        Ok(())
    }

    /// Returns when every reactor has it.
    fn tell(&self, dev_id: DevId, reactors: &[usize], new: &Backing) -> Result<(), TargetError> {
        let reactors = reactors
            .iter()
            .filter_map(|number| self.reactors.get(*number));
        ask_each(reactors, "cannot take other layers", |reactor| {
            reactor.resize(dev_id, new.clone())
        })?;
        Ok(())
    }

    /// Answers with what the reactors have then.
    fn grow(
        &self,
        dev_id: DevId,
        reactors: &[usize],
        old: Backing,
        new: Backing,
    ) -> (Backing, Result<(), TargetError>) {
        let limits = self.blocks_below(&new);
        let new = whole_blocks(new, &limits);
        let sectors = new.stack.device_bytes() / SECTOR_BYTES;
        if let Err(error) = is_grown(dev_id, &old, &new) {
            return (old, Err(error));
        }
        if let Err(error) = self.tell(dev_id, reactors, &new) {
            return (new, Err(error));
        }
        let updated = self.control.update_size(dev_id, sectors);
        (new, updated)
    }

    /// Limits of the disks below, as far as lengths go: those of a device that is served are known.
    fn blocks_below(&self, backing: &Backing) -> DiskLimits {
        let disks = locked(&self.disks);
        backing
            .stack
            .layers
            .iter()
            .flat_map(Layer::disks)
            .filter_map(|disk| disks.get(usize::from(disk.get()))?.limits())
            .fold(DiskLimits::NONE, DiskLimits::and)
    }

    /// Gives a device that was recovered with the old length of its volume the new one, or leaves it as it is.
    pub(crate) fn catch_up(&self, dev_id: DevId, actual: u64, expected: u64) {
        let grown = if self.can_resize() {
            self.control.update_size(dev_id, expected)
        } else {
            Err(TargetError::KernelTooOld {
                lacks: "UBLK_F_UPDATE_SIZE",
            })
        };
        match grown {
            Ok(()) => {
                tracing::info!(%dev_id, from = actual, to = expected, "the device has its volume's new length in sectors");
            }
            Err(error) => {
                tracing::warn!(%dev_id, sectors = actual, volume = expected, %error, "the device keeps its old length until it is attached again");
            }
        }
    }
}

/// Whether `new` is `old`, as long or longer.
fn is_grown(dev_id: DevId, old: &Backing, new: &Backing) -> Result<(), TargetError> {
    let mismatch = |what, actual, expected| {
        Err(TargetError::Mismatch {
            dev_id,
            what,
            actual,
            expected,
        })
    };
    let lengths = [old, new].map(|backing| backing.stack.device_bytes() / SECTOR_BYTES);
    if lengths[1] < lengths[0] {
        return mismatch("a size in sectors of", lengths[0], lengths[1]);
    }
    let volumes = [old, new].map(|backing| {
        backing
            .writable
            .as_ref()
            .map(|writable| writable.volume.uuid())
    });
    let disks = [old, new].map(|backing| {
        let own = backing.stack.layers.first();
        own.map_or(u64::MAX, |layer| u64::from(layer.disk.get()))
    });
    // A volume's own layer has one disk for ever; an image may be read from any that has it.
    if volumes[0] != volumes[1] || (volumes[0].is_some() && disks[0] != disks[1]) {
        return mismatch("another volume, on disk", disks[0], disks[1]);
    }
    Ok(())
}
