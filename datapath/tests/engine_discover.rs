//! Discovery on real files and loop devices: what is found, what is refused, and what counts as the same disk.
#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails is the failure of its test"
)]

mod engine_common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bedplate_datapath::discover::{
    BedplateContent, DiskUse, Refusal, ScanReport, foreign_signatures, inspect, scan, scan_within,
    uses_of,
};
use bedplate_datapath::engine::{ClaimError, DiskFile, UringMedium};
use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::format::superblock::ChoiceError;
use bedplate_datapath::store::{self, FormatParams};
use engine_common::{LoopDevice, MIB, disk_file, have};
use tempfile::NamedTempFile;
use uuid::Uuid;

const DISK_BYTES: usize = 64 * MIB;

fn bedplate_disk(disk_uuid: Uuid) -> NamedTempFile {
    let file = disk_file(DISK_BYTES);
    format(file.path(), disk_uuid);
    file
}

fn format(path: &Path, disk_uuid: Uuid) {
    let disk = DiskFile::claim(path).unwrap();
    let params = FormatParams {
        disk_uuid,
        hardware_id_hash: disk.hardware_id_hash(),
        created_unix_s: 1,
    };
    store::format(&mut UringMedium::new(disk).unwrap(), &params).unwrap();
}

fn paths(paths: &[&Path]) -> Vec<PathBuf> {
    paths.iter().map(|path| path.to_path_buf()).collect()
}

fn the_refusal(report: ScanReport) -> Refusal {
    assert!(
        report.found.is_empty() && report.duplicates.is_empty(),
        "{report:?}"
    );
    assert_eq!(report.refused.len(), 1, "{report:?}");
    let why = report.refused.into_iter().next().unwrap().why;
    assert!(!why.to_string().is_empty() && !why.remedy().is_empty());
    why
}

fn destroy_superblock_copies(file: &File, copies: &[usize]) {
    let offsets = Geometry::of_disk(file.metadata().unwrap().len())
        .unwrap()
        .superblock_offsets();
    for &copy in copies {
        file.write_all_at(&[0x5A; 4096], offsets[copy].get())
            .unwrap();
    }
}

#[test]
fn a_disk_is_found_by_its_superblock_and_left_as_it_was() {
    let uuid = Uuid::new_v4();
    let file = bedplate_disk(uuid);
    let before = fs::read(file.path()).unwrap();
    let report = scan(&paths(&[file.path()]), false);
    assert!(
        report.refused.is_empty() && report.duplicates.is_empty(),
        "{report:?}"
    );
    let [found] = &report.found[..] else {
        panic!("{report:?}")
    };
    assert_eq!(
        (found.disk_uuid(), found.path.as_path()),
        (uuid, file.path())
    );
    assert_eq!(
        (found.superblock.generation.get(), found.superblock.clean),
        (1, true)
    );
    assert_eq!(
        (found.bad_superblock_copies, found.len_bytes),
        (0, DISK_BYTES as u64)
    );
    assert!(found.on_original_hardware);
    assert!(fs::read(file.path()).unwrap() == before, "the scan wrote");
}

#[test]
fn a_disk_is_found_while_its_daemon_holds_the_claim() {
    let file = bedplate_disk(Uuid::new_v4());
    let deadline = Instant::now() + Duration::from_secs(20);
    let _claim = DiskFile::claim_waiting(file.path(), deadline, |_| {}).unwrap();
    assert_eq!(scan(&paths(&[file.path()]), false).found.len(), 1);
}

#[test]
fn any_two_superblock_copies_are_enough_and_one_is_not() {
    for destroyed in [&[0][..], &[1], &[2], &[3], &[0, 3], &[1, 2]] {
        let file = bedplate_disk(Uuid::new_v4());
        destroy_superblock_copies(file.as_file(), destroyed);
        let report = scan(&paths(&[file.path()]), false);
        let [found] = &report.found[..] else {
            panic!("{destroyed:?}: {report:?}")
        };
        assert_eq!(found.bad_superblock_copies, destroyed.len());
    }
    let file = bedplate_disk(Uuid::new_v4());
    destroy_superblock_copies(file.as_file(), &[0, 1, 2]);
    let why = the_refusal(scan(&paths(&[file.path()]), false));
    assert!(
        matches!(why, Refusal::Superblock(ChoiceError::Lost { .. })),
        "{why}"
    );
}

#[test]
fn a_path_that_is_no_disk_is_told_with_the_reason() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let why = the_refusal(scan(&paths(&[folder.path()]), false));
    assert!(
        matches!(why, Refusal::Open(ClaimError::NotADisk { .. })),
        "{why}"
    );
    let why = the_refusal(scan(&paths(&[&folder.path().join("missing")]), false));
    assert!(
        matches!(why, Refusal::Open(ClaimError::NotFound { .. })),
        "{why}"
    );
    let why = the_refusal(scan(&paths(&[disk_file(MIB).path()]), false));
    assert!(matches!(why, Refusal::Size(_)), "{why}");
    let why = the_refusal(scan(&paths(&[disk_file(DISK_BYTES).path()]), false));
    assert!(
        matches!(why, Refusal::Superblock(ChoiceError::NotBedplate(_))),
        "{why}"
    );
}

#[test]
fn a_disk_that_became_shorter_is_refused_and_one_that_grew_is_not() {
    let file = disk_file(2 * DISK_BYTES);
    format(file.path(), Uuid::new_v4());
    file.as_file().set_len(DISK_BYTES as u64).unwrap();
    let why = the_refusal(scan(&paths(&[file.path()]), false));
    assert!(matches!(why, Refusal::TooShort { .. }), "{why}");
    file.as_file().set_len(3 * DISK_BYTES as u64).unwrap();
    let report = scan(&paths(&[file.path()]), false);
    // The last copy went with the end of the file.
    assert_eq!(report.found[0].bad_superblock_copies, 1, "{report:?}");
}

#[test]
fn a_copy_of_a_disk_makes_both_unusable() {
    let uuid = Uuid::new_v4();
    let (original, copy) = (bedplate_disk(uuid), disk_file(0));
    fs::copy(original.path(), copy.path()).unwrap();
    let other = bedplate_disk(Uuid::new_v4());
    let report = scan(&paths(&[original.path(), other.path(), copy.path()]), false);
    assert_eq!(
        report.found.len(),
        1,
        "the third disk is not concerned: {report:?}"
    );
    let [duplicate] = &report.duplicates[..] else {
        panic!("{report:?}")
    };
    assert_eq!(duplicate.disk_uuid, uuid);
    assert_eq!(duplicate.paths, paths(&[original.path(), copy.path()]));
}

#[test]
fn one_disk_under_several_names_is_one_disk() {
    let file = bedplate_disk(Uuid::new_v4());
    let link = file.path().with_extension("link");
    std::os::unix::fs::symlink(file.path(), &link).unwrap();
    let report = scan(&paths(&[file.path(), &link, file.path()]), false);
    fs::remove_file(&link).unwrap();
    let [found] = &report.found[..] else {
        panic!("{report:?}")
    };
    assert_eq!(found.path, file.path());
    assert_eq!(found.aliases, [link]);
    assert!(
        report.duplicates.is_empty() && report.refused.is_empty(),
        "{report:?}"
    );
}

#[test]
fn a_loop_device_and_its_file_are_one_disk() {
    let uuid = Uuid::new_v4();
    let file = bedplate_disk(uuid);
    let Some(device) = LoopDevice::over(file.path()) else {
        return;
    };
    let report = scan(&paths(&[file.path(), device.path()]), false);
    assert!(report.duplicates.is_empty(), "{report:?}");
    assert_eq!(
        (report.found.len(), &report.found[0].path),
        (1, &file.path().to_owned())
    );
    assert_eq!(report.found[0].aliases, paths(&[device.path()]));
    assert_eq!(
        uses_of(file.path()),
        [DiskUse::Loop {
            device: device.path().to_owned()
        }]
    );

    // And it is found without being asked for, among all block devices.
    let everything = scan(&[], true);
    assert!(
        everything
            .found
            .iter()
            .any(|found| found.disk_uuid() == uuid && found.path == device.path())
    );
}

#[test]
fn a_partition_table_written_over_a_disk_is_noticed() {
    if !have("sfdisk") {
        return;
    }
    let file = bedplate_disk(Uuid::new_v4());
    partition(file.path());
    // Two of the four copies are still there.
    let why = the_refusal(scan(&paths(&[file.path()]), false));
    assert!(matches!(why, Refusal::BootBlockOverwritten { .. }), "{why}");
    let content = inspect(file.path()).unwrap();
    assert!(
        matches!(content.bedplate, Some(BedplateContent::Damaged(_))),
        "{content:?}"
    );
    assert!(
        content
            .foreign
            .iter()
            .any(|signature| signature.kind == "gpt"),
        "{content:?}"
    );
}

#[test]
fn signatures_of_others_are_named() {
    let empty = disk_file(DISK_BYTES);
    if have("wipefs") {
        assert_eq!(foreign_signatures(empty.path()).unwrap(), []);
        assert!(inspect(empty.path()).unwrap().is_empty());
        assert!(foreign_signatures(&empty.path().with_extension("missing")).is_err());
        let uuid = Uuid::new_v4();
        let content = inspect(bedplate_disk(uuid).path()).unwrap();
        assert_eq!(
            (content.foreign, content.bedplate),
            (vec![], Some(BedplateContent::Disk(uuid)))
        );
    }
    if have("wipefs") && have("mkfs.ext4") {
        assert!(
            Command::new("mkfs.ext4")
                .arg("-q")
                .arg(empty.path())
                .status()
                .unwrap()
                .success()
        );
        let content = inspect(empty.path()).unwrap();
        let [signature] = &content.foreign[..] else {
            panic!("{content:?}")
        };
        assert_eq!((signature.kind.as_str(), signature.offset), ("ext4", 0x438));
        assert!(!content.is_empty() && content.bedplate.is_none());
    }
    if have("wipefs") && have("sfdisk") {
        let file = disk_file(DISK_BYTES);
        partition(file.path());
        let kinds: Vec<_> = foreign_signatures(file.path())
            .unwrap()
            .into_iter()
            .map(|found| found.kind)
            .collect();
        assert!(
            kinds.contains(&"gpt".to_owned()) && kinds.contains(&"PMBR".to_owned()),
            "{kinds:?}"
        );
    }
}

#[test]
fn nothing_of_a_partition_table_outlives_the_format() {
    if !have("wipefs") || !have("sfdisk") {
        return;
    }
    let file = disk_file(DISK_BYTES);
    partition(file.path());
    format(file.path(), Uuid::new_v4());
    // The second header of a GPT is at the end of the device: a tool that finds it offers to "repair" the first.
    let left = foreign_signatures(file.path()).unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_mounted_disk_is_told_with_its_mount_point() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let Some((device, point)) = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let device = fields.next()?;
        (device.starts_with("/dev/") && Path::new(device).exists())
            .then(|| (device, fields.next().unwrap()))
    }) else {
        return engine_common::skipped("nothing is mounted from a block device here").unwrap_or(());
    };
    let uses = uses_of(Path::new(device));
    let is_point =
        |one: &DiskUse| matches!(one, DiskUse::Mounted { at, .. } if at == Path::new(point));
    assert!(uses.iter().any(is_point), "{device} on {point}: {uses:?}");
}

#[test]
fn a_scan_ends_although_no_disk_answered_in_time() {
    let file = bedplate_disk(Uuid::new_v4());
    // No disk answers in no time: what a hung one looks like to the scan.
    let began = Instant::now();
    let why = the_refusal(scan_within(&paths(&[file.path()]), false, Duration::ZERO));
    assert!(matches!(why, Refusal::Silent { .. }), "{why}");
    assert!(began.elapsed() < Duration::from_secs(1));
    // Its probe has ended by itself, and the path is good again.
    let found = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        !scan(&paths(&[file.path()]), false).found.is_empty()
    });
    assert!(found);
}

fn partition(path: &Path) {
    let script = "printf 'label: gpt\\n,,\\n' | sfdisk --quiet --no-reread --wipe never \"$0\"";
    assert!(
        Command::new("sh")
            .args(["-c", script])
            .arg(path)
            .status()
            .unwrap()
            .success()
    );
}
