//! Disks: found by their superblock, each served by a thread of its own, watched while it is in use.

pub(super) mod actor;
mod claim;
pub(super) mod discovery;
pub(super) mod entry;
mod format;
pub(super) mod gone;
pub(super) mod health;
mod in_change;
mod live;
pub(super) mod lost;
pub(super) mod online;
mod order;
mod owner;
mod re_uuid;
mod remove;
pub(super) mod reopen;
pub(super) mod space;
mod standing;
mod thread;
pub(super) mod uevent;
mod way;

pub(super) use format::format;
pub use format::write_format;
pub(super) use online::{add, adopt};
pub(super) use re_uuid::re_uuid;
pub(super) use remove::{close_all, remove};

use uuid::Uuid;

use self::entry::DiskEntry;
use crate::api::{ApiError, Disk, DiskDetail};
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
    /// A disk as the API shows it in a list.
    pub fn disk_view(&self, entry: &DiskEntry) -> Disk {
        let mut view = entry.view();
        view.draining = entry.uuid.is_some_and(|uuid| self.seen().is_draining(uuid));
        view
    }

    /// A disk as the API shows it alone, by UUID or path.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn disk_detail(&self, name: &str) -> Result<DiskDetail, ApiError> {
        let disks = self.disks();
        let entry = find(&disks, name)?;
        let mut detail = entry.detail();
        detail.disk = self.disk_view(entry);
        Ok(detail)
    }

    /// Every known disk, by path.
    pub fn disk_list(&self) -> Vec<Disk> {
        let disks = self.disks();
        let mut list: Vec<Disk> = disks.iter().map(|entry| self.disk_view(entry)).collect();
        drop(disks);
        list.sort_by(|a, b| a.path.cmp(&b.path));
        list
    }
}
