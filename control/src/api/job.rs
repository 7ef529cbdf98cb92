//! Jobs: long work in the daemon, which survives the client that asked for it.

use super::ApiError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Makes an image from a source.
    Import,
    /// Reads an image's content again and compares it with its checksums.
    Verify,
    /// The same, to take back that replicas are not trusted.
    Recheck,
    /// Makes a replica of an image from another one.
    Rebuild,
    /// Moves the replicas of a disk to other disks.
    Drain,
}

/// State of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum JobState {
    /// Waits for its turn, or for the stream of its content.
    Pending,
    /// At work.
    Running,
    /// Ended well.
    Done,
    /// Ended badly; `error` says why.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
}

impl JobState {
    /// No more events will come.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// What a running job is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobPhase {
    /// Not begun.
    Waiting,
    /// Reads the source, hashes it and stores it.
    Copying,
    /// Writes maps and checksums, and commits.
    Sealing,
    /// Reads stored content and compares it.
    Verifying,
    /// Nothing is left to do.
    Finished,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// What it is at.
    pub phase: JobPhase,
    /// Bytes of the image that are dealt with, holes included.
    pub done_bytes: u64,
    /// Bytes in all, where that is known.
    pub total_bytes: Option<u64>,
}

/// A job; also one line of its event stream (`GET /v1/jobs/{id}/events`): the first line comes at once, further ones
/// with each change, at most a few a second; the last one has a final state, and the stream ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Number; never used twice in one life of the daemon.
    pub id: u64,
    /// What it does.
    pub kind: JobKind,
    /// The image that it is about; empty for a whole disk.
    pub image: String,
    /// The disk that it is about, where it is about one: its path.
    pub disk: Option<String>,
    /// State.
    pub state: JobState,
    /// How far.
    pub progress: Progress,
    /// When it was asked for.
    pub created_unix_ms: u64,
    /// When it ended.
    pub ended_unix_ms: Option<u64>,
    /// Why it failed.
    pub error: Option<ApiError>,
    /// What a verification found, once it ended. Bad content that could not be repaired also fails the job, with kind `corrupt`.
    pub verify: Option<VerifyReport>,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyReport {
    /// Replicas that were read.
    pub replicas: u32,
    /// Number of blocks that do not match; `bad_blocks` names the first ones.
    pub bad_block_count: u64,
    /// Of these, how many were written again from another replica, and are good now.
    pub repaired_block_count: u64,
    /// Pages of block checksums that were lost on one disk, and were written again from another replica.
    #[serde(default)]
    pub restored_checksum_pages: u64,
    /// At most 100 of them.
    pub bad_blocks: Vec<BadBlock>,
    /// SHA-256 of the content, as recorded.
    pub sha256_expected: String,
    /// SHA-256 of the content, as read; null where blocks could not be read or did not match.
    pub sha256_actual: Option<String>,
}

/// A block whose content does not match its checksum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BadBlock {
    /// Path of the disk.
    pub disk: String,
    /// Byte offset in the image.
    pub object_offset: u64,
    /// Byte offset on the disk.
    pub disk_offset: u64,
    /// CRC32C as recorded.
    pub expected_crc32c: u32,
    /// CRC32C of what was read.
    pub actual_crc32c: u32,
}

/// `GET /v1/jobs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// Running ones and the last ended ones, by number.
    pub jobs: Vec<Job>,
}
