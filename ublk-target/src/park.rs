//! A device whose disk has gone: its requests wait, for as long as somebody says, and go on when it is back.
//!
//! There is no clock here: who knows whether a disk has gone also knows for how long it is worth waiting for, tells operators so, and has a
//! clock for it. So a device is parked, and later either unparked or given up.

use bedplate_datapath::units::DevId;

use crate::backing::Backing;
use crate::error::TargetError;
use crate::reactor::Park;
use crate::target::{Target, ask_each};

impl Target {
    /// From when this returns no request of the device is begun: all that come, and all that fail as a disk does that goes, wait. For
    /// one that was given up nothing changes: its requests are not begun either.
    ///
    /// Requests that are in flight are so still: see [`Target::in_flight`].
    ///
    /// # Errors
    /// [`TargetError::Reactor`].
    pub fn park(&self, dev_id: DevId) -> Result<(), TargetError> {
        self.tell_parked(dev_id, Park::Wait)
    }

    /// The disk is there: what waits for word ([`DiskInDoubt`](crate::DiskInDoubt)) is answered with its error.
    ///
    /// # Errors
    /// [`TargetError::Reactor`].
    pub fn answer_doubted(&self, dev_id: DevId) -> Result<(), TargetError> {
        self.tell_parked(dev_id, Park::Answer)
    }

    /// The disk is not waited for any longer: what waits is answered with `EIO`, and so is what comes, until [`Target::unpark`].
    ///
    /// # Errors
    /// [`TargetError::Reactor`].
    pub fn give_up(&self, dev_id: DevId) -> Result<(), TargetError> {
        self.tell_parked(dev_id, Park::GiveUp)
    }

    /// Requests of a device that is parked, or given up, that may still touch what it was served from: the map, the clusters, the disk. Who
    /// opens its disk anew waits until there is none.
    ///
    /// # Errors
    /// [`TargetError::Reactor`].
    pub fn in_flight(&self, dev_id: DevId) -> Result<u32, TargetError> {
        let counts = ask_each(&self.reactors, "does not answer", |reactor| {
            reactor.in_flight(dev_id)
        })?;
        Ok(counts.iter().sum())
    }

    /// Serves a parked or given-up device again: what waited is carried out from its beginning, on `backing` if there is one. That must be
    /// the same object on the same place in the file tables: the same length, the same volume, or one that its disk has under the same name,
    /// with another map, other locks, another committer.
    ///
    /// # Errors
    /// As [`Target::replace_layers`]; the device stays as it was.
    pub fn unpark(&self, dev_id: DevId, backing: Option<Backing>) -> Result<(), TargetError> {
        match backing {
            Some(backing) => self.change_served(dev_id, backing, Self::rebase),
            None => self.tell_unparked(dev_id, None),
        }
    }

    fn rebase(
        &self,
        dev_id: DevId,
        _reactors: &[usize],
        old: Backing,
        new: Backing,
    ) -> (Backing, Result<(), TargetError>) {
        let new = match self.relayered(dev_id, &old, new) {
            Ok(new) => new,
            Err(error) => return (old, Err(error)),
        };
        if let Some(writable) = &new.writable {
            // Its disk has other locks and other space now; before the first request may wait for them.
            self.wake_for(writable);
        }
        let told = self.tell_unparked(dev_id, Some(&new));
        (new, told)
    }

    /// The device is about to be taken away, and what waits for a disk would keep the kernel waiting: none of its requests waits from now on.
    ///
    /// # Errors
    /// [`TargetError::Reactor`].
    pub(crate) fn begin_ending(&self, dev_id: DevId) -> Result<(), TargetError> {
        self.tell_parked(dev_id, Park::End)
    }

    /// It stays after all.
    ///
    /// # Errors
    /// [`TargetError::Reactor`].
    pub(crate) fn end_ending(&self, dev_id: DevId) -> Result<(), TargetError> {
        self.tell_parked(dev_id, Park::Stay)
    }

    fn tell_parked(&self, dev_id: DevId, what: Park) -> Result<(), TargetError> {
        ask_each(&self.reactors, "cannot park a device", |reactor| {
            reactor.park(dev_id, what)
        })?;
        Ok(())
    }

    fn tell_unparked(&self, dev_id: DevId, backing: Option<&Backing>) -> Result<(), TargetError> {
        ask_each(&self.reactors, "cannot serve a device again", |reactor| {
            reactor.unpark(dev_id, backing.cloned())
        })?;
        Ok(())
    }
}
