//! One `io_uring` and the one thread that drives it: pushing never fails, waiting costs one system call.
//!
//! The ring knows nothing of what its entries mean. It keeps a sparse table of registered files, and a
//! sparse table of registered buffers, which the kernel fills (ublk) or we do.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, squeue};

/// Completions taken from the shared ring at a time.
const BATCH_ENTRIES: usize = 64;

/// `IORING_ENTER_GETEVENTS`, include/uapi/linux/io_uring.h; the crate keeps its own to itself.
const ENTER_GETEVENTS: u32 = 1;

/// Sizes of a [`Ring`]; fixed for its life.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Entries of the submission queue; a power of two, at most 32,768.
    pub submissions: u32,
    /// Entries of the completion queue; a power of two, at least `submissions`.
    pub completions: u32,
    /// Slots of the registered-file table; the kernel wants it within `RLIMIT_NOFILE`.
    pub file_slots: u32,
    /// Slots of the registered-buffer table, at most 16,384; 0 for no table.
    pub buffer_slots: u32,
}

/// What a finished operation left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The `user_data` of the entry.
    pub user_data: u64,
    /// The result: a count, or a negated errno.
    pub result: i32,
}

/// An `io_uring` with `SINGLE_ISSUER | DEFER_TASKRUN | COOP_TASKRUN`. To be made in the thread that drives it: the kernel
/// refuses every other one.
pub struct Ring {
    uring: IoUring,
    /// Entries that found the submission queue full, oldest first. Empty in the steady state.
    backlog: VecDeque<squeue::Entry>,
    batch: [Completion; BATCH_ENTRIES],
    batch_next: usize,
    batch_len: usize,
}

impl Ring {
    /// Makes the ring and its tables.
    ///
    /// # Errors
    /// What `io_uring_setup` or `io_uring_register` answer: `EPERM` where `kernel.io_uring_disabled` is set, `ENOMEM`
    /// where locked memory is short, `EMFILE` where `file_slots` is beyond `RLIMIT_NOFILE`.
    pub fn new(config: &RingConfig) -> io::Result<Self> {
        let uring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(config.completions)
            .dontfork()
            .build(config.submissions)?;
        uring.submitter().register_files_sparse(config.file_slots)?;
        if config.buffer_slots > 0 {
            uring
                .submitter()
                .register_buffers_sparse(config.buffer_slots)?;
        }
        Ok(Self {
            uring,
            backlog: VecDeque::with_capacity(config.submissions as usize),
            batch: [Completion {
                user_data: 0,
                result: 0,
            }; BATCH_ENTRIES],
            batch_next: 0,
            batch_len: 0,
        })
    }

    /// Puts `file` into slot `slot` of the file table. The table holds its own reference.
    ///
    /// # Errors
    /// `EINVAL` for a slot outside of the table, `EBADF`, `ENOMEM`.
    pub fn install_file(&self, slot: u32, file: BorrowedFd<'_>) -> io::Result<()> {
        self.uring
            .submitter()
            .register_files_update(slot, &[file.as_raw_fd()])
            .map(drop)
    }

    /// Empties slot `slot`. Operations in flight keep the file until they end.
    ///
    /// # Errors
    /// `EINVAL` for a slot outside of the table.
    pub fn clear_file(&self, slot: u32) -> io::Result<()> {
        self.uring
            .submitter()
            .register_files_update(slot, &[-1])
            .map(drop)
    }

    /// Puts memory into slot `slot` of the buffer table, for good.
    ///
    /// # Errors
    /// What `io_uring_register` answers.
    ///
    /// # Safety
    /// The memory must outlive the ring's operations, and be left to them.
    pub unsafe fn install_buffer(&self, slot: u32, start: *mut u8, len: usize) -> io::Result<()> {
        let buffer = libc::iovec {
            iov_base: start.cast(),
            iov_len: len,
        };
        // SAFETY: the caller vouches for the memory.
        unsafe {
            self.uring
                .submitter()
                .register_buffers_update(slot, &[buffer], None)
        }
    }

    /// Queues an entry; it is handed to the kernel by the next [`Ring::submit_and_wait`], or before, if the queue is full.
    ///
    /// # Safety
    /// Memory that the entry names must stay valid, and be left alone by others, until the entry's completion.
    #[inline]
    pub unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the caller vouches for the entry's memory.
        if self.backlog.is_empty() && unsafe { self.try_push(&entry) } {
            return;
        }
        // SAFETY: as above.
        unsafe { self.push_to_full(entry) };
    }

    /// # Safety
    /// As for [`Ring::push`].
    #[cold]
    #[inline(never)]
    unsafe fn push_to_full(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() {
            // A failure here (EBUSY while completions overflow, EINTR) comes back in `submit_and_wait`.
            let _ = self.uring.submit();
            // SAFETY: as above.
            if unsafe { self.try_push(&entry) } {
                return;
            }
        }
        // Behind the others, so that nothing overtakes.
        self.backlog.push_back(entry);
    }

    /// # Safety
    /// As for [`Ring::push`].
    #[inline]
    unsafe fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller vouches for the entry's memory.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    fn refill_from_backlog(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever pushed the entry vouched for its memory until its completion, which has not been.
            if unsafe { self.uring.submission().push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Hands all that is queued to the kernel, and waits until there is at least one completion. Returns at once when
    /// completions are waiting to be taken.
    ///
    /// # Errors
    /// Only what cannot be got over by taking completions and calling again (`EINTR`, `EAGAIN` and `EBUSY` are no errors).
    pub fn submit_and_wait(&mut self) -> io::Result<()> {
        if self.batch_next < self.batch_len {
            return Ok(());
        }
        self.refill_from_backlog();
        // With a backlog there is more to hand over as soon as the queue is empty: do not sleep on it.
        let want = usize::from(self.backlog.is_empty());
        match self.uring.submit_and_wait(want) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Hands all that is queued to the kernel, lets it deliver what has ended, and does not wait: for a loop that has more to do.
    /// ([`Ring::submit`] alone delivers nothing: deferred work runs only where completions are asked for.)
    ///
    /// # Errors
    /// As [`Ring::submit_and_wait`].
    pub fn submit_and_look(&mut self) -> io::Result<()> {
        self.refill_from_backlog();
        let queued = u32::try_from(self.uring.submission().len()).unwrap_or(u32::MAX);
        // SAFETY: no argument is passed; the entries' memory was vouched for when they were pushed.
        let entered = unsafe {
            self.uring
                .submitter()
                .enter::<libc::sigset_t>(queued, 0, ENTER_GETEVENTS, None)
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Hands what is queued to the kernel, and does not wait.
    ///
    /// # Errors
    /// As [`Ring::submit_and_wait`].
    pub fn submit(&mut self) -> io::Result<()> {
        loop {
            self.refill_from_backlog();
            match self.uring.submit() {
                Ok(_) if self.backlog.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Completions must be taken first.
                    Some(libc::EAGAIN | libc::EBUSY) => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
    }

    /// The next completion, if there is one; no system call.
    #[inline]
    pub fn next_completion(&mut self) -> Option<Completion> {
        if self.batch_next == self.batch_len {
            self.take_batch();
        }
        let completion = *self.batch[..self.batch_len].get(self.batch_next)?;
        self.batch_next += 1;
        Some(completion)
    }

    /// Takes the next completions out of the shared ring, and tells them; [`Ring::next_completion`] gives out each of them all the same.
    #[inline]
    pub fn look_ahead(&mut self) -> &[Completion] {
        if self.batch_next == self.batch_len {
            self.take_batch();
        }
        &self.batch[self.batch_next..self.batch_len]
    }

    fn take_batch(&mut self) {
        (self.batch_next, self.batch_len) = (0, 0);
        // The batch first: its end must not take a completion out of the ring that it has no room for.
        for (to, from) in self.batch.iter_mut().zip(self.uring.completion()) {
            *to = Completion {
                user_data: from.user_data(),
                result: from.result(),
            };
            self.batch_len += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use io_uring::opcode;

    use super::*;

    #[test]
    fn every_completion_is_given_out_once_however_many_there_are() {
        let made = Ring::new(&RingConfig {
            submissions: 512,
            completions: 1024,
            file_slots: 1,
            buffer_slots: 0,
        });
        let Ok(mut ring) = made else {
            println!("skipped: no ring here");
            return;
        };
        // More than a batch, and not a multiple of one.
        let count = 5 * BATCH_ENTRIES as u64 + 3;
        for number in 0..count {
            let entry = opcode::Nop::new().build().user_data(number);
            // SAFETY: the entry names no memory.
            unsafe { ring.push(entry) };
        }
        ring.submit_and_wait().expect("a ring");
        let mut told = Vec::new();
        while !ring.look_ahead().is_empty() {
            told.extend(
                ring.next_completion()
                    .map(|completion| completion.user_data),
            );
        }
        assert_eq!(told, (0..count).collect::<Vec<_>>());
    }
}
