//! Removes every device of ours at the end of the node, with or without a daemon. What the disks say stays: after the reboot
//! the devices are back.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::units::DevId;
use bedplate_ublk_target::{Removed, Target};

use super::away::went;
use super::blocking::blocking;
use super::node::Node;
use super::object::attach;
use super::serving::Serving;
use crate::api::{ApiError, AttachmentState};
use crate::daemon::errors;

/// What the daemon answers when it removed its devices.
const DONE: &str = "HTTP/1.1 204";

/// Removes the devices that this daemon serves. From then on it attaches nothing by itself, and takes no new work.
///
/// # Errors
/// The first device that could not be removed; the others are.
pub async fn in_daemon(node: &Arc<Node>) -> Result<(), ApiError> {
    tracing::info!("removing all devices: the node goes down");
    node.stop_attaching();
    went::give_up_all(node).await;
    let mut outcome = Ok(());
    for found in node.objects() {
        let uuid = found.object.uuid;
        let turn = node.runtimes().of(uuid).turn.clone();
        let _turn = turn.lock().await;
        let Some(number) = node.runtimes().of(uuid).device else {
            continue;
        };
        match attach::take_down(node, found.object.uuid, &found.object.name, number).await {
            Ok(()) => attach::set_attachment(
                node,
                &found.object,
                AttachmentState::Detached,
                None,
                "all devices are removed: the node goes down",
            ),
            // Somebody has it open, and is being ended as well: the node goes down.
            Err(error) => match stop(number).await {
                Ok(Removed::Gone) => node.runtimes().of(uuid).device = None,
                Ok(Removed::WhenClosed) => {
                    tracing::info!(object = found.object.name, number, "stopped: {error}");
                    node.runtimes().of(uuid).device = None;
                }
                Err(second) => {
                    tracing::error!(object = found.object.name, number, "{error}; {second}");
                    outcome = outcome.and(Err(second));
                }
            },
        }
    }
    outcome.and(commit_all(node).await)
}

/// What was written to volumes is made durable: their devices are gone, and soon the power may be.
async fn commit_all(node: &Arc<Node>) -> Result<(), ApiError> {
    let mut outcome = Ok(());
    let actors: Vec<_> = {
        let disks = node.disks();
        let in_use = disks.iter().filter_map(|entry| entry.actor.clone());
        in_use.filter(|actor| actor.has_live_volumes()).collect()
    };
    for actor in actors {
        if let Err(error) = actor.commit().await {
            tracing::error!("{error}");
            outcome = outcome.and(Err(error));
        }
    }
    outcome
}

async fn stop(number: u32) -> Result<Removed, ApiError> {
    let device = DevId::new(number);
    blocking(move || Target::remove_at_shutdown(device))
        .await?
        .map_err(|error| errors::of_target(None, &error))
}

/// `bedplated remove-devices`: asks the daemon, then removes what is left. Answers whether no device of ours serves anybody any more.
pub fn command(socket: &Path, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    match ask_daemon(socket, timeout) {
        Ok(()) => tracing::info!("the daemon removed its devices"),
        Err(error) => tracing::info!("no daemon removes them ({error})"),
    }
    let mut stopped = Vec::new();
    loop {
        let left: Vec<DevId> = Serving::devices_of_ours()
            .iter()
            .map(|device| device.dev_id)
            .filter(|dev_id| !stopped.contains(dev_id))
            .collect();
        let mut failed = false;
        for dev_id in left {
            match Target::remove_at_shutdown(dev_id) {
                Ok(Removed::Gone) => tracing::info!("removed /dev/ublkb{dev_id}"),
                Ok(Removed::WhenClosed) => {
                    tracing::info!("stopped /dev/ublkb{dev_id}; it goes when it is closed");
                    stopped.push(dev_id);
                }
                Err(error) => {
                    failed = true;
                    tracing::warn!("{error}");
                }
            }
        }
        if !failed {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn ask_daemon(socket: &Path, timeout: Duration) -> std::io::Result<()> {
    let mut daemon = UnixStream::connect(socket)?;
    daemon.set_read_timeout(Some(timeout))?;
    daemon.write_all(
        b"POST /v1/devices/remove HTTP/1.1\r\nhost: bedplated\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    )?;
    let mut answer = String::new();
    daemon.read_to_string(&mut answer)?;
    if answer.starts_with(DONE) {
        return Ok(());
    }
    Err(std::io::Error::other(
        answer.lines().last().unwrap_or("no answer").to_owned(),
    ))
}
