//! A small io_uring with aligned buffers of its own: what a blocking [`super::UringMedium`] runs on.
//!
//! The kernel reads and writes these buffers only, never a caller's memory, so no caller has to keep anything alive. A
//! buffer belongs to the kernel from the submission of its slot to the slot's completion, and is not freed before.

use std::io;
use std::mem;
use std::ptr;
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, squeue};
use memmap2::{MmapMut, MmapRaw};
use nix::errno::Errno;

/// Requests in flight at once. Enough, with [`SLOT_BYTES`] each, to keep a fast disk busy with one sequential stream.
pub(super) const SLOTS: usize = RING_ENTRIES as usize;
const RING_ENTRIES: u32 = 8;
/// Length of a slot's buffer, and so of the largest request.
pub(super) const SLOT_BYTES: usize = 256 * 1024;

/// Pause before submitting again when the kernel is out of memory for requests.
const SUBMIT_RETRY: Duration = Duration::from_millis(1);

/// One of the [`SLOTS`] requests, with its part of the buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(usize);

impl Slot {
    pub(super) const FIRST: Self = Self(0);

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).map(Self)
    }

    pub(super) fn index(self) -> usize {
        self.0
    }
}

/// The ring. Any thread may use it, one at a time.
pub(super) struct BounceRing {
    ring: IoUring,
    /// `SLOTS * SLOT_BYTES` bytes, page-aligned, kept as a raw mapping: a reference to all of it must not exist while the
    /// kernel writes to a part. `None` only after [`Drop`] gave the memory up.
    buffers: Option<MmapRaw>,
    /// Slots that the kernel may still read or write.
    in_flight: [bool; SLOTS],
    /// The errno after which the ring's state is unknown; nothing is submitted any more.
    broken: Option<i32>,
}

/// Completions of one wait: the slot, and the result as the kernel gave it (bytes, or a negative errno).
pub(super) type Completions = [Option<(Slot, i32)>; SLOTS];

impl BounceRing {
    pub(super) fn new() -> io::Result<Self> {
        // No SINGLE_ISSUER: a store may be opened on one thread and handed to another.
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .build(RING_ENTRIES)?;
        let buffers = MmapRaw::from(MmapMut::map_anon(SLOTS * SLOT_BYTES)?);
        Ok(Self {
            ring,
            buffers: Some(buffers),
            in_flight: [false; SLOTS],
            broken: None,
        })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == [false; SLOTS]
    }

    /// The slot's buffer: [`SLOT_BYTES`] long, valid as long as the ring.
    pub(super) fn buffer(&self, slot: Slot) -> *mut u8 {
        match &self.buffers {
            Some(buffers) => buffers.as_mut_ptr().wrapping_add(slot.0 * SLOT_BYTES),
            None => ptr::null_mut(),
        }
    }

    /// Copies `from` to the start of the slot's buffer. At most [`SLOT_BYTES`]; the slot must not be in flight.
    pub(super) fn fill(&mut self, slot: Slot, from: &[u8]) {
        assert!(from.len() <= SLOT_BYTES && !self.in_flight[slot.0]);
        // SAFETY: the slot's buffer is SLOT_BYTES long and lives as long as `self` (only drop takes it away); its slot is
        // not in flight, so the kernel does not touch it; `from` is a caller's memory and cannot overlap the mapping,
        // which no reference is ever made to.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.buffer(slot), from.len()) };
    }

    /// Fills the first `len` bytes of the slot's buffer with zeros, under the same conditions.
    pub(super) fn fill_zeroes(&mut self, slot: Slot, len: usize) {
        assert!(len <= SLOT_BYTES && !self.in_flight[slot.0]);
        // SAFETY: as in `fill`.
        unsafe { ptr::write_bytes(self.buffer(slot), 0, len) };
    }

    /// Copies the start of the slot's buffer to `into`, under the same conditions.
    pub(super) fn copy_out(&self, slot: Slot, into: &mut [u8]) {
        assert!(into.len() <= SLOT_BYTES && !self.in_flight[slot.0]);
        // SAFETY: as in `fill`, with the roles swapped; anonymous memory is initialised from the start.
        unsafe { ptr::copy_nonoverlapping(self.buffer(slot), into.as_mut_ptr(), into.len()) };
    }

    /// Queues a request for `slot`; it is submitted with the next wait.
    ///
    /// # Safety
    /// If `entry` carries an address, the memory that it names must lie in the slot's own buffer. Its descriptor must be open
    /// until the next [`Self::wait`] returned.
    pub(super) unsafe fn start(&mut self, slot: Slot, entry: squeue::Entry) -> Result<(), i32> {
        assert!(!self.in_flight[slot.0], "a slot carries one request");
        if let Some(errno) = self.broken {
            return Err(errno);
        }
        let entry = entry.user_data(slot.0 as u64);
        // SAFETY: memory that the entry names is the slot's buffer (the caller's promise), which lives until the slot's
        // completion was seen: `in_flight` keeps it from reuse, and drop waits.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // The queue has as many entries as there are slots, and a slot has at most one.
        pushed.map_err(|_| libc::EBUSY)?;
        self.in_flight[slot.0] = true;
        Ok(())
    }

    /// Submits what is queued and waits until at least one request has ended. The wait is one that a fatal signal ends.
    pub(super) fn wait(&mut self) -> Result<Completions, i32> {
        loop {
            if let Some(errno) = self.broken {
                return Err(errno);
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => {}
                    Some(Errno::EAGAIN | Errno::EBUSY) => thread::sleep(SUBMIT_RETRY),
                    other => self.broken = Some(other.map_or(libc::EIO, |errno| errno as i32)),
                },
            }
            // Also after an error: what has ended must be taken note of.
            let completions = self.reap();
            if completions.iter().any(Option::is_some) {
                return Ok(completions);
            }
        }
    }

    fn reap(&mut self) -> Completions {
        let mut completions: Completions = [None; SLOTS];
        let ended = self.ring.completion().filter_map(|entry| {
            let slot = usize::try_from(entry.user_data())
                .ok()
                .filter(|&slot| slot < SLOTS)?;
            Some((Slot(slot), entry.result()))
        });
        for (place, (slot, result)) in completions.iter_mut().zip(ended) {
            self.in_flight[slot.0] = false;
            *place = Some((slot, result));
        }
        completions
    }
}

impl Drop for BounceRing {
    /// Waits for the requests in flight. On a disk that never answers that lasts until the process is killed: freeing the
    /// buffers under the kernel would be worse.
    fn drop(&mut self) {
        while !self.is_idle() {
            if self.wait().is_err() {
                // Nothing tells when the kernel is done with them, so they are never given back.
                mem::forget(self.buffers.take());
                return;
            }
        }
    }
}
