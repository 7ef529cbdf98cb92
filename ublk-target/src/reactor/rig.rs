//! A reactor without ublk, for tests and benches of the steady path: `/dev/null` takes FETCH and COMMIT, and answers each at once.
//!
//! `/dev/null` completes every `IORING_OP_URING_CMD` with 0 (`uring_cmd_null`, drivers/char/mem.c), which is what a FETCH answers when
//! there is a request. Descriptors are a file in memory. So each COMMIT brings the next request of its tag in the same turn, and all
//! that runs is what runs in service: descriptor, map, plan, ring entries, completions, commit. Pages of requests are buffers that
//! are registered once, or, in copy mode, copied to `/dev/null`, which takes them.

use std::fs::{File, OpenOptions};
use std::io;
#[cfg(test)]
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::plan::DiskIndex;
use bedplate_datapath::units::DevId;
use crossbeam::channel::{bounded, unbounded};
use libublk::sys as lib;
use memmap2::{MmapMut, MmapOptions};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::command::Command;
use super::{NewQueue, NewQueues, Reactor, ReactorConfig};
use crate::backing::Backing;
use crate::queue::Descriptors;
use crate::replica_events::EventsTo;
use crate::sys;

/// What the requests are.
#[derive(Clone, Copy, Debug)]
pub struct RigLoad {
    /// Writes instead of reads.
    pub is_write: bool,
    /// Each request's length.
    pub len_bytes: u32,
    /// Requests start at multiples of their length below this.
    pub span_bytes: u64,
    /// Tags.
    pub depth: u16,
    /// Requests' pages are registered buffers; else they are copied.
    pub zero_copy: bool,
    /// After how long a read that another replica could answer is late.
    pub read_deadline: Option<Duration>,
}

/// What a run took.
#[derive(Clone, Copy, Debug, Default)]
pub struct RigRun {
    /// Requests that were answered.
    pub requests: u64,
    /// Time between the return of `io_uring_enter` and the next one: our code's.
    pub ours: Duration,
    /// Time in all.
    pub total: Duration,
    /// Turns of the loop.
    pub turns: u64,
    /// Of the answers, errors: none in a run that says something.
    pub errors: u64,
}

/// The reactor, in the thread that made it.
pub struct Rig {
    reactor: Reactor,
    load: RigLoad,
    descriptors: MmapMut,
    random: u64,
    _pages: MmapMut,
}

impl Rig {
    /// A reactor that serves one queue of a device over `backing`, whose disks are `disks`, by index.
    ///
    /// # Errors
    /// What the kernel has against it.
    pub fn new(load: RigLoad, backing: Backing, disks: Vec<OwnedFd>) -> io::Result<Self> {
        Self::with_events(load, backing, disks, EventsTo::default())
    }

    pub(super) fn with_events(
        load: RigLoad,
        backing: Backing,
        disks: Vec<OwnedFd>,
        events: EventsTo,
    ) -> io::Result<Self> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let (sender, receiver) = unbounded();
        // All tags share them: nobody looks at what is read.
        let page_bytes = usize::try_from(load_bytes(&load)).map_err(io::Error::other)?;
        let mut pages = MmapOptions::new().len(page_bytes).map_anon()?;
        let config = ReactorConfig {
            read_deadline: load.read_deadline,
            buffers_at: pages.as_mut_ptr().addr(),
            disks_max: 8,
            devices_max: 8,
            copy_buffers: 64,
            zero_copy: load.zero_copy,
            scan_is_optional: true,
        };
        let mut reactor = Reactor::new(0, &config, (sender.clone(), receiver), wake, events)?;
        for (index, disk) in (0..).zip(disks) {
            let (reply, answer) = bounded(1);
            let file = Arc::new(disk);
            let index = DiskIndex::new(index);
            let _ = sender.send(Command::InstallDisk {
                index,
                file,
                undivided_bytes_max: None,
                reply,
            });
            reactor.take_commands();
            answer.recv().map_err(io::Error::other)??;
        }
        if load.zero_copy {
            for tag in 0..load.depth {
                // SAFETY: the mapping outlives the ring (see the order of `Rig`'s fields), and is looked at by nobody.
                unsafe {
                    reactor
                        .ring
                        .install_buffer(tag.into(), pages.as_mut_ptr(), page_bytes)?;
                }
            }
        }
        let memory = File::from(memfd_create("rig-descriptors", MFdFlags::MFD_CLOEXEC)?);
        memory.set_len(sys::descriptors_len(load.depth, 4096) as u64)?;
        // SAFETY: the file is ours alone.
        let descriptors = unsafe { MmapOptions::new().map_mut(&memory)? };
        let mut rig = Self {
            reactor,
            load,
            descriptors,
            random: 1,
            _pages: pages,
        };
        for tag in 0..load.depth {
            rig.next_request(tag);
        }
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        let (reply, _answer) = bounded(1);
        let new = NewQueues {
            dev_id: DevId::new(0),
            device: Arc::new(device),
            depth: load.depth,
            auto_buffers: load.zero_copy,
            backing,
            queues: vec![NewQueue {
                queue: 0,
                descriptors: Descriptors::map(&memory, 0, load.depth)?,
                stats: Arc::default(),
            }],
        };
        rig.reactor.serve(new, reply);
        Ok(rig)
    }

    /// Answers so many requests.
    ///
    /// # Errors
    /// The ring's.
    pub fn run(&mut self, requests: u64) -> io::Result<RigRun> {
        let started = Instant::now();
        let (before, errors) = self.answered();
        let mut run = RigRun::default();
        while self.answered().0 - before < requests {
            // Those that the next enter brings.
            for tag in 0..self.load.depth {
                if self.reactor.slots[usize::from(tag)].is_fetching() {
                    self.next_request(tag);
                }
            }
            self.reactor.enter()?;
            let turn = Instant::now();
            self.reactor.turn();
            run.ours += turn.elapsed();
            run.turns += 1;
        }
        let (answered, failed) = self.answered();
        run.requests = answered - before;
        run.errors = failed - errors;
        run.total = started.elapsed();
        Ok(run)
    }

    /// Requests that were answered, and those of them with an error.
    pub(super) fn answered(&self) -> (u64, u64) {
        let queues = self.reactor.queues.iter().flatten();
        queues.fold((0, 0), |(answered, failed), queue| {
            let (of_queue, failed_there) = queue.stats.answered();
            (answered + of_queue, failed + failed_there)
        })
    }

    /// Late reads whose requests went on without them, and that have not landed.
    #[cfg(test)]
    pub(super) fn orphans(&self) -> u32 {
        self.reactor.orphans
    }

    /// Takes so many turns, without waiting and without new requests.
    #[cfg(test)]
    pub(super) fn turns(&mut self, count: u32) {
        for _ in 0..count {
            self.reactor.has_more = true;
            self.reactor.enter().expect("a ring");
            self.reactor.turn();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next request of each tag is a flush.
    #[cfg(test)]
    pub(super) fn flush_next(&mut self) {
        for tag in 0..self.load.depth {
            let at = usize::from(tag) * sys::DESCRIPTOR_BYTES;
            let to = &mut self.descriptors[at..at + sys::DESCRIPTOR_BYTES];
            to[0..4].copy_from_slice(&lib::UBLK_IO_OP_FLUSH.to_ne_bytes());
            to[4..16].fill(0);
        }
    }

    /// Other requests for tags that have been answered.
    #[cfg(test)]
    pub(super) fn next_requests(&mut self) {
        for tag in 0..self.load.depth {
            self.next_request(tag);
        }
    }

    #[cfg(test)]
    pub(super) fn park(&mut self, dev_id: DevId, what: super::Park) {
        self.reactor.park(dev_id, what);
    }

    #[cfg(test)]
    pub(super) fn unpark(&mut self, dev_id: DevId, backing: Option<&Backing>) {
        self.reactor.unpark(dev_id, backing);
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self, dev_id: DevId) -> u32 {
        self.reactor.in_flight(dev_id)
    }

    /// Requests that wait for a disk.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.reactor.for_disk.len()
    }

    /// Requests that were begun and have not ended.
    #[cfg(test)]
    pub(super) fn working(&self) -> u32 {
        self.reactor.working
    }

    /// Puts another file into a disk's place.
    #[cfg(test)]
    pub(super) fn swap(&mut self, index: DiskIndex, disk: &OwnedFd) {
        let slot = super::FILE_FIRST_DISK + u32::from(index.get());
        let installed = self.reactor.ring.install_file(slot, disk.as_fd());
        installed.expect("a place");
    }

    #[cfg(test)]
    pub(super) fn leave(&mut self) {
        let (reply, _answer) = bounded(1);
        self.reactor.leave(reply);
    }

    fn next_request(&mut self, tag: u16) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let places = (self.load.span_bytes / load_bytes(&self.load)).max(1);
        let sector = self.random % places * load_bytes(&self.load) / 512;
        let op = if self.load.is_write {
            lib::UBLK_IO_OP_WRITE
        } else {
            lib::UBLK_IO_OP_READ
        };
        let at = usize::from(tag) * sys::DESCRIPTOR_BYTES;
        let to = &mut self.descriptors[at..at + sys::DESCRIPTOR_BYTES];
        to[0..4].copy_from_slice(&op.to_ne_bytes());
        to[4..8].copy_from_slice(&(self.load.len_bytes / 512).to_ne_bytes());
        to[8..16].copy_from_slice(&sector.to_ne_bytes());
    }
}

fn load_bytes(load: &RigLoad) -> u64 {
    u64::from(load.len_bytes.max(512))
}
