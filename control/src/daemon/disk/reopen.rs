//! A disk that was unplugged under the daemon, and is there again, under whatever name: it is opened anew, and takes its old place with the
//! reactors, so that the devices that read images from it go on.
//!
//! Images never change, so that a device may read on by the map that it has. A volume's device may not: what the disk lost with its power
//! is not known, and its map belongs to the session that is over. So a disk whose own volumes are attached is not opened anew under them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bedplate_datapath::plan::DiskIndex;
use uuid::Uuid;

use super::actor::DiskActor;
use super::online::came_back;
use crate::api::ApiError;
use crate::daemon::node::Node;
use crate::daemon::object::Noun;
use crate::error_kind::ErrorKind;

/// How long the thread of a disk that is gone may take to end. It is left behind then.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Lets go of the disk as it was opened, so that it can be opened at `now`.
///
/// # Errors
/// While it is being opened or closed, or a volume of its own is attached.
pub async fn let_go(node: &Arc<Node>, uuid: Uuid, now: &Path) -> Result<(), ApiError> {
    let actor = {
        let mut disks = node.disks();
        let Some(at) = disks
            .iter()
            .position(|entry| entry.uuid == Some(uuid) && entry.actor.is_some())
        else {
            return Ok(());
        };
        if disks[at].in_change {
            return Err(super::online::in_change(&disks[at].name()));
        }
        let runtimes = node.runtimes();
        let attached = disks[at].contents_now().objects.iter().find_map(|object| {
            let served = runtimes.get(object.uuid)?.device.is_some();
            (Noun::of(object) == Noun::Volume && served).then(|| object.name.clone())
        });
        if let Some(volume) = attached {
            return Err(came_back(uuid, &disks[at].path, now, &volume));
        }
        drop(runtimes);
        let entry = &mut disks[at];
        entry.contents = entry.contents_now();
        let actor = entry.actor.take();
        tracing::info!(disk = %entry.name(), %uuid, "it is there again, at {}", now.display());
        now.clone_into(&mut entry.path);
        // Of the same name there may be an entry of what could not be told apart from it.
        let mut position = 0;
        disks.retain(|other| {
            let keep = position == at || other.path != now || other.in_change;
            position += 1;
            keep
        });
        actor
    };
    node.set_problem(&format!("disk:{}", now.display()), None);
    node.refresh_replicas(uuid);
    if let Some(actor) = actor {
        end(&actor).await;
    }
    Ok(())
}

async fn end(actor: &DiskActor) {
    match tokio::time::timeout(CLOSE_WITHIN, actor.close()).await {
        Ok(Ok(())) => {}
        // As expected: it is gone, so that its clean mark cannot be written.
        Ok(Err(error)) => tracing::debug!(disk = %actor.name(), "letting go of it: {error}"),
        Err(_late) => {
            tracing::warn!(disk = %actor.name(), "its thread does not end; it is left behind");
        }
    }
}

/// Gives a disk that was opened anew the place that it had with the reactors.
pub async fn take_place(
    node: &Arc<Node>,
    actor: &DiskActor,
    place: DiskIndex,
) -> Option<DiskIndex> {
    let serving = Arc::clone(node);
    let swapped = actor
        .ask(move |store| serving.serving.swap_disk(place, store.medium_mut().disk()))
        .await;
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
