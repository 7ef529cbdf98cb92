//! A copy of an image, made from another disk's: begun, marked on its way, taken up again after a crash, sealed or given up.
//!
//! A copy's slot exists from the start, `Building`. Each mark writes the trees as far as the copy has come and then the slot that names
//! them, so that a crash loses what was copied since the last mark and no space: the allocator is rebuilt from the slot's trees. Clusters
//! of trees that the next mark replaces are kept apart (`interim`), and are free once that mark is durable.
//!
//! The bytes come from [`crate::rebuild`].

use std::collections::HashSet;
use std::sync::Arc;

use uuid::Uuid;

use super::description::{members_of, stored_members};
use super::error::{StoreError, StoreErrorKind};
use super::object::{Object, ReplicaState};
use super::ticket::{ImportTicket, Ledger, NewImage, PageOwner};
use super::tree_write::MAP_GROUP;
use super::trees::{Tree, TreeError, TreeReader, usize_of};
use super::{Entry, Reservation, Store, not_served, seal};
use crate::alloc::Extent;
use crate::format::PairCopy;
use crate::format::checksum_page::CRCS;
use crate::format::directory::{DirectoryEntry, TreeKind};
use crate::format::object::{ObjectKind, ObjectRecord, ObjectState};
use crate::format::text::Text;
use crate::format::tree::{LeafIndex, PAIRS_PER_CLUSTER, TREE_DIRS};
use crate::import::{Filling, ImportPlanner};
use crate::map::{LayerMap, MapEntry};
use crate::medium::Medium;
use crate::units::{BlockMask, CLUSTER_BYTES, Epoch, Lcn, Pcn, SlotIndex};

/// A copy on its way. Ends with [`Store::seal_copy`], [`Store::pause_copy`] or [`Store::abort_copy`]; one that is dropped keeps its space,
/// and cannot be resumed, until the disk is opened again.
#[must_use = "a copy that is not ended keeps its space"]
pub struct CopyTicket {
    /// Data, and clusters of pages that are full.
    ticket: ImportTicket,
    /// Pages that the next mark replaces.
    interim: ImportTicket,
    planner: ImportPlanner,
    /// Clusters of the image.
    clusters: u32,
    /// Clusters, from the image's start, that are copied.
    next: u32,
    /// Of these, those that the slot tells of.
    marked: u32,
    /// Clusters of map pages that are full.
    map_groups: Vec<DirectoryEntry>,
    size_bytes: u64,
    is_sealed: bool,
}

impl CopyTicket {
    /// The image.
    pub fn image(&self) -> Uuid {
        self.ticket.image.object_uuid
    }

    /// The next cluster to be copied.
    pub fn next(&self) -> Lcn {
        Lcn::new(self.next)
    }

    /// Whether every cluster is copied, and it can be sealed.
    pub fn is_whole(&self) -> bool {
        self.next >= self.clusters
    }

    /// Bytes of the image that are copied; a crash now loses those after [`Self::marked_bytes`].
    pub fn done_bytes(&self) -> u64 {
        (u64::from(self.next) * CLUSTER_BYTES).min(self.size_bytes)
    }

    /// Bytes of the image that are copied durably.
    pub fn marked_bytes(&self) -> u64 {
        (u64::from(self.marked) * CLUSTER_BYTES).min(self.size_bytes)
    }

    /// The image's length.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

/// A stored cluster of an image, its blocks checked.
pub(crate) struct CopiedCluster<'a> {
    pub lcn: Lcn,
    pub mask: BlockMask,
    /// As the source recorded them; 0 for blocks that are not stored.
    pub crcs: &'a [u32; 32],
    /// The whole cluster; zeros where nothing is stored.
    pub bytes: &'a [u8],
}

impl<M: Medium> Store<M> {
    /// Begins a copy of `source`, an image as another disk has it: its slot is there, durably, `Building`.
    ///
    /// # Errors
    /// `BadDescription` if `source` does not name this disk: a copy that no description names would be a stray after a crash. `Deleted`,
    /// `NameTaken`, `TableFull`, `AllocationRefused`, `ReadOnlyLatched`, `Io`.
    pub fn begin_copy(
        &mut self,
        source: &Object,
        replica_uuid: Uuid,
    ) -> Result<CopyTicket, StoreError> {
        self.check_writable()?;
        self.settle()?;
        self.check_allocation()?;
        let uuid = source.uuid;
        if self.grave(uuid).is_some() {
            let context = format!("image {} ({uuid}) was deleted", source.name);
            return Err(
                StoreError::new(StoreErrorKind::Deleted, context, "nothing to do").of_object(uuid),
            );
        }
        self.check_free_name(&source.name, uuid)?;
        let member_disks = stored_members(self.disk_uuid(), &source.member_disks)
            .map_err(|error| error.of_object(uuid))?;
        let slot = self.free_slot()?;
        let epoch = Epoch::new(self.history_of(slot).epoch.get().wrapping_add(1));
        let record = ObjectRecord {
            kind: ObjectKind::ImageReplica,
            state: ObjectState::Building,
            want_attached: source.want_attached,
            loss_not_accepted: false,
            dev_id: source.dev_id,
            object_uuid: uuid,
            replica_uuid,
            parent_uuid: Uuid::nil(),
            generation: source.generation,
            size_bytes: source.size_bytes,
            stored_clusters: 0,
            wanted_copies: source.wanted_copies,
            sha256: source.sha256,
            sha512: source.sha512,
            name: Text::cut(&source.name),
            source: Text::cut(&source.source),
            created_unix_s: source.created_unix_s,
            map_dirs: [Pcn::NONE; TREE_DIRS],
            checksum_dirs: [Pcn::NONE; TREE_DIRS],
            member_disks,
            copied_clusters: 0,
        };
        let doing = format!("beginning a copy of image {}", source.name);
        self.use_replicas(&doing)?;
        self.change_slot(slot, epoch, Some(record.clone()), &doing)?;
        let (map_tree, checksum_tree) = (Tree::default(), Tree::default());
        let object = seal::describe(
            self.disk_uuid(),
            slot,
            epoch,
            &record,
            &map_tree,
            &checksum_tree,
        );
        let entry = Entry {
            object,
            record: Some(record.clone()),
            map: None,
            map_tree,
            checksum_tree,
            volume: None,
        };
        self.entries.insert(slot, entry);
        let ticket = self.reserve_copy(slot, epoch, &record);
        Ok(CopyTicket {
            planner: ImportPlanner::new(ticket.owner, Some(record.size_bytes)),
            interim: ticket.sibling(),
            ticket,
            clusters: clusters_of(record.size_bytes),
            next: 0,
            marked: 0,
            map_groups: Vec::new(),
            size_bytes: record.size_bytes,
            is_sealed: false,
        })
    }

    /// Goes on with a copy that a crash or [`Store::pause_copy`] has interrupted, from its last mark.
    ///
    /// # Errors
    /// `NotFound` if there is no copy that is being made; `Busy` if somebody is at it; `Corrupt` if its pages are lost: give it up with
    /// [`Store::remove_replica`], and begin anew. `AllocationRefused`, `ReadOnlyLatched`, `Io`.
    pub fn resume_copy(&mut self, uuid: Uuid) -> Result<CopyTicket, StoreError> {
        self.check_writable()?;
        self.settle()?;
        self.check_allocation()?;
        let entry = self.entry(uuid)?;
        let object = &entry.object;
        let (slot, epoch) = (object.slot, object.epoch);
        if self.reserved.contains_key(&slot) {
            let context = format!("image {} ({uuid}) is being copied already", object.name);
            let remedy = "wait until that ends";
            return Err(StoreError::new(StoreErrorKind::Busy, context, remedy).of_object(uuid));
        }
        let (Some(record), ReplicaState::Building { .. }) = (entry.record.clone(), &object.state)
        else {
            let context = format!("image {} ({uuid}) is not being copied to here", object.name);
            return Err(
                StoreError::new(StoreErrorKind::NotFound, context, "nothing to do").of_object(uuid),
            );
        };
        let copied = u32::try_from(record.copied_clusters).unwrap_or(u32::MAX);
        let map: Vec<u64> = entry
            .map
            .iter()
            .flat_map(|map| map.iter())
            .take(copied as usize)
            .map(MapEntry::bits)
            .collect();
        let (map_tree, checksum_tree) = (entry.map_tree.clone(), entry.checksum_tree.clone());

        let mut ticket = self.reserve_copy(slot, epoch, &record);
        let filling = match self.read_filling(&ticket, &checksum_tree) {
            Ok(filling) => filling,
            Err(error) => {
                self.reserved.remove(&slot);
                return Err(error);
            }
        };
        let mut interim = ticket.sibling();
        // What the last mark wrote of pages that were not full, and directories: the next mark replaces them.
        let full_map_groups = copied as usize / MAP_GROUP;
        let full_checksum_groups = filling
            .as_ref()
            .map_or(0, |filling| filling.number as usize);
        let take = |ticket: &mut ImportTicket, pcn: Pcn| {
            if !pcn.is_none() {
                ticket.take(Extent { pcn, count: 1 });
            }
        };
        for pcn in map_tree.dirs.iter().chain(&checksum_tree.dirs) {
            take(&mut interim, *pcn);
        }
        for (tree, full) in [
            (&map_tree, full_map_groups),
            (&checksum_tree, full_checksum_groups),
        ] {
            for (at, entry) in tree.entries.iter().enumerate() {
                let into = if at < full { &mut ticket } else { &mut interim };
                take(into, entry.cluster());
            }
        }
        for word in &map {
            take(&mut ticket, MapEntry::from_bits(*word).pcn());
        }
        let map_groups = entries_before(&map_tree, full_map_groups);
        let checksums = entries_before(&checksum_tree, full_checksum_groups);
        Ok(CopyTicket {
            planner: ImportPlanner::resumed(ticket.owner, map, checksums, filling),
            ticket,
            interim,
            clusters: clusters_of(record.size_bytes),
            next: copied,
            marked: copied,
            map_groups,
            size_bytes: record.size_bytes,
            is_sealed: false,
        })
    }

    /// The cluster of checksum pages that was not full at the last mark: the last one that was written.
    fn read_filling(
        &mut self,
        ticket: &ImportTicket,
        tree: &Tree,
    ) -> Result<Option<Filling>, StoreError> {
        let last = tree
            .entries
            .iter()
            .rposition(|entry| *entry != DirectoryEntry::EMPTY);
        let Some((number, entry)) = last.and_then(|at| Some((at, *tree.entries.get(at)?))) else {
            return Ok(None);
        };
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let mut crcs = vec![[0; CRCS]; usize_of(PAIRS_PER_CLUSTER.into())];
        let (mut repairs, mut buffer) = (Vec::new(), Vec::new());
        let slot_at = self.geometry().slot_offset(ticket.owner.slot, PairCopy::A);
        let mut reader = TreeReader {
            geometry: self.superblock.geometry,
            owner: ticket.owner,
            slot_at,
            disk: &mut self.disk,
            repairs: &mut repairs,
            buffer: &mut buffer,
        };
        for (pair, crcs) in (0..PAIRS_PER_CLUSTER).zip(&mut crcs) {
            if !entry.is_written(pair) {
                continue;
            }
            let Some(leaf) = LeafIndex::new(number.saturating_mul(PAIRS_PER_CLUSTER) + pair) else {
                continue;
            };
            // A bad twin is not repaired: the next mark writes the page elsewhere.
            match reader.checksums(tree, leaf) {
                Ok(page) => *crcs = page.map_or([0; CRCS], |page| page.crcs),
                Err(TreeError::Io(fault)) => {
                    return Err(StoreError::io("reading the checksums of a copy", fault)
                        .of_object(ticket.image.object_uuid));
                }
                Err(TreeError::Damage(damage)) => {
                    let context =
                        format!("the copy of image {} so far: {damage}", ticket.image.name);
                    let remedy = "give the copy up, and begin it anew";
                    return Err(StoreError::new(StoreErrorKind::Corrupt, context, remedy)
                        .of_object(ticket.image.object_uuid)
                        .at(damage.disk_offset()));
                }
            }
        }
        Ok(Some(Filling {
            number,
            written: entry.written(),
            crcs,
        }))
    }

    fn reserve_copy(
        &mut self,
        slot: SlotIndex,
        epoch: Epoch,
        record: &ObjectRecord,
    ) -> ImportTicket {
        let id = self.next_ticket;
        self.next_ticket += 1;
        let reservation = Reservation {
            ticket: id,
            name: record.name.as_str().to_owned(),
            uuid: record.object_uuid,
        };
        self.reserved.insert(slot, reservation);
        ImportTicket {
            id,
            owner: PageOwner {
                disk_uuid: self.disk_uuid(),
                slot,
                epoch,
            },
            image: NewImage {
                name: record.name.as_str().to_owned(),
                size_bytes: Some(record.size_bytes),
                source: record.source.as_str().to_owned(),
                wanted_copies: record.wanted_copies,
                created_unix_s: record.created_unix_s,
                object_uuid: record.object_uuid,
                replica_uuid: record.replica_uuid,
            },
            taken: Vec::new(),
        }
    }

    /// Writes the stored clusters from the copy's next one up to `until`, in order; what lies between them is zero.
    pub(crate) fn write_copy(
        &mut self,
        copy: &mut CopyTicket,
        stored: &[CopiedCluster<'_>],
        until: Lcn,
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        let doing = format!("copying image {}", copy.ticket.image.name);
        let mut places = Vec::with_capacity(stored.len());
        while places.len() < stored.len() {
            let rest = u32::try_from(stored.len() - places.len()).unwrap_or(u32::MAX);
            let extent = self.allocate(&mut copy.ticket, rest)?;
            let first = places.len();
            places.extend(extent.clusters());
            let mut bytes = Vec::with_capacity(extent.count as usize * usize_of(CLUSTER_BYTES));
            for cluster in stored.iter().skip(first).take(extent.count as usize) {
                bytes.extend_from_slice(cluster.bytes);
            }
            // Data: a write that fails ends the copy, not all writing to the disk.
            self.medium_mut()
                .write(extent.pcn.offset(), &bytes)
                .map_err(|fault| StoreError::io(&doing, fault).of_object(copy.image()))?;
        }
        for (cluster, pcn) in stored.iter().zip(places) {
            copy.planner
                .stored_with(cluster.lcn, pcn, cluster.mask, cluster.crcs)
                .map_err(|error| {
                    let context = format!("{doing}: {error}");
                    let remedy = "report this: the copy was planned wrongly";
                    StoreError::new(StoreErrorKind::Corrupt, context, remedy)
                        .of_object(copy.image())
                })?;
        }
        copy.next = until.get();
        self.place_checksums(copy)
    }

    /// Writes clusters of checksum pages that are full.
    fn place_checksums(&mut self, copy: &mut CopyTicket) -> Result<(), StoreError> {
        while copy.planner.needs_cluster() {
            let pcn = self.allocate(&mut copy.ticket, 1)?.pcn;
            if let Some(write) = copy.planner.place(pcn) {
                let doing = format!("copying image {}", copy.ticket.image.name);
                self.disk
                    .write(write.at, &write.bytes)
                    .map_err(|fault| StoreError::io(&doing, fault).of_object(copy.image()))?;
            }
        }
        Ok(())
    }

    /// Makes what is copied so far durable: a crash goes on from here.
    ///
    /// # Errors
    /// `NoSpace` for its pages: nothing has changed, and the copy can go on. `ReadOnlyLatched`, `Io`.
    pub fn mark_progress(&mut self, copy: &mut CopyTicket) -> Result<(), StoreError> {
        if copy.next == copy.marked || copy.is_sealed {
            return Ok(());
        }
        self.mark(copy, ObjectState::Building)
    }

    /// Ends a copy: it is a Ready replica, durably, with the checksums that its source recorded.
    ///
    /// # Errors
    /// `NotComplete` if clusters are missing; `Corrupt` if it is not a copy of `source` after all; as [`Store::mark_progress`]. The copy is as
    /// it was then, to be paused or given up.
    pub fn seal_copy(&mut self, copy: &mut CopyTicket, source: &Object) -> Result<(), StoreError> {
        let uuid = copy.image();
        if copy.is_sealed {
            return Ok(());
        }
        if !copy.is_whole() {
            let context = format!(
                "the copy of image {} ({uuid}) has {} of {} bytes",
                copy.ticket.image.name,
                copy.done_bytes(),
                copy.size_bytes
            );
            return Err(StoreError::new(
                StoreErrorKind::NotComplete,
                context,
                "copy the rest, then seal it",
            )
            .of_object(uuid));
        }
        let mine = &self.entry(uuid)?.object;
        let same = mine.uuid == source.uuid
            && mine.size_bytes == source.size_bytes
            && mine.sha256 == source.sha256
            && mine.sha512 == source.sha512
            && copy.planner.stored_clusters() == source.stored_clusters;
        if !same {
            let context = format!(
                "the copy of image {} ({uuid}) is not what its source is: {} clusters are stored, {} at the source",
                mine.name,
                copy.planner.stored_clusters(),
                source.stored_clusters
            );
            let remedy = "give the copy up, and verify the source: bedplate image verify";
            return Err(StoreError::new(StoreErrorKind::Corrupt, context, remedy).of_object(uuid));
        }
        self.mark(copy, ObjectState::Complete)?;
        copy.is_sealed = true;
        self.reserved.remove(&copy.ticket.owner.slot);
        // What a chunk that failed half way had taken.
        let mut ledger = Ledger::new(&copy.ticket.taken);
        if let Some(entry) = self.entries.get(&copy.ticket.owner.slot) {
            for pcn in entry.clusters() {
                let _ = ledger.refer(pcn);
            }
        }
        for pcn in ledger.unused() {
            self.give_back(Extent { pcn, count: 1 });
        }
        Ok(())
    }

    fn mark(&mut self, copy: &mut CopyTicket, state: ObjectState) -> Result<(), StoreError> {
        self.check_writable()?;
        let mut interim = copy.ticket.sibling();
        match self.try_mark(copy, &mut interim, state) {
            Ok(()) => {
                // The slot names the new pages, in both copies, durably. Before, the old ones were all that a crash would leave.
                let former = std::mem::replace(&mut copy.interim, interim);
                for extent in former.taken {
                    self.give_back(extent);
                }
                copy.marked = copy.next;
                Ok(())
            }
            Err(error) => {
                if self.disk.fault().is_none() {
                    for extent in interim.taken {
                        self.give_back(extent);
                    }
                }
                Err(error)
            }
        }
    }

    fn try_mark(
        &mut self,
        copy: &mut CopyTicket,
        interim: &mut ImportTicket,
        state: ObjectState,
    ) -> Result<(), StoreError> {
        let doing = format!(
            "noting how far the copy of image {} is",
            copy.ticket.image.name
        );
        let slot = copy.ticket.owner.slot;
        let Some(mut record) = self
            .entries
            .get(&slot)
            .and_then(|entry| entry.record.clone())
        else {
            return Err(not_served(
                &self.entry(copy.image())?.object,
                &ReplicaState::Ready,
            ));
        };

        // 1. Pages, to clusters that are free as far as the disk knows.
        self.place_checksums(copy)?;
        let mut map = copy.planner.map().to_vec();
        map.resize(copy.next as usize, 0);
        let full = map.len() / MAP_GROUP;
        for (group, words) in (0..)
            .zip(map.chunks_exact(MAP_GROUP))
            .skip(copy.map_groups.len())
        {
            let entry = self.write_map_group(&mut copy.ticket, group, words)?;
            copy.map_groups.push(entry);
        }
        let mut map_entries = copy.map_groups.clone();
        if let Some(rest) = map.get(full * MAP_GROUP..).filter(|rest| !rest.is_empty()) {
            let group = u32::try_from(full).unwrap_or(u32::MAX);
            map_entries.push(self.write_map_group(interim, group, rest)?);
        }
        let filling = if copy.planner.is_filling() {
            Some(self.allocate(interim, 1)?.pcn)
        } else {
            None
        };
        let (checksum_entries, write) = copy.planner.checksums_with(filling);
        if let Some(write) = write {
            self.disk
                .write(write.at, &write.bytes)
                .map_err(|fault| StoreError::io(&doing, fault))?;
        }
        let (map_tree, map_dirs) = self.write_directory(interim, TreeKind::Map, map_entries)?;
        let (checksum_tree, checksum_dirs) =
            self.write_directory(interim, TreeKind::Checksums, checksum_entries)?;

        // 2. Data and pages are durable before the slot names them. Otherwise a copy could be Ready after a power loss with another
        //    tenant's bytes in it, or go on from a place that it never reached.
        self.disk
            .flush()
            .map_err(|fault| StoreError::io(&doing, fault))?;

        // 3. The slot. A description that came meanwhile is in `record` already.
        let is_complete = state == ObjectState::Complete;
        record.state = state;
        record.map_dirs = map_dirs;
        record.checksum_dirs = checksum_dirs;
        record.stored_clusters = copy.planner.stored_clusters();
        record.copied_clusters = if is_complete { 0 } else { copy.next.into() };
        let owner = copy.ticket.owner;
        self.change_slot(slot, owner.epoch, Some(record.clone()), &doing)?;

        // 4. In memory. The map of a copy that goes on is needed only when it is paused.
        let disk = self.disk_uuid();
        if let Some(entry) = self.entries.get_mut(&slot) {
            let object =
                seal::describe(disk, slot, owner.epoch, &record, &map_tree, &checksum_tree);
            debug_assert_eq!(object.member_disks, members_of(disk, &record.member_disks));
            entry.object = object;
            entry.record = Some(record);
            entry.map_tree = map_tree;
            entry.checksum_tree = checksum_tree;
            entry.map = is_complete.then(|| Arc::new(LayerMap::from_entries(map)));
        }
        Ok(())
    }

    /// Leaves a copy as its last mark has it, to be resumed; what came after is forgotten, and its space is free. The caller has no
    /// more writes to it in flight.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the ticket is spent: what it had may be another's now"
    )]
    pub fn pause_copy(&mut self, copy: CopyTicket) {
        let slot = copy.ticket.owner.slot;
        if copy.is_sealed || self.disk.fault().is_some() {
            // Of a disk that takes no more changes nothing is known before it is opened again.
            return;
        }
        let mut map = copy.planner.map().to_vec();
        map.truncate(copy.marked as usize);
        map.resize(copy.clusters as usize, 0);
        let Some(entry) = self.entries.get_mut(&slot) else {
            return;
        };
        entry.map = Some(Arc::new(LayerMap::from_entries(map)));
        let kept: HashSet<Pcn> = entry.clusters().collect();
        let taken = copy.ticket.taken.iter().chain(&copy.interim.taken);
        let forgotten: Vec<Pcn> = taken
            .flat_map(|extent| extent.clusters())
            .filter(|pcn| !kept.contains(pcn))
            .collect();
        for pcn in forgotten {
            self.give_back(Extent { pcn, count: 1 });
        }
        self.reserved.remove(&slot);
    }

    /// Gives a copy up: its slot is free, durably, and its space. The caller has no more writes to it in flight.
    ///
    /// # Errors
    /// `ReadOnlyLatched`, `Io`: it is not known whether it is gone before the disk is opened again; it may be there to be resumed.
    pub fn abort_copy(&mut self, copy: CopyTicket) -> Result<(), StoreError> {
        if copy.is_sealed {
            return Ok(());
        }
        self.check_writable()?;
        let (slot, uuid) = (copy.ticket.owner.slot, copy.image());
        let epoch = Epoch::new(self.history_of(slot).epoch.get().wrapping_add(1));
        self.change_slot(slot, epoch, None, &format!("giving up a copy of {uuid}"))?;
        self.entries.remove(&slot);
        self.reserved.remove(&slot);
        for extent in copy.ticket.taken.into_iter().chain(copy.interim.taken) {
            self.give_back(extent);
        }
        Ok(())
    }
}

fn clusters_of(size_bytes: u64) -> u32 {
    u32::try_from(size_bytes.div_ceil(CLUSTER_BYTES)).unwrap_or(u32::MAX)
}

fn entries_before(tree: &Tree, end: usize) -> Vec<DirectoryEntry> {
    let mut entries: Vec<DirectoryEntry> = tree.entries.iter().take(end).copied().collect();
    entries.resize(end, DirectoryEntry::EMPTY);
    entries
}
