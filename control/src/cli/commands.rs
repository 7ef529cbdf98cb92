//! What each command does: a request, and what is printed of the answer.

use super::args::{Command, DiskCommand, Global, ImageCommand, JobCommand, WaitCommand};
use super::client::{Client, path};
use super::follow::{Interrupts, until_final, wait_for};
use super::output::Output;
use super::progress::Reporter;
use super::size::human;
use super::{disk, image, import, offline, render, volume, wait};
use crate::api::{
    AddDisk, ApiError, Changed, Disk, DiskDetail, DiskList, DoctorReport, FormatDisk, ImageDetail,
    ImageList, Job, JobList, JobState, ObjectName, Status, Verdict,
};
use crate::doctor;
use crate::error_kind::ErrorKind;
use std::path::Path;
use std::time::SystemTime;
use uuid::Uuid;

/// What every command works with.
pub struct Context {
    /// The daemon.
    pub client: Client,
    /// Where results go.
    pub output: Output,
    /// Options of every command.
    pub global: Global,
}

/// Does what the command line says; the exit code where that is no error.
///
/// # Errors
/// What went wrong, to be printed.
pub async fn run(context: &Context, command: Command) -> Result<u8, ApiError> {
    match command {
        Command::Disk(command) => self::disk(context, command).await?,
        Command::Image(command) => self::image(context, command).await?,
        Command::Volume(command) => volume::run(context, command).await?,
        Command::Job(command) => job(context, command).await?,
        Command::Status => {
            let status: Status = context.client.get(&path(&["status"])).await?;
            context.output.result(&status, |paint| {
                render::status(&status, SystemTime::now(), paint)
            })?;
        }
        Command::Doctor => return doctor(context).await,
        Command::Wait(WaitCommand::Image { name, timeout }) => {
            wait::image(context, &name, timeout).await?;
        }
        Command::Wait(WaitCommand::Volume { name, timeout }) => {
            wait::volume(context, &name, timeout).await?;
        }
    }
    Ok(0)
}

async fn disk(context: &Context, command: DiskCommand) -> Result<(), ApiError> {
    let (client, output) = (&context.client, &context.output);
    match command {
        DiskCommand::Format {
            path: disk,
            size,
            force,
            offline: true,
        } => {
            let disk = offline::format(absolute(&disk)?, size, force)
                .map_err(|error| no_such_disk(error, size))?;
            output.done(&disk, || {
                format!(
                    "{}; bedplate disk add {} brings it online",
                    disk_line("formatted", &disk),
                    disk.path
                )
            })
        }
        DiskCommand::Format {
            path: disk,
            size,
            force,
            offline: false,
        } => {
            let request = FormatDisk {
                path: absolute(&disk)?,
                size_bytes: size,
                force,
            };
            let formatted = client
                .post_json(&path(&["disks", "format"]), &request)
                .await;
            let disk: Disk = formatted.map_err(|error| no_such_disk(error, size))?;
            output.done(&disk, || disk_line("formatted", &disk))
        }
        DiskCommand::Add { path: disk } => {
            let disk: Disk = client
                .post_json(
                    &path(&["disks"]),
                    &AddDisk {
                        path: absolute(&disk)?,
                    },
                )
                .await?;
            output.done(&disk, || disk_line("added", &disk))
        }
        DiskCommand::List => {
            let list: DiskList = client.get(&path(&["disks"])).await?;
            if list.disks.is_empty() {
                output.note("no disks; bedplate disk format PATH makes one, bedplate disk add PATH brings one back");
            }
            output.result(&list, |paint| render::disks(&list.disks, paint))
        }
        DiskCommand::Show { disk } => {
            let detail: DiskDetail = client.get(&path(&["disks", &disk_key(&disk)?])).await?;
            output.result(&detail, |paint| render::disk(&detail, paint))
        }
        command => disk::run(context, command).await,
    }
}

/// Nothing is at the path, and no size was given to make a file of.
fn no_such_disk(error: ApiError, size: Option<u64>) -> ApiError {
    if error.kind == ErrorKind::NotFound && size.is_none() {
        error.remedy("check the path; or --size 10G makes a regular file of that size there")
    } else {
        error
    }
}

pub(super) fn disk_line(done: &str, disk: &Disk) -> String {
    let size = disk
        .size_bytes
        .map(|bytes| format!(", {}", human(bytes)))
        .unwrap_or_default();
    let uuid = disk
        .uuid
        .map(|uuid| format!(", uuid {uuid}"))
        .unwrap_or_default();
    format!("{done} {}: {:?}{size}{uuid}", disk.path, disk.state)
}

async fn image(context: &Context, command: ImageCommand) -> Result<(), ApiError> {
    let (client, output) = (&context.client, &context.output);
    match command {
        ImageCommand::Import {
            name,
            source,
            format,
            sha256,
            sha512,
            copies,
        } => {
            let wanted = import::Wanted {
                name: ObjectName::parse(&name)?,
                format: format.into(),
                sha256,
                sha512,
                copies,
            };
            if source == "-" {
                import::from_stdin(context, wanted).await
            } else {
                import::from_file(context, wanted, absolute(Path::new(&source))?).await
            }
        }
        ImageCommand::List => {
            let list: ImageList = client.get(&path(&["images"])).await?;
            if list.images.is_empty() {
                output.note("no images; bedplate image import NAME SOURCE makes one");
            }
            output.result(&list, |paint| render::images(&list.images, paint))
        }
        ImageCommand::Show { name } => {
            let detail: ImageDetail = client.get(&image_path(&name, None)?).await?;
            output.result(&detail, |paint| render::image(&detail, paint))
        }
        ImageCommand::Attach { name } => {
            let changed: Changed = client.post(&image_path(&name, Some("attach"))?).await?;
            let device = changed.attachment.device.clone().ok_or_else(|| {
                ApiError::new(
                    ErrorKind::Internal,
                    "the daemon attached the image and named no device",
                )
                .object(&name)
            })?;
            output.result(&changed, |_| device)
        }
        ImageCommand::Detach { name } => {
            let changed: Changed = client.post(&image_path(&name, Some("detach"))?).await?;
            output.done(&changed, || {
                if changed.changed {
                    format!("detached {name}")
                } else {
                    format!("{name} is not attached")
                }
            })
        }
        ImageCommand::Verify { name } => read_again(context, &name, "verify").await,
        ImageCommand::Recheck { name } => read_again(context, &name, "recheck").await,
        ImageCommand::Copies {
            name,
            copies,
            limit,
        } => image::copies(context, &name, copies, limit).await,
        ImageCommand::Delete {
            name,
            failed_copies: false,
        } => {
            client.delete(&image_path(&name, None)?).await?;
            output.done(&serde_json::json!({ "deleted": name }), || {
                format!("deleted {name}")
            })
        }
        ImageCommand::Delete {
            name,
            failed_copies: true,
        } => {
            let endpoint = image_path(&name, None)?;
            client
                .delete(&format!("{endpoint}?failed_copies=true"))
                .await?;
            output.done(
                &serde_json::json!({ "failed_copies_deleted": name }),
                || format!("{name}: its Failed copies are deleted, the image stays"),
            )
        }
    }
}

async fn job(context: &Context, command: JobCommand) -> Result<(), ApiError> {
    let (client, output) = (&context.client, &context.output);
    match command {
        JobCommand::List => {
            let list: JobList = client.get(&path(&["jobs"])).await?;
            if list.jobs.is_empty() {
                output.note("no jobs");
            }
            output.result(&list, |paint| render::jobs(&list.jobs, paint))
        }
        JobCommand::Wait { id } => {
            let mut interrupts = Interrupts::catch()?;
            let job: Job = client.get(&path(&["jobs", &id.to_string()])).await?;
            wait_and_tell(context, job, &mut interrupts).await
        }
        JobCommand::Cancel { id } => {
            let job: Job = client
                .post(&path(&["jobs", &id.to_string(), "cancel"]))
                .await?;
            let job = until_final(client, job, &mut Reporter::None).await?;
            output.done(&job, || match job.state {
                JobState::Cancelled => format!("cancelled job {id}"),
                ended => format!(
                    "job {id} had ended before: {}",
                    render::job_state_word(ended)
                ),
            })
        }
    }
}

async fn doctor(context: &Context) -> Result<u8, ApiError> {
    let mut report = match context.client.get::<DoctorReport>(&path(&["doctor"])).await {
        Ok(mut report) => {
            report
                .checks
                .push(doctor::daemon_answers(&context.global.socket));
            report
        }
        Err(error) if error.kind == ErrorKind::DaemonUnreachable => {
            let mut report = doctor::examine(&doctor::Place::default(), "bedplate");
            report.checks.push(doctor::daemon_does_not_answer(&error));
            report
        }
        Err(error) => return Err(error),
    };
    report.verdict = report
        .checks
        .iter()
        .map(|check| check.verdict)
        .max()
        .unwrap_or(Verdict::Ok);
    context
        .output
        .result(&report, |paint| render::doctor(&report, paint))?;
    Ok(doctor::exit_code(&report))
}

/// `image verify` and `image recheck`.
async fn read_again(context: &Context, name: &str, verb: &str) -> Result<(), ApiError> {
    let (client, output) = (&context.client, &context.output);
    let mut interrupts = Interrupts::catch()?;
    let job: Job = client.post(&image_path(name, Some(verb))?).await?;
    if context.global.no_wait {
        return job_id(output, &job);
    }
    wait_and_tell(context, job, &mut interrupts).await
}

/// Waits for a job, shows how far it is, and says how it ended.
async fn wait_and_tell(
    context: &Context,
    job: Job,
    interrupts: &mut Interrupts,
) -> Result<(), ApiError> {
    let mut reporter = Reporter::new(&context.global);
    let job = wait_for(&context.client, job, interrupts, &mut reporter).await?;
    context.output.done(&job, || job_line(&job))
}

/// The line that says how a job ended well.
pub fn job_line(job: &Job) -> String {
    let done = human(job.progress.done_bytes);
    match (&job.verify, job.state) {
        (Some(report), JobState::Done) => {
            let copies = if report.replicas == 1 {
                "copy"
            } else {
                "copies"
            };
            let repaired = match report.repaired_block_count {
                0 => String::new(),
                blocks => format!(", {blocks} blocks repaired"),
            };
            let restored = match report.restored_checksum_pages {
                0 => String::new(),
                pages => format!(", {pages} checksum pages restored"),
            };
            format!(
                "{} is good: {done} read, {} {copies}{repaired}{restored}, sha256 {}",
                job.image, report.replicas, report.sha256_expected
            )
        }
        _ => format!(
            "job {} ({} {}): {}, {done}",
            job.id,
            render::job_kind(job.kind),
            render::job_about(job),
            render::job_state_word(job.state)
        ),
    }
}

/// `--no-wait`: the id alone.
///
/// # Errors
/// `Io` when standard output cannot be written.
pub fn job_id(output: &Output, job: &Job) -> Result<(), ApiError> {
    output.result(job, |_| job.id.to_string())
}

pub(super) fn image_path(name: &str, verb: Option<&str>) -> Result<String, ApiError> {
    object_path("images", name, verb)
}

/// Path of an image or a volume, or of something that is done to it.
///
/// # Errors
/// `BadName`, before anything is sent.
pub fn object_path(collection: &str, name: &str, verb: Option<&str>) -> Result<String, ApiError> {
    let name = ObjectName::parse_key(name)?;
    Ok(match verb {
        None => path(&[collection, name.as_str()]),
        Some(verb) => path(&[collection, name.as_str(), verb]),
    })
}

/// A UUID as it is; anything else is a path.
pub(super) fn disk_key(disk: &str) -> Result<String, ApiError> {
    match Uuid::try_parse(disk) {
        Ok(uuid) => Ok(uuid.to_string()),
        Err(_) => absolute(Path::new(disk)),
    }
}

/// The daemon has another working directory. Symbolic links are kept: `/dev/disk/by-id/...` is the better name.
pub(super) fn absolute(path: &Path) -> Result<String, ApiError> {
    let bad = |why: String| {
        ApiError::new(
            ErrorKind::BadRequest,
            format!("the path {} is of no use: {why}", path.display()),
        )
    };
    let absolute = std::path::absolute(path).map_err(|error| bad(error.to_string()))?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|_| bad("it is not UTF-8".to_owned()))
}
