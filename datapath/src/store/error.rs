//! Errors of the store: a kind to match on, the context for people, and what to do about it.

use std::fmt;

use uuid::Uuid;

use crate::format::DecodeError;
use crate::format::geometry::GeometryError;
use crate::medium::IoFault;
use crate::units::ByteOffset;

/// Why a disk was not formatted. What was written up to then does not open as a Bedplate disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// No layout exists for a disk of this size. Nothing was written.
    #[error(transparent)]
    Size(#[from] GeometryError),
    /// The disk failed.
    #[error("format: {doing}: {fault}")]
    Io {
        /// The step.
        doing: &'static str,
        /// What the disk did not do.
        fault: IoFault,
    },
}

impl FormatError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Size(_) => "use a disk of 64 MiB to 256 TiB",
            Self::Io { .. } => {
                "check the disk and its cabling (kernel log, SMART), then format it again"
            }
        }
    }
}

/// What kind of [`OpenError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// No superblock at all.
    NotBedplate,
    /// A format version that this program does not know.
    UnknownVersion,
    /// A feature that this program does not have.
    UnknownFeature,
    /// Fewer than two equal superblock copies.
    SuperblockLost,
    /// The device is shorter than what was formatted.
    DiskTooShort,
    /// Metadata without which the disk cannot be opened is bad in both copies.
    MetadataDamaged,
    /// The files of live state cannot be made or mapped.
    LiveState,
    /// The disk failed.
    Io,
}

/// Why a disk was not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// No superblock at all. Nothing was written.
    NotBedplate {
        /// Where the first copy was expected.
        at: ByteOffset,
    },
    /// A version that this program does not know. Nothing was written.
    UnknownVersion {
        /// What the superblock says.
        why: DecodeError,
    },
    /// A feature that this program does not have. Nothing was written.
    UnknownFeature {
        /// What the superblock says.
        why: DecodeError,
    },
    /// Fewer than two equal superblock copies. Nothing was written.
    SuperblockLost {
        /// Copies that can be read, 0 to 3.
        good: Vec<u32>,
        /// The others: copy, disk byte, what is wrong.
        bad: Vec<(u32, ByteOffset, String)>,
    },
    /// The device is shorter than what was formatted. Nothing was written.
    DiskTooShort {
        /// The device's length.
        len_bytes: u64,
        /// The length at format.
        disk_bytes: u64,
    },
    /// Both copies of something that the whole disk depends on are bad. Nothing was written.
    MetadataDamaged {
        /// Which structure, and what is wrong with its copies.
        what: String,
        /// Its disk byte.
        at: ByteOffset,
    },
    /// The live state cannot be kept: see [`crate::live`].
    LiveState {
        /// Why not.
        why: String,
    },
    /// The disk failed.
    Io {
        /// The step.
        doing: &'static str,
        /// What the disk did not do.
        fault: IoFault,
    },
}

impl OpenError {
    /// The kind, to match on.
    pub fn kind(&self) -> OpenErrorKind {
        match self {
            Self::NotBedplate { .. } => OpenErrorKind::NotBedplate,
            Self::UnknownVersion { .. } => OpenErrorKind::UnknownVersion,
            Self::UnknownFeature { .. } => OpenErrorKind::UnknownFeature,
            Self::SuperblockLost { .. } => OpenErrorKind::SuperblockLost,
            Self::DiskTooShort { .. } => OpenErrorKind::DiskTooShort,
            Self::MetadataDamaged { .. } => OpenErrorKind::MetadataDamaged,
            Self::LiveState { .. } => OpenErrorKind::LiveState,
            Self::Io { .. } => OpenErrorKind::Io,
        }
    }

    /// The disk byte that it is about, where there is one.
    pub fn disk_offset(&self) -> Option<ByteOffset> {
        match self {
            Self::NotBedplate { at } | Self::MetadataDamaged { at, .. } => Some(*at),
            Self::UnknownVersion { why } | Self::UnknownFeature { why } => Some(why.at),
            Self::SuperblockLost { bad, .. } => bad.first().map(|(_, at, _)| *at),
            Self::DiskTooShort { .. } | Self::LiveState { .. } => None,
            Self::Io { fault, .. } => Some(fault.at),
        }
    }

    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { fault, .. } => Some(fault.errno),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotBedplate { .. } => "format it first: bedplate disk format PATH",
            Self::UnknownVersion { .. } | Self::UnknownFeature { .. } => {
                "use the newer version of Bedplate that wrote this disk"
            }
            Self::SuperblockLost { .. } => {
                "if `bedplate disk re-uuid` was cut short on it (copies of two disks), do that again, which finishes it; otherwise \
                 copy the disk as it is before anything else; at least two equal superblock copies are needed, so restore \
                 one from a backup, or format the disk and import its images again"
            }
            Self::DiskTooShort { .. } => "give the device at least its former length back",
            Self::MetadataDamaged { .. } => {
                "copy the disk as it is, check it (kernel log, SMART), then format it and import its images again"
            }
            Self::LiveState { .. } => {
                "give the tmpfs at the daemon's `live` folder more room (run-bedplate-live.mount), then try again"
            }
            Self::Io { .. } => {
                "check the disk and its cabling (kernel log, SMART), then open it again"
            }
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBedplate { at } => write!(
                f,
                "not a Bedplate disk: no superblock at disk byte {at} or after"
            ),
            Self::UnknownVersion { why } | Self::UnknownFeature { why } => {
                write!(f, "refused, untouched: {why}")
            }
            Self::SuperblockLost { good, bad } => {
                write!(
                    f,
                    "refused, untouched: fewer than two equal superblock copies"
                )?;
                if good.is_empty() {
                    write!(f, "; none is readable")?;
                } else {
                    write!(f, "; readable: {good:?}")?;
                }
                for (copy, at, why) in bad {
                    write!(f, "; copy {copy} at disk byte {at}: {why}")?;
                }
                Ok(())
            }
            Self::DiskTooShort {
                len_bytes,
                disk_bytes,
            } => {
                write!(
                    f,
                    "refused, untouched: the device has {len_bytes} bytes, {disk_bytes} were formatted"
                )
            }
            Self::MetadataDamaged { what, at } => {
                write!(f, "refused, untouched: disk byte {at}: {what}")
            }
            Self::LiveState { why } => write!(f, "open: live state: {why}"),
            Self::Io { doing, fault } => write!(f, "open: {doing}: {fault}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// What kind of [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// No such object on this disk.
    NotFound,
    /// The name is in use.
    NameTaken,
    /// No free cluster.
    NoSpace,
    /// The object is in use.
    Busy,
    /// The disk takes no more changes until it is opened again.
    ReadOnlyLatched,
    /// Objects that could not be read must be deleted first.
    AllocationRefused,
    /// Metadata is bad, or what was handed in contradicts itself.
    Corrupt,
    /// The disk failed.
    Io,
    /// Every slot of the object table is in use.
    TableFull,
    /// Not a legal name.
    BadName,
    /// Larger than the format allows.
    TooLarge,
    /// The object keeps another device number.
    DevIdFixed,
    /// Not a size that a volume can have, or get.
    BadSize,
    /// Acknowledged writes may be missing, and nobody has accepted that.
    LossNotAccepted,
    /// A description that is not newer than what the disk has.
    Stale,
    /// A description that contradicts itself, or does not name this disk.
    BadDescription,
    /// The image was deleted: there is a grave.
    Deleted,
    /// The copy is being made.
    NotComplete,
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{context}")]
pub struct StoreError {
    kind: StoreErrorKind,
    context: String,
    remedy: &'static str,
    object: Option<Uuid>,
    fault: Option<Box<IoFault>>,
    disk_offset: Option<ByteOffset>,
}

impl StoreError {
    pub(crate) fn new(
        kind: StoreErrorKind,
        context: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self {
            kind,
            context: context.into(),
            remedy,
            object: None,
            fault: None,
            disk_offset: None,
        }
    }

    pub(crate) fn io(doing: &str, fault: IoFault) -> Self {
        let remedy = "check the disk and its cabling (kernel log, SMART), then open it again";
        Self {
            fault: Some(Box::new(fault)),
            disk_offset: Some(fault.at),
            ..Self::new(StoreErrorKind::Io, format!("{doing}: {fault}"), remedy)
        }
    }

    pub(crate) fn of_object(self, object: Uuid) -> Self {
        Self {
            object: Some(object),
            ..self
        }
    }

    pub(crate) fn at(self, disk_offset: ByteOffset) -> Self {
        Self {
            disk_offset: Some(disk_offset),
            ..self
        }
    }

    /// What the disk did not do, where that is the reason.
    pub fn fault(&self) -> Option<&IoFault> {
        self.fault.as_deref()
    }

    /// The kind, to match on.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        self.remedy
    }

    /// The object that it is about, where there is one.
    pub fn object(&self) -> Option<Uuid> {
        self.object
    }

    /// The disk byte that it is about, where there is one.
    pub fn disk_offset(&self) -> Option<ByteOffset> {
        self.disk_offset
    }

    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        self.fault.as_ref().map(|fault| fault.errno)
    }
}
