//! Commands about copies and about disks that hold some: what they send, print and exit with.

use crate::fake_daemon::FakeDaemon;
use crate::program::run;
use bedplate_control::api::{JobState, SetCopies};
use serde_json::Value;

#[test]
fn copies_says_how_many_are_wanted_and_what_stands_in_the_way() {
    let daemon = FakeDaemon::start();
    let ended = run(
        &daemon.socket,
        &["image", "copies", "debian-13", "3", "--limit", "200M"],
        b"",
    );
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert_eq!(
        ended.stdout,
        "debian-13: 3 copies are wanted, 1 Ready; degraded: no disk has room for 2 more copies\n"
    );
    let asked = daemon.with(|seen| seen.copies);
    assert_eq!(
        asked,
        Some(SetCopies {
            copies: 3,
            limit_bytes_per_s: Some(200 << 20),
        })
    );
}

#[test]
fn no_copies_and_wrong_rates_are_refused_before_anything_is_sent() {
    let daemon = FakeDaemon::start();
    for line in [
        &["image", "copies", "debian-13", "0"][..],
        &["image", "copies", "debian-13", "many"],
        &["image", "copies", "debian-13"],
        &["image", "copies", "debian-13", "2", "--limit", "fast"],
        &["image", "import", "x", "/dev/null", "--copies", "0"],
    ] {
        assert_eq!(run(&daemon.socket, line, b"").code, Some(2), "{line:?}");
    }
    daemon.with(|seen| assert!(seen.requests.is_empty(), "{:?}", seen.requests));
}

#[test]
fn a_removal_drains_first_and_by_force_does_not() {
    let daemon = FakeDaemon::start();
    daemon.job_is(JobState::Done);
    let ended = run(&daemon.socket, &["disk", "remove", "/dev/nvme0n1"], b"");
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (
            Some(0),
            "removed /dev/nvme0n1; its replicas are on other disks\n"
        ),
        "{ended:?}"
    );
    assert!(daemon.saw("POST /v1/disks/%2Fdev%2Fnvme0n1/drain"));
    assert!(daemon.saw("DELETE /v1/disks/%2Fdev%2Fnvme0n1"));
    let daemon = FakeDaemon::start();
    let ended = run(
        &daemon.socket,
        &["disk", "remove", "/dev/nvme0n1", "--force"],
        b"",
    );
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), "removed /dev/nvme0n1; nothing on it was changed\n")
    );
    daemon.with(|seen| {
        assert_eq!(
            seen.requests,
            ["DELETE /v1/disks/%2Fdev%2Fnvme0n1?force=true"]
        );
    });
}

#[test]
fn a_drain_that_fails_keeps_the_disk() {
    let daemon = FakeDaemon::start();
    daemon.job_is(JobState::Failed);
    let ended = run(&daemon.socket, &["disk", "remove", "/dev/nvme0n1"], b"");
    assert_eq!(ended.code, Some(8), "{ended:?}");
    daemon.with(|seen| assert!(!seen.requests.iter().any(|line| line.starts_with("DELETE"))));
}

#[test]
fn no_wait_prints_the_id_of_the_drain() {
    let daemon = FakeDaemon::start();
    let ended = run(
        &daemon.socket,
        &["--no-wait", "disk", "drain", "/dev/nvme0n1"],
        b"",
    );
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "7\n"));
}

#[test]
fn forget_says_what_went_with_the_disk() {
    let daemon = FakeDaemon::start();
    let ended = run(&daemon.socket, &["disk", "forget", "/dev/nvme9n1"], b"");
    assert_eq!(
        ended.stdout,
        "forgot /dev/nvme9n1\n  images with other replicas: debian-13\n  volumes that are lost: vm1, vm2\n"
    );
    let json = run(
        &daemon.socket,
        &["-o", "json", "disk", "forget", "/dev/nvme9n1"],
        b"",
    );
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json["volumes_lost"][1], "vm2");
}

#[test]
fn adopt_sends_an_absolute_path_and_says_what_the_disk_is() {
    let daemon = FakeDaemon::start();
    let ended = run(&daemon.socket, &["disk", "adopt", "/dev/nvme0n1"], b"");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.stdout.starts_with("adopted /dev/nvme0n1: Online"),
        "{}",
        ended.stdout
    );
    assert!(daemon.saw("POST /v1/disks/adopt"));
}
