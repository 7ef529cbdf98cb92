//! The oracle: what may be on the disk after a crash, and a check that it is.
//!
//! An object is there, not there, or either, while an operation on it was on its way. What a recovery shows is durable from then on,
//! so that each check narrows what the next one may find.

use std::collections::BTreeMap;
use std::sync::Arc;

use bedplate_datapath::medium::Medium;
use bedplate_datapath::store::{Object, Store};
use bedplate_datapath::units::DevId;
use uuid::Uuid;

use super::content::Content;
use super::node;

/// Device number, and the wish to be attached.
pub type Attachment = (Option<DevId>, bool);

/// What is known about one object.
#[derive(Clone, Debug)]
struct Known {
    name: String,
    content: Arc<Content>,
    /// An operation that was on its way may have made or deleted it.
    may_be_absent: bool,
    /// One of these; more than one only while a change was on its way.
    attachments: Vec<Attachment>,
}

/// Everything that may be on one disk.
#[derive(Clone, Debug)]
pub struct Model {
    disk_uuid: Uuid,
    objects: BTreeMap<Uuid, Known>,
}

impl Model {
    /// A disk that was just formatted.
    pub fn new(disk_uuid: Uuid) -> Self {
        Self {
            disk_uuid,
            objects: BTreeMap::new(),
        }
    }

    /// The disk's identity.
    pub fn disk_uuid(&self) -> Uuid {
        self.disk_uuid
    }

    /// An import is about to be sealed: from here on the object may be there.
    pub fn importing(&mut self, uuid: Uuid, name: &str, content: &Arc<Content>) {
        let known = Known {
            name: name.to_owned(),
            content: Arc::clone(content),
            may_be_absent: true,
            attachments: vec![(None, false)],
        };
        self.objects.insert(uuid, known);
    }

    /// The seal was acknowledged.
    pub fn imported(&mut self, uuid: Uuid) {
        if let Some(known) = self.objects.get_mut(&uuid) {
            known.may_be_absent = false;
        }
    }

    /// A delete is about to begin.
    pub fn deleting(&mut self, uuid: Uuid) {
        if let Some(known) = self.objects.get_mut(&uuid) {
            known.may_be_absent = true;
        }
    }

    /// The object is gone for ever: its delete was acknowledged, or its import was refused.
    pub fn gone(&mut self, uuid: Uuid) {
        self.objects.remove(&uuid);
    }

    /// A change of the attachment is about to begin.
    pub fn attaching(&mut self, uuid: Uuid, attachment: Attachment) {
        if let Some(known) = self.objects.get_mut(&uuid) {
            known.attachments.push(attachment);
        }
    }

    /// The last change of the attachment was acknowledged.
    pub fn attached(&mut self, uuid: Uuid) {
        if let Some(known) = self.objects.get_mut(&uuid) {
            known.attachments.drain(..known.attachments.len() - 1);
        }
    }

    /// Objects that are surely there.
    pub fn present(&self) -> Vec<Uuid> {
        self.objects
            .iter()
            .filter(|(_, known)| !known.may_be_absent)
            .map(|(uuid, _)| *uuid)
            .collect()
    }

    /// The attachment of an object that is surely there.
    pub fn attachment(&self, uuid: Uuid) -> Attachment {
        self.objects
            .get(&uuid)
            .and_then(|known| known.attachments.last())
            .copied()
            .unwrap_or((None, false))
    }

    /// Whether an object that may be there has the name.
    pub fn has_name(&self, name: &str) -> bool {
        self.objects.values().any(|known| known.name == name)
    }

    /// Compares an open disk with what may be on it, and narrows that to what is. `taken` clusters are reserved by imports on
    /// their way. With `read_back`, every byte of every object is read.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check<M: Medium>(
        &mut self,
        store: &mut Store<M>,
        taken: u64,
        read_back: bool,
    ) -> Result<(), String> {
        if store.disk_uuid() != self.disk_uuid {
            return Err(format!("another disk was opened: {}", store.disk_uuid()));
        }
        let found: Vec<Object> = store.objects().cloned().collect();
        for object in &found {
            self.check_object(object)?;
        }
        self.objects.retain(|uuid, known| {
            !known.may_be_absent || found.iter().any(|object| object.uuid == *uuid)
        });
        for (uuid, known) in &mut self.objects {
            let Some(object) = found.iter().find(|object| object.uuid == *uuid) else {
                return Err(format!(
                    "image {} ({uuid}) was acknowledged and is not there",
                    known.name
                ));
            };
            known.may_be_absent = false;
            known.attachments = vec![(object.dev_id, object.want_attached)];
        }
        let owned: u64 = self
            .objects
            .values()
            .map(|known| known.content.clusters_on_disk())
            .sum();
        let (free, total) = (store.free_clusters(), store.total_clusters());
        if free + owned + taken != total {
            return Err(format!(
                "space is lost: {free} free + {owned} owned + {taken} taken, of {total} clusters"
            ));
        }
        if read_back {
            self.read_back(store)?;
        }
        Ok(())
    }

    fn check_object(&self, object: &Object) -> Result<(), String> {
        let uuid = object.uuid;
        let Some(known) = self.objects.get(&uuid) else {
            return Err(format!(
                "image {} ({uuid}) is there and must not be",
                object.name
            ));
        };
        if !object.state.is_ready() {
            return Err(format!(
                "image {} ({uuid}) is not Ready: {:?}",
                object.name, object.state
            ));
        }
        let content = &known.content;
        let same = object.name == known.name
            && object.size_bytes == content.size_bytes
            && object.sha256 == content.sha256
            && object.sha512 == content.sha512
            && object.replica_uuid == Uuid::from_u128(!uuid.as_u128())
            && object.stored_clusters + object.tree_clusters == content.clusters_on_disk();
        if !same {
            return Err(format!(
                "image {} ({uuid}) is not what was imported: {object:?}",
                known.name
            ));
        }
        let attachment = (object.dev_id, object.want_attached);
        if !known.attachments.contains(&attachment) {
            return Err(format!(
                "image {} has attachment {attachment:?}, not one of {:?}",
                known.name, known.attachments
            ));
        }
        Ok(())
    }

    fn read_back<M: Medium>(&self, store: &mut Store<M>) -> Result<(), String> {
        for (uuid, known) in &self.objects {
            let bytes = node::read_image(store, *uuid, known.content.size_bytes)
                .map_err(|error| format!("image {} cannot be read: {error}", known.name))?;
            let expected = node::expected_bytes(&known.content);
            if bytes != expected {
                let at = bytes
                    .iter()
                    .zip(expected)
                    .position(|(a, b)| a != b)
                    .unwrap_or(expected.len());
                return Err(format!(
                    "image {} has wrong bytes at {at} of {}",
                    known.name,
                    expected.len()
                ));
            }
        }
        Ok(())
    }
}
