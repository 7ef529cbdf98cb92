//! The API: what goes over the socket, as types. Daemon and command line share them, so they cannot disagree.
//!
//! HTTP/1 with JSON on a Unix socket, every path under `/v1`. [`openapi`] lists the endpoints and makes the document
//! of them; `docs/openapi.json` is its golden copy.
//!
//! Conventions: sizes and offsets are bytes (`*_bytes`), times are `*_unix_ms`; a field whose value is not known is
//! `null`, never left out; states are spelled as people see them (`Ready`, `InProgress`), kinds of errors in snake case.

pub mod disk;
pub mod doctor;
pub mod error;
pub mod image;
pub mod job;
pub mod name;
pub mod openapi;
pub mod status;
pub mod transition;
pub mod volume;

pub use disk::{
    AddDisk, Disk, DiskDetail, DiskList, DiskPath, DiskState, Forgotten, FormatDisk, RemoveDisk,
};
pub use doctor::{Check, DoctorReport, Verdict};
pub use error::ApiError;
pub use image::{
    Attachment, AttachmentState, Changed, DamagedRange, DeleteImage, Image, ImageDetail, ImageList,
    ImportFormat, ImportImage, ImportSource, Replica, ReplicaState, SetCopies, WaitQuery,
};
pub use job::{BadBlock, Job, JobKind, JobList, JobPhase, JobState, Progress, VerifyReport};
pub use name::ObjectName;
pub use status::{DataMode, Status};
pub use transition::Transition;
pub use volume::{
    AttachVolume, CreateVolume, ParentImage, ResizeVolume, Volume, VolumeChanged, VolumeDetail,
    VolumeList, VolumeState,
};

/// Where the daemon listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/bedplate/bedplate.sock";
/// Content type of the event stream of a job: one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";
