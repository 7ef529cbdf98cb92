//! Rot: found by the scrub, repaired where another copy has it, and known where none has. Nobody asks for any of it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;

use crate::harness::{MIB, Node, until};

const BLOCK: usize = 4096;
/// A block of the image that is spoilt.
const AT: usize = (2 << 20) + 3 * BLOCK;

/// A node whose scrub never rests, with disks `disk0`, `disk1`, ...
fn scrubbing(disks: usize) -> Node {
    let mut node = Node::new();
    "[scrub]\ninterval_s = 1\n".clone_into(&mut node.settings);
    node.start();
    for number in 0..disks {
        let disk = node.text(&format!("disk{number}"));
        node.ok(&["disk", "format", &disk, "--size", &(64 * MIB).to_string()]);
    }
    let copies = disks.to_string();
    node.random_file("source", 5 * MIB, 3);
    let source = node.text("source");
    node.ok(&["image", "import", "a", &source, "--copies", &copies]);
    until("all copies", || node.image("a")["copies_ready"] == disks);
    node
}

fn open(node: &Node, disk: &str) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(node.path(disk))
        .unwrap()
}

/// Where the block lies, by its content, so that the test knows nothing of the allocator.
fn place(node: &Node, disk: &str) -> u64 {
    let source = std::fs::read(node.path("source")).unwrap();
    let bytes = std::fs::read(node.path(disk)).unwrap();
    let at = bytes
        .chunks_exact(BLOCK)
        .position(|block| block == &source[AT..AT + BLOCK])
        .unwrap();
    (at * BLOCK) as u64
}

fn flip(node: &Node, disk: &str, at: u64) {
    let file = open(node, disk);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at + 9).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at + 9).unwrap();
}

fn is_right(node: &Node, disk: &str, at: u64) -> bool {
    let source = std::fs::read(node.path("source")).unwrap();
    let mut block = vec![0; BLOCK];
    open(node, disk).read_exact_at(&mut block, at).unwrap();
    block == source[AT..AT + BLOCK]
}

#[test]
fn rot_in_one_of_two_copies_is_repaired_from_the_other_by_itself() {
    let node = scrubbing(2);
    let at = place(&node, "disk0");
    flip(&node, "disk0", at);
    until("it is repaired", || is_right(&node, "disk0", at));
    until("both are Ready", || node.image("a")["copies_ready"] == 2);
    let history = node.image("a")["history"].to_string();
    assert!(history.contains("Damaged"), "{history}");
    assert!(node.log().contains("repaired from another replica"));
}

#[test]
fn rot_in_both_copies_is_damage_that_is_found_again_after_a_crash_and_taken_back_when_the_bytes_are_right()
 {
    let mut node = scrubbing(2);
    let sha256 = node.image("a")["sha256"].clone();
    let places = [place(&node, "disk0"), place(&node, "disk1")];
    node.stop();
    for (number, at) in places.iter().enumerate() {
        flip(&node, &format!("disk{number}"), *at);
    }
    node.start();
    let damaged = |node: &Node| {
        let shown = node.image("a");
        let replicas = shown["replicas"].as_array().unwrap();
        replicas
            .iter()
            .all(|replica| replica["state"] == "Damaged" && replica["damaged"][0]["offset"] == AT)
    };
    until("both are Damaged", || damaged(&node));
    let shown = node.image("a");
    for replica in shown["replicas"].as_array().unwrap() {
        let why = replica["why"].as_str().unwrap();
        assert!(why.contains("CRC32C expected 0x"), "{why}");
        assert!(why.contains("actual 0x"), "{why}");
        assert_eq!(replica["damaged"][0]["len_bytes"], BLOCK);
    }
    assert_eq!(shown["state"], "Damaged");
    node.kill();
    node.start();
    until("both are Damaged again", || damaged(&node));
    let error = node.fails(6, &["image", "verify", "a"]);
    assert_eq!(error["kind"], "corrupt");

    // One of them is right again: the other one is repaired from it.
    flip(&node, "disk1", places[1]);
    node.ok(&["image", "recheck", "a"]);
    until("both are Ready", || node.image("a")["copies_ready"] == 2);
    assert!(is_right(&node, "disk0", places[0]));
    assert_eq!(node.image("a")["sha256"], sha256);
}

#[test]
fn verify_repairs_and_says_how_much() {
    let mut node = Node::new();
    node.settings = "[scrub]\nenabled = false\n".to_owned();
    node.start();
    for disk in ["disk0", "disk1"] {
        let disk = node.text(disk);
        node.ok(&["disk", "format", &disk, "--size", &(64 * MIB).to_string()]);
    }
    node.random_file("source", 5 * MIB, 4);
    let source = node.text("source");
    node.ok(&["image", "import", "a", &source, "--copies", "2"]);
    until("two copies", || node.image("a")["copies_ready"] == 2);
    let at = place(&node, "disk1");
    flip(&node, "disk1", at);
    let said = node.ok(&["image", "verify", "a"]);
    let said = format!("{}{}", said.stdout, said.stderr);
    assert!(said.contains("1 blocks repaired"), "{said}");
    assert!(is_right(&node, "disk1", at));
    let jobs = node.json(&["job", "list"])["jobs"].clone();
    let verify = &jobs.as_array().unwrap().last().unwrap()["verify"];
    assert_eq!(verify["replicas"], 2);
    assert_eq!(verify["bad_block_count"], 1);
    assert_eq!(verify["repaired_block_count"], 1);
}
