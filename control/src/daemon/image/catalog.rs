//! Which images there are: the objects on all known disks, with what the daemon does with them.

use std::collections::BTreeMap;

use bedplate_datapath::store::{Object, ReplicaState as StoredState};
use bedplate_datapath::units::CLUSTER_BYTES;
use uuid::Uuid;

use crate::api::{
    ApiError, Attachment, AttachmentState, Changed, Image, ImageDetail, Replica, ReplicaState,
    Transition,
};
use crate::daemon::node::Node;
use crate::daemon::object::runtime::ObjectTable;
use crate::daemon::object::wait::Stand;
use crate::daemon::object::{Located, Noun, disk_trouble};
use crate::error_kind::ErrorKind;

impl Node {
    /// Derives the states of the replicas on a disk from the disk's state, and tells of the changes.
    pub fn refresh_replicas(&self, disk: Uuid) {
        let disks = self.disks();
        let mut images = self.runtimes();
        for entry in disks.iter().filter(|entry| entry.uuid == Some(disk)) {
            let trouble = disk_trouble(entry);
            let contents = entry.contents_now();
            let replicas = contents
                .objects
                .iter()
                .filter(|object| Noun::of(object) == Noun::Image);
            for object in replicas {
                let (state, why) = state_of(trouble.as_ref(), object, &images);
                let tracked = images.replica(object.replica_uuid);
                match why {
                    None => tracked.set(
                        &object.name,
                        state,
                        "its disk is in use and its metadata checked out",
                    ),
                    Some(why) => tracked.set_because(&object.name, state, &why),
                }
            }
        }
        drop(images);
        drop(disks);
        self.notify();
    }

    /// Every image, by name.
    pub fn image_list(&self) -> Vec<Image> {
        let mut by_uuid: BTreeMap<Uuid, Vec<Located>> = BTreeMap::new();
        for replica in self.objects_of(Noun::Image) {
            by_uuid
                .entry(replica.object.uuid)
                .or_default()
                .push(replica);
        }
        let images = self.runtimes();
        let mut list: Vec<Image> = by_uuid
            .values()
            .map(|replicas| view(replicas, &images))
            .collect();
        let on_disk: Vec<String> = list.iter().map(|image| image.name.clone()).collect();
        // Between the seal and the end of its job an image is both.
        list.extend(
            images
                .imports()
                .filter(|(name, _)| !on_disk.contains(name))
                .map(|(name, import)| import.view(name)),
        );
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// One image, by name or UUID.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn image_detail(&self, name: &str) -> Result<ImageDetail, ApiError> {
        let first = match self.find(Noun::Image, name) {
            Ok(first) => first,
            Err(error) => {
                let images = self.runtimes();
                let import = images
                    .import_of(name)
                    .filter(|_| error.kind == ErrorKind::NotReady)
                    .ok_or(error)?;
                return Ok(ImageDetail {
                    image: import.view(name),
                    replicas: Vec::new(),
                    history: Vec::new(),
                });
            }
        };
        let replicas: Vec<Located> = self
            .objects_of(Noun::Image)
            .into_iter()
            .filter(|replica| replica.object.uuid == first.object.uuid)
            .collect();
        let images = self.runtimes();
        let mut history: Vec<Transition> = Vec::new();
        for replica in &replicas {
            history.extend(
                images
                    .replica_state(replica.object.replica_uuid)
                    .into_iter()
                    .flat_map(|state| state.changes().cloned()),
            );
        }
        history.extend(
            images
                .get(first.object.uuid)
                .into_iter()
                .flat_map(|runtime| runtime.attachment.changes().cloned()),
        );
        history.sort_by_key(|change| change.at_unix_ms);
        Ok(ImageDetail {
            image: view(&replicas, &images),
            replicas: replicas
                .iter()
                .map(|replica| replica_view(replica, &images))
                .collect(),
            history,
        })
    }

    /// What the API answers to a change of an image's device.
    pub fn image_changed(&self, found: &Located, changed: bool) -> Changed {
        Changed {
            image: found.object.name.clone(),
            changed,
            attachment: attachment(&found.object, &self.runtimes()),
        }
    }

    /// How an image stands, for those who wait for it.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn image_stand(&self, name: &str) -> Result<Stand<ImageDetail>, ApiError> {
        let detail = self.image_detail(name)?;
        let (image, attachment) = (&detail.image, &detail.image.attachment);
        let why = image.why.as_ref().or(attachment.why.as_ref());
        Ok(Stand {
            usable: image.state == ReplicaState::Ready
                && (!attachment.wanted || attachment.state == AttachmentState::Ready),
            words: format!(
                "{:?}, its device {:?}{}",
                image.state,
                attachment.state,
                why.map_or(String::new(), |why| format!(": {why}"))
            ),
            view: detail,
        })
    }
}

fn state_of(
    trouble: Option<&String>,
    object: &Object,
    images: &ObjectTable,
) -> (ReplicaState, Option<String>) {
    if let Some(trouble) = trouble {
        return (ReplicaState::Unknown, Some(trouble.clone()));
    }
    match &object.state {
        StoredState::Failed(damage) => (ReplicaState::Failed, Some(damage.to_string())),
        StoredState::Building { .. } => (ReplicaState::InProgress, None),
        StoredState::Ready => match images
            .get(object.uuid)
            .and_then(|runtime| runtime.damage.clone())
        {
            Some(damage) => (ReplicaState::Damaged, Some(damage)),
            None => (ReplicaState::Ready, None),
        },
    }
}

fn replica_view(replica: &Located, images: &ObjectTable) -> Replica {
    let tracked = images.replica_state(replica.object.replica_uuid);
    Replica {
        uuid: replica.object.replica_uuid,
        disk_uuid: replica.disk,
        disk_path: Some(replica.disk_path.clone()),
        state: tracked.map_or(ReplicaState::Pending, super::super::history::Tracked::get),
        percent: None,
        why: tracked.and_then(|tracked| tracked.why().map(str::to_owned)),
    }
}

fn view(replicas: &[Located], images: &ObjectTable) -> Image {
    let views: Vec<Replica> = replicas
        .iter()
        .map(|replica| replica_view(replica, images))
        .collect();
    let ready = views
        .iter()
        .filter(|replica| replica.state == ReplicaState::Ready)
        .count();
    let best = views.iter().min_by_key(|replica| rank(replica.state));
    // Every group has at least one replica; the first one stands for the description that all share.
    let object = &replicas[0].object;
    let copies_ready = u32::try_from(ready).unwrap_or(u32::MAX);
    let known = object.size_bytes > 0;
    Image {
        name: object.name.clone(),
        uuid: object.uuid,
        state: best.map_or(ReplicaState::Pending, |replica| replica.state),
        percent: None,
        why: best.and_then(|replica| replica.why.clone()),
        degraded: copies_ready < object.wanted_copies,
        size_bytes: known.then_some(object.size_bytes),
        stored_bytes: known
            .then_some((object.stored_clusters + object.tree_clusters) * CLUSTER_BYTES),
        copies_wanted: object.wanted_copies,
        copies_ready,
        sha256: known.then(|| hex(&object.sha256)),
        sha512: known.then(|| hex(&object.sha512)),
        source: object.source.clone(),
        created_unix_ms: object.created_unix_s.saturating_mul(1000),
        attachment: attachment(object, images),
        job: images
            .get(object.uuid)
            .and_then(|runtime| runtime.job.as_ref())
            .map(super::super::jobs::JobRef::id),
    }
}

/// The best state of replicas is the image's.
fn rank(state: ReplicaState) -> u8 {
    match state {
        ReplicaState::Ready => 0,
        ReplicaState::Damaged => 1,
        ReplicaState::InProgress => 2,
        ReplicaState::Pending => 3,
        ReplicaState::Unknown => 4,
        ReplicaState::Failed => 5,
    }
}

fn attachment(object: &Object, images: &ObjectTable) -> Attachment {
    let runtime = images.get(object.uuid);
    Attachment {
        state: runtime.map_or(AttachmentState::Detached, |runtime| {
            runtime.attachment.get()
        }),
        why: runtime.and_then(|runtime| runtime.attachment.why().map(str::to_owned)),
        wanted: object.want_attached,
        dev_id: object.dev_id.map(bedplate_datapath::units::DevId::get),
        device: runtime
            .and_then(|runtime| runtime.device)
            .map(|number| format!("/dev/ublkb{number}")),
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
