//! Whether a disk's block device is gone: it was unplugged, or the kernel gave it up. What was opened of it never answers again.

use std::time::{Duration, Instant};

use bedplate_datapath::engine::DiskIdentity;

/// How long after its first error a device may take to go. The kernel ends its requests before it removes it.
const GOES_WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Whether the kernel has no such block device any more. A file that is open is never gone.
pub fn is_gone(identity: DiskIdentity) -> bool {
    #[cfg(test)]
    if tests::is_pretended(identity) {
        return true;
    }
    match identity {
        DiskIdentity::Block(number) => {
            let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
            let all = std::path::Path::new("/sys/dev/block");
            all.exists() && !all.join(format!("{major}:{minor}")).exists()
        }
        DiskIdentity::File { .. } => false,
    }
}

/// Of a disk that just met an error: whether that is because it goes. Takes its time to say no; to be asked on a thread that may wait.
pub fn goes(identity: DiskIdentity) -> bool {
    let deadline = Instant::now() + GOES_WITHIN;
    loop {
        if is_gone(identity) {
            return true;
        }
        if matches!(identity, DiskIdentity::File { .. }) || Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

#[cfg(test)]
pub use tests::pretend;

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    static PRETENDED: Mutex<Vec<DiskIdentity>> = Mutex::new(Vec::new());

    /// This file is a device that is gone, from now on.
    pub fn pretend(identity: DiskIdentity) {
        let mut all = PRETENDED.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(identity);
    }

    pub(super) fn is_pretended(identity: DiskIdentity) -> bool {
        let all = PRETENDED.lock().unwrap_or_else(PoisonError::into_inner);
        all.contains(&identity)
    }

    #[test]
    fn a_file_never_goes_and_a_number_that_nobody_has_is_gone() {
        let file = DiskIdentity::File {
            file_system: 1,
            inode: 1,
        };
        assert!(!is_gone(file) && !goes(file));
        if std::path::Path::new("/sys/dev/block").exists() {
            let number = nix::sys::stat::makedev(4000, 77);
            assert!(goes(DiskIdentity::Block(number)));
        }
    }
}
