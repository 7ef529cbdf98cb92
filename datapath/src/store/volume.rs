//! Writable volumes on one disk: made, grown, made live, described. Their content changes on the reactors, see [`crate::volume`].

use std::io;
use std::sync::Arc;

use uuid::Uuid;

use super::error::{StoreError, StoreErrorKind};
use super::live_state::Words;
use super::seal::describe;
use super::ticket::PageOwner;
use super::trees::{Tree, usize_of};
use super::{Entry, Store, check_name, not_served};
use crate::alloc::Extent;
use crate::format::directory::{DirectoryEntry, DirectoryPage, ENTRIES, TreeKind};
use crate::format::members::Members;
use crate::format::object::{OBJECT_BYTES_MAX, ObjectKind, ObjectRecord, ObjectState};
use crate::format::superblock::INCOMPAT_VOLUMES;
use crate::format::text::Text;
use crate::format::tree::{PAIRS_PER_CLUSTER, TREE_DIRS, page_offset};
use crate::format::{PairCopy, Stamp};
use crate::live::LiveError;
use crate::medium::Medium;
use crate::plan::{DiskIndex, Layer, LayerStack};
use crate::units::{
    BLOCK_BYTES, CLUSTER_BYTES, Epoch, Lcn, PAGE_BYTES, Pcn, SECTOR_BYTES, SlotIndex,
};
use crate::volume::{DiskShared, Space, Volume, leaf_groups_of};

/// Groups of leaves that one cluster of directory pages names: 7.9 TiB of a volume.
const GROUPS_PER_DIRECTORY_CLUSTER: u64 = ENTRIES as u64 * PAIRS_PER_CLUSTER as u64;

/// A volume that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub object_uuid: Uuid,
    /// Its length, a multiple of 512, no less than its image's.
    pub size_bytes: u64,
    /// The image below it; none for a blank volume.
    pub parent: Option<Parent>,
    /// For people.
    pub created_unix_s: u64,
}

/// The image that a volume is to stand on. It need not be on the volume's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The image.
    pub uuid: Uuid,
    /// Its exact length.
    pub size_bytes: u64,
}

/// What a volume takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of clusters that are its own.
    pub allocated_bytes: u64,
    /// Bytes of blocks that are read from the layers below.
    pub shared_bytes: u64,
}

impl<M: Medium> Store<M> {
    /// Makes a volume, durably. It takes the same few writes whatever its size and its image's.
    ///
    /// # Errors
    /// `BadName`, `NameTaken`, `BadSize`; `NotFound` or `Corrupt` for its image; `NoSpace`, `TableFull`, `AllocationRefused`,
    /// `ReadOnlyLatched`; `Io`, and then it is not known whether it exists before the disk is opened again.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "whoever asks has no more use for it"
    )]
    pub fn create_volume(&mut self, new: NewVolume) -> Result<Uuid, StoreError> {
        check_name(&new.name)?;
        self.check_writable()?;
        self.settle()?;
        self.check_allocation()?;
        self.check_free_name(&new.name, new.object_uuid)?;
        let least_bytes = match new.parent {
            Some(parent) => self.base(&parent)?,
            None => 0,
        };
        check_size(&new.name, new.size_bytes, least_bytes)?;
        // Before anything is durable: a volume that this node cannot load is not made.
        let words = Words::in_memory(new.size_bytes)
            .map_err(|source| no_memory(&new.name, new.size_bytes, &source))?;
        let slot = self.free_slot()?;
        let epoch = Epoch::new(self.history_of(slot).epoch.get().wrapping_add(1));
        let owner = PageOwner {
            disk_uuid: self.disk_uuid(),
            slot,
            epoch,
        };
        let doing = format!("making volume {}", new.name);

        // 1. Its directory, to clusters that are free as far as the disk knows.
        let dirs = self.new_directory(owner, 0, new.size_bytes, &doing)?;
        let made = self.commit_volume(&new, owner, &dirs, &doing);
        let record = match made {
            Ok(record) => record,
            Err(error) => {
                if self.disk.fault().is_none() {
                    self.space.give_all(dirs.into_iter());
                }
                return Err(error);
            }
        };

        // 3. In memory.
        let tree = Tree {
            dirs,
            entries: vec![DirectoryEntry::EMPTY; usize_of(leaf_groups_of(new.size_bytes))],
        };
        let object = describe(
            owner.disk_uuid,
            slot,
            epoch,
            &record,
            &tree,
            &Tree::default(),
        );
        let mut entry = Entry {
            object,
            record: Some(record),
            map: None,
            map_tree: tree,
            checksum_tree: Tree::default(),
            volume: None,
        };
        let parts = entry.owner().parts(words, self.shared());
        entry.take_volume(Volume::new(parts, 0), false);
        self.entries.insert(slot, entry);
        Ok(new.object_uuid)
    }

    fn commit_volume(
        &mut self,
        new: &NewVolume,
        owner: PageOwner,
        dirs: &[Pcn],
        doing: &str,
    ) -> Result<ObjectRecord, StoreError> {
        let io = |fault| StoreError::io(doing, fault);
        // What the slot will name is durable before it does.
        self.disk.flush().map_err(io)?;
        // Before the first volume: a version that cannot replay the journal would serve it as it was at the last checkpoint.
        self.use_feature(INCOMPAT_VOLUMES, doing)?;
        let record = ObjectRecord {
            kind: ObjectKind::Volume,
            state: ObjectState::Complete,
            want_attached: false,
            loss_not_accepted: false,
            dev_id: None,
            object_uuid: new.object_uuid,
            replica_uuid: new.object_uuid,
            parent_uuid: new.parent.map_or(Uuid::nil(), |parent| parent.uuid),
            generation: 1,
            size_bytes: new.size_bytes,
            stored_clusters: 0,
            wanted_copies: 1,
            sha256: [0; 32],
            sha512: [0; 64],
            name: Text::cut(&new.name),
            source: Text::cut(""),
            created_unix_s: new.created_unix_s,
            map_dirs: places(dirs),
            checksum_dirs: [Pcn::NONE; TREE_DIRS],
            member_disks: Members::NONE,
            copied_clusters: 0,
        };
        // 2. The volume exists with the first durable copy of its slot.
        self.change_slot(owner.slot, owner.epoch, Some(record.clone()), doing)?;
        Ok(record)
    }

    /// Makes a volume longer, durably. It is never made shorter.
    ///
    /// # Errors
    /// `NotFound`, `BadSize`, `NoSpace`, `Corrupt`, `AllocationRefused`, `ReadOnlyLatched`, `Io`.
    pub fn resize_volume(&mut self, uuid: Uuid, size_bytes: u64) -> Result<(), StoreError> {
        self.check_writable()?;
        let (entry, owner) = self.served_volume(uuid)?;
        let (name, former) = (entry.object.name.clone(), entry.object.size_bytes);
        let Some(mut record) = entry.record.clone() else {
            return Err(not_served(&entry.object, &entry.object.state));
        };
        if size_bytes == former {
            return Ok(());
        }
        check_size(&name, size_bytes, former)?;
        self.settle()?;
        self.check_allocation()?;
        let doing = format!("resizing volume {name}");

        // 1. More directory, where it takes more.
        let more = self.new_directory(owner, former, size_bytes, &doing)?;
        if !more.is_empty() {
            self.disk
                .flush()
                .map_err(|fault| StoreError::io(&doing, fault))?;
        }
        let mut dirs = self
            .entries
            .get(&owner.slot)
            .map(|entry| entry.map_tree.dirs.clone())
            .unwrap_or_default();
        dirs.extend(&more);

        // 2. The live file, which may be longer than the volume: a crash before the slot leaves it so.
        let (is_live, volume) = match self.volume_in(owner.slot) {
            Some(volume) => (volume.is_live, Arc::clone(&volume.volume)),
            None => return Err(live_gone(uuid)),
        };
        let words = if is_live {
            self.live
                .grow(uuid, former, size_bytes)
                .map_err(|error| live_failed(uuid, &error))
        } else {
            copy_of(&volume, size_bytes)
                .map_err(|source| no_memory(&name, size_bytes, &source).of_object(uuid))
        };
        let words = match words {
            Ok(words) => words,
            Err(error) => {
                self.space.give_all(more.into_iter());
                return Err(error);
            }
        };

        // 3. The slot.
        record.size_bytes = size_bytes;
        record.map_dirs = places(&dirs);
        self.change_slot(owner.slot, owner.epoch, Some(record.clone()), &doing)?;

        // 4. In memory, over the same words. Each step of a request takes the volume that its device has then: one that still took the
        //    former end for the end would drop the whole last cluster, and with it what was written behind that end since.
        let shared = self.shared();
        if let Some(entry) = self.entries.get_mut(&owner.slot) {
            entry.object.size_bytes = size_bytes;
            entry.record = Some(record);
            entry.map_tree.dirs = dirs;
            entry
                .map_tree
                .entries
                .resize(usize_of(leaf_groups_of(size_bytes)), DirectoryEntry::EMPTY);
            let grown = volume.grown(entry.owner().parts(words, shared));
            entry.take_volume(grown, is_live);
        }
        Ok(())
    }

    /// Makes an object ready to be written through a device: a volume gets its live file. To be called before the device exists.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`; `LossNotAccepted` for a volume of which writes may be missing; `NoSpace` when live state has no room;
    /// `ReadOnlyLatched`.
    pub fn prepare_attach(&mut self, uuid: Uuid) -> Result<(), StoreError> {
        let entry = self.entry(uuid)?;
        if entry.object.kind != ObjectKind::Volume {
            return Ok(());
        }
        if entry.object.loss_not_accepted {
            return Err(loss(&entry.object.name, uuid));
        }
        self.check_writable()?;
        self.served_volume(uuid)?;
        self.make_live(uuid)
    }

    /// Puts a volume's words into a live file, if they are not in one.
    pub(super) fn make_live(&mut self, uuid: Uuid) -> Result<(), StoreError> {
        let (entry, owner) = self.served_volume(uuid)?;
        let Some(volume) = entry.volume.as_ref().filter(|volume| !volume.is_live) else {
            return Ok(());
        };
        let from = Arc::clone(&volume.volume);
        let owner_of = entry.owner();
        let disk_uuid = self.disk_uuid();
        let words = self
            .live
            .make(disk_uuid, &owner_of, &from)
            .map_err(|error| live_failed(uuid, &error))?;
        let parts = owner_of.parts(words, self.shared());
        if let Some(entry) = self.entries.get_mut(&owner.slot) {
            entry.take_volume(Volume::new(parts, from.allocated_clusters()), true);
        }
        Ok(())
    }

    /// Takes a volume's words out of its live file; all of it was committed, and nobody writes any more.
    pub(super) fn retire_live(&mut self, uuid: Uuid) -> Result<(), StoreError> {
        let (entry, owner) = self.served_volume(uuid)?;
        let Some(volume) = entry.volume.as_ref().filter(|volume| volume.is_live) else {
            return Ok(());
        };
        let former = Arc::clone(&volume.volume);
        // It stays in its live file then, as before; whoever asks again tries again.
        let words = copy_of(&former, former.size_bytes()).map_err(|source| {
            no_memory(&entry.object.name, former.size_bytes(), &source).of_object(uuid)
        })?;
        let parts = entry.owner().parts(words, self.shared());
        if let Some(entry) = self.entries.get_mut(&owner.slot) {
            entry.take_volume(Volume::new(parts, former.allocated_clusters()), false);
        }
        self.live
            .remove(uuid)
            .map_err(|error| live_failed(uuid, &error))
    }

    /// An operator accepts that acknowledged writes of a volume may be missing: it can be attached again, with what the disk has.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `ReadOnlyLatched`, `Io`.
    pub fn accept_loss(&mut self, uuid: Uuid) -> Result<(), StoreError> {
        self.check_writable()?;
        if self.entry(uuid)?.object.want_attached {
            // One that is wanted and not held has a live file: otherwise a crash before it is attached would hold it again.
            self.make_live(uuid)?;
        }
        self.set_loss(uuid, false)
    }

    pub(super) fn set_loss(&mut self, uuid: Uuid, is_lost: bool) -> Result<(), StoreError> {
        let (_, owner) = self.served_volume(uuid)?;
        self.note_loss(owner.slot, is_lost)
    }

    /// Of a volume that cannot be served too: its slot is its own, whatever became of its map.
    pub(super) fn note_loss(&mut self, slot: SlotIndex, is_lost: bool) -> Result<(), StoreError> {
        let Some(entry) = self.entries.get(&slot) else {
            return Ok(());
        };
        let (name, epoch) = (&entry.object.name, entry.object.epoch);
        let doing = format!("noting whether volume {name} lost writes");
        let Some(mut record) = entry.record.clone() else {
            return Ok(());
        };
        if record.loss_not_accepted == is_lost {
            return Ok(());
        }
        record.loss_not_accepted = is_lost;
        self.change_slot(slot, epoch, Some(record.clone()), &doing)?;
        if let Some(entry) = self.entries.get_mut(&slot) {
            entry.object.loss_not_accepted = is_lost;
            entry.record = Some(record);
        }
        Ok(())
    }

    /// Volumes that cannot be read, and of which the journal knows more than their pages: before a checkpoint passes over their records they
    /// are marked, durably, as having lost writes. Otherwise one that can be read again later would come back as it was at an earlier checkpoint.
    pub(super) fn mark_passed_over(&mut self) -> Result<(), StoreError> {
        let unread: Vec<SlotIndex> = self
            .entries
            .iter()
            .filter(|(slot, entry)| {
                entry.object.kind == ObjectKind::Volume
                    && entry.object.state.is_failed()
                    && self.journaled.contains(slot)
            })
            .map(|(slot, _)| *slot)
            .collect();
        for slot in unread {
            self.note_loss(slot, true)?;
        }
        Ok(())
    }

    /// The layers that a device of this object reads, top first, where all of them are on this disk. Where the image is elsewhere: see
    /// [`Self::layer_of`].
    ///
    /// # Errors
    /// `NotFound`, or `Corrupt` if one of them is not Ready, or not here.
    pub fn layers_of(&self, uuid: Uuid, disk: DiskIndex) -> Result<LayerStack, StoreError> {
        let size_bytes = self.entry(uuid)?.object.size_bytes;
        let mut layers = Vec::new();
        let mut next = Some(uuid);
        while let Some(layer) = next {
            let map = self.map_of(layer)?;
            layers.push(Layer::new(map, disk));
            next = self.entry(layer)?.object.parent;
            if layers.len() > usize_of(u64::from(self.geometry().slots())) {
                let context = format!("the layers below object {uuid} go round in a circle");
                return Err(
                    StoreError::new(StoreErrorKind::Corrupt, context, "delete the object")
                        .of_object(uuid),
                );
            }
        }
        Ok(LayerStack { layers, size_bytes })
    }

    /// The layer of the object itself, without those below it: [`Object::parent`](super::Object::parent) names the image, which may
    /// be read on any disk that has it.
    ///
    /// # Errors
    /// `NotFound`, or `Corrupt` if it is not Ready.
    pub fn layer_of(&self, uuid: Uuid, disk: DiskIndex) -> Result<Layer, StoreError> {
        Ok(Layer::new(self.map_of(uuid)?, disk))
    }

    /// A volume, to write to it. Another one after each resize and each attach.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` if it is not Ready.
    pub fn volume_of(&self, uuid: Uuid) -> Result<Arc<Volume>, StoreError> {
        let (entry, _) = self.served_volume(uuid)?;
        match &entry.volume {
            Some(volume) => Ok(Arc::clone(&volume.volume)),
            None => Err(live_gone(uuid)),
        }
    }

    /// What a volume takes, and what it shares.
    ///
    /// # Errors
    /// As [`Store::layers_of`].
    pub fn usage_of(&self, uuid: Uuid) -> Result<Usage, StoreError> {
        let (entry, _) = self.served_volume(uuid)?;
        let allocated = entry
            .volume
            .as_ref()
            .map_or(0, |volume| volume.volume.allocated_clusters());
        let stack = self.layers_of(uuid, DiskIndex::default())?;
        let (top, below) = stack.layers.split_at(1);
        let own = |lcn| {
            top.first()
                .map_or(0, |layer| layer.map.get(lcn).mask().get())
        };
        let longest = below.iter().map(|layer| layer.map.len()).max().unwrap_or(0);
        let mut shared_blocks = 0;
        for lcn in (0u32..).take(longest).map(Lcn::new) {
            let mut hidden = own(lcn);
            for layer in below {
                let held = layer.map.get(lcn);
                if !held.pcn().is_none() {
                    shared_blocks += u64::from((held.mask().get() & !hidden).count_ones());
                }
                hidden |= held.mask().get();
            }
        }
        Ok(Usage {
            allocated_bytes: allocated * CLUSTER_BYTES,
            shared_bytes: shared_blocks * BLOCK_BYTES,
        })
    }

    /// The free clusters of the disk.
    pub fn disk_space(&self) -> &Arc<Space> {
        &self.space
    }

    pub(super) fn shared(&self) -> DiskShared {
        DiskShared {
            space: Arc::clone(&self.space),
            locks: Arc::clone(&self.locks),
        }
    }

    /// The length of an image that a volume is to stand on, in whole sectors. If the image is here too, it must be what is said of it.
    fn base(&self, parent: &Parent) -> Result<u64, StoreError> {
        let image = parent.uuid;
        if self.grave(image).is_some() {
            let context = format!("image {image} was deleted");
            let remedy = "name another image: bedplate image list";
            return Err(StoreError::new(StoreErrorKind::NotFound, context, remedy).of_object(image));
        }
        if let Some(object) = self.object(image) {
            if object.kind == ObjectKind::Volume {
                let context = format!("{} is a volume: a clone is made of an image", object.name);
                return Err(StoreError::new(
                    StoreErrorKind::NotFound,
                    context,
                    "name an image: bedplate image list",
                )
                .of_object(image));
            }
            if object.state.is_ready() && object.size_bytes != parent.size_bytes {
                let context = format!(
                    "image {} ({image}) has {} bytes on disk {}, not {}",
                    object.name,
                    object.size_bytes,
                    self.disk_uuid(),
                    parent.size_bytes
                );
                let remedy = "report this with the daemon's log; nothing was changed";
                return Err(
                    StoreError::new(StoreErrorKind::Corrupt, context, remedy).of_object(image)
                );
            }
        }
        Ok(parent.size_bytes.next_multiple_of(SECTOR_BYTES))
    }

    fn served_volume(&self, uuid: Uuid) -> Result<(&Entry, PageOwner), StoreError> {
        let entry = self.entry(uuid)?;
        let object = &entry.object;
        if object.kind != ObjectKind::Volume {
            let context = format!("{} ({uuid}) is no volume", object.name);
            return Err(StoreError::new(
                StoreErrorKind::NotFound,
                context,
                "look at what is there: bedplate volume list",
            )
            .of_object(uuid));
        }
        if !object.state.is_ready() || entry.volume.is_none() {
            return Err(not_served(object, &object.state));
        }
        let owner = PageOwner {
            disk_uuid: self.disk_uuid(),
            slot: object.slot,
            epoch: object.epoch,
        };
        Ok((entry, owner))
    }

    /// Writes the clusters of directory pages that a volume of `size_bytes` has more than one of `former_bytes`: pages with no entry.
    fn new_directory(
        &mut self,
        owner: PageOwner,
        former_bytes: u64,
        size_bytes: u64,
        doing: &str,
    ) -> Result<Vec<Pcn>, StoreError> {
        let clusters =
            |size_bytes| leaf_groups_of(size_bytes).div_ceil(GROUPS_PER_DIRECTORY_CLUSTER);
        let mut new = Vec::new();
        for dir in clusters(former_bytes)..clusters(size_bytes) {
            let written = self
                .take_clusters(1, doing)
                .and_then(|taken| self.write_empty_directory(owner, dir, taken, doing));
            match written {
                Ok(pcn) => new.push(pcn),
                Err(error) => {
                    if self.disk.fault().is_none() {
                        self.space.give_all(new.into_iter());
                    }
                    return Err(error);
                }
            }
        }
        Ok(new)
    }

    fn write_empty_directory(
        &mut self,
        owner: PageOwner,
        dir: u64,
        taken: Extent,
        doing: &str,
    ) -> Result<Pcn, StoreError> {
        let cluster = taken.pcn;
        let seq = self.next_page_seq();
        let mut bytes = vec![0; usize_of(CLUSTER_BYTES)];
        for pair in 0..PAIRS_PER_CLUSTER {
            let index = u32::try_from(dir)
                .unwrap_or(u32::MAX)
                .saturating_mul(PAIRS_PER_CLUSTER)
                .saturating_add(pair);
            let page = DirectoryPage {
                tree: TreeKind::Map,
                slot: owner.slot,
                epoch: owner.epoch,
                seq,
                index,
                entries: [DirectoryEntry::EMPTY; ENTRIES],
            };
            for copy in PairCopy::BOTH {
                let at = page_offset(cluster, pair, copy);
                let within = usize_of(at.get() - cluster.offset().get());
                let stamp = Stamp {
                    disk_uuid: owner.disk_uuid,
                    self_offset: at,
                };
                bytes[within..within + PAGE_BYTES].copy_from_slice(&page.encode(&stamp));
            }
        }
        match self.disk.write(cluster.offset(), &bytes) {
            Ok(()) => Ok(cluster),
            Err(fault) => Err(StoreError::io(doing, fault)),
        }
    }
}

fn places(dirs: &[Pcn]) -> [Pcn; TREE_DIRS] {
    let mut places = [Pcn::NONE; TREE_DIRS];
    for (place, pcn) in places.iter_mut().zip(dirs) {
        *place = *pcn;
    }
    places
}

/// What `from` holds, in memory of this process.
fn copy_of(from: &Volume, size_bytes: u64) -> io::Result<Words> {
    use std::sync::atomic::Ordering;
    let words = Words::in_memory(size_bytes)?;
    for (to, entry) in words.entries.iter().zip(from.map().iter()) {
        if entry.bits() != 0 {
            to.store(entry.bits(), Ordering::Relaxed);
        }
    }
    for (to, leaf) in words.leaves.iter().zip(from.leaves()) {
        let leaf = leaf.load(Ordering::Relaxed);
        if leaf != 0 {
            to.store(leaf, Ordering::Relaxed);
        }
    }
    Ok(words)
}

fn check_size(name: &str, size_bytes: u64, least_bytes: u64) -> Result<(), StoreError> {
    let (what, remedy) = if size_bytes == 0 {
        ("has no bytes".to_owned(), "say how large: --size 20G")
    } else if !size_bytes.is_multiple_of(SECTOR_BYTES) {
        (
            "is no whole number of sectors of 512 bytes".to_owned(),
            "use a multiple of 512",
        )
    } else if size_bytes > OBJECT_BYTES_MAX {
        (
            format!("is more than {OBJECT_BYTES_MAX} bytes (256 TiB)"),
            "use a smaller size",
        )
    } else if size_bytes < least_bytes {
        (
            format!("is less than the {least_bytes} bytes that it needs"),
            "a volume is at least as large as its image, and is never made smaller",
        )
    } else {
        return Ok(());
    };
    let context = format!("size {size_bytes} of volume {name} {what}");
    Err(StoreError::new(StoreErrorKind::BadSize, context, remedy))
}

fn no_memory(name: &str, size_bytes: u64, source: &io::Error) -> StoreError {
    let map_bytes = crate::volume::clusters_of(size_bytes) * size_of::<u64>() as u64;
    let context = format!(
        "a volume of {size_bytes} bytes, {name}, has a map of {map_bytes} bytes, for which there is no memory: {source}"
    );
    let remedy =
        "use a smaller size, or see what limits the daemon's memory: vm.overcommit_memory, LimitAS";
    StoreError::new(StoreErrorKind::BadSize, context, remedy)
}

fn loss(name: &str, uuid: Uuid) -> StoreError {
    let context = format!(
        "volume {name} ({uuid}) is held: writes that were acknowledged may be missing, since its live state was lost"
    );
    StoreError::new(
        StoreErrorKind::LossNotAccepted,
        context,
        "`bedplate volume attach NAME --accept-loss` resumes it with what the disk has",
    )
    .of_object(uuid)
}

pub(super) fn live_failed(uuid: Uuid, error: &LiveError) -> StoreError {
    let full = error.is_no_room();
    let kind = if full {
        StoreErrorKind::NoSpace
    } else {
        StoreErrorKind::Io
    };
    let remedy = if full {
        "give the tmpfs of the live state more room: run-bedplate-live.mount"
    } else {
        "see whether the tmpfs of the live state is mounted: run-bedplate-live.mount"
    };
    StoreError::new(kind, error.to_string(), remedy).of_object(uuid)
}

fn live_gone(uuid: Uuid) -> StoreError {
    StoreError::new(
        StoreErrorKind::Corrupt,
        format!("the map of volume {uuid} is not loaded"),
        "report this with the daemon's log",
    )
    .of_object(uuid)
}
