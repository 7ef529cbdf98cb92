//! What other threads ask of a reactor, and how they wake it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bedplate_datapath::plan::DiskIndex;
use bedplate_datapath::units::DevId;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::sys::eventfd::EventFd;
use uuid::Uuid;

use super::Remains;
use super::commits::{AfterGrace, Purpose};
use super::park::Park;
use crate::backing::Backing;
use crate::queue::Descriptors;
use crate::stats::QueueStats;

/// Where an answer goes.
pub(super) type Reply<T> = Sender<T>;

/// A queue that a reactor is to serve.
pub(crate) struct NewQueue {
    pub(crate) queue: u16,
    pub(crate) descriptors: Descriptors,
    pub(crate) stats: Arc<QueueStats>,
}

/// The part of a device that a reactor is to serve.
pub(crate) struct NewQueues {
    pub(crate) dev_id: DevId,
    /// `/dev/ublkcN`.
    pub(crate) device: Arc<File>,
    pub(crate) depth: u16,
    /// The kernel was told to register requests' pages when the device was added.
    pub(crate) auto_buffers: bool,
    pub(crate) backing: Backing,
    pub(crate) queues: Vec<NewQueue>,
}

pub(super) enum Command {
    InstallDisk {
        index: DiskIndex,
        file: Arc<OwnedFd>,
        /// What it takes undivided.
        undivided_bytes_max: Option<u64>,
        reply: Reply<io::Result<()>>,
    },
    RemoveDisk {
        index: DiskIndex,
        reply: Reply<io::Result<()>>,
    },
    /// Answered when every tag is fetched, or one was refused.
    Serve {
        new: NewQueues,
        reply: Reply<io::Result<()>>,
    },
    /// Answered when its queues have the new layers and the new volume.
    Resize {
        dev_id: DevId,
        backing: Backing,
        reply: Reply<()>,
    },
    /// Answered when its queues stand so.
    Park {
        dev_id: DevId,
        what: Park,
        reply: Reply<()>,
    },
    /// Answered when its queues have the new layers and the new volume, if there are any, and are served again.
    Unpark {
        dev_id: DevId,
        backing: Option<Backing>,
        reply: Reply<()>,
    },
    /// Answered with the number of requests that may touch what the device is served from.
    InFlight {
        dev_id: DevId,
        reply: Reply<u32>,
    },
    /// A committer answers; `None` if it is gone.
    Committed {
        slot: u32,
        /// Which of the reactor's questions: the slot may have another request meanwhile.
        question: u64,
        purpose: Purpose,
        outcome: Option<Result<(), i32>>,
    },
    /// Checksums of an image that were asked for; `None` if nobody has them.
    Checksums {
        image: Uuid,
        leaf: u32,
        crcs: Option<Arc<[u32]>>,
    },
    /// To be dropped when every request that is in flight now has ended.
    Grace {
        after: Arc<AfterGrace>,
    },
    /// Answered when nothing of the device is left in the ring.
    Forget {
        dev_id: DevId,
        reply: Reply<()>,
    },
    /// Finish what is in flight, begin nothing, end the thread; the answer is that its channel closes.
    Leave {
        reply: Reply<()>,
    },
    Ping {
        reply: Reply<()>,
    },
}

/// A running reactor.
pub(crate) struct ReactorHandle {
    pub(super) number: usize,
    pub(super) commands: Sender<Command>,
    pub(super) wake: Arc<EventFd>,
    pub(super) thread: Option<JoinHandle<Option<Remains>>>,
}

/// An answer that is on its way.
pub(crate) struct Pending<T>(Receiver<T>);

impl<T> Pending<T> {
    /// Waits for it.
    pub(crate) fn wait(self, timeout: Duration) -> io::Result<T> {
        self.0.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::Error::from_raw_os_error(libc::ETIMEDOUT),
            RecvTimeoutError::Disconnected => io::Error::other("the reactor has ended"),
        })
    }
}

impl<T> Pending<io::Result<T>> {
    /// Waits for it; an answer that does not come is an error too.
    pub(crate) fn wait_ok(self, timeout: Duration) -> io::Result<T> {
        self.wait(timeout)?
    }
}

impl Pending<()> {
    /// Waits until the answer's channel closes, with or without an answer.
    pub(crate) fn wait_closed(&self, timeout: Duration) -> bool {
        !matches!(self.0.recv_timeout(timeout), Err(RecvTimeoutError::Timeout))
    }
}

impl ReactorHandle {
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn install_disk(
        &self,
        index: DiskIndex,
        file: &Arc<OwnedFd>,
        undivided_bytes_max: Option<u64>,
    ) -> Pending<io::Result<()>> {
        let file = Arc::clone(file);
        self.send(|reply| Command::InstallDisk {
            index,
            file,
            undivided_bytes_max,
            reply,
        })
    }

    pub(crate) fn remove_disk(&self, index: DiskIndex) -> Pending<io::Result<()>> {
        self.send(|reply| Command::RemoveDisk { index, reply })
    }

    pub(crate) fn serve(&self, new: NewQueues) -> Pending<io::Result<()>> {
        self.send(|reply| Command::Serve { new, reply })
    }

    pub(crate) fn resize(&self, dev_id: DevId, backing: Backing) -> Pending<()> {
        self.send(|reply| Command::Resize {
            dev_id,
            backing,
            reply,
        })
    }

    pub(crate) fn park(&self, dev_id: DevId, what: Park) -> Pending<()> {
        self.send(|reply| Command::Park {
            dev_id,
            what,
            reply,
        })
    }

    pub(crate) fn unpark(&self, dev_id: DevId, backing: Option<Backing>) -> Pending<()> {
        self.send(|reply| Command::Unpark {
            dev_id,
            backing,
            reply,
        })
    }

    pub(crate) fn in_flight(&self, dev_id: DevId) -> Pending<u32> {
        self.send(|reply| Command::InFlight { dev_id, reply })
    }

    /// A reactor that has ended has no requests: it drops `after` at once.
    pub(crate) fn grace(&self, after: Arc<AfterGrace>) {
        let _ = self.commands.send(Command::Grace { after });
        self.wake();
    }

    /// Makes it take a turn.
    pub(crate) fn wake(&self) {
        // Fails only when the counter is full, and then the reactor is awake.
        let _ = self.wake.write(1);
    }

    /// What wakes it, for those who outlive the handle.
    pub(crate) fn wake_event(&self) -> Arc<EventFd> {
        Arc::clone(&self.wake)
    }

    pub(crate) fn forget(&self, dev_id: DevId) -> Pending<()> {
        self.send(|reply| Command::Forget { dev_id, reply })
    }

    pub(crate) fn leave(&self) -> Pending<()> {
        self.send(|reply| Command::Leave { reply })
    }

    pub(crate) fn ping(&self) -> Pending<()> {
        self.send(|reply| Command::Ping { reply })
    }

    fn send<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Pending<T> {
        let (reply, answer) = bounded(1);
        // A reactor that ended drops the command, and the answer's channel closes: the waiter sees that.
        let _ = self.commands.send(command(reply));
        self.wake();
        Pending(answer)
    }

    /// Waits until the thread has ended; [`ReactorHandle::leave`] must have been sent.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Drops what it left. It cannot have panicked.
            let _ = thread.join();
        }
    }
}
