//! Requests in flight, and the scheduler that picks which of them goes on. It also runs in the middle of the store's own work: see
//! [`super::hooked`]. One step is one decision of a request, or one of its I/Os.

mod advance;
mod commits;
mod issue;
mod read;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bedplate_datapath::plan::{LayerStack, REQUEST_BYTES_MAX, RunList};
use bedplate_datapath::volume::space::Gate;
use bedplate_datapath::volume::write::WriteIoList;
use bedplate_datapath::volume::{Quarantine, Space, Volume};

use super::oracle::{Oracle, Which};
use super::request::{Request, Server, State};
use super::word::{SECTOR, Word};
use crate::sim::disk::{EIO, SimDisk};
use crate::sim::rng::Rng;

const ENOSPC: i32 = 28;
const CLUSTER_SECTORS: usize = 256;
/// A request that finds no space for one of its clusters gives back what it took for others.
const SEGMENTS_MAX: u64 = 9;
const REQUEST_SECTORS_MAX: usize = REQUEST_BYTES_MAX as usize / SECTOR;

/// A rule of the daemon's side that is broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Break {
    /// None.
    #[default]
    Nothing,
    /// A request goes on, and publishes, before its data has landed.
    PublishBeforeData,
    /// A flush and a FUA write are answered without a commit.
    AcknowledgeBeforeCommit,
    /// Quarantined clusters are released without waiting for the requests in flight.
    NoGrace,
    /// Dropped clusters are released before the commit of their drop.
    ReuseBeforeCommit,
    /// The private cluster that is claimed over tombstones is not zeroed.
    ClaimWithoutZeroes,
}

/// A volume that is being served.
#[derive(Clone, Debug)]
pub struct Serving {
    /// In the oracle.
    pub which: Which,
    /// The volume and its layers, as new requests get them.
    pub server: Server,
    /// Others that new requests get in turn: what a second process on the same memory would have. Empty but when locks are broken on purpose.
    pub others: Vec<Server>,
    /// Its sectors.
    pub sectors: usize,
    /// No new requests: it is about to be detached.
    pub closing: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests answered.
    pub answered: u64,
    /// Of these, with an error that was to be expected.
    pub refused: u64,
    /// Steps.
    pub steps: u64,
}

/// The requests in flight. See the head of this file.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[allow(
    clippy::vec_box,
    reason = "requests are large, and move between lists at each step"
)]
pub struct Front {
    /// Decides.
    pub rng: Rng,
    /// The disk below.
    pub disk: Rc<RefCell<SimDisk>>,
    /// What may be seen.
    pub oracle: Oracle,
    /// By volume number; none for one that is not attached.
    pub serving: Vec<Option<Serving>>,
    /// Free space of the disk, once it is open.
    pub space: Option<Arc<Space>>,
    /// New requests that may still be issued.
    pub to_issue: u64,
    /// The most in flight.
    pub depth: usize,
    /// The machine stops after so many steps, if at all.
    pub steps_left: Option<u64>,
    /// A rule that is broken.
    pub breaks: Break,
    /// The store's next write or flush finds the gate open: a rule is broken.
    pub opens_gate: bool,
    /// What was found wrong.
    pub violation: Option<String>,
    /// A request asks for a commit.
    pub wants_commit: bool,
    /// Errors are to be expected: faults were injected.
    pub faulty: bool,
    /// After a disk error data may be older than what was acknowledged.
    pub unsure: bool,
    /// Each answer is printed.
    pub traces: bool,
    /// What was done.
    pub counts: Counts,
    requests: Vec<Box<Request>>,
    idle: Vec<Box<Request>>,
    next_serial: u64,
    commits_begun: u64,
    commits_ended: u64,
    commits_fail: bool,
    quarantines: Vec<(Quarantine, u64)>,
    list: WriteIoList,
    run_list: RunList,
    buffer: Vec<u64>,
    found: Vec<Word>,
}

impl Front {
    /// One with nothing to do.
    pub fn new(disk: Rc<RefCell<SimDisk>>) -> Self {
        Self {
            rng: Rng::new(0),
            disk,
            oracle: Oracle::default(),
            serving: Vec::new(),
            space: None,
            to_issue: 0,
            depth: 8,
            steps_left: None,
            breaks: Break::Nothing,
            opens_gate: false,
            violation: None,
            wants_commit: false,
            faulty: false,
            unsure: false,
            traces: std::env::var_os("SIM_TRACE").is_some_and(|how| how == "2"),
            counts: Counts::default(),
            requests: Vec::new(),
            idle: Vec::new(),
            next_serial: 0,
            commits_begun: 0,
            commits_ended: 0,
            commits_fail: false,
            quarantines: Vec::new(),
            list: WriteIoList::new(),
            run_list: RunList::new(),
            buffer: Vec::new(),
            found: Vec::new(),
        }
    }

    /// A new schedule; keeps its memory.
    pub fn reset(&mut self, rng: Rng, breaks: Break) {
        self.rng = rng;
        self.oracle.reset();
        self.serving.clear();
        self.space = None;
        self.to_issue = 0;
        self.depth = 8;
        self.steps_left = None;
        self.breaks = breaks;
        self.violation = None;
        self.opens_gate = false;
        self.wants_commit = false;
        self.faulty = false;
        self.unsure = false;
        self.counts = Counts::default();
        self.idle.append(&mut self.requests);
        self.forget_process();
    }

    /// Whether the machine has stopped.
    pub fn has_stopped(&self) -> bool {
        self.disk.borrow().has_crashed()
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.requests.len()
    }

    /// Requests of one volume in flight.
    pub fn in_flight_of(&self, volume: usize) -> usize {
        self.requests
            .iter()
            .filter(|request| request.volume == volume)
            .count()
    }

    /// A volume is attached from here on; answers with its number.
    pub fn serve(&mut self, volume: usize, which: Which, server: Server, sectors: usize) {
        if self.serving.len() <= volume {
            self.serving.resize(volume + 1, None);
        }
        self.serving[volume] = Some(Serving {
            which,
            server,
            others: Vec::new(),
            sectors,
            closing: false,
        });
    }

    /// One step of whoever is picked.
    pub fn tick(&mut self) {
        if self.violation.is_some() || self.has_stopped() {
            return;
        }
        self.counts.steps += 1;
        if let Some(left) = &mut self.steps_left {
            if *left == 0 {
                self.disk.borrow_mut().stop();
                return;
            }
            *left -= 1;
        }
        if self.breaks == Break::ReuseBeforeCommit
            && let Some(space) = self.space.clone()
        {
            space.release(space.take_dropped());
        }
        let may_issue = self.to_issue > 0 && self.requests.len() < self.depth;
        if may_issue && (self.requests.is_empty() || self.rng.percent(30)) {
            self.issue_any();
            return;
        }
        if self.requests.is_empty() {
            return;
        }
        let at = self.pick();
        let mut request = self.requests.swap_remove(at);
        if self.advance(&mut request) {
            let blocked = request.state == State::Blocked;
            self.requests.push(request);
            if blocked {
                self.release_what_can_be();
            }
        } else {
            if self.traces {
                println!(
                    "    answered: volume {} {:?} write {}, sectors {} + {}",
                    request.volume, request.what, request.write.0, request.first, request.sectors
                );
            }
            self.counts.answered += 1;
            request.server = None;
            self.idle.push(request);
            self.release_what_can_be();
        }
    }

    fn pick(&mut self) -> usize {
        let len = self.requests.len();
        let at = usize::try_from(self.rng.below(len as u64)).expect("a request");
        // One that waits for a commit is passed over once, to lose no steps on it.
        if let State::Commit(number) = self.requests[at].state
            && number > self.commits_ended
        {
            return usize::try_from(self.rng.below(len as u64)).expect("a request");
        }
        at
    }

    /// A few steps, in the middle of something else.
    pub fn interleave(&mut self) {
        if std::mem::take(&mut self.opens_gate)
            && let Some(space) = &self.space
        {
            space.set_gate(Gate::Open);
        }
        for _ in 0..self.rng.below(5) {
            self.tick();
        }
    }

    /// The machine has stopped, and has power again. What was in flight lands or not. With `reissue` the kernel keeps the requests
    /// for the next process; else it is gone too.
    pub fn stop(&mut self, reissue: bool) {
        let mut requests = std::mem::take(&mut self.requests);
        loop {
            let busy: Vec<usize> = (0..requests.len())
                .filter(|at| !requests[*at].ios.is_empty())
                .collect();
            if busy.is_empty() {
                break;
            }
            let at = busy[usize::try_from(self.rng.below(busy.len() as u64)).expect("a request")];
            let request = &mut requests[at];
            let nth = usize::try_from(self.rng.below(request.ios.len() as u64)).expect("an I/O");
            let io = request.ios.swap_remove(nth);
            let which = self.serving[request.volume]
                .as_ref()
                .map(|serving| serving.which);
            if let (true, Some(which)) = (self.rng.percent(50), which) {
                // A disk that fails now fails nobody.
                let _ = self.carry_out(io, request, which);
            }
        }
        for mut request in requests {
            request.orphan();
            if reissue {
                request.serial = self.next_serial;
                self.next_serial += 1;
                self.requests.push(request);
            } else {
                self.idle.push(request);
            }
        }
        self.forget_process();
    }

    fn forget_process(&mut self) {
        for serving in &mut self.serving {
            *serving = None;
        }
        self.space = None;
        self.steps_left = None;
        self.quarantines.clear();
        (self.commits_begun, self.commits_ended, self.commits_fail) = (0, 0, false);
        self.wants_commit = false;
    }

    /// The requests of a volume are answered with an error: it is held, and its device gone.
    pub fn fail_all_of(&mut self, volume: usize) {
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.requests)
            .into_iter()
            .partition(|request| request.volume == volume);
        self.requests = kept;
        for request in gone {
            self.refuse(&request, EIO);
            self.idle.push(request);
        }
    }
}

/// How the volume is read and written.
pub fn server(volume: Arc<Volume>, stack: LayerStack) -> Server {
    Server {
        volume,
        stack: Arc::new(stack),
    }
}
