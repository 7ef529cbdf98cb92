//! Which images there are: the objects on all known disks, with what the daemon does with them.

use std::collections::BTreeMap;

use bedplate_datapath::catalogue::{Catalogue, CatalogueState};
use bedplate_datapath::store::{Object, ReplicaState as StoredState};
use bedplate_datapath::units::{BLOCK_BYTES, CLUSTER_BYTES};
use uuid::Uuid;

use crate::api::{
    ApiError, Attachment, AttachmentState, Changed, DamagedRange, Image, ImageDetail, JobState,
    Replica, ReplicaState, Transition,
};
use crate::daemon::node::Node;
use crate::daemon::object::runtime::ObjectTable;
use crate::daemon::object::wait::Stand;
use crate::daemon::object::{Located, Noun};
use crate::daemon::replica::image_of;
use crate::error_kind::ErrorKind;

/// Damaged ranges that are shown of one replica.
const DAMAGED_RANGES_MAX: usize = 100;

impl Node {
    /// Derives the states of the replicas on a disk from the disk's state, and tells of the changes.
    pub fn refresh_replicas(&self, disk: Uuid) {
        let here = self.objects_where(|on, object| on == disk && Noun::of(object) == Noun::Image);
        for found in here {
            let (state, why) = self.state_of(&found);
            let mut images = self.runtimes();
            let tracked = images.replica(found.object.replica_uuid);
            match why {
                Some(why) => tracked.set_because(&found.object.name, state, &why),
                None if state == ReplicaState::InProgress => {
                    tracked.set(&found.object.name, state, "it is being copied");
                }
                None if state == ReplicaState::Pending => {
                    tracked.set(&found.object.name, state, "it waits for its turn");
                }
                None => tracked.set(
                    &found.object.name,
                    state,
                    "its disk is in use and its metadata checked out",
                ),
            }
        }
        self.notify();
    }

    fn state_of(&self, found: &Located) -> (ReplicaState, Option<String>) {
        let object = &found.object;
        if let Some(trouble) = &found.disk_trouble {
            return (ReplicaState::Unknown, Some(trouble.clone()));
        }
        match &object.state {
            StoredState::Failed(damage) => (ReplicaState::Failed, Some(damage.to_string())),
            StoredState::Building { .. } => self.state_of_unfinished(object.uuid, found.disk),
            StoredState::Ready => match self.damage().of(object.replica_uuid) {
                Some(damage) => (ReplicaState::Damaged, Some(damage.why.clone())),
                None => (ReplicaState::Ready, None),
            },
        }
    }

    /// Of a copy that is to be made, or is being made.
    fn state_of_unfinished(&self, image: Uuid, disk: Uuid) -> (ReplicaState, Option<String>) {
        let runs = self
            .replicas
            .rebuild_of(image, disk)
            .is_some_and(|job| job.view().state == JobState::Running);
        if runs {
            (ReplicaState::InProgress, None)
        } else {
            (ReplicaState::Pending, self.replicas.failure_of(image, disk))
        }
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
        let mut list: Vec<Image> = by_uuid
            .values()
            .map(|replicas| self.image_view(replicas).image)
            .collect();
        let images = self.runtimes();
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
        let replicas = self.copies_of(first.object.uuid);
        let seen = self.image_view(&replicas);
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
            image: seen.image,
            replicas: seen
                .replicas
                .into_iter()
                .map(|mut replica| {
                    self.add_damage(&mut replica);
                    replica
                })
                .collect(),
            history,
        })
    }

    /// What is known to be bad of a replica, and when it was read.
    fn add_damage(&self, view: &mut Replica) {
        view.damaged = self
            .damage()
            .ranges(view.uuid)
            .into_iter()
            .take(DAMAGED_RANGES_MAX)
            .map(|range| DamagedRange {
                offset: range.start * BLOCK_BYTES,
                len_bytes: (range.end - range.start) * BLOCK_BYTES,
            })
            .collect();
        let remembered = self.scrub_memory().of(view.uuid);
        view.verified_unix_ms = remembered.map(|what| what.read_unix_s.saturating_mul(1000));
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

/// An image and its replicas, as the API shows them.
struct Seen {
    image: Image,
    replicas: Vec<Replica>,
}

impl Node {
    /// One image, of all that is known of it: at least one copy.
    fn image_view(&self, copies: &[Located]) -> Seen {
        let catalogue = self.catalogue();
        // Every group has at least one copy; the best one stands for what all of them are.
        let best = copies
            .iter()
            .min_by_key(|copy| (copy.disk_trouble.is_some(), !copy.object.state.is_ready()));
        let object = &best.unwrap_or(&copies[0]).object;
        let mut replicas: Vec<Replica> =
            copies.iter().map(|copy| self.replica_view(copy)).collect();
        replicas.extend(self.replicas_to_be(&catalogue, object, copies));
        replicas.sort_by_key(|replica| (rank(replica.state), replica.disk_uuid));
        let ready = replicas
            .iter()
            .filter(|replica| replica.state == ReplicaState::Ready)
            .count();
        let copies_ready = u32::try_from(ready).unwrap_or(u32::MAX);
        let degraded = copies_ready < object.wanted_copies;
        let first = replicas.first();
        let known = object.size_bytes > 0;
        let images = self.runtimes();
        let job = images
            .get(object.uuid)
            .and_then(|runtime| runtime.job.as_ref())
            .map(super::super::jobs::JobRef::id);
        let rebuild = self.replicas.any_rebuild_of(object.uuid);
        let image = Image {
            name: object.name.clone(),
            uuid: object.uuid,
            state: first.map_or(ReplicaState::Pending, |replica| replica.state),
            percent: None,
            why: first.and_then(|replica| replica.why.clone()),
            degraded,
            degraded_why: degraded
                .then(|| self.replicas.blocked(object.uuid))
                .flatten(),
            size_bytes: known.then_some(object.size_bytes),
            stored_bytes: known
                .then_some((object.stored_clusters + object.tree_clusters) * CLUSTER_BYTES),
            copies_wanted: object.wanted_copies,
            copies_ready,
            sha256: known.then(|| hex(&object.sha256)),
            sha512: known.then(|| hex(&object.sha512)),
            source: object.source.clone(),
            created_unix_ms: object.created_unix_s.saturating_mul(1000),
            attachment: attachment(object, &images),
            job: job.or_else(|| rebuild.map(|job| job.id())),
        };
        Seen { image, replicas }
    }

    fn replica_view(&self, found: &Located) -> Replica {
        let (image, disk) = (found.object.uuid, found.disk);
        let (state, why) = self.state_of(found);
        let percent = match &found.object.state {
            StoredState::Building { done_bytes } => {
                let job = self.replicas.rebuild_of(image, disk);
                let done = job.map_or(*done_bytes, |job| job.view().progress.done_bytes);
                percent_of(done.max(*done_bytes), found.object.size_bytes)
            }
            StoredState::Ready | StoredState::Failed(_) => None,
        };
        Replica {
            uuid: found.object.replica_uuid,
            disk_uuid: disk,
            disk_path: Some(found.disk_path.clone()),
            state,
            percent,
            why,
            damaged: Vec::new(),
            verified_unix_ms: None,
        }
    }

    /// Those that are named and were not seen: to be made, or on disks that are away.
    fn replicas_to_be(
        &self,
        catalogue: &Catalogue,
        object: &Object,
        seen: &[Located],
    ) -> Vec<Replica> {
        let Some(image) = image_of(catalogue, object.uuid) else {
            return Vec::new();
        };
        let missing = image
            .replicas
            .iter()
            .filter(|replica| seen.iter().all(|copy| copy.disk != replica.disk));
        missing
            .map(|replica| {
                let unknown = |why: &str| (ReplicaState::Unknown, Some(why.to_owned()));
                let (state, why) = match replica.state {
                    CatalogueState::Unknown => unknown("its disk is not there"),
                    CatalogueState::Hidden => unknown(
                        "its disk has a slot that cannot be read (`lost-slot-N` in the list of images), and that may be it",
                    ),
                    _ => self.state_of_unfinished(object.uuid, replica.disk),
                };
                let path = self
                    .disks()
                    .iter()
                    .find(|entry| entry.uuid == Some(replica.disk))
                    .map(super::super::disk::entry::DiskEntry::name);
                Replica {
                    uuid: replica.replica_uuid.unwrap_or_default(),
                    disk_uuid: replica.disk,
                    disk_path: path,
                    state,
                    percent: None,
                    why,
                    damaged: Vec::new(),
                    verified_unix_ms: None,
                }
            })
            .collect()
    }
}

fn percent_of(done: u64, total: u64) -> Option<u8> {
    let percent = (u128::from(done) * 100).checked_div(u128::from(total))?;
    u8::try_from(percent.min(100)).ok()
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
