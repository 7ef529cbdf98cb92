//! `volume`: what is sent, printed and exited with.

use crate::fake_daemon::FakeDaemon;
use crate::program::{Ended, run};
use bedplate_control::api::{ApiError, CreateVolume, ResizeVolume};
use bedplate_control::error_kind::ErrorKind;
use serde_json::Value;

fn said(ended: &Ended) -> (Option<i32>, &str, &str) {
    (ended.code, ended.stdout.as_str(), ended.stderr.as_str())
}

#[test]
fn create_sends_what_was_asked_for_and_says_what_was_made() {
    let daemon = FakeDaemon::start();
    let line = ["volume", "create", "vm9", "--image", "debian-13"];
    let clone = run(&daemon.socket, &line, b"");
    assert_eq!(
        said(&clone),
        (Some(0), "made vm9: 20 GiB, a clone of debian-13\n", "")
    );
    let sent = daemon.with(|seen| seen.volumes.create.take());
    assert_eq!(
        sent,
        Some(CreateVolume {
            name: "vm9".to_owned(),
            image: Some("debian-13".to_owned()),
            size_bytes: None,
        })
    );
    let line = ["volume", "create", "s", "--size", "20G"];
    let blank = run(&daemon.socket, &line, b"");
    assert_eq!(said(&blank), (Some(0), "made s: 20 GiB, blank\n", ""));
    let sent = daemon.with(|seen| seen.volumes.create.take());
    assert_eq!(sent.and_then(|sent| sent.size_bytes), Some(20 << 30));
    let quiet = run(
        &daemon.socket,
        &["-q", "volume", "create", "s", "--size", "1G"],
        b"",
    );
    assert_eq!(said(&quiet), (Some(0), "", ""));
}

#[test]
fn create_needs_an_image_or_a_size_and_legal_words() {
    let daemon = FakeDaemon::start();
    for line in [
        &["volume", "create", "v"][..],
        &["volume", "create", "../v", "--size", "1G"],
        &["volume", "create", "v", "--size", "10GB"],
        &["volume", "resize", "vm1", "++1G"],
        &["volume", "attach", ".."],
    ] {
        let ended = run(&daemon.socket, line, b"");
        assert_eq!(ended.code, Some(2), "{line:?}: {ended:?}");
    }
    assert!(daemon.with(|seen| seen.requests.is_empty()));
}

#[test]
fn attach_and_create_with_attach_print_the_path_alone() {
    let daemon = FakeDaemon::start();
    for line in [
        &["volume", "attach", "vm1"][..],
        &["volume", "attach", "vm1"],
        &[
            "volume",
            "create",
            "vm1",
            "--image",
            "debian-13",
            "--attach",
        ],
        &["-q", "volume", "create", "vm1", "--size", "1G", "--attach"],
    ] {
        let ended = run(&daemon.socket, line, b"");
        assert_eq!(said(&ended), (Some(0), "/dev/ublkb5\n", ""), "{line:?}");
    }
    let json = run(
        &daemon.socket,
        &["-o", "json", "volume", "attach", "vm1"],
        b"",
    );
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json["changed"], false);
    assert_eq!(json["volume"]["device"], "/dev/ublkb5");
}

#[test]
fn a_volume_that_was_made_and_not_attached_is_told_of() {
    let daemon = FakeDaemon::start();
    let lacks = ApiError::new(ErrorKind::KernelUnsupported, "no ublk here");
    daemon.with(|seen| seen.volumes.refuse = Some(lacks));
    let line = ["volume", "create", "vm1", "--size", "1G", "--attach"];
    let ended = run(&daemon.socket, &line, b"");
    assert_eq!(
        said(&ended),
        (
            Some(7),
            "",
            "vm1 was made, and is not attached\nerror: no ublk here\n"
        )
    );
}

#[test]
fn a_loss_is_accepted_only_when_somebody_says_so() {
    let daemon = FakeDaemon::start();
    for (line, accepts) in [
        (&["volume", "attach", "vm1"][..], false),
        (&["volume", "attach", "vm1", "--accept-loss"], true),
    ] {
        assert_eq!(run(&daemon.socket, line, b"").code, Some(0));
        let sent = daemon.with(|seen| seen.volumes.attach.take());
        assert_eq!(sent.map(|sent| sent.accept_loss), Some(accepts));
    }
}

#[test]
fn resize_takes_a_size_or_how_much_more() {
    let daemon = FakeDaemon::start();
    let sent = |to, by| {
        let sent = daemon.with(|seen| seen.volumes.resize.take());
        let expected = ResizeVolume {
            size_bytes: to,
            grow_bytes: by,
        };
        assert_eq!(sent, Some(expected));
    };
    let to = run(&daemon.socket, &["volume", "resize", "vm1", "30G"], b"");
    assert_eq!(said(&to), (Some(0), "vm1 has 30 GiB now\n", ""));
    sent(Some(30 << 30), None);
    let by = run(&daemon.socket, &["volume", "resize", "vm1", "+10G"], b"");
    assert_eq!(said(&by), (Some(0), "vm1 has 30 GiB now\n", ""));
    sent(None, Some(10 << 30));
    let same = run(&daemon.socket, &["volume", "resize", "vm1", "20G"], b"");
    assert_eq!(said(&same), (Some(0), "vm1 has 20 GiB already\n", ""));
}

#[test]
fn what_is_refused_exits_as_its_kind_says() {
    let daemon = FakeDaemon::start();
    for (kind, code) in [
        (ErrorKind::BadSize, 1),
        (ErrorKind::Held, 1),
        (ErrorKind::NotFound, 3),
        (ErrorKind::Exists, 4),
        (ErrorKind::KernelUnsupported, 7),
        (ErrorKind::NoSpace, 8),
        (ErrorKind::Busy, 9),
    ] {
        let error = ApiError::new(kind, "refused").object("vm1");
        daemon.with(|seen| seen.volumes.refuse = Some(error));
        for line in [
            &["volume", "attach", "vm1"][..],
            &["volume", "resize", "vm1", "+1G"],
            &["volume", "delete", "vm1"],
        ] {
            let ended = run(&daemon.socket, line, b"");
            assert_eq!(
                ended.code,
                Some(i32::from(u8::try_from(code).expect("code")))
            );
            assert!(ended.stderr.starts_with("error: refused"), "{ended:?}");
        }
    }
}

#[test]
fn list_show_detach_delete_and_wait() {
    let daemon = FakeDaemon::start();
    let list = run(&daemon.socket, &["volume", "list"], b"");
    assert!(list.stdout.contains("vm1"), "{list:?}");
    let show = run(&daemon.socket, &["volume", "show", "vm1"], b"");
    assert!(show.stdout.contains("debian-13"), "{show:?}");
    let unknown = run(&daemon.socket, &["volume", "show", "nosuch"], b"");
    assert_eq!(unknown.code, Some(3));
    let detach = run(&daemon.socket, &["volume", "detach", "vm1"], b"");
    assert_eq!(said(&detach), (Some(0), "vm1 is not attached\n", ""));
    let wait = run(&daemon.socket, &["wait", "volume", "vm1"], b"");
    assert_eq!(
        said(&wait),
        (Some(0), "", "vm1 is there, and not attached\n")
    );
    daemon.with(|seen| seen.volumes.attached = true);
    let wait = run(
        &daemon.socket,
        &["wait", "volume", "vm1", "--timeout", "5s"],
        b"",
    );
    assert_eq!(said(&wait), (Some(0), "/dev/ublkb5\n", ""));
    let detach = run(&daemon.socket, &["volume", "detach", "vm1"], b"");
    assert_eq!(said(&detach), (Some(0), "detached vm1\n", ""));
    let delete = run(&daemon.socket, &["volume", "delete", "vm1"], b"");
    assert_eq!(said(&delete), (Some(0), "deleted vm1\n", ""));
}
