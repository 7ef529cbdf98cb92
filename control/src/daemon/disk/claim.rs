//! A disk that this process alone has open to write, and the medium over it.

use std::path::Path;
use std::time::Instant;

use bedplate_datapath::engine::{DiskFile, UringMedium};

use crate::api::ApiError;
use crate::daemon::errors;

/// Claims the disk at `path`; waits for somebody else's claim until `deadline`.
///
/// # Errors
/// Why it is not ours.
pub fn claim(path: &Path, deadline: Instant) -> Result<DiskFile, ApiError> {
    DiskFile::claim_waiting(path, deadline, |busy| {
        tracing::info!(disk = %path.display(), "waiting for the claim: {busy}");
    })
    .map_err(|error| errors::of_claim(&error))
}

/// What reads and writes a claimed disk.
///
/// # Errors
/// When io_uring is not to be had.
pub fn medium_of(disk: DiskFile, name: &str) -> Result<UringMedium, ApiError> {
    UringMedium::new(disk).map_err(|error| {
        errors::of_io("cannot set up io_uring", &error)
            .disk(name)
            .remedy("allow io_uring: `sysctl kernel.io_uring_disabled=0`; `bedplate doctor` checks more")
    })
}
