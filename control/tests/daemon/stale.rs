//! An old copy of a disk, put back: nothing of it is served, nothing goes to it, and nothing on it is changed.

use std::time::Duration;

use bedplate_datapath::engine::DiskFile;

use crate::harness::{MIB, Node, until};
use crate::re_uuid::{disk, problems};
use crate::volumes::leave_attached_and_lose_the_live_files;

/// A node with `disk`, the larger one, and `other`; `old` is what `disk` was before they met last. On it are the image `img` and its clone
/// `vm`, which is to be attached. No daemon runs.
fn with_old_copy() -> Node {
    let mut node = Node::with_disk(192 * MIB);
    node.random_file("source", 3 * MIB, 1);
    node.ok(&["image", "import", "img", &node.text("source")]);
    node.ok(&["volume", "create", "vm", "--image", "img"]);
    node.ok(&["disk", "format", &node.text("other"), "--size", "128M"]);
    node.stop();
    leave_attached_and_lose_the_live_files(&node, "vm");
    std::fs::copy(node.path("disk"), node.path("old")).unwrap();
    for times in [2, 4] {
        node.start();
        until("they know each other's session", || {
            node.log().matches("agreed: NotePeers").count() >= times
        });
        node.stop();
    }
    node
}

fn put_back(node: &Node) {
    std::fs::rename(node.path("disk"), node.path("away")).unwrap();
    std::fs::rename(node.path("old"), node.path("disk")).unwrap();
}

/// The same with the old copy in the place of the disk, and a daemon that knows it for what it is.
fn with_old_copy_put_back() -> Node {
    let mut node = with_old_copy();
    put_back(&node);
    node.start();
    until("it is told that the copy is old", || {
        problems(&node).contains("is an old copy of itself")
    });
    node
}

#[test]
fn nothing_goes_to_an_old_copy_of_a_disk_though_it_has_most_room() {
    let node = with_old_copy_put_back();
    let (old, other) = (disk(&node, "disk"), disk(&node, "other"));
    assert!(old["free_bytes"].as_u64() > other["free_bytes"].as_u64());
    node.ok(&["volume", "create", "new", "--size", "16M"]);
    let new = node.json(&["volume", "show", "new"]);
    assert_eq!(new["disk_path"], other["path"], "{new}");
    let source = node.text("source");
    node.ok(&["image", "import", "second", &source, "--copies", "2"]);
    until("it says that there is no place for the other copy", || {
        let why = node.image("second")["degraded_why"].to_string();
        why.contains("no disk has room for 1 more copy")
    });
    let replicas = node.image("second")["replicas"].clone();
    assert_eq!(replicas.as_array().unwrap().len(), 1, "{replicas}");
    assert_eq!(replicas[0]["disk_path"], other["path"]);
    assert_eq!(disk(&node, "disk")["volume_count"], old["volume_count"]);
}

#[test]
fn what_is_on_an_old_copy_of_a_disk_is_not_changed() {
    let node = with_old_copy_put_back();
    let before = node.json(&["volume", "show", "vm"]);
    for change in [
        &["volume", "attach", "vm", "--accept-loss"][..],
        &["volume", "detach", "vm"],
        &["volume", "delete", "vm"],
        &["image", "copies", "img", "2"],
        &["image", "attach", "img"],
    ] {
        let error = node.fails(1, change);
        assert_eq!(error["kind"], "held", "{error}");
        let message = error["message"].to_string();
        assert!(message.contains("an old copy of itself"), "{error}");
        assert!(!error["remedy"].is_null(), "{error}");
    }
    assert_eq!(
        node.json(&["volume", "show", "vm"])["wanted"],
        before["wanted"]
    );
    assert_eq!(node.image("img")["copies_wanted"], 1);
}

#[test]
fn nothing_of_an_old_copy_comes_up_while_the_disk_that_knows_better_is_on_its_way() {
    let mut node = with_old_copy();
    put_back(&node);
    let said_before = node.log().len();
    // As while what a dead daemon had in flight ends.
    let claim = DiskFile::claim(&node.path("other")).unwrap();
    let claimed = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        drop(claim);
    });
    node.start();
    claimed.join().unwrap();
    let log = node.log().split_off(said_before);
    let opened = |name: &str| {
        let said = format!("opened at {},", node.text(name));
        log.find(&said).unwrap_or_else(|| panic!("{name}: {log}"))
    };
    assert!(opened("other") < opened("disk"));
    // That it is held is said of a volume that is about to come up.
    assert!(!log.contains("the volume vm is held"), "{log}");
    let why = node.json(&["volume", "show", "vm"])["why"].to_string();
    assert!(why.contains("an old copy of itself"), "{why}");
}
