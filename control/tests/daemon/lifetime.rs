//! What must survive the daemon's end, however it ends.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use serde_json::Value;

use crate::harness::{MIB, Node, Outcome, random_bytes, until};

/// What must never change.
fn identity(image: &Value) -> [Value; 6] {
    [
        "uuid",
        "size_bytes",
        "sha256",
        "sha512",
        "stored_bytes",
        "created_unix_ms",
    ]
    .map(|field| image[field].clone())
}

/// The failure that this project answers: a sparse 32 MiB image with 6 MiB allocated came back as failed.
#[test]
fn a_sparse_image_is_ready_after_restarts_and_kills_and_nothing_is_imported_again() {
    let mut node = Node::with_disk(256 * MIB);
    let file = File::create(node.path("sparse")).unwrap();
    file.set_len(32 * MIB).unwrap();
    for (seed, at) in [1, 6, 11, 16, 21, 26].into_iter().enumerate() {
        file.write_all_at(&random_bytes(MIB, 100 + seed as u64), at * MIB)
            .unwrap();
    }
    node.ok(&["image", "import", "sparse", &node.text("sparse")]);
    let imported = identity(&node.image("sparse"));
    assert_eq!(imported[1], 32 * MIB);
    let free = node.free_bytes();
    // Nobody can import it again.
    std::fs::remove_file(node.path("sparse")).unwrap();
    for round in 0..10 {
        if round % 2 == 0 {
            node.stop();
        } else {
            node.kill();
        }
        node.start();
        let image = node.image("sparse");
        assert_eq!(image["state"], "Ready");
        assert_eq!(identity(&image), imported);
        assert_eq!(node.free_bytes(), free);
        assert_eq!(
            node.json(&["job", "list"])["jobs"],
            Value::Array(Vec::new())
        );
    }
    node.ok(&["image", "verify", "sparse"]);
}

#[test]
fn a_disk_says_how_its_last_session_ended() {
    let mut node = Node::with_disk(64 * MIB);
    let ended =
        |node: &Node| node.json(&["disk", "show", &node.text("disk")])["previous_session"].clone();
    node.stop();
    node.start();
    assert_eq!(ended(&node), "clean");
    node.kill();
    node.start();
    assert_eq!(ended(&node), "crash_same_boot");
}

#[test]
fn a_kill_in_the_middle_of_an_import_leaves_no_image_and_all_space() {
    let mut node = Node::with_disk(128 * MIB);
    let before = node.free_bytes();
    let mut child = node.piped(&["image", "import", "half", "-"]);
    let mut input = child.stdin.take().unwrap();
    input.write_all(&random_bytes(20 * MIB, 3)).unwrap();
    until("most of it is stored", || {
        node.json(&["job", "list"])["jobs"][0]["progress"]["done_bytes"].as_u64() >= Some(16 * MIB)
    });
    node.kill();
    drop(input);
    let outcome = Outcome::of(&child.wait_with_output().unwrap());
    assert_ne!(outcome.code, 0, "{outcome:?}");
    node.start();
    assert_eq!(
        node.fails(3, &["image", "show", "half"])["kind"],
        "not_found"
    );
    assert_eq!(node.free_bytes(), before);
}

#[test]
fn sigterm_in_the_middle_of_an_import_ends_in_order() {
    let mut node = Node::with_disk(128 * MIB);
    let before = node.free_bytes();
    let mut child = node.piped(&["image", "import", "half", "-"]);
    let mut input = child.stdin.take().unwrap();
    input.write_all(&random_bytes(4 * MIB, 4)).unwrap();
    until("it is at work", || {
        node.json(&["job", "list"])["jobs"][0]["state"] == "Running"
    });
    node.stop();
    drop(input);
    assert_ne!(Outcome::of(&child.wait_with_output().unwrap()).code, 0);
    node.start();
    assert_eq!(
        node.json(&["disk", "show", &node.text("disk")])["previous_session"],
        "clean"
    );
    assert_eq!(node.free_bytes(), before);
}

#[test]
fn a_second_daemon_on_the_same_run_directory_is_refused() {
    let node = Node::started();
    let second = node.command().output().unwrap();
    let log = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{log}");
    assert!(log.contains("another bedplated (pid "), "{log}");
    node.ok(&["status"]);
}

#[test]
fn a_second_daemon_on_the_same_disk_is_refused_and_the_first_goes_on() {
    let first = Node::with_disk(64 * MIB);
    let second = Node::started();
    let error = second.fails(9, &["disk", "add", &first.text("disk")]);
    assert_eq!(error["kind"], "busy");
    assert!(
        error["message"].as_str().unwrap().contains("bedplated"),
        "{error}"
    );
    assert_eq!(
        second.fails(9, &["disk", "format", &first.text("disk"), "--force"])["kind"],
        "busy"
    );
    assert_eq!(
        second.json(&["disk", "list"])["disks"][0]["state"],
        "Offline"
    );
    first.random_file("source", MIB, 5);
    first.ok(&["image", "import", "a", &first.text("source")]);
}

#[test]
fn without_ublk_attach_says_what_is_missing() {
    if std::path::Path::new("/dev/ublk-control").exists() {
        eprintln!("skipped: this machine has ublk");
        return;
    }
    let node = Node::with_disk(64 * MIB);
    node.random_file("source", MIB, 6);
    node.ok(&["image", "import", "a", &node.text("source")]);
    let error = node.fails(7, &["image", "attach", "a"]);
    assert_eq!(error["kind"], "kernel_unsupported");
    assert!(
        error["remedy"]
            .as_str()
            .unwrap()
            .contains("modprobe ublk_drv"),
        "{error}"
    );
    node.ok(&["image", "detach", "a"]);
    let state = node.image("a")["attachment"]["state"].clone();
    assert_eq!(state, "Detached");
    let problems = node.json(&["status"])["problems"].clone();
    assert_eq!(problems[0]["kind"], "kernel_unsupported");
}

#[test]
fn wait_answers_when_the_image_is_there_and_not_before() {
    let node = Node::with_disk(64 * MIB);
    node.random_file("source", MIB, 7);
    assert_eq!(
        node.fails(1, &["wait", "image", "late", "--timeout", "200ms"])["kind"],
        "timed_out"
    );
    let waiting = node
        .cli(&["wait", "image", "late", "--timeout", "30s"])
        .spawn()
        .unwrap();
    node.ok(&["image", "import", "late", &node.text("source")]);
    assert!(waiting.wait_with_output().unwrap().status.success());
}

#[test]
fn settings_are_checked_without_starting() {
    let mut node = Node::new();
    let good = node.command().arg("--check-config").output().unwrap();
    assert!(good.status.success(), "{good:?}");
    node.settings = "disk = ['/dev/typo']".to_owned();
    let bad = node.command().arg("--check-config").output().unwrap();
    assert_eq!(bad.status.code(), Some(2));
    let text = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(
        text.contains("bedplated.toml:4:") && text.contains("unknown field `disk`"),
        "{text}"
    );
    assert!(!node.path("run").exists());
}
