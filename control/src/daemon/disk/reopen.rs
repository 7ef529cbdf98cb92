//! A disk that was unplugged under the daemon, and is there again, under whatever name: it is opened anew, and takes its old place with the
//! reactors, so that the devices that read images from it go on.
//!
//! Images never change, so that a device may read on by the map that it has. A volume's device may not: its map belongs to the session that
//! is over. So before the disk is opened anew the devices of its volumes wait (`away`), and nothing of them is in flight; the old store is
//! given up, and its thread has ended: two stores over one live state would each commit what the other should.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bedplate_datapath::map::LayerMap;
use bedplate_datapath::plan::DiskIndex;
use bedplate_datapath::store::LeftDisk;
use bedplate_datapath::volume::Volume;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::actor::{Contents, DiskActor, DiskStore};
use super::in_change::InChange;
use crate::api::ApiError;
use crate::daemon::away::went;
use crate::daemon::node::Node;
use crate::daemon::object::{Located, Noun};
use crate::daemon::replica::stale::is_stale;
use crate::error_kind::ErrorKind;

/// How long the thread of a disk that is gone may take to end. It is left behind then, unless volumes of the disk are attached.
pub const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Lets go of the disk as it was opened, so that it can be opened at `now`.
///
/// # Errors
/// While it is being opened or closed, a volume of it is being attached or detached, or what was in flight has not ended.
pub async fn let_go(node: &Arc<Node>, uuid: Uuid, now: &Path) -> Result<(), ApiError> {
    let Some((actor, was, change)) = begin(node, uuid)? else {
        return Ok(());
    };
    // None comes or goes from here on.
    let volumes = node.objects_where(|on, object| on == uuid && Noun::of(object) == Noun::Volume);
    let _turns = turns_of(node, &volumes, &actor.name(), "it is tried again by itself")?;
    went::disk_went(node, uuid).await;
    let devices = went::devices_on(node, uuid);
    let numbers: Vec<u32> = devices.iter().map(|(_, number)| *number).collect();
    went::quiet(node, &numbers).await?;
    let volumes: Vec<(Uuid, Arc<Volume>)> = {
        let contents = actor.contents();
        let all = contents.volumes.iter();
        all.filter_map(|(uuid, volume)| Some((*uuid, volume.upgrade()?)))
            .collect()
    };
    let has_ended = tokio::time::timeout(CLOSE_WITHIN, actor.abandon())
        .await
        .is_ok();
    if !has_ended && !devices.is_empty() {
        return Err(ApiError::new(
            ErrorKind::Busy,
            format!("what the daemon does with the disk {} as it was does not end", actor.name()),
        )
        .disk(now.display().to_string())
        .remedy("it is tried again by itself; if it lasts, restart the daemon: `systemctl restart bedplated`"));
    }
    if !has_ended {
        tracing::warn!(disk = %actor.name(), "its thread does not end; it is left behind");
    }
    // Nobody acknowledges anything any more, and no commit is under way.
    let flushed = volumes
        .iter()
        .filter(|(_, volume)| has_ended && !volume.has_unflushed());
    node.away.note_left(LeftDisk {
        disk: uuid,
        session: actor.report.session,
        flushed: flushed.map(|(uuid, _)| *uuid).collect(),
    });
    {
        let mut disks = node.disks();
        if let Some(entry) = change.end(&mut disks) {
            entry.contents = actor.contents();
            entry.actor = None;
            tracing::info!(disk = %entry.name(), %uuid, "it is there again, at {}", now.display());
            now.clone_into(&mut entry.path);
        }
        // Of the same name there may be an entry of what could not be told apart from it.
        disks.retain(|other| other.uuid == Some(uuid) || other.path != now || other.in_change);
    }
    for path in [&was, now] {
        node.set_problem(&format!("disk:{}", path.display()), None);
    }
    node.refresh_disk(uuid);
    node.refresh_replicas(uuid);
    Ok(())
}

/// What was opened, and where; nobody else changes the disk from now on. None if it is not open.
fn begin(
    node: &Arc<Node>,
    uuid: Uuid,
) -> Result<Option<(Arc<DiskActor>, PathBuf, InChange)>, ApiError> {
    let mut disks = node.disks();
    let used = disks.iter().find_map(|entry| {
        let actor = entry.actor.as_ref().filter(|_| entry.uuid == Some(uuid))?;
        Some((Arc::clone(actor), entry.path.clone(), entry.in_change))
    });
    let Some((actor, path, in_change)) = used else {
        return Ok(None);
    };
    if in_change {
        return Err(super::online::in_change(&actor.name()));
    }
    let change = InChange::begin(node, &mut disks, &path);
    Ok(Some((actor, path, change)))
}

/// The turns of objects of a disk; `remedy` is for those of which one is another's.
///
/// # Errors
/// `Busy`.
pub fn turns_of(
    node: &Node,
    objects: &[Located],
    disk: &str,
    remedy: &str,
) -> Result<Vec<OwnedMutexGuard<()>>, ApiError> {
    let mut turns = Vec::with_capacity(objects.len());
    for found in objects {
        let turn = node.runtimes().of(found.object.uuid).turn.clone();
        turns.push(turn.try_lock_owned().map_err(|_| {
            let (noun, name) = (found.noun(), found.object.name.clone());
            let message =
                format!("the {noun} {name} of the disk {disk} is being attached or detached");
            ApiError::new(ErrorKind::Busy, message)
                .object(name)
                .disk(disk)
                .remedy(remedy)
        })?);
    }
    Ok(turns)
}

/// Gives a disk that was opened anew the place that it had with the reactors: if all is on it that devices read there, by the maps that they
/// have. Somebody else may have deleted an image meanwhile, or this be an older copy of the disk; its clusters are others' then.
pub async fn take_place(
    node: &Arc<Node>,
    actor: &DiskActor,
    place: DiskIndex,
) -> Option<DiskIndex> {
    let maps = node.replicas.sets.maps_at(place);
    let serving = Arc::clone(node);
    let swapped = match require_newest(node, actor) {
        Ok(()) => {
            let swap = move |store: &mut DiskStore| {
                require_all(store, &maps)?;
                serving.serving.swap_disk(place, store.medium_mut().disk())
            };
            actor.ask(swap).await
        }
        Err(error) => Err(error),
    };
    let key = format!("place:{}", actor.uuid);
    match swapped.and_then(|swapped| swapped) {
        Ok(()) => {
            node.set_problem(&key, None);
            Some(place)
        }
        Err(error) => {
            let mut problem = ApiError::new(
                ErrorKind::Io,
                format!(
                    "the disk {} is back, but devices that read from it before do not read it now: {error}",
                    actor.name()
                ),
            )
            .disk(actor.name())
            .remedy("restart the daemon: `systemctl restart bedplated`");
            problem.errno = error.errno;
            node.set_problem(&key, Some(problem));
            None
        }
    }
}

/// Refuses an older copy of the disk that was left.
fn require_newest(node: &Node, actor: &DiskActor) -> Result<(), ApiError> {
    let mut open: Vec<Arc<Contents>> = node
        .disks()
        .iter()
        .filter_map(|entry| entry.actor.as_ref())
        .map(|other| other.contents())
        .collect();
    open.push(actor.contents());
    let catalogue = node.catalogue_of(open);
    let all_left = node.away.left();
    let left = all_left.iter().find(|left| left.disk == actor.uuid);
    let is_older = left.is_some_and(|left| actor.report.session <= left.session);
    if is_stale(&catalogue, actor.uuid) || is_older {
        return Err(ApiError::new(
            ErrorKind::NotReady,
            "it is an old copy of itself",
        ));
    }
    Ok(())
}

/// Refuses a disk that has not all of these images, each where it was.
fn require_all(store: &DiskStore, maps: &[Arc<LayerMap>]) -> Result<(), ApiError> {
    let now: Vec<Arc<LayerMap>> = store
        .objects()
        .filter_map(|object| store.map_of(object.uuid).ok())
        .collect();
    let is_there = |map: &Arc<LayerMap>| {
        let same = |now: &Arc<LayerMap>| now.len() == map.len() && now.iter().eq(map.iter());
        now.iter().any(same)
    };
    if maps.iter().all(is_there) {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorKind::NotReady,
        "an image that they read is not on it any more",
    ))
}

#[cfg(test)]
mod tests {
    use bedplate_datapath::replica::{Replica, ReplicaSet};

    use super::*;
    use crate::daemon::test_node::TestNode;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_gets_its_place_back_only_with_what_devices_read_there() {
        let node = TestNode::new();
        let disk = node.make_disk("disk").await;
        let image = node.import_image("img").await.0;
        let (place, object) = (DiskIndex::new(0), Uuid::new_v4());
        let kept = node.map_of(disk, image).await;
        let lost = LayerMap::from_entries(kept.iter().map(|entry| entry.bits() + 1).collect());
        for (map, is_there) in [(kept, true), (Arc::new(lost), false)] {
            let set = ReplicaSet::new(vec![Replica { map, disk: place }]).unwrap();
            node.replicas.sets.given(object, &set);
            let actor = node.actor(disk).unwrap();
            // There are no reactors here that could take it.
            assert_eq!(take_place(&node, &actor, place).await, None);
            let told = node.problems();
            let is_refused = told
                .iter()
                .any(|problem| problem.message.contains("not on it"));
            assert_eq!(is_refused, !is_there, "{told:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_older_copy_of_the_disk_that_was_left_gets_no_place() {
        let node = TestNode::new();
        let disk = node.make_disk("disk").await;
        let actor = node.actor(disk).unwrap();
        node.away.note_left(LeftDisk {
            disk,
            session: actor.report.session,
            flushed: Vec::new(),
        });
        assert_eq!(take_place(&node, &actor, DiskIndex::new(0)).await, None);
        let told = node.problems();
        let is_refused = told
            .iter()
            .any(|problem| problem.message.contains("old copy"));
        assert!(is_refused, "{told:?}");
    }
}
