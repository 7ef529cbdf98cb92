//! Progress of a job, on standard error.

use super::args::{Global, ProgressMode};
use super::render::{job_about, job_kind, percent};
use super::size::human;
use crate::api::{Job, JobPhase};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Time between two lines of `--progress plain`.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

const TEMPLATE_OF_KNOWN_LENGTH: &str =
    "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
const TEMPLATE_OF_UNKNOWN_LENGTH: &str = "{msg} {spinner} {binary_bytes}, {binary_bytes_per_sec}";

/// Shows the states of one job as they come.
pub enum Reporter {
    /// A bar.
    Bar(ProgressBar),
    /// A line now and then.
    Plain(Plain),
    /// A line of JSON for each state.
    Json,
    /// Nothing.
    None,
}

/// What `--progress plain` printed last.
pub struct Plain {
    /// When the first state came, and the bytes that were done then: the rate counts from there.
    first: Option<(Instant, u64)>,
    printed: Option<(Instant, JobPhase)>,
}

impl Reporter {
    /// As the options say. `--quiet` silences what was not asked for by name.
    pub fn new(global: &Global) -> Self {
        match global.progress {
            ProgressMode::Auto if !global.quiet && io::stderr().is_terminal() => {
                Self::Bar(ProgressBar::no_length())
            }
            ProgressMode::Auto | ProgressMode::None => Self::None,
            ProgressMode::Plain => Self::Plain(Plain {
                first: None,
                printed: None,
            }),
            ProgressMode::Json => Self::Json,
        }
    }

    /// Shows a state of the job.
    pub fn show(&mut self, job: &Job) {
        // Progress that cannot be shown is no reason to give up the work.
        match self {
            Self::Bar(bar) => show_bar(bar, job),
            Self::Plain(plain) => {
                if let Some(line) = plain.line(job, Instant::now()) {
                    let _ = writeln!(io::stderr(), "{line}");
                }
            }
            Self::Json => {
                if let Ok(line) = serde_json::to_string(job) {
                    let _ = writeln!(io::stderr(), "{line}");
                }
            }
            Self::None => {}
        }
    }

    /// Leaves the terminal clean for what is printed next.
    pub fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn show_bar(bar: &ProgressBar, job: &Job) {
    let template = match job.progress.total_bytes {
        Some(_) => TEMPLATE_OF_KNOWN_LENGTH,
        None => TEMPLATE_OF_UNKNOWN_LENGTH,
    };
    if bar.length() != job.progress.total_bytes || bar.message().is_empty() {
        // A test holds that the templates are legal.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if let Some(total) = job.progress.total_bytes {
            bar.set_length(total);
        }
        // What was done before anybody looked says nothing about the rate.
        bar.set_position(job.progress.done_bytes);
        bar.reset_eta();
    }
    bar.set_message(format!(
        "{} {}{}",
        job_kind(job.kind),
        job_about(job),
        phase(job.progress.phase)
    ));
    bar.set_position(job.progress.done_bytes);
}

const fn phase(phase: JobPhase) -> &'static str {
    match phase {
        JobPhase::Waiting => ": waiting",
        JobPhase::Sealing => ": sealing",
        JobPhase::Copying | JobPhase::Verifying | JobPhase::Finished => "",
    }
}

impl Plain {
    fn line(&mut self, job: &Job, now: Instant) -> Option<String> {
        let progress = &job.progress;
        let (began, done_before_bytes) = *self.first.get_or_insert((now, progress.done_bytes));
        let due = self
            .printed
            .is_none_or(|(at, phase)| phase != progress.phase || now - at >= PLAIN_EVERY);
        if !due {
            return None;
        }
        self.printed = Some((now, progress.phase));
        let mut line = format!(
            "{} {}{}: {}",
            job_kind(job.kind),
            job_about(job),
            phase(progress.phase),
            human(progress.done_bytes)
        );
        if let Some(total) = progress.total_bytes {
            let _ = write!(line, " of {}", human(total));
        }
        if let Some(percent) = percent(progress) {
            let _ = write!(line, ", {percent} %");
        }
        let millis = (now - began).as_millis();
        if millis >= 1000 {
            let done_bytes = u128::from(progress.done_bytes.saturating_sub(done_before_bytes));
            let rate = u64::try_from(done_bytes * 1000 / millis).unwrap_or(u64::MAX);
            let _ = write!(line, ", {}/s", human(rate));
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{JobKind, JobState, Progress};

    fn job(phase: JobPhase, done_bytes: u64, total_bytes: Option<u64>) -> Job {
        Job {
            id: 1,
            kind: JobKind::Import,
            image: "debian".to_owned(),
            disk: None,
            state: JobState::Running,
            progress: Progress {
                phase,
                done_bytes,
                total_bytes,
            },
            created_unix_ms: 0,
            ended_unix_ms: None,
            error: None,
            verify: None,
        }
    }

    #[test]
    fn the_templates_are_legal() {
        for template in [TEMPLATE_OF_KNOWN_LENGTH, TEMPLATE_OF_UNKNOWN_LENGTH] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_bar_gets_a_length_when_it_becomes_known() {
        let bar = ProgressBar::hidden();
        show_bar(&bar, &job(JobPhase::Copying, 5, None));
        assert_eq!((bar.position(), bar.length()), (5, None));
        show_bar(&bar, &job(JobPhase::Copying, 7, Some(10)));
        assert_eq!((bar.position(), bar.length()), (7, Some(10)));
        assert_eq!(bar.message(), "import debian");
    }

    #[test]
    fn plain_lines_come_with_a_new_phase_and_then_seldom() {
        let began = Instant::now();
        let mut plain = Plain {
            first: None,
            printed: None,
        };
        let copying = |done_bytes| job(JobPhase::Copying, done_bytes, Some(4 << 30));
        let first = plain.line(&copying(1 << 30), began).expect("first line");
        assert_eq!(first, "import debian: 1 GiB of 4 GiB, 25 %");
        assert_eq!(
            plain.line(&copying(1 << 30), began + Duration::from_secs(4)),
            None
        );
        let later = plain
            .line(&copying(2 << 30), began + Duration::from_secs(8))
            .expect("due");
        assert_eq!(later, "import debian: 2 GiB of 4 GiB, 50 %, 128 MiB/s");
        let sealing = job(JobPhase::Sealing, 4 << 30, Some(4 << 30));
        assert!(
            plain
                .line(&sealing, began + Duration::from_secs(9))
                .is_some()
        );
    }
}
