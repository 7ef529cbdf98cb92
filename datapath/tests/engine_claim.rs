//! Claims: one holder at a time, over processes and through their deaths; and what is refused as a disk.
#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails is the failure of its test"
)]

mod engine_common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bedplate_datapath::engine::{ClaimError, DiskFile, DiskIdentity, UringMedium, WriteCache};
use bedplate_datapath::medium::Medium;
use bedplate_datapath::units::ByteOffset;
use engine_common::{LoopDevice, MIB, disk_file, skipped};

/// What a child process is told by the environment: which disk to work on, and that it is a child.
const CHILD_DISK: &str = "BEDPLATE_TEST_CHILD_DISK";
const GENEROUS: Duration = Duration::from_secs(20);

/// What a child says when it has the claim.
const CLAIMED: &str = "claimed";

/// One of the `child_` tests below, in another process, which goes with this, also when its test fails.
struct Holder(Child);

impl Holder {
    /// It has the claim. Told by itself: who tried to claim the disk until that is refused would mostly have it, and keep the child from it.
    fn start(test: &str, disk: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--quiet", "--nocapture"])
            .env(CHILD_DISK, disk)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let holder = Self(child);
        let has_claimed = said
            .lines()
            .map_while(Result::ok)
            .any(|line| line == CLAIMED);
        assert!(has_claimed, "{test} ended without the claim");
        holder
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
    }

    fn wait(&mut self) {
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `None` in a run of all ignored tests: then nobody waits for the child.
fn child_disk() -> Option<PathBuf> {
    std::env::var_os(CHILD_DISK).map(PathBuf::from)
}

/// Not at once: another test of this process may be starting a child, which has our descriptors from fork to exec.
fn claim_when_free(disk: &Path) -> DiskFile {
    DiskFile::claim_waiting(disk, Instant::now() + GENEROUS, |_| {}).unwrap()
}

/// For a child: claims its disk, and says so.
fn claim_and_tell(path: &Path) -> DiskFile {
    let disk = claim_when_free(path);
    println!("\n{CLAIMED}");
    disk
}

#[test]
#[ignore = "the child process of other tests"]
fn child_holds_the_claim() {
    let Some(path) = child_disk() else { return };
    let _disk = claim_and_tell(&path);
    thread::sleep(GENEROUS);
}

/// Overwrites the disk's first 8 MiB again and again, with many writes in flight.
#[test]
#[ignore = "the child process of other tests"]
fn child_writes_until_it_is_killed() {
    let Some(path) = child_disk() else { return };
    let mut medium = UringMedium::new(claim_and_tell(&path)).unwrap();
    for round in 0_u64.. {
        let byte = u8::try_from(round % 251).unwrap();
        medium
            .write(ByteOffset::new(0), &vec![byte; 8 * MIB])
            .unwrap();
    }
}

fn a_second_process_is_refused_and_told_who_holds_it(disk: &Path) {
    let mut holder = Holder::start("child_holds_the_claim", disk);
    let busy = DiskFile::claim(disk).unwrap_err();
    let by_child = format!("process {}", holder.0.id());
    assert!(busy.to_string().contains(&by_child), "{busy}");
    assert!(busy.is_busy() && busy.errno() == libc::EBUSY && busy.path() == disk);
    DiskFile::open_read_only(disk).expect("discovery needs no claim");

    let mut waits = 0;
    let refused = DiskFile::claim_waiting(disk, Instant::now() + Duration::from_millis(50), |_| {
        waits += 1;
    });
    assert!(matches!(refused, Err(ClaimError::Busy { .. })));
    assert_eq!(waits, 1, "the caller is told once");

    holder.kill();
    let claimed = DiskFile::claim_waiting(disk, Instant::now() + GENEROUS, |_| {});
    holder.wait();
    assert!(claimed.unwrap().is_claimed());
}

#[test]
fn a_claimed_file_is_refused_to_a_second_process() {
    let file = disk_file(MIB);
    a_second_process_is_refused_and_told_who_holds_it(file.path());
}

#[test]
fn a_claimed_block_device_is_refused_to_a_second_process() {
    let file = disk_file(MIB);
    let Some(device) = LoopDevice::over(file.path()) else {
        return;
    };
    a_second_process_is_refused_and_told_who_holds_it(device.path());
}

/// Guards fence 1: whoever holds the claim sees no write of a dead process land any more.
fn no_write_of_a_killed_process_lands_after_the_claim(disk: &Path) {
    for round in 0..8_u64 {
        let mut writer = Holder::start("child_writes_until_it_is_killed", disk);
        thread::sleep(Duration::from_millis(7 * round + 10));
        writer.kill();
        // Not waited for: the claim alone must keep us out while its I/O lands.
        let claimed = DiskFile::claim_waiting(disk, Instant::now() + GENEROUS, |_| {}).unwrap();
        let mut medium = UringMedium::new(claimed).unwrap();
        let mut first = vec![0; 8 * MIB];
        medium.read(ByteOffset::new(0), &mut first).unwrap();
        let mut again = vec![0; 8 * MIB];
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(5));
            medium.read(ByteOffset::new(0), &mut again).unwrap();
            assert!(
                first == again,
                "round {round}: a write landed after the claim"
            );
        }
        drop(medium);
        writer.wait();
    }
}

#[test]
fn no_write_of_a_killed_process_lands_in_a_file_after_the_claim() {
    let file = disk_file(8 * MIB);
    no_write_of_a_killed_process_lands_after_the_claim(file.path());
}

#[test]
fn no_write_of_a_killed_process_lands_on_a_block_device_after_the_claim() {
    let file = disk_file(8 * MIB);
    let Some(device) = LoopDevice::over(file.path()) else {
        return;
    };
    no_write_of_a_killed_process_lands_after_the_claim(device.path());
}

#[test]
fn the_claim_lives_as_long_as_a_duplicate_of_its_descriptor() {
    let file = disk_file(MIB);
    let disk = DiskFile::claim(file.path()).unwrap();
    let duplicate = disk.try_clone_fd().unwrap();
    drop(disk);
    assert!(DiskFile::claim(file.path()).is_err_and(|error| error.is_busy()));
    drop(duplicate);
    claim_when_free(file.path());
}

#[test]
fn the_claim_survives_being_handed_to_a_medium_and_back() {
    let file = disk_file(MIB);
    let medium = UringMedium::new(DiskFile::claim(file.path()).unwrap()).unwrap();
    assert!(DiskFile::claim(file.path()).is_err_and(|error| error.is_busy()));
    let disk = medium.into_disk();
    assert!(DiskFile::claim(file.path()).is_err_and(|error| error.is_busy()));
    drop(disk);
    claim_when_free(file.path());
}

#[test]
fn what_is_no_disk_is_refused_with_what_it_is() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let missing = DiskFile::claim(&folder.path().join("missing")).unwrap_err();
    assert!(matches!(missing, ClaimError::NotFound { .. }), "{missing}");
    let under_a_file = folder.path().join("file");
    fs::write(&under_a_file, "").unwrap();
    let not_a_folder = DiskFile::claim(&under_a_file.join("disk")).unwrap_err();
    assert!(
        matches!(not_a_folder, ClaimError::NotFound { .. }),
        "{not_a_folder}"
    );

    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, what) in [
        (folder.path(), "directory"),
        (Path::new("/dev/null"), "character device"),
        (&socket, "socket"),
        (&fifo, "FIFO"),
    ] {
        let error = DiskFile::claim(path).unwrap_err();
        assert!(matches!(error, ClaimError::NotADisk { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(!error.remedy().is_empty());
    }
}

#[test]
fn a_file_without_permission_is_refused_as_such() {
    let file = disk_file(MIB);
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o400)).unwrap();
    let path = file.path().to_owned();
    // Root has every permission. This thread, and no other, gives it up.
    let refused = thread::spawn(move || {
        if nix::unistd::geteuid().is_root() {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        }
        DiskFile::claim(&path)
    });
    let error = refused.join().unwrap().unwrap_err();
    assert!(
        matches!(error, ClaimError::PermissionDenied { .. }),
        "{error}"
    );
}

#[test]
fn facts_of_a_file_are_those_of_its_file_system() {
    let file = disk_file(3 * MIB + 1000);
    let disk = DiskFile::claim(file.path()).unwrap();
    assert_eq!(disk.len_bytes(), 3 * MIB as u64 + 1000);
    assert!(!disk.is_block_device());
    assert_eq!(disk.write_cache(), WriteCache::Volatile);
    assert_eq!(
        (disk.hardware_id(), disk.hardware_id_hash()),
        (None, [0; 32])
    );
    assert!(disk.logical_block_bytes().is_power_of_two() && disk.logical_block_bytes() >= 512);
    assert!(disk.dma_alignment().is_power_of_two());
    // A link leads to the same disk.
    let link = file.path().with_extension("link");
    std::os::unix::fs::symlink(file.path(), &link).unwrap();
    let by_link = DiskFile::open_read_only(&link);
    fs::remove_file(&link).unwrap();
    assert_eq!(by_link.unwrap().identity(), disk.identity());
}

#[test]
fn facts_of_a_block_device_are_those_of_sysfs() {
    let file = disk_file(4 * MIB);
    file.as_file().write_all_at(&[1], 0).unwrap();
    let Some(device) = LoopDevice::over(file.path()) else {
        return;
    };
    let disk = DiskFile::claim(device.path()).unwrap();
    let name = device.path().file_name().unwrap().to_str().unwrap();
    let sysfs = |attribute: &str| {
        fs::read_to_string(format!("/sys/block/{name}/{attribute}"))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(
        disk.len_bytes() / 512,
        sysfs("size").parse::<u64>().unwrap()
    );
    assert_eq!(
        disk.logical_block_bytes().to_string(),
        sysfs("queue/logical_block_size")
    );
    assert_eq!(
        disk.physical_block_bytes().to_string(),
        sysfs("queue/physical_block_size")
    );
    assert_eq!(
        (disk.dma_alignment() - 1).to_string(),
        sysfs("queue/dma_alignment")
    );
    assert_eq!(disk.diskseq(), Some(sysfs("diskseq").parse().unwrap()));
    assert_eq!(
        disk.write_cache() == WriteCache::WriteThrough,
        sysfs("queue/write_cache") == "write through"
    );
    assert!(matches!(disk.identity(), DiskIdentity::Block(_)));
}

#[test]
fn diskseq_changes_when_another_medium_takes_the_device() {
    let (one, other) = (disk_file(MIB), disk_file(MIB));
    let Some(device) = LoopDevice::over(one.path()) else {
        return;
    };
    let before = DiskFile::open_read_only(device.path())
        .unwrap()
        .diskseq()
        .unwrap();
    let same_node = device.path().to_owned();
    drop(device);
    let attached = Command::new("losetup")
        .arg(&same_node)
        .arg(other.path())
        .status();
    if !attached.is_ok_and(|status| status.success()) {
        return skipped("the loop device was taken by someone else").unwrap_or(());
    }
    let after = DiskFile::open_read_only(&same_node)
        .unwrap()
        .diskseq()
        .unwrap();
    assert!(
        Command::new("losetup")
            .arg("--detach")
            .arg(&same_node)
            .status()
            .unwrap()
            .success()
    );
    assert!(after > before, "{before} then {after}");
}
