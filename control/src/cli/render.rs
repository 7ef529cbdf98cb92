//! Values of the API as people read them. Pure: values in, text out.

use super::output::Paint;
use super::render_volume::volumes;
use super::size::human;
use super::table::{Cell, Tone, facts, left, optional, right, table};
use crate::api::{
    Attachment, AttachmentState, DataMode, Disk, DiskDetail, DiskState, DoctorReport, Image,
    ImageDetail, Job, JobKind, JobState, Progress, ReplicaState, Status, Transition, Verdict,
};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// Shown where a value is not known or does not apply.
pub(super) const NONE: &str = "-";

/// `disk list`.
pub fn disks(disks: &[Disk], paint: Paint) -> String {
    let columns = [
        left("DISK"),
        left("STATE"),
        right("SIZE"),
        right("FREE"),
        right("REPLICAS"),
        right("VOLUMES"),
        left("UUID"),
        optional("WHY"),
    ];
    let rows: Vec<Vec<Cell>> = disks
        .iter()
        .map(|disk| {
            vec![
                disk.path.as_str().into(),
                disk_state(disk),
                bytes(disk.size_bytes).into(),
                bytes(disk.free_bytes).into(),
                disk.replicas.to_string().into(),
                disk.volume_count.to_string().into(),
                disk.uuid
                    .map_or_else(|| NONE.to_owned(), |uuid| uuid.to_string())
                    .into(),
                disk.why.clone().unwrap_or_default().into(),
            ]
        })
        .collect();
    table(&columns, &rows, paint)
}

/// `disk show`.
pub fn disk(detail: &DiskDetail, paint: Paint) -> String {
    let disk = &detail.disk;
    let space = disk.usable_bytes.zip(disk.free_bytes);
    let mut text = facts(&[
        ("disk", Some(disk.path.clone())),
        ("uuid", disk.uuid.map(|uuid| uuid.to_string())),
        (
            "state",
            Some(cell_text(&disk_state(disk), disk.why.as_deref())),
        ),
        ("size", disk.size_bytes.map(exact)),
        (
            "space",
            space.map(|(all, free)| format!("{} of {} free", human(free), human(all))),
        ),
        (
            "format",
            detail
                .format_version
                .map(|version| format!("version {version}")),
        ),
        ("session", session(detail)),
        ("repaired", joined(&detail.repairs, "; ")),
        ("images", joined(&detail.images, ", ")),
        ("volumes", joined(&detail.volumes, ", ")),
    ]);
    push_history(&mut text, &detail.history, paint);
    text
}

/// `image list`.
pub fn images(images: &[Image], paint: Paint) -> String {
    let columns = [
        left("IMAGE"),
        left("STATE"),
        right("SIZE"),
        right("STORED"),
        left("COPIES"),
        left("DEVICE"),
        optional("WHY"),
    ];
    let rows: Vec<Vec<Cell>> = images
        .iter()
        .map(|image| {
            vec![
                image.name.as_str().into(),
                image_state(image),
                bytes(image.size_bytes).into(),
                bytes(image.stored_bytes).into(),
                format!("{} of {}", image.copies_ready, image.copies_wanted).into(),
                device(&image.attachment),
                image
                    .why
                    .clone()
                    .or_else(|| image.degraded_why.clone())
                    .or_else(|| image.attachment.why.clone())
                    .unwrap_or_default()
                    .into(),
            ]
        })
        .collect();
    table(&columns, &rows, paint)
}

/// `image show`.
pub fn image(detail: &ImageDetail, paint: Paint) -> String {
    let image = &detail.image;
    let mut text = facts(&[
        ("image", Some(image.name.clone())),
        ("uuid", Some(image.uuid.to_string())),
        (
            "state",
            Some(cell_text(&image_state(image), image.why.as_deref())),
        ),
        ("size", image.size_bytes.map(exact)),
        ("stored", image.stored_bytes.map(human)),
        ("copies", Some(copies(image))),
        ("device", Some(attachment(&image.attachment))),
        ("sha256", image.sha256.clone()),
        ("sha512", image.sha512.clone()),
        (
            "source",
            Some(if image.source == "-" {
                "standard input".to_owned()
            } else {
                image.source.clone()
            }),
        ),
        ("created", Some(time(image.created_unix_ms))),
        ("job", image.job.map(|id| id.to_string())),
    ]);
    let columns = [
        left("REPLICA"),
        left("STATE"),
        left("DISK"),
        optional("WHY"),
    ];
    let rows: Vec<Vec<Cell>> = detail
        .replicas
        .iter()
        .map(|replica| {
            vec![
                if replica.uuid.is_nil() {
                    NONE.into()
                } else {
                    replica.uuid.to_string().into()
                },
                replica_state(replica.state, replica.percent),
                replica
                    .disk_path
                    .clone()
                    .unwrap_or_else(|| replica.disk_uuid.to_string())
                    .into(),
                replica.why.clone().unwrap_or_default().into(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(&columns, &rows, paint));
    }
    push_damage(&mut text, detail);
    push_history(&mut text, &detail.history, paint);
    text
}

/// How many damaged parts of a replica are shown; JSON has more.
const DAMAGED_SHOWN: usize = 10;

/// Which parts of which replica are damaged.
fn push_damage(text: &mut String, detail: &ImageDetail) {
    for replica in &detail.replicas {
        if replica.damaged.is_empty() {
            continue;
        }
        let disk = replica.disk_path.clone();
        let disk = disk.unwrap_or_else(|| replica.disk_uuid.to_string());
        let parts: Vec<String> = replica
            .damaged
            .iter()
            .take(DAMAGED_SHOWN)
            .map(|range| format!("{}+{}", range.offset, range.len_bytes))
            .collect();
        let more = if replica.damaged.len() > DAMAGED_SHOWN {
            ", ..."
        } else {
            ""
        };
        let parts = parts.join(", ");
        let line = format!("\ndamaged on {disk} (byte + length): {parts}{more}\n");
        text.push_str(&line);
    }
}

/// `job list`.
pub fn jobs(jobs: &[Job], paint: Paint) -> String {
    let columns = [
        right("JOB"),
        left("KIND"),
        left("IMAGE"),
        optional("DISK"),
        left("STATE"),
        right("DONE"),
        left("STARTED"),
        optional("WHY"),
    ];
    let rows: Vec<Vec<Cell>> = jobs
        .iter()
        .map(|job| {
            vec![
                job.id.to_string().into(),
                job_kind(job.kind).into(),
                if job.image.is_empty() {
                    NONE.into()
                } else {
                    job.image.as_str().into()
                },
                job.disk.clone().unwrap_or_default().into(),
                job_state(job.state),
                progress(&job.progress).into(),
                time(job.created_unix_ms).into(),
                job.error
                    .as_ref()
                    .map(|error| error.message.clone())
                    .unwrap_or_default()
                    .into(),
            ]
        })
        .collect();
    table(&columns, &rows, paint)
}

/// `status`. `now` is for the age of the daemon.
pub fn status(status: &Status, now: SystemTime, paint: Paint) -> String {
    let started = SystemTime::UNIX_EPOCH + Duration::from_millis(status.started_unix_ms);
    let up = Duration::from_secs(now.duration_since(started).unwrap_or_default().as_secs());
    let serving = match status.data_mode {
        Some(DataMode::ZeroCopy) => format!("zero copy, {} reactors", status.reactors),
        Some(DataMode::UserCopy) => format!("user copy, {} reactors", status.reactors),
        None => "no device can be served: see bedplate doctor".to_owned(),
    };
    let mut text = facts(&[
        (
            "daemon",
            Some(format!(
                "{}, pid {}, up {}",
                status.version,
                status.pid,
                humantime::format_duration(up)
            )),
        ),
        ("kernel", Some(status.kernel.clone())),
        ("serving", Some(serving)),
    ]);
    for part in [
        disks(&status.disks, paint),
        images(&status.images, paint),
        volumes(&status.volumes, paint),
        jobs(&status.jobs, paint),
    ] {
        if !part.is_empty() {
            text.push('\n');
            text.push_str(&part);
        }
    }
    for problem in &status.problems {
        text.push('\n');
        text.push_str(&super::output::error_text(problem, paint).replacen("error:", "problem:", 1));
        text.push('\n');
    }
    text
}

/// `doctor`.
pub fn doctor(report: &DoctorReport, paint: Paint) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let mark = match check.verdict {
            Verdict::Ok => paint.good("ok  "),
            Verdict::Warn => paint.fair("warn"),
            Verdict::Fail => paint.bad("FAIL"),
        };
        let _ = writeln!(text, "{mark}  {}: {}", check.id, check.found);
        if check.verdict != Verdict::Ok {
            let _ = writeln!(text, "      {}", check.means);
            if let Some(remedy) = &check.remedy {
                let _ = writeln!(text, "      try: {remedy}");
            }
        }
    }
    let summary = match report.verdict {
        Verdict::Ok => "This node can serve devices.",
        Verdict::Warn => "This node can serve devices; see the warnings.",
        Verdict::Fail => "This node cannot serve devices until what failed is put right.",
    };
    text.push('\n');
    text.push_str(summary);
    text.push('\n');
    text
}

/// `40 %`, or bytes where the whole is not known.
pub fn progress(progress: &Progress) -> String {
    match (progress.total_bytes, percent(progress)) {
        (Some(_), Some(percent)) => format!("{percent} %"),
        _ => human(progress.done_bytes),
    }
}

/// How far, in whole percent, rounded down: 100 only when all is done.
pub fn percent(progress: &Progress) -> Option<u8> {
    let total = progress.total_bytes.filter(|&total| total > 0)?;
    let percent = u128::from(progress.done_bytes.min(total)) * 100 / u128::from(total);
    u8::try_from(percent).ok()
}

/// `import`, `verify`, ...
pub const fn job_kind(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Import => "import",
        JobKind::Verify => "verify",
        JobKind::Recheck => "recheck",
        JobKind::Rebuild => "rebuild",
        JobKind::Drain => "drain",
    }
}

/// What a job is about: the image, or the disk.
pub fn job_about(job: &Job) -> &str {
    match &job.disk {
        Some(disk) if job.image.is_empty() => disk,
        _ => &job.image,
    }
}

/// `running`, `done`, ...
pub const fn job_state_word(state: JobState) -> &'static str {
    match state {
        JobState::Pending => "pending",
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

fn job_state(state: JobState) -> Cell {
    let tone = match state {
        JobState::Pending | JobState::Running | JobState::Cancelled => Tone::Fair,
        JobState::Done => Tone::Good,
        JobState::Failed => Tone::Bad,
    };
    Cell::new(job_state_word(state), tone)
}

fn disk_state(disk: &Disk) -> Cell {
    let (word, tone) = match disk.state {
        DiskState::Absent => ("Absent", Tone::Bad),
        DiskState::Opening => ("Opening", Tone::Fair),
        DiskState::Online => ("Online", Tone::Good),
        DiskState::Suspect => ("Suspect", Tone::Fair),
        DiskState::Offline => ("Offline", Tone::Bad),
    };
    if disk.read_only {
        Cell::new(format!("{word}, read-only"), Tone::Bad)
    } else if disk.draining {
        Cell::new(format!("{word}, draining"), Tone::Fair)
    } else {
        Cell::new(word, tone)
    }
}

/// State of an image, in words.
pub fn image_state_word(image: &Image) -> String {
    image_state(image).text().to_owned()
}

fn image_state(image: &Image) -> Cell {
    let cell = replica_state(image.state, image.percent);
    if image.degraded && image.state == ReplicaState::Ready {
        Cell::new("Ready, degraded", Tone::Fair)
    } else {
        cell
    }
}

fn copies(image: &Image) -> String {
    let mut text = format!("{} of {} Ready", image.copies_ready, image.copies_wanted);
    if let Some(why) = &image.degraded_why {
        text.push_str(": ");
        text.push_str(why);
    }
    text
}

fn replica_state(state: ReplicaState, percent: Option<u8>) -> Cell {
    match (state, percent) {
        (ReplicaState::Pending, _) => Cell::new("Pending", Tone::Fair),
        (ReplicaState::InProgress, None) => Cell::new("InProgress", Tone::Fair),
        (ReplicaState::InProgress, Some(percent)) => {
            Cell::new(format!("InProgress {percent} %"), Tone::Fair)
        }
        (ReplicaState::Ready, _) => Cell::new("Ready", Tone::Good),
        (ReplicaState::Unknown, _) => Cell::new("Unknown", Tone::Fair),
        (ReplicaState::Damaged, _) => Cell::new("Damaged", Tone::Bad),
        (ReplicaState::Failed, _) => Cell::new("Failed", Tone::Bad),
    }
}

const fn attachment_state(state: AttachmentState) -> (&'static str, Tone) {
    match state {
        AttachmentState::Detached => ("Detached", Tone::Plain),
        AttachmentState::Attaching => ("Attaching", Tone::Fair),
        AttachmentState::Ready => ("Ready", Tone::Good),
        AttachmentState::Recovering => ("Recovering", Tone::Fair),
        AttachmentState::Held => ("Held", Tone::Bad),
    }
}

/// For a list: the path alone where all is well.
fn device(attachment: &Attachment) -> Cell {
    let (word, tone) = attachment_state(attachment.state);
    match (attachment.state, &attachment.device) {
        (AttachmentState::Detached, _) => NONE.into(),
        (AttachmentState::Ready, Some(device)) => device.as_str().into(),
        (_, Some(device)) => Cell::new(format!("{device} {word}"), tone),
        (_, None) => Cell::new(word, tone),
    }
}

fn attachment(attachment: &Attachment) -> String {
    let (word, _) = attachment_state(attachment.state);
    let mut text = match &attachment.device {
        Some(device) => format!("{device}, {word}"),
        None => word.to_owned(),
    };
    if let Some(why) = &attachment.why {
        text.push_str(": ");
        text.push_str(why);
    }
    if attachment.wanted && attachment.state == AttachmentState::Detached {
        text.push_str(", to be attached");
    }
    text
}

fn session(detail: &DiskDetail) -> Option<String> {
    let number = detail.session?;
    Some(match detail.previous_session.as_deref() {
        Some("first") => format!("{number}, the first one"),
        Some(previous) => format!(
            "{number}, the one before ended: {}",
            previous.replace('_', " ")
        ),
        None => number.to_string(),
    })
}

pub(super) fn push_history(text: &mut String, history: &[Transition], paint: Paint) {
    let columns = [left("WHEN"), left("WHAT"), left("CHANGE"), left("CAUSE")];
    let rows: Vec<Vec<Cell>> = history
        .iter()
        .map(|t| {
            vec![
                time(t.at_unix_ms).into(),
                t.subject.as_str().into(),
                format!("{} -> {}", t.from, t.to).into(),
                t.cause.as_str().into(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(&columns, &rows, paint));
    }
}

pub(super) fn cell_text(cell: &Cell, why: Option<&str>) -> String {
    match why {
        Some(why) => format!("{}: {why}", cell.text()),
        None => cell.text().to_owned(),
    }
}

fn joined(parts: &[String], by: &str) -> Option<String> {
    (!parts.is_empty()).then(|| parts.join(by))
}

fn bytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| NONE.to_owned(), human)
}

/// `2 GiB (2147483648 bytes)`.
pub(super) fn exact(bytes: u64) -> String {
    if bytes < 1024 {
        format!("{bytes} bytes")
    } else {
        format!("{} ({bytes} bytes)", human(bytes))
    }
}

pub(super) fn time(unix_ms: u64) -> String {
    // Past the year 9999 the formatter gives up: that is a clock gone wrong, not a time.
    const LAST_MS: u64 = 253_402_300_799_000;
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms.min(LAST_MS));
    humantime::format_rfc3339_seconds(at).to_string()
}
