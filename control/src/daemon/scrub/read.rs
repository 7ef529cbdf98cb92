//! Reads one replica again, and compares it with what is recorded: step by step through the thread of its disk, so that other work on the
//! disk goes on in between. Bad blocks are told of as soon as they are found, and repaired from another replica if there is one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::store::{CHECKED_BLOCKS_MAX, CheckedBlock, Damage as PageDamage};
use bedplate_datapath::units::BLOCK_BYTES;
use bedplate_datapath::verify::{BadBlock, StepOutcome, VerifyReport, VerifyRun};
use uuid::Uuid;

use super::checksums::restore;
use super::damage::{Damage, joined};
use super::proof::{prove, require_stays};
use super::repair::repair;
use super::tell::{block_of, words};
use crate::api::ApiError;
use crate::daemon::disk::actor::DiskStore;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::daemon::object::Located;

/// How a replica is to be read.
pub struct Reading<'a> {
    /// Whether its hashes are made as well.
    pub hashes: bool,
    /// Told after each step how many bytes of the image are done; says how long to wait, or that it is to end.
    pub after_step: &'a mut (dyn FnMut(Step) -> Result<Duration, ApiError> + Send),
}

/// A step that was done.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Bytes of the image that are done.
    pub done_bytes: u64,
    /// Bytes that were read from the disk in this step.
    pub read_bytes: u64,
    /// How long that took.
    pub took: Duration,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The whole report, of what was there before repairs.
    pub report: VerifyReport,
    /// Every bad block.
    pub bad: Vec<BadBlock>,
    /// The blocks of these that are good now.
    pub repaired: Vec<u64>,
}

impl Found {
    /// Bad blocks that are bad still.
    pub fn left(&self) -> Vec<BadBlock> {
        let repaired = |bad: &&BadBlock| !self.repaired.contains(&block_of(bad));
        self.bad.iter().filter(repaired).copied().collect()
    }

    /// What is bad of the replica now.
    pub fn damage(&self, found: &Located) -> Option<Damage> {
        let left = self.left();
        let why = if !left.is_empty() {
            words(found, &left)
        } else if let Some(lost) = self.report.lost_pages.first() {
            lost.to_string()
        } else if self.bad.is_empty() && !self.report.hashes_match() {
            let hex = crate::daemon::image::catalog::hex;
            format!(
                "SHA-256 expected {}, actual {}",
                hex(&self.report.expected.sha256),
                hex(&self.report.actual.sha256)
            )
        } else {
            return None;
        };
        Some(Damage {
            ranges: joined(left.iter().map(block_of).collect()),
            why,
        })
    }
}

/// Reads all of a replica, repairs what can be repaired, and notes what cannot.
///
/// # Errors
/// When its disk cannot be asked, or it was deleted meanwhile, or `after_step` ends it.
pub async fn read(
    node: &Arc<Node>,
    found: &Located,
    reading: Reading<'_>,
) -> Result<Found, ApiError> {
    let actor = node.actor(found.disk)?;
    let of_store = |error| errors::of_store(&actor.name(), Some(&found.object.name), &error);
    let (uuid, hashes) = (found.object.uuid, reading.hashes);
    let before = node.damage().ranges(found.object.replica_uuid);
    let mut run = actor
        .ask(move |store| {
            if hashes {
                VerifyRun::new(store, uuid)
            } else {
                VerifyRun::of_blocks(store, uuid)
            }
        })
        .await?
        .map_err(of_store)?;
    let (mut bad, mut repaired) = (Vec::new(), Vec::new());
    loop {
        let began = Instant::now();
        let (read_before, lost_before) = (run.checked_blocks(), run.lost_pages().len());
        let (stepped, outcome) = actor
            .ask(move |store| {
                let outcome = step(&mut run, store, uuid);
                (run, outcome)
            })
            .await?;
        run = stepped;
        let (outcome, found_now) = outcome.map_err(of_store)?;
        if run
            .lost_pages()
            .iter()
            .skip(lost_before)
            .any(PageDamage::is_unreadable)
        {
            require_stays(&actor).await?;
        }
        let found_now = prove(&actor, found_now).await?;
        for leaf in run.take_lost_checksums() {
            if restore(node, found, leaf).await {
                run.checksums_restored(leaf);
            }
        }
        if !found_now.blocks().is_empty() {
            node.blocks_are_bad(found, &found_now);
            let good = repair(node, found, found_now.blocks()).await;
            node.blocks_are_good(found, &good);
            bad.extend(found_now.blocks());
            repaired.extend(good);
        }
        let read_bytes = (run.checked_blocks() - read_before) * BLOCK_BYTES;
        node.metrics.scrubbed(found.disk, read_bytes);
        let wait = (reading.after_step)(Step {
            done_bytes: run.done_bytes(),
            read_bytes,
            took: began.elapsed(),
        })?;
        if outcome == StepOutcome::Done {
            break;
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
    let all = Found {
        report: run.finish(),
        bad,
        repaired,
    };
    node.replica_was_read(found, &before, all.damage(found));
    Ok(all)
}

type Stepped = Result<(StepOutcome, Vec<BadBlock>), bedplate_datapath::store::StoreError>;

/// One step, and every bad block in it: the run itself lists the first ones only.
fn step(run: &mut VerifyRun, store: &mut DiskStore, uuid: Uuid) -> Stepped {
    let (from, counted) = (run.done_bytes(), run.bad_block_count());
    let outcome = run.step(store)?;
    let mut bad = Vec::new();
    if run.bad_block_count() > counted {
        let mut block = from / BLOCK_BYTES;
        let end = run.done_bytes().div_ceil(BLOCK_BYTES);
        while block < end {
            let count = (end - block).min(CHECKED_BLOCKS_MAX as u64);
            bad.extend(bad_blocks(store, uuid, block, count)?);
            block += count;
        }
    }
    Ok((outcome, bad))
}

fn bad_blocks(
    store: &mut DiskStore,
    uuid: Uuid,
    first: u64,
    count: u64,
) -> Result<Vec<BadBlock>, bedplate_datapath::store::StoreError> {
    let len = usize::try_from(count * BLOCK_BYTES).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len];
    let blocks = store.read_checked(uuid, first..first + count, &mut bytes)?;
    Ok(blocks.iter().filter_map(CheckedBlock::bad).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ReplicaState;
    use crate::daemon::object::Noun;
    use crate::daemon::test_node::TestNode;
    use crate::error_kind::ErrorKind;

    /// Reads the image of a disk that gives errors for everything once the map was read, and stays, or is about to go.
    async fn read_with_errors(goes: bool) -> (Result<Found, ApiError>, ReplicaState) {
        let node = TestNode::new();
        let disk = node.make_disk("disk").await;
        node.import_image("img").await;
        let found = node.find(Noun::Image, "img").unwrap();
        let actor = node.actor(disk).unwrap();
        let mut after_step = |_| {
            std::fs::write(node.path("disk"), []).unwrap();
            if goes {
                actor.presence.pretend_gone();
            }
            Ok(Duration::ZERO)
        };
        let reading = Reading {
            hashes: false,
            after_step: &mut after_step,
        };
        let outcome = read(&node, &found, reading).await;
        node.refresh_replicas(disk);
        let replica = found.object.replica_uuid;
        let state = node.runtimes().replica_state(replica).unwrap().get();
        (outcome, state)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_disk_that_goes_cannot_tell_is_not_called_damaged() {
        let (stays, state) = read_with_errors(false).await;
        assert!(!stays.unwrap().report.lost_pages.is_empty());
        assert_eq!(state, ReplicaState::Damaged);
        let (goes, state) = read_with_errors(true).await;
        assert_eq!(goes.unwrap_err().kind, ErrorKind::DiskOffline);
        assert_ne!(state, ReplicaState::Damaged);
    }
}
