//! Every write and flush of short traces of volumes, with both kinds of crash, and a second crash at every write and flush of the recovery.

use bedplate_tests::sim::volumes::node::{Broken, Node, Ring};
use bedplate_tests::sim::volumes::request::What;
use bedplate_tests::sim::volumes::trace::{Step, crash_everywhere};

const WRITE: What = What::Write { fua: false };
const FUA: What = What::Write { fua: true };
const DISCARD: What = What::Zero { keep: false };
const CLUSTER: usize = 256;
const BLOCK: usize = 8;

fn holds(before: &[Step], script: &[Step]) {
    holds_with(Ring::Empty, before, script);
}

fn holds_with(ring: Ring, before: &[Step], script: &[Step]) {
    let mut node = Node::default();
    for seed in [7] {
        match crash_everywhere(&mut node, seed, ring, before, script, Broken::default()) {
            Ok(tried) => println!(
                "seed {seed}: {} places, {} recoveries",
                tried.places, tried.recoveries
            ),
            Err(why) => panic!("{why}"),
        }
    }
}

#[test]
fn first_touch_and_flush() {
    holds(
        &[Step::Make(false, 4 * CLUSTER)],
        &[
            Step::Ask(0, WRITE, BLOCK, 2 * BLOCK),
            Step::Ask(0, What::Flush, 0, 0),
            Step::Ask(0, WRITE, BLOCK, BLOCK),
        ],
    );
}

#[test]
fn a_cluster_that_one_volume_discards_is_taken_by_another() {
    holds(
        &[
            Step::Make(false, 2 * CLUSTER),
            Step::Make(false, 2 * CLUSTER),
            Step::Ask(0, WRITE, 0, CLUSTER),
            Step::Ask(1, FUA, CLUSTER, BLOCK),
            Step::Ask(0, What::Flush, 0, 0),
            Step::TakeSpace(0),
        ],
        &[
            Step::Ask(0, DISCARD, 0, CLUSTER),
            Step::Ask(1, WRITE, 0, BLOCK),
            Step::Ask(1, What::Flush, 0, 0),
        ],
    );
}

#[test]
fn parts_of_blocks_over_an_image() {
    holds(
        &[Step::Make(true, 6 * CLUSTER)],
        &[
            Step::Ask(0, WRITE, 3, 2),
            Step::Begin(0, WRITE, BLOCK + 5, 7),
            Step::Ask(0, What::Zero { keep: true }, 2 * BLOCK, BLOCK),
            Step::Ask(0, What::Flush, 0, 0),
        ],
    );
}

#[test]
fn a_claim_over_tombstones() {
    holds(
        &[
            Step::Make(true, 6 * CLUSTER),
            Step::Ask(0, DISCARD, BLOCK, 4 * BLOCK),
            Step::Ask(0, What::Flush, 0, 0),
        ],
        &[
            Step::Ask(0, WRITE, 0, 2 * BLOCK),
            Step::Ask(0, What::Flush, 0, 0),
        ],
    );
}

#[test]
fn a_resize_under_writes() {
    holds(
        &[Step::Make(false, 2 * CLUSTER - 3)],
        &[
            Step::Ask(0, FUA, 2 * CLUSTER - 5, 2),
            Step::Resize(0, 3 * CLUSTER),
            Step::Ask(0, WRITE, 2 * CLUSTER, BLOCK),
        ],
    );
}

#[test]
fn create_and_delete() {
    holds(
        &[
            Step::Make(false, 2 * CLUSTER),
            Step::Ask(0, FUA, 0, CLUSTER),
        ],
        &[
            Step::Detach(0),
            Step::Delete(0),
            Step::Make(true, 6 * CLUSTER),
            Step::Ask(1, FUA, 0, BLOCK),
        ],
    );
}

#[test]
fn detach_and_attach() {
    holds(
        &[Step::Make(true, 6 * CLUSTER), Step::Ask(0, WRITE, 1, 3)],
        &[Step::Detach(0), Step::Attach(0), Step::Ask(0, WRITE, 0, 2)],
    );
}

#[test]
fn a_drop_that_was_in_memory_only_and_a_write_that_waits_for_the_next_process() {
    holds(
        &[
            Step::Make(false, 2 * CLUSTER),
            Step::Make(false, 2 * CLUSTER),
            Step::Ask(0, FUA, 0, CLUSTER),
            Step::Ask(1, FUA, CLUSTER, BLOCK),
        ],
        &[
            Step::Ask(0, DISCARD, 0, CLUSTER),
            Step::Begin(1, WRITE, 0, CLUSTER),
            Step::Stop,
        ],
    );
}

#[test]
fn a_checkpoint_with_changes_that_are_not_committed() {
    holds(
        &[
            Step::Make(false, 2 * CLUSTER),
            Step::Ask(0, FUA, 0, CLUSTER),
        ],
        &[
            Step::Ask(0, WRITE, CLUSTER, 2 * BLOCK),
            Step::Ask(0, DISCARD, 0, CLUSTER),
            Step::Checkpoint,
            Step::Ask(0, FUA, CLUSTER + BLOCK, BLOCK),
        ],
    );
}

/// The last commits before the ring is full, the checkpoint inside the one that finds no room, and one after it.
#[test]
fn a_checkpoint_inside_a_commit_that_finds_the_ring_full() {
    holds_with(
        Ring::NearlyFull,
        &[Step::Make(false, 4 * CLUSTER), Step::Commits(0, 11)],
        &[
            Step::Ask(0, WRITE, 2 * CLUSTER, CLUSTER),
            Step::Commits(0, 12),
            Step::Ask(0, DISCARD, 2 * CLUSTER, CLUSTER),
            Step::Ask(0, FUA, 3 * CLUSTER, BLOCK),
        ],
    );
}

#[test]
fn an_image_with_a_clone_stays_and_one_without_gives_its_space_back() {
    holds(
        &[Step::Make(true, 6 * CLUSTER), Step::Ask(0, FUA, 3, 2)],
        &[
            Step::DeleteImage,
            Step::Detach(0),
            Step::Delete(0),
            Step::DeleteImage,
            Step::Make(false, 6 * CLUSTER),
            Step::TakeSpace(6),
            Step::Ask(1, FUA, 0, 5 * CLUSTER),
        ],
    );
}
