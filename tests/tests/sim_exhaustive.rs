//! Every crash point of short traces, by process crash and by power loss with several outcomes, and at each of them every crash
//! point of the recovery as well.

use bedplate_tests::sim::trace::{self, Step};

fn crash_everywhere(before: &[Step], trace: &[Step]) {
    match trace::crash_everywhere(before, trace, None) {
        Ok(count) => println!("{trace:?}: {count:?}"),
        Err(why) => panic!("{why}"),
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
