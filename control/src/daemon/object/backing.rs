//! What a device reads and writes: the maps of its object, and for a volume the way to its committer.

use std::sync::Arc;

use bedplate_datapath::plan::{DiskIndex, LayerStack};
use bedplate_datapath::store::{Object, StoreError};
use bedplate_datapath::volume::Volume;
use bedplate_ublk_target::{Backing, Writable};
use uuid::Uuid;

use super::{Located, Noun};
use crate::api::{ApiError, ReplicaState};
use crate::daemon::disk::actor::{DiskActor, DiskStore};
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// Refuses an object that cannot be served now.
///
/// # Errors
/// `NotReady`, `Held`, `DiskOffline`, each with its reason.
pub fn require_servable(node: &Node, found: &Located) -> Result<(), ApiError> {
    match found.noun() {
        Noun::Image => require_image_ready(node, found),
        Noun::Volume => require_volume_whole(found),
    }
}

fn require_image_ready(node: &Node, found: &Located) -> Result<(), ApiError> {
    let runtimes = node.runtimes();
    let state = runtimes.replica_state(found.object.replica_uuid);
    let (now, why) = match state {
        Some(state) if state.get() == ReplicaState::Ready => return Ok(()),
        Some(state) => (
            format!("{:?}", state.get()),
            state.why().unwrap_or_default().to_owned(),
        ),
        None => ("Unknown".to_owned(), String::new()),
    };
    let name = &found.object.name;
    Err(ApiError::new(
        ErrorKind::NotReady,
        format!("the image {name} is {now} and cannot be served: {why}"),
    )
    .object(name.clone())
    .disk(found.disk_path.clone())
    .remedy(format!("`bedplate image show {name}` says more")))
}

fn require_volume_whole(found: &Located) -> Result<(), ApiError> {
    if let Some(error) = held(found, None) {
        return Err(error);
    }
    let Some(trouble) = &found.disk_trouble else {
        return Ok(());
    };
    let name = &found.object.name;
    Err(ApiError::new(
        ErrorKind::DiskOffline,
        format!("the volume {name} cannot be served: {trouble}"),
    )
    .object(name.clone())
    .disk(found.disk_path.clone())
    .remedy("it comes back by itself when its disk does; `bedplate disk show` says more"))
}

/// Why a volume is held, by what its disk says of it. `lost` tells what became of its live state, where that was just found out.
pub fn held(found: &Located, lost: Option<&str>) -> Option<ApiError> {
    use bedplate_datapath::store::ReplicaState as Stored;
    let name = &found.object.name;
    let error = match &found.object.state {
        Stored::Failed(damage) => ApiError::new(
            ErrorKind::Corrupt,
            format!("the volume {name} is held: {damage}"),
        )
        .offset(damage.disk_offset().get())
        .remedy("copy the disk if its content matters; then delete the volume"),
        Stored::Ready if found.object.loss_not_accepted => {
            let why = lost.map_or(String::new(), |why| format!(": {why}"));
            ApiError::new(
                ErrorKind::Held,
                format!("the volume {name} is held, since writes that were acknowledged may be missing{why}"),
            )
            .remedy(errors::accept_loss_remedy(name))
        }
        Stored::Ready => return None,
    };
    Some(error.object(name.clone()).disk(found.disk_path.clone()))
}

/// The key of the problem of a volume that is held.
pub fn loss_key(volume: Uuid) -> String {
    format!("loss:{volume}")
}

/// What the device of `object` is to read and write. A volume is made live by this.
///
/// # Errors
/// What stands in the way.
pub async fn backing_of(
    node: &Arc<Node>,
    actor: &DiskActor,
    object: &Object,
) -> Result<Backing, ApiError> {
    let disk = disk_index(node, actor).await?;
    let (uuid, noun) = (object.uuid, Noun::of(object));
    if noun == Noun::Volume
        && let Some(why) = &actor.not_live
    {
        let mut why = why.clone();
        why.object = Some(object.name.clone());
        return Err(why);
    }
    let layers = actor
        .ask(move |store| match noun {
            Noun::Image => Ok((store.layers_of(uuid, disk)?, None)),
            Noun::Volume => {
                store.prepare_attach(uuid)?;
                layers(store, uuid, disk)
            }
        })
        .await?;
    let (stack, volume) =
        layers.map_err(|error| errors::of_store(&actor.name(), Some(&object.name), &error))?;
    Ok(assemble(actor, stack, volume))
}

/// The same for a volume that is live already, after it has grown.
///
/// # Errors
/// What the store has against it.
pub async fn live_backing_of(
    node: &Arc<Node>,
    actor: &DiskActor,
    object: &Object,
) -> Result<Backing, ApiError> {
    let disk = disk_index(node, actor).await?;
    let uuid = object.uuid;
    let (stack, volume) = actor
        .ask(move |store| layers(store, uuid, disk))
        .await?
        .map_err(|error| errors::of_store(&actor.name(), Some(&object.name), &error))?;
    Ok(assemble(actor, stack, volume))
}

type Layers = (LayerStack, Option<Arc<Volume>>);

fn layers(store: &DiskStore, uuid: Uuid, disk: DiskIndex) -> Result<Layers, StoreError> {
    Ok((store.layers_of(uuid, disk)?, Some(store.volume_of(uuid)?)))
}

fn assemble(actor: &DiskActor, stack: LayerStack, volume: Option<Arc<Volume>>) -> Backing {
    Backing {
        stack: Arc::new(stack),
        writable: volume.map(|volume| Writable {
            volume,
            committer: actor.committer(),
        }),
    }
}

/// The disk's place in the reactors' tables; it gets one now if it has none.
async fn disk_index(node: &Arc<Node>, actor: &DiskActor) -> Result<DiskIndex, ApiError> {
    let known = node
        .disks()
        .iter()
        .find(|entry| entry.uuid == Some(actor.uuid))
        .and_then(|entry| entry.slot);
    if let Some(disk) = known {
        return Ok(disk);
    }
    // Looked at again on the disk's thread, which does one thing at a time: else each of a hundred volumes that come back together would
    // add the disk.
    let (node, uuid) = (Arc::clone(node), actor.uuid);
    let slot_of = move |node: &Node| {
        let disks = node.disks();
        let entry = disks.iter().find(|entry| entry.uuid == Some(uuid));
        entry.and_then(|entry| entry.slot)
    };
    actor
        .ask(move |store| {
            if let Some(disk) = slot_of(&node) {
                return Ok(disk);
            }
            let disk = node.serving.add_disk(store.medium_mut().disk())?;
            let mut disks = node.disks();
            let entry = disks.iter_mut().find(|entry| entry.uuid == Some(uuid));
            if let Some(entry) = entry {
                entry.slot = Some(disk);
            }
            Ok(disk)
        })
        .await?
}
