//! A disk was found at a path: whether it may be opened there, by what this daemon has open already.

use std::path::Path;
use std::sync::Arc;

use bedplate_datapath::engine::DiskIdentity;
use uuid::Uuid;

use super::online::{duplicate_of_used, silent_and_elsewhere};
use super::reopen;
use crate::api::{ApiError, DiskState};
use crate::daemon::node::Node;

/// What is to be done with a disk that was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// It may be opened.
    Free,
    /// It is open, and this is the very device.
    Open,
}

/// Whether the disk `uuid`, the device `identity` at `path`, may be opened. One that is open as a device that is gone is let go of, so that it
/// may be: it is back.
///
/// # Errors
/// `DuplicateDisk` and `DiskOffline` where another device is in use as this disk: it is a copy, or another path to it. As [`reopen::let_go`].
pub async fn make(
    node: &Arc<Node>,
    uuid: Uuid,
    identity: DiskIdentity,
    path: &Path,
) -> Result<Way, ApiError> {
    let used = {
        let disks = node.disks();
        let mut of_disk = disks.iter().filter(|entry| entry.uuid == Some(uuid));
        of_disk.find_map(|entry| {
            let actor = entry.actor.as_ref()?;
            Some((
                Arc::clone(&actor.presence),
                entry.path.clone(),
                entry.state.get(),
            ))
        })
    };
    match used {
        None => Ok(Way::Free),
        Some((open, ..)) if open.identity() == identity => Ok(Way::Open),
        Some((open, ..)) if open.is_gone() => {
            reopen::let_go(node, uuid, path).await?;
            Ok(Way::Free)
        }
        Some((_, used, DiskState::Offline)) => Err(silent_and_elsewhere(uuid, &used, path)),
        Some((_, used, _)) => Err(duplicate_of_used(uuid, &used, path)),
    }
}
