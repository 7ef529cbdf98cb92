//! What the process asks of the kernel before it touches a disk: the I/O-flusher flag, locked memory, enough file descriptors.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{Config, MemoryLock};

/// `PR_SET_IO_FLUSHER` of `linux/prctl.h`: memory reclaim must not wait for I/O that this process itself serves.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// `nix` does not name it.
const MCL_ONFAULT: libc::c_int = libc::MCL_ONFAULT;

/// Prepares the process. What the kernel refuses is logged: the daemon works without, only less safely under memory pressure.
pub fn prepare(config: &Config) {
    raise_open_files();
    set_io_flusher();
    if config.memory.lock == MemoryLock::OnFault {
        lock_memory();
    }
}

fn raise_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft < hard
        && let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(soft, hard, %errno, "cannot raise the limit of open files");
    }
}

fn set_io_flusher() {
    // SAFETY: this option takes one integer and touches no memory of ours.
    let result = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "cannot become an I/O flusher (needs CAP_SYS_RESOURCE): the node may hang when it runs out of memory");
    }
}

fn lock_memory() {
    let flags = MlockAllFlags::MCL_CURRENT
        | MlockAllFlags::MCL_FUTURE
        | MlockAllFlags::from_bits_retain(MCL_ONFAULT);
    if let Err(errno) = mlockall(flags) {
        tracing::warn!(
            %errno,
            "cannot lock memory (LimitMEMLOCK=infinity, or [memory] lock = \"off\"): the node may hang when it swaps"
        );
    }
}
