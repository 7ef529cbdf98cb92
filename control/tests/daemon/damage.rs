//! Rot, found and named; superblock copies, repaired or refused.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;

use crate::harness::{MIB, Node};

/// Where the copies of a superblock lie on a disk of this size.
fn superblocks(disk_bytes: u64) -> [u64; 4] {
    let cluster = 131_072;
    [
        4096,
        65_536,
        131_072,
        disk_bytes / cluster * cluster - cluster,
    ]
}

fn disk(node: &Node) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(node.path("disk"))
        .unwrap()
}

#[test]
fn a_flipped_byte_in_an_image_is_found_and_named() {
    let node = Node::with_disk(64 * MIB);
    let source = node.random_file("source", 3 * MIB, 1);
    node.ok(&["image", "import", "a", &node.text("source")]);
    node.ok(&["image", "verify", "a"]);
    // Found by its content, so that the test knows nothing of the allocator.
    let object_offset = 2 * MIB + 8192;
    let source = std::fs::read(source).unwrap();
    let start = usize::try_from(object_offset).unwrap();
    let wanted = &source[start..start + 4096];
    let bytes = std::fs::read(node.path("disk")).unwrap();
    let at = bytes
        .chunks_exact(4096)
        .position(|block| block == wanted)
        .unwrap() as u64
        * 4096;
    disk(&node)
        .write_all_at(&[bytes[usize::try_from(at).unwrap() + 17] ^ 1], at + 17)
        .unwrap();

    let error = node.fails(6, &["image", "verify", "a"]);
    assert_eq!(error["kind"], "corrupt");
    assert_eq!(error["object"], "a");
    assert_eq!(error["offset"], at);
    let jobs = node.json(&["job", "list"])["jobs"].clone();
    let verify = &jobs.as_array().unwrap().last().unwrap()["verify"];
    assert_eq!(verify["bad_block_count"], 1);
    let bad = &verify["bad_blocks"][0];
    assert_eq!(bad["object_offset"], object_offset);
    assert_eq!(bad["disk_offset"], at);
    assert_ne!(bad["expected_crc32c"], bad["actual_crc32c"]);
    assert_ne!(verify["sha256_expected"], verify["sha256_actual"]);
    let image = node.image("a");
    assert_eq!(image["state"], "Damaged");
    // What was recorded is never changed by what is found.
    assert_eq!(image["sha256"], verify["sha256_expected"]);

    disk(&node)
        .write_all_at(&[bytes[usize::try_from(at).unwrap() + 17]], at + 17)
        .unwrap();
    node.ok(&["image", "verify", "a"]);
    assert_eq!(node.image("a")["state"], "Ready");
}

#[test]
fn any_one_superblock_copy_may_be_destroyed() {
    let mut node = Node::with_disk(64 * MIB);
    node.random_file("source", MIB, 2);
    node.ok(&["image", "import", "a", &node.text("source")]);
    for (copy, at) in superblocks(64 * MIB).into_iter().enumerate() {
        node.stop();
        disk(&node).write_all_at(&[0xa5; 4096], at).unwrap();
        node.start();
        assert_eq!(node.image("a")["state"], "Ready", "copy {copy}");
        let repairs = node.json(&["disk", "show", &node.text("disk")])["repairs"].clone();
        assert!(
            repairs
                .to_string()
                .contains(&format!("superblock copy {copy}")),
            "{repairs}"
        );
    }
    node.stop();
    node.start();
    assert_eq!(
        node.json(&["disk", "show", &node.text("disk")])["repairs"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn with_three_superblock_copies_destroyed_the_disk_is_refused_untouched() {
    let mut node = Node::with_disk(64 * MIB);
    node.stop();
    for at in &superblocks(64 * MIB)[1..] {
        disk(&node).write_all_at(&[0xa5; 4096], *at).unwrap();
    }
    let before = std::fs::read(node.path("disk")).unwrap();
    node.start();
    let seen = node.json(&["disk", "list"])["disks"][0].clone();
    assert_eq!(seen["state"], "Offline", "{seen}");
    assert!(
        seen["why"].as_str().unwrap().contains("superblock copies"),
        "{seen}"
    );
    let error = node.fails(6, &["disk", "add", &node.text("disk")]);
    assert_eq!(error["kind"], "corrupt", "{error}");
    node.stop();
    assert!(
        std::fs::read(node.path("disk")).unwrap() == before,
        "a refused disk was written to"
    );
}
