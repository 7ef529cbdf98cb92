//! Requests that wait for a disk that has gone, instead of being answered with its errors.
//!
//! ```text
//! Serving --an error such as a disk gives that goes--> Doubted --it has gone--> Waiting --it is back--> Serving
//!                                                        \--it has not: its own error--> Serving
//! Waiting --the time is over--> GivenUp --it is back--> Serving
//! ```
//!
//! Whether a disk has gone, and for how long it is waited for, is decided by who listens ([`crate::ReplicaEvents::disk_in_doubt`]): an
//! error alone does not tell a bad sector from a disk that was pulled. Nobody listens: every error is answered at once.
//!
//! A request that waits has nothing in flight, no buffer, no lock, no pin. It is begun anew, from its first byte, on whatever the device has
//! then: nothing of it was acknowledged, and no write does harm twice. So while a device waits, or is given up, nothing of it touches what it
//! was served from: its disk may be opened anew, with the map as this disk has it, and another store hands out its clusters.

use bedplate_datapath::plan::DiskIndex;
use bedplate_datapath::units::DevId;

use super::requests::{Need, State};
use super::{Reactor, Served};
use crate::backing::Backing;
use crate::replica_events::DiskInDoubt;

/// How the queues of a device stand towards its disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// Requests are carried out, errors answered.
    #[default]
    Serving,
    /// As before; but requests that met an error wait for word whether the disk has gone.
    Doubted,
    /// No request is begun: all wait.
    Waiting,
    /// No request is begun: all are answered with `EIO`.
    GivenUp,
}

impl Standing {
    /// Whether no request is begun.
    #[inline]
    pub(super) fn is_stopped(self) -> bool {
        matches!(self, Self::Waiting | Self::GivenUp)
    }
}

/// What becomes of a device whose disk has gone, or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Park {
    /// All its requests wait from now on. One that is given up stays so.
    Wait,
    /// Nothing has gone: requests in doubt are answered with their errors.
    Answer,
    /// What waits is answered with `EIO`, and so is what comes.
    GiveUp,
    /// The device is to be taken away: from now on nothing waits for a disk, since the kernel would wait with it. What waits is answered with
    /// `EIO`, and what would wait, with its error. Requests that meet no error, and what is known of the disks, are as before.
    End,
    /// It stays after all: as before [`Self::End`].
    Stay,
}

/// Errors that a disk gives while it goes (`blk_errors` in block/blk-core.c; `ENXIO` and `ENOMEDIUM` of devices without a medium). A bad
/// sector is `ENODATA`, or on many devices `EIO` too.
const ERRORS_OF_LOSS: &[i32] = &[
    libc::EIO,
    libc::ENODEV,
    libc::ENXIO,
    libc::ENOLINK,
    libc::ETIMEDOUT,
    libc::ESHUTDOWN,
    libc::ENOMEDIUM,
    // What a socket gives, which is a disk in the rig.
    #[cfg(test)]
    libc::ESPIPE,
];

impl Reactor {
    /// A request with nothing in flight is about to be answered with an error of `disk`. True if it waits instead.
    #[cold]
    pub(super) fn waits_for_disk(
        &mut self,
        number: u32,
        errno: i32,
        disk: Option<DiskIndex>,
    ) -> bool {
        let Some(standing) = self.standing(number) else {
            return false;
        };
        let is_of_disk = ERRORS_OF_LOSS.contains(&errno) || self.is_end_of_disk(number, errno);
        if !is_of_disk && !self.is_refused_space(number, errno) {
            return false;
        }
        if self.is_ending(number) {
            return false;
        }
        match standing {
            Standing::GivenUp => return false,
            Standing::Waiting | Standing::Doubted => {}
            // Nobody could be asked any more, and the next server has what is left to it. But a flush that failed is answered: a second one
            // would succeed without having saved what the first one lost.
            Standing::Serving if self.leaving.is_some() => {
                if self.slots[number as usize].state == State::Committing {
                    return false;
                }
                self.hold(number);
                return true;
            }
            Standing::Serving => {
                let dev_id = self.queue_of(number).map(|queue| queue.dev_id);
                let (Some(disk), Some(dev_id)) = (disk, dev_id) else {
                    return false;
                };
                let event = DiskInDoubt {
                    dev_id,
                    disk,
                    errno: if is_of_disk { libc::EIO } else { errno },
                };
                if !self.events.disk_in_doubt(event) {
                    return false;
                }
                self.stand(dev_id, |_| Standing::Doubted);
            }
        }
        self.set_waiting(number, errno);
        true
    }

    /// A disk that goes has no bytes any more (`set_capacity` in `nvme_mark_namespaces_dead`, drivers/nvme/host), so that a write to it is one
    /// beyond its end (`blkdev_write_iter`, block/fops.c).
    fn is_end_of_disk(&self, number: u32, errno: i32) -> bool {
        errno == libc::ENOSPC && self.slots[number as usize].failed_disk.is_some()
    }

    /// A store that failed hands out no clusters any more, so that a first touch finds no space: the same error in other clothes.
    fn is_refused_space(&mut self, number: u32, errno: i32) -> bool {
        errno == libc::ENOSPC
            && self.queue_of(number).is_some_and(|queue| {
                let writes = queue.writes.as_ref();
                writes.is_some_and(|writes| writes.volume.space().is_refused())
            })
    }

    /// The disk that a write goes to.
    pub(super) fn own_disk(&mut self, number: u32) -> Option<DiskIndex> {
        let queue = self.queue_of(number)?;
        Some(queue.stack.layers.first()?.disk)
    }

    /// Whether a request must not go on: its device waits, or is given up.
    #[inline]
    pub(super) fn is_stopped(&self, number: u32) -> bool {
        self.standing(number).is_some_and(Standing::is_stopped)
    }

    #[inline]
    fn standing(&self, number: u32) -> Option<Standing> {
        let slot = self.slots.get(number as usize)?;
        let queue = self.queues.get(slot.queue as usize)?.as_ref()?;
        Some(queue.standing)
    }

    fn is_ending(&mut self, number: u32) -> bool {
        self.queue_of(number).is_some_and(|queue| queue.is_ending)
    }

    /// What becomes of a request whose device [is stopped](Self::is_stopped).
    #[cold]
    pub(super) fn stop_request(&mut self, number: u32) {
        if self.standing(number) == Some(Standing::Waiting) && !self.is_ending(number) {
            self.set_waiting(number, libc::EIO);
        } else {
            self.finish(number, -libc::EIO);
        }
    }

    fn set_waiting(&mut self, number: u32, errno: i32) {
        if self.leaving.is_some() {
            // Nobody looks at those who wait any more: the next server has it.
            self.hold(number);
            return;
        }
        self.give_buffers(number);
        if self.slots[number as usize].has_failed {
            // Whom it does not ask any more may be the one that comes back.
            self.forget_failures(number);
        }
        self.slots[number as usize].state = State::ForDisk;
        self.for_disk.push_back(ForDisk { number, errno });
    }

    /// Word of a device's disk.
    pub(super) fn park(&mut self, dev_id: DevId, what: Park) {
        match what {
            Park::Wait => self.stand(dev_id, |standing| match standing {
                Standing::GivenUp => Standing::GivenUp,
                _ => Standing::Waiting,
            }),
            Park::Answer => {
                let mut is_in_doubt = false;
                self.stand(dev_id, |standing| {
                    is_in_doubt |= standing == Standing::Doubted;
                    match standing {
                        Standing::Doubted => Standing::Serving,
                        other => other,
                    }
                });
                if is_in_doubt {
                    self.each_waiting(dev_id, |reactor, waiting| {
                        reactor.commit(waiting.number, -waiting.errno);
                    });
                }
            }
            Park::GiveUp => {
                self.stand(dev_id, |_| Standing::GivenUp);
                self.answer_waiting(dev_id);
            }
            Park::End => {
                self.each_queue(dev_id, |queue| queue.is_ending = true);
                self.answer_waiting(dev_id);
            }
            Park::Stay => self.each_queue(dev_id, |queue| queue.is_ending = false),
        }
    }

    fn answer_waiting(&mut self, dev_id: DevId) {
        self.each_waiting(dev_id, |reactor, waiting| {
            reactor.commit(waiting.number, -libc::EIO);
        });
    }

    /// Serves a device again, over `backing` where it is another one; nothing of it is in flight on the old one.
    pub(super) fn unpark(&mut self, dev_id: DevId, backing: Option<&Backing>) {
        if let Some(backing) = backing {
            self.resize(dev_id, backing);
        }
        self.stand(dev_id, |_| Standing::Serving);
        self.each_waiting(dev_id, |reactor, ForDisk { number, .. }| {
            if !reactor.begin(number) {
                let need = reactor.need(number).unwrap_or(Need::Operations);
                reactor.wait(number, need);
            }
        });
    }

    /// Requests of a device that may still touch what it is served from.
    pub(super) fn in_flight(&self, dev_id: DevId) -> u32 {
        let of_device = |queue: u32| {
            let queue = self.queues.get(queue as usize);
            queue.is_some_and(|queue| queue.as_ref().is_some_and(|q| q.dev_id == dev_id))
        };
        let slots = self.slots.iter();
        let count = slots
            .filter(|slot| slot.state.touches_backing() && of_device(slot.queue))
            .count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Leaves what waits to the next server.
    pub(super) fn hold_waiting(&mut self) {
        while let Some(waiting) = self.for_disk.pop_front() {
            self.hold(waiting.number);
        }
    }

    fn stand(&mut self, dev_id: DevId, mut next: impl FnMut(Standing) -> Standing) {
        self.each_queue(dev_id, |queue| queue.standing = next(queue.standing));
    }

    fn each_queue(&mut self, dev_id: DevId, act: impl FnMut(&mut Served)) {
        let queues = self.queues.iter_mut().flatten();
        queues.filter(|queue| queue.dev_id == dev_id).for_each(act);
    }

    /// Takes each request of a device that waits, oldest first.
    fn each_waiting(&mut self, dev_id: DevId, mut act: impl FnMut(&mut Self, ForDisk)) {
        for _ in 0..self.for_disk.len() {
            let Some(waiting) = self.for_disk.pop_front() else {
                return;
            };
            let is_of_device = self
                .queue_of(waiting.number)
                .is_some_and(|queue| queue.dev_id == dev_id);
            if is_of_device {
                act(self, waiting);
            } else {
                self.for_disk.push_back(waiting);
            }
        }
    }
}

/// A request that waits for a disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct ForDisk {
    number: u32,
    /// The error that it met.
    errno: i32,
}
