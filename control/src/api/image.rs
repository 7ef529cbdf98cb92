//! Images: import, content, attachment.

use super::Transition;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// `POST /v1/images`: starts an import; the answer is its job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportImage {
    /// Name of the new image: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    pub name: String,
    /// Where its bytes come from.
    pub source: ImportSource,
    /// What the bytes are.
    #[serde(default)]
    pub format: ImportFormat,
    /// Expected SHA-256 of the content, 64 hexadecimal digits. Another one fails the job.
    #[serde(default)]
    #[schema(pattern = "^[0-9A-Fa-f]{64}$")]
    pub sha256: Option<String>,
    /// Expected SHA-512 of the content, 128 hexadecimal digits.
    #[serde(default)]
    #[schema(pattern = "^[0-9A-Fa-f]{128}$")]
    pub sha512: Option<String>,
    /// Replicas wanted, each on its own disk.
    #[serde(default = "one_copy")]
    #[schema(minimum = 1)]
    pub copies: u32,
}

/// Query of `DELETE /v1/images/{name}`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams,
)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DeleteImage {
    /// Not the image: only its replicas that are Failed. Refused unless another one is Ready (`not_ready`), or if none is Failed (`not_found`).
    #[serde(default)]
    pub failed_copies: bool,
}

/// `POST /v1/images/{name}/copies`: how many replicas there are to be. What is missing is made, what is too much goes, in the background;
/// more than there are disks is accepted, and the image stays degraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetCopies {
    /// Replicas wanted, each on its own disk.
    #[schema(minimum = 1)]
    pub copies: u32,
    /// Bytes a second that making a replica of this image may take, 0 for no limit; null for what the settings say. Until the daemon ends.
    #[serde(default)]
    pub limit_bytes_per_s: Option<u64>,
}

const fn one_copy() -> u32 {
    1
}

/// Where the bytes of an import come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImportSource {
    /// A file that the daemon itself reads.
    File {
        /// Absolute path, as the daemon sees it.
        path: String,
    },
    /// The client sends them: `PUT /v1/jobs/{id}/content`, begun within 30 seconds after this request.
    Stream {
        /// Total length where the client knows it, for progress; another length fails the job.
        #[serde(default)]
        size_bytes: Option<u64>,
    },
}

/// What the bytes of a source are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportFormat {
    /// Raw, unless it looks like something else: then it is refused.
    #[default]
    Auto,
    /// Raw, whatever it looks like.
    Raw,
}

/// State of a replica; of an image, the best one of its replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum ReplicaState {
    /// Waits for its turn.
    Pending,
    /// Is being made; `percent` says how far.
    InProgress,
    /// Complete, durable and checked.
    Ready,
    /// Its disk is late, silent or away. Comes back by itself.
    Unknown,
    /// Parts of its content do not match their checksums; `why` says which.
    Damaged,
    /// Not usable; `why` says why. Nothing is deleted.
    Failed,
}

/// State of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum AttachmentState {
    /// No device.
    Detached,
    /// The device is being made.
    Attaching,
    /// The device answers.
    Ready,
    /// The device is there and its requests wait; it answers soon.
    Recovering,
    /// Needs an operator; `why` says why.
    Held,
}

/// The device of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attachment {
    /// State.
    pub state: AttachmentState,
    /// Why, where the state needs a reason.
    pub why: Option<String>,
    /// Attach it whenever its disk is Online: after a reboot, too.
    pub wanted: bool,
    /// ublk device number; kept for the image's lifetime once it has one.
    pub dev_id: Option<u32>,
    /// `/dev/ublkbN`, while there is a device.
    pub device: Option<String>,
}

/// `POST /v1/images/{name}/attach` and `.../detach`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// Name of the image.
    pub image: String,
    /// False when it was attached, or detached, already.
    pub changed: bool,
    /// The device as it is now.
    pub attachment: Attachment,
}

/// An image, as in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: Uuid,
    /// State: the best one of its replicas.
    pub state: ReplicaState,
    /// How far the import is, while `state` is `InProgress` and the length is known.
    pub percent: Option<u8>,
    /// Why, where the state needs a reason.
    pub why: Option<String>,
    /// It has fewer Ready replicas than wanted.
    pub degraded: bool,
    /// What stands in the way of more, where something does; null while they are being made.
    pub degraded_why: Option<String>,
    /// Exact length; null while it is imported from a stream of unknown length.
    pub size_bytes: Option<u64>,
    /// Bytes that it takes on one disk: holes and zeros take none.
    pub stored_bytes: Option<u64>,
    /// Replicas wanted.
    pub copies_wanted: u32,
    /// Replicas that are Ready.
    pub copies_ready: u32,
    /// SHA-256 of the content, once it is known.
    pub sha256: Option<String>,
    /// SHA-512 of the content, once it is known.
    pub sha512: Option<String>,
    /// Where it came from: a path, or `-` for a stream.
    pub source: String,
    /// When it was made, by the node's clock.
    pub created_unix_ms: u64,
    /// Its device.
    pub attachment: Attachment,
    /// The job that is at work on it.
    pub job: Option<u64>,
}

/// One copy of an image on one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replica {
    /// Identity; nil for one that was not begun, or that was never seen.
    pub uuid: Uuid,
    /// Disk it is on, or is to be on.
    pub disk_uuid: Uuid,
    /// Where that disk was seen last.
    pub disk_path: Option<String>,
    /// State.
    pub state: ReplicaState,
    /// How far, while `state` is `InProgress`.
    pub percent: Option<u8>,
    /// Why, where the state needs a reason.
    pub why: Option<String>,
    /// While it is `Damaged`: what of the image is bad there. Reads of exactly that go to another replica, or fail. At most 100.
    pub damaged: Vec<DamagedRange>,
    /// When all of it was read and compared last; null if never since its import, or not known any more.
    pub verified_unix_ms: Option<u64>,
}

/// A part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DamagedRange {
    /// Byte offset in the image.
    pub offset: u64,
    /// Length.
    pub len_bytes: u64,
}

/// An image, with everything that is known about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageDetail {
    /// What the list says.
    #[serde(flatten)]
    pub image: Image,
    /// Its replicas: one for each disk that has, is to get, or had one.
    pub replicas: Vec<Replica>,
    /// The last changes of state of its replicas and its device, oldest first.
    pub history: Vec<Transition>,
}

/// `GET /v1/images`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    /// Ordered by name.
    pub images: Vec<Image>,
}

/// Query of `GET /v1/images/{name}/wait` and `GET /v1/volumes/{name}/wait`: answers when the object is Ready and, where it is to be
/// attached, its device is. One that is not there yet is waited for. Kind `timed_out` when the time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct WaitQuery {
    /// How long at most; 0 asks without waiting.
    pub timeout_ms: u64,
}
