//! Copies of images on several disks: made, removed, moved, forgotten; and what a crash in between leaves.

use serde_json::Value;

use crate::harness::{MIB, Node, sha256_of, until};

/// A node with disks of these sizes in MiB, named `disk0`, `disk1`, ...
fn with_disks(mib: &[u64]) -> Node {
    with_settings(mib, "")
}

fn with_settings(mib: &[u64], settings: &str) -> Node {
    let mut node = Node::new();
    settings.clone_into(&mut node.settings);
    node.start();
    for (number, mib) in mib.iter().enumerate() {
        let size = (mib * MIB).to_string();
        let disk = node.text(&format!("disk{number}"));
        node.ok(&["disk", "format", &disk, "--size", &size]);
    }
    node
}

fn import(node: &Node, name: &str, copies: &str) {
    node.random_file("source", 20 * MIB, 7);
    node.ok(&[
        "image",
        "import",
        name,
        &node.text("source"),
        "--copies",
        copies,
    ]);
}

/// Disks of the replicas in a state, by their file's name.
fn disks_in(node: &Node, image: &str, state: &str) -> Vec<String> {
    let shown = node.image(image);
    let replicas = shown["replicas"].as_array().unwrap();
    let mut disks: Vec<String> = replicas
        .iter()
        .filter(|replica| replica["state"] == state)
        .map(|replica| {
            let path = replica["disk_path"].as_str().unwrap_or("?");
            path.rsplit('/').next().unwrap().to_owned()
        })
        .collect();
    disks.sort();
    disks
}

fn until_ready(node: &Node, image: &str, disks: &[&str]) {
    until(&format!("{image} is Ready on {disks:?}"), || {
        disks_in(node, image, "Ready") == disks
    });
}

fn jobs_of(node: &Node, kind: &str) -> Vec<Value> {
    let jobs = node.json(&["job", "list"])["jobs"].clone();
    let mut jobs = jobs.as_array().unwrap().clone();
    jobs.retain(|job| job["kind"] == kind);
    jobs
}

/// Every copy by itself is what was imported: verified with all the other disks away.
fn each_copy_is_whole(node: &mut Node, image: &str, disks: &[&str]) {
    node.stop();
    for alone in disks {
        for other in disks.iter().filter(|other| *other != alone) {
            std::fs::rename(node.path(other), node.path(&format!("{other}.away"))).unwrap();
        }
        node.start();
        node.ok(&["image", "verify", image]);
        node.stop();
        for other in disks.iter().filter(|other| *other != alone) {
            std::fs::rename(node.path(&format!("{other}.away")), node.path(other)).unwrap();
        }
    }
    node.start();
}

#[test]
fn an_image_with_two_copies_is_ready_with_the_first_and_gets_the_second() {
    let mut node = with_disks(&[128, 256, 192]);
    import(&node, "a", "2");
    assert_eq!(node.image("a")["state"], "Ready");
    // Most free space first: never the smallest one.
    until_ready(&node, "a", &["disk1", "disk2"]);
    let shown = node.image("a");
    assert_eq!(shown["degraded"], false, "{shown}");
    assert_eq!(shown["copies_ready"], 2);
    assert_eq!(jobs_of(&node, "rebuild").len(), 1);
    each_copy_is_whole(&mut node, "a", &["disk1", "disk2"]);
    until_ready(&node, "a", &["disk1", "disk2"]);
    assert_eq!(node.image("a")["sha256"], sha256_of(&node.path("source")));
    assert!(jobs_of(&node, "rebuild").is_empty(), "nothing was missing");
}

#[test]
fn copies_are_raised_and_lowered_and_one_always_stays() {
    let node = with_disks(&[128, 128, 128]);
    import(&node, "a", "1");
    let line = node.ok(&["image", "copies", "a", "3"]).stdout;
    assert!(line.contains("3 copies are wanted"), "{line}");
    until_ready(&node, "a", &["disk0", "disk1", "disk2"]);
    node.ok(&["image", "copies", "a", "1"]);
    until("two copies went", || {
        node.image("a")["replicas"].as_array().unwrap().len() == 1
    });
    let shown = node.image("a");
    assert_eq!(
        (&shown["state"], &shown["copies_ready"], &shown["degraded"]),
        (&"Ready".into(), &1.into(), &false.into())
    );
    // The space of the others is free again.
    let disks = node.json(&["disk", "list"])["disks"].clone();
    let replicas: u64 = disks
        .as_array()
        .unwrap()
        .iter()
        .map(|disk| disk["replicas"].as_u64().unwrap())
        .sum();
    assert_eq!(replicas, 1, "{disks}");
}

#[test]
fn more_copies_than_disks_are_accepted_and_it_says_what_is_missing() {
    let node = with_disks(&[128, 128]);
    import(&node, "a", "1");
    node.ok(&["image", "copies", "a", "5"]);
    until_ready(&node, "a", &["disk0", "disk1"]);
    until("it says why", || !node.image("a")["degraded_why"].is_null());
    let shown = node.image("a");
    assert_eq!(shown["degraded"], true);
    let why = shown["degraded_why"].as_str().unwrap();
    assert!(why.contains("no disk has room for 3 more copies"), "{why}");
    let table = node.ok(&["status"]).stdout;
    assert!(
        table.contains("Ready, degraded") && table.contains("2 of 5"),
        "{table}"
    );
    // A disk that is added gets one, without anybody asking.
    node.ok(&["disk", "format", &node.text("disk2"), "--size", "128M"]);
    until_ready(&node, "a", &["disk0", "disk1", "disk2"]);
}

#[test]
fn no_copies_is_refused() {
    let node = with_disks(&[128]);
    import(&node, "a", "1");
    assert_eq!(node.run(&["image", "copies", "a", "0"]).code, 2);
    assert_eq!(
        node.run(&[
            "image",
            "import",
            "b",
            &node.text("source"),
            "--copies",
            "0"
        ])
        .code,
        2
    );
    assert_eq!(
        node.fails(3, &["image", "copies", "nosuch", "2"])["kind"],
        "not_found"
    );
}

#[test]
fn a_copy_that_is_killed_half_way_goes_on_and_the_source_is_not_read_again() {
    let mut node = with_settings(&[192, 192], "[rebuild]\nlimit_bytes_per_s = 4000000\n");
    import(&node, "a", "2");
    std::fs::remove_file(node.path("source")).unwrap();
    until("it is half way", || {
        jobs_of(&node, "rebuild")
            .iter()
            .any(|job| job["progress"]["done_bytes"].as_u64().unwrap() > 8 * MIB)
    });
    node.kill();
    node.start();
    until("it goes on", || !jobs_of(&node, "rebuild").is_empty());
    assert_eq!(node.image("a")["state"], "Ready");
    node.kill();
    node.settings = String::new();
    node.start();
    until_ready(&node, "a", &["disk0", "disk1"]);
    assert!(jobs_of(&node, "import").is_empty());
    each_copy_is_whole(&mut node, "a", &["disk0", "disk1"]);
}

#[test]
fn an_ordered_end_in_the_middle_of_a_copy_loses_nothing_of_it() {
    let mut node = with_settings(&[192, 192], "[rebuild]\nlimit_bytes_per_s = 4000000\n");
    import(&node, "a", "2");
    let done = |node: &Node| {
        let jobs = jobs_of(node, "rebuild");
        jobs.iter()
            .filter_map(|job| job["progress"]["done_bytes"].as_u64())
            .max()
            .unwrap_or_default()
    };
    until("it is half way", || done(&node) > 8 * MIB);
    node.stop();
    node.start();
    until("it goes on where it was", || done(&node) > 0);
    assert!(done(&node) >= 8 * MIB, "{}", done(&node));
}

#[test]
fn a_drain_moves_copies_and_then_the_disk_can_go() {
    let node = with_disks(&[256, 128]);
    import(&node, "a", "1");
    assert_eq!(disks_in(&node, "a", "Ready"), ["disk0"]);
    node.ok(&["disk", "drain", &node.text("disk0")]);
    assert_eq!(disks_in(&node, "a", "Ready"), ["disk1"]);
    let shown = node.json(&["disk", "show", &node.text("disk0")]);
    assert_eq!(
        (&shown["draining"], &shown["replicas"]),
        (&true.into(), &0.into())
    );
    // It gets nothing new, though it has most room.
    import(&node, "b", "1");
    assert_eq!(disks_in(&node, "b", "Ready"), ["disk1"]);
    let gone = node.ok(&["disk", "remove", &node.text("disk0")]).stdout;
    assert!(gone.contains("removed"), "{gone}");
    node.ok(&["image", "verify", "a"]);
}

#[test]
fn removing_a_disk_drains_it_first() {
    let node = with_disks(&[256, 128]);
    import(&node, "a", "1");
    let gone = node.ok(&["disk", "remove", &node.text("disk0")]).stdout;
    assert!(gone.contains("its replicas are on other disks"), "{gone}");
    assert_eq!(disks_in(&node, "a", "Ready"), ["disk1"]);
}

#[test]
fn a_drain_without_room_is_refused_with_what_to_do_and_so_is_a_removal() {
    let node = with_disks(&[128]);
    import(&node, "a", "1");
    let disk = node.text("disk0");
    for command in ["drain", "remove"] {
        let error = node.fails(8, &["disk", command, &disk]);
        assert_eq!(error["kind"], "no_space", "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("cannot be drained") && message.contains('a'),
            "{message}"
        );
        assert!(!error["remedy"].is_null());
    }
    assert_eq!(node.json(&["disk", "list"])["disks"][0]["draining"], false);
    // By force it goes, and nothing on it is changed.
    node.ok(&["disk", "remove", &disk, "--force"]);
    assert_eq!(node.fails(3, &["image", "show", "a"])["kind"], "not_found");
    node.ok(&["disk", "add", &disk]);
    node.ok(&["wait", "image", "a", "--timeout", "20s"]);
}

#[test]
fn a_disk_with_a_volume_is_removed_by_force_only() {
    let node = with_disks(&[128, 128]);
    node.ok(&["volume", "create", "v", "--size", "16M"]);
    let disk = node.json(&["volume", "show", "v"])["disk_path"]
        .as_str()
        .unwrap()
        .to_owned();
    let error = node.fails(9, &["disk", "remove", &disk]);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("holds the volumes v"),
        "{error}"
    );
    node.ok(&["disk", "remove", &disk, "--force"]);
    assert_eq!(node.fails(3, &["volume", "show", "v"])["kind"], "not_found");
    node.ok(&["disk", "add", &disk]);
    node.ok(&["volume", "show", "v"]);
}

#[test]
fn a_drain_that_is_cancelled_keeps_what_is_there() {
    let node = with_settings(&[256, 128], "[rebuild]\nlimit_bytes_per_s = 1000000\n");
    import(&node, "a", "1");
    let disk = node.text("disk0");
    let job = node.ok(&["--no-wait", "disk", "drain", &disk]).stdout;
    until("the copy began", || !jobs_of(&node, "rebuild").is_empty());
    node.ok(&["job", "cancel", job.trim()]);
    assert_eq!(node.json(&["disk", "show", &disk])["draining"], false);
    until("the copy that is not wanted any more went", || {
        node.image("a")["replicas"].as_array().unwrap().len() == 1
    });
    assert_eq!(disks_in(&node, "a", "Ready"), ["disk0"]);
}

#[test]
fn a_drain_goes_on_after_a_kill() {
    let mut node = with_settings(&[256, 128], "[rebuild]\nlimit_bytes_per_s = 4000000\n");
    import(&node, "a", "1");
    node.ok(&["--no-wait", "disk", "drain", &node.text("disk0")]);
    until("the copy began", || !jobs_of(&node, "rebuild").is_empty());
    node.kill();
    node.start();
    assert_eq!(jobs_of(&node, "drain").len(), 1);
    until_ready(&node, "a", &["disk1"]);
}

#[test]
fn a_disk_that_is_there_is_not_forgotten_and_one_that_is_lost_is() {
    let mut node = with_disks(&[128, 128, 128]);
    import(&node, "a", "2");
    until("two copies", || node.image("a")["copies_ready"] == 2);
    let lost = disks_in(&node, "a", "Ready")[0].clone();
    let error = node.fails(9, &["disk", "forget", &node.text(&lost)]);
    assert_eq!(error["kind"], "busy");
    assert!(
        error["remedy"].as_str().unwrap().contains("disk remove"),
        "{error}"
    );
    assert_eq!(
        node.fails(3, &["disk", "forget", "/no/such/disk"])["kind"],
        "not_found"
    );
    node.stop();
    std::fs::rename(node.path(&lost), node.path("away")).unwrap();
    node.start();
    // Late, so that nothing is begun.
    let shown = node.image("a");
    assert_eq!(
        (&shown["state"], &shown["degraded"]),
        (&"Ready".into(), &true.into())
    );
    assert_eq!(disks_in(&node, "a", "Unknown"), [lost.as_str()], "{shown}");
    let gone = node.ok(&["disk", "forget", &node.text(&lost)]).stdout;
    assert!(gone.contains("images with other replicas: a"), "{gone}");
    until("a copy elsewhere", || node.image("a")["copies_ready"] == 2);
    assert!(!disks_in(&node, "a", "Ready").contains(&lost));
}

#[test]
fn a_late_disk_starts_no_copy_and_one_that_is_gone_does_and_the_extra_goes_when_it_is_back() {
    let mut node = with_settings(&[128, 128, 128], "");
    import(&node, "a", "2");
    until("two copies", || node.image("a")["copies_ready"] == 2);
    let lost = disks_in(&node, "a", "Ready")[0].clone();
    node.stop();
    std::fs::rename(node.path(&lost), node.path("away")).unwrap();
    node.start();
    // The grace time of these tests is 2.4 s.
    until("it waits for the disk", || {
        let shown = node.image("a");
        let why = shown["degraded_why"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        why.contains("only late") || shown["copies_ready"] == 2
    });
    until("a copy elsewhere", || node.image("a")["copies_ready"] == 2);
    std::fs::rename(node.path("away"), node.path(&lost)).unwrap();
    until("the extra one went", || {
        let shown = node.image("a");
        shown["copies_ready"] == 2 && shown["replicas"].as_array().unwrap().len() == 2
    });
    node.ok(&["image", "verify", "a"]);
}

#[test]
fn an_image_that_was_deleted_while_a_disk_was_away_stays_deleted() {
    let mut node = with_disks(&[128, 128]);
    import(&node, "a", "2");
    until("two copies", || node.image("a")["copies_ready"] == 2);
    node.stop();
    std::fs::rename(node.path("disk1"), node.path("away")).unwrap();
    node.start();
    node.ok(&["image", "delete", "a"]);
    // The name is free at once.
    import(&node, "a", "1");
    let uuid = node.image("a")["uuid"].clone();
    std::fs::rename(node.path("away"), node.path("disk1")).unwrap();
    until("the disk is back and empty", || {
        let disks = node.json(&["disk", "list"])["disks"].clone();
        disks.as_array().unwrap().iter().any(|disk| {
            disk["path"].as_str().unwrap().ends_with("disk1")
                && disk["state"] == "Online"
                && disk["replicas"] == 0
        })
    });
    assert_eq!(node.image("a")["uuid"], uuid);
    node.kill();
    node.start();
    assert_eq!(node.image("a")["uuid"], uuid);
    assert_eq!(
        node.json(&["image", "list"])["images"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn what_was_said_while_a_disk_was_away_holds_when_it_is_back() {
    let mut node = with_disks(&[128, 128]);
    import(&node, "a", "2");
    until("two copies", || node.image("a")["copies_ready"] == 2);
    node.stop();
    std::fs::rename(node.path("disk0"), node.path("away")).unwrap();
    node.start();
    node.ok(&["image", "copies", "a", "3"]);
    node.stop();
    // Only the one that did not hear of it: it says what it knows.
    std::fs::rename(node.path("away"), node.path("disk0")).unwrap();
    std::fs::rename(node.path("disk1"), node.path("away")).unwrap();
    node.start();
    assert_eq!(node.image("a")["copies_wanted"], 2);
    std::fs::rename(node.path("away"), node.path("disk1")).unwrap();
    until("the newer word holds", || {
        node.image("a")["copies_wanted"] == 3
    });
    until("it was told", || {
        node.log().contains("agreed: SetDescription")
    });
    node.stop();
    std::fs::rename(node.path("disk1"), node.path("away")).unwrap();
    node.start();
    assert_eq!(node.image("a")["copies_wanted"], 3, "it was told");
}

#[test]
fn a_clone_can_be_made_where_its_image_is_not() {
    let node = with_disks(&[128, 256]);
    // It goes to the disk with most room, and fills it.
    import(&node, "a", "1");
    assert_eq!(disks_in(&node, "a", "Ready"), ["disk1"]);
    node.ok(&["--no-wait", "disk", "drain", &node.text("disk1")]);
    node.ok(&["volume", "create", "v", "--image", "a"]);
    let shown = node.json(&["volume", "show", "v"]);
    assert!(
        shown["disk_path"].as_str().unwrap().ends_with("disk0"),
        "a disk that is drained gets nothing: {shown}"
    );
    assert_eq!(shown["image"]["name"], "a");
}

#[test]
fn a_disk_of_another_node_is_refused_until_it_is_adopted() {
    let mut node = with_settings(&[128], "node_id = 'one'\n");
    import(&node, "a", "1");
    node.stop();
    let before = std::fs::read(node.path("disk0")).unwrap();
    node.settings = "node_id = 'two'\n".to_owned();
    node.start();
    let disk = node.text("disk0");
    let error = node.fails(1, &["disk", "add", &disk]);
    assert_eq!(error["kind"], "foreign_node", "{error}");
    assert!(
        error["remedy"].as_str().unwrap().contains("disk adopt"),
        "{error}"
    );
    assert!(
        std::fs::read(node.path("disk0")).unwrap() == before,
        "refused, and yet written to"
    );
    node.ok(&["disk", "adopt", &disk]);
    node.ok(&["wait", "image", "a", "--timeout", "20s"]);
    node.kill();
    node.start();
    assert_eq!(node.image("a")["state"], "Ready");
    assert_eq!(
        node.fails(3, &["disk", "adopt", &node.text("none")])["kind"],
        "not_found"
    );
}
