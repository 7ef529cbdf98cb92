//! Sources that cannot be imported, each with an error of its own.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::harness::{MIB, Node, Outcome, until};

#[test]
fn what_is_no_image_is_refused_with_its_own_reason() {
    let node = Node::with_disk(64 * MIB);
    std::fs::create_dir(node.path("folder")).unwrap();
    File::create(node.path("empty")).unwrap();
    let mut qcow2 = vec![0; 4096];
    qcow2[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    std::fs::write(node.path("image.qcow2"), qcow2).unwrap();
    for (source, code, kind) in [
        ("missing", 3, "source_not_found"),
        ("folder", 1, "source_not_a_file"),
        ("empty", 1, "source_empty"),
        ("image.qcow2", 1, "source_format"),
    ] {
        let error = node.fails(code, &["image", "import", "x", &node.text(source)]);
        assert_eq!(error["kind"], kind, "{source}: {error}");
        assert!(error["remedy"].is_string(), "{source}: {error}");
    }
    assert_eq!(
        node.fails(1, &["image", "import", "x", "/dev/null"])["kind"],
        "source_not_a_file"
    );
    node.ok(&[
        "image",
        "import",
        "x",
        &node.text("image.qcow2"),
        "--format",
        "raw",
    ]);
}

#[test]
fn an_empty_stream_is_refused() {
    let node = Node::with_disk(64 * MIB);
    let outcome = node.run_with_input(&["-o", "json", "image", "import", "x", "-"], b"");
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert_eq!(outcome.error()["kind"], "source_empty");
}

#[test]
fn a_file_that_shrinks_while_it_is_read_fails_the_import() {
    let node = Node::with_disk(64 * MIB);
    let before = node.free_bytes();
    // Large enough to be at work for a while, and a hole, so that it fits: every byte is hashed.
    let file = File::create(node.path("shrinks")).unwrap();
    file.set_len(64 << 30).unwrap();
    let child = node
        .cli(&[
            "-o",
            "json",
            "image",
            "import",
            "x",
            &node.text("shrinks"),
            "--format",
            "raw",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the import runs", || {
        node.json(&["job", "list"])["jobs"][0]["state"] == "Running"
    });
    file.set_len(MIB).unwrap();
    let outcome = Outcome::of(&child.wait_with_output().unwrap());
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert_eq!(outcome.error()["kind"], "source_changed");
    assert_eq!(node.free_bytes(), before);
}

#[test]
fn a_file_that_the_daemon_may_not_read_is_named() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root, to run the daemon as somebody who may not read a file");
        return;
    }
    let mut node = Node::new();
    let nobody = 65_534;
    std::os::unix::fs::chown(node.path(""), Some(nobody), Some(nobody)).unwrap();
    node.start_as(nobody);
    node.ok(&["disk", "format", &node.text("disk"), "--size", "64M"]);
    let file = node.random_file("secret", MIB, 1);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = node.fails(1, &["image", "import", "x", &node.text("secret")]);
    assert_eq!(error["kind"], "source_unreadable", "{error}");
    assert_eq!(error["errno"], 13, "{error}");
}
