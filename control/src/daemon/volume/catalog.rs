//! Which volumes there are: the objects on all known disks, with what the daemon does with them.

use bedplate_datapath::units::{CLUSTER_BYTES, DevId};
use uuid::Uuid;

use crate::api::{
    ApiError, AttachmentState, ParentImage, Volume, VolumeChanged, VolumeDetail, VolumeState,
};
use crate::daemon::errors;
use crate::daemon::history::Tracked;
use crate::daemon::node::Node;
use crate::daemon::object::runtime::Runtime;
use crate::daemon::object::wait::Stand;
use crate::daemon::object::{Located, Noun, backing};

impl Node {
    /// Every volume, by name.
    pub fn volume_list(&self) -> Vec<Volume> {
        let objects = self.objects();
        let mut list: Vec<Volume> = objects
            .iter()
            .filter(|found| found.noun() == Noun::Volume)
            .map(|found| self.volume_view(found, &objects))
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// One volume, by name or UUID.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn volume(&self, name: &str) -> Result<Volume, ApiError> {
        let found = self.find(Noun::Volume, name)?;
        Ok(self.volume_view(&found, &self.objects()))
    }

    /// One volume with everything that is known, by name or UUID.
    ///
    /// # Errors
    /// As [`Self::find`]; what its disk has against telling.
    pub async fn volume_detail(&self, name: &str) -> Result<VolumeDetail, ApiError> {
        let found = self.find(Noun::Volume, name)?;
        let uuid = found.object.uuid;
        let mut volume = self.volume_view(&found, &self.objects());
        let mut shared_bytes = None;
        let object_is_clone = found.object.parent.is_some();
        if found.disk_trouble.is_none() && backing::held(&found, None).is_none() {
            let actor = self.actor(found.disk)?;
            let usage = actor.ask(move |store| store.usage_of(uuid)).await?;
            match usage {
                Ok(usage) => {
                    volume.allocated_bytes = usage.allocated_bytes;
                    shared_bytes = Some(usage.shared_bytes);
                }
                // Its image is elsewhere: what it shares is not on this disk.
                Err(_) if object_is_clone => {}
                Err(error) => {
                    return Err(errors::of_store(&actor.name(), Some(&volume.name), &error));
                }
            }
        }
        let history = self.runtimes().get(uuid).map_or_else(Vec::new, |runtime| {
            runtime.attachment.changes().cloned().collect()
        });
        Ok(VolumeDetail {
            volume,
            shared_bytes,
            history,
        })
    }

    /// What the API answers to a change of a volume.
    pub fn volume_changed(&self, found: &Located, changed: bool) -> VolumeChanged {
        VolumeChanged {
            changed,
            volume: self.volume_view(found, &self.objects()),
        }
    }

    /// How a volume stands, for those who wait for it.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn volume_stand(&self, name: &str) -> Result<Stand<Volume>, ApiError> {
        let volume = self.volume(name)?;
        let as_wanted = match volume.state {
            VolumeState::Ready | VolumeState::Degraded => true,
            VolumeState::Detached => !volume.wanted,
            VolumeState::Attaching | VolumeState::Recovering | VolumeState::Held => false,
        };
        let why = volume.why.as_ref();
        Ok(Stand {
            usable: as_wanted && (why.is_none() || volume.state == VolumeState::Degraded),
            words: format!(
                "{:?}{}",
                volume.state,
                why.map_or(String::new(), |why| format!(": {why}"))
            ),
            view: volume,
        })
    }

    fn volume_view(&self, found: &Located, all: &[Located]) -> Volume {
        let object = &found.object;
        let degraded = object
            .parent
            .and_then(|image| self.too_few_copies(image, all));
        let runtimes = self.runtimes();
        let runtime = runtimes.get(object.uuid);
        let (mut state, mut why) = state_of(found, runtime);
        if state == VolumeState::Ready && degraded.is_some() {
            (state, why) = (VolumeState::Degraded, degraded);
        }
        Volume {
            name: object.name.clone(),
            uuid: object.uuid,
            state,
            why,
            wanted: object.want_attached,
            size_bytes: object.size_bytes,
            allocated_bytes: found.allocated_clusters * CLUSTER_BYTES,
            image: object.parent.map(|uuid| ParentImage {
                name: name_of(uuid, all),
                uuid,
            }),
            disk_uuid: found.disk,
            disk_path: found.disk_path.clone(),
            dev_id: object.dev_id.map(DevId::get),
            device: runtime
                .and_then(|runtime| runtime.device)
                .map(|number| format!("/dev/ublkb{number}")),
            created_unix_ms: object.created_unix_s.saturating_mul(1000),
        }
    }
}

impl Node {
    /// What is to be said of a clone whose image has fewer copies that are Ready than it is to have.
    fn too_few_copies(&self, image: Uuid, all: &[Located]) -> Option<String> {
        let copies: Vec<&Located> = all
            .iter()
            .filter(|found| found.object.uuid == image)
            .collect();
        let first = copies.first()?;
        let wanted = first.object.wanted_copies;
        let ready = copies
            .iter()
            .filter(|copy| copy.disk_trouble.is_none() && copy.object.state.is_ready())
            .filter(|copy| !self.is_damaged(copy.object.replica_uuid))
            .count();
        let name = &first.object.name;
        (u32::try_from(ready).unwrap_or(u32::MAX) < wanted)
            .then(|| format!("its image {name} has {ready} of {wanted} copies Ready"))
    }
}

fn name_of(image: Uuid, all: &[Located]) -> Option<String> {
    all.iter()
        .find(|found| found.object.uuid == image)
        .map(|found| found.object.name.clone())
}

/// The state of a volume follows from its disk's, from what its disk says of it, and from its device's, in this order.
fn state_of(found: &Located, runtime: Option<&Runtime>) -> (VolumeState, Option<String>) {
    let attachment = runtime.map(|runtime| &runtime.attachment);
    let state = attachment.map_or(AttachmentState::Detached, Tracked::get);
    let why = attachment.and_then(|state| state.why().map(str::to_owned));
    if let Some(trouble) = &found.disk_trouble {
        let has_device = runtime.is_some_and(|runtime| runtime.device.is_some());
        let state = if has_device || found.object.want_attached {
            VolumeState::Recovering
        } else {
            VolumeState::Detached
        };
        // What becomes of its requests meanwhile says more.
        let why = why.filter(|_| has_device);
        return (state, Some(why.unwrap_or_else(|| trouble.clone())));
    }
    if let Some(error) = backing::held(found, None) {
        // What was said when it was found out says more.
        return (VolumeState::Held, Some(why.unwrap_or(error.message)));
    }
    let state = match state {
        AttachmentState::Detached => VolumeState::Detached,
        AttachmentState::Attaching => VolumeState::Attaching,
        AttachmentState::Ready => VolumeState::Ready,
        AttachmentState::Recovering => VolumeState::Recovering,
        AttachmentState::Held => VolumeState::Held,
    };
    (state, why)
}
