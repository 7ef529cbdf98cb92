//! A disk that was unplugged and opened anew takes its old place in the reactors' file tables: devices that read from it go on reading.

use bedplate_datapath::engine::DiskFile;
use bedplate_datapath::plan::DiskIndex;

use crate::error::TargetError;
use crate::params::DiskLimits;
use crate::target::{Target, locked};

impl Target {
    /// Puts `disk` into the place of a disk that is known here. Requests that are in flight keep the file that they have.
    ///
    /// To be called only for the same disk. What a device reads by a map that it has must be there still, and that is so for what never
    /// changes: a device that writes to it must be parked ([`Target::park`]), with nothing in flight, and go on with another map.
    ///
    /// # Errors
    /// [`TargetError::Disk`] if there is no such place, or this disk asks for other limits than devices were promised; what a reactor
    /// answered, and then some reactors have it and others do not.
    pub fn swap_disk(&self, index: DiskIndex, disk: &DiskFile) -> Result<(), TargetError> {
        let refused = |why| TargetError::Disk {
            index: index.get(),
            why,
        };
        let known = locked(&self.disks)
            .get(usize::from(index.get()))
            .and_then(|entry| entry.limits())
            .ok_or_else(|| refused("is not known here"))?;
        if known != DiskLimits::of(disk) {
            return Err(refused("has other limits than it had before"));
        }
        self.install_disk(index, disk)
    }
}
