//! Whether the block device that a disk was opened as is gone: it was unplugged, or the kernel gave it up.
//!
//! A device that is made of others (LVM, dm-crypt, MD) stays when they go, and answers with errors. It is gone when every one of them is: one
//! that has a leg left may still answer. Such a one may answer again, mapped anew, and has lost what was in the caches below it. So what was
//! seen gone once is gone for as long as it is open, for all who ask: they must never come to different answers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bedplate_datapath::engine::DiskIdentity;

/// How long after its first error a device may take to go. The kernel ends its requests before it removes it.
const GOES_WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How many devices deep it is looked: more than anybody stacks, and an end whatever the links say.
const STACKED_MAX: usize = 16;

/// One opening of a disk: as what, and whether that is there.
#[derive(Debug)]
pub struct Presence {
    identity: DiskIdentity,
    seen_gone: AtomicBool,
}

impl Presence {
    /// Of what was just opened.
    pub const fn of(identity: DiskIdentity) -> Self {
        Self {
            identity,
            seen_gone: AtomicBool::new(false),
        }
    }

    /// The device or file that is open.
    pub const fn identity(&self) -> DiskIdentity {
        self.identity
    }

    /// Whether somebody has seen it gone. Asks nobody: for where each microsecond counts.
    pub fn was_seen_gone(&self) -> bool {
        // It says nothing of other memory.
        self.seen_gone.load(Ordering::Relaxed)
    }

    /// Whether the kernel has no such block device any more, or had none at some time since it was opened. A file that is open is never gone.
    pub fn is_gone(&self) -> bool {
        if !self.was_seen_gone() && kernel_has_no(self.identity) {
            self.seen_gone.store(true, Ordering::Relaxed);
        }
        self.was_seen_gone()
    }

    /// Of a disk that just met an error: whether that is because it goes. Takes its time to say no; to be asked on a thread that may wait.
    pub fn goes(&self) -> bool {
        let deadline = Instant::now() + GOES_WITHIN;
        loop {
            if self.is_gone() {
                return true;
            }
            if matches!(self.identity, DiskIdentity::File { .. }) || Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// For all that the daemon can tell, the device is gone.
    #[cfg(test)]
    pub fn pretend_gone(&self) {
        self.seen_gone.store(true, Ordering::Relaxed);
    }
}

fn kernel_has_no(identity: DiskIdentity) -> bool {
    match identity {
        DiskIdentity::Block(number) => {
            let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
            let all = Path::new("/sys/dev/block");
            all.exists() && device_is_gone(&all.join(format!("{major}:{minor}")), STACKED_MAX)
        }
        DiskIdentity::File { .. } => false,
    }
}

/// `device`: its folder below /sys. Those it is made of are links in `slaves` (`bd_link_disk_holder`, block/holder.c), which lead nowhere when
/// their device is gone: the holder's links outlive it.
fn device_is_gone(device: &Path, depth: usize) -> bool {
    if !device.exists() {
        return true;
    }
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    // A partition has no such folder, a plain disk an empty one. What cannot be read says nothing.
    let Ok(below) = device.join("slaves").read_dir() else {
        return false;
    };
    let mut below = below.flatten().peekable();
    below.peek().is_some() && below.all(|link| device_is_gone(&link.path(), depth))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: DiskIdentity = DiskIdentity::File {
        file_system: 1,
        inode: 1,
    };

    #[test]
    fn what_was_seen_gone_stays_gone_though_the_kernel_has_it() {
        let back = Presence::of(FILE);
        back.pretend_gone();
        assert!(!kernel_has_no(back.identity()));
        assert!(back.is_gone() && back.goes());
    }

    /// `/sys` in small.
    #[test]
    fn what_is_made_of_others_is_gone_when_all_of_them_are() {
        let sys = tempfile::tempdir().unwrap();
        let device = |name: &str, below: &[&str]| {
            let slaves = sys.path().join(name).join("slaves");
            std::fs::create_dir_all(&slaves).unwrap();
            for one in below {
                std::os::unix::fs::symlink(sys.path().join(one), slaves.join(one)).unwrap();
            }
        };
        let gone = |name: &str| device_is_gone(&sys.path().join(name), STACKED_MAX);
        device("nvme0n1", &[]);
        device("nvme1n1", &[]);
        std::fs::create_dir(sys.path().join("nvme1n1p1")).unwrap();
        device("dm-0", &["nvme0n1"]);
        device("dm-1", &["dm-0"]);
        device("md0", &["nvme0n1", "nvme1n1p1"]);
        device("dm-2", &["dm-2"]);
        for name in ["nvme0n1", "nvme1n1p1", "dm-0", "dm-1", "md0", "dm-2"] {
            assert!(!gone(name), "{name}");
        }

        std::fs::remove_dir_all(sys.path().join("nvme0n1")).unwrap();
        for name in ["nvme0n1", "dm-0", "dm-1"] {
            assert!(gone(name), "{name}");
        }
        assert!(!gone("md0"), "a leg is left");
        std::fs::remove_dir(sys.path().join("nvme1n1p1")).unwrap();
        assert!(gone("md0"));
    }

    #[test]
    fn a_file_never_goes_and_a_number_that_nobody_has_is_gone() {
        let file = Presence::of(FILE);
        assert!(!file.is_gone() && !file.goes());
        if std::path::Path::new("/sys/dev/block").exists() {
            let number = nix::sys::stat::makedev(4000, 77);
            let device = Presence::of(DiskIdentity::Block(number));
            assert!(!device.was_seen_gone(), "nobody has looked");
            assert!(device.goes() && device.was_seen_gone());
        }
    }
}
