//! The kinds of error that Bedplate knows: one list for daemon, API and command line.
//!
//! A kind is what a program matches on. It never changes its spelling or its exit code; new kinds may be added.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, in one stable word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request makes no sense: a missing or malformed field, an option that does not exist.
    BadRequest,
    /// The name is not `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
    BadName,
    /// The configuration file of the daemon is wrong.
    BadConfig,
    /// No such image, volume, disk or job.
    NotFound,
    /// The name is taken.
    Exists,
    /// Somebody uses it: a device that is open, an image that is attached, a disk that another process holds.
    Busy,
    /// The device number that belongs to the object is taken by somebody else's device.
    DeviceTaken,
    /// The image is not Ready, so it cannot be served or checked now.
    NotReady,
    /// The object is held until an operator decides.
    Held,
    /// The file to import is not there, or not visible to the daemon.
    SourceNotFound,
    /// The file to import cannot be read.
    SourceUnreadable,
    /// The source is a directory, a socket, or anything else that has no content to import.
    SourceNotAFile,
    /// The source has no bytes.
    SourceEmpty,
    /// The source is no raw image: qcow2, VMDK, VHDX, compressed, ...
    SourceFormat,
    /// The source changed its size while it was read.
    SourceChanged,
    /// The stream of bytes ended before it was complete.
    SourceLost,
    /// The content is not what the given checksum says.
    ChecksumMismatch,
    /// Data or metadata on a disk does not match its checksum.
    Corrupt,
    /// Not enough free space on any disk, or a disk is nearly full.
    NoSpace,
    /// The disk's object table has no free slot.
    TableFull,
    /// Larger than a disk, an object or this version can hold; smaller than the least; or, of a volume, not a multiple of 512.
    BadSize,
    /// The disk carries something else: a file system, a partition table, LVM, RAID.
    ForeignSignature,
    /// The disk carries no Bedplate superblock.
    NotBedplate,
    /// The disk's format version is not known to this version.
    UnknownVersion,
    /// The disk uses a feature that is not known to this version.
    UnknownFeature,
    /// Two disks with the same identity are present: both are refused.
    DuplicateDisk,
    /// The disk belongs to another node.
    ForeignNode,
    /// The disk is not Online.
    DiskOffline,
    /// The disk was latched read-only after a failed metadata write.
    ReadOnly,
    /// A read, write or flush of a disk failed.
    Io,
    /// The kernel lacks what is needed.
    KernelUnsupported,
    /// The operating system refused access.
    PermissionDenied,
    /// What was waited for did not happen in time.
    TimedOut,
    /// The job was cancelled.
    Cancelled,
    /// The daemon is going down and takes no new work.
    ShuttingDown,
    /// The daemon cannot be reached at its socket.
    DaemonUnreachable,
    /// The user interrupted the command; a job that it started goes on.
    Interrupted,
    /// A defect of Bedplate, or a kind that this version does not know.
    #[serde(other)]
    Internal,
}

impl ErrorKind {
    /// Every kind, for documentation and tests.
    pub const ALL: &'static [Self] = &[
        Self::BadRequest,
        Self::BadName,
        Self::BadConfig,
        Self::NotFound,
        Self::Exists,
        Self::Busy,
        Self::DeviceTaken,
        Self::NotReady,
        Self::Held,
        Self::SourceNotFound,
        Self::SourceUnreadable,
        Self::SourceNotAFile,
        Self::SourceEmpty,
        Self::SourceFormat,
        Self::SourceChanged,
        Self::SourceLost,
        Self::ChecksumMismatch,
        Self::Corrupt,
        Self::NoSpace,
        Self::TableFull,
        Self::BadSize,
        Self::ForeignSignature,
        Self::NotBedplate,
        Self::UnknownVersion,
        Self::UnknownFeature,
        Self::DuplicateDisk,
        Self::ForeignNode,
        Self::DiskOffline,
        Self::ReadOnly,
        Self::Io,
        Self::KernelUnsupported,
        Self::PermissionDenied,
        Self::TimedOut,
        Self::Cancelled,
        Self::ShuttingDown,
        Self::DaemonUnreachable,
        Self::Interrupted,
        Self::Internal,
    ];

    /// Exit code of the command line: 1 failure, 2 usage, 3 not found, 4 exists, 5 daemon unreachable,
    /// 6 corruption, 7 the kernel lacks what is needed, 8 no space, 9 busy, 130 interrupted.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::BadRequest | Self::BadName | Self::BadConfig => 2,
            Self::NotFound | Self::SourceNotFound => 3,
            Self::Exists => 4,
            Self::DaemonUnreachable | Self::ShuttingDown => 5,
            Self::ChecksumMismatch | Self::Corrupt => 6,
            Self::KernelUnsupported => 7,
            Self::NoSpace | Self::TableFull => 8,
            Self::Busy | Self::DeviceTaken => 9,
            Self::Interrupted => 130,
            Self::NotReady
            | Self::Held
            | Self::SourceUnreadable
            | Self::SourceNotAFile
            | Self::SourceEmpty
            | Self::SourceFormat
            | Self::SourceChanged
            | Self::SourceLost
            | Self::BadSize
            | Self::ForeignSignature
            | Self::NotBedplate
            | Self::UnknownVersion
            | Self::UnknownFeature
            | Self::DuplicateDisk
            | Self::ForeignNode
            | Self::DiskOffline
            | Self::ReadOnly
            | Self::Io
            | Self::PermissionDenied
            | Self::TimedOut
            | Self::Cancelled
            | Self::Internal => 1,
        }
    }

    /// HTTP status of the API.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::BadRequest | Self::BadName | Self::BadConfig => 400,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::Exists
            | Self::Busy
            | Self::DeviceTaken
            | Self::NotReady
            | Self::Held
            | Self::ForeignSignature
            | Self::DuplicateDisk
            | Self::ForeignNode
            | Self::Cancelled
            | Self::Interrupted => 409,
            Self::SourceNotFound
            | Self::SourceUnreadable
            | Self::SourceNotAFile
            | Self::SourceEmpty
            | Self::SourceFormat
            | Self::SourceChanged
            | Self::SourceLost
            | Self::ChecksumMismatch
            | Self::BadSize
            | Self::NotBedplate
            | Self::UnknownVersion
            | Self::UnknownFeature => 422,
            Self::Corrupt | Self::Io | Self::Internal => 500,
            Self::KernelUnsupported => 501,
            Self::DiskOffline | Self::ReadOnly | Self::ShuttingDown | Self::DaemonUnreachable => {
                503
            }
            Self::TimedOut => 504,
            Self::NoSpace | Self::TableFull => 507,
        }
    }

    /// The word that the API uses, for instance `not_found`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::BadName => "bad_name",
            Self::BadConfig => "bad_config",
            Self::NotFound => "not_found",
            Self::Exists => "exists",
            Self::Busy => "busy",
            Self::DeviceTaken => "device_taken",
            Self::NotReady => "not_ready",
            Self::Held => "held",
            Self::SourceNotFound => "source_not_found",
            Self::SourceUnreadable => "source_unreadable",
            Self::SourceNotAFile => "source_not_a_file",
            Self::SourceEmpty => "source_empty",
            Self::SourceFormat => "source_format",
            Self::SourceChanged => "source_changed",
            Self::SourceLost => "source_lost",
            Self::ChecksumMismatch => "checksum_mismatch",
            Self::Corrupt => "corrupt",
            Self::NoSpace => "no_space",
            Self::TableFull => "table_full",
            Self::BadSize => "bad_size",
            Self::ForeignSignature => "foreign_signature",
            Self::NotBedplate => "not_bedplate",
            Self::UnknownVersion => "unknown_version",
            Self::UnknownFeature => "unknown_feature",
            Self::DuplicateDisk => "duplicate_disk",
            Self::ForeignNode => "foreign_node",
            Self::DiskOffline => "disk_offline",
            Self::ReadOnly => "read_only",
            Self::Io => "io",
            Self::KernelUnsupported => "kernel_unsupported",
            Self::PermissionDenied => "permission_denied",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::ShuttingDown => "shutting_down",
            Self::DaemonUnreachable => "daemon_unreachable",
            Self::Interrupted => "interrupted",
            Self::Internal => "internal",
        }
    }
}

impl std::fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_word_is_the_displayed_word_and_comes_back() {
        for &kind in ErrorKind::ALL {
            let json = serde_json::to_string(&kind).expect("kind to JSON");
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(
                serde_json::from_str::<ErrorKind>(&json).expect("kind from JSON"),
                kind
            );
        }
    }

    #[test]
    fn a_kind_of_a_newer_daemon_reads_as_internal() {
        let kind: ErrorKind =
            serde_json::from_str("\"flux_capacitor_empty\"").expect("unknown kind");
        assert_eq!(kind, ErrorKind::Internal);
    }

    #[test]
    fn exit_codes_and_statuses_stay_in_the_documented_set() {
        for &kind in ErrorKind::ALL {
            assert!(
                matches!(kind.exit_code(), 1..=9 | 130),
                "{kind}: {}",
                kind.exit_code()
            );
            assert!(
                (400..600).contains(&kind.http_status()),
                "{kind}: {}",
                kind.http_status()
            );
        }
    }

    #[test]
    fn the_exit_codes_that_scripts_rely_on() {
        let table = [
            (ErrorKind::Io, 1),
            (ErrorKind::BadName, 2),
            (ErrorKind::NotFound, 3),
            (ErrorKind::Exists, 4),
            (ErrorKind::DaemonUnreachable, 5),
            (ErrorKind::Corrupt, 6),
            (ErrorKind::ChecksumMismatch, 6),
            (ErrorKind::KernelUnsupported, 7),
            (ErrorKind::NoSpace, 8),
            (ErrorKind::Busy, 9),
            (ErrorKind::Interrupted, 130),
        ];
        for (kind, code) in table {
            assert_eq!(kind.exit_code(), code, "{kind}");
        }
    }
}
