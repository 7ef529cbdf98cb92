//! Why bytes were not accepted as a structure of this disk.

use uuid::Uuid;

use crate::units::{ByteOffset, Epoch, SlotIndex};

/// Bytes that were not accepted: which structure, where on the disk, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{structure} at disk byte {at}: {fault}")]
pub struct DecodeError {
    /// The structure that was expected.
    pub structure: &'static str,
    /// The disk byte that it was read from.
    pub at: ByteOffset,
    /// What is wrong.
    pub fault: Fault,
}

impl DecodeError {
    /// The kind of fault, to match on.
    pub fn kind(&self) -> DecodeErrorKind {
        match self.fault {
            Fault::Blank => DecodeErrorKind::Blank,
            Fault::ForeignMagic { .. } | Fault::ForeignDisk { .. } | Fault::ForeignOwner { .. } => {
                DecodeErrorKind::NotOurs
            }
            Fault::BadChecksum { .. } | Fault::BadLength { .. } | Fault::Unreadable { .. } => {
                DecodeErrorKind::Bad
            }
            Fault::Misdirected { .. } => DecodeErrorKind::Misdirected,
            Fault::UnknownVersion { .. } => DecodeErrorKind::UnknownVersion,
            Fault::UnknownFeature { .. } => DecodeErrorKind::UnknownFeature,
            Fault::Illegal { .. } => DecodeErrorKind::Illegal,
        }
    }

    /// Whether the bytes are all zero: nothing was ever written there.
    pub fn is_blank(&self) -> bool {
        self.kind() == DecodeErrorKind::Blank
    }
}

/// The kinds of [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// All zero: never written.
    Blank,
    /// Something else: another structure, another disk's, another object's.
    NotOurs,
    /// Torn or rotten.
    Bad,
    /// Intact, and written for another place on this disk.
    Misdirected,
    /// Intact, and of a version that this code does not know.
    UnknownVersion,
    /// Intact, and needs a feature that this code does not have.
    UnknownFeature,
    /// Intact, and a field holds what it never may.
    Illegal,
}

/// What is wrong with the bytes. The first that applies, in the order of this enum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The disk does not give the bytes.
    #[error("unreadable: {}", std::io::Error::from_raw_os_error(*.errno))]
    Unreadable {
        /// The kernel's error number.
        errno: i32,
    },
    /// All zero.
    #[error("never written (all zero)")]
    Blank,
    /// Another magic.
    #[error("another magic: expected {}, found {}", .expected.escape_ascii(), .found.escape_ascii())]
    ForeignMagic {
        /// This structure's magic.
        expected: [u8; 8],
        /// What was there.
        found: [u8; 8],
    },
    /// `batch_bytes` of a journal batch cannot be, so that there is no range to check the CRC over.
    #[error("torn or rotten: impossible length of {found} bytes in field batch_bytes")]
    BadLength {
        /// What was there.
        found: u32,
    },
    /// The CRC does not match.
    #[error("torn or rotten: CRC32C expected {expected:#010x}, found {actual:#010x}")]
    BadChecksum {
        /// The CRC that the structure carries.
        expected: u32,
        /// The CRC of the bytes that are there.
        actual: u32,
    },
    /// A version that this code does not know.
    #[error("unknown version: {field} is {found}, this program knows {supported}")]
    UnknownVersion {
        /// The field.
        field: &'static str,
        /// What it holds.
        found: u32,
        /// What this code knows.
        supported: u32,
    },
    /// Needs features that this code does not have.
    #[error("unknown incompatible feature bits {unknown:#x}")]
    UnknownFeature {
        /// The bits of `incompat` that this code does not know.
        unknown: u64,
    },
    /// Of another disk, or of a former format of this one.
    #[error("of another disk: expected {expected}, found {found}")]
    ForeignDisk {
        /// This disk's UUID.
        expected: Uuid,
        /// The page's.
        found: Uuid,
    },
    /// Written for another place.
    #[error("misdirected: written for disk byte {found}")]
    Misdirected {
        /// The place that it was written for.
        found: ByteOffset,
    },
    /// Of another object, or of a former owner of this slot.
    #[error(
        "of another owner: expected slot {expected_slot} epoch {expected_epoch}, found slot {found_slot} epoch {found_epoch}"
    )]
    ForeignOwner {
        /// The slot looked for.
        expected_slot: SlotIndex,
        /// Its epoch.
        expected_epoch: Epoch,
        /// The page's slot.
        found_slot: SlotIndex,
        /// The page's epoch.
        found_epoch: Epoch,
    },
    /// A field holds what it never may.
    #[error("illegal {field} at byte {offset} of it: expected {expected}, found {found:#x}")]
    Illegal {
        /// The field.
        field: &'static str,
        /// Where it lies, in bytes from the start of the structure.
        offset: usize,
        /// What it may hold.
        expected: &'static str,
        /// What it holds (its first eight bytes, if it is longer).
        found: u64,
    },
}
