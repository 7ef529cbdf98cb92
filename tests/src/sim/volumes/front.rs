//! Requests in flight, and the scheduler that picks which of them goes on. It also runs in the middle of the store's own work: see
//! [`super::hooked`]. One step is one decision of a request, or one of its I/Os.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bedplate_datapath::plan::{LayerStack, REQUEST_BYTES_MAX, RunList, RunSource};
use bedplate_datapath::units::ByteOffset;
use bedplate_datapath::volume::space::Gate;
use bedplate_datapath::volume::write::{Blocked, WriteIo, WriteIoList, WriteKind, WriteStep};
use bedplate_datapath::volume::{Quarantine, Space, Volume};

use super::oracle::{Moment, Oracle, Rule, Which, image_word};
use super::request::{Request, Server, State, What};
use super::word::{SECTOR, Word};
use crate::sim::disk::{EIO, ESHUTDOWN, SimDisk};
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

    /// Issues a request.
    pub fn issue(&mut self, volume: usize, what: What, first: usize, sectors: usize) {
        let Some(serving) = self.serving.get(volume).and_then(Option::as_ref) else {
            return;
        };
        let which = serving.which;
        let mut request = self.idle.pop().unwrap_or_else(Request::idle);
        request.orphan();
        request.serial = self.next_serial;
        self.next_serial += 1;
        (request.volume, request.what, request.first, request.sectors) =
            (volume, what, first, sectors);
        request.since = self.oracle.tick();
        let floor = self.looking_since();
        request.write = match what {
            What::Write { .. } => self.oracle.issue(which, first, sectors, false, floor),
            What::Zero { .. } => self.oracle.issue(which, first, sectors, true, floor),
            What::Read | What::Flush => super::word::WriteId::BASE,
        };
        self.requests.push(request);
    }

    fn looking_since(&self) -> Moment {
        let reads = self
            .requests
            .iter()
            .filter(|request| request.what == What::Read);
        reads
            .map(|request| request.since)
            .min()
            .unwrap_or(Moment::MAX)
    }

    fn issue_any(&mut self) {
        let open: Vec<usize> = (0..self.serving.len())
            .filter(|at| {
                self.serving[*at]
                    .as_ref()
                    .is_some_and(|serving| !serving.closing)
            })
            .collect();
        let Some(&volume) =
            open.get(usize::try_from(self.rng.below(open.len().max(1) as u64)).unwrap_or(0))
        else {
            return;
        };
        self.to_issue -= 1;
        let sectors = self.serving[volume]
            .as_ref()
            .map_or(1, |serving| serving.sectors);
        let what = match self.rng.below(100) {
            0..50 => What::Write {
                fua: self.rng.percent(6),
            },
            50..68 => What::Zero {
                keep: self.rng.percent(30),
            },
            68..90 => What::Read,
            _ => What::Flush,
        };
        let (first, count) = self.any_range(sectors, what);
        self.issue(volume, what, first, count);
    }

    /// Small mostly, large now and then; aligned to blocks or clusters as guests do, or not at all. Crowded, so that requests meet.
    fn any_range(&mut self, sectors: usize, what: What) -> (usize, usize) {
        let rng = &mut self.rng;
        let mut below = |bound: usize| {
            usize::try_from(rng.below(bound.max(1) as u64)).expect("a number of sectors")
        };
        let is_zero = matches!(what, What::Zero { .. });
        let long = match below(100) {
            0..30 => 8,
            30..55 => 1 + below(16),
            55..78 => 8 * (1 + below(8)),
            78..90 => CLUSTER_SECTORS,
            90..95 => 1 + below(2 * CLUSTER_SECTORS),
            _ => {
                1 + below(if is_zero {
                    sectors
                } else {
                    REQUEST_SECTORS_MAX
                })
            }
        };
        let long = if is_zero && below(100) < 45 {
            CLUSTER_SECTORS * (1 + below(3))
        } else {
            long
        };
        let long = long.min(sectors).min(if is_zero {
            sectors
        } else {
            REQUEST_SECTORS_MAX
        });
        // Half of all requests go to a corner of the volume.
        let area = if below(2) == 0 {
            sectors.min(3 * CLUSTER_SECTORS)
        } else {
            sectors
        };
        let first = below(area).min(sectors - long);
        let align = match below(100) {
            0..25 => 1,
            25..65 => 8,
            _ => CLUSTER_SECTORS.min(if long >= 64 { CLUSTER_SECTORS } else { 8 }),
        };
        (first / align * align, long)
    }

    /// Makes a request go on. False when it was answered.
    fn advance(&mut self, request: &mut Request) -> bool {
        let Some(serving) = self.serving.get(request.volume).and_then(Option::as_ref) else {
            // Its device waits for the next process.
            return true;
        };
        let which = serving.which;
        // As on a reactor: after a resize the next step of every request is the larger volume's. A discard to the end of the smaller one would
        // otherwise drop what was written behind it meanwhile.
        let server = if serving.others.is_empty() {
            serving.server.clone()
        } else if let Some(server) = &request.server {
            server.clone()
        } else {
            let nth = usize::try_from(self.rng.below(1 + serving.others.len() as u64)).unwrap_or(0);
            let server = if nth == 0 {
                &serving.server
            } else {
                &serving.others[nth - 1]
            };
            request.server = Some(server.clone());
            server.clone()
        };
        match request.state {
            State::New => self.begin(request, which, &server),
            State::Blocked => {
                request.serial = self.next_serial;
                self.next_serial += 1;
                self.step(request, which, &server)
            }
            State::Ready => self.step(request, which, &server),
            State::Io => {
                self.one_io(request, which);
                if request.what == What::Read {
                    return request.errno.is_none() && !request.runs.is_empty();
                }
                if request.ios.is_empty() {
                    request
                        .op
                        .io_ended(request.errno.take().map_or(Ok(()), Err));
                    request.state = State::Ready;
                }
                true
            }
            State::Late => {
                self.one_io(request, which);
                if request.ios.is_empty() {
                    self.oracle.acknowledge(request.write, false);
                }
                !request.ios.is_empty()
            }
            State::Commit(number) => {
                if self.breaks == Break::AcknowledgeBeforeCommit || number <= self.commits_ended {
                    self.durable(request, which);
                    return false;
                }
                if self.commits_fail {
                    self.refuse(request, EIO);
                    return false;
                }
                self.wants_commit = true;
                true
            }
        }
    }

    fn begin(&mut self, request: &mut Request, which: Which, server: &Server) -> bool {
        let at = ByteOffset::new((request.first * SECTOR) as u64);
        let len_bytes = (request.sectors * SECTOR) as u64;
        match request.what {
            What::Flush => {
                request.state = State::Commit(self.commits_begun + 1);
                true
            }
            What::Read => {
                let len_bytes = u32::try_from(len_bytes).expect("a request");
                if let Err(error) = server.stack.plan_read(at, len_bytes, &mut self.run_list) {
                    self.violation = Some(format!("a read was not planned: {error}"));
                    return false;
                }
                request.runs.extend_from_slice(self.run_list.as_slice());
                if self.traces {
                    println!(
                        "    read of volume {}, {} + {}: {:?}",
                        request.volume, request.first, request.sectors, request.runs
                    );
                }
                request.state = State::Io;
                true
            }
            What::Write { .. } | What::Zero { .. } => {
                let kind = match request.what {
                    What::Zero { keep } => WriteKind::Zero { keep },
                    _ => WriteKind::Data,
                };
                request.op.begin(kind, at, len_bytes);
                self.step(request, which, server)
            }
        }
    }

    fn step(&mut self, request: &mut Request, which: Which, server: &Server) -> bool {
        request.state = State::Ready;
        let mut list = std::mem::take(&mut self.list);
        let step = request.op.step(&server.stack, &server.volume, &mut list);
        if self.traces {
            println!(
                "    write {} of volume {}, {:?} {} + {}: {step:?} {:?}",
                request.write.0,
                request.volume,
                request.what,
                request.first,
                request.sectors,
                list.as_slice()
            );
        }
        request.ios.clear();
        request.ios.extend_from_slice(list.as_slice());
        self.list = list;
        match step {
            WriteStep::Io => {
                if self.breaks == Break::ClaimWithoutZeroes
                    && matches!(request.what, What::Write { .. })
                {
                    let cluster = CLUSTER_SECTORS * SECTOR;
                    request
                        .ios
                        .retain(|io| !matches!(io, WriteIo::Zeroes { len_bytes, .. } if *len_bytes as usize == cluster));
                }
                if self.breaks == Break::PublishBeforeData && is_last_phase(request) {
                    return self.publish_first(request, which, server);
                }
                request.state = State::Io;
                if request.ios.is_empty() {
                    request.op.io_ended(Ok(()));
                    request.state = State::Ready;
                }
                true
            }
            WriteStep::Blocked(why) => {
                self.wants_commit |= why == Blocked::Space;
                // It holds nothing, and nobody's grace waits for it. Were it otherwise, one that waits for space would wait for itself.
                request.state = State::Blocked;
                true
            }
            WriteStep::Done if request.what == (What::Write { fua: true }) => {
                request.state = State::Commit(self.commits_begun + 1);
                true
            }
            WriteStep::Done => {
                self.oracle.acknowledge(request.write, false);
                false
            }
            WriteStep::Failed(errno) => {
                let full = self
                    .space
                    .as_ref()
                    .is_none_or(|space| space.free_clusters() <= SEGMENTS_MAX);
                if !(self.faulty || errno == ENOSPC && full) {
                    self.violation = Some(format!(
                        "{:?} of volume {} failed with errno {errno}, {} clusters free",
                        request.what,
                        request.volume,
                        self.space.as_ref().map_or(0, |space| space.free_clusters())
                    ));
                }
                self.refuse(request, errno);
                false
            }
        }
    }

    /// Lets a request publish, and carries its I/O out afterwards.
    fn publish_first(&mut self, request: &mut Request, which: Which, server: &Server) -> bool {
        let late = std::mem::take(&mut request.ios);
        request.op.io_ended(Ok(()));
        let mut list = std::mem::take(&mut self.list);
        let step = request.op.step(&server.stack, &server.volume, &mut list);
        request.ios = late;
        if step == WriteStep::Done {
            self.list = list;
            request.state = State::Late;
            return true;
        }
        // Planned again: nothing was published too early.
        while !request.ios.is_empty() && !self.has_stopped() {
            self.one_io(request, which);
        }
        request.ios.clear();
        request.ios.extend_from_slice(list.as_slice());
        self.list = list;
        request.state = if request.ios.is_empty() {
            State::Ready
        } else {
            State::Io
        };
        true
    }

    fn durable(&mut self, request: &Request, which: Which) {
        match request.what {
            What::Flush => self.oracle.flushed(which, request.since),
            _ => self.oracle.acknowledge(request.write, true),
        }
    }

    fn refuse(&mut self, request: &Request, _errno: i32) {
        self.counts.refused += 1;
        if matches!(request.what, What::Write { .. } | What::Zero { .. }) {
            self.oracle.failed(request.write);
        }
    }

    /// Carries out one I/O of a request.
    fn one_io(&mut self, request: &mut Request, which: Which) {
        if request.what == What::Read {
            self.one_run(request, which);
            return;
        }
        let at = usize::try_from(self.rng.below(request.ios.len() as u64)).expect("an I/O");
        let io = request.ios.swap_remove(at);
        let result = self.carry_out(io, request, which);
        if let Err(errno) = result {
            request.errno = Some(errno);
            if errno == ESHUTDOWN {
                // It was in flight when the machine stopped: it may still land, see `stop`.
                request.ios.push(io);
            }
        }
    }

    fn carry_out(&mut self, io: WriteIo, request: &mut Request, which: Which) -> Result<(), i32> {
        let mut disk = self.disk.borrow_mut();
        let outcome = match io {
            WriteIo::FromRequest {
                request_offset,
                len_bytes,
                at,
            } => {
                let first = request.first + request_offset as usize / SECTOR;
                let sectors = first..first + len_bytes as usize / SECTOR;
                self.buffer.clear();
                self.buffer.extend(
                    sectors.map(|sector| self.oracle.word(which, sector, request.write).bits()),
                );
                disk.write_words(at, &self.buffer)
            }
            WriteIo::Zeroes { len_bytes, at } => disk.zero_sectors(at, u64::from(len_bytes)),
            WriteIo::FromScratch {
                scratch_offset,
                len_bytes,
                at,
            } => disk.write_sectors(
                at,
                &request.scratch[scratch_offset as usize..][..len_bytes as usize],
            ),
            WriteIo::ToScratch {
                scratch_offset,
                len_bytes,
                source,
            } => {
                let into = &mut request.scratch[scratch_offset as usize..][..len_bytes as usize];
                match source {
                    RunSource::Zero => into.fill(0),
                    RunSource::Disk { at, .. } => disk.read_sectors(at, into),
                }
                Ok(())
            }
        };
        outcome.map_err(|fault| fault.errno)
    }

    fn one_run(&mut self, request: &mut Request, which: Which) {
        let at = usize::try_from(self.rng.below(request.runs.len() as u64)).expect("a run");
        let run = request.runs.swap_remove(at);
        let rule = Rule::Seen {
            since: request.since,
        };
        let first = request.first + run.request_offset as usize / SECTOR;
        let sectors = run.len_bytes as usize / SECTOR;
        let found = self.look_at(which, first, sectors, run.source, rule);
        if let Err(why) = found
            && !self.unsure
            && !self.has_stopped()
        {
            self.violation = Some(format!("a read since {}: {why}", request.since));
        }
    }

    /// Checks what a run shows.
    fn look_at(
        &mut self,
        which: Which,
        first: usize,
        sectors: usize,
        source: RunSource,
        rule: Rule,
    ) -> Result<(), String> {
        self.fetch(sectors, source);
        self.oracle.check(which, first, &self.found, rule)
    }

    /// What a run shows, into `found`.
    fn fetch(&mut self, sectors: usize, source: RunSource) {
        self.found.clear();
        match source {
            RunSource::Zero => self.found.resize(sectors, Word::ZERO),
            RunSource::Disk { at, .. } => {
                let found = &mut self.found;
                let disk = self.disk.borrow();
                disk.look(at, sectors, |_, word| found.push(Word::repeated(word)));
            }
        }
    }

    /// Reads every sector of a volume and checks it. With `settle`, what is found is what is there from now on.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read_back(
        &mut self,
        which: Which,
        stack: &LayerStack,
        rule: Rule,
        settle: bool,
    ) -> Result<(), String> {
        let sectors = usize::try_from(stack.device_bytes()).expect("a small volume") / SECTOR;
        if sectors > self.oracle.sectors_of(which) {
            return Err(format!(
                "a volume has {sectors} sectors, more than were ever asked for"
            ));
        }
        let mut first = 0;
        while first < sectors {
            let count = (sectors - first).min(REQUEST_SECTORS_MAX);
            let len_bytes = u32::try_from(count * SECTOR).expect("a request");
            stack
                .plan_read(
                    ByteOffset::new((first * SECTOR) as u64),
                    len_bytes,
                    &mut self.run_list,
                )
                .map_err(|error| error.to_string())?;
            for nth in 0..self.run_list.as_slice().len() {
                let run = self.run_list.as_slice()[nth];
                let first = first + run.request_offset as usize / SECTOR;
                self.fetch(run.len_bytes as usize / SECTOR, run.source);
                if settle {
                    self.oracle.settle(which, first, &self.found, rule)?;
                } else {
                    self.oracle.check(which, first, &self.found, rule)?;
                }
            }
            first += count;
        }
        if settle {
            self.oracle.settled(which);
        }
        Ok(())
    }

    /// Reads every sector of an image and checks it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read_image_back(&mut self, stack: &LayerStack, image: u8) -> Result<(), String> {
        let sectors = usize::try_from(stack.device_bytes()).expect("a small image") / SECTOR;
        let mut first = 0;
        while first < sectors {
            let count = (sectors - first).min(REQUEST_SECTORS_MAX);
            let len_bytes = u32::try_from(count * SECTOR).expect("a request");
            let at = ByteOffset::new((first * SECTOR) as u64);
            stack
                .plan_read(at, len_bytes, &mut self.run_list)
                .map_err(|error| error.to_string())?;
            for nth in 0..self.run_list.as_slice().len() {
                let run = self.run_list.as_slice()[nth];
                let first = first + run.request_offset as usize / SECTOR;
                self.fetch(run.len_bytes as usize / SECTOR, run.source);
                let mut words = (first..).zip(&self.found);
                if words.any(|(sector, word)| *word != image_word(image, sector)) {
                    return Err("the image has changed".to_owned());
                }
            }
            first += count;
        }
        Ok(())
    }

    /// A commit begins; answers with its number.
    pub fn commit_begins(&mut self) -> u64 {
        self.wants_commit = false;
        self.commits_begun += 1;
        self.commits_begun
    }

    /// Commit `number` has ended; these clusters are free once nobody uses them.
    pub fn commit_ended(&mut self, number: u64, clusters: Quarantine) {
        self.commits_ended = number;
        // Those whose commit this was have asked again meanwhile.
        self.wants_commit = self
            .requests
            .iter()
            .any(|request| matches!(request.state, State::Commit(wanted) if wanted > number));
        let before = if self.breaks == Break::NoGrace {
            0
        } else {
            self.next_serial
        };
        self.quarantines.push((clusters, before));
        self.release_what_can_be();
    }

    /// A commit failed, and so will every later one.
    pub fn commit_failed(&mut self) {
        self.commits_fail = true;
    }

    fn release_what_can_be(&mut self) {
        if self.quarantines.is_empty() {
            return;
        }
        let oldest = self
            .requests
            .iter()
            .filter(|request| !matches!(request.state, State::New | State::Blocked))
            .map(|request| request.serial)
            .min()
            .unwrap_or(u64::MAX);
        let (ready, waiting) = std::mem::take(&mut self.quarantines)
            .into_iter()
            .partition(|(_, before)| *before <= oldest);
        self.quarantines = waiting;
        let ready: Vec<(Quarantine, u64)> = ready;
        if let Some(space) = &self.space {
            for (clusters, _) in ready {
                space.release(clusters);
            }
        }
    }

    /// Whether clusters wait for requests to end.
    pub fn has_quarantined(&self) -> bool {
        self.quarantines
            .iter()
            .any(|(clusters, _)| !clusters.is_empty())
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

fn is_last_phase(request: &Request) -> bool {
    request
        .ios
        .iter()
        .any(|io| matches!(io, WriteIo::FromRequest { .. }))
}
