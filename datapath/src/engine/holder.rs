//! Says who holds a disk, for error messages. Best effort: what `/proc` and `/sys` tell this process, and no more.

use std::fs;
use std::path::Path;

use nix::sys::stat::{major, minor};

use super::disk_facts::DiskIdentity;
use super::sysfs::SysfsBlock;

/// At most this many holders are named.
const NAMED_MAX: usize = 3;

/// "process 1234 (bedplated)", "a mount on /srv", "dm-0"; `None` where nothing is known.
pub(super) fn describe(path: &Path, identity: DiskIdentity) -> Option<String> {
    let mut holders = match identity {
        DiskIdentity::Block(number) => {
            let mut holders = mounts_of(number);
            holders.extend(
                SysfsBlock::of(number)
                    .map(|device| device.own_links("holders"))
                    .unwrap_or_default(),
            );
            holders.extend(processes_with_open(path));
            holders
        }
        DiskIdentity::File { file_system, inode } => {
            let mut holders = flock_owners(file_system, inode);
            if holders.is_empty() {
                holders = processes_with_open(path);
            }
            holders
        }
    };
    holders.truncate(NAMED_MAX);
    (!holders.is_empty()).then(|| holders.join(", "))
}

/// Where the block device with this number is mounted in this process's mount namespace, as text for people.
fn mounts_of(number: u64) -> Vec<String> {
    mount_points(number)
        .into_iter()
        .map(|point| format!("a mount on {point}"))
        .collect()
}

/// Mount points of the block device with this number, from `/proc/self/mountinfo` (field 3 is `major:minor`, field 5 the
/// mount point, see proc_pid_mountinfo(5)).
pub(crate) fn mount_points(number: u64) -> Vec<String> {
    let wanted = format!("{}:{}", major(number), minor(number));
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(2);
            let device = fields.next()?;
            let point = fields.nth(1)?;
            (device == wanted).then(|| point.to_owned())
        })
        .collect()
}

/// Owners of `flock` locks from `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5309340 0 EOF`.
fn flock_owners(file_system: u64, inode: u64) -> Vec<String> {
    let wanted = format!(
        "{:02x}:{:02x}:{inode}",
        major(file_system),
        minor(file_system)
    );
    let text = fs::read_to_string("/proc/locks").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            // A line of a waiter has "->" as its second field.
            let fields: Vec<&str> = line
                .split_whitespace()
                .filter(|field| *field != "->")
                .collect();
            let [_, "FLOCK", _, _, pid, file, ..] = fields.as_slice() else {
                return None;
            };
            (*file == wanted).then(|| process(pid))
        })
        .collect()
}

fn processes_with_open(path: &Path) -> Vec<String> {
    let Ok(canonical) = fs::canonicalize(path) else {
        return Vec::new();
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        // Links are compared as text: following them could hang on a dead file system.
        .filter(|pid| {
            fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut descriptors| {
                descriptors.any(|descriptor| {
                    descriptor.is_ok_and(|link| {
                        fs::read_link(link.path()).is_ok_and(|target| target == canonical)
                    })
                })
            })
        })
        .take(NAMED_MAX)
        .map(|pid| process(&pid))
        .collect()
}

fn process(pid: &str) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        // The lock outlives its process while a ring's I/O on the file is in flight.
        Err(_) => format!("process {pid}, which has ended: its last I/O may still be in flight"),
    }
}
