//! Disks that come late, under another name, twice, or with something else on them.

use std::process::Command;

use crate::harness::{MIB, Node, until};

#[test]
fn a_disk_that_comes_late_is_found_and_its_images_are_ready() {
    let mut node = Node::with_disk(64 * MIB);
    node.random_file("source", MIB, 1);
    node.ok(&["image", "import", "a", &node.text("source")]);
    node.stop();
    std::fs::rename(node.path("disk"), node.path("away")).unwrap();
    node.start();
    assert_eq!(node.json(&["disk", "list"])["disks"][0]["state"], "Absent");
    std::fs::rename(node.path("away"), node.path("disk")).unwrap();
    node.ok(&["wait", "image", "a", "--timeout", "20s"]);
    let history = node.json(&["disk", "show", &node.text("disk")])["history"].clone();
    assert!(history.to_string().contains("Online"), "{history}");
}

#[test]
fn a_disk_under_another_name_is_the_same_disk() {
    let mut node = Node::with_disk(64 * MIB);
    node.random_file("source", MIB, 2);
    node.ok(&["image", "import", "a", &node.text("source")]);
    let uuid = node.json(&["disk", "list"])["disks"][0]["uuid"].clone();
    node.stop();
    std::fs::rename(node.path("disk"), node.path("renamed")).unwrap();
    node.settings = format!("disks = ['{}']", node.text("renamed"));
    node.start();
    assert_eq!(node.image("a")["state"], "Ready");
    let disks = node.json(&["disk", "list"])["disks"].clone();
    assert_eq!(disks.as_array().unwrap().len(), 1, "{disks}");
    assert_eq!(disks[0]["uuid"], uuid);
    assert_eq!(disks[0]["path"], node.text("renamed"));
}

#[test]
fn two_disks_with_the_same_identity_are_both_refused() {
    let mut node = Node::with_disk(64 * MIB);
    node.stop();
    std::fs::copy(node.path("disk"), node.path("copy")).unwrap();
    node.settings = format!("disks = ['{}', '{}']", node.text("disk"), node.text("copy"));
    node.start();
    let disks = node.json(&["disk", "list"])["disks"].clone();
    assert_eq!(disks.as_array().unwrap().len(), 2, "{disks}");
    for disk in disks.as_array().unwrap() {
        assert_eq!(disk["state"], "Offline", "{disk}");
        let why = disk["why"].as_str().unwrap();
        assert!(
            why.contains(&node.text("disk")) && why.contains(&node.text("copy")),
            "{why}"
        );
    }
    // Once the copy is gone, the original is used.
    std::fs::remove_file(node.path("copy")).unwrap();
    until("the original is online", || {
        node.json(&["disk", "list"])["disks"]
            .as_array()
            .unwrap()
            .iter()
            .any(|disk| disk["state"] == "Online")
    });
}

#[test]
fn a_copy_of_a_disk_in_use_is_refused_and_the_original_goes_on() {
    let node = Node::with_disk(64 * MIB);
    std::fs::copy(node.path("disk"), node.path("copy")).unwrap();
    let before = std::fs::read(node.path("copy")).unwrap();
    let error = node.fails(1, &["disk", "add", &node.text("copy")]);
    assert_eq!(error["kind"], "duplicate_disk");
    assert!(
        std::fs::read(node.path("copy")).unwrap() == before,
        "refused, and yet written to"
    );
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains(&node.text("disk")) && message.contains(&node.text("copy")),
        "{message}"
    );
    node.random_file("source", MIB, 3);
    node.ok(&["image", "import", "a", &node.text("source")]);
}

#[test]
fn a_removed_disk_stays_away_until_it_is_added() {
    let mut node = Node::with_disk(64 * MIB);
    node.ok(&["disk", "remove", &node.text("disk")]);
    assert_eq!(
        node.json(&["disk", "list"])["disks"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    node.kill();
    node.start();
    assert_eq!(
        node.json(&["disk", "list"])["disks"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    node.ok(&["disk", "add", &node.text("disk")]);
    node.kill();
    node.start();
    assert_eq!(node.json(&["disk", "list"])["disks"][0]["state"], "Online");
    assert_eq!(
        node.fails(3, &["disk", "remove", "/no/such/disk"])["kind"],
        "not_found"
    );
}

#[test]
fn discovery_keeps_out_of_the_way_of_a_format() {
    let mut node = Node::new();
    let files: Vec<String> = (0..8).map(|n| node.text(&format!("disk{n}"))).collect();
    for file in &files {
        let file = std::fs::File::create(file).unwrap();
        file.set_len(128 * MIB).unwrap();
    }
    // Disks that it knows of, so that it looks at them all the time.
    node.settings = format!("disks = {files:?}");
    node.look_every_ms = 1;
    node.start();
    for file in &files {
        node.ok(&["disk", "format", file]);
    }
    assert!(
        !node.log().contains("superblock copies"),
        "a half written format was judged"
    );
}

#[test]
fn a_disk_with_something_on_it_is_formatted_only_by_force() {
    let node = Node::started();
    let file = node.text("disk");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(128 * MIB)
        .unwrap();
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", &file])
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mke2fs here to make a file system with");
        return;
    }
    let before = std::fs::read(&file).unwrap();
    let error = node.fails(1, &["disk", "format", &file]);
    assert_eq!(error["kind"], "foreign_signature");
    assert!(
        error["message"].as_str().unwrap().contains("ext4"),
        "{error}"
    );
    assert!(
        std::fs::read(&file).unwrap() == before,
        "a refused disk was written to"
    );
    assert_eq!(
        node.fails(1, &["disk", "add", &file])["kind"],
        "not_bedplate"
    );
    node.ok(&["disk", "format", &file, "--force"]);
    assert_eq!(node.json(&["disk", "list"])["disks"][0]["state"], "Online");
    // Now it is ours: in use, and later not to be formatted by mistake.
    assert_eq!(
        node.fails(9, &["disk", "format", &file, "--force"])["kind"],
        "busy"
    );
    node.ok(&["disk", "remove", &file]);
    assert_eq!(
        node.fails(1, &["disk", "format", &file])["kind"],
        "foreign_signature"
    );
}

#[test]
fn a_disk_that_is_too_small_is_refused_and_the_file_is_not_left_behind() {
    let node = Node::started();
    let error = node.fails(1, &["disk", "format", &node.text("tiny"), "--size", "1M"]);
    assert_eq!(error["kind"], "bad_size", "{error}");
    assert!(!node.path("tiny").exists());
    let error = node.fails(3, &["disk", "add", &node.text("missing")]);
    assert_eq!(error["kind"], "not_found", "{error}");
}

#[test]
fn an_import_without_a_disk_says_so() {
    let node = Node::started();
    node.random_file("source", MIB, 4);
    assert_eq!(
        node.fails(1, &["image", "import", "a", &node.text("source")])["kind"],
        "disk_offline"
    );
}

#[test]
fn images_of_an_absent_disk_are_unknown_and_come_back() {
    let mut node = Node::with_disk(64 * MIB);
    node.ok(&["disk", "format", &node.text("second"), "--size", "96M"]);
    node.random_file("source", MIB, 5);
    // It goes to the disk with more free space.
    node.ok(&["image", "import", "a", &node.text("source")]);
    assert_eq!(
        node.image("a")["replicas"][0]["disk_path"],
        node.text("second")
    );
    node.stop();
    std::fs::rename(node.path("second"), node.path("away")).unwrap();
    node.start();
    assert_eq!(node.fails(3, &["image", "show", "a"])["kind"], "not_found");
    std::fs::rename(node.path("away"), node.path("second")).unwrap();
    node.ok(&["wait", "image", "a", "--timeout", "20s"]);
}
