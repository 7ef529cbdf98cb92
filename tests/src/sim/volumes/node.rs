//! A node with volumes on one simulated disk: what a daemon does with its store, and what is known of each volume meanwhile. It crashes, comes
//! back, and compares what is there with what may be there.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::live::{HeapLive, LiveFiles, LiveName, LiveSection};
use bedplate_datapath::plan::DiskIndex;
use bedplate_datapath::store::{
    Foreknowledge, FormatParams, LeftDisk, NewVolume, ObjectKind, Parent, SessionStart, Store,
    StoreError, StoreErrorKind, format,
};
use bedplate_datapath::units::{BLOCK_BYTES, CLUSTER_BYTES, DevId};
use bedplate_datapath::volume::Volume;
use uuid::Uuid;

use super::front::{Break, Front, server};
use super::hooked::{Died, HookedDisk};
use super::oracle::{Rule, Which, image_word};
use super::request::What;
use super::word::SECTOR;
use crate::sim::content::Content;
use crate::sim::disk::pages::Pages;
use crate::sim::disk::{Crash, EIO, ESHUTDOWN, Phase, Sabotage, SimDisk};
use crate::sim::node;
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
    /// What the store is asked to do now.
    doing: Cell<Phase>,
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
            doing: Cell::new(Phase::Other),
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
        self.doing.set(Phase::Other);
        (self.image, self.images_deleted, self.images_kept) = (Image::There, 0, 0);
    }

    /// The disk that every schedule begins with: formatted, with the image, closed. No schedule crashes before that, so it is made once.
    fn make_base(&mut self, ring: Ring) -> Result<Pages, String> {
        self.disk.borrow_mut().reset(0);
        self.front.borrow_mut().reset(Rng::new(0), Break::Nothing);
        let params = FormatParams {
            disk_uuid: Uuid::from_u128(0xd15c << 100),
            hardware_id_hash: [0; 32],
            created_unix_s: 1,
        };
        format(&mut *self.disk.borrow_mut(), &params)
            .map_err(|error| format!("format: {error}"))?;
        self.first_open()?;
        let mut store = self.store.take().ok_or("the first open leaves a store")?;
        node::import(&mut store, "image", IMAGE_UUID, &image())
            .map_err(|error| format!("import: {error}"))?;
        if ring == Ring::Empty {
            store.close().map_err(|error| format!("close: {error}"))?;
        } else {
            self.store = Some(store);
            self.fill_ring()
                .map_err(|halt| format!("filling the ring: {halt:?}"))?;
            self.store = None;
        }
        Ok(self.disk.borrow_mut().flushed_pages())
    }

    /// Commits of a volume that is then deleted, until few blocks of the ring are left. Not closed: that would make a checkpoint.
    fn fill_ring(&mut self) -> Result<(), Halt> {
        const CLUSTER_SECTORS: usize = 256;
        let geometry = Geometry::of_disk(DISK_BYTES).map_err(|why| why.to_string())?;
        let blocks = geometry.journal().len_bytes / BLOCK_BYTES;
        let filler = self.create(false, CLUSTER_SECTORS)?;
        let filler = filler.ok_or_else(|| "no room for a volume".to_owned())?;
        self.attach(filler)?;
        for nth in 0..blocks - BLOCKS_LEFT {
            // A cluster is claimed, or dropped: each commit has a record or two, and takes a block.
            let what = if nth % 2 == 0 {
                What::Write { fua: false }
            } else {
                What::Zero { keep: false }
            };
            let mut front = self.front.borrow_mut();
            front.issue(filler, what, 0, CLUSTER_SECTORS);
            drop(front);
            self.drain(None)?;
            self.commit()?;
            // So that the oracle forgets the ones before.
            let mut front = self.front.borrow_mut();
            let issued = front.oracle.tick();
            front.oracle.flushed(self.known[filler].which, issued);
        }
        self.detach(filler)?;
        self.delete(filler)
    }

    /// The first open of a schedule, and of the disk.
    fn first_open(&mut self) -> Result<(), String> {
        match self.open() {
            Ok(()) => Ok(()),
            Err(Halt::Violation(why)) => Err(why),
            Err(halt) => Err(format!("the first open: {halt:?}")),
        }
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
        self.doing.set(phase);
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

    /// A commit.
    ///
    /// # Errors
    /// The machine stops, the disk is latched, or a promise is broken.
    pub fn commit(&mut self) -> Result<(), Halt> {
        self.phase(Phase::Commit);
        if !self.settled && self.broken.tamper == Tamper::AllocateBeforeCoveringCommit {
            // From the first write or flush on, which comes after the allocator was rebuilt.
            self.front.borrow_mut().opens_gate = true;
        }
        let was_settled = std::mem::replace(&mut self.settled, true);
        let number = self.front.borrow_mut().commit_begins();
        let result = self.call(Store::commit)?;
        self.phase(Phase::Other);
        match result {
            Ok(clusters) => {
                self.front.borrow_mut().commit_ended(number, clusters);
                self.look_for_violation()?;
                if was_settled {
                    Ok(())
                } else {
                    self.check_owners(None)
                }
            }
            Err(error) => {
                let halt = self.judge("commit", &error);
                self.front.borrow_mut().commit_failed();
                Err(halt)
            }
        }
    }

    /// A checkpoint. The daemon makes one when the journal is full, which takes longer than a schedule.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn checkpoint(&mut self) -> Result<(), Halt> {
        self.phase(Phase::Checkpoint);
        let result = self.call(Store::checkpoint)?;
        self.phase(Phase::Other);
        if let Err(error) = result {
            return Err(self.judge("checkpoint", &error));
        }
        self.operations += 1;
        self.look_for_violation()
    }

    /// Until no request is in flight, of one volume or of all.
    ///
    /// # Errors
    /// As for [`Node::commit`]; or requests never end.
    pub fn drain(&mut self, volume: Option<usize>) -> Result<(), Halt> {
        for turn in 0..20_000 {
            let left = {
                let front = self.front.borrow();
                volume.map_or(front.in_flight(), |volume| front.in_flight_of(volume))
            };
            if left == 0 {
                return Ok(());
            }
            self.ticks(1 + left as u64)?;
            if self.front.borrow().wants_commit && turn % 4 == 0 {
                self.commit()?;
            }
        }
        Err(Halt::Violation("requests never end".to_owned()))
    }

    /// Creates a volume.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn create(&mut self, is_clone: bool, sectors: usize) -> Result<Option<usize>, Halt> {
        let is_clone = is_clone && self.image == Image::There;
        let number = self.known.len();
        self.uuids += 1;
        let uuid = Uuid::from_u128(self.uuids);
        let object = u8::try_from(number % 190).expect("below 190");
        let base = is_clone.then_some((IMAGE, IMAGE_SECTORS));
        let which = self
            .front
            .borrow_mut()
            .oracle
            .add_volume(object, base, sectors);
        let name = format!("volume-{number}");
        self.known.push(Known {
            name: name.clone(),
            uuid,
            which,
            is_clone,
            dev_id: DevId::new(u32::try_from(number).expect("few volumes")),
            sizes: vec![sectors],
            wanted: vec![false],
            may_be_absent: true,
            gone: false,
            lost: false,
            doubtful: false,
            flushed: false,
        });
        self.phase(Phase::Create);
        let new = NewVolume {
            name,
            object_uuid: uuid,
            size_bytes: (sectors * SECTOR) as u64,
            parent: is_clone.then_some(Parent {
                uuid: IMAGE_UUID,
                size_bytes: (IMAGE_SECTORS * SECTOR) as u64,
            }),
            created_unix_s: 1,
        };
        let result = self.call(|store| store.create_volume(new))?;
        self.phase(Phase::Other);
        match result {
            Ok(_) => {
                self.known[number].may_be_absent = false;
                self.operations += 1;
                self.look_for_violation()?;
                Ok(Some(number))
            }
            Err(error) if is_full(&error) => {
                self.known[number].gone = true;
                self.look_for_violation()?;
                Ok(None)
            }
            Err(error) => Err(self.judge("create", &error)),
        }
    }

    /// Attaches a volume.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn attach(&mut self, volume: usize) -> Result<(), Halt> {
        let known = &mut self.known[volume];
        known.wanted.push(true);
        let (uuid, dev_id) = (known.uuid, known.dev_id);
        self.phase(Phase::Attach);
        let result = self.call(|store| {
            store.prepare_attach(uuid)?;
            store.set_attachment(uuid, dev_id, true)
        })?;
        self.phase(Phase::Other);
        if let Err(error) = result {
            return Err(self.judge("attach", &error));
        }
        self.known[volume].wanted = vec![true];
        self.operations += 1;
        self.serve(volume)?;
        self.look_for_violation()
    }

    fn serve(&mut self, volume: usize) -> Result<(), Halt> {
        let (uuid, which) = (self.known[volume].uuid, self.known[volume].which);
        let store = self.store()?;
        let made = store
            .volume_of(uuid)
            .and_then(|volume| Ok((volume, store.layers_of(uuid, DISK)?)));
        let (handle, layers) = made.map_err(|error| self.judge("serving", &error))?;
        let sectors = usize::try_from(handle.size_bytes()).expect("small") / SECTOR;
        self.front
            .borrow_mut()
            .serve(volume, which, server(handle, layers), sectors);
        Ok(())
    }

    /// Detaches a volume: its requests end, what it holds becomes durable.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn detach(&mut self, volume: usize) -> Result<(), Halt> {
        if let Some(Some(serving)) = self.front.borrow_mut().serving.get_mut(volume) {
            serving.closing = true;
        }
        self.drain(Some(volume))?;
        let issued = {
            let mut front = self.front.borrow_mut();
            front.serving[volume] = None;
            front.oracle.tick()
        };
        let known = &mut self.known[volume];
        known.wanted.push(false);
        let (uuid, dev_id, which) = (known.uuid, known.dev_id, known.which);
        self.phase(Phase::Detach);
        let result = self.call(|store| store.set_attachment(uuid, dev_id, false))?;
        self.phase(Phase::Other);
        if let Err(error) = result {
            return Err(self.judge("detach", &error));
        }
        self.known[volume].wanted = vec![false];
        self.operations += 1;
        self.front.borrow_mut().oracle.flushed(which, issued);
        self.look_for_violation()
    }

    /// Deletes a volume that is not attached.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn delete(&mut self, volume: usize) -> Result<(), Halt> {
        let known = &mut self.known[volume];
        known.may_be_absent = true;
        let uuid = known.uuid;
        self.phase(Phase::Delete);
        let result = self.call(|store| store.delete(uuid))?;
        self.phase(Phase::Other);
        if let Err(error) = result {
            return Err(self.judge("delete", &error));
        }
        self.known[volume].gone = true;
        self.operations += 1;
        self.look_for_violation()
    }

    /// Deletes the image: refused while it has clones.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn delete_image(&mut self) -> Result<(), Halt> {
        let has_clones = self.known.iter().any(|known| known.is_clone && !known.gone);
        if self.image == Image::There && !has_clones {
            self.image = Image::PerhapsDeleted;
        }
        self.phase(Phase::Delete);
        let free = self.store()?.free_clusters();
        let was_settled = self.settled;
        let result = self.call(|store| store.delete(IMAGE_UUID))?;
        self.phase(Phase::Other);
        match (self.image, result) {
            (Image::There, Err(error)) if error.kind() == StoreErrorKind::Busy => {
                self.images_kept += 1;
            }
            (Image::Deleted, Err(error)) if error.kind() == StoreErrorKind::NotFound => {}
            (Image::PerhapsDeleted, Ok(())) => {
                self.image = Image::Deleted;
                self.images_deleted += 1;
                let quiet = was_settled && self.front.borrow().in_flight() == 0;
                if quiet && self.store()?.free_clusters() <= free {
                    let why = "the space of a deleted image is not free".to_owned();
                    return Err(Halt::Violation(why));
                }
            }
            (_, Err(error)) => return Err(self.judge("deleting the image", &error)),
            (_, Ok(())) => {
                let why = "an image with clones, or none, was deleted".to_owned();
                return Err(Halt::Violation(why));
            }
        }
        self.operations += 1;
        self.look_for_violation()
    }

    /// Grows a volume.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn resize(&mut self, volume: usize, sectors: usize) -> Result<(), Halt> {
        let known = &mut self.known[volume];
        known.sizes.push(sectors);
        let (uuid, which) = (known.uuid, known.which);
        self.front.borrow_mut().oracle.grow(which, sectors);
        self.phase(Phase::Resize);
        if self.traces {
            println!("  volume {volume}: {sectors} sectors");
        }
        let result = self.call(|store| store.resize_volume(uuid, (sectors * SECTOR) as u64))?;
        self.phase(Phase::Other);
        match result {
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                self.known[volume].sizes.pop();
                return self.look_for_violation();
            }
            Err(error) => return Err(self.judge("resize", &error)),
        }
        self.known[volume].sizes = vec![sectors];
        self.operations += 1;
        if self.is_attached(volume) {
            self.serve(volume)?;
        }
        self.look_for_violation()
    }

    /// The size of a volume that is there.
    pub fn sectors_of(&self, volume: usize) -> usize {
        self.known[volume].sizes[0]
    }

    /// Takes space until `left` clusters are free.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn take_space(&mut self, left: u64) -> Result<(), Halt> {
        self.uuids += 1;
        let uuid = Uuid::from_u128(self.uuids);
        let content = image();
        let name = format!("ballast-{uuid}");
        let new = node::new_image(&name, uuid, &content);
        // It settles an adoption, with a commit.
        let begun = self.call(|store| store.begin_import(new))?;
        let mut ticket = match begun {
            Ok(ticket) => ticket,
            Err(error) => return Err(self.judge("ballast", &error)),
        };
        loop {
            let store = self.store()?;
            let free = store.free_clusters();
            if free <= left
                || store
                    .allocate(&mut ticket, u32::try_from(free - left).unwrap_or(1))
                    .is_err()
            {
                break;
            }
        }
        self.ballast.push(ticket);
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    /// The machine has stopped.
    pub fn give_space(&mut self) -> Result<(), Halt> {
        for ticket in std::mem::take(&mut self.ballast) {
            self.store()?.abort(ticket);
        }
        Ok(())
    }

    /// The machine stops, and comes back as far as the next open.
    pub fn crash(&mut self, crash: Crash) {
        if self.traces {
            println!("  operation {}: {crash:?}", self.disk.borrow().operations());
        }
        self.store = None;
        self.left = None;
        for known in &mut self.known {
            known.flushed = false;
        }
        self.ballast.clear();
        self.leaky = false;
        let mut front = self.front.borrow_mut();
        front.violation = None;
        self.disk.borrow_mut().clear_faults();
        // What was in flight lands, or not, before the power is gone or the claim is free.
        self.disk.borrow_mut().crash(Crash::Process);
        let keeps_requests = crash == Crash::Process;
        front.stop(keeps_requests);
        // A failure outlives processes: it is in the live state until an open has begun a session.
        self.has_failed |= front.faulty;
        if self.has_failed {
            // A write or flush that failed makes live state unbelievable.
            self.may_lose = true;
            if self.broken.tamper == Tamper::ForgetFailure {
                forget_failure(&mut self.live);
            }
        } else {
            // The code went on after its process was dead, and took that for a failure of the disk.
            forget_failure(&mut self.live);
        }
        if crash != Crash::Process {
            self.disk.borrow_mut().crash(crash);
            self.live.clear();
            self.has_failed = false;
            self.boot += 1;
            self.powerless = true;
        } else if self.broken.tamper == Tamper::ForgetDraining {
            forget_draining(&mut self.live);
        }
    }

    /// The disk alone goes, and comes back without its cache: another `diskseq`, the same boot. Where the process was not in the middle of a
    /// change, it lives on, and knows what was flushed.
    pub fn disk_goes(&mut self, seed: u64) {
        let left = self.leave_disk();
        self.crash(Crash::Process);
        if let Some((left, volumes)) = left {
            let is_flushed = |known: &Known| {
                let volume = volumes.iter().find(|volume| volume.uuid() == known.uuid);
                volume.is_some_and(|volume| !volume.has_unflushed())
            };
            let believes_all = self.broken.tamper == Tamper::BelieveAllFlushed;
            for known in &mut self.known {
                known.flushed = believes_all || is_flushed(known);
            }
            let flushed = self.known.iter().filter(|known| known.flushed);
            let flushed = flushed.map(|known| known.uuid).collect();
            self.left = Some(LeftDisk { flushed, ..left });
            self.left_behind += 1;
        }
        self.disk_comes_back(seed);
    }

    fn leave_disk(&self) -> Option<(LeftDisk, Vec<Arc<Volume>>)> {
        let store = self.store.as_ref()?;
        if self.doing.get() != Phase::Other || self.known.iter().any(|known| known.lost) {
            return None;
        }
        let volumes = store.objects();
        let volumes = volumes.filter_map(|object| store.volume_of(object.uuid).ok());
        let left = LeftDisk {
            disk: store.disk_uuid(),
            session: store.session(),
            flushed: Vec::new(),
        };
        Some((left, volumes.collect()))
    }

    fn disk_comes_back(&mut self, seed: u64) {
        self.front.borrow_mut().stop(false);
        self.disk.borrow_mut().crash(Crash::Power { seed });
        self.diskseq += 1;
        self.powerless = true;
        self.may_lose = true;
    }

    /// Somebody removes live files while no process runs.
    pub fn lose_live_files(&mut self) {
        if self.traces {
            println!("  live files are lost");
        }
        self.may_lose = true;
        let names = self.live.list().unwrap_or_default();
        let Some(name) =
            names.get(usize::try_from(self.rng.below(names.len().max(1) as u64)).unwrap_or(0))
        else {
            return;
        };
        if self.rng.percent(40) {
            self.live.clear();
        } else {
            let removed = self.live.remove(*name);
            debug_assert!(removed.is_ok(), "memory");
        }
    }

    /// Opens the disk and compares what is there with what may be there; then serves what is wanted.
    ///
    /// # Errors
    /// The machine stops, a fault, or a promise is broken.
    pub fn open(&mut self) -> Result<(), Halt> {
        self.phase(Phase::Open);
        let start = SessionStart {
            boot_id: Uuid::from_u128(self.boot),
            diskseq: Some(self.diskseq),
        };
        let medium = HookedDisk {
            disk: Rc::clone(&self.disk),
            front: Rc::clone(&self.front),
        };
        let live = Box::new(self.live.clone());
        let known = Foreknowledge {
            keeps_cache: false,
            left: self.left.clone().into_iter().collect(),
        };
        let open = || Store::open_knowing(medium, &start, live, &known);
        let opened = match catch_unwind(AssertUnwindSafe(open)) {
            Ok(opened) => opened,
            Err(panic) if panic.is::<Died>() => return Err(Halt::Stopped),
            Err(panic) => resume_unwind(panic),
        };
        self.phase(Phase::Other);
        let (store, report) = match opened {
            Ok(opened) => opened,
            Err(error) if self.disk.borrow().has_crashed() && error.errno() == Some(ESHUTDOWN) => {
                return Err(Halt::Stopped);
            }
            Err(error) if self.front.borrow().faulty && error.errno() == Some(EIO) => {
                return Err(Halt::Latched);
            }
            Err(error) => return Err(Halt::Violation(format!("open: {error}"))),
        };
        if self.traces {
            println!("  {report:?}");
        }
        if let Some(lost) = report.lost.first()
            && !self.may_lose
            && !self.known.iter().any(|known| known.lost)
        {
            return Err(Halt::Violation(format!("held for no reason: {lost:?}")));
        }
        self.adopted += report.adopted.len() as u64;
        self.front.borrow_mut().space = Some(Arc::clone(store.disk_space()));
        self.settled = report.adopted.is_empty();
        self.store = Some(store);
        self.compare()?;
        self.check_owners(None)?;
        self.check_content()?;
        self.accept_losses()?;
        self.powerless = false;
        self.may_lose = false;
        self.has_failed = false;
        self.left = None;
        for known in &mut self.known {
            known.flushed = false;
        }
        for volume in self.volumes() {
            if self.known[volume].wanted == [true] {
                let uuid = self.known[volume].uuid;
                self.phase(Phase::Attach);
                let result = self.call(|store| store.prepare_attach(uuid))?;
                self.phase(Phase::Other);
                if let Err(error) = result {
                    return Err(self.judge("attach after an open", &error));
                }
                self.serve(volume)?;
            }
        }
        self.look_for_violation()
    }

    /// Which volumes are there, and how they are described.
    fn compare(&mut self) -> Result<(), Halt> {
        let objects: Vec<_> = self.store()?.objects().cloned().collect();
        for object in objects
            .iter()
            .filter(|object| object.kind == ObjectKind::Volume)
        {
            let Some(known) = self
                .known
                .iter_mut()
                .find(|known| known.uuid == object.uuid && !known.gone)
            else {
                return Err(Halt::Violation(format!(
                    "volume {} is there and must not be",
                    object.name
                )));
            };
            let sectors = usize::try_from(object.size_bytes).unwrap_or(usize::MAX) / SECTOR;
            let parent = known.is_clone.then_some(IMAGE_UUID);
            let fits = object.name == known.name
                && object.state.is_ready()
                && object.parent == parent
                && known.sizes.contains(&sectors)
                && known.wanted.contains(&object.want_attached)
                && object.dev_id.is_none_or(|dev_id| dev_id == known.dev_id)
                && (!object.loss_not_accepted || known.lost || self.may_lose);
            if !fits {
                return Err(Halt::Violation(format!(
                    "{known:?} was made, and this is there: {object:?}"
                )));
            }
            known.may_be_absent = false;
            known.sizes = vec![sectors];
            known.wanted = vec![object.want_attached];
            if object.loss_not_accepted && known.flushed && !self.has_failed {
                return Err(Halt::Violation(format!(
                    "{} is held, though all of it was flushed",
                    known.name
                )));
            }
            known.lost = object.loss_not_accepted;
            known.doubtful |= known.lost;
        }
        let image_is_there = objects.iter().any(|object| object.uuid == IMAGE_UUID);
        if !self.known.is_empty() || self.image != Image::There {
            self.image = match (self.image, image_is_there) {
                (Image::There | Image::PerhapsDeleted, true) => Image::There,
                (Image::Deleted | Image::PerhapsDeleted, false) => Image::Deleted,
                (expected, there) => {
                    return Err(Halt::Violation(format!(
                        "the image is {expected:?}, and found: {there}"
                    )));
                }
            };
        }
        for known in self.known.iter_mut().filter(|known| !known.gone) {
            if objects.iter().any(|object| object.uuid == known.uuid) {
                continue;
            }
            if !known.may_be_absent {
                return Err(Halt::Violation(format!(
                    "{} was acknowledged and is not there",
                    known.name
                )));
            }
            known.gone = true;
        }
        Ok(())
    }

    /// No cluster has two owners, and none that has one is free. With `free`, no cluster is lost either.
    fn check_owners(&mut self, free: Option<u64>) -> Result<(), Halt> {
        let volumes = self.volumes();
        let uuids: Vec<Uuid> = volumes.iter().map(|at| self.known[*at].uuid).collect();
        // Before that nothing is known to be free, and nothing is handed out.
        let settled = self.settled;
        let store = self.store()?;
        let space = Arc::clone(store.disk_space());
        let mut owned = std::collections::BTreeSet::new();
        for uuid in uuids.into_iter().chain([IMAGE_UUID]) {
            let Ok(layers) = store.layers_of(uuid, DISK) else {
                // Held, or not imported yet.
                continue;
            };
            for entry in layers.layers[0].map.iter() {
                let pcn = entry.pcn();
                if !pcn.is_none() && (!owned.insert(pcn) || settled && space.is_free(pcn)) {
                    return Err(Halt::Violation(format!(
                        "cluster {pcn} of object {uuid} is free, or has two owners"
                    )));
                }
            }
        }
        if let Some(free) = free {
            let now = store.free_clusters();
            if now != free {
                return Err(Halt::Violation(format!(
                    "{free} clusters were free, and now {now} are"
                )));
            }
        }
        Ok(())
    }

    fn check_content(&mut self) -> Result<(), Halt> {
        for volume in self.volumes() {
            let known = &self.known[volume];
            if known.lost {
                continue;
            }
            let (uuid, which) = (known.uuid, known.which);
            let kept = (self.powerless && !known.flushed) || known.doubtful;
            self.read_back(uuid, which, kept, kept)?;
            self.known[volume].doubtful = false;
        }
        if self.known.is_empty() || self.image == Image::Deleted {
            return Ok(());
        }
        // The image below is as it was.
        let layers = self.store()?.layers_of(IMAGE_UUID, DISK);
        let layers = layers.map_err(|error| self.judge("reading the image back", &error))?;
        self.front
            .borrow_mut()
            .read_image_back(&layers, IMAGE)
            .map_err(Halt::Violation)
    }

    fn read_back(
        &mut self,
        uuid: Uuid,
        which: Which,
        kept: bool,
        settle: bool,
    ) -> Result<(), Halt> {
        let layers = match self.store()?.layers_of(uuid, DISK) {
            Ok(layers) => layers,
            Err(error) => return Err(self.judge("reading back", &error)),
        };
        let mut front = self.front.borrow_mut();
        let rule = if kept {
            Rule::Kept
        } else {
            Rule::Seen {
                since: front.oracle.tick(),
            }
        };
        front.read_back(which, &layers, rule, settle)?;
        Ok(())
    }

    /// Volumes that are held: refused, until the loss is accepted; then what was flushed is there.
    fn accept_losses(&mut self) -> Result<(), Halt> {
        for volume in self.volumes() {
            if !self.known[volume].lost {
                continue;
            }
            self.losses += 1;
            let (uuid, which) = (self.known[volume].uuid, self.known[volume].which);
            self.front.borrow_mut().fail_all_of(volume);
            match self.call(|store| store.prepare_attach(uuid))? {
                Err(error) if error.kind() == StoreErrorKind::LossNotAccepted => {}
                Err(error) => return Err(self.judge("attaching a held volume", &error)),
                Ok(()) => return Err(Halt::Violation("a held volume was attached".to_owned())),
            }
            if let Err(error) = self.call(|store| store.accept_loss(uuid))? {
                return Err(self.judge("accepting a loss", &error));
            }
            self.known[volume].lost = false;
            // What is shown from now on is durable only after this.
            let prepared = self.call(|store| store.prepare_attach(uuid))?;
            if let Err(error) = prepared {
                return Err(self.judge("attaching after a loss", &error));
            }
            self.commit()?;
            self.read_back(uuid, which, true, true)?;
            self.known[volume].doubtful = false;
        }
        Ok(())
    }

    /// Everything ends and is committed: then the same clusters are free after a restart.
    ///
    /// # Errors
    /// As for [`Node::commit`].
    pub fn check_idle(&mut self) -> Result<(), Halt> {
        self.front.borrow_mut().to_issue = 0;
        self.drain(None)?;
        self.give_space()?;
        // The second one frees what the requests that ended during the first one had dropped.
        self.commit()?;
        self.commit()?;
        let store = self.store()?;
        if store.needs_commit() {
            return Err(Halt::Violation(
                "something is left to commit, with nothing in flight".to_owned(),
            ));
        }
        let free = store.free_clusters();
        self.check_owners(None)?;
        self.check_content()?;
        if self.front.borrow().counts.refused > 0 || self.leaky {
            return Ok(());
        }
        self.crash(Crash::Process);
        self.open()?;
        self.commit()?;
        self.check_owners(Some(free))
    }
}

fn is_full(error: &StoreError) -> bool {
    matches!(
        error.kind(),
        StoreErrorKind::NoSpace | StoreErrorKind::TableFull
    )
}

/// What a recovery that does not look at draining marks would see.
/// Word 10 of the disk's live header: see `store/live_state.rs`.
fn forget_failure(live: &mut HeapLive) {
    if live.list().unwrap_or_default().contains(&LiveName::Disk)
        && let Ok(words) = live.map(LiveName::Disk, LiveSection::Header, 512)
    {
        words[10].store(0, std::sync::atomic::Ordering::SeqCst);
    }
}

fn forget_draining(live: &mut HeapLive) {
    for name in live.list().unwrap_or_default() {
        if !matches!(name, LiveName::Volume(_)) {
            continue;
        }
        // However long it is: volumes here have one pair of words.
        if let Ok(words) = live.map(name, LiveSection::Dirty, 2) {
            words[1].store(0, std::sync::atomic::Ordering::SeqCst);
        }
    }
}

/// The image that clones are made of.
fn image() -> Arc<Content> {
    static KEPT: OnceLock<Arc<Content>> = OnceLock::new();
    Arc::clone(KEPT.get_or_init(|| {
        let size_bytes = (IMAGE_SECTORS * SECTOR) as u64;
        let mut content = Content::generate(0, size_bytes, |_| false);
        for (sector, bytes) in content
            .bytes
            .chunks_exact_mut(SECTOR)
            .enumerate()
            .take(IMAGE_SECTORS)
        {
            image_word(IMAGE, sector).fill(bytes);
        }
        debug_assert!(size_bytes > CLUSTER_BYTES, "several clusters");
        Arc::new(content)
    }))
}
