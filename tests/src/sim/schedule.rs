//! A random schedule: one seed decides format, sessions, operations, crashes, faults and rot. Ends with a power loss, a recovery
//! and a full read-back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bedplate_datapath::medium::Medium;
use bedplate_datapath::store::{
    FormatParams, ImportTicket, OpenErrorKind, PreviousSession, SessionStart, Store, StoreError,
    StoreErrorKind, format,
};
use bedplate_datapath::units::{BLOCK_BYTES, ByteOffset, CLUSTER_BYTES, DevId};
use uuid::Uuid;

use super::content::{CONTENTS, content};
use super::disk::{Crash, EIO, ESHUTDOWN, Fault, Phase, Sabotage, SimDisk};
use super::model::Model;
use super::node::{self, NodeError};
use super::rng::{Rng, mix};

/// The disk of a schedule: the smallest there is.
pub const DISK_BYTES: u64 = 64 << 20;

const NAMES: [&str; 5] = ["debian", "alpine", "fedora-42", "base.img", "x"];

/// What a schedule did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Crashes, of both kinds.
    pub crashes: u64,
    /// Recoveries that were checked.
    pub recoveries: u64,
    /// Operations that were acknowledged.
    pub operations: u64,
    /// I/O errors that were injected and met.
    pub faults: u64,
    /// Copies of metadata that rotted.
    pub rotted: u64,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.recoveries += other.recoveries;
        self.operations += other.operations;
        self.faults += other.faults;
        self.rotted += other.rotted;
    }
}

/// Runs the schedule of `seed`, with a rule of the write order broken if `sabotage` says so.
///
/// # Errors
/// The violation that the oracle found, or the panic.
pub fn run(disk: &mut SimDisk, seed: u64, sabotage: Option<Sabotage>) -> Result<Tally, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        disk.reset(mix(seed));
        disk.sabotage(sabotage);
        let rng = Rng::new(mix(seed ^ 0xbed));
        let boot_id = Uuid::from_u128(1);
        let mut run = Run {
            disk,
            rng,
            model: Model::new(Uuid::nil()),
            tally: Tally::default(),
            boot_id,
            uuids: 0,
            contents: seed,
            rotten: false,
            clean: false,
        };
        run.whole().map(|()| run.tally)
    }));
    match outcome {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panic: {}", text.unwrap_or("of unknown kind")))
        }
    }
}

struct Run<'a> {
    disk: &'a mut SimDisk,
    rng: Rng,
    model: Model,
    tally: Tally,
    boot_id: Uuid,
    uuids: u128,
    contents: u64,
    /// A copy rotted and no open has repaired it yet.
    rotten: bool,
    /// The last session ended in order, and nothing rotted since.
    clean: bool,
}

/// How a session ended.
enum End {
    /// The machine stopped, or the disk failed, in the middle of something.
    Broken,
    /// Nothing was on its way.
    Idle,
    /// In order.
    Closed,
}

impl Run<'_> {
    fn whole(&mut self) -> Result<(), String> {
        self.make_disk()?;
        for _ in 0..=self.rng.below(4) {
            let end = self.session()?;
            self.stop(&end);
        }
        self.crash(Crash::Power {
            seed: self.rng.clone().next_u64(),
        });
        self.disk.clear_faults();
        self.disk.enter(Phase::Open);
        let start = SessionStart {
            boot_id: self.boot_id,
            diskseq: None,
        };
        let (mut store, _) = Store::open(&mut *self.disk, &start)
            .map_err(|error| format!("last recovery: {error}"))?;
        self.model.check(&mut store, 0, true)?;
        self.tally.recoveries += 1;
        Ok(())
    }

    /// Formats, over a former Bedplate disk or over poison, and crashes in it now and then.
    fn make_disk(&mut self) -> Result<(), String> {
        // What an unfinished format may have left: any of the disks that were there or were begun.
        let mut former: Vec<Model> = Vec::new();
        let mut again = self.rng.percent(15);
        loop {
            self.model = Model::new(self.next_uuid());
            let params = FormatParams {
                disk_uuid: self.model.disk_uuid(),
                hardware_id_hash: [0; 32],
                created_unix_s: 1,
            };
            if self.rng.percent(20) {
                let steps = self.rng.below(16);
                self.disk.crash_at(self.disk.operations() + steps);
            }
            (self.rotten, self.clean) = (false, false);
            self.disk.enter(Phase::Format);
            let result = format(&mut *self.disk, &params);
            if result.is_ok() {
                self.tally.operations += 1;
                if std::mem::take(&mut again) {
                    // Once more, over a disk with something on it.
                    let end = self.session()?;
                    self.stop(&end);
                    former = vec![self.model.clone()];
                    continue;
                }
                return Ok(());
            }
            if !self.disk.has_crashed() {
                return Err(format!("format failed without a cause: {result:?}"));
            }
            self.crash_somehow();
            former.push(self.model.clone());
            self.check_half_made(&mut former)?;
        }
    }

    /// A format that was not acknowledged leaves the former disk whole, no disk, or the new one, empty.
    fn check_half_made(&mut self, candidates: &mut Vec<Model>) -> Result<(), String> {
        self.disk.enter(Phase::Open);
        let start = SessionStart {
            boot_id: self.boot_id,
            diskseq: None,
        };
        match Store::open(&mut *self.disk, &start) {
            Ok((mut store, _)) => {
                self.tally.recoveries += 1;
                candidates.retain(|model| model.disk_uuid() == store.disk_uuid());
                let Some(model) = candidates.first_mut() else {
                    return Err(format!(
                        "after a crash in format: disk {} was opened",
                        store.disk_uuid()
                    ));
                };
                model
                    .check(&mut store, 0, true)
                    .map_err(|error| format!("after a crash in format: {error}"))
            }
            Err(error) => match error.kind() {
                OpenErrorKind::NotBedplate | OpenErrorKind::SuperblockLost => Ok(()),
                _ => Err(format!("after a crash in format: {error}")),
            },
        }
    }

    fn session(&mut self) -> Result<End, String> {
        if self.rng.percent(20) {
            let steps = self.rng.below(14);
            self.disk.crash_at(self.disk.operations() + steps);
        }
        if self.rng.percent(10) {
            let fault = if self.rng.percent(50) {
                Fault::Error
            } else {
                Fault::Short
            };
            let steps = self.rng.below(60);
            self.disk.inject(self.disk.operations() + steps, fault);
        }
        self.disk.enter(Phase::Open);
        // The disk is lent out for the session, and `self` is needed for the rest.
        let mut disk = std::mem::replace(self.disk, SimDisk::new(0, 0));
        let result = self.session_on(&mut disk);
        *self.disk = disk;
        self.disk.clear_faults();
        result
    }

    fn session_on(&mut self, disk: &mut SimDisk) -> Result<End, String> {
        let start = SessionStart {
            boot_id: self.boot_id,
            diskseq: None,
        };
        let closed_in_order = std::mem::take(&mut self.clean);
        let (mut store, report) = match Store::open(&mut *disk, &start) {
            Ok(opened) => opened,
            Err(error) if error.kind() == OpenErrorKind::Io && error.errno() == Some(EIO) => {
                self.tally.faults += 1;
                return Ok(End::Broken);
            }
            Err(error) if error.errno() == Some(ESHUTDOWN) => return Ok(End::Broken),
            Err(error) => return Err(format!("open: {error}")),
        };
        store.medium_mut().enter(Phase::Other);
        if closed_in_order
            && (report.previous != PreviousSession::Clean || !report.repairs.is_empty())
        {
            return Err(format!(
                "a disk that was closed in order opens with {report:?}"
            ));
        }
        self.rotten = false;
        self.tally.recoveries += 1;
        let read_back = self.rng.percent(50);
        self.model.check(&mut store, 0, read_back)?;

        let mut ballast = Vec::new();
        for _ in 0..=self.rng.below(5) {
            if self.rng.percent(25) {
                let steps = self.rng.below(24);
                let now = store.medium_mut().operations();
                store.medium_mut().crash_at(now + steps);
            }
            match self.operation(&mut store, &mut ballast) {
                Ok(()) => self.tally.operations += 1,
                Err(Trouble::Expected) => {}
                Err(Trouble::Violation(why)) => return Err(why),
                Err(Trouble::Io(why)) => {
                    if store.medium_mut().has_crashed() {
                        return Ok(End::Broken);
                    }
                    if !why.contains("os error 5") {
                        return Err(why);
                    }
                    self.tally.faults += 1;
                    self.check_latch(&mut store)?;
                    return Ok(End::Broken);
                }
            }
            let taken = ballast.iter().map(ImportTicket::taken_clusters).sum();
            self.model
                .check(&mut store, taken, false)
                .map_err(|why| format!("in a session: {why}"))?;
        }
        if self.rng.percent(50) {
            return Ok(End::Idle);
        }
        store.medium_mut().enter(Phase::Close);
        match store.close() {
            Ok(_) => Ok(End::Closed),
            Err(error) if matches!(error.errno(), Some(ESHUTDOWN | EIO)) => Ok(End::Broken),
            Err(error) => Err(format!("close: {error}")),
        }
    }

    /// After a failed metadata write, nothing is written any more.
    fn check_latch(&mut self, store: &mut Store<&mut SimDisk>) -> Result<(), String> {
        if store.is_latched().is_none() {
            // It was a write of image bytes: no harm to the metadata.
            return Ok(());
        }
        let before = store.medium_mut().operations();
        let uuid = self.next_uuid();
        let refused = node::import(store, "after-the-fault", uuid, &content(0));
        match refused {
            Err(NodeError::Store(error)) if error.kind() == StoreErrorKind::ReadOnlyLatched => {}
            other => return Err(format!("a latched disk took an import: {other:?}")),
        }
        for uuid in self.model.present() {
            match store.delete(uuid) {
                Err(error) if error.kind() == StoreErrorKind::ReadOnlyLatched => {}
                other => return Err(format!("a latched disk took a delete: {other:?}")),
            }
        }
        if store.medium_mut().operations() != before {
            return Err("a latched disk was written to".to_owned());
        }
        Ok(())
    }

    fn operation(
        &mut self,
        store: &mut Store<&mut SimDisk>,
        ballast: &mut Vec<ImportTicket>,
    ) -> Result<(), Trouble> {
        store.medium_mut().enter(Phase::Other);
        match self.rng.below(100) {
            0..40 => self.import(store),
            40..60 => self.delete(store),
            60..75 => self.attach(store),
            75..85 => self.abort(store),
            85..92 => self.verify(store),
            _ => self.ballast(store, ballast),
        }
    }

    fn import(&mut self, store: &mut Store<&mut SimDisk>) -> Result<(), Trouble> {
        let uuid = self.next_uuid();
        let name = self.any_name();
        let content = self.next_content();
        let taken = self.model.has_name(name);
        let begun = store.begin_import(node::new_image(name, uuid, &content));
        let mut ticket = match begun {
            Ok(_) if taken => {
                return Err(Trouble::Violation(format!(
                    "the name {name} was given twice"
                )));
            }
            Err(error) if taken && error.kind() == StoreErrorKind::NameTaken => {
                return Err(Trouble::Expected);
            }
            other => other?,
        };
        let free = store.free_clusters();
        let sealed = match node::write_image(store, &mut ticket, &content) {
            Ok(sealed) => sealed,
            Err(error) => {
                store.abort(ticket);
                return Err(gave_up(error, store, free));
            }
        };
        self.model.importing(uuid, name, &content);
        store.medium_mut().enter(Phase::Seal);
        match store.seal(ticket, sealed) {
            Ok(_) => {
                self.model.imported(uuid);
                Ok(())
            }
            Err(error) => {
                if error.kind() == StoreErrorKind::NoSpace {
                    self.model.gone(uuid);
                }
                Err(gave_up(error.into(), store, free))
            }
        }
    }

    fn delete(&mut self, store: &mut Store<&mut SimDisk>) -> Result<(), Trouble> {
        let Some(uuid) = self.any_object() else {
            return Err(Trouble::Expected);
        };
        if let (Some(dev_id), true) = self.model.attachment(uuid) {
            match store.delete(uuid) {
                Err(error) if error.kind() == StoreErrorKind::Busy => {}
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    return Err(Trouble::Violation(
                        "an attached image was deleted".to_owned(),
                    ));
                }
            }
            self.set_attachment(store, uuid, dev_id, false)?;
        }
        self.model.deleting(uuid);
        store.medium_mut().enter(Phase::Delete);
        store.delete(uuid)?;
        self.model.gone(uuid);
        Ok(())
    }

    fn attach(&mut self, store: &mut Store<&mut SimDisk>) -> Result<(), Trouble> {
        let Some(uuid) = self.any_object() else {
            return Err(Trouble::Expected);
        };
        let (kept, wanted) = self.model.attachment(uuid);
        let other = DevId::new(1000);
        if kept.is_some() && self.rng.percent(20) {
            return match store.set_attachment(uuid, other, true) {
                Err(error) if error.kind() == StoreErrorKind::DevIdFixed => Err(Trouble::Expected),
                Err(error) => Err(error.into()),
                Ok(()) => Err(Trouble::Violation("a device number was changed".to_owned())),
            };
        }
        let any = u32::try_from(self.rng.below(8)).unwrap_or(0);
        self.set_attachment(store, uuid, kept.unwrap_or(DevId::new(any)), !wanted)
    }

    fn set_attachment(
        &mut self,
        store: &mut Store<&mut SimDisk>,
        uuid: Uuid,
        dev_id: DevId,
        wanted: bool,
    ) -> Result<(), Trouble> {
        self.model.attaching(uuid, (Some(dev_id), wanted));
        store.set_attachment(uuid, dev_id, wanted)?;
        self.model.attached(uuid);
        Ok(())
    }

    fn abort(&mut self, store: &mut Store<&mut SimDisk>) -> Result<(), Trouble> {
        let uuid = self.next_uuid();
        let content = self.next_content();
        let free = store.free_clusters();
        let mut ticket = store.begin_import(node::new_image("to-be-aborted", uuid, &content))?;
        let written = node::write_image(store, &mut ticket, &content);
        store.abort(ticket);
        if store.free_clusters() != free {
            return Err(Trouble::Violation(
                "an aborted import kept space".to_owned(),
            ));
        }
        written
            .map(drop)
            .map_err(|error| gave_up(error, store, free))
    }

    fn verify(&mut self, store: &mut Store<&mut SimDisk>) -> Result<(), Trouble> {
        let Some(uuid) = self.any_object() else {
            return Err(Trouble::Expected);
        };
        let report = node::verify(store, uuid)?;
        if report.is_good() && report.repaired.is_empty() {
            return Ok(());
        }
        Err(Trouble::Violation(format!(
            "verify of a good image: {report:?}"
        )))
    }

    /// Takes most of the free space for an import that goes nowhere, so that what is freed is used again soon.
    fn ballast(
        &mut self,
        store: &mut Store<&mut SimDisk>,
        ballast: &mut Vec<ImportTicket>,
    ) -> Result<(), Trouble> {
        if let Some(ticket) = ballast.pop() {
            store.abort(ticket);
            return Ok(());
        }
        let uuid = self.next_uuid();
        let mut ticket = store.begin_import(node::new_image("ballast", uuid, &content(0)))?;
        let keep = 2 + self.rng.below(16);
        let junk = vec![0xba; usize::try_from(CLUSTER_BYTES).unwrap_or(0)];
        let mut result = Ok(());
        while store.free_clusters() > keep {
            let want = u32::try_from(store.free_clusters() - keep).unwrap_or(1);
            let extent = store.allocate(&mut ticket, want)?;
            result = result.and(store.medium_mut().write(extent.pcn.offset(), &junk));
        }
        ballast.push(ticket);
        result.map_err(|fault| NodeError::Disk(fault).into())
    }

    /// What happens between two sessions.
    fn stop(&mut self, end: &End) {
        match end {
            End::Broken => self.crash_somehow(),
            End::Idle => {
                self.crash_somehow();
                self.rot_somehow();
            }
            End::Closed => {
                self.clean = true;
                if self.rng.percent(30) {
                    self.crash_somehow();
                }
                self.rot_somehow();
            }
        }
    }

    fn crash_somehow(&mut self) {
        let crash = if self.rng.percent(40) {
            Crash::Process
        } else {
            Crash::Power {
                seed: self.rng.next_u64(),
            }
        };
        self.crash(crash);
    }

    fn crash(&mut self, crash: Crash) {
        self.tally.crashes += 1;
        self.disk.crash(crash);
        if matches!(crash, Crash::Power { .. }) {
            self.boot_id = Uuid::from_u128(self.boot_id.as_u128() + 1);
        }
    }

    /// One copy of something rots while the disk is at rest. Both copies are good then, so that it must make no difference.
    fn rot_somehow(&mut self) {
        if self.rotten || !self.rng.percent(35) {
            return;
        }
        let Some(at) = self.rot_target() else { return };
        (self.rotten, self.clean) = (true, false);
        self.tally.rotted += 1;
        let (byte, bit) = (self.rng.below(BLOCK_BYTES), self.rng.below(8));
        let byte = usize::try_from(byte).unwrap_or(0);
        self.disk.rot(at, |page| page[byte] ^= 1 << bit);
    }

    fn rot_target(&mut self) -> Option<ByteOffset> {
        let geometry = bedplate_datapath::format::geometry::Geometry::of_disk(DISK_BYTES).ok()?;
        let copy = self.rng.below(2) * BLOCK_BYTES;
        match self.rng.below(6) {
            0 => {
                let copy = usize::try_from(self.rng.below(4)).unwrap_or(0);
                Some(geometry.superblock_offsets()[copy])
            }
            1 => Some(ByteOffset::new(262_144 + copy)),
            // Slots that are in use, or were.
            2..=4 => Some(
                geometry
                    .table_offset()
                    .plus(self.rng.below(4) * 2 * BLOCK_BYTES + copy),
            ),
            _ => {
                let tree = |page: &[u8]| {
                    page.starts_with(b"BPMAP\0\0\0") || page.starts_with(b"BPDIR\0\0\0")
                };
                let pages: Vec<ByteOffset> = self
                    .disk
                    .written_pages()
                    .filter(|(_, page)| tree(&page[..]))
                    .map(|(at, _)| at)
                    .collect();
                let len = u64::try_from(pages.len()).ok().filter(|&len| len > 0)?;
                pages
                    .get(usize::try_from(self.rng.below(len)).ok()?)
                    .copied()
            }
        }
    }

    fn next_uuid(&mut self) -> Uuid {
        self.uuids += 1;
        Uuid::from_u128(self.uuids << 32 | u128::from(self.contents & 0xffff))
    }

    fn next_content(&mut self) -> Arc<super::content::Content> {
        self.contents = self.contents.wrapping_add(1);
        content(usize::try_from(self.contents % CONTENTS as u64).unwrap_or(0))
    }

    fn any_name(&mut self) -> &'static str {
        NAMES[usize::try_from(self.rng.below(NAMES.len() as u64)).unwrap_or(0)]
    }

    fn any_object(&mut self) -> Option<Uuid> {
        let objects = self.model.present();
        let len = u64::try_from(objects.len()).ok().filter(|&len| len > 0)?;
        objects
            .get(usize::try_from(self.rng.below(len)).ok()?)
            .copied()
    }
}

/// Why an operation was not acknowledged.
enum Trouble {
    /// It was refused, rightly.
    Expected,
    /// The disk, by a crash or a fault.
    Io(String),
    /// The store broke a promise.
    Violation(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            StoreErrorKind::Io | StoreErrorKind::ReadOnlyLatched => Self::Io(error.to_string()),
            StoreErrorKind::NoSpace => Self::Expected,
            _ => Self::Violation(format!("unexpected error: {error}")),
        }
    }
}

impl From<NodeError> for Trouble {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Store(error) => error.into(),
            NodeError::Disk(fault) => Self::Io(fault.to_string()),
        }
    }
}

/// An import that was given up, but for a failed disk, has given its space back.
fn gave_up(error: NodeError, store: &Store<&mut SimDisk>, free: u64) -> Trouble {
    let trouble = error.into();
    if store.is_latched().is_none() && store.free_clusters() != free {
        return Trouble::Violation("an import that failed kept space".to_owned());
    }
    trouble
}
