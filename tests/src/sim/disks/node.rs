//! A node with several disks, as the daemon runs them: it opens those that are there, merges, and changes images step by step.

use std::collections::BTreeSet;
use std::sync::Arc;

use bedplate_datapath::catalogue::{
    Catalogue, CatalogueState, DiskSays, MergeStep, apply, delete_steps, merge,
};
use bedplate_datapath::rebuild::RebuildRun;
use bedplate_datapath::store::{
    FormatParams, OpenErrorKind, RemoveReplica, SessionStart, Store, StoreError, format,
};
use uuid::Uuid;

use super::truth::{Deleted, ImageTruth, Truth};
use crate::sim::content::{Content, content};
use crate::sim::disk::{Crash, Phase, Sabotage, SimDisk};
use crate::sim::node;
use crate::sim::rng::mix;
use crate::sim::schedule::DISK_BYTES;

/// A rule that the node breaks, to see that the oracle notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Nothing.
    Nothing,
    /// A deletion removes copies and leaves no grave.
    NoGraves,
    /// Graves go at once.
    GravesGoAtOnce,
    /// What disks know of each other's sessions is not looked at.
    NoPeers,
}

/// One step of a trace. Images go by a number, disks by their place.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Import image to a disk, so many copies wanted.
    Import(usize, usize, u32),
    /// Copy an image to a disk, pausing after so many chunks and going on, or `None`.
    Copy(usize, usize, Option<usize>),
    /// Begin a copy and give it up after a chunk.
    GiveUp(usize, usize),
    /// Remove a copy that is not the last.
    Remove(usize, usize),
    /// Delete an image.
    Delete(usize),
    /// Change an image's description.
    Describe(usize, u32),
    /// Merge until nothing is left to do, and check all of it.
    Check,
}

/// Why a session ended early.
#[derive(Debug)]
pub enum Stop {
    /// A disk stopped.
    Crash,
    /// A promise is broken.
    Broken(String),
}

/// Several disks.
#[derive(Clone)]
pub struct Node {
    /// The disks.
    pub disks: Vec<SimDisk>,
    /// Their identities.
    pub uuids: Vec<Uuid>,
    /// Whether each is plugged in.
    pub is_there: Vec<bool>,
    /// What must be on them.
    pub truth: Truth,
    /// What is broken.
    pub broken: Break,
    boot: u128,
    moment: u64,
}

type Stores<'a> = Vec<Store<&'a mut SimDisk>>;

const fn image_uuid(number: usize) -> Uuid {
    Uuid::from_u128(0x1_0000 + number as u128)
}

/// The bytes of an image.
pub fn content_of(number: usize) -> Arc<Content> {
    content(number + 16)
}

impl Node {
    /// With `count` formatted disks.
    ///
    /// # Errors
    /// A format that fails.
    pub fn new(count: usize) -> Result<Self, String> {
        let mut node = Self {
            disks: Vec::new(),
            uuids: Vec::new(),
            is_there: vec![true; count],
            truth: Truth::default(),
            broken: Break::Nothing,
            boot: 1,
            moment: 0,
        };
        for nth in 0..count {
            node.disks.push(SimDisk::new(DISK_BYTES, nth as u64 + 1));
            node.uuids.push(Uuid::nil());
            node.format(nth, nth as u64)?;
        }
        Ok(node)
    }

    /// Makes a disk a new one: what it held is lost.
    ///
    /// # Errors
    /// A format that fails.
    pub fn format(&mut self, nth: usize, seed: u64) -> Result<(), String> {
        let uuid = Uuid::from_u128(u128::from(mix(seed ^ 0xd15c)) << 8 | nth as u128);
        self.disks[nth].enter(Phase::Format);
        let params = FormatParams {
            disk_uuid: uuid,
            hardware_id_hash: [0; 32],
            created_unix_s: 1,
        };
        format(&mut self.disks[nth], &params).map_err(|error| error.to_string())?;
        self.truth.disks.remove(&self.uuids[nth]);
        for image in self.truth.images.values_mut() {
            if let Deleted::Maybe(there) = &mut image.deleted {
                there.remove(&self.uuids[nth]);
            }
        }
        self.uuids[nth] = uuid;
        Ok(())
    }

    /// Every disk breaks this rule from here on.
    pub fn sabotage(&mut self, sabotage: Option<Sabotage>) {
        self.disks
            .iter_mut()
            .for_each(|disk| disk.sabotage(sabotage));
    }

    /// The machine, with all its disks, stops and starts.
    pub fn crash(&mut self, crash: Crash) {
        for (nth, disk) in self.disks.iter_mut().enumerate() {
            disk.crash(match crash {
                Crash::Power { seed } => Crash::Power {
                    seed: mix(seed ^ nth as u64),
                },
                Crash::Process => Crash::Process,
            });
        }
        self.boot += u128::from(crash != Crash::Process);
    }

    /// Runs a session over the disks that are there: opens them, merges, carries `ops` out, closes. With `tolerant`, a disk that stops
    /// leaves the others running, and comes back with what was durable.
    ///
    /// # Errors
    /// See [`Stop`].
    pub fn session(&mut self, ops: &[Op], tolerant: bool) -> Result<(), Stop> {
        self.moment += 1;
        let mut run = Run {
            truth: &mut self.truth,
            broken: self.broken,
            tolerant,
            moment: self.moment * 1000,
        };
        let start = SessionStart {
            boot_id: Uuid::from_u128(self.boot),
            diskseq: None,
        };
        let mut stores: Stores<'_> = Vec::new();
        let there = self.is_there.iter().copied();
        for disk in self
            .disks
            .iter_mut()
            .zip(there)
            .filter(|(_, there)| *there)
            .map(|(disk, _)| disk)
        {
            disk.enter(Phase::Open);
            match Store::open(disk, &start) {
                Ok((mut store, _)) => {
                    store.medium_mut().enter(Phase::Other);
                    stores.push(store);
                }
                Err(error) if error.kind() == OpenErrorKind::Io => {
                    if !tolerant {
                        return Err(Stop::Crash);
                    }
                }
                Err(error) => return Err(Stop::Broken(format!("open: {error}"))),
            }
        }
        let uuids = self.uuids.clone();
        let mut todo = vec![Op::Check];
        todo.extend_from_slice(ops);
        todo.push(Op::Check);
        for op in todo {
            match run.one(&mut stores, &uuids, op) {
                Ok(()) => {}
                Err(Stop::Crash) if tolerant => {
                    // The disk that stopped is gone for this session; the others go on.
                    let (stopped, running): (Stores<'_>, Stores<'_>) = stores
                        .into_iter()
                        .partition(|store| store.is_latched().is_some());
                    let mut running = running;
                    let mut kept = Vec::new();
                    for mut store in running.drain(..) {
                        if store.medium_mut().has_crashed() {
                            store.abandon();
                        } else {
                            kept.push(store);
                        }
                    }
                    for store in stopped {
                        store.abandon();
                    }
                    stores = kept;
                    Run::reopen(&mut stores);
                }
                Err(stop) => return Err(stop),
            }
        }
        for mut store in stores {
            store.medium_mut().enter(Phase::Close);
            match store.close() {
                Ok(disk) => disk.enter(Phase::Other),
                Err(_) if !tolerant => return Err(Stop::Crash),
                Err(_) => {}
            }
        }
        if tolerant {
            // A power cycle of what stopped.
            for (nth, disk) in self.disks.iter_mut().enumerate() {
                if disk.has_crashed() {
                    disk.crash(Crash::Power {
                        seed: mix(self.moment ^ nth as u64),
                    });
                }
            }
        }
        Ok(())
    }
}

struct Run<'t> {
    truth: &'t mut Truth,
    broken: Break,
    tolerant: bool,
    moment: u64,
}

impl Run<'_> {
    fn one(&mut self, stores: &mut Stores<'_>, uuids: &[Uuid], op: Op) -> Result<(), Stop> {
        let at = |stores: &Stores<'_>, disk: usize| {
            stores
                .iter()
                .position(|store| store.disk_uuid() == uuids[disk])
        };
        match op {
            Op::Check => self.settle(stores).map(drop),
            Op::Import(image, disk, copies) => match at(stores, disk) {
                Some(at) if !self.truth.images.contains_key(&image_uuid(image)) => {
                    self.import(stores, at, image, copies)
                }
                _ => Ok(()),
            },
            Op::Copy(image, disk, pause) => match at(stores, disk) {
                Some(at) => self.copy(stores, at, image_uuid(image), pause, false),
                None => Ok(()),
            },
            Op::GiveUp(image, disk) => match at(stores, disk) {
                Some(at) => self.copy(stores, at, image_uuid(image), None, true),
                None => Ok(()),
            },
            Op::Remove(image, disk) => match at(stores, disk) {
                Some(at) => self.remove(stores, at, image_uuid(image)),
                None => Ok(()),
            },
            Op::Delete(image) => self.delete(stores, image_uuid(image)),
            Op::Describe(image, copies) => self.describe(stores, image_uuid(image), copies, &[]),
        }
    }

    /// A disk is gone in the middle of something: copies on their way on the others are forgotten, as by a restart of their actors.
    fn reopen(stores: &mut Stores<'_>) {
        let start = SessionStart {
            boot_id: Uuid::from_u128(0xb007),
            diskseq: None,
        };
        let media: Vec<_> = stores.drain(..).map(Store::abandon).collect();
        for disk in media {
            disk.enter(Phase::Open);
            if let Ok((mut store, _)) = Store::open(disk, &start) {
                store.medium_mut().enter(Phase::Other);
                stores.push(store);
            }
        }
    }

    fn says(&self, stores: &Stores<'_>) -> Vec<DiskSays> {
        let mut says: Vec<DiskSays> = stores.iter().map(Store::says).collect();
        if self.broken == Break::NoPeers {
            for says in &mut says {
                says.peers.clear();
            }
        }
        says
    }

    /// Merges until there is nothing to do, and compares with the truth.
    fn settle(&mut self, stores: &mut Stores<'_>) -> Result<Catalogue, Stop> {
        self.moment += 1;
        self.truth.meeting(&present(stores), self.moment);
        for _ in 0..12 {
            let mut catalogue = merge(&self.says(stores));
            if self.broken == Break::NoPeers {
                let is_other = |step: &MergeStep| !matches!(step, MergeStep::NotePeers { .. });
                catalogue.steps.retain(is_other);
            }
            if catalogue.steps.is_empty() {
                self.moment += 1;
                let checked = self.truth.check(&catalogue, stores, self.moment);
                return checked.map(|()| catalogue).map_err(Stop::Broken);
            }
            for step in &catalogue.steps {
                let Some(at) = stores
                    .iter()
                    .position(|store| store.disk_uuid() == step.disk())
                else {
                    return Err(Stop::Broken(format!("a step for no open disk: {step:?}")));
                };
                call(&mut stores[at], |store| apply(store, step))?
                    .map_err(|error| Stop::Broken(format!("{step:?}: {error}")))?;
            }
        }
        Err(Stop::Broken("merging does not come to an end".to_owned()))
    }

    fn import(
        &mut self,
        stores: &mut Stores<'_>,
        at: usize,
        number: usize,
        copies: u32,
    ) -> Result<(), Stop> {
        let (uuid, content) = (image_uuid(number), content_of(number));
        let disk = stores[at].disk_uuid();
        if self.truth.stale(&present(stores)).contains(&disk) {
            return Ok(());
        }
        self.truth.images.insert(
            uuid,
            ImageTruth {
                content: Arc::clone(&content),
                deleted: Deleted::No,
            },
        );
        self.truth
            .disks
            .entry(disk)
            .or_default()
            .held
            .insert(uuid, false);
        let mut new = node::new_image(&format!("image-{number}"), uuid, &content);
        new.wanted_copies = copies;
        // One image has another replica UUID on each disk.
        new.replica_uuid = replica_uuid(uuid, disk);
        let store = &mut stores[at];
        let mut ticket = call(store, |store| store.begin_import(new))?.map_err(broken)?;
        let sealed = match node::write_image(store, &mut ticket, &content) {
            Ok(sealed) => sealed,
            Err(_) if store.medium_mut().has_crashed() => return Err(Stop::Crash),
            Err(error) => return Err(Stop::Broken(error.to_string())),
        };
        call(store, |store| store.seal(ticket, sealed))?.map_err(broken)?;
        self.truth
            .disks
            .entry(disk)
            .or_default()
            .held
            .insert(uuid, true);
        Ok(())
    }

    /// The image as the node sees it, if it lives and is no riddle.
    fn living(&mut self, stores: &mut Stores<'_>, uuid: Uuid) -> Result<Option<Catalogue>, Stop> {
        let is_known = self
            .truth
            .images
            .get(&uuid)
            .is_some_and(|image| image.deleted == Deleted::No);
        if !is_known {
            return Ok(None);
        }
        let catalogue = self.settle(stores)?;
        let is_shown = catalogue.images.iter().any(|image| image.uuid == uuid);
        Ok(is_shown.then_some(catalogue))
    }

    /// Writes a description to each copy that is there: `add` becomes members.
    fn describe(
        &mut self,
        stores: &mut Stores<'_>,
        uuid: Uuid,
        copies: u32,
        add: &[Uuid],
    ) -> Result<(), Stop> {
        let Some(catalogue) = self.living(stores, uuid)? else {
            return Ok(());
        };
        let Some(image) = catalogue.images.iter().find(|image| image.uuid == uuid) else {
            return Ok(());
        };
        let mut description = image.description.clone();
        description.generation += 1;
        if copies > 0 {
            description.wanted_copies = copies;
        }
        for disk in add
            .iter()
            .filter(|disk| !image.description.member_disks.contains(disk))
        {
            description.member_disks.push(*disk);
        }
        for replica in image
            .replicas
            .iter()
            .filter(|replica| replica.replica_uuid.is_some())
        {
            if replica.state == CatalogueState::Stale {
                continue;
            }
            let Some(store) = stores
                .iter_mut()
                .find(|store| store.disk_uuid() == replica.disk)
            else {
                continue;
            };
            call(store, |store| store.set_description(uuid, &description))?.map_err(broken)?;
        }
        Ok(())
    }

    fn copy(
        &mut self,
        stores: &mut Stores<'_>,
        at: usize,
        uuid: Uuid,
        pause: Option<usize>,
        give_up: bool,
    ) -> Result<(), Stop> {
        let Some(catalogue) = self.living(stores, uuid)? else {
            return Ok(());
        };
        let target = stores[at].disk_uuid();
        if catalogue.stale.iter().any(|stale| stale.disk == target) {
            return Ok(());
        }
        let replicas = catalogue
            .images
            .iter()
            .filter(|image| image.uuid == uuid)
            .flat_map(|image| &image.replicas);
        let (mut sources, mut here) = (Vec::new(), None);
        for replica in replicas {
            if replica.disk == target && replica.replica_uuid.is_some() {
                here = Some(replica.state.clone());
            } else if replica.state == CatalogueState::Ready {
                sources.extend(
                    stores
                        .iter()
                        .position(|store| store.disk_uuid() == replica.disk),
                );
            }
        }
        let Some(from) = sources
            .last()
            .copied()
            .filter(|_| here != Some(CatalogueState::Ready))
        else {
            return Ok(());
        };
        if here.is_none() {
            // Named first: a copy that nobody names would be a stray.
            self.describe(stores, uuid, 0, &[target])?;
        }
        let Some(source) = stores[from].object(uuid).cloned() else {
            return Err(Stop::Broken(format!("the source of image {uuid} is gone")));
        };
        let mut run = if here.is_some() {
            call(&mut stores[at], |store| RebuildRun::resume(store, &source))?
        } else {
            let replica = replica_uuid(uuid, target);
            call(&mut stores[at], |store| {
                RebuildRun::begin(store, &source, replica)
            })?
        }
        .map_err(broken)?;
        let mut chunks = 0;
        while let Some(step) = run.next_step() {
            let step = step.of_clusters(1);
            let chunk = call(&mut stores[from], |store| step.read(store))?.map_err(broken)?;
            if !chunk.is_whole() {
                return Err(Stop::Broken(format!(
                    "a source is bad: {:?}",
                    chunk.bad_blocks()
                )));
            }
            stores[at].medium_mut().enter(Phase::Seal);
            call(&mut stores[at], |store| run.write(store, &chunk))?.map_err(broken)?;
            call(&mut stores[at], |store| run.mark(store))?.map_err(broken)?;
            stores[at].medium_mut().enter(Phase::Other);
            chunks += 1;
            if give_up {
                call(&mut stores[at], |store| run.abort(store))?.map_err(broken)?;
                return Ok(());
            }
            if Some(chunks) == pause {
                run.pause(&mut stores[at]);
                // Between the two, everything adds up.
                self.settle(stores)?;
                run = call(&mut stores[at], |store| RebuildRun::resume(store, &source))?
                    .map_err(broken)?;
            }
        }
        self.truth
            .disks
            .entry(target)
            .or_default()
            .held
            .insert(uuid, false);
        stores[at].medium_mut().enter(Phase::Seal);
        let sealed = call(&mut stores[at], |store| run.seal(store))?;
        stores[at].medium_mut().enter(Phase::Other);
        sealed.map_err(broken)?;
        self.truth
            .disks
            .entry(target)
            .or_default()
            .held
            .insert(uuid, true);
        Ok(())
    }

    fn remove(&mut self, stores: &mut Stores<'_>, at: usize, uuid: Uuid) -> Result<(), Stop> {
        let Some(catalogue) = self.living(stores, uuid)? else {
            return Ok(());
        };
        let disk = stores[at].disk_uuid();
        let Some(image) = catalogue.images.iter().find(|image| image.uuid == uuid) else {
            return Ok(());
        };
        let ready: Vec<Uuid> = image
            .replicas
            .iter()
            .filter(|replica| replica.state == CatalogueState::Ready)
            .map(|replica| replica.disk)
            .collect();
        let others = ready.iter().any(|ready| *ready != disk);
        let has_copy = stores[at].object(uuid).is_some();
        let is_stale = catalogue.stale.iter().any(|stale| stale.disk == disk);
        if !others || !has_copy || is_stale {
            return Ok(());
        }
        let truth = self.truth.disks.entry(disk).or_default();
        truth.held.insert(uuid, false);
        let how = RemoveReplica { other_copies: true };
        call(&mut stores[at], |store| store.remove_replica(uuid, how))?.map_err(broken)?;
        self.truth.disks.entry(disk).or_default().held.remove(&uuid);
        Ok(())
    }

    fn delete(&mut self, stores: &mut Stores<'_>, uuid: Uuid) -> Result<(), Stop> {
        let Some(catalogue) = self.living(stores, uuid)? else {
            return Ok(());
        };
        let mut steps = delete_steps(&catalogue, uuid, 9);
        let there: BTreeSet<Uuid> = steps.iter().map(MergeStep::disk).collect();
        if there.is_empty() {
            return Ok(());
        }
        if let Some(image) = self.truth.images.get_mut(&uuid) {
            image.deleted = Deleted::Maybe(there.clone());
        }
        if self.broken == Break::NoGraves {
            for step in &mut steps {
                let (disk, why) = (
                    step.disk(),
                    bedplate_datapath::catalogue::RemoveWhy::Deleted,
                );
                *step = MergeStep::RemoveReplica { disk, uuid, why };
            }
        }
        for step in &steps {
            let Some(store) = stores
                .iter_mut()
                .find(|store| store.disk_uuid() == step.disk())
            else {
                continue;
            };
            store.medium_mut().enter(Phase::Delete);
            call(store, |store| apply(store, step))?.map_err(broken)?;
            store.medium_mut().enter(Phase::Other);
            if self.broken == Break::GravesGoAtOnce {
                call(store, |store| store.unbury(uuid).or(Ok(())))?.map_err(broken)?;
            }
        }
        if let Some(image) = self.truth.images.get_mut(&uuid) {
            image.deleted = Deleted::Yes;
        }
        for disk in there {
            let truth = self.truth.disks.entry(disk).or_default();
            truth.told.insert(uuid);
            truth.held.remove(&uuid);
        }
        debug_assert!(!self.tolerant || self.moment > 0);
        Ok(())
    }
}

fn present(stores: &Stores<'_>) -> Vec<Uuid> {
    stores.iter().map(Store::disk_uuid).collect()
}

fn replica_uuid(image: Uuid, disk: Uuid) -> Uuid {
    Uuid::from_u128(!image.as_u128() ^ disk.as_u128())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn broken(error: StoreError) -> Stop {
    Stop::Broken(error.to_string())
}

/// A call of a store: what it says, or that its disk stopped.
fn call<'a, T>(
    store: &mut Store<&'a mut SimDisk>,
    what: impl FnOnce(&mut Store<&'a mut SimDisk>) -> Result<T, StoreError>,
) -> Result<Result<T, StoreError>, Stop> {
    let result = what(store);
    if store.medium_mut().has_crashed() {
        return Err(Stop::Crash);
    }
    Ok(result)
}
