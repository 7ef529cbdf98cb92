//! Commands that ask for one thing: what they send, print and exit with.

use crate::fake_daemon::FakeDaemon;
use crate::program::run;
use crate::values;
use bedplate_control::api::JobState;
use serde_json::Value;
use std::time::{Duration, Instant};

#[test]
fn attach_prints_the_path_alone_and_so_does_a_second_attach() {
    let daemon = FakeDaemon::start();
    for _ in 0..2 {
        let ended = run(&daemon.socket, &["image", "attach", "debian-13"], b"");
        assert_eq!(
            (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
            (Some(0), "/dev/ublkb0\n", "")
        );
    }
    let quiet = run(&daemon.socket, &["-q", "image", "attach", "debian-13"], b"");
    assert_eq!(
        quiet.stdout, "/dev/ublkb0\n",
        "the path is a result, not a note"
    );
    let json = run(
        &daemon.socket,
        &["-o", "json", "image", "attach", "debian-13"],
        b"",
    );
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(
        (&json["changed"], &json["attachment"]["device"]),
        (&Value::Bool(false), &Value::from("/dev/ublkb0"))
    );
}

#[test]
fn detach_of_what_is_not_attached_is_no_failure() {
    let daemon = FakeDaemon::start();
    daemon.with(|seen| seen.attached = true);
    let first = run(&daemon.socket, &["image", "detach", "debian-13"], b"");
    assert_eq!(
        (first.code, first.stdout.as_str()),
        (Some(0), "detached debian-13\n")
    );
    let second = run(&daemon.socket, &["image", "detach", "debian-13"], b"");
    assert_eq!(
        (second.code, second.stdout.as_str()),
        (Some(0), "debian-13 is not attached\n")
    );
    let quiet = run(
        &daemon.socket,
        &["--quiet", "image", "detach", "debian-13"],
        b"",
    );
    assert_eq!((quiet.code, quiet.stdout.as_str()), (Some(0), ""));
}

#[test]
fn an_unknown_image_exits_3_and_says_what_to_do() {
    let daemon = FakeDaemon::start();
    let ended = run(&daemon.socket, &["image", "show", "nosuch"], b"");
    assert_eq!(ended.code, Some(3));
    assert_eq!(ended.stdout, "");
    assert_eq!(
        ended.stderr,
        "error: there is no image nosuch\n  try: bedplate image list shows those that are there\n"
    );
}

#[test]
fn errors_are_json_where_json_is_asked_for() {
    let daemon = FakeDaemon::start();
    daemon.with(|seen| seen.attached = true);
    let ended = run(
        &daemon.socket,
        &["-o", "json", "image", "delete", "debian-13"],
        b"",
    );
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(9), ""));
    let error: Value = serde_json::from_str(&ended.stderr).expect("one line of JSON");
    assert_eq!(error["kind"], "busy");
    assert_eq!(error["object"], "debian-13");
    let fields: Vec<&String> = error.as_object().expect("object").keys().collect();
    assert_eq!(
        fields,
        [
            "disk", "errno", "kind", "message", "object", "offset", "remedy"
        ],
        "null, never left out"
    );
    // What clap finds wrong, too.
    let usage = run(&daemon.socket, &["-o", "json", "image", "attach"], b"");
    assert_eq!(usage.code, Some(2));
    let error: Value = serde_json::from_str(&usage.stderr).expect("one line of JSON");
    assert_eq!(error["kind"], "bad_request");
}

#[test]
fn deleting_failed_copies_is_asked_for_as_such() {
    let daemon = FakeDaemon::start();
    let ended = run(
        &daemon.socket,
        &["image", "delete", "debian-13", "--failed-copies"],
        b"",
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(daemon.saw("DELETE /v1/images/debian-13?failed_copies=true"));
}

#[test]
fn an_illegal_name_is_refused_before_anything_is_sent() {
    let daemon = FakeDaemon::start();
    for command in ["show", "attach", "detach", "verify", "delete"] {
        let ended = run(&daemon.socket, &["image", command, "../etc"], b"");
        assert_eq!(ended.code, Some(2), "{command}");
        assert!(ended.stderr.contains("begins with '.'"), "{}", ended.stderr);
    }
    assert!(daemon.with(|seen| seen.requests.is_empty()));
}

#[test]
fn a_disk_is_named_by_path_or_uuid_and_a_relative_path_is_made_absolute() {
    let daemon = FakeDaemon::start();
    let uuid = values::uuid(1).to_string();
    for disk in ["/dev/nvme0n1", &uuid] {
        let ended = run(&daemon.socket, &["disk", "show", disk], b"");
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(
            ended.stdout.contains("superblock copy 2 was bad"),
            "{}",
            ended.stdout
        );
    }
    assert!(daemon.saw("GET /v1/disks/%2Fdev%2Fnvme0n1"));
    let format = run(
        &daemon.socket,
        &["disk", "format", "disk.img", "--size", "10G", "--force"],
        b"",
    );
    assert_eq!(format.code, Some(0), "{}", format.stderr);
    let sent = daemon.with(|seen| seen.format.clone()).expect("request");
    let here = std::env::current_dir()
        .expect("working directory")
        .join("disk.img");
    assert_eq!(
        (sent.path, sent.size_bytes, sent.force),
        (here.display().to_string(), Some(10 << 30), true)
    );
}

#[test]
fn a_job_that_ended_before_it_is_cancelled_stays_as_it_is() {
    let daemon = FakeDaemon::start();
    let running = run(&daemon.socket, &["job", "cancel", "7"], b"");
    assert_eq!(
        (running.code, running.stdout.as_str()),
        (Some(0), "cancelled job 7\n")
    );
    daemon.job_is(JobState::Done);
    let done = run(&daemon.socket, &["job", "cancel", "7"], b"");
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (Some(0), "job 7 had ended before: done\n")
    );
}

#[test]
fn job_wait_exits_as_the_job_ended() {
    let daemon = FakeDaemon::start();
    for (state, code) in [
        (JobState::Done, 0),
        (JobState::Failed, 8),
        (JobState::Cancelled, 1),
    ] {
        daemon.job_is(state);
        let ended = run(&daemon.socket, &["job", "wait", "7"], b"");
        assert_eq!(ended.code, Some(code), "{state:?}: {}", ended.stderr);
    }
    assert_eq!(
        run(&daemon.socket, &["job", "wait", "8"], b"").code,
        Some(3)
    );
}

#[test]
fn verify_says_that_the_content_is_good() {
    let daemon = FakeDaemon::start();
    let ended = run(&daemon.socket, &["image", "verify", "debian-13"], b"");
    let expected = format!(
        "debian-13 is good: 2 GiB read, 1 copy, sha256 {}\n",
        values::sha256()
    );
    assert_eq!((ended.code, ended.stdout), (Some(0), expected));
    let no_wait = run(
        &daemon.socket,
        &["--no-wait", "image", "verify", "debian-13"],
        b"",
    );
    assert_eq!((no_wait.code, no_wait.stdout.as_str()), (Some(0), "7\n"));
}

#[test]
fn wait_prints_the_device_of_an_attached_image_and_times_out_on_one_that_never_comes() {
    let daemon = FakeDaemon::start();
    let detached = run(&daemon.socket, &["wait", "image", "debian-13"], b"");
    assert_eq!((detached.code, detached.stdout.as_str()), (Some(0), ""));
    assert_eq!(detached.stderr, "debian-13 is Ready, and not attached\n");
    daemon.with(|seen| seen.attached = true);
    let attached = run(
        &daemon.socket,
        &["wait", "image", "debian-13", "--timeout", "5s"],
        b"",
    );
    assert_eq!(
        (attached.code, attached.stdout.as_str()),
        (Some(0), "/dev/ublkb0\n")
    );
    let began = Instant::now();
    let never = run(
        &daemon.socket,
        &["wait", "image", "nosuch", "--timeout", "1s"],
        b"",
    );
    assert_eq!(never.code, Some(1), "{}", never.stderr);
    assert!(began.elapsed() >= Duration::from_millis(900));
}
