//! Makes the device of an image or a volume, or takes over the one that it still has.

use std::collections::BTreeSet;
use std::sync::Arc;

use bedplate_datapath::store::Object;
use bedplate_datapath::units::DevId;
use bedplate_ublk_target::{Backing, DeviceSpec, OwnerTag, Target, TargetError};
use uuid::Uuid;

use super::attach::take_down;
use super::backing::{backing_of, require_servable};
use super::{Located, Noun};
use crate::api::ApiError;
use crate::daemon::blocking::blocking;
use crate::daemon::device_files;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::daemon::replica::describe;

/// How often another number is tried when somebody takes the chosen one first.
const NUMBER_TRIES: u32 = 16;

/// Makes the device of an object, or takes over the one that it still has; answers with its number once it answers requests.
/// The caller has the object's turn.
///
/// # Errors
/// What stands in the way. The object has no device of this daemon then.
pub async fn bring_up(node: &Arc<Node>, found: &Located) -> Result<u32, ApiError> {
    let made = make(node, found).await;
    if made.is_err() {
        node.replicas.sets.released(found.object.uuid);
    }
    made
}

async fn make(node: &Arc<Node>, found: &Located) -> Result<u32, ApiError> {
    node.require_attaching()?;
    let object = &found.object;
    require_servable(node, found)?;
    let actor = node.actor(found.disk)?;
    let (backing, set) = backing_of(node, found).await?;
    tracing::debug!(object = object.name, disk = %actor.name(), "bringing up");

    let in_use = numbers_in_use(node, object.uuid, object.dev_id);
    let (run_dir, name, kept, uuid) = (
        node.config.run_dir.clone(),
        object.name.clone(),
        object.dev_id,
        object.uuid,
    );
    let wanted = object.want_attached;
    let read_only = found.noun() == Noun::Image;
    let dma_alignment = dma_alignment(node).max(actor.dma_alignment);
    let job_node = Arc::clone(node);
    let made = blocking(move || {
        let target = job_node.serving.target()?;
        let spec = |number: u32| DeviceSpec {
            dev_id: DevId::new(number),
            owner: OwnerTag::of(uuid),
            read_only,
            dma_alignment,
        };
        let names = Names {
            note: &|number| device_files::note(&run_dir, number, &name),
            forget: &|number| device_files::forget(&run_dir, number),
        };
        up(
            &target,
            &spec,
            &names,
            &backing,
            kept.map(DevId::get),
            wanted,
            &in_use,
        )
        .map_err(|error| errors::of_target(Some(&name), &error))
    });
    let number = match made.await.and_then(|made| made) {
        Ok(number) => number,
        Err(error) => {
            retire(node, found).await;
            return Err(error);
        }
    };
    if let Some(set) = &set {
        node.replicas.sets.given(object.uuid, set);
    }

    if kept.map(DevId::get) != Some(number) || !wanted {
        // The device answers already, but nobody was told. If the daemon dies before this is durable, the next one finds a
        // device that nobody wishes for, and removes it.
        if let Err(error) = commit(node, found, DevId::new(number), true).await {
            if let Err(error) = take_down(node, object.uuid, &object.name, number).await {
                tracing::error!(
                    object = object.name,
                    number,
                    "a device that could not be noted cannot be removed: {error}"
                );
            }
            return Err(error);
        }
    }
    Ok(number)
}

/// Of the most demanding disk: an image may be read from any of them later.
fn dma_alignment(node: &Node) -> u32 {
    node.disks()
        .iter()
        .filter_map(|entry| entry.actor.as_ref())
        .map(|actor| actor.dma_alignment)
        .max()
        .unwrap_or_default()
}

/// A volume that was made live for a device that did not come up, and that nobody wishes for, gives its live file back. One without a
/// number keeps it until the disk is opened again: that costs memory, and is for the next try.
async fn retire(node: &Arc<Node>, found: &Located) {
    let (object, wanted) = (&found.object, found.object.want_attached);
    if found.noun() == Noun::Volume
        && !wanted
        && let Some(kept) = object.dev_id
        && let Err(error) = commit(node, found, kept, false).await
    {
        tracing::warn!(volume = object.name, "giving its live file back: {error}");
    }
}

/// What udev is told of a number: before its device starts, and only then. A number that turns out to be somebody else's has no name of ours: a link
/// by this object's name would lead to another one's bytes.
struct Names<'a> {
    note: &'a dyn Fn(u32),
    forget: &'a dyn Fn(u32),
}

impl Names<'_> {
    /// Attaches under a name.
    fn attach(
        &self,
        target: &Target,
        spec: &DeviceSpec,
        backing: &Backing,
    ) -> Result<(), TargetError> {
        let number = spec.dev_id.get();
        (self.note)(number);
        let attached = target.attach(spec, backing.clone());
        if let Err(TargetError::DeviceTaken { .. } | TargetError::Busy { .. }) = &attached {
            (self.forget)(number);
        }
        attached.map(drop)
    }
}

fn up(
    target: &Target,
    spec: &impl Fn(u32) -> DeviceSpec,
    names: &Names<'_>,
    backing: &Backing,
    kept: Option<u32>,
    wanted: bool,
    in_use: &BTreeSet<u32>,
) -> Result<u32, TargetError> {
    // The kernel is asked about one device, however many there are: each of a thousand that come back at the same time would ask about all.
    // What an object has under another number was never handed out, and is removed by `tidy`.
    if let Some(number) = kept {
        let device = target.kernel_device(DevId::new(number))?;
        if let Some(device) = device {
            // Tags are short: another object may have the same one. What belongs to that one is not this one's to remove.
            let is_ours = device.owner == Some(spec(0).owner) && !in_use.contains(&number);
            if !is_ours {
                // Says whose it is, or finds it gone.
                target.attach(&spec(number), backing.clone())?;
                (names.note)(number);
                return Ok(number);
            }
            if wanted {
                (names.note)(number);
                target.recover(&spec(number), backing.clone())?;
                return Ok(number);
            }
            tracing::info!(number, "removing a device that was never handed out");
            Target::remove_device(DevId::new(number))?;
        }
        names.attach(target, &spec(number), backing)?;
        return Ok(number);
    }
    let mut taken = Target::numbers_in_kernel();
    taken.extend(in_use);
    let mut tries = 0;
    loop {
        let number = first_free(&taken);
        match names.attach(target, &spec(number), backing) {
            Ok(()) => return Ok(number),
            Err(TargetError::DeviceTaken { .. } | TargetError::Busy { .. })
                if tries < NUMBER_TRIES =>
            {
                tries += 1;
                taken.insert(number);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The first number that is not taken.
fn first_free(taken: &BTreeSet<u32>) -> u32 {
    let mut number = 0;
    for taken in taken {
        if *taken != number {
            break;
        }
        number = taken.saturating_add(1);
    }
    number
}

/// Numbers that belong to other objects, attached or not. Where one number alone is asked about, whether it is one of them: of a thousand
/// objects that come back at the same time, each would copy what is known of all.
fn numbers_in_use(node: &Node, object: Uuid, only: Option<DevId>) -> BTreeSet<u32> {
    let may_have_it = |other: &Object| {
        // An image's number is what all disks together say, and not what this one has: see `objects_where`.
        Noun::of(other) == Noun::Image || only.is_none() || other.dev_id == only
    };
    let mut numbers: BTreeSet<u32> = node
        .objects_where(|_, other| other.uuid != object && may_have_it(other))
        .into_iter()
        .filter_map(|other| other.object.dev_id.map(DevId::get))
        .collect();
    numbers.extend(
        node.runtimes()
            .devices()
            .filter(|(uuid, _)| *uuid != object)
            .map(|(_, number)| number),
    );
    numbers
}

/// Notes durably which number the object has, and whether it is to be attached. For a volume that is not, its device is gone: what was
/// written by it is made durable first.
///
/// # Errors
/// What the store has against it.
pub async fn commit(
    node: &Arc<Node>,
    found: &Located,
    number: DevId,
    wanted: bool,
) -> Result<(), ApiError> {
    let uuid = found.object.uuid;
    if found.noun() == Noun::Image {
        return describe(node, uuid, |description| {
            description.dev_id = Some(number);
            description.want_attached = wanted;
        })
        .await
        .map(drop);
    }
    let actor = node.actor(found.disk)?;
    let noted = actor
        .change(move |store| store.set_attachment(uuid, number, wanted))
        .await?;
    if noted.is_err() {
        node.refresh_disk(found.disk);
    }
    node.refresh_space(found.disk);
    noted.map_err(|error| errors::of_store(&actor.name(), Some(&found.object.name), &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::test_node::TestNode;

    #[tokio::test]
    async fn a_number_is_in_use_by_others_whichever_of_them_has_it() {
        let node = TestNode::new();
        node.make_disk("disk").await;
        let (image, _) = node.import_image("a").await;
        let (volume, _) = node.make_volume("v").await;
        for (noun, name, number) in [(Noun::Image, "a", 3), (Noun::Volume, "v", 5)] {
            let found = node.find(noun, name).unwrap();
            commit(&node, &found, DevId::new(number), false)
                .await
                .unwrap();
        }
        let other = Uuid::from_u128(1);
        let all = BTreeSet::from([3, 5]);
        assert_eq!(numbers_in_use(&node, other, None), all);
        for number in all {
            let only = Some(DevId::new(number));
            assert!(numbers_in_use(&node, other, only).contains(&number));
        }
        let own = |uuid, number| {
            let only = Some(DevId::new(number));
            numbers_in_use(&node, uuid, only).contains(&number)
        };
        assert!(!own(image, 3) && !own(volume, 5));
    }
}
