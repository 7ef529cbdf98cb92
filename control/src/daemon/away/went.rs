//! A disk goes: devices that cannot be served without it wait, and their time runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::units::DevId;
use bedplate_ublk_target::{DiskInDoubt, Target, TargetError};
use uuid::Uuid;

use crate::api::{ApiError, AttachmentState};
use crate::daemon::blocking::blocking;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::daemon::object::{Located, Noun, attach};
use crate::error_kind::ErrorKind;

/// How long requests that were in flight when their disk went may take to end: the kernel has ended them by the time that it is gone.
const QUIET_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A reactor has met an error such as disks give that go. Word follows, whatever it is.
pub async fn in_doubt(node: Arc<Node>, event: DiskInDoubt) {
    let number = event.dev_id.get();
    let asked = {
        let disks = node.disks();
        let entry = disks.iter().find(|entry| entry.slot == Some(event.disk));
        entry.and_then(|entry| Some((entry.uuid?, entry.actor.clone())))
    };
    if let Some((disk, actor)) = asked {
        let goes = match actor {
            // Of a disk that is known to take no changes, a write that finds no space is no news.
            Some(actor) if event.errno == libc::ENOSPC && actor.contents().latched.is_some() => {
                actor.presence.is_gone()
            }
            Some(actor) => actor.goes().await,
            // It is being opened anew.
            None => node.away.left().iter().any(|left| left.disk == disk),
        };
        if goes {
            disk_went(&node, disk).await;
            let object = {
                let runtimes = node.runtimes();
                let mut devices = runtimes.devices();
                devices.find(|(_, device)| *device == number)
            };
            if let Some((object, _)) = object {
                // An image's, or a clone's whose image was there alone.
                let found = node.objects_where(|_, known| known.uuid == object);
                if let Some(found) = found.into_iter().next() {
                    park(&node, &found, number, disk).await;
                    return;
                }
            }
        }
    }
    tell(&node, number, Target::answer_doubted).await;
}

/// The block device of a disk is gone: the devices of its own volumes wait from now on, whether they have met an error or not.
pub async fn disk_went(node: &Arc<Node>, disk: Uuid) {
    if let Ok(actor) = node.actor(disk) {
        actor.tell_gone();
    }
    for (found, number) in devices_on(node, disk) {
        park(node, &found, number, disk).await;
    }
}

/// The volumes of a disk that have a device.
pub fn devices_on(node: &Node, disk: Uuid) -> Vec<(Located, u32)> {
    let volumes = node.objects_where(|on, object| on == disk && Noun::of(object) == Noun::Volume);
    with_devices(node, volumes)
}

/// Those of some objects that have a device, and its number.
pub fn with_devices(node: &Node, objects: Vec<Located>) -> Vec<(Located, u32)> {
    let runtimes = node.runtimes();
    objects
        .into_iter()
        .filter_map(|found| {
            let device = runtimes.get(found.object.uuid)?.device?;
            Some((found, device))
        })
        .collect()
}

/// Has a device wait for a disk; one that does so already, or has done so, stays as it is.
async fn park(node: &Arc<Node>, found: &Located, number: u32, disk: Uuid) {
    let object = found.object.uuid;
    let waiting = loop {
        match node.away.begin(object, disk, number) {
            Ok(waiting) => break waiting,
            Err(known) => {
                // Perhaps it is just being told that its disk is back, and has gone again.
                let _gate = known.gate.lock().await;
                if node.away.of(object).is_some() {
                    tell(node, number, Target::park).await;
                    return;
                }
            }
        }
    };
    tell(node, number, Target::park).await;
    let patience = Duration::from_millis(node.config.health.own_disk_wait_ms);
    let name = node.disk_name(disk);
    if patience.is_zero() {
        over(node, found, &waiting, patience).await;
        return;
    }
    let error = ApiError::new(
        ErrorKind::DiskOffline,
        format!(
            "its disk {name} is gone: requests wait for its return, for {} s at most",
            patience.as_secs_f64()
        ),
    );
    let state = AttachmentState::Recovering;
    attach::set_attachment(node, &found.object, state, Some(&error), "");
    let (node, found) = (Arc::clone(node), found.clone());
    tokio::spawn(async move {
        tokio::select! {
            // What waits is the next server's then.
            () = node.stopped() => {}
            () = tokio::time::sleep(patience) => over(&node, &found, &waiting, patience).await,
        }
    });
}

/// The time is over.
async fn over(node: &Arc<Node>, found: &Located, waiting: &super::Waiting, waited: Duration) {
    let _gate = waiting.gate.lock().await;
    if !node.away.end(found.object.uuid, waiting) {
        return;
    }
    tell(node, waiting.number, Target::give_up).await;
    let name = node.disk_name(waiting.disk);
    let error = ApiError::new(
        ErrorKind::DiskOffline,
        format!(
            "its disk {name} is gone, and was not back within {} s: requests are answered with I/O errors until it is",
            waited.as_secs_f64()
        ),
    );
    tracing::error!(object = found.object.name, "{error}");
    let state = AttachmentState::Recovering;
    attach::set_attachment(node, &found.object, state, Some(&error), "");
}

/// The disk of a device is not to be used: its requests are answered with I/O errors from now on. Answers whether that is news.
pub async fn refuse(node: &Arc<Node>, found: &Located, number: u32) -> bool {
    let object = found.object.uuid;
    let (Ok(waiting) | Err(waiting)) = node.away.begin(object, found.disk, number);
    let _gate = waiting.gate.lock().await;
    if !node.away.end(object, &waiting) {
        return false;
    }
    tell(node, number, Target::give_up).await;
    true
}

/// The node goes down: nobody waits any longer, or devices could not be stopped.
pub async fn give_up_all(node: &Arc<Node>) {
    for (object, waiting) in node.away.all() {
        let _gate = waiting.gate.lock().await;
        if node.away.end(object, &waiting) {
            tell(node, waiting.number, Target::give_up).await;
        }
    }
}

/// Waits until no request touches what these parked devices were served from.
///
/// # Errors
/// When some do not end.
pub async fn quiet(node: &Arc<Node>, numbers: &[u32]) -> Result<(), ApiError> {
    let Some(target) = node.serving.started() else {
        return Ok(());
    };
    let deadline = Instant::now() + QUIET_WITHIN;
    for number in numbers {
        let device = DevId::new(*number);
        loop {
            let target = Arc::clone(&target);
            let in_flight = blocking(move || target.in_flight(device)).await?;
            if in_flight.map_err(|error| errors::of_target(None, &error))? == 0 {
                break;
            }
            if Instant::now() >= deadline {
                return Err(ApiError::new(
                    ErrorKind::Busy,
                    format!("requests of /dev/ublkb{number} that were in flight when its disk went do not end"),
                )
                .remedy("it is tried again by itself; if it lasts, restart the daemon"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

/// Tells the target something of a device, if there is a target.
pub async fn tell(
    node: &Arc<Node>,
    number: u32,
    what: impl FnOnce(&Target, DevId) -> Result<(), TargetError> + Send + 'static,
) {
    let Some(target) = node.serving.started() else {
        return;
    };
    let told = blocking(move || what(&target, DevId::new(number))).await;
    if let Ok(Err(error)) = told {
        tracing::error!(number, "a device whose disk is gone: {error}");
    }
}
