//! Volumes: writable disks, clones of an image or blank.

use super::Transition;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// `POST /v1/volumes`: makes a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Name of the new volume: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`; images and volumes share one set of names.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    pub name: String,
    /// Name or UUID of the image that it is a clone of; blank without one.
    #[serde(default)]
    pub image: Option<String>,
    /// Its length: a multiple of 512, not less than the image's, at most 256 TiB. Without it the image's, rounded up to 512.
    #[serde(default)]
    pub size_bytes: Option<u64>,
}

/// `POST /v1/volumes/{name}/attach`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachVolume {
    /// A volume that is held, since writes that were acknowledged may be missing, goes on with what its disk has.
    #[serde(default)]
    pub accept_loss: bool,
}

/// `POST /v1/volumes/{name}/resize`: one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeVolume {
    /// The new length; less than the present one is refused.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// By how much it is to grow.
    #[serde(default)]
    pub grow_bytes: Option<u64>,
}

/// State of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum VolumeState {
    /// No device.
    Detached,
    /// The device is being made.
    Attaching,
    /// The device answers.
    Ready,
    /// Its device is to be there, and is not yet; or its requests wait. It answers soon, or when its disk is back: `why` says which.
    Recovering,
    /// Needs an operator; `why` says why.
    Held,
    /// Served, but without its wanted redundancy. Not told yet: a volume has one copy.
    Degraded,
}

/// The image that a volume is a clone of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ParentImage {
    /// Name; null where its disk is not there.
    pub name: Option<String>,
    /// Identity.
    pub uuid: Uuid,
}

/// A volume, as in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: Uuid,
    /// State.
    pub state: VolumeState,
    /// Why, where the state needs a reason.
    pub why: Option<String>,
    /// Attach it whenever its disk is Online: after a reboot, too.
    pub wanted: bool,
    /// Length.
    pub size_bytes: u64,
    /// Bytes of clusters that are its own.
    pub allocated_bytes: u64,
    /// The image that it is a clone of; null for a blank volume.
    pub image: Option<ParentImage>,
    /// Disk it is on.
    pub disk_uuid: Uuid,
    /// Where that disk was seen last.
    pub disk_path: String,
    /// ublk device number; kept for the volume's lifetime once it has one.
    pub dev_id: Option<u32>,
    /// `/dev/ublkbN`, while there is a device.
    pub device: Option<String>,
    /// When it was made, by the node's clock.
    pub created_unix_ms: u64,
}

/// A volume, with everything that is known about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeDetail {
    /// What the list says.
    #[serde(flatten)]
    pub volume: Volume,
    /// Bytes that are read from its image; null while its disk is not in use.
    pub shared_bytes: Option<u64>,
    /// The last changes of its state, oldest first.
    pub history: Vec<Transition>,
}

/// `POST /v1/volumes/{name}/attach`, `.../detach` and `.../resize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeChanged {
    /// False when it was attached, or detached, or as long as asked for, already.
    pub changed: bool,
    /// The volume as it is now.
    pub volume: Volume,
}

/// `GET /v1/volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeList {
    /// Ordered by name.
    pub volumes: Vec<Volume>,
}
