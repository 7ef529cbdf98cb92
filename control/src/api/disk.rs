//! Disks.

use super::Transition;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// `POST /v1/disks/format`: writes the format and brings the disk Online.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FormatDisk {
    /// Absolute path of a block device or regular file.
    pub path: String,
    /// Makes a regular file of this size when nothing is at `path`. What exists must have this size already.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// Format although the disk carries a file system, a partition table or a former Bedplate format.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/disks`: brings a formatted disk Online, and remembers its path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddDisk {
    /// Absolute path of a block device or regular file that carries a Bedplate superblock.
    pub path: String,
}

/// Query of `DELETE /v1/disks/{disk}`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams,
)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RemoveDisk {
    /// Also a disk that holds replicas or volumes. They stay on it, and out of reach.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/disks/{disk}/forget`: what went with the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forgotten {
    /// The disk: its UUID, or its path where that was never known.
    pub disk: String,
    /// Images that had a replica on it and have others.
    pub images: Vec<String>,
    /// Images of which no other replica is known.
    pub images_lost: Vec<String>,
    /// Volumes on it.
    pub volumes_lost: Vec<String>,
}

/// `POST /v1/disks/adopt` and `POST /v1/disks/re-uuid`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskPath {
    /// Absolute path of a block device or regular file that carries a Bedplate superblock.
    pub path: String,
}

/// State of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum DiskState {
    /// Known, and not there.
    Absent,
    /// Found; it is claimed, its metadata is read and checked.
    Opening,
    /// In use.
    Online,
    /// Missed some health checks.
    Suspect,
    /// Not in use; `why` says why. It comes back by itself when it answers again.
    Offline,
}

/// A disk, as in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Disk {
    /// Identity; null for a path that was never opened.
    pub uuid: Option<Uuid>,
    /// Where it was seen last.
    pub path: String,
    /// State.
    pub state: DiskState,
    /// Why it is in this state, where that needs a reason.
    pub why: Option<String>,
    /// Writes of metadata are refused since one failed.
    pub read_only: bool,
    /// It is being drained: its replicas move to other disks, and it gets none.
    pub draining: bool,
    /// Size at format.
    pub size_bytes: Option<u64>,
    /// Bytes for data and maps: its clusters.
    pub usable_bytes: Option<u64>,
    /// Of these, free.
    pub free_bytes: Option<u64>,
    /// Number of replicas on it.
    pub replicas: u32,
    /// Number of volumes on it.
    pub volume_count: u32,
}

/// A disk, with everything that is known about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskDetail {
    /// What the list says.
    #[serde(flatten)]
    pub disk: Disk,
    /// Version of the on-disk format.
    pub format_version: Option<u32>,
    /// How often a daemon has opened it.
    pub session: Option<u64>,
    /// How the session before ended: `clean`, `crash_same_boot`, `crash_other_boot`, `first`.
    pub previous_session: Option<String>,
    /// What was repaired when it was opened.
    pub repairs: Vec<String>,
    /// Names of the images that have a replica on it.
    pub images: Vec<String>,
    /// Names of the volumes on it.
    pub volumes: Vec<String>,
    /// The last changes of its state, oldest first.
    pub history: Vec<Transition>,
}

/// `GET /v1/disks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskList {
    /// Ordered by path.
    pub disks: Vec<Disk>,
}
