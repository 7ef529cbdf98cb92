//! Verification as a job: step by step through the disk's own thread, so that other work on the disk goes on in between.

use std::sync::Arc;

use bedplate_datapath::verify::{BlockContent, StepOutcome, VerifyReport as Found, VerifyRun};

use super::errors;
use super::image::catalog::hex;
use super::jobs::{JobRef, cancelled};
use super::node::Node;
use super::object::{Located, Noun};
use crate::api::{ApiError, BadBlock, Job, JobKind, JobPhase, VerifyReport};
use crate::error_kind::ErrorKind;

/// Starts to verify an image and answers with the job.
///
/// # Errors
/// `NotFound`; `Busy` while another job is at it; `Corrupt` where its metadata is bad already.
pub async fn start(node: &Arc<Node>, name: &str) -> Result<Job, ApiError> {
    node.require_running()?;
    let found = node.find(Noun::Image, name)?;
    let actor = node.actor(found.disk)?;
    let uuid = found.object.uuid;
    let run = actor
        .ask(move |store| VerifyRun::new(store, uuid))
        .await?
        .map_err(|error| errors::of_store(&actor.name(), Some(&found.object.name), &error))?;
    let job = {
        let mut images = node.runtimes();
        let runtime = images.of(uuid);
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
        let job = node
            .jobs
            .create(JobKind::Verify, &found.object.name, Some(run.total_bytes()));
        runtime.job = Some(job.clone());
        job
    };
    let view = job.view();
    tokio::spawn(supervise(Arc::clone(node), found, run, job));
    Ok(view)
}

async fn supervise(node: Arc<Node>, found: Located, run: VerifyRun, job: JobRef) {
    let (outcome, report) = match all_steps(&node, &found, run, &job).await {
        Ok(report) => {
            let bad = finding(&found, &report);
            node.runtimes().of(found.object.uuid).damage =
                bad.as_ref().map(|error| error.message.clone());
            (bad.map_or(Ok(()), Err), Some(view(&found, &report)))
        }
        Err(error) => (Err(error), None),
    };
    node.runtimes().of(found.object.uuid).job = None;
    node.refresh_disk(found.disk);
    node.refresh_replicas(found.disk);
    job.end(outcome, report);
    node.notify();
}

async fn all_steps(
    node: &Node,
    found: &Located,
    mut run: VerifyRun,
    job: &JobRef,
) -> Result<Found, ApiError> {
    let actor = node.actor(found.disk)?;
    loop {
        if job.is_cancelled() {
            return Err(cancelled(&found.object.name));
        }
        let (stepped, outcome) = actor
            .ask(move |store| {
                let outcome = run.step(store);
                (run, outcome)
            })
            .await?;
        run = stepped;
        let outcome = outcome
            .map_err(|error| errors::of_store(&actor.name(), Some(&found.object.name), &error))?;
        job.progress(
            JobPhase::Verifying,
            run.done_bytes(),
            Some(run.total_bytes()),
        );
        if outcome == StepOutcome::Done {
            return Ok(run.finish());
        }
    }
}

/// The error that a bad image is, with the first thing that is wrong.
fn finding(found: &Located, report: &Found) -> Option<ApiError> {
    if report.is_good() {
        return None;
    }
    let name = &found.object.name;
    let disk = &found.disk_path;
    let (message, offset) = if let Some(bad) = report.bad_blocks.first() {
        let actual = match bad.actual {
            BlockContent::Crc(crc) => format!("actual {crc:#010x}"),
            BlockContent::Unreadable(fault) => format!("unreadable: {fault}"),
        };
        let message = format!(
            "the image {name} is damaged: {} bad blocks; the first at byte {} of the image, byte {} of {disk}: \
             CRC32C expected {:#010x}, {actual}",
            report.bad_block_count, bad.object_offset, bad.disk_offset, bad.expected_crc
        );
        (message, Some(bad.disk_offset.get()))
    } else if let Some(lost) = report.lost_pages.first() {
        (
            format!("the image {name} on {disk} is damaged: {lost}"),
            Some(lost.disk_offset().get()),
        )
    } else {
        let message = format!(
            "the image {name} on {disk} is damaged: SHA-256 expected {}, actual {}",
            hex(&report.expected.sha256),
            hex(&report.actual.sha256)
        );
        (message, None)
    };
    let mut error = ApiError::new(ErrorKind::Corrupt, message)
        .object(name.clone())
        .disk(disk.clone())
        .remedy("check the disk (kernel log, SMART), then delete the image and import it again");
    error.offset = offset;
    Some(error)
}

fn view(found: &Located, report: &Found) -> VerifyReport {
    // A hash over bytes that could not be read says nothing.
    let all_read = report
        .bad_blocks
        .iter()
        .all(|bad| matches!(bad.actual, BlockContent::Crc(_)));
    VerifyReport {
        replicas: 1,
        bad_block_count: report.bad_block_count,
        bad_blocks: report
            .bad_blocks
            .iter()
            .map(|bad| BadBlock {
                disk: found.disk_path.clone(),
                object_offset: bad.object_offset.get(),
                disk_offset: bad.disk_offset.get(),
                expected_crc32c: bad.expected_crc,
                actual_crc32c: match bad.actual {
                    BlockContent::Crc(crc) => crc,
                    BlockContent::Unreadable(_) => 0,
                },
            })
            .collect(),
        sha256_expected: hex(&report.expected.sha256),
        sha256_actual: all_read.then(|| hex(&report.actual.sha256)),
    }
}
