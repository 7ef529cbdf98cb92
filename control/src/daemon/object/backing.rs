//! What a device reads and writes: the maps of its object, and for a volume the way to its committer.

use std::sync::Arc;

use bedplate_datapath::plan::{DiskIndex, LayerStack};
use bedplate_datapath::replica::ReplicaSet;
use bedplate_datapath::store::{Object, StoreError};
use bedplate_ublk_target::{Backing, Writable};
use uuid::Uuid;

use super::{Located, Noun, checked_reads};
use crate::api::{ApiError, ReplicaState};
use crate::daemon::disk::actor::DiskActor;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::daemon::replica::sets::{self, Shared};
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
        // A damaged one serves all but its bad blocks.
        Some(state) if matches!(state.get(), ReplicaState::Ready | ReplicaState::Damaged) => {
            return Ok(());
        }
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
    use bedplate_datapath::store::{Damage, ReplicaState as Stored};
    let name = &found.object.name;
    let error = match &found.object.state {
        Stored::Failed(damage) => ApiError::new(
            ErrorKind::Corrupt,
            format!("the volume {name} is held: {damage}"),
        )
        .offset(damage.disk_offset().get())
        .remedy(match damage {
            Damage::NoMemory { .. } => {
                "give the daemon memory, and restart it: `systemctl restart bedplated`; nothing of the volume is lost"
            }
            _ => "copy the disk if its content matters; then delete the volume",
        }),
        Stored::Ready if found.object.loss_not_accepted => {
            let why = lost.map_or(String::new(), |why| format!(": {why}"));
            ApiError::new(
                ErrorKind::Held,
                format!("the volume {name} is held, since writes that were acknowledged may be missing{why}"),
            )
            .remedy(errors::accept_loss_remedy(name))
        }
        Stored::Ready | Stored::Building { .. } => return None,
    };
    Some(error.object(name.clone()).disk(found.disk_path.clone()))
}

/// The key of the problem of a volume that is held.
pub fn loss_key(volume: Uuid) -> String {
    format!("loss:{volume}")
}

/// What the device of an object is to read and write, and the set of copies of an image that it reads. A volume is made live by this.
///
/// # Errors
/// What stands in the way.
pub async fn backing_of(
    node: &Arc<Node>,
    found: &Located,
) -> Result<(Backing, Option<Arc<ReplicaSet>>), ApiError> {
    let object = &found.object;
    let image = match found.noun() {
        Noun::Image => Some(object.uuid),
        Noun::Volume => object.parent,
    };
    let shared = match image {
        Some(image) => Some(
            sets::set_for(node, image, object.uuid)
                .await
                .map_err(|error| of_base(found, error))?,
        ),
        None => None,
    };
    if let (Noun::Image, Some(shared)) = (found.noun(), &shared) {
        let backing = image_backing(node, object, shared)?;
        return Ok((backing, Some(Arc::clone(&shared.set))));
    }
    let actor = node.actor(found.disk)?;
    // What the kernel lacks is told first: without devices no tmpfs helps.
    disk_index(node, &actor).await?;
    if let Some(why) = &actor.not_live {
        let mut why = why.clone();
        why.object = Some(object.name.clone());
        return Err(why);
    }
    let uuid = object.uuid;
    actor
        .ask(move |store| store.prepare_attach(uuid))
        .await?
        .map_err(|error| errors::of_store(&actor.name(), Some(&object.name), &error))?;
    let backing = volume_backing(node, &actor, object, shared.as_ref()).await?;
    Ok((backing, shared.map(|shared| shared.set)))
}

/// A clone without its image says so in its own name.
fn of_base(found: &Located, error: ApiError) -> ApiError {
    if found.noun() == Noun::Image || error.kind != ErrorKind::NotReady {
        return error;
    }
    let mut told = error;
    told.message = format!(
        "the volume {} waits for its image: {}",
        found.object.name, told.message
    );
    told.object = Some(found.object.name.clone());
    told
}

/// The same for an object that has a device already, after it has grown, or when its image is to be read elsewhere.
///
/// # Errors
/// What the store has against it.
pub async fn live_backing_of(
    node: &Arc<Node>,
    found: &Located,
    shared: &Shared,
) -> Result<Backing, ApiError> {
    match found.noun() {
        Noun::Image => image_backing(node, &found.object, shared),
        Noun::Volume => {
            let actor = node.actor(found.disk)?;
            volume_backing(node, &actor, &found.object, Some(shared)).await
        }
    }
}

fn image_backing(node: &Arc<Node>, object: &Object, shared: &Shared) -> Result<Backing, ApiError> {
    let layer = shared
        .layer(None, object.uuid.as_u128())
        .ok_or_else(|| errors::internal("a set of copies has none"))?;
    Ok(Backing {
        stack: Arc::new(LayerStack {
            layers: vec![layer],
            size_bytes: object.size_bytes,
        }),
        writable: None,
        checksums: checked_reads::checksums_for(node, object),
    })
}

/// A live volume's own layer, and its image's, nearest on the volume's own disk.
///
/// # Errors
/// What the store has against it.
pub async fn volume_backing(
    node: &Arc<Node>,
    actor: &DiskActor,
    object: &Object,
    shared: Option<&Shared>,
) -> Result<Backing, ApiError> {
    let disk = disk_index(node, actor).await?;
    let uuid = object.uuid;
    // Its length as the slot has it: it may have grown since it was looked up.
    let own = actor
        .ask(move |store| {
            let size_bytes = store.object(uuid).map(|object| object.size_bytes);
            Ok::<_, StoreError>((
                store.layer_of(uuid, disk)?,
                store.volume_of(uuid)?,
                size_bytes,
            ))
        })
        .await?;
    let (layer, volume, size_bytes) =
        own.map_err(|error| errors::of_store(&actor.name(), Some(&object.name), &error))?;
    let mut layers = vec![layer];
    if let Some(shared) = shared {
        let base = shared
            .layer(Some(disk), uuid.as_u128())
            .ok_or_else(|| errors::internal("a set of copies has none"))?;
        layers.push(base);
    }
    Ok(Backing {
        stack: Arc::new(LayerStack {
            layers,
            size_bytes: size_bytes.unwrap_or(object.size_bytes),
        }),
        writable: Some(Writable {
            volume,
            committer: actor.committer(),
        }),
        checksums: checked_reads::checksums_for(node, object),
    })
}

/// The disk's place in the reactors' tables; it gets one now if it has none.
///
/// # Errors
/// When it gets none.
pub async fn disk_index(node: &Arc<Node>, actor: &DiskActor) -> Result<DiskIndex, ApiError> {
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
