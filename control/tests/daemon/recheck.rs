//! Metadata that a disk did not give for a while, or has lost: replicas that are not trusted, and trusted again by word of an operator once all
//! of it checks out; pages of checksums had back from another copy.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use serde_json::Value;

use crate::harness::{MIB, Node, until};

const PAGE: u64 = 4096;

/// A node that does not scrub, with `disk0`, `disk1`, ... and an image `a` on each.
fn with_copies(disks: usize, settings: &str) -> Node {
    let mut node = Node::new();
    settings.clone_into(&mut node.settings);
    node.start();
    for number in 0..disks {
        let disk = node.text(&format!("disk{number}"));
        node.ok(&["disk", "format", &disk, "--size", &(64 * MIB).to_string()]);
    }
    node.random_file("source", 5 * MIB, 4);
    let (source, copies) = (node.text("source"), disks.to_string());
    node.ok(&["image", "import", "a", &source, "--copies", &copies]);
    until("all copies", || node.image("a")["copies_ready"] == disks);
    node
}

const NO_SCRUB: &str = "[scrub]\nenabled = false\n";

/// First copies of the page pairs of a disk that begin so, behind the first MiB.
fn pairs(node: &Node, disk: &str, magic: [u8; 8]) -> Vec<u64> {
    let bytes = std::fs::read(node.path(disk)).unwrap();
    (0..)
        .zip(bytes.chunks_exact(4096))
        .skip(256)
        .step_by(2)
        .filter(|(_, page)| page.starts_with(&magic))
        .map(|(number, _)| number * PAGE)
        .collect()
}

/// Spoils both copies of a pair; a second time takes it back.
fn flip(node: &Node, disk: &str, pair: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(node.path(disk))
        .unwrap();
    for at in [pair + 1000, pair + PAGE + 1000] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
}

fn pair_bytes(node: &Node, disk: &str, pair: u64) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let file = std::fs::File::open(node.path(disk)).unwrap();
    file.read_exact_at(&mut bytes, pair).unwrap();
    bytes
}

fn replicas_in(node: &Node, image: &str, state: &str) -> usize {
    let shown = node.image(image);
    let replicas = shown["replicas"].as_array().unwrap();
    replicas
        .iter()
        .filter(|replica| replica["state"] == state)
        .count()
}

/// The daemon opens the disk with the pair bad in both copies.
fn reopen_with_bad(node: &mut Node, pair: u64) {
    node.stop();
    flip(node, "disk0", pair);
    node.start();
}

#[test]
fn a_failed_image_stays_failed_with_its_cause_until_its_metadata_is_whole_again() {
    let mut node = with_copies(1, NO_SCRUB);
    let sha256 = node.image("a")["sha256"].clone();
    for magic in [*b"BPMAP\0\0\0", *b"BPDIR\0\0\0"] {
        let pair = pairs(&node, "disk0", magic)[0];
        reopen_with_bad(&mut node, pair);
        assert_eq!(node.image("a")["state"], "Failed");
        for verb in ["verify", "recheck"] {
            let error = node.fails(6, &["image", verb, "a"]);
            assert_eq!(error["kind"], "corrupt", "{error}");
            assert_eq!(error["offset"], pair);
            let remedy = error["remedy"].as_str().unwrap();
            assert!(remedy.contains("image recheck a"), "{remedy}");
        }
        let shown = node.image("a");
        assert_eq!(shown["state"], "Failed");
        assert!(
            shown["why"].as_str().unwrap().contains("are bad"),
            "{shown}"
        );
        let error = node.fails(1, &["volume", "create", "v", "--size", "16M"]);
        assert_eq!(error["kind"], "held", "nothing is allocated: {error}");

        flip(&node, "disk0", pair);
        let said = node.ok(&["image", "recheck", "a"]);
        let said = format!("{}{}", said.stdout, said.stderr);
        assert!(said.contains("a is good"), "{said}");
        let shown = node.image("a");
        assert_eq!(
            (&shown["state"], &shown["sha256"]),
            (&"Ready".into(), &sha256)
        );
        let history = shown["history"].to_string();
        assert!(history.contains("Failed"), "{history}");
        node.ok(&["volume", "create", "v", "--image", "a"]);
        node.ok(&["volume", "delete", "v"]);
    }
    node.kill();
    node.start();
    node.ok(&["image", "verify", "a"]);
}

#[test]
fn while_a_disk_has_a_failed_image_new_objects_go_to_the_others() {
    let mut node = with_copies(1, NO_SCRUB);
    let small = node.text("disk1");
    node.ok(&["disk", "format", &small, "--size", &(64 * MIB).to_string()]);
    let filler = node.random_file("filler", 12 * MIB, 5);
    node.ok(&["image", "import", "filler", &filler.display().to_string()]);
    let pair = pairs(&node, "disk0", *b"BPMAP\0\0\0")[0];
    reopen_with_bad(&mut node, pair);
    assert_eq!(node.image("a")["state"], "Failed");
    let disks = node.json(&["disk", "list"])["disks"].clone();
    assert!(disks[0]["free_bytes"].as_u64() > disks[1]["free_bytes"].as_u64());

    node.ok(&["volume", "create", "v", "--size", "16M"]);
    let volume = node.json(&["volume", "show", "v"]);
    assert_eq!(volume["disk_path"], small.as_str(), "{volume}");
    let source = node.text("source");
    node.ok(&["image", "import", "b", &source, "--copies", "2"]);
    node.ok(&["volume", "create", "w", "--image", "b"]);
    until("there is no place for the other copy", || {
        let why = node.image("b")["degraded_why"].to_string();
        why.contains("no disk has room for 1 more copy")
    });

    // Whole again, it has most room, and gets it.
    flip(&node, "disk0", pair);
    node.ok(&["image", "recheck", "a"]);
    until("the other copy", || node.image("b")["copies_ready"] == 2);
}

#[test]
fn a_lost_slot_is_the_image_that_it_was_once_it_can_be_read() {
    let mut node = with_copies(1, NO_SCRUB);
    let pair = pairs(&node, "disk0", *b"BPOBJECT")[0];
    reopen_with_bad(&mut node, pair);
    node.fails(3, &["image", "show", "a"]);
    let lost = node.json(&["image", "list"])["images"][0].clone();
    let name = lost["name"].as_str().unwrap();
    assert_eq!(lost["state"], "Failed", "{lost}");
    node.fails(6, &["image", "recheck", name]);
    flip(&node, "disk0", pair);
    node.ok(&["image", "recheck", name]);
    assert_eq!(node.image("a")["state"], "Ready");
    let images = node.json(&["image", "list"])["images"].clone();
    assert_eq!(images.as_array().unwrap().len(), 1, "{images}");
    assert_eq!(node.image("a")["job"], Value::Null);
}

#[test]
fn content_that_rotted_meanwhile_is_damage_and_not_trusted_blindly() {
    let mut node = with_copies(1, NO_SCRUB);
    let pair = pairs(&node, "disk0", *b"BPMAP\0\0\0")[0];
    let source = std::fs::read(node.path("source")).unwrap();
    let bytes = std::fs::read(node.path("disk0")).unwrap();
    let block = bytes
        .chunks_exact(4096)
        .position(|block| block == &source[40960..45056])
        .unwrap() as u64;
    reopen_with_bad(&mut node, pair);
    flip(&node, "disk0", pair);
    let file = OpenOptions::new()
        .write(true)
        .open(node.path("disk0"))
        .unwrap();
    file.write_all_at(b"rot", block * PAGE).unwrap();
    let error = node.fails(6, &["image", "recheck", "a"]);
    assert_eq!(error["offset"], block * PAGE, "{error}");
    let shown = node.image("a");
    assert_eq!(shown["state"], "Damaged", "{shown}");
    assert_eq!(shown["replicas"][0]["damaged"][0]["offset"], 40960);
}

#[test]
fn of_two_copies_the_failed_one_comes_back_and_the_image_is_ready_all_along() {
    let mut node = with_copies(2, NO_SCRUB);
    let pair = pairs(&node, "disk0", *b"BPMAP\0\0\0")[0];
    reopen_with_bad(&mut node, pair);
    until("one is Failed, one Ready", || {
        replicas_in(&node, "a", "Failed") == 1 && replicas_in(&node, "a", "Ready") == 1
    });
    assert_eq!(node.image("a")["state"], "Ready");
    // The other one is read all the same, and the job says what is wrong.
    node.fails(6, &["image", "recheck", "a"]);
    node.ok(&["image", "verify", "a"]);
    flip(&node, "disk0", pair);
    node.ok(&["image", "recheck", "a"]);
    assert_eq!(replicas_in(&node, "a", "Ready"), 2);
    assert_eq!(node.image("a")["degraded"], false);
}

#[test]
fn a_failed_copy_goes_alone_and_the_good_one_stays_and_is_copied_again() {
    let mut node = with_copies(2, NO_SCRUB);
    let error = node.fails(3, &["image", "delete", "a", "--failed-copies"]);
    assert_eq!(error["kind"], "not_found", "none is Failed: {error}");
    let pair = pairs(&node, "disk0", *b"BPMAP\0\0\0")[0];
    reopen_with_bad(&mut node, pair);
    until("one is Failed, one Ready", || {
        replicas_in(&node, "a", "Failed") == 1 && replicas_in(&node, "a", "Ready") == 1
    });
    let good = node.image("a")["replicas"].as_array().unwrap().clone();
    let good = good.iter().find(|replica| replica["state"] == "Ready");
    let good = good.unwrap()["uuid"].clone();
    node.ok(&["image", "delete", "a", "--failed-copies"]);
    assert_eq!(replicas_in(&node, "a", "Failed"), 0);
    // Its disk allocates again, so that it gets another one.
    until("two copies are Ready", || {
        node.image("a")["copies_ready"] == 2
    });
    let replicas = node.image("a")["replicas"].clone();
    let mut replicas = replicas.as_array().unwrap().iter();
    assert!(replicas.any(|replica| replica["uuid"] == good));
    node.ok(&["image", "verify", "a"]);
    node.kill();
    node.start();
    until("two copies are Ready", || {
        node.image("a")["copies_ready"] == 2
    });
}

#[test]
fn the_last_copy_does_not_go_as_a_failed_one() {
    let mut node = with_copies(1, NO_SCRUB);
    let pair = pairs(&node, "disk0", *b"BPMAP\0\0\0")[0];
    reopen_with_bad(&mut node, pair);
    let error = node.fails(1, &["image", "delete", "a", "--failed-copies"]);
    assert_eq!(error["kind"], "not_ready", "{error}");
    flip(&node, "disk0", pair);
    node.ok(&["image", "recheck", "a"]);
    assert_eq!(node.image("a")["state"], "Ready");
}

#[test]
fn the_scrub_has_a_lost_page_of_checksums_back_from_the_other_copy() {
    let node = with_copies(2, "[scrub]\ninterval_s = 1\n");
    let pair = pairs(&node, "disk1", *b"BPCRC\0\0\0")[0];
    let before = pair_bytes(&node, "disk1", pair);
    flip(&node, "disk1", pair);
    until("it is what it was", || {
        pair_bytes(&node, "disk1", pair) == before
    });
    // Which is said after it is so.
    until("it is said", || {
        node.log()
            .contains("a lost page of checksums was written again")
    });
    until("both are Ready", || node.image("a")["copies_ready"] == 2);
}

#[test]
fn verify_has_it_back_and_says_so_and_without_another_copy_the_image_is_damaged() {
    let node = with_copies(2, NO_SCRUB);
    let lost: Vec<u64> = pairs(&node, "disk1", *b"BPCRC\0\0\0");
    assert_eq!(lost.len(), 2, "5 MiB");
    for pair in &lost {
        flip(&node, "disk1", *pair);
    }
    let said = node.ok(&["image", "verify", "a"]);
    let said = format!("{}{}", said.stdout, said.stderr);
    assert!(said.contains("2 checksum pages restored"), "{said}");
    let jobs = node.json(&["job", "list"])["jobs"].clone();
    let verify = &jobs.as_array().unwrap().last().unwrap()["verify"];
    assert_eq!(verify["restored_checksum_pages"], 2);
    assert_eq!(verify["bad_block_count"], 0);

    let node = with_copies(1, NO_SCRUB);
    flip(&node, "disk0", lost_of(&node));
    let error = node.fails(6, &["image", "verify", "a"]);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("checksum page 0"), "{message}");
    assert_eq!(node.image("a")["state"], "Damaged");
    flip(&node, "disk0", lost_of(&node));
    node.ok(&["image", "recheck", "a"]);
    assert_eq!(node.image("a")["state"], "Ready");
}

fn lost_of(node: &Node) -> u64 {
    pairs(node, "disk0", *b"BPCRC\0\0\0")[0]
}
