//! Signatures of others on a disk, through `wipefs` of util-linux, which knows some hundred kinds. Never writes: `--no-act`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

/// `PATH` of an unprivileged shell does not have the folder.
const PROGRAMS: [&str; 3] = ["wipefs", "/usr/sbin/wipefs", "/sbin/wipefs"];
/// A disk that takes longer does not answer.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// Something that another program knows the disk by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// As util-linux calls it: `ext4`, `gpt`, `LVM2_member`, `linux_raid_member`, `crypto_LUKS`.
    pub kind: String,
    /// Byte of the disk.
    pub offset: u64,
    /// Its own UUID, as it writes it.
    pub uuid: Option<String>,
    /// Its label.
    pub label: Option<String>,
}

/// Signatures could not be looked for. That does **not** mean that there are none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The program is not installed.
    #[error("the program wipefs is missing, so {} cannot be checked for signatures", path.display())]
    WipefsMissing {
        /// The disk.
        path: PathBuf,
    },
    /// The program could not be run.
    #[error("wipefs {} could not be run: {source}", path.display())]
    Run {
        /// The disk.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program failed.
    #[error("wipefs {} failed ({status}): {message}", path.display())]
    Failed {
        /// The disk.
        path: PathBuf,
        /// Its exit status.
        status: String,
        /// What it said.
        message: String,
    },
    /// The program did not end.
    #[error("wipefs {} did not end within {} s", path.display(), TIMEOUT.as_secs())]
    TimedOut {
        /// The disk.
        path: PathBuf,
    },
    /// The program's answer is none that we know.
    #[error("wipefs {} gave an answer that cannot be read: {message}", path.display())]
    Answer {
        /// The disk.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

impl SignatureError {
    /// What the operator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::WipefsMissing { .. } => "install the package util-linux",
            Self::Run { .. } => "check that wipefs (package util-linux) can be run by this user",
            Self::Failed { .. } => {
                "check the path and the permissions; try `wipefs --no-act PATH` by hand"
            }
            Self::TimedOut { .. } => {
                "look for time-outs of the device in the kernel's log (`dmesg`)"
            }
            Self::Answer { .. } => "check that wipefs is that of util-linux 2.33 or later",
        }
    }
}

/// Every signature that `wipefs` knows on the disk at `path`: file systems, partition tables, LVM, RAID, encryption, swap.
///
/// # Errors
/// Whenever the answer is not certain: see [`SignatureError`].
pub fn foreign_signatures(path: &Path) -> Result<Vec<Signature>, SignatureError> {
    run_any(&PROGRAMS, path)
}

fn run_any(programs: &[&str], path: &Path) -> Result<Vec<Signature>, SignatureError> {
    let run_failed = |source| SignatureError::Run {
        path: path.to_owned(),
        source,
    };
    for program in programs {
        let started = Command::new(program)
            // Else the answer would be in the user's language, and paths that begin with a dash would be options.
            .env("LC_ALL", "C")
            .args(["--no-act", "--json", "--"])
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match started {
            Ok(child) => return answer_of(child, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(run_failed(error)),
        }
    }
    Err(SignatureError::WipefsMissing {
        path: path.to_owned(),
    })
}

/// Waits for the program. Its answers are shorter than a pipe holds, so it can end before they are read.
fn answer_of(mut child: Child, path: &Path) -> Result<Vec<Signature>, SignatureError> {
    let run_failed = |source| SignatureError::Run {
        path: path.to_owned(),
        source,
    };
    let deadline = Instant::now() + TIMEOUT;
    let status = loop {
        match child.try_wait().map_err(run_failed)? {
            Some(status) => break status,
            None if Instant::now() < deadline => thread::sleep(POLL),
            None => {
                // In the kernel's hands it may not die at once: nobody waits for it.
                child.kill().map_err(run_failed)?;
                return Err(SignatureError::TimedOut {
                    path: path.to_owned(),
                });
            }
        }
    };
    let text = |pipe: Option<&mut dyn Read>| -> io::Result<String> {
        let mut bytes = Vec::new();
        pipe.map_or(Ok(0), |pipe| pipe.read_to_end(&mut bytes))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let stdout =
        text(child.stdout.as_mut().map(|pipe| pipe as &mut dyn Read)).map_err(run_failed)?;
    let stderr =
        text(child.stderr.as_mut().map(|pipe| pipe as &mut dyn Read)).map_err(run_failed)?;
    if !status.success() {
        let message = stderr.trim().to_owned();
        return Err(SignatureError::Failed {
            path: path.to_owned(),
            status: status.to_string(),
            message,
        });
    }
    parse(&stdout).map_err(|message| SignatureError::Answer {
        path: path.to_owned(),
        message,
    })
}

#[derive(Deserialize)]
struct Answer {
    signatures: Vec<AnswerLine>,
}

#[derive(Deserialize)]
struct AnswerLine {
    offset: String,
    #[serde(rename = "type")]
    kind: String,
    uuid: Option<String>,
    label: Option<String>,
}

fn parse(answer: &str) -> Result<Vec<Signature>, String> {
    // Some versions print nothing at all when there is nothing to print.
    if answer.trim().is_empty() {
        return Ok(Vec::new());
    }
    let answer: Answer = serde_json::from_str(answer).map_err(|error| error.to_string())?;
    answer
        .signatures
        .into_iter()
        .map(|line| {
            let digits = line.offset.strip_prefix("0x").unwrap_or(&line.offset);
            let offset =
                u64::from_str_radix(digits, 16).map_err(|_| format!("offset {:?}", line.offset))?;
            Ok(Signature {
                kind: line.kind,
                offset,
                uuid: line.uuid,
                label: line.label,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_wipefs_is_an_error_and_never_no_signatures() {
        let error = run_any(&["/nonexistent/wipefs"], Path::new("/dev/null")).unwrap_err();
        assert!(
            matches!(error, SignatureError::WipefsMissing { .. }),
            "{error}"
        );
        assert!(error.remedy().contains("util-linux"));
    }

    #[test]
    fn a_program_that_fails_or_talks_nonsense_is_an_error() {
        let failed = run_any(&["false"], Path::new("/dev/null")).unwrap_err();
        assert!(matches!(failed, SignatureError::Failed { .. }), "{failed}");
        let nonsense = run_any(&["echo"], Path::new("/dev/null")).unwrap_err();
        assert!(
            matches!(nonsense, SignatureError::Answer { .. }),
            "{nonsense}"
        );
    }

    #[test]
    fn offsets_are_hexadecimal() {
        let answer = r#"{"signatures":[{"device":"a","offset":"0x438","type":"ext4","uuid":"u","label":null}]}"#;
        let expected = Signature {
            kind: "ext4".to_owned(),
            offset: 0x438,
            uuid: Some("u".to_owned()),
            label: None,
        };
        assert_eq!(parse(answer), Ok(vec![expected]));
        assert!(parse(r#"{"signatures":[{"offset":"x","type":"ext4"}]}"#).is_err());
    }
}
