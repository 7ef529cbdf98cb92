//! Carries plans out, of reads and of writes: one `io_uring` operation a run, short and transient results resubmitted, one outcome
//! a request.
//!
//! It never reports success for a request of which one byte is missing, and never reports anything while an operation of
//! the request is in flight. It knows no ublk, and allocates nothing between [`Executor::reserve_requests`] calls.

use io_uring::squeue;

use super::operation::{Buffers, Operation, Step, Way};
use super::ring::{Completion, Ring};
use crate::plan::{DiskIndex, Run, RunSource};
use crate::units::ByteOffset;
use crate::volume::write::WriteIo;

/// Operations in flight of one executor; a longest plan must fit.
pub const OPERATIONS_MAX: u32 = 8192;

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
    /// The same, within a registered buffer: the kernel need not look for its pages and pin them for each I/O.
    Pinned {
        /// The first byte of the request.
        start: *mut u8,
        /// The registered buffer, which begins at or before it and is long enough.
        index: u16,
    },
}

impl RequestBuffer {
    /// Where the bytes are in this process, if they are.
    #[inline]
    fn memory(self) -> Option<*mut u8> {
        match self {
            Self::Registered(_) => None,
            Self::Memory(start) | Self::Pinned { start, .. } => Some(start),
        }
    }
}

/// Memory of a write.
#[derive(Clone, Copy, Debug)]
pub struct WriteBuffers {
    /// The request's data; any for a list that has no `FromRequest`.
    pub data: RequestBuffer,
    /// [`SCRATCH_BYTES`](crate::volume::write::SCRATCH_BYTES); null for a list that has no `FromScratch` and no `ToScratch`.
    pub scratch: *mut u8,
}

/// Which slots of the ring's file table the executor reads and writes.
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

/// What [`Executor::begin_read`] or [`Executor::begin_write`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Operations are in flight; [`Executor::complete`] will name the request when the last one has ended.
    InFlight,
    /// All is done: there was nothing to be asked of a disk.
    Done,
    /// No operation was free for the plan, and nothing was begun. Try again after a completion.
    Full,
}

/// A request, or one list of a write, that ended: its bytes are all where they belong, or an errno (positive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub request: RequestIndex,
    /// How.
    pub outcome: Result<(), i32>,
    /// Of an error, where it was.
    pub failed: Option<FailedIo>,
}

/// The first operation of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedIo {
    /// The disk; `None` for zeros.
    pub disk: Option<DiskIndex>,
    /// Where on the disk.
    pub at: ByteOffset,
    /// Where in the request, or in the scratch buffer.
    pub request_offset: u32,
    /// What was asked for there.
    pub len_bytes: u32,
    /// It was to be read.
    pub is_read: bool,
}

impl FailedIo {
    const NONE: Self = Self {
        disk: None,
        at: ByteOffset::new(0),
        request_offset: 0,
        len_bytes: 0,
        is_read: false,
    };

    fn of(operation: &Operation) -> Self {
        let (disk, at) = match operation.file {
            RunSource::Disk { disk, at } => (Some(disk), at),
            RunSource::Zero => (None, ByteOffset::new(0)),
        };
        Self {
            disk,
            at,
            request_offset: operation.offset,
            len_bytes: operation.len_bytes,
            is_read: matches!(operation.way, Way::IntoRequest | Way::IntoScratch),
        }
    }
}

/// No request: of an operation that is not in flight.
const NOBODY: u32 = u32::MAX;

/// A cache line each.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Progress {
    buffers: Buffers,
    operations: u32,
    /// First error, positive; 0 for none.
    errno: i32,
    /// Where that was; says nothing without an error.
    failed: FailedIo,
}

/// Plans in flight on one [`Ring`].
pub struct Executor {
    files: FileSlots,
    buffers_at: usize,
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
        let idle = Operation::new(NOBODY, Way::IntoRequest, 0, 0, RunSource::Zero);
        Self {
            files,
            buffers_at: 0,
            tag,
            operations: vec![idle; OPERATIONS_MAX as usize].into_boxed_slice(),
            free: (0..OPERATIONS_MAX).rev().collect(),
            requests: Vec::new(),
        }
    }

    /// Says at which address registered buffers begin: 0 for those that ublk registers, which is the default. Others begin where their
    /// memory does.
    #[must_use]
    pub fn with_buffers_at(self, address: usize) -> Self {
        Self {
            buffers_at: address,
            ..self
        }
    }

    /// Makes room for requests numbered below `count`.
    pub fn reserve_requests(&mut self, count: u32) {
        let idle = Progress {
            buffers: Buffers {
                request: RequestBuffer::Registered(0),
                scratch: std::ptr::null_mut(),
            },
            operations: 0,
            errno: 0,
            failed: FailedIo::NONE,
        };
        let count = (count as usize).max(self.requests.len());
        self.requests.resize(count, idle);
    }

    /// Starts to fill `buffer` with what `runs` say. The runs must cover the request; each is at most 1 MiB.
    ///
    /// # Safety
    /// `buffer` must be as long as the runs, and be left alone until the request has ended, whatever becomes of the ring
    /// meanwhile.
    #[inline]
    pub unsafe fn begin_read(
        &mut self,
        ring: &mut Ring,
        request: RequestIndex,
        buffer: RequestBuffer,
        runs: &[Run],
    ) -> Begun {
        if !self.has_room(runs.len()) {
            return Begun::Full;
        }
        let buffers = Buffers {
            request: buffer,
            scratch: std::ptr::null_mut(),
        };
        let mut operations = 0;
        for run in runs {
            if let (RunSource::Zero, Some(start)) = (run.source, buffer.memory()) {
                // SAFETY: the run lies within the buffer, which the caller leaves to us.
                unsafe {
                    start
                        .add(run.request_offset as usize)
                        .write_bytes(0, run.len_bytes as usize);
                }
                continue;
            }
            let operation = Operation::new(
                request.0,
                Way::IntoRequest,
                run.request_offset,
                run.len_bytes,
                run.source,
            );
            // SAFETY: the caller leaves the buffer to us until the request ended; it does not before this operation has.
            operations += u32::from(unsafe { self.start(ring, operation, buffers) });
        }
        self.begun(request, buffers, operations)
    }

    /// Whether there is room for a list of this many.
    #[inline]
    pub fn has_room(&self, operations: usize) -> bool {
        self.free.len() >= operations
    }

    /// Starts a list of a write's I/O; `disk` is the volume's own.
    ///
    /// # Safety
    /// The buffers must be as long as the list says, and be left alone until it has ended, whatever becomes of the ring meanwhile.
    #[inline]
    pub unsafe fn begin_write(
        &mut self,
        ring: &mut Ring,
        request: RequestIndex,
        disk: DiskIndex,
        buffers: WriteBuffers,
        ios: &[WriteIo],
    ) -> Begun {
        if !self.has_room(ios.len()) {
            return Begun::Full;
        }
        let WriteBuffers { data, scratch } = buffers;
        let buffers = Buffers {
            request: data,
            scratch,
        };
        let mut operations = 0;
        for io in ios {
            if let WriteIo::ToScratch {
                scratch_offset,
                len_bytes,
                source: RunSource::Zero,
            } = *io
            {
                // SAFETY: the range lies within the scratch buffer, which the caller leaves to us.
                unsafe {
                    scratch
                        .add(scratch_offset as usize)
                        .write_bytes(0, len_bytes as usize);
                }
                continue;
            }
            let operation = Operation::of_write(request.0, io, disk);
            // SAFETY: the caller leaves the buffers to us until the list ended; it does not before this operation has.
            operations += u32::from(unsafe { self.start(ring, operation, buffers) });
        }
        self.begun(request, buffers, operations)
    }

    /// Hands an operation to the ring; there is one free, or it does nothing and says so.
    ///
    /// # Safety
    /// The memory that it names must be left alone until it has ended.
    #[inline]
    unsafe fn start(&mut self, ring: &mut Ring, operation: Operation, buffers: Buffers) -> bool {
        let Some(number) = self.free.pop() else {
            return false;
        };
        let entry = self.entry(&operation, number, buffers);
        self.operations[number as usize] = operation;
        // SAFETY: the caller vouches for the memory.
        unsafe { ring.push(entry) };
        true
    }

    #[inline]
    fn begun(&mut self, request: RequestIndex, buffers: Buffers, operations: u32) -> Begun {
        if operations == 0 {
            return Begun::Done;
        }
        let progress = &mut self.requests[request.0 as usize];
        progress.buffers = buffers;
        progress.operations = operations;
        progress.errno = 0;
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
    #[inline]
    pub fn complete(&mut self, ring: &mut Ring, completion: Completion) -> Option<Ended> {
        let number = u32::try_from(completion.user_data & u64::from(u32::MAX)).ok()?;
        let operation = self.operations.get_mut(number as usize)?;
        let request = operation.request;
        let progress = self.requests.get_mut(request as usize)?;
        match operation.advance(completion.result) {
            Step::Again => {
                let buffers = progress.buffers;
                let operation = *operation;
                let entry = self.entry(&operation, number, buffers);
                // SAFETY: the request has not ended, so its buffers are still ours.
                unsafe { ring.push(entry) };
                return None;
            }
            Step::Done => {}
            Step::Failed(errno) => {
                if progress.errno == 0 {
                    progress.errno = errno;
                    progress.failed = FailedIo::of(operation);
                }
            }
        }
        operation.request = NOBODY;
        self.free.push(number);
        progress.operations -= 1;
        if progress.operations > 0 {
            return None;
        }
        let (outcome, failed) = if progress.errno == 0 {
            (Ok(()), None)
        } else {
            (Err(progress.errno), Some(progress.failed))
        };
        Some(Ended {
            request: RequestIndex(request),
            outcome,
            failed,
        })
    }

    /// The disks that have not answered yet what a request asked of them. Looks at every operation: not for the request path.
    pub fn disks_of(&self, request: RequestIndex) -> Vec<DiskIndex> {
        let mut disks = Vec::new();
        for operation in self.operations.iter().filter(|op| op.request == request.0) {
            if let RunSource::Disk { disk, .. } = operation.file
                && !disks.contains(&disk)
            {
                disks.push(disk);
            }
        }
        disks
    }

    /// Makes what is in flight of one request that of another one, which has nothing in flight. Looks at every operation, too.
    pub fn move_request(&mut self, from: RequestIndex, to: RequestIndex) {
        debug_assert_eq!(self.requests[to.0 as usize].operations, 0);
        for operation in self.operations.iter_mut().filter(|op| op.request == from.0) {
            operation.request = to.0;
        }
        self.requests[to.0 as usize] = self.requests[from.0 as usize];
        self.requests[from.0 as usize].operations = 0;
    }

    #[inline]
    fn entry(&self, operation: &Operation, number: u32, buffers: Buffers) -> squeue::Entry {
        operation
            .entry(self.files, self.buffers_at, buffers)
            .user_data(self.tag | u64::from(number))
    }
}
