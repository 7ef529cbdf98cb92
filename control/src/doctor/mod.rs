//! What this node has and lacks to serve devices, and how to get it. Changes nothing.
//!
//! [`facts`] looks, [`checks`] judges: the judgement is pure, so that every kind of node can be tested on any.
//! The daemon answers `/v1/doctor` with it, `bedplate doctor` looks by itself when no daemon answers.

pub mod checks;
pub mod facts;

use crate::api::{ApiError, Check, DoctorReport, Verdict};
use crate::error_kind::ErrorKind;
use std::path::{Path, PathBuf};

/// Where to look for what a configuration may have moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Run-time folder of the daemon; `live` in it is to be a tmpfs.
    pub run_dir: PathBuf,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            run_dir: PathBuf::from("/run/bedplate"),
        }
    }
}

/// Looks at this node from this process, whose limits and permissions are the ones that are seen.
/// `seen_by` names the program.
pub fn examine(place: &Place, seen_by: &str) -> DoctorReport {
    report(checks::judge(&facts::Facts::gather(place)), seen_by)
}

/// A report of these checks; its verdict is the worst of theirs.
pub fn report(checks: Vec<Check>, seen_by: &str) -> DoctorReport {
    let verdict = checks
        .iter()
        .map(|check| check.verdict)
        .max()
        .unwrap_or(Verdict::Ok);
    DoctorReport {
        verdict,
        seen_by: seen_by.to_owned(),
        checks,
    }
}

/// Exit code of `bedplate doctor`: 7 when the kernel lacks what is needed, 1 for any other failure.
pub fn exit_code(report: &DoctorReport) -> u8 {
    let failed = |check: &&Check| check.verdict == Verdict::Fail;
    if report
        .checks
        .iter()
        .filter(failed)
        .any(|check| check.kernel)
    {
        ErrorKind::KernelUnsupported.exit_code()
    } else {
        u8::from(report.checks.iter().any(|check| failed(&check)))
    }
}

/// The check of the daemon when it answered at `socket`.
pub fn daemon_answers(socket: &Path) -> Check {
    Check {
        id: "daemon".to_owned(),
        verdict: Verdict::Ok,
        found: format!("answers at {}", socket.display()),
        means: "Commands reach it.".to_owned(),
        remedy: None,
        kernel: false,
    }
}

/// The check of the daemon when it did not answer. A warning: the node itself may be in order.
pub fn daemon_does_not_answer(error: &ApiError) -> Check {
    Check {
        id: "daemon".to_owned(),
        verdict: Verdict::Warn,
        found: error.message.clone(),
        means: "No command but this one and `disk format --offline` works. Limits above are those of this command, \
                not the daemon's."
            .to_owned(),
        remedy: error.remedy.clone(),
        kernel: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verdict: Verdict, kernel: bool) -> Check {
        Check {
            id: "x".to_owned(),
            verdict,
            found: String::new(),
            means: String::new(),
            remedy: None,
            kernel,
        }
    }

    #[test]
    fn the_exit_code_tells_a_lacking_kernel_from_other_failures() {
        let table = [
            (
                vec![check(Verdict::Ok, true), check(Verdict::Warn, true)],
                0,
            ),
            (vec![check(Verdict::Fail, false)], 1),
            (
                vec![check(Verdict::Fail, false), check(Verdict::Fail, true)],
                7,
            ),
            (
                vec![check(Verdict::Warn, true), check(Verdict::Fail, false)],
                1,
            ),
        ];
        for (checks, code) in table {
            assert_eq!(exit_code(&report(checks, "test")), code);
        }
    }

    #[test]
    fn looking_at_this_machine_judges_everything_once() {
        let report = examine(&Place::default(), "test");
        let mut ids: Vec<&str> = report
            .checks
            .iter()
            .map(|check| check.id.as_str())
            .collect();
        assert!(
            ids.contains(&"ublk_module") && ids.contains(&"memlock"),
            "{ids:?}"
        );
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "ids are unique");
        for check in &report.checks {
            assert!(
                check.verdict == Verdict::Ok || check.remedy.is_some(),
                "{} names no remedy",
                check.id
            );
        }
    }
}
