//! Disks: found by their superblock, each served by a thread of its own, watched while it is in use.

pub(super) mod actor;
pub(super) mod backoff;
pub(super) mod discovery;
pub(super) mod entry;
mod format;
pub(super) mod health;
mod in_change;
mod live;
pub(super) mod online;
mod remove;
mod reopen;
pub(super) mod space;
mod standing;
mod thread;
pub(super) mod uevent;

pub(super) use format::format;
pub use format::write_format;
pub(super) use online::add;
pub(super) use remove::{close_all, remove};

use uuid::Uuid;

use self::entry::DiskEntry;
use crate::api::{ApiError, Disk};
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// The disk that `name` means: a UUID or a path.
///
/// # Errors
/// `NotFound`.
pub(super) fn find<'a>(disks: &'a [DiskEntry], name: &str) -> Result<&'a DiskEntry, ApiError> {
    let uuid = name.parse::<Uuid>().ok();
    disks
        .iter()
        .find(|entry| entry.path.as_os_str() == name || (uuid.is_some() && entry.uuid == uuid))
        .ok_or_else(|| {
            ApiError::new(ErrorKind::NotFound, format!("there is no disk {name}"))
                .disk(name)
                .remedy("`bedplate disk list` shows the disks by UUID and path")
        })
}

impl Node {
    /// Every known disk, by path.
    pub fn disk_list(&self) -> Vec<Disk> {
        let mut list: Vec<Disk> = self.disks().iter().map(DiskEntry::view).collect();
        list.sort_by(|a, b| a.path.cmp(&b.path));
        list
    }
}
