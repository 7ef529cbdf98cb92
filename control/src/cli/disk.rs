//! `disk remove`, `drain`, `forget`, `adopt`, `re-uuid`: what is done to a disk that holds something.

use super::args::DiskCommand;
use super::client::path;
use super::commands::{Context, absolute, disk_key, disk_line, job_id};
use super::follow::{Interrupts, wait_for};
use super::progress::Reporter;
use crate::api::{ApiError, Disk, DiskDetail, DiskPath, DiskState, Forgotten, Job};
use crate::error_kind::ErrorKind;
use std::fmt::Write as _;
use std::path::Path;

/// Does what the command says.
///
/// # Errors
/// What went wrong, to be printed.
pub async fn run(context: &Context, command: DiskCommand) -> Result<(), ApiError> {
    match command {
        DiskCommand::Remove { disk, force } => remove(context, &disk, force).await,
        DiskCommand::Drain { disk } => drain(context, &disk).await,
        DiskCommand::Forget { disk } => forget(context, &disk).await,
        DiskCommand::Adopt { path } => take_over(context, "adopt", "adopted", &path).await,
        DiskCommand::ReUuid { path } => {
            take_over(context, "re-uuid", "given an identity of its own:", &path).await
        }
        DiskCommand::Format { .. }
        | DiskCommand::Add { .. }
        | DiskCommand::List
        | DiskCommand::Show { .. } => Err(ApiError::new(
            ErrorKind::Internal,
            "a command of another kind came here",
        )),
    }
}

async fn remove(context: &Context, disk: &str, force: bool) -> Result<(), ApiError> {
    let (client, output) = (&context.client, &context.output);
    let key = disk_key(disk)?;
    let endpoint = path(&["disks", &key]);
    let mut moved = false;
    if !force {
        let detail: DiskDetail = client.get(&endpoint).await?;
        if detail.disk.state == DiskState::Online && detail.disk.replicas > 0 {
            follow_drain(context, &key).await?;
            moved = true;
        }
    }
    let query = if force { "?force=true" } else { "" };
    client.delete(&format!("{endpoint}{query}")).await?;
    output.done(&serde_json::json!({ "removed": disk }), || {
        if moved {
            format!("removed {disk}; its replicas are on other disks")
        } else {
            format!("removed {disk}; nothing on it was changed")
        }
    })
}

async fn drain(context: &Context, disk: &str) -> Result<(), ApiError> {
    let key = disk_key(disk)?;
    if context.global.no_wait {
        let job: Job = context
            .client
            .post(&path(&["disks", &key, "drain"]))
            .await?;
        return job_id(&context.output, &job);
    }
    let job = follow_drain(context, &key).await?;
    context.output.done(&job, || {
        format!(
            "drained {disk}: no replica is on it, and it gets none; disk remove takes it out of use"
        )
    })
}

async fn follow_drain(context: &Context, key: &str) -> Result<Job, ApiError> {
    let mut interrupts = Interrupts::catch()?;
    let job: Job = context.client.post(&path(&["disks", key, "drain"])).await?;
    let mut reporter = Reporter::new(&context.global);
    wait_for(&context.client, job, &mut interrupts, &mut reporter).await
}

async fn forget(context: &Context, disk: &str) -> Result<(), ApiError> {
    let endpoint = path(&["disks", &disk_key(disk)?, "forget"]);
    let gone: Forgotten = context.client.post(&endpoint).await?;
    context.output.done(&gone, || {
        let mut text = format!("forgot {disk}");
        for (what, names) in [
            ("images with other replicas", &gone.images),
            ("images that are lost", &gone.images_lost),
            ("volumes that are lost", &gone.volumes_lost),
        ] {
            if !names.is_empty() {
                // Writing to a String cannot fail.
                let _ = write!(text, "\n  {what}: {}", names.join(", "));
            }
        }
        text
    })
}

async fn take_over(context: &Context, verb: &str, done: &str, disk: &Path) -> Result<(), ApiError> {
    let request = DiskPath {
        path: absolute(disk)?,
    };
    let disk: Disk = context
        .client
        .post_json(&path(&["disks", verb]), &request)
        .await?;
    context.output.done(&disk, || disk_line(done, &disk))
}
