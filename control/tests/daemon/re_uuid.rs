//! Copied disks: refused, and after `disk re-uuid` disks of their own, beside their originals.

use std::path::Path;
use std::time::{Duration, Instant};

use bedplate_datapath::engine::{DiskFile, UringMedium};
use bedplate_datapath::medium::{IoFault, IoOp, Medium};
use bedplate_datapath::store::{NewIdentity, SessionStart, re_uuid};
use bedplate_datapath::units::ByteOffset;
use serde_json::Value;
use uuid::Uuid;

use crate::harness::{MIB, Node, until};

/// A node with `disk`, on which are the image `img` and its clone `vm`.
fn with_objects() -> Node {
    let node = Node::with_disk(128 * MIB);
    node.random_file("source", 3 * MIB, 1);
    node.ok(&["image", "import", "img", &node.text("source")]);
    node.ok(&["volume", "create", "vm", "--image", "img"]);
    node
}

fn copy(node: &Node, from: &str, to: &str) {
    std::fs::copy(node.path(from), node.path(to)).unwrap();
}

/// What the daemon says of a disk's path.
pub fn disk(node: &Node, name: &str) -> Value {
    let disks = node.json(&["disk", "list"])["disks"].clone();
    let path = node.text(name);
    let mut all = disks.as_array().unwrap().iter();
    all.find(|disk| disk["path"] == path)
        .cloned()
        .unwrap_or_default()
}

pub fn problems(node: &Node) -> String {
    node.json(&["status"])["problems"].to_string()
}

fn volumes(node: &Node) -> Vec<Value> {
    let list = node.json(&["volume", "list"])["volumes"].clone();
    list.as_array().unwrap().clone()
}

#[test]
fn of_two_disks_with_one_identity_the_copy_gets_its_own_and_both_are_used() {
    let mut node = with_objects();
    let uuid = disk(&node, "disk")["uuid"].clone();
    node.stop();
    copy(&node, "disk", "copy");
    node.settings = format!("disks = ['{}', '{}']", node.text("disk"), node.text("copy"));
    node.start();
    for name in ["disk", "copy"] {
        assert_eq!(disk(&node, name)["state"], "Offline");
    }
    assert!(problems(&node).contains("bedplate disk re-uuid"));

    let said = node.ok(&["disk", "re-uuid", &node.text("copy")]).stdout;
    assert!(said.contains("an identity of its own"), "{said}");
    let renewed = disk(&node, "copy");
    assert_eq!(renewed["state"], "Online");
    assert_ne!(renewed["uuid"], uuid);
    until("the original is used by itself", || {
        disk(&node, "disk")["state"] == "Online"
    });
    assert_eq!(disk(&node, "disk")["uuid"], uuid);

    // One image with one copy more than it wants, which machinery takes away.
    until("one copy of the image", || {
        let shown = node.image("img");
        shown["state"] == "Ready" && shown["replicas"].as_array().unwrap().len() == 1
    });
    node.ok(&["image", "verify", "img"]);

    the_names_that_are_there_twice_are_told_of_and_resolved(&node);
    let left = volumes(&node)[0].clone();
    node.kill();
    node.start();
    until("both disks are back", || {
        ["disk", "copy"]
            .iter()
            .all(|name| disk(&node, name)["state"] == "Online")
    });
    assert_eq!(disk(&node, "copy")["uuid"], renewed["uuid"]);
    assert_eq!(node.json(&["volume", "show", "vm"])["uuid"], left["uuid"]);
    assert!(
        !problems(&node).contains("are named"),
        "{}",
        problems(&node)
    );
}

fn the_names_that_are_there_twice_are_told_of_and_resolved(node: &Node) {
    let both = volumes(node);
    let uuids: Vec<&str> = both
        .iter()
        .map(|volume| volume["uuid"].as_str().unwrap())
        .collect();
    assert_eq!(uuids.len(), 2, "{both:?}");
    assert_ne!(uuids[0], uuids[1]);
    until("the problem is told of", || {
        problems(node).contains("2 objects are named vm")
    });
    let told = problems(node);
    for said in [uuids[0], uuids[1], &node.text("disk"), &node.text("copy")] {
        assert!(told.contains(said), "{said}: {told}");
    }
    let error = node.fails(1, &["volume", "show", "vm"]);
    assert_eq!(error["kind"], "held", "{error}");
    let of = |name: &str| {
        let path = node.text(name);
        let one = both.iter().find(|volume| volume["disk_path"] == path);
        one.unwrap()["uuid"].as_str().unwrap().to_owned()
    };
    assert_eq!(node.json(&["volume", "show", &of("copy")])["name"], "vm");
    node.ok(&["volume", "delete", &of("copy")]);
    assert_eq!(node.json(&["volume", "show", "vm"])["uuid"], of("disk"));
    until("the problem is over", || {
        !problems(node).contains("are named")
    });
}

#[test]
fn a_copy_of_a_disk_in_use_gets_its_own_identity_while_the_original_goes_on() {
    let node = with_objects();
    copy(&node, "disk", "copy");
    let refused = node.fails(1, &["disk", "add", &node.text("copy")]);
    let remedy = refused["remedy"].as_str().unwrap();
    assert!(
        remedy.contains(&format!("re-uuid {}", node.text("copy"))),
        "{remedy}"
    );
    node.ok(&["disk", "re-uuid", &node.text("copy")]);
    assert_eq!(disk(&node, "copy")["state"], "Online");
    assert_eq!(disk(&node, "disk")["state"], "Online");
    // In use it was copied, so that its session did not end in order; nobody had a device, and nothing is missing.
    assert_eq!(volumes(&node).len(), 2);
    for volume in volumes(&node) {
        assert_eq!(volume["state"], "Detached", "{volume}");
    }
}

#[test]
fn what_is_in_use_by_whatever_path_or_is_no_disk_keeps_its_identity() {
    let mut node = with_objects();
    std::fs::hard_link(node.path("disk"), node.path("linked")).unwrap();
    std::os::unix::fs::symlink(node.path("disk"), node.path("symlinked")).unwrap();
    for name in ["disk", "linked", "symlinked"] {
        let error = node.fails(9, &["disk", "re-uuid", &node.text(name)]);
        assert_eq!(error["kind"], "busy", "{name}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&node.text("disk")), "{message}");
    }
    let error = node.fails(3, &["disk", "re-uuid", &node.text("none")]);
    assert_eq!(error["kind"], "not_found");
    node.random_file("noise", 64 * MIB, 9);
    let error = node.fails(1, &["disk", "re-uuid", &node.text("noise")]);
    assert_eq!(error["kind"], "not_bedplate", "{error}");
    assert!(disk(&node, "noise").is_null());

    // Another process has it.
    copy(&node, "disk", "copy");
    let before = std::fs::read(node.path("copy")).unwrap();
    let claim = DiskFile::claim(&node.path("copy")).unwrap();
    let error = node.fails(9, &["disk", "re-uuid", &node.text("copy")]);
    assert_eq!(error["kind"], "busy", "{error}");
    assert!(disk(&node, "copy").is_null(), "{}", disk(&node, "copy"));
    drop(claim);
    assert!(
        std::fs::read(node.path("copy")).unwrap() == before,
        "refused, and yet written to"
    );

    // Another node has it.
    node.stop();
    node.settings = "node_id = 'one'".to_owned();
    node.start();
    node.ok(&["disk", "remove", &node.text("disk"), "--force"]);
    node.ok(&["disk", "adopt", &node.text("disk")]);
    node.stop();
    copy(&node, "disk", "copy");
    node.settings = "node_id = 'two'".to_owned();
    node.start();
    let before = std::fs::read(node.path("copy")).unwrap();
    let error = node.fails(1, &["disk", "re-uuid", &node.text("copy")]);
    assert_eq!(error["kind"], "foreign_node", "{error}");
    assert!(std::fs::read(node.path("copy")).unwrap() == before);
}

/// A disk that takes some writes and then none.
struct Cut<M> {
    disk: M,
    writes_left: u32,
}

impl<M> Cut<M> {
    fn take_one(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        let left = self.writes_left.checked_sub(1);
        self.writes_left = left.ok_or(IoFault {
            op: IoOp::Write,
            at,
            len_bytes,
            errno: 5,
        })?;
        Ok(())
    }
}

impl<M: Medium> Medium for Cut<M> {
    fn len_bytes(&self) -> u64 {
        self.disk.len_bytes()
    }

    fn read(&mut self, at: ByteOffset, into: &mut [u8]) -> Result<(), IoFault> {
        self.disk.read(at, into)
    }

    fn write(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.take_one(at, from.len() as u64)?;
        self.disk.write(at, from)
    }

    fn write_zeroes(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        self.take_one(at, len_bytes)?;
        self.disk.write_zeroes(at, len_bytes)
    }

    fn flush(&mut self) -> Result<(), IoFault> {
        self.disk.flush()
    }
}

/// What a daemon leaves that is killed after so many writes of a new identity; whether it was done.
fn cut_short(path: &Path, writes: u32) -> bool {
    // Who had it before lets go of it a little later.
    let deadline = Instant::now() + Duration::from_secs(10);
    let disk = DiskFile::claim_waiting(path, deadline, |_| ()).unwrap();
    let start = SessionStart {
        boot_id: Uuid::from_u128(7),
        diskseq: disk.diskseq(),
    };
    let new = NewIdentity {
        disk_uuid: Uuid::new_v4(),
        hardware_id_hash: [0; 32],
    };
    let mut cut = Cut {
        disk: UringMedium::new(disk).unwrap(),
        writes_left: writes,
    };
    re_uuid(&mut cut, &start, &new, &mut Uuid::new_v4).is_ok()
}

#[test]
fn cut_short_anywhere_it_is_finished_by_doing_it_again() {
    let mut first = with_objects();
    let original = disk(&first, "disk")["uuid"].clone();
    first.stop();
    // Where the original is not, so that the copy is not just refused.
    let node = Node::started();
    let path = node.text("copy");
    let (mut writes, mut said_how, mut was_new) = (0, 0, 0);
    loop {
        std::fs::copy(first.path("disk"), &path).unwrap();
        if cut_short(&node.path("copy"), writes) {
            break;
        }
        // Every third point is enough for a daemon; the simulator has them all.
        writes += 3;
        let added = node.run(&["-o", "json", "disk", "add", &path]);
        if added.code == 0 && disk(&node, "copy")["uuid"] == original {
            node.ok(&["disk", "remove", &path, "--force"]);
        }
        if added.code != 0 {
            let error = added.error();
            assert_eq!(error["kind"], "corrupt", "{error}");
            let remedy = error["remedy"].to_string();
            assert!(remedy.contains("disk re-uuid"), "{remedy}");
            said_how += 1;
        }
        if disk(&node, "copy")["state"] == "Online" {
            was_new += 1;
        } else {
            node.ok(&["disk", "re-uuid", &path]);
        }
        let renewed = disk(&node, "copy");
        assert_eq!(renewed["state"], "Online", "after {writes} writes");
        assert_ne!(renewed["uuid"], original);
        node.ok(&["image", "verify", "img"]);
        assert_eq!(volumes(&node).len(), 1);
        node.ok(&["disk", "remove", &path, "--force"]);
    }
    println!("{writes} writes; {said_how} times it was neither, {was_new} times the new disk");
    assert!(writes > 30 && said_how > 0 && was_new > 0);
}

#[test]
fn an_old_copy_of_a_disk_gets_its_own_identity_and_the_newer_one_comes_back() {
    let mut node = with_objects();
    node.ok(&["disk", "format", &node.text("other"), "--size", "128M"]);
    node.stop();
    copy(&node, "disk", "old");
    // They meet again, and go on.
    node.start();
    node.ok(&["volume", "create", "later", "--image", "img"]);
    until("they know each other's session", || {
        node.log().contains("agreed: NotePeers")
    });
    node.stop();
    node.start();
    until("they know each other's session now", || {
        node.log().matches("agreed: NotePeers").count() >= 4
    });
    node.stop();
    std::fs::rename(node.path("disk"), node.path("away")).unwrap();
    std::fs::rename(node.path("old"), node.path("disk")).unwrap();
    node.start();
    until("it is told that the copy is old", || {
        problems(&node).contains("is an old copy of itself")
    });
    let stale = disk(&node, "disk")["uuid"].clone();
    node.ok(&["disk", "re-uuid", &node.text("disk")]);
    let renewed = disk(&node, "disk");
    assert_eq!(renewed["state"], "Online");
    assert_ne!(renewed["uuid"], stale);
    until("the problem is over", || {
        !problems(&node).contains("is an old copy of itself")
    });
    // The newer one comes under another name, and is used by itself as before.
    node.stop();
    node.settings = format!("disks = ['{}']", node.text("away"));
    node.start();
    until("it is back", || disk(&node, "away")["state"] == "Online");
    assert_eq!(disk(&node, "away")["uuid"], stale);
    node.ok(&["volume", "show", "later"]);
    node.ok(&["image", "verify", "img"]);
}
