//! Carries a plan out: one `io_uring` operation a run, short and transient results resubmitted, one outcome a request.
//!
//! It never reports success for a request of which one byte is missing, and never reports anything while an operation of
//! the request is in flight. It knows no ublk, and allocates nothing between [`Executor::reserve_requests`] calls.

use io_uring::{opcode, squeue, types};

use super::ring::{Completion, Ring};
use crate::plan::{DiskIndex, Run, RunSource};

/// Operations in flight of one executor; a longest plan must fit.
pub const OPERATIONS_MAX: u32 = 8192;

/// How often in a row an operation may end in `EAGAIN` or `EINTR` without a byte of progress before that is its error.
const TRANSIENT_RETRIES_MAX: u8 = 64;

/// A request, as its owner numbers it: below the number given to [`Executor::reserve_requests`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestIndex(pub u32);

/// Where the bytes of a request lie.
#[derive(Clone, Copy, Debug)]
pub enum RequestBuffer {
    /// A registered buffer of the ring; byte 0 of the request is byte 0 of the buffer.
    Registered(u16),
    /// Memory of this process, from the first byte of the request.
    Memory(*mut u8),
}

/// Which slots of the ring's file table the executor reads from.
#[derive(Clone, Copy, Debug)]
pub struct FileSlots {
    /// `/dev/zero`.
    pub zero: u32,
    /// The disk with [`DiskIndex`] 0; the others follow.
    pub first_disk: u32,
}

impl FileSlots {
    /// The slot of `disk`.
    pub fn of(&self, disk: DiskIndex) -> u32 {
        self.first_disk + u32::from(disk.0)
    }
}

/// What [`Executor::begin_read`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Operations are in flight; [`Executor::complete`] will name the request when the last one has ended.
    InFlight,
    /// All is done: there was nothing to read from a disk.
    Done,
    /// No operation was free for the plan, and nothing was begun. Try again after a completion.
    Full,
}

/// A request that ended: its bytes are all there, or an errno (positive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub request: RequestIndex,
    /// How.
    pub outcome: Result<(), i32>,
}

#[derive(Clone, Copy)]
struct Progress {
    buffer: RequestBuffer,
    operations: u32,
    /// First error, positive; 0 for none.
    errno: i32,
}

#[derive(Clone, Copy)]
struct Operation {
    request: u32,
    /// What is left of the run.
    left: Run,
    retries: u8,
}

/// Plans in flight on one [`Ring`].
pub struct Executor {
    files: FileSlots,
    /// Upper bits of `user_data` that tell our completions from others on the ring.
    tag: u64,
    operations: Box<[Operation]>,
    free: Vec<u32>,
    requests: Vec<Progress>,
}

impl Executor {
    /// An executor whose entries carry `tag | operation number` as `user_data`; the low 32 bits of `tag` must be 0.
    pub fn new(files: FileSlots, tag: u64) -> Self {
        debug_assert_eq!(
            tag & u64::from(u32::MAX),
            0,
            "the low bits are the operation's"
        );
        let idle = Operation {
            request: 0,
            left: Run {
                request_offset: 0,
                len_bytes: 0,
                source: RunSource::Zero,
            },
            retries: 0,
        };
        Self {
            files,
            tag,
            operations: vec![idle; OPERATIONS_MAX as usize].into_boxed_slice(),
            free: (0..OPERATIONS_MAX).rev().collect(),
            requests: Vec::new(),
        }
    }

    /// Makes room for requests numbered below `count`.
    pub fn reserve_requests(&mut self, count: u32) {
        let idle = Progress {
            buffer: RequestBuffer::Registered(0),
            operations: 0,
            errno: 0,
        };
        let count = (count as usize).max(self.requests.len());
        self.requests.resize(count, idle);
    }

    /// Starts to fill `buffer` with what `runs` say. The runs must cover the request; each is at most 1 MiB.
    ///
    /// # Safety
    /// `buffer` must be as long as the runs, and be left alone until the request has ended, whatever becomes of the ring
    /// meanwhile.
    pub unsafe fn begin_read(
        &mut self,
        ring: &mut Ring,
        request: RequestIndex,
        buffer: RequestBuffer,
        runs: &[Run],
    ) -> Begun {
        if self.free.len() < runs.len() {
            return Begun::Full;
        }
        let mut operations = 0;
        for run in runs {
            if let (RunSource::Zero, RequestBuffer::Memory(start)) = (run.source, buffer) {
                // SAFETY: the run lies within the buffer, which the caller leaves to us.
                unsafe {
                    start
                        .add(run.request_offset as usize)
                        .write_bytes(0, run.len_bytes as usize);
                }
                continue;
            }
            let Some(number) = self.free.pop() else { break };
            self.operations[number as usize] = Operation {
                request: request.0,
                left: *run,
                retries: 0,
            };
            operations += 1;
            let entry = self.entry(number, buffer);
            // SAFETY: the caller leaves the buffer to us until the request ended; it does not before this entry has.
            unsafe { ring.push(entry) };
        }
        if operations == 0 {
            return Begun::Done;
        }
        self.requests[request.0 as usize] = Progress {
            buffer,
            operations,
            errno: 0,
        };
        Begun::InFlight
    }

    /// Whether `user_data` is that of an operation of this executor.
    #[inline]
    pub fn owns(&self, user_data: u64) -> bool {
        user_data & !u64::from(u32::MAX) == self.tag
    }

    /// Whether no operation is in flight.
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.operations.len()
    }

    /// Takes the completion of one of our operations; answers when it was the last one of its request.
    pub fn complete(&mut self, ring: &mut Ring, completion: Completion) -> Option<Ended> {
        let number = u32::try_from(completion.user_data & u64::from(u32::MAX)).ok()?;
        let operation = self.operations.get_mut(number as usize)?;
        let request = operation.request;
        let progress = self.requests.get_mut(request as usize)?;
        match advance(operation, completion.result) {
            Step::Again => {
                let buffer = progress.buffer;
                let entry = self.entry(number, buffer);
                // SAFETY: the request has not ended, so the buffer is still ours.
                unsafe { ring.push(entry) };
                return None;
            }
            Step::Filled => {}
            Step::Failed(errno) => {
                if progress.errno == 0 {
                    progress.errno = errno;
                }
            }
        }
        self.free.push(number);
        progress.operations -= 1;
        if progress.operations > 0 {
            return None;
        }
        let outcome = if progress.errno == 0 {
            Ok(())
        } else {
            Err(progress.errno)
        };
        Some(Ended {
            request: RequestIndex(request),
            outcome,
        })
    }

    fn entry(&self, number: u32, buffer: RequestBuffer) -> squeue::Entry {
        let run = &self.operations[number as usize].left;
        let (file, at) = match run.source {
            RunSource::Disk { disk, at } => (self.files.of(disk), at.get()),
            // It has no position; 0 is accepted and ignored.
            RunSource::Zero => (self.files.zero, 0),
        };
        let file = types::Fixed(file);
        let entry = match buffer {
            RequestBuffer::Registered(index) => {
                // A request's registered buffer starts at address 0: the address is the offset in the request.
                let address = std::ptr::without_provenance_mut(run.request_offset as usize);
                opcode::ReadFixed::new(file, address, run.len_bytes, index)
                    .offset(at)
                    .build()
            }
            RequestBuffer::Memory(start) => {
                let address = start.wrapping_add(run.request_offset as usize);
                opcode::Read::new(file, address, run.len_bytes)
                    .offset(at)
                    .build()
            }
        };
        entry.user_data(self.tag | u64::from(number))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Again,
    Filled,
    Failed(i32),
}

/// Moves an operation on by the result of its last submission.
fn advance(operation: &mut Operation, result: i32) -> Step {
    let Ok(moved) = u32::try_from(result) else {
        let errno = -result;
        if matches!(errno, libc::EAGAIN | libc::EINTR) && operation.retries < TRANSIENT_RETRIES_MAX
        {
            operation.retries += 1;
            return Step::Again;
        }
        return Step::Failed(errno);
    };
    let left = &mut operation.left;
    if moved >= left.len_bytes {
        return Step::Filled;
    }
    if moved == 0 {
        // The file ends before the run does: there is no data to wait for.
        return Step::Failed(libc::EIO);
    }
    left.request_offset += moved;
    left.len_bytes -= moved;
    if let RunSource::Disk { at, .. } = &mut left.source {
        *at = at.plus(u64::from(moved));
    }
    operation.retries = 0;
    Step::Again
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteOffset;

    fn operation(len_bytes: u32) -> Operation {
        let source = RunSource::Disk {
            disk: DiskIndex(0),
            at: ByteOffset::new(1 << 20),
        };
        Operation {
            request: 0,
            left: Run {
                request_offset: 512,
                len_bytes,
                source,
            },
            retries: 0,
        }
    }

    #[test]
    fn short_read_goes_on_where_it_stopped() {
        let mut op = operation(8192);
        assert_eq!(advance(&mut op, 512), Step::Again);
        assert_eq!(op.left.request_offset, 1024);
        assert_eq!(op.left.len_bytes, 7680);
        let RunSource::Disk { at, .. } = op.left.source else {
            panic!("the source changed")
        };
        assert_eq!(at.get(), (1 << 20) + 512);
        assert_eq!(advance(&mut op, 7680), Step::Filled);
    }

    #[test]
    fn end_of_file_is_an_error_not_a_short_success() {
        assert_eq!(advance(&mut operation(4096), 0), Step::Failed(libc::EIO));
    }

    #[test]
    fn transient_errors_are_tried_again_but_not_for_ever() {
        let mut op = operation(4096);
        for _ in 0..TRANSIENT_RETRIES_MAX {
            assert_eq!(advance(&mut op, -libc::EAGAIN), Step::Again);
        }
        assert_eq!(advance(&mut op, -libc::EAGAIN), Step::Failed(libc::EAGAIN));
        assert_eq!(
            advance(&mut operation(4096), -libc::EMEDIUMTYPE),
            Step::Failed(libc::EMEDIUMTYPE)
        );
    }
}
