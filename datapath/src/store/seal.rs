//! The end of an import: the commit that makes an image exist.

use std::sync::Arc;

use uuid::Uuid;

use super::description::members_of;
use super::error::StoreError;
use super::object::{Object, ReplicaState};
use super::ticket::{ImportTicket, Ledger, NewImage};
use super::tree_write::contradiction;
use super::trees::Tree;
use super::{Entry, Store};
use crate::alloc::Extent;
use crate::format::directory::TreeKind;
use crate::format::members::Members;
use crate::format::object::{ObjectKind, ObjectRecord, ObjectState};
use crate::format::text::Text;
use crate::format::tree::TREE_DIRS;
use crate::import::SealedImage;
use crate::map::{LayerMap, MapEntry};
use crate::medium::Medium;
use crate::units::{CLUSTER_BYTES, Epoch, Pcn, SlotIndex};

impl<M: Medium> Store<M> {
    /// Makes an import an image, durably. Every write of its data and checksum pages has returned before this is called.
    ///
    /// # Errors
    /// `NoSpace` (for the pages of its map), `Corrupt` if `sealed` contradicts itself, and the import is given up as by
    /// [`Store::abort`]. `Io` or `ReadOnlyLatched`, and then it is not known whether the image exists before the disk is opened
    /// again.
    pub fn seal(
        &mut self,
        mut ticket: ImportTicket,
        sealed: SealedImage,
    ) -> Result<Uuid, StoreError> {
        let result = self.try_seal(&mut ticket, sealed);
        if result.is_err() && self.disk.fault().is_none() {
            self.abort(ticket);
        }
        result
    }

    fn try_seal(
        &mut self,
        ticket: &mut ImportTicket,
        mut sealed: SealedImage,
    ) -> Result<Uuid, StoreError> {
        self.check_writable()?;
        let name = ticket.image.name.clone();
        check(&name, &sealed)?;

        // 1. The trees, to clusters that are free as far as the disk knows. A crash leaves them free.
        let map_entries = self.write_map_leaves(ticket, &sealed.map)?;
        let (map_tree, map_dirs) = self.write_directory(ticket, TreeKind::Map, map_entries)?;
        let checksums = std::mem::take(&mut sealed.checksums);
        let (checksum_tree, checksum_dirs) =
            self.write_directory(ticket, TreeKind::Checksums, checksums)?;

        // One cluster with two owners would be found at the next open, and hold both images. It never gets that far.
        let mut ledger = Ledger::new(&ticket.taken);
        let data = sealed
            .map
            .iter()
            .map(|word| MapEntry::from_bits(*word).pcn())
            .filter(|pcn| !pcn.is_none());
        for pcn in data
            .chain(map_tree.clusters())
            .chain(checksum_tree.clusters())
        {
            ledger.refer(pcn)?;
        }

        // 2. Data, checksums and trees are durable before a slot names them. Otherwise the image could be there after a power
        //    loss with another tenant's bytes in it.
        let doing = format!("sealing image {name}");
        self.disk
            .flush()
            .map_err(|fault| StoreError::io(&doing, fault))?;

        // 3. The image exists with the first durable copy of its slot.
        let record = record(&ticket.image, &sealed, map_dirs, checksum_dirs);
        self.change_slot(
            ticket.owner.slot,
            ticket.owner.epoch,
            Some(record.clone()),
            &doing,
        )?;

        // 4. In memory: what was taken and not used is free again.
        for pcn in ledger.unused() {
            self.give_back(Extent { pcn, count: 1 });
        }
        self.reserved.remove(&ticket.owner.slot);
        let map = Some(Arc::new(LayerMap::from_entries(sealed.map)));
        let object = describe(
            self.disk_uuid(),
            ticket.owner.slot,
            ticket.owner.epoch,
            &record,
            &map_tree,
            &checksum_tree,
        );
        let uuid = object.uuid;
        let entry = Entry {
            object,
            record: Some(record),
            map,
            map_tree,
            checksum_tree,
            volume: None,
        };
        self.entries.insert(ticket.owner.slot, entry);
        Ok(uuid)
    }
}

fn check(name: &str, sealed: &SealedImage) -> Result<(), StoreError> {
    if sealed.map.len() as u64 != sealed.size_bytes.div_ceil(CLUSTER_BYTES) {
        return Err(contradiction(name, "the map is not as long as the image"));
    }
    let stored = sealed
        .map
        .iter()
        .filter(|word| !MapEntry::from_bits(**word).pcn().is_none())
        .count();
    if stored as u64 != sealed.stored_clusters {
        return Err(contradiction(
            name,
            "the map does not have as many clusters as were stored",
        ));
    }
    if sealed
        .map
        .iter()
        .any(|word| MapEntry::from_bits(*word).is_dirty())
    {
        return Err(contradiction(name, "the map has a dirty entry"));
    }
    Ok(())
}

fn record(
    image: &NewImage,
    sealed: &SealedImage,
    map_dirs: [Pcn; TREE_DIRS],
    checksum_dirs: [Pcn; TREE_DIRS],
) -> ObjectRecord {
    ObjectRecord {
        kind: ObjectKind::ImageReplica,
        state: ObjectState::Complete,
        want_attached: false,
        loss_not_accepted: false,
        dev_id: None,
        object_uuid: image.object_uuid,
        replica_uuid: image.replica_uuid,
        parent_uuid: Uuid::nil(),
        generation: 1,
        size_bytes: sealed.size_bytes,
        stored_clusters: sealed.stored_clusters,
        wanted_copies: image.wanted_copies,
        sha256: sealed.sha256,
        sha512: sealed.sha512,
        name: Text::cut(&image.name),
        source: Text::cut(&image.source),
        created_unix_s: image.created_unix_s,
        map_dirs,
        checksum_dirs,
        member_disks: Members::NONE,
        copied_clusters: 0,
    }
}

/// What the store tells about an object of which nothing is known to be bad.
pub(super) fn describe(
    disk: Uuid,
    slot: SlotIndex,
    epoch: Epoch,
    record: &ObjectRecord,
    map_tree: &Tree,
    checksum_tree: &Tree,
) -> Object {
    Object {
        kind: record.kind,
        parent: Some(record.parent_uuid).filter(|uuid| !uuid.is_nil()),
        loss_not_accepted: record.loss_not_accepted,
        slot,
        epoch,
        uuid: record.object_uuid,
        replica_uuid: record.replica_uuid,
        name: record.name.as_str().to_owned(),
        size_bytes: record.size_bytes,
        sha256: record.sha256,
        sha512: record.sha512,
        stored_clusters: record.stored_clusters,
        tree_clusters: (map_tree.clusters().count() + checksum_tree.clusters().count()) as u64,
        wanted_copies: record.wanted_copies,
        source: record.source.as_str().to_owned(),
        created_unix_s: record.created_unix_s,
        dev_id: record.dev_id,
        want_attached: record.want_attached,
        generation: record.generation,
        member_disks: members_of(disk, &record.member_disks),
        state: match record.state {
            ObjectState::Complete => ReplicaState::Ready,
            ObjectState::Building => ReplicaState::Building {
                done_bytes: (record.copied_clusters * CLUSTER_BYTES).min(record.size_bytes),
            },
        },
    }
}
