//! A node with volumes on one simulated disk: what a daemon does with its store, and what is known of each volume meanwhile. It crashes, comes
//! back, and compares what is there with what may be there.

mod base;
mod check;
mod operations;
mod recovery;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use bedplate_datapath::live::HeapLive;
use bedplate_datapath::plan::DiskIndex;
use bedplate_datapath::store::{LeftDisk, Store, StoreError, StoreErrorKind};
use bedplate_datapath::units::DevId;
use uuid::Uuid;

use super::front::{Break, Front};
use super::hooked::{Died, HookedDisk};
use super::oracle::Which;
use crate::sim::disk::pages::Pages;
use crate::sim::disk::{EIO, Phase, Sabotage, SimDisk};
use crate::sim::rng::{Rng, mix};

/// The disk of a schedule: the smallest there is.
pub const DISK_BYTES: u64 = 64 << 20;
/// The image's number in the words.
const IMAGE: u8 = 200;
/// Its length: not a whole number of blocks.
const IMAGE_SECTORS: usize = 4 * 256 + 101;
const IMAGE_UUID: Uuid = Uuid::from_u128(0x1a6e);
const DISK: DiskIndex = DiskIndex::new(0);

/// How full the journal's ring is when a schedule begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ring {
    /// As after a checkpoint.
    #[default]
    Empty,
    /// A few more commits, and one of them finds no room. Each open has much to replay.
    NearlyFull,
}

/// Blocks that are left then. More than the commits of the shortest schedules, less than those of the longest.
const BLOCKS_LEFT: u64 = 6;

/// A rule that is broken where the daemon's side cannot break it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tamper {
    /// None.
    #[default]
    Nothing,
    /// What a commit had drained is forgotten by a process crash.
    ForgetDraining,
    /// That a write or flush has failed is forgotten by a process crash.
    ForgetFailure,
    /// The gate is open while what the former process had dirty is still being committed.
    AllocateBeforeCoveringCommit,
    /// Of a disk that comes back without its cache everything is said to have been flushed.
    BelieveAllFlushed,
}

/// What is broken in a schedule.
#[derive(Clone, Copy, Debug, Default)]
pub struct Broken {
    /// By the requests.
    pub breaks: Break,
    /// By the node.
    pub tamper: Tamper,
    /// By the disk.
    pub sabotage: Option<Sabotage>,
}

/// Why nothing goes on.
#[derive(Debug)]
pub enum Halt {
    /// The machine has stopped.
    Stopped,
    /// The disk takes no more writes: a fault.
    Latched,
    /// A promise is broken.
    Violation(String),
}

impl From<String> for Halt {
    fn from(why: String) -> Self {
        Self::Violation(why)
    }
}

/// What is known of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Image {
    There,
    /// A crash came between.
    PerhapsDeleted,
    Deleted,
}

/// What is known of a volume.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug)]
pub struct Known {
    name: String,
    uuid: Uuid,
    which: Which,
    is_clone: bool,
    dev_id: DevId,
    /// One of these, in sectors.
    sizes: Vec<usize>,
    /// One of these.
    wanted: Vec<bool>,
    may_be_absent: bool,
    gone: bool,
    /// Held until the loss is accepted.
    lost: bool,
    /// It was held: what was not flushed may be gone, until it was looked at.
    doubtful: bool,
    /// The disk lost its cache, and the store says that nothing of this volume was in it.
    flushed: bool,
}

/// A node. Kept for the next schedule.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Node {
    /// Its disk.
    pub disk: Rc<RefCell<SimDisk>>,
    /// Its requests.
    pub front: Rc<RefCell<Front>>,
    /// Decides what the node does.
    pub rng: Rng,
    /// By ring: see [`Self::make_base`].
    bases: [Option<Pages>; 2],
    live: HeapLive,
    store: Option<Store<HookedDisk>>,
    known: Vec<Known>,
    boot: u128,
    diskseq: u64,
    broken: Broken,
    /// The allocator knows what is free: after an adoption not before the first commit.
    settled: bool,
    /// Power was lost since the last whole recovery.
    powerless: bool,
    /// Live files were tampered with, or do not match any more.
    may_lose: bool,
    /// A write or flush of the disk failed, and no session was begun since.
    has_failed: bool,
    /// Of a disk that goes while the process lives on: what the process knows of it.
    left: Option<LeftDisk>,
    /// The machine stopped in the middle of a call to the store, which may have begun a commit.
    is_interrupted: bool,
    image: Image,
    /// Images that were deleted.
    pub images_deleted: u64,
    /// Deletions of an image that were refused for its clones.
    pub images_kept: u64,
    ballast: Vec<bedplate_datapath::store::ImportTicket>,
    /// A cluster may be lost until the next open: a request failed with it in its hands.
    leaky: bool,
    uuids: u128,
    /// What was done.
    pub operations: u64,
    /// What is done is printed.
    pub traces: bool,
    /// Volumes that were held.
    pub losses: u64,
    /// Live state that was taken over.
    pub adopted: u64,
    /// Disks that went and came back while the process lived on.
    pub left_behind: u64,
}

impl Default for Node {
    fn default() -> Self {
        let disk = Rc::new(RefCell::new(SimDisk::new(DISK_BYTES, 0)));
        let front = Rc::new(RefCell::new(Front::new(Rc::clone(&disk))));
        Self {
            disk,
            front,
            rng: Rng::new(0),
            bases: [None, None],
            live: HeapLive::default(),
            store: None,
            known: Vec::new(),
            boot: 1,
            diskseq: 1,
            broken: Broken::default(),
            settled: true,
            powerless: false,
            may_lose: false,
            has_failed: false,
            left: None,
            is_interrupted: false,
            image: Image::There,
            images_deleted: 0,
            images_kept: 0,
            ballast: Vec::new(),
            leaky: false,
            uuids: 0,
            operations: 0,
            traces: std::env::var_os("SIM_TRACE").is_some(),
            losses: 0,
            adopted: 0,
            left_behind: 0,
        }
    }
}

impl Node {
    /// A formatted disk with an image on it, open.
    ///
    /// # Errors
    /// When that does not work.
    pub fn reset(&mut self, seed: u64, ring: Ring, broken: Broken) -> Result<(), String> {
        if self.bases[ring as usize].is_none() {
            self.clear(Broken::default());
            self.bases[ring as usize] = Some(self.make_base(ring)?);
        }
        self.clear(broken);
        // Another one than the base was made in.
        self.boot = 2;
        if let Some(base) = &self.bases[ring as usize] {
            self.disk.borrow_mut().reset_to(base, mix(seed));
        }
        self.rng = Rng::new(mix(seed ^ 0xbed5));
        self.front
            .borrow_mut()
            .reset(self.rng.fork(1), broken.breaks);
        self.first_open()?;
        self.disk.borrow_mut().sabotage(broken.sabotage);
        Ok(())
    }

    fn clear(&mut self, broken: Broken) {
        self.store = None;
        self.ballast.clear();
        self.live = HeapLive::default();
        self.known.clear();
        (self.boot, self.diskseq) = (1, 1);
        self.broken = broken;
        (self.powerless, self.may_lose, self.leaky) = (false, false, false);
        self.has_failed = false;
        self.uuids = 0x1000;
        (self.operations, self.losses, self.adopted) = (0, 0, 0);
        (self.left, self.left_behind) = (None, 0);
        self.is_interrupted = false;
        (self.image, self.images_deleted, self.images_kept) = (Image::There, 0, 0);
    }

    /// Volumes that are there.
    pub fn volumes(&self) -> Vec<usize> {
        (0..self.known.len())
            .filter(|at| !self.known[*at].gone && !self.known[*at].may_be_absent)
            .collect()
    }

    /// Whether a volume is attached.
    pub fn is_attached(&self, volume: usize) -> bool {
        self.front
            .borrow()
            .serving
            .get(volume)
            .is_some_and(Option::is_some)
    }

    fn phase(&self, phase: Phase) {
        if self.traces {
            let operation = self.disk.borrow().operations();
            println!("  operation {operation}: {phase:?}");
        }
        self.disk.borrow_mut().enter(phase);
    }

    fn store(&mut self) -> Result<&mut Store<HookedDisk>, Halt> {
        self.store.as_mut().ok_or(Halt::Stopped)
    }

    /// Lets the store do something, and stops with it if the machine stops meanwhile.
    fn call<R>(
        &mut self,
        doing: impl FnOnce(&mut Store<HookedDisk>) -> Result<R, StoreError>,
    ) -> Result<Result<R, StoreError>, Halt> {
        let store = self.store()?;
        match catch_unwind(AssertUnwindSafe(|| doing(store))) {
            Ok(result) => Ok(result),
            Err(panic) if panic.is::<Died>() => {
                self.is_interrupted = true;
                Err(self.look_for_violation().err().unwrap_or(Halt::Stopped))
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    /// What an error of the store means, if it is not one of those that were to be expected.
    fn judge(&mut self, doing: &str, error: &StoreError) -> Halt {
        self.look_for_violation().err().unwrap_or_else(|| {
            if self.disk.borrow().has_crashed() {
                return Halt::Stopped;
            }
            let faulty = self.front.borrow().faulty;
            if faulty
                && (error.errno() == Some(EIO) || error.kind() == StoreErrorKind::ReadOnlyLatched)
            {
                return Halt::Latched;
            }
            Halt::Violation(format!("{doing}: {error}"))
        })
    }

    fn look_for_violation(&self) -> Result<(), Halt> {
        let mut front = self.front.borrow_mut();
        match front.violation.take() {
            Some(why) => Err(Halt::Violation(why)),
            None if front.has_stopped() => Err(Halt::Stopped),
            None => Ok(()),
        }
    }

    /// Lets requests make some steps.
    ///
    /// # Errors
    /// The machine stops, or a promise is broken.
    pub fn ticks(&mut self, steps: u64) -> Result<(), Halt> {
        for _ in 0..steps {
            self.front.borrow_mut().tick();
        }
        self.look_for_violation()
    }
}
