//! Runs `bedplate`.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A run that has not ended.
pub struct Running(Child);

fn command(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bedplate"));
    command
        .args(args)
        .env("BEDPLATE_SOCKET", socket)
        .env_remove("NO_COLOR");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to the end, with `stdin` as its standard input.
pub fn run(socket: &Path, args: &[&str], stdin: &[u8]) -> Ended {
    let mut running = start(socket, args);
    let mut pipe = running.stdin();
    // A program that has ended takes no input: its exit code tells more than the broken pipe.
    let _ = pipe.write_all(stdin);
    drop(pipe);
    running.wait()
}

/// Starts it, with a pipe as its standard input.
pub fn start(socket: &Path, args: &[&str]) -> Running {
    Running(
        command(socket, args)
            .stdin(Stdio::piped())
            .spawn()
            .expect("bedplate starts"),
    )
}

impl Running {
    pub fn stdin(&mut self) -> ChildStdin {
        self.0.stdin.take().expect("standard input is a pipe")
    }

    pub fn interrupt(&self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("pid"));
        kill(pid, Signal::SIGINT).expect("SIGINT");
    }

    pub fn wait(self) -> Ended {
        let output = self.0.wait_with_output().expect("bedplate ends");
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}
