//! Imports that end well, and those that must leave nothing behind.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use crate::harness::{MIB, Node, Outcome, random_bytes, sha256_of, until};

#[test]
fn images_of_any_length_come_back_byte_for_byte() {
    let node = Node::with_disk(256 * MIB);
    for (seed, len_bytes) in [
        1,
        511,
        512,
        4095,
        4096,
        4097,
        131_071,
        131_073,
        MIB - 1,
        MIB + 1,
        5 * MIB + 12_345,
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("i{len_bytes}");
        let file = node.random_file("source", len_bytes, seed as u64);
        node.ok(&["image", "import", &name, &node.text("source")]);
        let image = node.image(&name);
        assert_eq!(image["state"], "Ready");
        assert_eq!(image["size_bytes"], len_bytes);
        assert_eq!(image["sha256"], sha256_of(&file));
        // Reads everything back from the disk and hashes it.
        node.ok(&["image", "verify", &name]);
    }
}

#[test]
fn holes_and_zeros_take_no_space() {
    let node = Node::with_disk(256 * MIB);
    let file = File::create(node.path("sparse")).unwrap();
    file.set_len(32 * MIB).unwrap();
    for (seed, at) in [0, 5, 9, 20, 25, 31].into_iter().enumerate() {
        file.write_all_at(&random_bytes(MIB, seed as u64), at * MIB)
            .unwrap();
    }
    // Zeros that are allocated in the source are not stored either.
    file.write_all_at(&vec![0; 2 << 20], 12 * MIB).unwrap();
    let before = node.free_bytes();
    node.ok(&["image", "import", "sparse", &node.text("sparse")]);
    let image = node.image("sparse");
    assert_eq!(image["size_bytes"], 32 * MIB);
    assert_eq!(image["sha256"], sha256_of(&node.path("sparse")));
    let taken = before - node.free_bytes();
    assert!(
        (6 * MIB..7 * MIB).contains(&taken),
        "{taken} bytes taken for 6 MiB of data"
    );
    node.ok(&["image", "verify", "sparse"]);
}

#[test]
fn standard_input_is_imported_like_a_file() {
    let node = Node::with_disk(256 * MIB);
    let file = node.random_file("source", 3 * MIB + 777, 5);
    let outcome = node.run_with_input(
        &["image", "import", "piped", "-"],
        &std::fs::read(&file).unwrap(),
    );
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let image = node.image("piped");
    assert_eq!(image["sha256"], sha256_of(&file));
    assert_eq!(image["size_bytes"], 3 * MIB + 777);
    node.ok(&["image", "verify", "piped"]);
}

#[test]
fn a_stream_that_breaks_off_leaves_nothing() {
    let node = Node::with_disk(256 * MIB);
    let before = node.free_bytes();
    let mut child = node.piped(&["image", "import", "cut", "-"]);
    let mut input = child.stdin.take().unwrap();
    input.write_all(&random_bytes(5 * MIB, 7)).unwrap();
    until("the import stores what came", || {
        node.free_bytes_of_import() < before
    });
    child.kill().unwrap();
    child.wait().unwrap();
    until("the job failed", || {
        node.json(&["job", "list"])["jobs"][0]["state"] == "Failed"
    });
    assert_eq!(
        node.json(&["job", "list"])["jobs"][0]["error"]["kind"],
        "source_lost"
    );
    assert_eq!(node.free_bytes(), before);
    assert_eq!(
        node.fails(3, &["image", "show", "cut"])["kind"],
        "not_found"
    );
    // The name is free again.
    node.random_file("source", MIB, 8);
    node.ok(&["image", "import", "cut", &node.text("source")]);
}

#[test]
fn a_wrong_checksum_fails_and_names_both() {
    let node = Node::with_disk(256 * MIB);
    let file = node.random_file("source", 2 * MIB, 9);
    let before = node.free_bytes();
    let wrong = "0".repeat(64);
    let error = node.fails(
        6,
        &[
            "image",
            "import",
            "a",
            &node.text("source"),
            "--sha256",
            &wrong,
        ],
    );
    assert_eq!(error["kind"], "checksum_mismatch");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains(&wrong) && message.contains(&sha256_of(&file)),
        "{message}"
    );
    assert_eq!(node.free_bytes(), before);
    assert_eq!(
        node.fails(
            6,
            &[
                "image",
                "import",
                "a",
                &node.text("source"),
                "--sha512",
                &"0".repeat(128)
            ]
        )["kind"],
        "checksum_mismatch"
    );
    node.ok(&[
        "image",
        "import",
        "a",
        &node.text("source"),
        "--sha256",
        &sha256_of(&file),
    ]);
}

#[test]
fn a_full_disk_fails_the_import_and_gives_the_space_back() {
    let node = Node::with_disk(64 * MIB);
    let before = node.free_bytes();
    node.random_file("big", 80 * MIB, 10);
    let error = node.fails(8, &["image", "import", "big", &node.text("big")]);
    assert_eq!(error["kind"], "no_space");
    assert_eq!(error["object"], "big");
    assert_eq!(node.free_bytes(), before);
    node.random_file("small", MIB, 11);
    node.ok(&["image", "import", "small", &node.text("small")]);
}

#[test]
fn a_cancelled_import_leaves_nothing() {
    let node = Node::with_disk(256 * MIB);
    let before = node.free_bytes();
    let mut child = node.piped(&["-o", "json", "image", "import", "c", "-"]);
    let mut input = child.stdin.take().unwrap();
    input.write_all(&random_bytes(3 * MIB, 12)).unwrap();
    until("the import runs", || {
        node.json(&["job", "list"])["jobs"][0]["state"] == "Running"
    });
    assert_eq!(node.image("c")["state"], "InProgress");
    node.ok(&["job", "cancel", "1"]);
    assert_eq!(node.json(&["job", "list"])["jobs"][0]["state"], "Cancelled");
    assert_eq!(node.free_bytes(), before);
    drop(input);
    let outcome = Outcome::of(&child.wait_with_output().unwrap());
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert_eq!(outcome.error()["kind"], "cancelled");
    assert_eq!(node.fails(3, &["image", "show", "c"])["kind"], "not_found");
}

#[test]
fn names_are_checked_and_taken_only_once() {
    let node = Node::with_disk(256 * MIB);
    node.random_file("source", MIB, 13);
    node.ok(&["image", "import", "ubuntu-22.04", &node.text("source")]);
    assert_eq!(
        node.fails(
            4,
            &["image", "import", "ubuntu-22.04", &node.text("source")]
        )["kind"],
        "exists"
    );
    for name in ["../x", "a/b", "-a", "", "a b"] {
        assert_eq!(
            node.fails(2, &["image", "import", "--", name, &node.text("source")])["kind"],
            "bad_name",
            "{name}"
        );
    }
    let mut child = node.piped(&["image", "import", "b", "-"]);
    until("the import has the name", || {
        node.run(&["image", "show", "b"]).code == 0
    });
    assert_eq!(
        node.fails(4, &["image", "import", "b", &node.text("source")])["kind"],
        "exists"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_image_that_wants_more_copies_than_it_has_is_degraded() {
    let node = Node::with_disk(256 * MIB);
    node.random_file("source", MIB, 14);
    node.ok(&[
        "image",
        "import",
        "d",
        &node.text("source"),
        "--copies",
        "2",
    ]);
    let image = node.image("d");
    assert_eq!(
        (&image["state"], &image["degraded"]),
        (&"Ready".into(), &true.into())
    );
    assert_eq!(
        (&image["copies_wanted"], &image["copies_ready"]),
        (&2.into(), &1.into())
    );
}

#[test]
fn a_deleted_image_gives_its_space_back_and_its_name() {
    let node = Node::with_disk(256 * MIB);
    let before = node.free_bytes();
    node.random_file("source", 4 * MIB, 15);
    for _ in 0..3 {
        node.ok(&["image", "import", "again", &node.text("source")]);
        node.ok(&["image", "delete", "again"]);
        assert_eq!(
            node.fails(3, &["image", "show", "again"])["kind"],
            "not_found"
        );
    }
    assert_eq!(node.free_bytes(), before);
    assert_eq!(
        node.fails(3, &["image", "delete", "again"])["kind"],
        "not_found"
    );
}

#[test]
fn many_small_imports_at_once_all_arrive() {
    let node = Node::with_disk(256 * MIB);
    let children: Vec<_> = (0..12)
        .map(|number| {
            let file = node.random_file(&format!("s{number}"), 300_000 + number, number);
            let name = format!("n{number}");
            (
                file,
                node.cli(&["image", "import", &name, &node.text(&format!("s{number}"))])
                    .spawn()
                    .unwrap(),
            )
        })
        .collect();
    for (number, (file, mut child)) in children.into_iter().enumerate() {
        assert!(child.wait().unwrap().success());
        assert_eq!(
            node.image(&format!("n{number}"))["sha256"],
            sha256_of(&file)
        );
    }
}

impl Node {
    /// Free bytes while an import runs: told only once it ends, so its progress is looked at instead.
    fn free_bytes_of_import(&self) -> u64 {
        let jobs = self.json(&["job", "list"]);
        let done = jobs["jobs"][0]["progress"]["done_bytes"]
            .as_u64()
            .unwrap_or(0);
        self.free_bytes().saturating_sub(done)
    }
}
