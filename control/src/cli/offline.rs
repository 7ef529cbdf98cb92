//! `disk format --offline`: the format alone, written by this process. The only command that touches a disk by itself.

use crate::api::{ApiError, Disk, DiskState};
use crate::daemon::disk::write_format;
use crate::error_kind::ErrorKind;
use bedplate_datapath::discover::scan;
use bedplate_datapath::units::CLUSTER_BYTES;
use std::path::PathBuf;

/// Formats the disk at `path`, and reads it again as the daemon will.
///
/// # Errors
/// As for the daemon's `disk format`.
pub fn format(path: String, size_bytes: Option<u64>, force: bool) -> Result<Disk, ApiError> {
    let file = PathBuf::from(&path);
    write_format(&file, size_bytes, force)?;
    let found = scan(&[file], false).found.pop().ok_or_else(|| {
        ApiError::new(
            ErrorKind::Io,
            "the disk was formatted, and does not read back as a Bedplate disk",
        )
        .disk(&path)
        .remedy("see the kernel's log (dmesg), and try another disk")
    })?;
    let geometry = found.superblock.geometry;
    let usable_bytes = u64::from(geometry.clusters()) * CLUSTER_BYTES;
    Ok(Disk {
        uuid: Some(found.disk_uuid()),
        path,
        state: DiskState::Offline,
        why: Some("formatted without the daemon; bedplate disk add brings it online".to_owned()),
        read_only: false,
        draining: false,
        size_bytes: Some(geometry.disk_bytes()),
        usable_bytes: Some(usable_bytes),
        free_bytes: Some(usable_bytes),
        replicas: 0,
        volume_count: 0,
    })
}
