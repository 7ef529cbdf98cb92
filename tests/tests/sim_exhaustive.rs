//! Every crash point of short traces, by process crash and by power loss with several outcomes, and at each of them every crash
//! point of the recovery as well.

use bedplate_tests::sim::disk::Crash;
use bedplate_tests::sim::rng::mix;
use bedplate_tests::sim::trace::{Node, Step};

const DISK_BYTES: u64 = 64 << 20;

/// Process crash, and power losses: all lost, all there, and sectors at random.
fn crashes(point: u64) -> impl Iterator<Item = Crash> {
    let power = (0..5).map(move |nth| Crash::Power {
        seed: mix(point * 8 + nth),
    });
    std::iter::once(Crash::Process).chain(power)
}

fn second_crashes(point: u64) -> [Crash; 3] {
    [
        Crash::Process,
        Crash::Power { seed: mix(!point) },
        Crash::Power {
            seed: mix(!point - 1),
        },
    ]
}

/// Crashes `trace` at each of its operations, on a disk on which `before` was done.
fn crash_everywhere(before: &[Step], trace: &[Step]) {
    let mut ready = Node::new(DISK_BYTES);
    if !before.is_empty() {
        ready.run(before).unwrap();
    }
    let first = ready.disk.operations();
    let mut whole = ready.clone();
    whole.run(trace).unwrap();
    assert!(!whole.disk.has_crashed());
    let end = whole.disk.operations();
    let (mut points, mut recoveries) = (0u64, 0u64);
    // One more than there are operations: the crash after the last.
    for point in first..=end {
        let mut crashed = ready.clone();
        crashed.disk.crash_at(point);
        crashed
            .run(trace)
            .unwrap_or_else(|why| panic!("{trace:?}, operation {point}: {why}"));
        for crash in crashes(point) {
            points += 1;
            let mut node = crashed.clone();
            node.crash(crash);
            let mut recovering = node.clone();
            check(
                &mut recovering,
                &format!("{trace:?}, {crash:?} at operation {point}"),
            );
            let last = recovering.disk.operations();
            for second in node.disk.operations()..last {
                for again in second_crashes(second) {
                    recoveries += 1;
                    let mut node = node.clone();
                    node.disk.crash_at(second);
                    let story = format!(
                        "{trace:?}, {crash:?} at operation {point}, {again:?} at {second} of the recovery"
                    );
                    node.recover()
                        .unwrap_or_else(|why| panic!("{story}: {why}"));
                    node.crash(again);
                    check(&mut node, &story);
                }
            }
        }
    }
    println!(
        "{trace:?}: {} operations, {points} crashes, {recoveries} crashes of a recovery",
        end - first
    );
}

fn check(node: &mut Node, story: &str) {
    match node.recover() {
        Ok(false) => {}
        Ok(true) => panic!("{story}: the recovery crashed by itself"),
        Err(why) => panic!("{story}: {why}"),
    }
}

const FORMAT: &[Step] = &[Step::Format(0xd15c)];

#[test]
fn format() {
    crash_everywhere(&[], FORMAT);
}

#[test]
fn format_over_a_former_disk() {
    crash_everywhere(
        &[Step::Format(0xd15c), Step::Import(1, "a")],
        &[Step::Format(0xd15d)],
    );
}

#[test]
fn import_and_seal() {
    crash_everywhere(FORMAT, &[Step::Import(1, "a")]);
}

#[test]
fn import_and_delete() {
    crash_everywhere(FORMAT, &[Step::Import(1, "a"), Step::Delete(1)]);
}

#[test]
fn two_imports_a_delete_and_an_import_of_the_same_name() {
    let trace = [
        Step::Import(1, "a"),
        Step::Import(2, "b"),
        Step::Delete(1),
        Step::Reopen,
        Step::Import(3, "a"),
    ];
    crash_everywhere(FORMAT, &trace);
}

#[test]
fn attach_and_detach() {
    crash_everywhere(
        &[Step::Format(0xd15c), Step::Import(1, "a")],
        &[Step::Attach(1, true), Step::Attach(1, false)],
    );
}

#[test]
fn abort() {
    crash_everywhere(
        &[Step::Format(0xd15c), Step::Import(1, "a")],
        &[Step::Abort(2), Step::Import(3, "b")],
    );
}
