//! Which copies of an image devices read: one set for each image, shared by all devices that read it. Another set when a copy comes or goes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bedplate_datapath::map::LayerMap;
use bedplate_datapath::plan::{DiskIndex, Layer};
use bedplate_datapath::replica::{Replica, ReplicaSet};
use bedplate_datapath::store::ReplicaState as Stored;
use bedplate_datapath::units::DevId;
use uuid::Uuid;

use crate::api::{ApiError, DiskState};
use crate::daemon::blocking::blocking;
use crate::daemon::disk::actor::DiskActor;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::daemon::object::backing::{disk_index, live_backing_of};
use crate::daemon::object::{Located, Noun};
use crate::error_kind::ErrorKind;

/// How long a disk may take to give a map that it has in memory.
const MAP_WITHIN: Duration = Duration::from_secs(5);

/// Every set that devices read, or may read.
#[derive(Default)]
pub struct Sets(Mutex<Registry>);

#[derive(Default)]
struct Registry {
    by_image: HashMap<Uuid, Shared>,
    /// Of each object with a device: the set that it was given.
    in_use: HashMap<Uuid, Arc<ReplicaSet>>,
    /// Objects whose device is being made over a set: to be led to another one like those that have it.
    coming: HashSet<Uuid>,
    /// Copies that are on their way out, and for how many reasons.
    leaving: LeavingCopies,
}

/// By image and disk.
type LeavingCopies = HashMap<(Uuid, Uuid), u32>;

/// A copy that is on its way out: nobody begins to read it as long as one of these is there. Whoever removes it gives this to the disk's thread
/// along with the removal, so that it lasts until the copy is gone, or is known to stay, also where nobody waits for the answer any more.
pub struct Leaving {
    node: Arc<Node>,
    image: Uuid,
    disk: Uuid,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let copy = (self.image, self.disk);
        let mut registry = self.node.replicas.sets.lock();
        if let Some(reasons) = registry.leaving.get_mut(&copy) {
            *reasons -= 1;
            if *reasons == 0 {
                registry.leaving.remove(&copy);
            }
        }
    }
}

/// The copy is not to be read any more; answers also whether any set has it.
pub fn leaves(node: &Arc<Node>, image: Uuid, disk: Uuid) -> (Leaving, bool) {
    let mut registry = node.replicas.sets.lock();
    let is_known = registry
        .by_image
        .get(&image)
        .is_some_and(|shared| shared.places.iter().any(|place| place.disk == disk));
    *registry.leaving.entry((image, disk)).or_default() += 1;
    let leaving = Leaving {
        node: Arc::clone(node),
        image,
        disk,
    };
    (leaving, is_known)
}

/// The set of an image, and what its replicas are.
#[derive(Clone)]
pub struct Shared {
    /// What devices read.
    pub set: Arc<ReplicaSet>,
    places: Vec<Place>,
}

#[derive(Clone)]
struct Place {
    disk: Uuid,
    replica: Uuid,
    index: DiskIndex,
    map: Arc<LayerMap>,
}

impl Shared {
    /// The layer for a reader: nearest on `own`, if there is a copy; else spread by `spread`, so that not all read from one disk.
    pub fn layer(&self, own: Option<DiskIndex>, spread: u128) -> Option<Layer> {
        let count = self.set.len() as u128;
        let nearest = own
            .and_then(|own| self.set.on_disk(own))
            .or_else(|| usize::try_from(spread.checked_rem(count)?).ok())?;
        Layer::of_replicas(Arc::clone(&self.set), nearest)
    }
}

impl Sets {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The set of an image, if anything ever read it.
    pub fn of(&self, image: Uuid) -> Option<Arc<ReplicaSet>> {
        self.lock()
            .by_image
            .get(&image)
            .map(|shared| Arc::clone(&shared.set))
    }

    /// Every set that has a copy on this disk, with the image and the copy's number.
    pub fn on_disk(&self, index: DiskIndex) -> Vec<(Uuid, Arc<ReplicaSet>, usize)> {
        let registry = self.lock();
        let all = registry.by_image.iter();
        all.filter_map(|(image, shared)| {
            let number = shared.set.on_disk(index)?;
            Some((*image, Arc::clone(&shared.set), number))
        })
        .collect()
    }

    /// The disk of a place with the reactors.
    pub fn disk_at(&self, index: DiskIndex) -> Option<Uuid> {
        let registry = self.lock();
        registry
            .by_image
            .values()
            .flat_map(|shared| &shared.places)
            .find(|place| place.index == index)
            .map(|place| place.disk)
    }

    /// What devices read at a place with the reactors, or are about to: its disk must have all of it.
    pub fn maps_at(&self, index: DiskIndex) -> Vec<Arc<LayerMap>> {
        let registry = self.lock();
        let made = registry.by_image.values().map(|shared| &shared.set);
        let coming = made.filter(|_| !registry.coming.is_empty());
        let mut maps: Vec<Arc<LayerMap>> = Vec::new();
        for set in registry.in_use.values().chain(coming) {
            let here = set.iter().filter(|replica| replica.disk == index);
            for replica in here {
                if !maps.iter().any(|known| Arc::ptr_eq(known, &replica.map)) {
                    maps.push(Arc::clone(&replica.map));
                }
            }
        }
        maps
    }

    /// A device was given this set.
    pub fn given(&self, object: Uuid, set: &Arc<ReplicaSet>) {
        let mut registry = self.lock();
        registry.in_use.insert(object, Arc::clone(set));
        registry.coming.remove(&object);
    }

    /// The object has no device, and gets none now.
    pub fn released(&self, object: Uuid) {
        let mut registry = self.lock();
        registry.in_use.remove(&object);
        registry.coming.remove(&object);
    }

    /// Objects that read a set, or are about to.
    fn readers(&self) -> HashSet<Uuid> {
        let registry = self.lock();
        registry
            .coming
            .iter()
            .chain(registry.in_use.keys())
            .copied()
            .collect()
    }

    /// The image is gone.
    pub fn forget(&self, image: Uuid) {
        let mut registry = self.lock();
        registry.by_image.remove(&image);
        registry.in_use.remove(&image);
    }
}

/// The set of an image as it is to be now; made when it is not there, or its copies are others.
///
/// # Errors
/// `NotReady` when no disk that is in use has a copy to read.
pub async fn set_of(node: &Arc<Node>, image: Uuid) -> Result<Shared, ApiError> {
    current(node, image, None).await
}

/// The same, for a device that is about to be made for `object`, whose turn the caller has. Whoever takes a copy away later waits for that
/// turn: no device comes up over a copy that has gone. Ends with [`Sets::given`] or [`Sets::released`].
///
/// # Errors
/// As [`set_of`].
pub async fn set_for(node: &Arc<Node>, image: Uuid, object: Uuid) -> Result<Shared, ApiError> {
    current(node, image, Some(object)).await
}

async fn current(node: &Arc<Node>, image: Uuid, coming: Option<Uuid>) -> Result<Shared, ApiError> {
    let mut places = Vec::new();
    let mut first_error = None;
    let leaving = node.replicas.sets.lock().leaving.clone();
    for found in node.readable_copies(image, &leaving) {
        match place_of(node, &found).await {
            Ok(place) => places.push(place),
            Err(error) => {
                tracing::debug!(image = found.object.name, "a copy is not read: {error}");
                first_error.get_or_insert(error);
            }
        }
    }
    places.sort_by_key(|place| place.disk);
    let mut registry = node.replicas.sets.lock();
    // A copy may have gone while the disks were asked, and its clusters may be another's by now. Looked at again under the lock that who
    // takes one away takes first: a set with such a copy would show that other one's bytes.
    let readable = node.readable_copies(image, &registry.leaving);
    places.retain(|place| {
        readable
            .iter()
            .any(|found| found.disk == place.disk && found.object.replica_uuid == place.replica)
    });
    registry.coming.extend(coming);
    let known = registry.by_image.get(&image);
    if let Some(known) = known
        && same(&known.places, &places)
    {
        return Ok(known.clone());
    }
    let replicas = places
        .iter()
        .map(|place| Replica {
            map: Arc::clone(&place.map),
            disk: place.index,
        })
        .collect();
    let set = ReplicaSet::new(replicas)
        .ok_or_else(|| first_error.unwrap_or_else(|| not_readable(image)))?;
    for (number, place) in places.iter().enumerate() {
        for blocks in node.damaged_blocks(place.replica) {
            set.mark_damaged(number, blocks);
        }
        // What a reactor found out about a disk holds for the new set, too.
        let avoided = known.is_some_and(|known| {
            let old = known.set.on_disk(place.index);
            old.is_some_and(|old| known.set.is_avoided(old))
        });
        if avoided {
            set.avoid(number);
        }
    }
    tracing::info!(%image, copies = places.len(), "devices read these copies from now on");
    let shared = Shared { set, places };
    registry.by_image.insert(image, shared.clone());
    Ok(shared)
}

fn same(one: &[Place], other: &[Place]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| {
            one.disk == other.disk && one.replica == other.replica && one.index == other.index
        })
}

async fn place_of(node: &Arc<Node>, found: &Located) -> Result<Place, ApiError> {
    let (image, disk, replica) = (found.object.uuid, found.disk, found.object.replica_uuid);
    let known = {
        let registry = node.replicas.sets.lock();
        let places = registry.by_image.get(&image).map(|shared| &shared.places);
        places
            .into_iter()
            .flatten()
            .find(|place| place.disk == disk && place.replica == replica)
            .cloned()
    };
    let known_index = node.disk_index(disk);
    if let Some(known) = known
        && Some(known.index) == known_index
    {
        return Ok(known);
    }
    let actor = node.actor(disk)?;
    let late = || errors::silent(&actor.name());
    let index = tokio::time::timeout(MAP_WITHIN, disk_index(node, &actor))
        .await
        .map_err(|_late| late())??;
    let map = tokio::time::timeout(MAP_WITHIN, actor.ask(move |store| store.map_of(image)))
        .await
        .map_err(|_late| late())??
        .map_err(|error| errors::of_store(&actor.name(), Some(&found.object.name), &error))?;
    Ok(Place {
        disk,
        replica,
        index,
        map,
    })
}

fn not_readable(image: Uuid) -> ApiError {
    ApiError::new(
        ErrorKind::NotReady,
        format!("no disk that is in use has a copy of the image {image} to read"),
    )
    .object(image.to_string())
    .remedy("`bedplate disk list` says which disks are missing; it goes on when one is back")
}

/// Gives every device that reads the image the set that it is to have now.
///
/// # Errors
/// The first device's that could not be given it.
pub async fn refresh(node: &Arc<Node>, image: Uuid) -> Result<(), ApiError> {
    let readers = readers_of(node, image);
    if readers.is_empty() {
        // Nobody to be told. What the next one is given must be right all the same: it may be on its way already.
        if node.replicas.sets.of(image).is_some() && set_of(node, image).await.is_err() {
            node.replicas.sets.lock().by_image.remove(&image);
        }
        return Ok(());
    }
    set_of(node, image).await?;
    for reader in readers {
        let turn = node.runtimes().of(reader.object.uuid).turn.clone();
        let _turn = turn.lock().await;
        replace(node, &reader, image).await?;
    }
    Ok(())
}

/// The same for every image that devices read, where copies came or went. A device that is being changed gets its turn later.
pub async fn refresh_all(node: &Arc<Node>) {
    let images: Vec<Uuid> = node.replicas.sets.lock().by_image.keys().copied().collect();
    for image in images {
        let readers = readers_of(node, image);
        if readers.is_empty() {
            continue;
        }
        if let Err(error) = set_of(node, image).await {
            // The devices keep what they have: it may answer again.
            tracing::debug!("{error}");
            continue;
        }
        for reader in readers {
            if reader.noun() == Noun::Volume && reader.disk_trouble.is_some() {
                // Its own disk does not answer, so that nothing can be asked of it.
                continue;
            }
            let turn = node.runtimes().of(reader.object.uuid).turn.clone();
            let Ok(_turn) = turn.try_lock() else { continue };
            if let Err(error) = replace(node, &reader, image).await {
                tracing::warn!(
                    object = reader.object.name,
                    "it does not read the copies that it could: {error}"
                );
            }
        }
    }
}

/// Objects with a device that reads the image, or will when it is up.
fn readers_of(node: &Node, image: Uuid) -> Vec<Located> {
    let readers = node.replicas.sets.readers();
    let mut seen = HashSet::new();
    node.objects_where(|_, object| {
        readers.contains(&object.uuid)
            && match Noun::of(object) {
                Noun::Image => object.uuid == image,
                Noun::Volume => object.parent == Some(image),
            }
    })
    .into_iter()
    .filter(|found| seen.insert(found.object.uuid))
    .collect()
}

/// Gives a reader the image's set as it is now, which may be newer than the one that its caller made. The caller has the reader's turn.
async fn replace(node: &Arc<Node>, reader: &Located, image: Uuid) -> Result<(), ApiError> {
    let object = reader.object.uuid;
    let Some(number) = node.runtimes().of(object).device else {
        return Ok(());
    };
    let shared = {
        let registry = node.replicas.sets.lock();
        let Some(shared) = registry.by_image.get(&image) else {
            return Ok(());
        };
        let given = registry.in_use.get(&object);
        if given.is_some_and(|given| Arc::ptr_eq(given, &shared.set)) {
            return Ok(());
        }
        shared.clone()
    };
    let backing = tokio::time::timeout(MAP_WITHIN, live_backing_of(node, reader, &shared))
        .await
        .map_err(|_late| errors::silent(&reader.disk_path))??;
    let target = node.serving.target()?;
    let replaced = blocking(move || target.replace_layers(DevId::new(number), backing)).await?;
    replaced.map_err(|error| errors::of_target(Some(&reader.object.name), &error))?;
    node.replicas.sets.given(object, &shared.set);
    tracing::debug!(object = reader.object.name, "reads other copies now");
    Ok(())
}

/// A disk is about to be closed: nobody reads from it any more who can read elsewhere, as long as what this answers with is there.
///
/// # Errors
/// `Busy` where an image has no other copy to be read.
pub async fn disk_left(node: &Arc<Node>, disk: Uuid) -> Result<Vec<Leaving>, ApiError> {
    let images: Vec<Uuid> = {
        let registry = node.replicas.sets.lock();
        let all = registry.by_image.iter();
        all.filter(|(_, shared)| shared.places.iter().any(|place| place.disk == disk))
            .map(|(image, _)| *image)
            .collect()
    };
    let mut leaving = Vec::with_capacity(images.len());
    for image in images {
        leaving.push(super::leave::readers(node, image, disk).await?);
    }
    Ok(leaving)
}

impl Node {
    /// The set of an image, if anything reads it.
    pub fn replica_set(&self, image: Uuid) -> Option<Arc<ReplicaSet>> {
        self.replicas.sets.of(image)
    }

    /// A disk's place in the tables of the reactors, if it has one.
    pub fn disk_index(&self, disk: Uuid) -> Option<DiskIndex> {
        self.disks()
            .iter()
            .find(|entry| entry.uuid == Some(disk))
            .and_then(|entry| entry.slot)
    }

    /// Copies of an image that devices may read: whole, on disks that are open, and not on their way out. Locks the disks.
    fn readable_copies(&self, image: Uuid, leaving: &LeavingCopies) -> Vec<Located> {
        let open: Vec<Uuid> = self
            .disks()
            .iter()
            .filter(|entry| entry.actor.is_some())
            .filter_map(|entry| entry.uuid)
            .collect();
        self.copies_of(image)
            .into_iter()
            .filter(|found| {
                open.contains(&found.disk)
                    && found.object.state == Stored::Ready
                    && found.refused.is_none()
                    && !leaving.contains_key(&(image, found.disk))
            })
            .collect()
    }

    /// Disks in use, and answering, with a Ready copy of an image.
    pub fn ready_disks_of(&self, image: Uuid) -> Vec<Uuid> {
        self.copies_of(image)
            .into_iter()
            .filter(|found| found.disk_trouble.is_none() && found.object.state == Stored::Ready)
            .filter(|found| !self.is_damaged(found.object.replica_uuid))
            .map(|found| found.disk)
            .collect()
    }

    /// Whether a disk answers.
    pub fn is_disk_online(&self, disk: Uuid) -> bool {
        self.online_actors().iter().any(|actor| actor.uuid == disk)
    }

    /// The actor of a disk that answers.
    pub fn online_actor(&self, disk: Uuid) -> Option<Arc<DiskActor>> {
        self.is_disk_online(disk)
            .then(|| self.actor(disk).ok())
            .flatten()
    }

    /// The actors of all disks that answer.
    pub fn online_actors(&self) -> Vec<Arc<DiskActor>> {
        self.disks()
            .iter()
            .filter(|entry| entry.state.get() == DiskState::Online)
            .filter_map(|entry| entry.actor.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use bedplate_datapath::catalogue::{MergeStep, RemoveWhy};

    use super::*;
    use crate::daemon::replica::carry_out;
    use crate::daemon::test_node::{Busy, TestNode, until};

    impl TestNode {
        fn is_readable(&self, image: Uuid) -> bool {
            let leaving = self.replicas.sets.lock().leaving.clone();
            !self.readable_copies(image, &leaving).is_empty()
        }

        fn set_in_change(&self, in_change: bool) {
            for entry in self.disks().iter_mut() {
                entry.in_change = in_change;
            }
        }
    }

    async fn with_image() -> (TestNode, Uuid, MergeStep) {
        let node = TestNode::new();
        let disk = node.make_disk("disk").await;
        let (uuid, _) = node.import_image("a").await;
        let why = RemoveWhy::Deleted;
        (node, uuid, MergeStep::RemoveReplica { disk, uuid, why })
    }

    #[tokio::test]
    async fn a_copy_that_is_not_removed_after_all_can_be_read_again() {
        let (node, image, removal) = with_image().await;
        assert!(node.is_readable(image));
        node.set_in_change(true);
        carry_out(&node, &removal).await.unwrap_err();
        node.set_in_change(false);
        assert!(node.is_readable(image));
    }

    #[tokio::test]
    async fn a_copy_whose_removal_is_only_late_is_not_read_until_it_is_known_to_be_gone_or_to_stay()
    {
        let (node, image, removal) = with_image().await;
        let busy = Busy::keep(&node, removal.disk()).await;
        // As when the time is over: whoever waits for the answer gives up.
        let late = Duration::from_millis(50);
        let given_up = tokio::time::timeout(late, carry_out(&node, &removal)).await;
        given_up.unwrap_err();
        assert!(!node.is_readable(image), "it may still be removed");
        // Nor does another one lift that which was not even begun.
        node.set_in_change(true);
        carry_out(&node, &removal).await.unwrap_err();
        node.set_in_change(false);
        assert!(!node.is_readable(image), "it may still be removed");
        busy.go_on();
        until("nothing is on its way", || {
            node.replicas.sets.lock().leaving.is_empty()
        })
        .await;
        assert!(node.copies_of(image).is_empty(), "it was removed");
    }
}
