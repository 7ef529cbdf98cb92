//! Where volumes keep what must outlive the daemon: live files on a tmpfs. Without one there are no writable devices, and everything else.

use std::path::Path;

use bedplate_datapath::live::{HeapLive, LiveFiles};

use crate::api::ApiError;
use crate::error_kind::ErrorKind;

/// The live files below `dir`; or files in memory that must not be relied on, and why there is nothing better.
///
/// # Errors
/// When there is a tmpfs that cannot be used now: what it holds may be all there is of writes that were acknowledged.
#[allow(clippy::unnecessary_wraps)]
pub fn open(dir: &Path) -> Result<(Box<dyn LiveFiles>, Option<ApiError>), ApiError> {
    Ok((
        Box::new(HeapLive::default()),
        Some(no_tmpfs(dir, "not built yet")),
    ))
}

fn no_tmpfs(dir: &Path, why: &str) -> ApiError {
    ApiError::new(
        ErrorKind::NotReady,
        format!(
            "volumes cannot be attached: their live state needs a tmpfs at {}: {why}",
            dir.display()
        ),
    )
    .remedy(format!(
        "`systemctl start run-bedplate-live.mount`, or `mount -t tmpfs -o mode=0700 tmpfs {}`; then restart the daemon",
        dir.display()
    ))
}
