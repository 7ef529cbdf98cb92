//! A daemon in a folder of its own, and the command line that talks to it.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

pub const MIB: u64 = 1 << 20;

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with everything of one node; the daemon in it may come and go.
pub struct Node {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
    /// Appended to the settings.
    pub settings: String,
    /// How often the daemon looks for disks.
    pub look_every_ms: u32,
}

/// What a command of `bedplate` came to.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Node {
    /// An empty node, no daemon yet.
    pub fn new() -> Self {
        // Not /tmp, which may be a tmpfs without direct I/O.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self {
            folder,
            daemon: None,
            settings: String::new(),
            look_every_ms: 100,
        }
    }

    /// A node with a running daemon.
    pub fn started() -> Self {
        let mut node = Self::new();
        node.start();
        node
    }

    /// A node with a running daemon and a disk.
    pub fn with_disk(disk_bytes: u64) -> Self {
        let node = Self::started();
        let size = disk_bytes.to_string();
        node.ok(&["disk", "format", &node.text("disk"), "--size", &size]);
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The command that starts the daemon.
    pub fn command(&self) -> Command {
        let config = self.path("bedplated.toml");
        let settings = format!(
            "log = 'debug'\nrun_dir = '{}'\nstate_dir = '{}'\n{}\n[memory]\nlock = 'off'\n[discovery]\n\
             all_block_devices = false\ninterval_ms = {}\n[health]\ninterval_ms = 200\ngrace_ms = 2400\n",
            self.text("run"),
            self.text("state"),
            self.settings,
            self.look_every_ms
        );
        std::fs::write(&config, settings).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bedplated"));
        command
            .arg("--config")
            .arg(config)
            .env_remove("BEDPLATE_SOCKET")
            .env_remove("NOTIFY_SOCKET");
        command
    }

    /// Starts the daemon and waits until it answers and has had its first look for disks.
    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let before = self.log().matches(" ready: ").count();
        self.daemon = Some(self.command().stderr(log).spawn().unwrap());
        until("the daemon is ready", || {
            self.log().matches(" ready: ").count() > before
        });
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// SIGTERM; the daemon must end in order.
    pub fn stop(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = daemon.wait().unwrap();
        assert!(status.success(), "SIGTERM: {status}; {}", self.log());
    }

    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bedplate"));
        command
            .arg("--socket")
            .arg(self.path("run/bedplate.sock"))
            .args(args)
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Outcome {
        Outcome::of(&self.cli(args).output().unwrap())
    }

    /// Runs a command with bytes on its standard input.
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Outcome {
        let mut child = self.piped(args);
        // A command that failed early closes its end, which is no concern here.
        let _ = child.stdin.take().unwrap().write_all(input);
        Outcome::of(&child.wait_with_output().unwrap())
    }

    /// Starts a command whose standard input stays open.
    pub fn piped(&self, args: &[&str]) -> Child {
        self.cli(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs a command that must succeed.
    pub fn ok(&self, args: &[&str]) -> Outcome {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "{args:?}: {outcome:?}\n{}", self.log());
        outcome
    }

    /// Runs a command that must fail; answers with its error as JSON.
    pub fn fails(&self, code: i32, args: &[&str]) -> Value {
        let all = [&["-o", "json"], args].concat();
        let outcome = self.run(&all);
        assert_eq!(outcome.code, code, "{args:?}: {outcome:?}\n{}", self.log());
        outcome.error()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let all = [&["-o", "json"], args].concat();
        serde_json::from_str(&self.ok(&all).stdout).unwrap()
    }

    pub fn image(&self, name: &str) -> Value {
        self.json(&["image", "show", name])
    }

    /// Free bytes of the only disk.
    pub fn free_bytes(&self) -> u64 {
        self.json(&["disk", "list"])["disks"][0]["free_bytes"]
            .as_u64()
            .unwrap()
    }

    /// A file of random bytes, from a seed that is printed.
    pub fn random_file(&self, name: &str, len_bytes: u64, seed: u64) -> PathBuf {
        println!("seed of {name}: {seed}");
        let path = self.path(name);
        std::fs::write(&path, random_bytes(len_bytes, seed)).unwrap();
        path
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}", self.log());
        }
    }
}

impl Outcome {
    pub fn of(output: &std::process::Output) -> Self {
        assert_eq!(output.status.signal(), None, "{output:?}");
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout.clone()).unwrap(),
            stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    /// The error that a command with `-o json` printed.
    pub fn error(&self) -> Value {
        let line = self
            .stderr
            .lines()
            .find(|line| line.starts_with('{'))
            .unwrap_or_else(|| panic!("{self:?}"));
        serde_json::from_str(line).unwrap()
    }
}

/// Waits until something is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} until {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes without zeros blocks among them: splitmix64.
pub fn random_bytes(len_bytes: u64, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = len_bytes.div_ceil(8);
    let mut bytes: Vec<u8> = (0..words)
        .flat_map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (word ^ (word >> 31)).to_le_bytes()
        })
        .collect();
    bytes.truncate(usize::try_from(len_bytes).unwrap());
    bytes
}

/// SHA-256 of a file, in hexadecimal digits.
pub fn sha256_of(path: &Path) -> String {
    let digest = Sha256::digest(std::fs::read(path).unwrap());
    digest
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

impl Node {
    /// Starts the daemon as another user.
    pub fn start_as(&mut self, uid: u32) {
        use std::os::unix::process::CommandExt as _;
        let log = self.path("log");
        let file = File::create(&log).unwrap();
        self.daemon = Some(
            self.command()
                .stderr(file)
                .uid(uid)
                .gid(uid)
                .spawn()
                .unwrap(),
        );
        until("the daemon is ready", || self.log().contains(" ready: "));
    }
}
