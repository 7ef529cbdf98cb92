//! One disk: its object table, the space it has, and every change of its metadata.
//!
//! The rules of this folder, in the order of `docs/on-disk-format.md`, "Write orders":
//! - what a slot names is durable before the slot is written;
//! - a slot's second copy is written after the first is durable, and nothing is released before both are;
//! - opening writes nothing before everything was read and checked;
//! - the first write or flush that fails ends all writing until the disk is opened again.
//!
//! A file for each step: [`format`](format()), `open`, `ticket`, `seal`, `delete`, `attachment`, `close`. Bytes of images are
//! not written here: see [`crate::import`].

mod attachment;
mod checked;
mod checkpoint;
mod checksums;
mod close;
mod commit;
mod copy;
mod delete;
mod description;
mod error;
mod format;
mod grave;
mod import;
mod journal;
mod latch;
mod live_state;
mod object;
mod open;
mod peers;
mod re_uuid;
mod recheck;
mod references;
mod replay;
mod report;
mod returned;
mod run_set;
mod scrub;
mod seal;
mod slot_change;
mod superblocks;
mod table;
mod ticket;
mod tree_write;
mod trees;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use crate::format::PairCopy;
use crate::format::geometry::Geometry;
use crate::format::object::ObjectRecord;
use crate::format::superblock::Superblock;
use crate::map::{LayerMap, MapEntry};
use crate::medium::{IoFault, Medium};
use crate::units::{Epoch, Pcn, Seq, SlotIndex};
use crate::volume::{ClusterLocks, Space, Volume};

pub use crate::alloc::Extent;
pub use crate::format::object::ObjectKind;
pub use checked::{BlockRepair, CHECKED_BLOCKS_MAX, CheckedBlock};
pub use checksums::{ChecksumsRestored, RecordedChecksums};
pub(crate) use copy::CopiedCluster;
pub use copy::CopyTicket;
pub use delete::RemoveReplica;
pub use description::Description;
pub use error::{FormatError, OpenError, OpenErrorKind, StoreError, StoreErrorKind};
pub use format::{FormatParams, format};
pub use grave::Grave;
pub use import::check_name;
pub use object::{Damage, Object, ReplicaState, TreePage};
pub use open::SessionStart;
pub use re_uuid::{NewIdentity, ReUuidError, re_uuid};
pub use recheck::Recheck;
pub use report::{Held, Lost, OpenReport, PreviousSession, Repair, Repaired};
pub use returned::{Foreknowledge, LeftDisk};
pub(crate) use scrub::{Findings, ScrubTarget};
pub use superblocks::uuid_on;
pub use ticket::{ImportTicket, NewImage, PageOwner};
pub use volume::{NewVolume, Parent, Usage};

use grave::GraveSlot;
use journal::Journal;
use latch::LatchedDisk;
use live_state::LiveState;
use run_set::RunSet;
use trees::Tree;

/// One open disk.
pub struct Store<M> {
    disk: LatchedDisk<M>,
    superblock: Superblock,
    /// Unknown ro-compatible features are in use: nothing may be written.
    read_only: bool,
    /// By slot.
    entries: BTreeMap<SlotIndex, Entry>,
    /// What is left of deleted images, by slot.
    graves: BTreeMap<SlotIndex, GraveSlot>,
    /// What each slot of the table carried last, free or not.
    history: Vec<SlotHistory>,
    space: Arc<Space>,
    locks: Arc<ClusterLocks>,
    journal: Journal,
    /// Slots whose objects have records in the journal, which their map pages may lack.
    journaled: RunSet<SlotIndex>,
    /// The newer of the two roots.
    root_copy: PairCopy,
    live: LiveState,
    /// Imports on their way: slot and name.
    reserved: BTreeMap<SlotIndex, Reservation>,
    next_ticket: u64,
    /// Map and directory pages that this session has stamped: see [`Store::next_page_seq`].
    page_stamps: u32,
    /// Volumes were adopted, and their entries were not looked at yet: see [`Store::settle`].
    is_unsettled: bool,
}

/// An object and what is needed to serve and change it.
struct Entry {
    object: Object,
    /// What the slot says; none for a lost slot.
    record: Option<ObjectRecord>,
    /// None for an object that is not Ready.
    map: Option<Arc<LayerMap>>,
    /// Of a volume: the directory as the journal has it.
    map_tree: Tree,
    checksum_tree: Tree,
    /// Only of volumes that can be served.
    volume: Option<VolumeEntry>,
}

/// What a volume has besides.
struct VolumeEntry {
    volume: Arc<Volume>,
    /// Its words lie in a live file.
    is_live: bool,
    /// Leaves of which the journal knows more than the page says.
    changed_leaves: RunSet<u32>,
    /// Groups whose page cluster the journal or the directory page names, or the next batch will.
    journaled_leaves: BTreeSet<u32>,
    /// The journal knows more of the directory than its pages say.
    changed_directories: bool,
}

impl VolumeEntry {
    fn new(volume: Volume, is_live: bool) -> Self {
        Self {
            volume: Arc::new(volume),
            is_live,
            changed_leaves: RunSet::default(),
            journaled_leaves: BTreeSet::new(),
            changed_directories: false,
        }
    }
}

/// Neither number ever restarts.
#[derive(Clone, Copy, Debug, Default)]
struct SlotHistory {
    seq: Seq,
    epoch: Epoch,
}

struct Reservation {
    ticket: u64,
    name: String,
    uuid: Uuid,
}

impl Entry {
    /// An object as its slot and the directories of its trees have it; its map was not read.
    fn of_trees(
        owner: PageOwner,
        record: ObjectRecord,
        (map_tree, checksum_tree): (Tree, Tree),
    ) -> Self {
        Self {
            object: seal::describe(
                owner.disk_uuid,
                owner.slot,
                owner.epoch,
                &record,
                &map_tree,
                &checksum_tree,
            ),
            record: Some(record),
            map: None,
            map_tree,
            checksum_tree,
            volume: None,
        }
    }

    /// Every cluster that the object refers to, data and trees.
    fn clusters(&self) -> impl Iterator<Item = Pcn> + '_ {
        let data = self
            .map
            .iter()
            .flat_map(|map| map.iter())
            .map(MapEntry::pcn)
            .filter(|pcn| !pcn.is_none());
        // A volume has clusters of pages that its directory does not name yet.
        let pages = self
            .volume
            .iter()
            .flat_map(|volume| volume.volume.leaves())
            .filter_map(|word| u32::try_from(word.load(Ordering::Acquire)).ok())
            .filter_map(Pcn::try_new)
            .filter(|pcn| !pcn.is_none());
        let of_directory = self.map_tree.clusters().take(if self.volume.is_some() {
            self.map_tree.dirs.len()
        } else {
            usize::MAX
        });
        data.chain(of_directory)
            .chain(pages)
            .chain(self.checksum_tree.clusters())
    }
}

impl<M: Medium> Store<M> {
    /// The disk's identity.
    pub fn disk_uuid(&self) -> Uuid {
        self.superblock.disk_uuid
    }

    /// Where its zones lie.
    pub fn geometry(&self) -> &Geometry {
        &self.superblock.geometry
    }

    /// SHA-256 of the WWID or serial of the device that was formatted.
    pub fn hardware_id_hash(&self) -> &[u8; 32] {
        &self.superblock.hardware_id_hash
    }

    /// When the disk was formatted, for people.
    pub fn created_unix_s(&self) -> u64 {
        self.superblock.created_unix_s
    }

    /// This life of the daemon on the disk.
    pub fn session(&self) -> u64 {
        self.superblock.session
    }

    /// The superblock's generation.
    pub fn generation(&self) -> u64 {
        self.superblock.generation.get()
    }

    /// Clusters that can be allocated now.
    pub fn free_clusters(&self) -> u64 {
        self.space.free_clusters()
    }

    /// Clusters of the cluster zone.
    pub fn total_clusters(&self) -> u64 {
        u64::from(self.superblock.geometry.clusters())
    }

    /// The failure that made the disk read-only, if there was one.
    pub fn is_latched(&self) -> Option<&IoFault> {
        self.disk.fault()
    }

    /// Whether the disk uses features that this version may only read around.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether objects that could not be read keep anything from being allocated.
    pub fn is_allocation_refused(&self) -> bool {
        self.entries
            .values()
            .any(|entry| entry.object.state.is_failed())
    }

    /// Every object, by slot.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.entries.values().map(|entry| &entry.object)
    }

    /// An object by its UUID.
    pub fn object(&self, uuid: Uuid) -> Option<&Object> {
        self.objects().find(|object| object.uuid == uuid)
    }

    /// The map of an object, to serve it by.
    ///
    /// # Errors
    /// `NotFound`, or `Corrupt` if the object is not Ready.
    pub fn map_of(&self, uuid: Uuid) -> Result<Arc<LayerMap>, StoreError> {
        let entry = self.entry(uuid)?;
        match (&entry.map, &entry.object.state) {
            (Some(map), ReplicaState::Ready) => Ok(Arc::clone(map)),
            (_, state) => Err(not_served(&entry.object, state)),
        }
    }

    /// The disk, to write the bytes of an import or to verify. What is written through it is the caller's: only clusters of a ticket.
    pub fn medium_mut(&mut self) -> &mut M {
        self.disk.medium_mut()
    }

    fn entry(&self, uuid: Uuid) -> Result<&Entry, StoreError> {
        self.entries
            .values()
            .find(|entry| entry.object.uuid == uuid)
            .ok_or_else(|| {
                let context = format!("no object {uuid} on disk {}", self.disk_uuid());
                StoreError::new(
                    StoreErrorKind::NotFound,
                    context,
                    "look at what is there: bedplate image list",
                )
                .of_object(uuid)
            })
    }

    /// Every change begins here.
    fn check_writable(&self) -> Result<(), StoreError> {
        if let Some(fault) = self.disk.fault() {
            let context = format!(
                "disk {} takes no more changes since {fault}",
                self.disk_uuid()
            );
            let remedy =
                "check the disk and its cabling (kernel log, SMART), then close and open it again";
            return Err(
                StoreError::new(StoreErrorKind::ReadOnlyLatched, context, remedy).at(fault.at),
            );
        }
        if self.read_only {
            let context = format!(
                "disk {} is open read-only: unknown ro_compat features {:#x}",
                self.disk_uuid(),
                self.superblock.ro_compat
            );
            return Err(StoreError::new(
                StoreErrorKind::ReadOnlyLatched,
                context,
                "use the newer version of Bedplate that wrote this disk",
            ));
        }
        Ok(())
    }
}

fn not_served(object: &Object, state: &ReplicaState) -> StoreError {
    let why = match state {
        ReplicaState::Failed(damage) => damage.to_string(),
        ReplicaState::Ready => "its map is not loaded".to_owned(),
        ReplicaState::Building { done_bytes } => {
            let size = object.size_bytes;
            let context = format!(
                "{} {} ({}) is not served from here: {done_bytes} of {size} bytes are copied",
                object.noun(),
                object.name,
                object.uuid
            );
            let remedy = "it is when the copy is whole; see its progress: bedplate image show";
            return StoreError::new(StoreErrorKind::NotComplete, context, remedy)
                .of_object(object.uuid);
        }
    };
    let context = format!(
        "{} {} ({}) is not served: {why}",
        object.noun(),
        object.name,
        object.uuid
    );
    let remedy = "if the disk was at fault, cure it, and `bedplate image recheck` (of a volume: restart the daemon); otherwise copy the \
                  disk if its content matters; then `bedplate image delete NAME --failed-copies` where another copy is Ready, else delete the object";
    let error = StoreError::new(StoreErrorKind::Corrupt, context, remedy).of_object(object.uuid);
    match state {
        ReplicaState::Failed(damage) => error.at(damage.disk_offset()),
        ReplicaState::Ready | ReplicaState::Building { .. } => error,
    }
}
