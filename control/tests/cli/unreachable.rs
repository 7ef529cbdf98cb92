//! No daemon: the reasons are told apart, and what works without one works.

use crate::fake_daemon::FakeDaemon;
use crate::program::{run, start};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[test]
fn no_socket_and_nobody_behind_the_socket_are_different_things() {
    let folder = TempDir::new().expect("folder");
    let missing = run(&folder.path().join("no.sock"), &["status"], b"");
    assert_eq!(missing.code, Some(5));
    assert!(
        missing.stderr.contains("there is no socket at"),
        "{}",
        missing.stderr
    );
    assert!(
        missing.stderr.contains("systemctl start bedplated"),
        "{}",
        missing.stderr
    );

    let dead = folder.path().join("dead.sock");
    drop(UnixListener::bind(&dead).expect("socket"));
    let refused = run(&dead, &["status"], b"");
    assert_eq!(refused.code, Some(5));
    assert!(
        refused.stderr.contains("nobody listens at"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("journalctl -u bedplated"),
        "{}",
        refused.stderr
    );
}

#[test]
fn no_permission_names_the_group() {
    if nix::unistd::Uid::effective().is_root() {
        // Root may connect to any socket: the message is made of the kernel's error, which root never gets.
        println!("skipped: runs as root");
        return;
    }
    let folder = TempDir::new().expect("folder");
    let socket = folder.path().join("locked.sock");
    let _listener = UnixListener::bind(&socket).expect("socket");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).expect("permissions");
    let ended = run(&socket, &["status"], b"");
    assert_eq!(ended.code, Some(5));
    assert!(ended.stderr.contains("group bedplate"), "{}", ended.stderr);
}

#[test]
fn a_daemon_that_hangs_up_is_unreachable() {
    let folder = TempDir::new().expect("folder");
    let socket = folder.path().join("rude.sock");
    let listener = UnixListener::bind(&socket).expect("socket");
    let running = start(&socket, &["-o", "json", "status"]);
    drop(listener.accept().expect("connection"));
    let ended = running.wait();
    assert_eq!(ended.code, Some(5));
    let error: Value = serde_json::from_str(&ended.stderr).expect("one line of JSON");
    assert_eq!(error["kind"], "daemon_unreachable");
}

#[test]
fn wait_outlives_a_daemon_that_comes_late() {
    let folder = TempDir::new().expect("folder");
    let late = folder.path().join("late.sock");
    let began = Instant::now();
    let never = run(
        &late,
        &["wait", "image", "debian-13", "--timeout", "1s"],
        b"",
    );
    assert_eq!(never.code, Some(5), "{}", never.stderr);
    assert!(began.elapsed() >= Duration::from_millis(900), "it waited");

    let running = start(&late, &["wait", "image", "debian-13", "--timeout", "30s"]);
    std::thread::sleep(Duration::from_millis(500));
    let daemon = FakeDaemon::start();
    daemon.with(|seen| seen.attached = true);
    std::os::unix::fs::symlink(&daemon.socket, &late).expect("link");
    let ended = running.wait();
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), "/dev/ublkb0\n"),
        "{}",
        ended.stderr
    );
}

#[test]
fn doctor_works_without_a_daemon() {
    let folder = TempDir::new().expect("folder");
    let ended = run(
        &folder.path().join("no.sock"),
        &["-o", "json", "doctor"],
        b"",
    );
    let report: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let lacks_kernel = report["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .any(|check| check["verdict"] == "fail" && check["kernel"] == true);
    let expected = if lacks_kernel {
        7
    } else {
        i32::from(report["verdict"] == "fail")
    };
    assert_eq!(ended.code, Some(expected), "{}", ended.stdout);
    assert_eq!(report["seen_by"], "bedplate");
}
