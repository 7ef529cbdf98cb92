//! Imports: from a file, from standard input, with and without waiting, interrupted and failed.

use crate::fake_daemon::FakeDaemon;
use crate::program::{run, start};
use bedplate_control::api::{ApiError, ImportSource, Job, JobState};
use bedplate_control::error_kind::ErrorKind;
use std::io::Write as _;
use std::time::Duration;

#[test]
fn the_absolute_path_and_the_options_are_sent() {
    let daemon = FakeDaemon::start();
    daemon.job_is(JobState::Done);
    let sum = "AB".repeat(32);
    let args = [
        "image",
        "import",
        "debian-13",
        "images/a.raw",
        "--sha256",
        &sum,
        "--copies",
        "2",
        "--format",
        "raw",
    ];
    let ended = run(&daemon.socket, &args, b"");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended
            .stdout
            .starts_with("imported debian-13: Ready, 2 GiB, 612 MiB stored, sha256 5f5f"),
        "{}",
        ended.stdout
    );
    let sent = daemon.with(|seen| seen.import.clone()).expect("request");
    let here = std::env::current_dir()
        .expect("working directory")
        .join("images/a.raw")
        .display()
        .to_string();
    assert_eq!(sent.source, ImportSource::File { path: here });
    assert_eq!((sent.copies, sent.sha256), (2, Some("ab".repeat(32))));
}

#[test]
fn a_failed_job_exits_with_its_own_error() {
    let daemon = FakeDaemon::start();
    daemon.job_is(JobState::Failed);
    let ended = run(
        &daemon.socket,
        &["image", "import", "debian-13", "/srv/a.raw"],
        b"",
    );
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(8), ""));
    assert_eq!(
        ended.stderr,
        "error: no disk has 1.5 GiB free\n  at: object debian-13, disk /dev/nvme0n1\n  \
         try: delete images, or add a disk: bedplate disk format PATH\n"
    );
}

#[test]
fn no_wait_prints_the_job_and_leaves_it() {
    let daemon = FakeDaemon::start();
    let ended = run(
        &daemon.socket,
        &["image", "import", "debian-13", "/srv/a.raw", "--no-wait"],
        b"",
    );
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "7\n"));
    assert!(!daemon.saw("GET /v1/jobs/7/events"));
}

#[test]
fn ctrl_c_leaves_the_job_running_and_says_how_to_find_it() {
    let daemon = FakeDaemon::start();
    let running = start(
        &daemon.socket,
        &["image", "import", "debian-13", "/srv/a.raw"],
    );
    daemon.until("the job is followed", |seen| {
        seen.requests.iter().any(|r| r == "GET /v1/jobs/7/events")
    });
    running.interrupt();
    let ended = running.wait();
    assert_eq!(ended.code, Some(130));
    assert_eq!(
        ended.stderr,
        "error: interrupted; job 7 goes on\n  \
         try: bedplate job wait 7 to follow it, bedplate job cancel 7 to stop it\n"
    );
    assert!(!daemon.saw("POST /v1/jobs/7/cancel"));
}

#[test]
fn progress_as_json_is_one_job_a_line_on_standard_error() {
    let daemon = FakeDaemon::start();
    let running = start(
        &daemon.socket,
        &[
            "-o",
            "json",
            "--progress",
            "json",
            "image",
            "import",
            "debian-13",
            "/srv/a.raw",
        ],
    );
    daemon.until("the job is followed", |seen| {
        seen.requests.iter().any(|r| r == "GET /v1/jobs/7/events")
    });
    std::thread::sleep(Duration::from_millis(100));
    daemon.job_is(JobState::Done);
    let ended = running.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let jobs: Vec<Job> = ended
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).expect("a job"))
        .collect();
    assert!(
        jobs.len() >= 2 && jobs[0].state == JobState::Running,
        "{}",
        ended.stderr
    );
    assert_eq!(jobs.last().expect("last").state, JobState::Done);
    let result: serde_json::Value =
        serde_json::from_str(&ended.stdout).expect("the image, and nothing else");
    assert_eq!(result["name"], "debian-13");
}

#[test]
fn nothing_is_shown_while_standard_error_is_no_terminal() {
    let daemon = FakeDaemon::start();
    let running = start(
        &daemon.socket,
        &["image", "import", "debian-13", "/srv/a.raw"],
    );
    daemon.until("the job is followed", |seen| {
        seen.requests.iter().any(|r| r == "GET /v1/jobs/7/events")
    });
    daemon.job_is(JobState::Done);
    assert_eq!(running.wait().stderr, "");
}

#[test]
fn standard_input_arrives_whole() {
    let daemon = FakeDaemon::start();
    let content: Vec<u8> = (0..3_000_001u32)
        .map(|i| u8::try_from(i % 251).expect("byte"))
        .collect();
    let ended = run(
        &daemon.socket,
        &["image", "import", "debian-13", "-"],
        &content,
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    daemon.with(|seen| {
        assert!(
            seen.content == content,
            "{} of {} bytes",
            seen.content.len(),
            content.len()
        );
        assert_eq!(seen.content_complete, Some(true));
        let source = seen.import.as_ref().map(|import| import.source.clone());
        assert_eq!(
            source,
            Some(ImportSource::Stream { size_bytes: None }),
            "the length of a pipe is not known"
        );
    });
}

#[test]
fn an_interrupted_stream_does_not_look_complete() {
    let daemon = FakeDaemon::start();
    let mut running = start(&daemon.socket, &["image", "import", "debian-13", "-"]);
    let mut stdin = running.stdin();
    stdin.write_all(&vec![1; 2 << 20]).expect("write");
    daemon.until("bytes arrived", |seen| !seen.content.is_empty());
    running.interrupt();
    let ended = running.wait();
    assert_eq!(ended.code, Some(130));
    assert!(
        ended
            .stderr
            .contains("job 7 fails, since the rest of standard input is lost"),
        "{}",
        ended.stderr
    );
    daemon.until("the loss is seen", |seen| {
        seen.content_complete == Some(false)
    });
}

#[test]
fn a_job_that_fails_in_the_middle_of_its_stream_says_why() {
    let daemon = FakeDaemon::start();
    let mut content = vec![0; 64 << 20];
    content[..4].copy_from_slice(b"full");
    let ended = run(
        &daemon.socket,
        &["image", "import", "debian-13", "-"],
        &content,
    );
    assert_eq!(ended.code, Some(8), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("no disk has 1.5 GiB free"),
        "{}",
        ended.stderr
    );
}

#[test]
fn standard_input_cannot_be_left_behind() {
    let daemon = FakeDaemon::start();
    let ended = run(
        &daemon.socket,
        &["image", "import", "debian-13", "-", "--no-wait"],
        b"x",
    );
    assert_eq!(ended.code, Some(2));
    assert!(daemon.with(|seen| seen.requests.is_empty()));
}

#[test]
fn a_file_that_only_the_daemon_cannot_see_is_explained() {
    let daemon = FakeDaemon::start();
    let file = tempfile::NamedTempFile::new().expect("file");
    let path = file.path().display().to_string();
    let refusal = ApiError::new(ErrorKind::SourceNotFound, format!("{path}: no such file"))
        .remedy("check the path");
    daemon.with(|seen| seen.refuse_import = Some(refusal));
    let ended = run(
        &daemon.socket,
        &["image", "import", "debian-13", &path],
        b"",
    );
    assert_eq!(ended.code, Some(3));
    assert!(
        ended.stderr.contains("although this command can"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains(&format!(
        "try: send it instead: bedplate image import debian-13 - < {path}"
    )));
    // A file that is really missing keeps the daemon's own words.
    let ended = run(
        &daemon.socket,
        &["image", "import", "debian-13", "/nonexistent/a.raw"],
        b"",
    );
    assert!(
        ended.stderr.contains("try: check the path"),
        "{}",
        ended.stderr
    );
}
