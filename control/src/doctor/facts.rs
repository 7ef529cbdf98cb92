//! Looks at the node: files of `/proc`, `/sys` and `/lib/modules`, limits of this process, the ublk driver itself.

use super::Place;
use bedplate_ublk_target::{Features, KernelSupport, TargetError};
use io_uring::{IoUring, squeue};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

const MODULE: &str = "ublk_drv";
const CONTROL: &str = "/dev/ublk-control";
/// Of `CAP_IPC_LOCK` in the capability masks: `include/uapi/linux/capability.h`.
const CAP_IPC_LOCK_BIT: u32 = 14;

/// Everything that [`super::checks`] judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `uname -r`.
    pub kernel_release: String,
    /// The driver.
    pub module: Module,
    /// Its control device.
    pub control: Control,
    /// What the driver can do, where it could be asked.
    pub driver: Option<Driver>,
    /// Module parameter.
    pub ublks_max: Option<u32>,
    /// Whether this process gets a ring as reactors want it, else the error number.
    pub io_uring: Result<(), i32>,
    /// `kernel.io_uring_disabled`, where the kernel has it.
    pub io_uring_disabled: Option<u8>,
    /// Memory that may be locked; `None` is without limit.
    pub memlock_bytes: Option<u64>,
    /// Files that may be open.
    pub files_max: u64,
    /// Folder of the live state.
    pub live_dir: PathBuf,
    /// What is there.
    pub live: Live,
}

/// State of the ublk driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// Loaded, or built in.
    Loaded,
    /// It can be loaded.
    Loadable,
    /// This kernel comes without it.
    Missing,
    /// The folder of this kernel's modules is not there.
    NoModules,
}

/// Access to `/dev/ublk-control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// It can be opened.
    Opens,
    /// It is not there.
    Absent,
    /// It cannot be opened: the error number.
    Refused(i32),
}

/// What the ublk driver can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Driver {
    /// A feature without which no device can be served.
    pub lacks: Option<&'static str>,
    /// Data moves without a copy.
    pub zero_copy: bool,
    /// Devices can be quiesced while the daemon lives.
    pub quiesce: bool,
    /// The kernel can be told not to read partition tables.
    pub no_part_scan: bool,
}

/// The file system of the live folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// As it should be.
    Tmpfs,
    /// Another file system.
    Other,
    /// No such folder.
    Absent,
    /// It cannot be looked at: the error number.
    Hidden(i32),
}

impl Facts {
    /// Looks. What cannot be seen counts as not there.
    pub fn gather(place: &Place) -> Self {
        let kernel_release = read_line("/proc/sys/kernel/osrelease").unwrap_or_default();
        let live_dir = place.run_dir.join("live");
        Self {
            module: module(&kernel_release),
            control: control(),
            driver: driver(),
            ublks_max: read_number(&format!("/sys/module/{MODULE}/parameters/ublks_max")),
            io_uring: io_uring(),
            io_uring_disabled: read_number("/proc/sys/kernel/io_uring_disabled"),
            memlock_bytes: memlock_bytes(),
            files_max: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
            live: live(&live_dir),
            live_dir,
            kernel_release,
        }
    }
}

fn module(kernel_release: &str) -> Module {
    if Path::new("/sys/module").join(MODULE).exists() || Path::new(CONTROL).exists() {
        return Module::Loaded;
    }
    let folder = ["/lib/modules", "/usr/lib/modules"]
        .iter()
        .map(|base| Path::new(base).join(kernel_release))
        .find(|folder| folder.is_dir());
    match folder {
        None => Module::NoModules,
        Some(folder) if lists_module(&folder.join("modules.builtin")) => Module::Loaded,
        Some(folder) if lists_module(&folder.join("modules.dep")) => Module::Loadable,
        Some(_) => Module::Missing,
    }
}

/// Lines are `kernel/drivers/block/ublk_drv.ko.xz: ...`.
fn lists_module(list: &Path) -> bool {
    let Ok(file) = File::open(list) else {
        return false;
    };
    BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .any(|line| names_module(&line))
}

fn names_module(line: &str) -> bool {
    let path = line.split(':').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    file.strip_prefix(MODULE)
        .is_some_and(|rest| rest.starts_with(".ko"))
}

fn control() -> Control {
    match OpenOptions::new().read(true).write(true).open(CONTROL) {
        Ok(_) => Control::Opens,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Control::Absent,
        Err(error) => Control::Refused(error.raw_os_error().unwrap_or_default()),
    }
}

fn driver() -> Option<Driver> {
    match KernelSupport::probe() {
        Ok(support) => Some(Driver {
            lacks: None,
            zero_copy: support.zero_copy(),
            quiesce: support.quiesce(),
            no_part_scan: support.features.contains(Features::NO_AUTO_PART_SCAN),
        }),
        Err(TargetError::KernelTooOld { lacks }) => Some(Driver {
            lacks: Some(lacks),
            zero_copy: false,
            quiesce: false,
            no_part_scan: false,
        }),
        Err(_) => None,
    }
}

fn io_uring() -> Result<(), i32> {
    IoUring::<squeue::Entry>::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .build(2)
        .map(drop)
        .map_err(|error| error.raw_os_error().unwrap_or_default())
}

fn memlock_bytes() -> Option<u64> {
    let may_lock_all = read_capabilities().is_some_and(|mask| mask >> CAP_IPC_LOCK_BIT & 1 == 1);
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((0, 0));
    (!may_lock_all && soft != RLIM_INFINITY).then_some(soft)
}

fn read_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

fn live(folder: &Path) -> Live {
    match statfs(folder) {
        Ok(stat) if stat.filesystem_type() == TMPFS_MAGIC => Live::Tmpfs,
        Ok(_) => Live::Other,
        Err(nix::errno::Errno::ENOENT) => Live::Absent,
        Err(errno) => Live::Hidden(errno as i32),
    }
}

fn read_line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn read_number<T: std::str::FromStr>(path: &str) -> Option<T> {
    read_line(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_found_however_it_is_packed_and_not_by_a_similar_name() {
        assert!(names_module(
            "kernel/drivers/block/ublk_drv.ko.xz: kernel/lib/x.ko.xz"
        ));
        assert!(names_module("kernel/drivers/block/ublk_drv.ko"));
        assert!(!names_module("kernel/drivers/block/ublk_drv_test.ko:"));
        assert!(!names_module(
            "kernel/drivers/block/other.ko: kernel/drivers/block/ublk_drv.ko"
        ));
    }

    #[test]
    fn a_folder_that_is_not_there_is_not_taken_for_a_tmpfs() {
        assert_eq!(live(Path::new("/nonexistent/live")), Live::Absent);
        assert_eq!(live(Path::new("/proc")), Live::Other);
    }
}
