//! Where volumes keep what must outlive the daemon: live files on a tmpfs. Without one there are no writable devices, and everything else.

use std::io;
use std::path::Path;

use bedplate_datapath::engine::LiveDir;
use bedplate_datapath::live::{HeapLive, LiveError, LiveFiles};

use crate::api::ApiError;
use crate::daemon::errors;
use crate::error_kind::ErrorKind;

/// The live files below `dir`; or files in memory that must not be relied on, and why there is nothing better.
///
/// # Errors
/// When there is a folder that cannot be looked at now: what it holds may be all there is of writes that were acknowledged, so the disk
/// must not be opened without it.
pub fn open(dir: &Path) -> Result<(Box<dyn LiveFiles>, Option<ApiError>), ApiError> {
    match LiveDir::open(dir) {
        Ok(live) => Ok((Box::new(live), None)),
        Err(error) if is_missing(&error) => {
            Ok((Box::<HeapLive>::default(), Some(no_tmpfs(dir, &error))))
        }
        Err(error) => Err(errors::of_io(
            &format!("{}: {} failed", error.file, error.doing),
            &error.source,
        )
        .remedy("let the daemon use that folder: `systemctl start run-bedplate-live.mount`")),
    }
}

/// There is no folder, or it is on something that is no tmpfs: an error that the kernel did not make.
fn is_missing(error: &LiveError) -> bool {
    error.source.kind() == io::ErrorKind::NotFound || error.source.raw_os_error().is_none()
}

fn no_tmpfs(dir: &Path, why: &LiveError) -> ApiError {
    let dir = dir.display();
    ApiError::new(
        ErrorKind::NotReady,
        format!(
            "volumes cannot be attached: their live state needs a tmpfs at {dir}, and {}",
            match why.source.kind() {
                io::ErrorKind::NotFound => "nothing is there".to_owned(),
                _ => why.source.to_string(),
            }
        ),
    )
    .remedy(format!(
        "`systemctl start run-bedplate-live.mount`, or `mount -t tmpfs -o mode=0700 tmpfs {dir}`; then restart the daemon"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_tmpfs_there_is_a_reason_and_a_remedy() {
        // A file system that is no tmpfs anywhere.
        for (dir, why) in [
            ("/proc", "it is no tmpfs"),
            ("/proc/none", "nothing is there"),
        ] {
            let (_, reason) = open(Path::new(dir)).unwrap();
            let reason = reason.unwrap();
            assert!(reason.message.contains(why), "{reason}");
            assert!(reason.remedy.unwrap().contains("run-bedplate-live.mount"));
        }
        // What cannot be looked at may be anything.
        assert!(open(Path::new("/proc/version/live")).is_err());
    }
}
