//! A request on its way to a volume, driven as a reactor drives it: a step, its I/O one by one at any time and in any order, the next step.

use std::sync::Arc;

use bedplate_datapath::plan::{LayerStack, Run};
use bedplate_datapath::volume::Volume;
use bedplate_datapath::volume::write::{SCRATCH_BYTES, WriteIo, WriteOp};

use super::oracle::Moment;
use super::word::WriteId;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Read.
    Read,
    /// Write, durable when acknowledged or not.
    Write {
        /// With FUA.
        fua: bool,
    },
    /// Discard, or write-zeroes.
    Zero {
        /// Clusters are kept.
        keep: bool,
    },
    /// Flush.
    Flush,
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not begun, or to be begun again by the next process.
    New,
    /// Its next step can be made.
    Ready,
    /// It holds nothing, and its next step can be tried.
    Blocked,
    /// I/O is in flight.
    Io,
    /// Published, with I/O still in flight: a rule is broken.
    Late,
    /// Waits for the commit with this number.
    Commit(u64),
}

/// What serves a request: as the volume was when it came.
#[derive(Clone, Debug)]
pub struct Server {
    /// The volume.
    pub volume: Arc<Volume>,
    /// Its layers.
    pub stack: Arc<LayerStack>,
}

/// A request.
#[derive(Debug)]
pub struct Request {
    /// Requests are numbered as they are taken up; a new process takes them up anew.
    pub serial: u64,
    /// Which volume, see [`super::front::Front`].
    pub volume: usize,
    /// What is asked.
    pub what: What,
    /// First sector.
    pub first: usize,
    /// How many.
    pub sectors: usize,
    /// Of a write: its number.
    pub write: WriteId,
    /// When it was issued.
    pub since: Moment,
    /// Where it is.
    pub state: State,
    /// None before it is begun.
    pub server: Option<Server>,
    /// The machine of a write.
    pub op: WriteOp,
    /// Its two blocks.
    pub scratch: Box<[u8; SCRATCH_BYTES]>,
    /// I/O in flight, of a write.
    pub ios: Vec<WriteIo>,
    /// I/O in flight, of a read.
    pub runs: Vec<Run>,
    /// An I/O of this step failed so.
    pub errno: Option<i32>,
}

impl Request {
    /// One that has nothing to do yet.
    pub fn idle() -> Box<Self> {
        Box::new(Self {
            serial: 0,
            volume: 0,
            what: What::Flush,
            first: 0,
            sectors: 0,
            write: WriteId::BASE,
            since: 0,
            state: State::New,
            server: None,
            op: WriteOp::new(),
            scratch: Box::new([0xee; SCRATCH_BYTES]),
            ios: Vec::new(),
            runs: Vec::new(),
            errno: None,
        })
    }

    /// Its process is gone: nothing is left of it but what was asked.
    pub fn orphan(&mut self) {
        self.state = State::New;
        self.server = None;
        self.op = WriteOp::new();
        self.ios.clear();
        self.runs.clear();
        self.errno = None;
    }

    /// Whether it shares a sector with the range.
    pub fn overlaps(&self, first: usize, sectors: usize) -> bool {
        self.first < first + sectors && first < self.first + self.sectors
    }
}
