//! The disk under a store: passes I/O on, and takes no more writes after the first one that failed.

use crate::medium::{IoFault, Medium};
use crate::units::ByteOffset;

/// A medium that is latched read-only by its first failed write or flush.
///
/// After such a failure nobody knows what is on the disk: the kernel drops the pages of a failed write and reports the
/// loss once, so that a second flush would succeed without having saved anything. Only opening the disk again, which reads what
/// is there, finds out.
pub(super) struct LatchedDisk<M> {
    medium: M,
    fault: Option<IoFault>,
    /// Told of the first failure at once, since this process may end before it can tell anybody.
    alarm: Option<Box<dyn Fn() + Send>>,
}

impl<M: Medium> LatchedDisk<M> {
    pub(super) fn new(medium: M) -> Self {
        Self {
            medium,
            fault: None,
            alarm: None,
        }
    }

    /// Who is told of the first failure.
    pub(super) fn set_alarm(&mut self, alarm: Box<dyn Fn() + Send>) {
        self.alarm = Some(alarm);
    }

    pub(super) fn fault(&self) -> Option<&IoFault> {
        self.fault.as_ref()
    }

    /// Takes no more writes from now on, for `fault`; nothing if it did so before. Nobody is told.
    pub(super) fn latch(&mut self, fault: IoFault) {
        self.fault.get_or_insert(fault);
    }

    pub(super) fn read(&mut self, at: ByteOffset, into: &mut [u8]) -> Result<(), IoFault> {
        self.medium.read(at, into)
    }

    pub(super) fn heads(
        &mut self,
        at: ByteOffset,
        len_bytes: u64,
        head_bytes: usize,
        look: &mut dyn FnMut(ByteOffset, &[u8]),
    ) -> Result<(), IoFault> {
        self.medium.heads(at, len_bytes, head_bytes, look)
    }

    pub(super) fn write(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.guarded(|medium| medium.write(at, from))
    }

    pub(super) fn write_durable(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.guarded(|medium| medium.write_durable(at, from))
    }

    pub(super) fn flush(&mut self) -> Result<(), IoFault> {
        self.guarded(M::flush)
    }

    pub(super) fn medium_mut(&mut self) -> &mut M {
        &mut self.medium
    }

    pub(super) fn into_medium(self) -> M {
        self.medium
    }

    fn guarded(
        &mut self,
        write: impl FnOnce(&mut M) -> Result<(), IoFault>,
    ) -> Result<(), IoFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let result = write(&mut self.medium);
        self.fault = result.err();
        if result.is_err()
            && let Some(alarm) = &self.alarm
        {
            alarm();
        }
        result
    }
}
