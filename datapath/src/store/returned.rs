//! A disk that went away under its volumes, and is there again: what its opener knows of it besides what is on it.
//!
//! What was flushed is on the disk. What was acknowledged and not flushed is there only if the disk kept its cache: it has none, or it never
//! lost power. So a volume goes on with its live map if the cache was kept; with the disk's map if nothing was unflushed; else it is held. And
//! only if nobody else had the disk meanwhile: each opening has a session of its own.

use uuid::Uuid;

use super::Store;
use crate::medium::{IoFault, IoOp, Medium};
use crate::units::ByteOffset;

/// What the opener of a disk knows of it besides what is on it. By default: nothing.
#[derive(Clone, Debug, Default)]
pub struct Foreknowledge {
    /// What the disk acknowledges from now on it has for good, flushed or not: no unplugging and no power loss takes it.
    pub keeps_cache: bool,
    /// Disks that went while this process had them open.
    pub left: Vec<LeftDisk>,
}

/// A disk that went while its opener had it open, and that nobody of this process uses any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftDisk {
    /// The disk.
    pub disk: Uuid,
    /// The session that it was left in.
    pub session: u64,
    /// Its volumes of which every acknowledged write had been flushed; see [`Volume::has_unflushed`](crate::volume::Volume::has_unflushed).
    pub flushed: Vec<Uuid>,
}

impl Foreknowledge {
    pub(super) fn of(&self, disk: Uuid) -> Option<&LeftDisk> {
        self.left.iter().find(|left| left.disk == disk)
    }
}

impl<M: Medium> Store<M> {
    /// Says that the disk has gone, whether that made a write or flush fail or not. A failure was no word of the disk itself then: what it
    /// had acknowledged before is in doubt only if it lost its cache. Nothing is written to it in this session any more, should it answer
    /// again: a commit, or the mark of an orderly end, would say of what its cache lost that it is there.
    pub fn has_gone(&mut self) {
        // Before the latch, and without its alarm: a crash between must not leave word of a failure.
        self.live.failed_by_loss();
        self.disk.latch(IoFault {
            op: IoOp::Flush,
            at: ByteOffset::new(0),
            len_bytes: 0,
            errno: libc::ENODEV,
        });
    }
}
