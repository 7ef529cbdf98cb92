//! Brings the disks into agreement: descriptions that are older are written over, deletions are told to disks that were away.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bedplate_datapath::catalogue::{Applied, Catalogue, Conflict, MergeStep, apply};
use uuid::Uuid;

use super::leave;
use crate::api::ApiError;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// How often the disks are merged again after steps, before the rest is left for later.
const ROUNDS_MAX: usize = 8;
/// How long a disk may take for a step, before the others are not kept waiting any more.
const STEP_WITHIN: Duration = Duration::from_secs(30);

/// Carries out what the merge of the open disks asks for, until it asks for nothing.
pub async fn settle(node: &Arc<Node>) {
    let _turn = node.replicas.settling.lock().await;
    for _ in 0..ROUNDS_MAX {
        let catalogue = node.catalogue();
        tell(node, &catalogue);
        if !carry_out_all(node, &catalogue.steps).await {
            return;
        }
    }
    tracing::debug!("the disks do not agree yet; more later");
}

/// Whether anything was changed.
async fn carry_out_all(node: &Arc<Node>, steps: &[MergeStep]) -> bool {
    let mut failed: HashSet<Uuid> = HashSet::new();
    let mut changed = false;
    for step in steps {
        // One disk that does not answer must not be waited for each time.
        if !node.is_disk_online(step.disk())
            || step.image().is_some_and(|image| failed.contains(&image))
        {
            failed.extend(step.image());
            continue;
        }
        match carry_out(node, step).await {
            Ok(()) => changed = true,
            Err(error) => {
                tracing::warn!("bringing the disks into agreement: {error}");
                failed.extend(step.image());
            }
        }
    }
    changed
}

/// Carries out one step on its disk; readers of a copy that goes are led to others first.
///
/// # Errors
/// The disk's; `TimedOut` where it does not answer.
pub async fn carry_out(node: &Arc<Node>, step: &MergeStep) -> Result<(), ApiError> {
    let disk = step.disk();
    let mut leaving = None;
    if let MergeStep::Bury { .. } | MergeStep::RemoveReplica { .. } = step
        && let Some(image) = step.image()
    {
        super::stop_all_of(node, image, Some(disk)).await;
        leaving = Some(leave::readers(node, image, disk).await?);
    }
    let actor = node.actor(disk)?;
    let on_disk = step.clone();
    let applied = tokio::time::timeout(
        STEP_WITHIN,
        // What is late may still be done: until then nobody may begin to read the copy.
        actor.change(move |store| (apply(store, &on_disk), leaving)),
    )
    .await
    .map_err(|_late| errors::silent(&actor.name()))??;
    let (applied, leaving) = applied;
    drop(leaving);
    match applied {
        Ok(Applied::Done) => tracing::info!(disk = %actor.name(), "agreed: {step:?}"),
        Ok(Applied::Outdated) => tracing::debug!(disk = %actor.name(), "outdated: {step:?}"),
        Err(error) => {
            node.refresh_disk(disk);
            return Err(errors::of_store(&actor.name(), None, &error));
        }
    }
    node.refresh_replicas(disk);
    node.refresh_space(disk);
    Ok(())
}

/// Tells of what machinery leaves alone.
fn tell(node: &Node, catalogue: &Catalogue) {
    let mut keys = HashSet::new();
    for stale in &catalogue.stale {
        let key = format!("catalogue:stale:{}", stale.disk);
        let name = node.disk_name(stale.disk);
        let message = format!(
            "the disk {name} is an old copy of itself: its session is {}, and it had been at {} (as {} knows)",
            stale.session,
            stale.known_session,
            node.disk_name(stale.known_by)
        );
        let problem = ApiError::new(ErrorKind::Held, message)
            .disk(name)
            .remedy("nothing on it is used; put the newer disk back, or give this one an identity of its own: `bedplate disk re-uuid PATH`");
        node.set_problem(&key, Some(problem));
        keys.insert(key);
    }
    for conflict in &catalogue.conflicts {
        let key = format!("catalogue:{conflict:?}");
        node.set_problem(&key, Some(problem_of(node, conflict)));
        keys.insert(key);
    }
    for key in node.problem_keys("catalogue:") {
        if !keys.contains(&key) {
            node.set_problem(&key, None);
        }
    }
}

fn problem_of(node: &Node, conflict: &Conflict) -> ApiError {
    let held =
        |message: String, remedy: &str| ApiError::new(ErrorKind::Held, message).remedy(remedy);
    match conflict {
        Conflict::Descriptions { uuid, holds, other, .. } => held(
            format!(
                "the disks {} and {} were used apart, and describe the image {uuid} differently: the former's word holds",
                node.disk_name(*holds),
                node.disk_name(*other)
            ),
            "look at its copies and its device: `bedplate image show`; say again what it is to be",
        )
        .object(uuid.to_string()),
        Conflict::Identity { uuid, disk } => held(
            format!("what the disk {} has under the UUID {uuid} is another image than the other disks have", node.disk_name(*disk)),
            "it is neither served nor touched; take that disk out of use (`bedplate disk remove DISK --force`) if it is not the one that is right",
        )
        .object(uuid.to_string()),
        Conflict::Name { name, uuids } => {
            held(
                format!("{} objects are named {name}: {}", uuids.len(), places_of(node, uuids)),
                "every command takes the UUID instead of the name; the name is free again when all but one are deleted: \
                 `bedplate volume delete UUID`, `bedplate image delete UUID`",
            )
            .object(name.clone())
        }
        Conflict::Volume { uuid, disks } => {
            let disks: Vec<String> = disks.iter().map(|disk| node.disk_name(*disk)).collect();
            held(
                format!("the volume {uuid} is on {}: one is a copy of the other", disks.join(" and ")),
                "take the copy out of use (`bedplate disk remove DISK --force`), then away, or give it an identity of its own: \
                 `bedplate disk re-uuid PATH`",
            )
            .object(uuid.to_string())
        }
        Conflict::CloneOfDeleted { uuid, volume, disk } => held(
            format!("the image {uuid} was deleted, and its clone {volume} turned up with the disk {}", node.disk_name(*disk)),
            "the image's copies are kept until the clone is deleted: `bedplate volume delete`",
        )
        .object(volume.to_string()),
        Conflict::NoBase { volume, disk, image } => held(
            format!("no disk that is there has the image {image}, which the volume {volume} on {} stands on", node.disk_name(*disk)),
            "bring a disk with a copy of that image; the volume goes on then",
        )
        .object(volume.to_string()),
        Conflict::TooManyCopies { uuid } => held(
            format!("more disks have a copy of the image {uuid} than a description can name (16)"),
            "lower its copies: `bedplate image copies`",
        )
        .object(uuid.to_string()),
        other => held(format!("the disks disagree: {other:?}"), "report this with the daemon's log"),
    }
}

/// Objects in messages: what each is, and where.
fn places_of(node: &Node, uuids: &[Uuid]) -> String {
    let mut found = node.objects_where(|_, object| uuids.contains(&object.uuid));
    found.sort_by_key(|found| (found.object.uuid, found.disk));
    let places: Vec<String> = found
        .iter()
        .map(|found| {
            let (noun, uuid, disk) = (found.noun(), found.object.uuid, &found.disk_path);
            format!("the {noun} {uuid} on {disk}")
        })
        .collect();
    places.join(", ")
}

impl Node {
    /// A disk in messages: its path, or its UUID where no path is known.
    pub fn disk_name(&self, disk: Uuid) -> String {
        self.disks()
            .iter()
            .find(|entry| entry.uuid == Some(disk))
            .map_or_else(
                || disk.to_string(),
                super::super::disk::entry::DiskEntry::name,
            )
    }
}
