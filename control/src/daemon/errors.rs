//! Errors of the layers below, as the API tells them: same words, a kind of the API, the disk by name.

use bedplate_datapath::discover::Refusal;
use bedplate_datapath::engine::ClaimError;
use bedplate_datapath::format::superblock::ChoiceError;
use bedplate_datapath::store::{
    FormatError, OpenError, OpenErrorKind, ReUuidError, StoreError, StoreErrorKind,
};
use bedplate_datapath::units::ByteOffset;
use bedplate_ublk_target::TargetError;

use crate::api::ApiError;
use crate::error_kind::ErrorKind;

/// An error of the store on `disk`; `object` where it is about one.
pub fn of_store(disk: &str, object: Option<&str>, error: &StoreError) -> ApiError {
    let kind = match error.kind() {
        StoreErrorKind::NotFound | StoreErrorKind::Deleted => ErrorKind::NotFound,
        StoreErrorKind::NameTaken => ErrorKind::Exists,
        StoreErrorKind::NoSpace => ErrorKind::NoSpace,
        StoreErrorKind::Busy => ErrorKind::Busy,
        StoreErrorKind::DevIdFixed => ErrorKind::DeviceTaken,
        StoreErrorKind::ReadOnlyLatched => ErrorKind::ReadOnly,
        StoreErrorKind::AllocationRefused | StoreErrorKind::LossNotAccepted => ErrorKind::Held,
        StoreErrorKind::Corrupt => ErrorKind::Corrupt,
        StoreErrorKind::NotComplete => ErrorKind::NotReady,
        StoreErrorKind::Io => ErrorKind::Io,
        StoreErrorKind::TableFull => ErrorKind::TableFull,
        StoreErrorKind::BadName => ErrorKind::BadName,
        StoreErrorKind::TooLarge | StoreErrorKind::BadSize => ErrorKind::BadSize,
        _ => ErrorKind::Internal,
    };
    let mut told = ApiError::new(kind, format!("{disk}: {error}"))
        .disk(disk)
        .remedy(error.remedy());
    told.object = object
        .map(str::to_owned)
        .or_else(|| error.object().map(|uuid| uuid.to_string()));
    told.offset = error.disk_offset().map(ByteOffset::get);
    told.errno = error.errno();
    if error.kind() == StoreErrorKind::LossNotAccepted
        && let Some(name) = object
    {
        told.remedy = Some(accept_loss_remedy(name));
    }
    told
}

/// The disk was asked something, and did not answer in time.
pub fn silent(disk: &str) -> ApiError {
    ApiError::new(
        ErrorKind::TimedOut,
        format!("the disk {disk} does not answer"),
    )
    .disk(disk)
}

/// What to do about a volume of which acknowledged writes may be missing.
pub fn accept_loss_remedy(volume: &str) -> String {
    format!("`bedplate volume attach {volume} --accept-loss` resumes it with what the disk has")
}

/// Why `disk` was not opened.
pub fn of_open(disk: &str, error: &OpenError) -> ApiError {
    let kind = match error.kind() {
        OpenErrorKind::NotBedplate => ErrorKind::NotBedplate,
        OpenErrorKind::UnknownVersion => ErrorKind::UnknownVersion,
        OpenErrorKind::UnknownFeature => ErrorKind::UnknownFeature,
        OpenErrorKind::SuperblockLost | OpenErrorKind::MetadataDamaged => ErrorKind::Corrupt,
        OpenErrorKind::DiskTooShort => ErrorKind::BadSize,
        OpenErrorKind::Io => ErrorKind::Io,
        _ => ErrorKind::Internal,
    };
    let mut told = ApiError::new(kind, format!("{disk}: {error}"))
        .disk(disk)
        .remedy(error.remedy());
    told.offset = error.disk_offset().map(ByteOffset::get);
    told.errno = error.errno();
    told
}

/// Why a path was not opened as a disk.
pub fn of_claim(error: &ClaimError) -> ApiError {
    let kind = match error {
        ClaimError::NotFound { .. } => ErrorKind::NotFound,
        ClaimError::NotADisk { .. } => ErrorKind::BadRequest,
        ClaimError::PermissionDenied { .. } => ErrorKind::PermissionDenied,
        ClaimError::Busy { .. } => ErrorKind::Busy,
        _ => ErrorKind::Io,
    };
    ApiError::new(kind, error.to_string())
        .disk(error.path().display().to_string())
        .errno(error.errno())
        .remedy(error.remedy())
}

/// Why a look at `disk` found no disk of ours that can be used.
pub fn of_refusal(disk: &str, why: &Refusal) -> ApiError {
    let kind = match why {
        Refusal::Open(ClaimError::NotFound { .. }) => ErrorKind::NotFound,
        Refusal::Open(ClaimError::PermissionDenied { .. }) => ErrorKind::PermissionDenied,
        Refusal::Open(ClaimError::NotADisk { .. }) => ErrorKind::BadRequest,
        Refusal::Size(_) => ErrorKind::BadSize,
        Refusal::Superblock(ChoiceError::NotBedplate(_)) => ErrorKind::NotBedplate,
        Refusal::Superblock(ChoiceError::Unknown(_)) => ErrorKind::UnknownVersion,
        Refusal::Superblock(_) => ErrorKind::Corrupt,
        Refusal::BootBlockOverwritten { .. } => ErrorKind::ForeignSignature,
        Refusal::Silent { .. } => ErrorKind::TimedOut,
        _ => ErrorKind::Io,
    };
    ApiError::new(kind, format!("{disk}: {why}"))
        .disk(disk)
        .remedy(why.remedy())
}

/// Why `disk` was not formatted.
pub fn of_format(disk: &str, error: &FormatError) -> ApiError {
    let kind = match error {
        FormatError::Size(_) => ErrorKind::BadSize,
        _ => ErrorKind::Io,
    };
    let mut told = ApiError::new(kind, format!("{disk}: {error}"))
        .disk(disk)
        .remedy(error.remedy());
    if let FormatError::Io { fault, .. } = error {
        told.offset = Some(fault.at.get());
        told.errno = Some(fault.errno);
    }
    told
}

/// Why `disk` has not got another identity.
pub fn of_re_uuid(disk: &str, error: &ReUuidError) -> ApiError {
    let again = format!(
        "nothing of it is lost: when the disk answers, do it again (`bedplate disk re-uuid {disk}`), which takes it up where it ended"
    );
    match error {
        ReUuidError::Open(error) => of_open(disk, error),
        ReUuidError::Store(error) => of_store(disk, None, error).remedy(again),
        ReUuidError::Held { .. } => ApiError::new(ErrorKind::Held, format!("{disk}: {error}"))
            .disk(disk)
            .remedy(
                "take the original away and `bedplate disk add` the copy, delete these objects by their UUIDs, `bedplate disk remove` \
                 it, and do it again",
            ),
        ReUuidError::Io { fault, .. } => {
            let mut told = ApiError::new(ErrorKind::Io, format!("{disk}: {error}"))
                .disk(disk)
                .remedy(again);
            told.offset = Some(fault.at.get());
            told.errno = Some(fault.errno);
            told
        }
        other => ApiError::new(ErrorKind::Internal, format!("{disk}: {other}"))
            .disk(disk)
            .remedy(again),
    }
}

/// What went wrong with a device of `object`.
pub fn of_target(object: Option<&str>, error: &TargetError) -> ApiError {
    let kind = match error {
        TargetError::NoUblk { .. } | TargetError::KernelTooOld { .. } => {
            ErrorKind::KernelUnsupported
        }
        TargetError::DeviceTaken { .. } => ErrorKind::DeviceTaken,
        TargetError::Busy { .. } | TargetError::Disk { .. } => ErrorKind::Busy,
        TargetError::NotFound { .. } => ErrorKind::NotFound,
        TargetError::TimedOut { .. } => ErrorKind::TimedOut,
        TargetError::Mismatch { .. } => ErrorKind::Held,
        _ => ErrorKind::Io,
    };
    let mut told = ApiError::new(kind, error.to_string()).remedy(error.remedy());
    told.object = object.map(str::to_owned);
    told.errno = error.errno();
    told
}

/// An I/O error of the operating system while `doing` something.
pub fn of_io(doing: &str, error: &std::io::Error) -> ApiError {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Io,
    };
    let mut told = ApiError::new(kind, format!("{doing}: {error}"));
    told.errno = error.raw_os_error();
    told
}

/// A promise inside of the daemon that did not hold; it says which.
pub fn internal(what: &str) -> ApiError {
    ApiError::new(ErrorKind::Internal, what)
        .remedy("this is a defect: report it with the daemon's log")
}
