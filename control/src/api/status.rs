//! The node at a glance.

use super::{ApiError, Disk, Image, Job, Volume};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// How bytes get between a disk and a device's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataMode {
    /// Straight into the request's own pages.
    ZeroCopy,
    /// Through a buffer of the daemon.
    UserCopy,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started_unix_ms: u64,
    /// Of the running kernel.
    pub boot_id: Uuid,
    /// Release of the running kernel.
    pub kernel: String,
    /// Null while no device can be served.
    pub data_mode: Option<DataMode>,
    /// Threads that serve devices.
    pub reactors: u32,
    /// Every known disk.
    pub disks: Vec<Disk>,
    /// Every known image.
    pub images: Vec<Image>,
    /// Every known volume.
    pub volumes: Vec<Volume>,
    /// Jobs that have not ended.
    pub jobs: Vec<Job>,
    /// What somebody should look at, for instance a kernel without ublk, a duplicate disk, a volume
    /// that is held, or a disk that is nearly full.
    pub problems: Vec<ApiError>,
}
