//! A reactor: one thread, one ring, the queues of many devices.
//!
//! Every turn of the loop is one `io_uring_enter`: it hands over disk reads and commits, and waits. With nothing to do the thread
//! sleeps in it, without a timer. Other threads reach it by a command queue and an eventfd that is read on the ring.

mod checks;
#[cfg(test)]
mod checks_tests;
mod command;
mod commits;
mod copies;
mod devices;
mod failover;
#[cfg(test)]
mod failover_tests;
mod grace;
mod park;
#[cfg(test)]
mod park_tests;
mod reads;
mod requests;
#[cfg(any(test, feature = "rig"))]
pub mod rig;
#[cfg(test)]
mod steady_path_tests;
mod writes;

use std::cell::UnsafeCell;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use bedplate_datapath::engine::executor::{Executor, FileSlots};
use bedplate_datapath::engine::ring::{Completion, Ring, RingConfig};
use bedplate_datapath::plan::{JoinedMax, RunList};
use bedplate_datapath::units::DevId;
use bedplate_datapath::volume::write::{SCRATCH_BYTES, WriteIoList};
use caps::{CapSet, Capability};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use io_uring::{opcode, types};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::buffer_pool::{BufferPool, COPY_BUFFER_BYTES};
use crate::error::TargetError;
use crate::ranges::Ranges;
use crate::replica_events::EventsTo;
use crate::stats::Stopwatch;
use checks::Checks;
pub(crate) use checks::ChecksumsReply;
use command::{Command, Reply};
pub(crate) use command::{NewQueue, NewQueues, Pending, ReactorHandle};
pub(crate) use commits::{AfterGrace, CommitReply};
use devices::{Device, Served};
use failover::{Failing, LateClock};
use grace::Grace;
use park::ForDisk;
pub(crate) use park::Park;
use requests::{Need, Slot};

/// Entries of the submission queue. More wait in the ring's backlog, at the price of a system call.
const SUBMISSIONS: u32 = 1024;
/// Entries of the completion queue: beyond them the kernel allocates.
const COMPLETIONS: u32 = 16_384;
/// Tags of all queues of one reactor: a bound on its memory.
const TAGS_MAX: u32 = 1 << 18;
/// The kernel's limit of a buffer table, `IORING_MAX_REG_BUFFERS`, io_uring/rsrc.c.
pub(crate) const BUFFERS_MAX: u16 = 16_384;

/// Writes that begin or end within a block, in flight at a time; more wait.
const SCRATCH_BUFFERS: u16 = 64;

/// Clusters of the largest map that a core's own cache is sure to keep: 256 KiB of entries, an object of 4 GiB.
const CACHED_CLUSTERS_MAX: usize = 32_768;

/// What a completion is for: the upper half of `user_data`; the lower half is a number.
mod kind {
    /// A FETCH or COMMIT_AND_FETCH: the slot.
    pub(super) const COMMAND: u64 = 1 << 32;
    /// A read or write of the executor: its operation.
    pub(super) const OPERATION: u64 = 2 << 32;
    /// The eventfd.
    pub(super) const WAKE: u64 = 3 << 32;
    /// The clock of late reads.
    pub(super) const TICK: u64 = 4 << 32;
}

/// include/uapi/linux/prctl.h
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Slots of the file table.
const FILE_ZERO: u32 = 0;
const FILE_FIRST_DISK: u32 = 1;

/// Sizes of a reactor; fixed for its life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReactorConfig {
    pub(crate) disks_max: u16,
    pub(crate) devices_max: u32,
    pub(crate) copy_buffers: u16,
    /// Whether the kernel registers requests' pages.
    pub(crate) zero_copy: bool,
    /// Whether devices can be added without a scan of their partitions at START.
    pub(crate) scan_is_optional: bool,
    /// After how long a read that another replica could answer is late.
    pub(crate) read_deadline: Option<Duration>,
    /// See [`Executor::with_buffers_at`]: 0 but in a rig.
    pub(crate) buffers_at: usize,
}

impl ReactorConfig {
    /// File slots of a reactor's ring; `RLIMIT_NOFILE` must allow as many.
    pub(crate) fn file_slots(&self) -> u32 {
        FILE_FIRST_DISK + u32::from(self.disks_max) + self.devices_max
    }
}

pub(super) struct Reactor {
    /// First: fields are dropped in this order.
    _guard: AbortOnPanic,
    number: usize,
    ring: Ring,
    executor: Executor,
    /// The plan being made; kept, since it is large.
    plan: Box<RunList>,
    /// The I/O of a write's step; kept, for the same reason.
    ios: Box<WriteIoList>,
    /// What both join adjacent parts to: by every disk that was here.
    joined_max: JoinedMax,
    /// Buffers for requests' data.
    pool: BufferPool,
    /// Buffers for blocks that writes copy up.
    scratch: BufferPool,
    /// By tag of the reactor: each queue has a contiguous range.
    slots: Vec<Slot>,
    queues: Vec<Option<Served>>,
    free_queues: Vec<u32>,
    devices: BTreeMap<DevId, Device>,
    /// Slots whose request is not begun, by what it waits for, oldest first.
    waiting: [VecDeque<u32>; Need::COUNT],
    /// Slots whose write is tried again in every turn.
    blocked: VecDeque<u32>,
    /// Requests that wait for a disk that has gone, oldest first.
    for_disk: VecDeque<ForDisk>,
    /// Some device has a map that is not likely to be in a cache; see [`Reactor::foresee`].
    foresees: bool,
    /// A write goes on in the next turn, which nothing else brings about.
    has_more: bool,
    /// Requests that rely on what maps say.
    grace: Grace<Arc<AfterGrace>>,
    /// Requests that have had an error, and go on.
    failing: Vec<Failing>,
    /// What was read and is compared with checksums.
    checks: Checks,
    late: LateClock,
    /// Late reads whose requests have gone on without them.
    orphans: u32,
    copy_buffers: u16,
    events: EventsTo,
    /// Questions to committers so far.
    questions: u64,
    /// Requests between their FETCH and their COMMIT.
    working: u32,
    /// When they were delivered.
    stopwatch: Stopwatch,
    tags: Ranges,
    buffers: Ranges,
    buffer_slots: u32,
    /// The first slot for the next queue that finds no range of its own.
    next_shared: u32,
    free_device_files: Vec<u32>,
    /// Whether FETCHes may come by the file table; see `CommandFile`.
    commands_by_table: bool,
    commands: Receiver<Command>,
    /// For answers of committers.
    own_commands: Sender<Command>,
    wake: Arc<EventFd>,
    wake_count: Box<UnsafeCell<u64>>,
    /// Devices whose first FETCHes have not been looked at yet.
    starting: Vec<(DevId, Reply<io::Result<()>>)>,
    leaving: Option<Reply<()>>,
}

/// Starts a reactor's thread, and waits until its ring is ready.
pub(crate) fn spawn(
    number: usize,
    config: ReactorConfig,
    events: EventsTo,
) -> Result<ReactorHandle, TargetError> {
    let failed = |doing| {
        move |source| TargetError::Reactor {
            reactor: number,
            doing,
            source,
        }
    };
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)
        .map_err(|errno| failed("cannot make an eventfd")(errno.into()))
        .map(Arc::new)?;
    let (sender, commands) = unbounded();
    let (ready, is_ready) = bounded(1);
    let reactor_wake = Arc::clone(&wake);
    let commands = (sender.clone(), commands);
    let thread = std::thread::Builder::new()
        .name(format!("ublk-reactor-{number}"))
        .spawn(move || {
            prepare_thread(number);
            match Reactor::new(number, &config, commands, reactor_wake, events) {
                Ok(reactor) => {
                    if !config.scan_is_optional {
                        seem_untrusted(number);
                    }
                    // Whoever waited gave up: there is no one to tell.
                    let _ = ready.send(Ok(()));
                    Some(reactor.run())
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    None
                }
            }
        })
        .map_err(failed("cannot start its thread"))?;
    is_ready
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("its thread ended")))
        .map_err(failed("cannot make its ring"))?;
    Ok(ReactorHandle {
        number,
        commands: sender,
        wake,
        thread: Some(thread),
    })
}

/// Signals are for other threads. And memory that this thread needs must not be waited for by writing to a device that it
/// serves itself (`PR_SET_IO_FLUSHER`).
fn prepare_thread(number: usize) {
    if let Err(errno) = nix::sys::signal::SigSet::all().thread_block() {
        tracing::warn!(reactor = number, %errno, "cannot block signals");
    }
    // SAFETY: no memory is passed.
    if unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) } != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(reactor = number, %error, "cannot set PR_SET_IO_FLUSHER (needs CAP_SYS_RESOURCE)");
    }
}

/// Gives up `CAP_SYS_ADMIN`, after the ring was made, which may need it. The kernel scans no partitions in START of a device
/// that such a thread serves (`nr_privileged_daemon` in drivers/block/ublk_drv.c).
///
/// A scan reads from the very server that is starting the device, while START holds the device's mutex. If that server dies
/// meanwhile, the read waits for the next server, and the next server for the mutex: on Linux 6.12 until the next reboot.
fn seem_untrusted(number: usize) {
    if let Err(error) = caps::drop(None, CapSet::Effective, Capability::CAP_SYS_ADMIN) {
        tracing::warn!(reactor = number, %error, "cannot give up CAP_SYS_ADMIN: a crash while a device starts may block that device");
    }
}

impl Reactor {
    fn new(
        number: usize,
        config: &ReactorConfig,
        (own_commands, commands): (Sender<Command>, Receiver<Command>),
        wake: Arc<EventFd>,
        events: EventsTo,
    ) -> io::Result<Self> {
        // Without zero copy all requests are copied, and the table is that of the copies' buffers.
        let buffer_slots = if config.zero_copy {
            BUFFERS_MAX.into()
        } else {
            0
        };
        let ring = Ring::new(&RingConfig {
            submissions: SUBMISSIONS,
            completions: COMPLETIONS,
            file_slots: config.file_slots(),
            buffer_slots: buffer_slots.max(config.copy_buffers.into()),
        })?;
        let mut pool = BufferPool::new(config.copy_buffers, COPY_BUFFER_BYTES)?;
        if !config.zero_copy
            && let Err(error) = pool.pin(&ring)
        {
            tracing::warn!(reactor = number, %error, "cannot pin buffers for copies: they are somewhat slower");
        }
        ring.install_file(FILE_ZERO, File::open("/dev/zero")?.as_fd())?;
        let first_device = FILE_FIRST_DISK + u32::from(config.disks_max);
        let mut reactor = Self {
            _guard: AbortOnPanic,
            number,
            ring,
            executor: Executor::new(
                FileSlots {
                    zero: FILE_ZERO,
                    first_disk: FILE_FIRST_DISK,
                },
                kind::OPERATION,
            )
            .with_buffers_at(config.buffers_at),
            plan: Box::default(),
            ios: Box::default(),
            joined_max: JoinedMax::ANY,
            pool,
            scratch: BufferPool::new(SCRATCH_BUFFERS, SCRATCH_BYTES)?,
            slots: Vec::new(),
            queues: Vec::new(),
            free_queues: Vec::new(),
            devices: BTreeMap::new(),
            waiting: Default::default(),
            blocked: VecDeque::new(),
            for_disk: VecDeque::new(),
            foresees: false,
            has_more: false,
            grace: Grace::default(),
            failing: Vec::new(),
            checks: Checks::default(),
            late: LateClock::new(config.read_deadline),
            orphans: 0,
            copy_buffers: config.copy_buffers,
            events,
            questions: 0,
            working: 0,
            stopwatch: Stopwatch::default(),
            tags: Ranges::new(TAGS_MAX),
            buffers: Ranges::new(buffer_slots),
            buffer_slots,
            next_shared: 0,
            free_device_files: (first_device..first_device + config.devices_max)
                .rev()
                .collect(),
            // A kernel with auto buffer registration (6.16) has the new tables (6.13).
            commands_by_table: config.zero_copy,
            commands,
            own_commands,
            wake,
            wake_count: Box::new(UnsafeCell::new(0)),
            starting: Vec::new(),
            leaving: None,
        };
        reactor.listen();
        Ok(reactor)
    }

    fn run(mut self) -> Remains {
        loop {
            if let Err(error) = self.enter() {
                tracing::error!(reactor = self.number, %error, "the ring failed: the reactor ends, its devices wait");
                break;
            }
            self.turn();
            if self.leaving.is_some() && self.working == 0 && self.orphans == 0 {
                break;
            }
        }
        self.wind_up()
    }

    /// Hands over what the last turn queued, and waits, unless there is more to do.
    fn enter(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.has_more) {
            self.ring.submit_and_look()
        } else {
            self.ring.submit_and_wait()
        }
    }

    /// All that is to be done now. It queues entries, and enters the kernel for nothing but a device that comes.
    // Not inlined: profiles find it by its name (docs/performance.md).
    #[inline(never)]
    fn turn(&mut self) {
        self.stopwatch.turn();
        self.take_completions();
        self.retry_blocked();
        self.retry_waiting();
        self.answer_started();
        // Dropped: the last reactor that does runs what waits for the grace period.
        drop(self.grace.take_ended());
    }

    fn take_completions(&mut self) {
        loop {
            let count = self.foresee();
            if count == 0 {
                return;
            }
            for _ in 0..count {
                if let Some(completion) = self.ring.next_completion() {
                    self.dispatch(completion);
                }
            }
        }
    }

    /// Looks at the requests of a batch of completions, and has their map entries fetched while the first ones are being worked on, where some map
    /// is too large for a cache. Answers with the number of completions.
    #[inline]
    fn foresee(&mut self) -> usize {
        let ahead = self.ring.look_ahead();
        if self.foresees && ahead.len() > 1 {
            for completion in ahead {
                if completion.user_data & !u64::from(u32::MAX) != kind::COMMAND
                    || completion.result != 0
                {
                    continue;
                }
                // The low half is a number of 32 bits: nothing is cut off.
                #[expect(clippy::cast_possible_truncation)]
                let number = completion.user_data as u32;
                if let Some(slot) = self.slots.get(number as usize)
                    && let Some(Some(queue)) = self.queues.get(slot.queue as usize)
                {
                    let start = queue.descriptors.get(slot.tag).start_sector;
                    queue.stack.prefetch(start.saturating_mul(512));
                }
            }
        }
        ahead.len()
    }

    #[inline]
    fn dispatch(&mut self, completion: Completion) {
        // The low half is a number of 32 bits: nothing is cut off.
        #[expect(clippy::cast_possible_truncation)]
        let number = completion.user_data as u32;
        match completion.user_data & !u64::from(u32::MAX) {
            kind::OPERATION => {
                if let Some(ended) = self.executor.complete(&mut self.ring, completion) {
                    self.io_ended(ended.request.0, ended.outcome, ended.failed);
                }
            }
            kind::COMMAND => self.command_ended(number, completion.result),
            kind::TICK => self.ticked(),
            kind::WAKE => {
                self.listen();
                self.take_commands();
            }
            other => tracing::error!(
                reactor = self.number,
                user_data = other,
                "a completion that nobody asked for"
            ),
        }
    }

    /// Asks to be woken by the next write to the eventfd.
    fn listen(&mut self) {
        let to = self.wake_count.get().cast::<u8>();
        let entry = opcode::Read::new(types::Fd(self.wake.as_raw_fd()), to, 8)
            .build()
            .user_data(kind::WAKE);
        // Not by the file table: see `CommandFile::Descriptor`.
        // SAFETY: the eight bytes are on the heap, are never looked at, and outlive the thread and its reads (see `Remains`). There is one
        // such read at a time.
        unsafe { self.ring.push(entry) };
    }

    fn take_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            // An answer that nobody waits for any more is dropped.
            match command {
                Command::InstallDisk {
                    index,
                    file,
                    undivided_bytes_max,
                    reply,
                } => {
                    self.joined_max = self.joined_max.and(undivided_bytes_max);
                    self.plan.join_at_most(self.joined_max);
                    self.ios.join_at_most(self.joined_max);
                    let _ = reply.send(
                        self.ring
                            .install_file(FILE_FIRST_DISK + u32::from(index.get()), file.as_fd()),
                    );
                }
                Command::RemoveDisk { index, reply } => {
                    let _ = reply.send(
                        self.ring
                            .clear_file(FILE_FIRST_DISK + u32::from(index.get())),
                    );
                }
                Command::Serve { new, reply } => self.serve(new, reply),
                Command::Resize {
                    dev_id,
                    backing,
                    reply,
                } => {
                    self.resize(dev_id, &backing);
                    let _ = reply.send(());
                }
                Command::Park {
                    dev_id,
                    what,
                    reply,
                } => {
                    self.park(dev_id, what);
                    let _ = reply.send(());
                }
                Command::Unpark {
                    dev_id,
                    backing,
                    reply,
                } => {
                    self.unpark(dev_id, backing.as_ref());
                    let _ = reply.send(());
                }
                Command::InFlight { dev_id, reply } => {
                    let _ = reply.send(self.in_flight(dev_id));
                }
                Command::Committed {
                    slot,
                    question,
                    purpose,
                    outcome,
                } => self.committed(slot, question, purpose, outcome),
                Command::Checksums { image, leaf, crcs } => self.checksums_came(image, leaf, crcs),
                Command::Grace { after } => self.grace.ask(after),
                Command::Forget { dev_id, reply } => self.forget(dev_id, reply),
                Command::Leave { reply } => self.leave(reply),
                Command::Ping { reply } => {
                    let _ = reply.send(());
                }
            }
        }
    }

    /// Tells those who started devices how the kernel took the FETCHes: it answers at once when it refuses one.
    fn answer_started(&mut self) {
        if self.starting.is_empty() {
            return;
        }
        let submitted = self.ring.submit();
        self.take_completions();
        for (dev_id, reply) in std::mem::take(&mut self.starting) {
            let refused = match &submitted {
                Ok(()) => self.refused(dev_id),
                Err(error) => Some(error.raw_os_error().unwrap_or(libc::EIO)),
            };
            let _ = reply
                .send(refused.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno))));
        }
    }

    fn leave(&mut self, reply: Reply<()>) {
        self.leaving = Some(reply);
        // Requests that were not begun are the next server's: the kernel issues them again.
        for queue in 0..self.waiting.len() {
            while let Some(slot) = self.waiting[queue].pop_front() {
                self.hold(slot);
            }
        }
        // So are writes that have nothing in flight.
        while let Some(slot) = self.blocked.pop_front() {
            self.abandon(slot);
        }
        self.hold_waiting();
    }

    /// Hands over what is queued, lets go of the mappings, and leaves the ring to whoever joins the thread: see [`Remains`].
    fn wind_up(mut self) -> Remains {
        if let Err(error) = self.ring.submit() {
            tracing::warn!(reactor = self.number, %error, "the last commits were not handed over; their requests are issued again");
        }
        self.queues.clear();
        self.devices.clear();
        if !self.executor.is_idle() {
            // The ring failed, and reads may still land in the pools, and writes on the disks, whatever becomes of the ring. So nobody
            // may hear that a grace period is over: not those who have asked, nor those who still will.
            std::mem::forget(self.pool);
            std::mem::forget(self.scratch);
            self.grace.give_up().for_each(std::mem::forget);
            std::mem::forget(self.commands);
            // Nor that this reactor has left.
            std::mem::forget(self.leaving);
        }
        Remains {
            _ring: self.ring,
            _wake_count: self.wake_count,
            _wake: self.wake,
        }
    }
}

/// What a reactor leaves when its thread ends; to be dropped after that.
///
/// The kernel cancels the thread's FETCHes as it exits, after it has run the deliveries that are queued for it. If the ring were closed
/// before, a kernel worker would cancel them with deliveries still queued, and Linux 6.12 completes such a command twice:
/// see docs/ublk.md, "Fences".
pub(super) struct Remains {
    _ring: Ring,
    _wake_count: Box<UnsafeCell<u64>>,
    _wake: Arc<EventFd>,
}

/// Ends the process if a reactor panics: its devices' clients would hang, and unwinding would close the ring under its FETCHes (see
/// [`Remains`]). The next process recovers the devices.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
