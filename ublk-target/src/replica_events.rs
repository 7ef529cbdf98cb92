//! What reactors tell of replicas that give trouble, so that somebody who has time probes them, repairs them, and takes them back.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bedplate_datapath::plan::DiskIndex;
use bedplate_datapath::units::{ByteOffset, DevId};

/// A read that a disk answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFailed {
    /// The device whose request it was.
    pub dev_id: DevId,
    /// The disk that failed.
    pub disk: DiskIndex,
    /// The first byte, on the disk, of what was asked of it.
    pub disk_at: ByteOffset,
    /// And of the device: the object's own position.
    pub device_at: ByteOffset,
    /// How much was asked of it there.
    pub len_bytes: u32,
    /// The error, positive.
    pub errno: i32,
    /// Whether another replica is asked now; else the request is answered with the error.
    pub goes_on: bool,
}

/// A read that a disk has not answered in time. It is in flight still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLate {
    /// The device whose request it is.
    pub dev_id: DevId,
    /// The disk that is silent.
    pub disk: DiskIndex,
    /// The first byte of the request on the device.
    pub device_at: ByteOffset,
    /// For how long, at least.
    pub waited: Duration,
    /// Whether another replica is asked now; else the request waits for this one, whose I/O may still land in its pages.
    pub goes_on: bool,
}

/// A request met an error such as disks give that go away, and no other disk can answer it. It waits for word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskInDoubt {
    /// The device whose request it is.
    pub dev_id: DevId,
    /// The disk that gave the error.
    pub disk: DiskIndex,
    /// `ENOSPC` if its store hands out no clusters since it failed, which is no new error; else `EIO`, whatever the disk said.
    pub errno: i32,
}

/// Who is told. Called on a reactor: it must neither wait nor take long.
///
/// The replica is avoided already when this is called: of the layer that failed; of a late read, or of one for a copy-up, in every set of the
/// device that has one on that disk. Whoever finds it
/// well takes it back with [`readmit`](bedplate_datapath::replica::ReplicaSet::readmit).
pub trait ReplicaEvents: Send + Sync {
    /// A read of a layer failed. Also for layers that have one replica only.
    fn read_failed(&self, event: ReadFailed);
    /// A read of a layer with several replicas is late.
    fn read_late(&self, event: ReadLate);
    /// A disk may have gone. Whether word will come, soon: [`Target::park`](crate::Target::park), or
    /// [`Target::answer_doubted`](crate::Target::answer_doubted). Told once until then, however many requests wait.
    fn disk_in_doubt(&self, event: DiskInDoubt) -> bool {
        let _ = event;
        false
    }
}

/// Where events go, once somebody listens.
#[derive(Clone, Default)]
pub(crate) struct EventsTo(Arc<OnceLock<Arc<dyn ReplicaEvents>>>);

impl EventsTo {
    /// The first one stays.
    pub(crate) fn listen(&self, events: Arc<dyn ReplicaEvents>) {
        let _ = self.0.set(events);
    }

    pub(crate) fn read_failed(&self, event: ReadFailed) {
        if let Some(events) = self.0.get() {
            events.read_failed(event);
        }
    }

    pub(crate) fn read_late(&self, event: ReadLate) {
        if let Some(events) = self.0.get() {
            events.read_late(event);
        }
    }
}

impl EventsTo {
    /// Whether word will come.
    pub(crate) fn disk_in_doubt(&self, event: DiskInDoubt) -> bool {
        let events = self.0.get();
        events.is_some_and(|events| events.disk_in_doubt(event))
    }
}

impl fmt::Debug for EventsTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventsTo").finish_non_exhaustive()
    }
}
