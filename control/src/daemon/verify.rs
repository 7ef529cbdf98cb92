//! Verification as a job: all replicas of an image are read again, bad blocks repaired from another replica, the rest told of. A re-check
//! does the same with replicas that are not trusted, and takes that back where nothing is wrong with them.

use std::sync::Arc;
use std::time::Duration;

use bedplate_datapath::store::ReplicaState as Stored;
use bedplate_datapath::verify::BlockContent;

use super::image::catalog::hex;
use super::jobs::{JobRef, cancelled};
use super::node::Node;
use super::object::{Located, Noun};
use super::recheck;
use super::scrub::{Found, Reading, read};
use crate::api::{ApiError, BadBlock, Job, JobKind, JobPhase, VerifyReport};
use crate::error_kind::ErrorKind;

/// Bad blocks that a report lists; more are counted only.
const LISTED_MAX: usize = 100;

/// Starts to verify an image, all its replicas that can be read, and answers with the job.
///
/// # Errors
/// `NotFound`; `Busy` while another job is at it; `Corrupt` where its metadata is bad already; `DiskOffline` where none can be read.
pub fn start(node: &Arc<Node>, name: &str) -> Result<Job, ApiError> {
    begin(node, name, JobKind::Verify)
}

/// Starts to re-check an image: as [`start`], and what was not trusted is trusted again if all of it is good.
///
/// # Errors
/// As [`start`].
pub fn recheck(node: &Arc<Node>, name: &str) -> Result<Job, ApiError> {
    begin(node, name, JobKind::Recheck)
}

fn begin(node: &Arc<Node>, name: &str, kind: JobKind) -> Result<Job, ApiError> {
    node.require_running()?;
    let found = node.find(Noun::Image, name)?;
    let failed = match kind {
        JobKind::Recheck => not_trusted(node, &found),
        _ => Vec::new(),
    };
    let readable = readable(node, &found);
    let replicas = match readable {
        // The others are all there is to be read.
        Err(_) if !failed.is_empty() => Vec::new(),
        readable => readable?,
    };
    let job = {
        let mut images = node.runtimes();
        let runtime = images.of(found.object.uuid);
        if let Some(other) = &runtime.job {
            return Err(ApiError::new(
                ErrorKind::Busy,
                format!(
                    "job {} works on the image {} already",
                    other.id(),
                    found.object.name
                ),
            )
            .object(found.object.name.clone())
            .remedy("wait for the job, or cancel it"));
        }
        let total = found.object.size_bytes * (failed.len() + replicas.len()) as u64;
        let job = node.jobs.create(kind, &found.object.name, Some(total));
        runtime.job = Some(job.clone());
        job
    };
    let view = job.view();
    tokio::spawn(supervise(Arc::clone(node), found, failed, replicas, job));
    Ok(view)
}

/// The replicas whose metadata is bad, on disks that answer.
fn not_trusted(node: &Node, found: &Located) -> Vec<Located> {
    let mut replicas = node.copies_of(found.object.uuid);
    replicas.retain(|replica| replica.disk_trouble.is_none() && replica.object.state.is_failed());
    replicas
}

/// The replicas that can be read. One whose metadata is bad cannot.
fn readable(node: &Node, found: &Located) -> Result<Vec<Located>, ApiError> {
    let all = node.copies_of(found.object.uuid);
    let name = &found.object.name;
    let mut replicas = all.clone();
    replicas.retain(|replica| replica.disk_trouble.is_none() && replica.object.state.is_ready());
    if !replicas.is_empty() {
        return Ok(replicas);
    }
    let failed = all.iter().find_map(|replica| match &replica.object.state {
        Stored::Failed(damage) if replica.disk_trouble.is_none() => Some((replica, damage)),
        _ => None,
    });
    if let Some((replica, damage)) = failed {
        return Err(recheck::not_trusted(replica, damage));
    }
    let trouble = all.iter().find_map(|replica| replica.disk_trouble.clone());
    let message = format!(
        "no replica of the image {name} can be read now: {}",
        trouble.unwrap_or_default()
    );
    Err(ApiError::new(ErrorKind::DiskOffline, message)
        .object(name.clone())
        .remedy("it comes back by itself when its disk does; `bedplate disk list` says more"))
}

async fn supervise(
    node: Arc<Node>,
    found: Located,
    failed: Vec<Located>,
    mut replicas: Vec<Located>,
    job: JobRef,
) {
    let mut all = Vec::new();
    let mut outcome = Ok(());
    let mut went = Ok(());
    let mut distrusted = Ok(());
    for replica in failed {
        match recheck::trust_again(&node, &replica).await {
            Ok(trusted) => replicas.extend(trusted),
            Err(error) => distrusted = Err(error),
        }
    }
    for replica in replicas {
        let done_before = found.object.size_bytes * all.len() as u64;
        match one(&node, &replica, &job, done_before).await {
            Ok(read) => all.push((replica, read)),
            // A copy that is one too many goes meanwhile. The others are the image.
            Err(error) if error.kind == ErrorKind::NotFound && has_others(&node, &replica) => {
                went = Err(error);
            }
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    if all.is_empty() {
        outcome = outcome.and(went);
    }
    // What is wrong says more than what could not be read.
    let wrong = all
        .iter()
        .find_map(|(replica, read)| finding(replica, read));
    node.runtimes().of(found.object.uuid).job = None;
    for (replica, _) in &all {
        node.refresh_disk(replica.disk);
        node.refresh_replicas(replica.disk);
    }
    let report = (!all.is_empty() && outcome.is_ok()).then(|| view(&all));
    job.end(distrusted.and(wrong.map_or(outcome, Err)), report);
    node.notify();
}

fn has_others(node: &Node, replica: &Located) -> bool {
    let copies = node.copies_of(replica.object.uuid);
    copies
        .iter()
        .any(|copy| copy.object.replica_uuid != replica.object.replica_uuid)
}

async fn one(
    node: &Arc<Node>,
    replica: &Located,
    job: &JobRef,
    done_before: u64,
) -> Result<Found, ApiError> {
    let total = job.view().progress.total_bytes;
    let mut after_step = |step: super::scrub::Step| -> Result<Duration, ApiError> {
        if job.is_cancelled() {
            return Err(cancelled(&replica.object.name));
        }
        job.progress(JobPhase::Verifying, done_before + step.done_bytes, total);
        Ok(Duration::ZERO)
    };
    let reading = Reading {
        hashes: true,
        after_step: &mut after_step,
    };
    read(node, replica, reading).await
}

/// The error that a bad replica is, with the first thing that is wrong.
fn finding(replica: &Located, read: &Found) -> Option<ApiError> {
    let damage = read.damage(replica)?;
    let name = &replica.object.name;
    let disk = &replica.disk_path;
    let mut error = ApiError::new(
        ErrorKind::Corrupt,
        format!("the image {name} is damaged on {disk}: {}", damage.why),
    )
    .object(name.clone())
    .disk(disk.clone())
    .remedy(
        "everything else of it is served; check the disk (kernel log, SMART). With another copy it heals itself \
         (`bedplate image copies`); without one, import it again under another name. See docs/operations.md",
    );
    let lost = read.report.lost_pages.first();
    error.offset = read
        .left()
        .first()
        .map(|bad| bad.disk_offset.get())
        .or_else(|| lost.map(|page| page.disk_offset().get()));
    Some(error)
}

fn view(all: &[(Located, Found)]) -> VerifyReport {
    let bad_blocks = all.iter().flat_map(|(replica, read)| {
        read.bad.iter().map(|bad| BadBlock {
            disk: replica.disk_path.clone(),
            object_offset: bad.object_offset.get(),
            disk_offset: bad.disk_offset.get(),
            expected_crc32c: bad.expected_crc,
            actual_crc32c: match bad.actual {
                BlockContent::Crc(crc) => crc,
                BlockContent::Unreadable(_) => 0,
            },
        })
    });
    // The first replica that is not what was imported stands for all. A hash over bytes that could not be read says nothing.
    let worst = all
        .iter()
        .map(|(_, read)| read)
        .find(|read| !read.report.hashes_match())
        .or_else(|| all.first().map(|(_, read)| read));
    let all_read = worst.is_some_and(|read| {
        let mut bad = read.bad.iter();
        bad.all(|bad| matches!(bad.actual, BlockContent::Crc(_)))
    });
    let count = |of: fn(&Found) -> u64| all.iter().map(|(_, read)| of(read)).sum();
    VerifyReport {
        replicas: u32::try_from(all.len()).unwrap_or(u32::MAX),
        bad_block_count: count(|read| read.bad.len() as u64),
        repaired_block_count: count(|read| read.repaired.len() as u64),
        restored_checksum_pages: count(|read| read.report.restored_checksum_pages),
        bad_blocks: bad_blocks.take(LISTED_MAX).collect(),
        sha256_expected: worst.map_or_else(String::new, |read| hex(&read.report.expected.sha256)),
        sha256_actual: worst
            .filter(|_| all_read)
            .map(|read| hex(&read.report.actual.sha256)),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::api::JobState;
    use crate::daemon::test_node::TestNode;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_that_goes_while_an_image_is_verified_is_no_error_unless_it_was_all() {
        let node = TestNode::new();
        node.make_disk("disk").await;
        node.import_image("img").await;
        let other = node.make_disk("other").await;
        let there = node.find(Noun::Image, "img").unwrap();
        let mut gone = there.clone();
        gone.disk = other;
        gone.object.replica_uuid = Uuid::new_v4();
        for (replicas, read) in [
            (vec![gone.clone(), there.clone()], Some(1)),
            (vec![gone], None),
        ] {
            let job = node.jobs.create(JobKind::Verify, "img", None);
            supervise(
                Arc::clone(&node),
                there.clone(),
                Vec::new(),
                replicas,
                job.clone(),
            )
            .await;
            let ended = job.view();
            assert_eq!(ended.verify.map(|report| report.replicas), read);
            assert_eq!(ended.state == JobState::Done, read.is_some());
            assert_eq!(ended.error.is_none(), read.is_some());
        }
    }
}
