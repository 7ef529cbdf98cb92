//! Volumes of a real daemon on disks that are files: made, shown, grown, deleted, and everything that is refused. There is no ublk where
//! these tests run, so an attach tells what the kernel lacks; the virtual machines attach.

use crate::harness::{MIB, Node, until};
use bedplate_datapath::engine::{DiskFile, UringMedium};
use bedplate_datapath::live::HeapLive;
use bedplate_datapath::store::{SessionStart, Store};
use bedplate_datapath::units::DevId;
use serde_json::Value;

fn volume(node: &Node, name: &str) -> Value {
    node.json(&["volume", "show", name])
}

fn with_image() -> Node {
    let node = Node::with_disk(256 * MIB);
    node.random_file("source", 3 * MIB + 100, 1);
    node.ok(&["image", "import", "img", &node.text("source")]);
    node
}

#[test]
fn a_clone_has_the_size_of_its_image_in_whole_sectors_and_is_there_after_a_kill() {
    let mut node = with_image();
    let made = node.ok(&["volume", "create", "vm1", "--image", "img"]);
    assert!(made.stdout.contains("a clone of img"), "{made:?}");
    node.ok(&["volume", "create", "big", "--image", "img", "--size", "10G"]);
    for round in 0..2 {
        let vm1 = volume(&node, "vm1");
        assert_eq!(vm1["size_bytes"], 3 * MIB + 512, "{vm1}");
        assert_eq!(vm1["state"], "Detached");
        assert_eq!(vm1["why"], Value::Null);
        assert_eq!(vm1["allocated_bytes"], 0);
        assert_eq!(vm1["image"]["name"], "img");
        assert_eq!(vm1["image"]["uuid"], node.image("img")["uuid"]);
        assert_eq!(vm1["disk_path"], node.text("disk"));
        assert_eq!(vm1["device"], Value::Null);
        // All of the image, in whole blocks.
        assert_eq!(vm1["shared_bytes"], 3 * MIB + 4096);
        assert_eq!(volume(&node, "big")["size_bytes"], 10_u64 << 30);
        let uuid = vm1["uuid"].as_str().unwrap();
        assert_eq!(volume(&node, uuid)["name"], "vm1");
        match round {
            0 => node.kill(),
            _ => node.stop(),
        }
        node.start();
    }
}

#[test]
fn lists_of_images_and_volumes_are_kept_apart() {
    let node = with_image();
    node.ok(&["volume", "create", "b", "--size", "1G"]);
    node.ok(&["volume", "create", "a", "--image", "img"]);
    let list = node.json(&["volume", "list"])["volumes"].clone();
    let names: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| volume["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(list[1]["image"], Value::Null);
    let images = node.json(&["image", "list"])["images"].clone();
    assert_eq!(images.as_array().unwrap().len(), 1);
    let status = node.json(&["status"]);
    assert_eq!(status["volumes"].as_array().unwrap().len(), 2);
    assert_eq!(status["images"].as_array().unwrap().len(), 1);
    let disk = node.json(&["disk", "show", &node.text("disk")]);
    assert_eq!(
        (&disk["replicas"], &disk["volumes"]),
        (&1.into(), &serde_json::json!(["a", "b"]))
    );
    for verb in ["show", "attach", "detach", "verify", "delete"] {
        let error = node.fails(3, &["image", verb, "a"]);
        assert_eq!(error["kind"], "not_found");
        let remedy = error["remedy"].as_str().unwrap();
        assert!(remedy.contains("bedplate volume show a"), "{error}");
    }
    for verb in ["show", "attach", "detach", "delete"] {
        assert_eq!(node.fails(3, &["volume", verb, "img"])["kind"], "not_found");
    }
}

#[test]
fn sizes_that_a_volume_cannot_have() {
    let node = with_image();
    let before = node.free_bytes();
    for (size, image) in [
        ("0", false),
        ("1000", false),
        ("257T", false),
        ("1M", true),
        ("0", true),
    ] {
        let mut line = vec!["volume", "create", "v", "--size", size];
        if image {
            line.extend(["--image", "img"]);
        }
        let error = node.fails(1, &line);
        assert_eq!(error["kind"], "bad_size", "{size}: {error}");
        assert_eq!(error["object"], "v");
        assert!(error["remedy"].is_string(), "{error}");
    }
    node.fails(3, &["volume", "show", "v"]);
    assert_eq!(node.free_bytes(), before);
    // The largest one that the format has.
    node.ok(&["volume", "create", "v", "--size", "16T"]);
}

#[test]
fn names_are_shared_by_images_and_volumes_over_all_disks() {
    let node = with_image();
    node.ok(&["disk", "format", &node.text("second"), "--size", "512M"]);
    node.ok(&["volume", "create", "vm1", "--image", "img"]);
    // It goes to the second disk, whose store knows no `img` and no `vm1`.
    for name in ["img", "vm1"] {
        let error = node.fails(4, &["volume", "create", name, "--size", "1G"]);
        assert_eq!(error["kind"], "exists", "{error}");
        let error = node.fails(4, &["image", "import", name, &node.text("source")]);
        assert_eq!(error["kind"], "exists", "{error}");
    }
    node.ok(&["volume", "create", "blank", "--size", "1G"]);
    assert_eq!(volume(&node, "blank")["disk_path"], node.text("second"));
    assert_eq!(volume(&node, "vm1")["disk_path"], node.text("disk"));
    let error = node.fails(2, &["volume", "create", ".v", "--size", "1G"]);
    assert_eq!(error["kind"], "bad_name");
    let error = node.fails(3, &["volume", "create", "v", "--image", "nosuch"]);
    assert_eq!(error["kind"], "not_found");
    let error = node.fails(3, &["volume", "create", "v", "--image", "vm1"]);
    assert_eq!(error["kind"], "not_found", "no clone of a clone: {error}");
}

#[test]
fn of_many_that_want_one_name_one_gets_it() {
    let node = with_image();
    node.ok(&["disk", "format", &node.text("second"), "--size", "512M"]);
    let tries: Vec<_> = (0..8)
        .map(|n| {
            let mut line = vec!["volume", "create", "v", "--size", "1G"];
            if n % 2 == 0 {
                line.extend(["--image", "img"]);
            }
            node.piped(&line)
        })
        .collect();
    let codes: Vec<Option<i32>> = tries
        .into_iter()
        .map(|child| child.wait_with_output().unwrap().status.code())
        .collect();
    let count = |code| codes.iter().filter(|ended| **ended == Some(code)).count();
    assert_eq!((count(0), count(4)), (1, 7), "{codes:?}");
    let list = node.json(&["volume", "list"])["volumes"].clone();
    assert_eq!(list.as_array().unwrap().len(), 1);
}

#[test]
fn a_volume_grows_and_never_shrinks() {
    let mut node = with_image();
    node.ok(&["volume", "create", "v", "--image", "img", "--size", "1G"]);
    node.ok(&["volume", "resize", "v", "2G"]);
    node.ok(&["volume", "resize", "v", "+1G"]);
    let same = node.json(&["volume", "resize", "v", "3G"]);
    assert_eq!(same["changed"], false);
    for wrong in ["2G", "0", "3221225473", "+1", "257T", "+256T"] {
        let error = node.fails(1, &["volume", "resize", "v", wrong]);
        assert_eq!(error["kind"], "bad_size", "{wrong}: {error}");
    }
    assert_eq!(
        node.fails(3, &["volume", "resize", "nosuch", "+1G"])["kind"],
        "not_found"
    );
    node.kill();
    node.start();
    assert_eq!(volume(&node, "v")["size_bytes"], 3_u64 << 30);
}

#[test]
fn an_image_with_clones_stays_until_they_are_gone() {
    let mut node = with_image();
    let empty = node.free_bytes();
    node.ok(&["volume", "create", "one", "--image", "img"]);
    node.ok(&["volume", "create", "two", "--image", "img"]);
    let error = node.fails(9, &["image", "delete", "img"]);
    assert_eq!(error["kind"], "busy");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("one, two"), "{message}");
    node.ok(&["volume", "delete", "one"]);
    node.fails(9, &["image", "delete", "img"]);
    node.ok(&["volume", "delete", "two"]);
    assert_eq!(node.free_bytes(), empty);
    node.ok(&["image", "delete", "img"]);
    node.kill();
    node.start();
    let list = node.json(&["volume", "list"])["volumes"].clone();
    assert_eq!(list.as_array().unwrap().len(), 0);
    node.fails(3, &["image", "show", "img"]);
}

#[test]
fn an_image_that_is_not_ready_is_not_cloned() {
    let mut node = with_image();
    node.ok(&["volume", "create", "vm1", "--image", "img"]);
    node.ok(&["disk", "format", &node.text("second"), "--size", "512M"]);
    std::fs::rename(node.path("disk"), node.path("away")).unwrap();
    // What is open stays open: the daemon must look anew.
    node.stop();
    node.start();
    let error = node.fails(3, &["volume", "create", "v", "--image", "img"]);
    assert_eq!(error["kind"], "not_found", "{error}");
    std::fs::rename(node.path("away"), node.path("disk")).unwrap();
    node.ok(&["wait", "volume", "vm1", "--timeout", "20s"]);
    node.ok(&["volume", "create", "v", "--image", "img"]);
}

#[test]
fn an_attach_says_what_is_missing_here_and_leaves_the_volume_as_it_was() {
    let node = with_image();
    node.ok(&["volume", "create", "v", "--image", "img"]);
    let error = node.fails(7, &["volume", "attach", "v"]);
    assert_eq!(error["kind"], "kernel_unsupported", "{error}");
    assert!(error["remedy"].is_string(), "{error}");
    let v = volume(&node, "v");
    assert_eq!(
        (&v["state"], &v["wanted"]),
        (&"Detached".into(), &false.into())
    );
    assert!(v["history"].to_string().contains("Attaching"), "{v}");
    let detached = node.json(&["volume", "detach", "v"]);
    assert_eq!(detached["changed"], false);
    let outcome = node.run(&["volume", "create", "w", "--size", "1G", "--attach"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (7, ""));
    assert!(outcome.stderr.contains("w was made"), "{outcome:?}");
    node.ok(&["volume", "delete", "w"]);
    node.ok(&["volume", "delete", "v"]);
}

#[test]
fn a_full_disk_refuses_a_new_volume_and_is_warned_of_before() {
    let mut node = Node::new();
    node.settings = "[space]\nwarn_percent = 40\ncritical_percent = 60".to_owned();
    node.start();
    node.ok(&["disk", "format", &node.text("disk"), "--size", "128M"]);
    let problems = |node: &Node| node.json(&["status"])["problems"].to_string();
    let disk = node.json(&["disk", "list"])["disks"][0].clone();
    let usable = disk["usable_bytes"].as_u64().unwrap();
    node.random_file("half", usable / 2, 1);
    node.ok(&["image", "import", "half", &node.text("half")]);
    until("the first threshold is told of", || {
        problems(&node).contains("40 % full or more")
    });
    node.random_file("quarter", usable / 5, 2);
    node.ok(&["image", "import", "quarter", &node.text("quarter")]);
    until("the second threshold is told of", || {
        problems(&node).contains("60 % full or more")
    });
    node.ok(&["image", "delete", "quarter"]);
    node.ok(&["image", "delete", "half"]);
    until("all is well again", || !problems(&node).contains("full"));
    let log = node.log();
    for line in ["40 % full or more", "60 % full or more"] {
        let told = log
            .lines()
            .filter(|entry| entry.contains(line) && !entry.contains("over: "))
            .count();
        assert!(
            told == 1 || (line.starts_with("40") && told == 2),
            "{line}: {told}"
        );
    }
}

#[test]
fn with_live_files_volumes_are_there_after_a_kill_and_after_an_end_in_order() {
    let mut node = Node::new();
    // A tmpfs that everybody may write to.
    let Ok(live) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: no /dev/shm here to keep live files in");
        return;
    };
    std::fs::create_dir(node.path("run")).unwrap();
    std::os::unix::fs::symlink(live.path(), node.path("run/live")).unwrap();
    node.start();
    node.ok(&["disk", "format", &node.text("disk"), "--size", "256M"]);
    node.ok(&["volume", "create", "v", "--size", "1G"]);
    for _ in 0..2 {
        node.kill();
        node.start();
        assert_eq!(volume(&node, "v")["state"], "Detached");
        node.stop();
        node.start();
        assert_eq!(volume(&node, "v")["why"], Value::Null);
    }
    let problems = node.json(&["status"])["problems"].to_string();
    assert!(!problems.contains("held"), "{problems}");
}

/// What a daemon leaves that is killed while a volume is attached, and whose live files are then lost.
pub fn leave_attached_and_lose_the_live_files(node: &Node, volume: &str) {
    let disk = DiskFile::claim(&node.path("disk")).unwrap();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let start = SessionStart {
        boot_id: boot_id.trim().parse().unwrap(),
        diskseq: disk.diskseq(),
    };
    let medium = UringMedium::new(disk).unwrap();
    let live = Box::<HeapLive>::default();
    let (mut store, _) = Store::open_live(medium, &start, live).unwrap();
    let uuid = store
        .objects()
        .find(|object| object.name == volume)
        .unwrap()
        .uuid;
    store.prepare_attach(uuid).unwrap();
    store.set_attachment(uuid, DevId::new(3), true).unwrap();
}

#[test]
fn a_volume_that_may_have_lost_writes_is_held_until_somebody_accepts_it() {
    let mut node = with_image();
    node.ok(&["volume", "create", "v", "--image", "img"]);
    node.ok(&["volume", "create", "other", "--image", "img"]);
    node.stop();
    leave_attached_and_lose_the_live_files(&node, "v");
    for _ in 0..2 {
        // It stays so over restarts.
        node.start();
        let v = volume(&node, "v");
        assert_eq!(
            (&v["state"], &v["dev_id"], &v["device"]),
            (&"Held".into(), &3.into(), &Value::Null),
            "{v}"
        );
        assert!(v["why"].as_str().unwrap().contains("may be missing"), "{v}");
        let error = node.fails(1, &["volume", "attach", "v"]);
        assert_eq!(error["kind"], "held", "{error}");
        let remedy = "`bedplate volume attach v --accept-loss` resumes it with what the disk has";
        assert_eq!(error["remedy"], remedy);
        let problems = node.json(&["status"])["problems"].to_string();
        assert!(problems.contains("--accept-loss"), "{problems}");
        assert_eq!(
            node.fails(1, &["wait", "volume", "v", "--timeout", "0"])["kind"],
            "timed_out"
        );
        assert_eq!(node.fails(9, &["volume", "delete", "v"])["kind"], "busy");
        assert_eq!(volume(&node, "other")["state"], "Detached");
        node.kill();
    }
    node.start();
    // The loss is accepted; what is missing now is ublk.
    let error = node.fails(7, &["volume", "attach", "v", "--accept-loss"]);
    assert_eq!(error["kind"], "kernel_unsupported", "{error}");
    let problems = node.json(&["status"])["problems"].to_string();
    assert!(!problems.contains("--accept-loss"), "{problems}");
    assert_eq!(node.json(&["volume", "detach", "v"])["changed"], true);
    node.kill();
    node.start();
    assert_eq!(volume(&node, "v")["state"], "Detached");
    node.ok(&["volume", "delete", "v"]);
}
