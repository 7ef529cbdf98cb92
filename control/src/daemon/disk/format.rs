//! `disk format`: writes the format on a disk that carries nothing, or whose owner insists.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bedplate_datapath::discover::{BedplateContent, DiskContent, InspectError, inspect};
use bedplate_datapath::store::{self, FormatParams};
use nix::fcntl::{FallocateFlags, fallocate};
use uuid::Uuid;

use super::claim::{claim, medium_of};
use super::entry::DiskEntry;
use super::in_change::InChange;
use super::online::{CLAIM_FOR_USER, absolute, add, same_file};
use crate::api::{ApiError, Disk, FormatDisk};
use crate::daemon::errors;
use crate::daemon::history::unix_ms;
use crate::daemon::node::Node;
use crate::error_kind::ErrorKind;

/// Formats a disk and brings it Online.
///
/// # Errors
/// `ForeignSignature` where it carries something and `force` is not given; `Busy` where somebody uses it.
pub async fn format(node: &Arc<Node>, request: FormatDisk) -> Result<Disk, ApiError> {
    let node = Arc::clone(node);
    // A task of its own: a client that goes away in the middle must not leave the disk marked as being changed.
    tokio::spawn(async move { format_and_add(&node, request).await })
        .await
        .unwrap_or_else(|_| Err(errors::internal("formatting ended unexpectedly")))
}

async fn format_and_add(node: &Arc<Node>, request: FormatDisk) -> Result<Disk, ApiError> {
    node.require_running()?;
    let path = absolute(&request.path)?;
    // Discovery must neither judge the half written format nor open the disk before this does.
    let (change, known) = begin(node, &path)?;
    let on_disk = path.clone();
    let written = tokio::task::spawn_blocking(move || {
        write_format(&on_disk, request.size_bytes, request.force)
    })
    .await
    .unwrap_or_else(|_| Err(errors::internal("formatting ended unexpectedly")));
    end(node, change, &path, known && written.is_err());
    written?;
    add(node, &request.path).await
}

/// Marks the disk as being changed. Answers also whether there was an entry of it.
fn begin(node: &Arc<Node>, path: &Path) -> Result<(InChange, bool), ApiError> {
    let mut disks = node.disks();
    refuse_in_use(&disks, path)?;
    let known = disks.iter().any(|entry| entry.path == path);
    Ok((InChange::begin(node, &mut disks, path), known))
}

/// Ends the change. Once a disk is formatted, whatever was known about its path is of the past.
fn end(node: &Node, change: InChange, path: &Path, keep: bool) {
    let mut disks = node.disks();
    change.end(&mut disks);
    if !keep {
        disks.retain(|entry| entry.path != path);
    }
}

fn refuse_in_use(disks: &[DiskEntry], path: &Path) -> Result<(), ApiError> {
    let user = disks
        .iter()
        .filter(|entry| entry.actor.is_some() || entry.in_change)
        .find(|entry| same_file(&entry.path, path));
    match user {
        None => Ok(()),
        Some(entry) => Err(ApiError::new(
            ErrorKind::Busy,
            format!("the disk {} is in use by this daemon", entry.name()),
        )
        .disk(entry.name())
        .remedy("take it out of use first: `bedplate disk remove`")),
    }
}

/// Writes the format, and nothing else: what `disk format --offline` does without a daemon.
///
/// # Errors
/// As for [`format`].
pub fn write_format(path: &Path, size_bytes: Option<u64>, force: bool) -> Result<(), ApiError> {
    let name = path.display().to_string();
    let fresh = make_file(path, size_bytes)?;
    let result = claim_and_write(path, &name, size_bytes, force);
    if let (Err(_), Some(made)) = (&result, fresh)
        && let Err(error) = std::fs::remove_file(&made)
    {
        tracing::warn!(file = %made.display(), %error, "cannot remove the file that was made for a disk");
    }
    result
}

fn claim_and_write(
    path: &Path,
    name: &str,
    size_bytes: Option<u64>,
    force: bool,
) -> Result<(), ApiError> {
    // Claimed first, so that nobody can begin to use it between the look and the write.
    let disk = claim(path, Instant::now() + CLAIM_FOR_USER)?;
    if let Some(asked) = size_bytes.filter(|asked| *asked != disk.len_bytes()) {
        return Err(ApiError::new(
            ErrorKind::BadSize,
            format!(
                "{name} is there already and has {} bytes, not {asked}",
                disk.len_bytes()
            ),
        )
        .disk(name)
        .remedy("leave the size out to format it as it is"));
    }
    let content = inspect(path).map_err(|error| match error {
        InspectError::Disk(refusal) => errors::of_refusal(name, &refusal),
        other => ApiError::new(
            ErrorKind::Io,
            format!("{name}: cannot see what is on the disk: {other}"),
        )
        .disk(name)
        .remedy(other.remedy()),
    })?;
    refuse_content(name, &content, force)?;
    let hardware_id_hash = disk.hardware_id_hash();
    let mut medium = medium_of(disk, name)?;
    let params = FormatParams {
        disk_uuid: Uuid::new_v4(),
        hardware_id_hash,
        created_unix_s: unix_ms() / 1000,
    };
    store::format(&mut medium, &params).map_err(|error| errors::of_format(name, &error))?;
    tracing::info!(disk = name, uuid = %params.disk_uuid, "formatted");
    Ok(())
}

/// Makes a regular file for a disk where there is nothing. Answers with it.
fn make_file(path: &Path, size_bytes: Option<u64>) -> Result<Option<PathBuf>, ApiError> {
    let Some(size_bytes) = size_bytes else {
        return Ok(None);
    };
    let failed = |error: &std::io::Error| {
        errors::of_io(&format!("cannot make the file {}", path.display()), error)
            .disk(path.display().to_string())
    };
    let file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let length = i64::try_from(size_bytes).unwrap_or(i64::MAX);
    // Allocated now, so that a full file system shows here and not as a failed write later.
    let made = match fallocate(&file, FallocateFlags::empty(), 0, length) {
        Err(nix::errno::Errno::EOPNOTSUPP) => file.set_len(size_bytes),
        other => other.map_err(std::io::Error::from),
    };
    if let Err(error) = made {
        // What was made of it is worth nothing.
        let _ = std::fs::remove_file(path);
        return Err(failed(&error));
    }
    Ok(Some(path.to_owned()))
}

fn refuse_content(name: &str, content: &DiskContent, force: bool) -> Result<(), ApiError> {
    if !content.uses.is_empty() {
        let uses: Vec<String> = content.uses.iter().map(ToString::to_string).collect();
        return Err(ApiError::new(
            ErrorKind::Busy,
            format!("{name} is in use: {}", uses.join("; ")),
        )
        .disk(name)
        .remedy("unmount it, or take it out of what uses it; `--force` does not help here"));
    }
    if force {
        return Ok(());
    }
    let mut found: Vec<String> = content
        .foreign
        .iter()
        .map(|mark| format!("{} at byte {}", mark.kind, mark.offset))
        .collect();
    match &content.bedplate {
        Some(BedplateContent::Disk(uuid)) => found.push(format!("the Bedplate disk {uuid}")),
        Some(BedplateContent::Damaged(what)) => {
            found.push(format!("what is left of a Bedplate disk ({what})"));
        }
        None => {}
    }
    if found.is_empty() {
        return Ok(());
    }
    let mut error = ApiError::new(
        ErrorKind::ForeignSignature,
        format!("{name} is not empty: it carries {}", found.join(", ")),
    )
    .disk(name)
    .remedy("look at it first (`wipefs`, `blkid`); `--force` destroys what is on it");
    error.offset = content.foreign.first().map(|mark| mark.offset);
    Err(error)
}
