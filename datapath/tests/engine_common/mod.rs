//! What the engine's tests share: disks that are files or loop devices, and bytes from a seed.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::NamedTempFile;

pub const MIB: usize = 1 << 20;

/// A sparse file in `target/`, not in `/tmp`: that may be a tmpfs without direct I/O.
pub fn disk_file(len_bytes: usize) -> NamedTempFile {
    let file = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.as_file().set_len(len_bytes as u64).unwrap();
    file
}

/// A loop device, given back when dropped.
pub struct LoopDevice(PathBuf);

impl LoopDevice {
    /// `None`, with the reason on standard error, where this machine gives none.
    pub fn over(file: &Path) -> Option<Self> {
        match Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(file)
            .output()
        {
            Ok(Output { status, stdout, .. }) if status.success() => Some(Self(PathBuf::from(
                String::from_utf8(stdout).unwrap().trim(),
            ))),
            Ok(Output { stderr, .. }) => skipped(&format!(
                "losetup: {}",
                String::from_utf8_lossy(&stderr).trim()
            )),
            Err(error) => skipped(&format!("losetup: {error}")),
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
        assert!(detached.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Says loudly that a test did not run.
pub fn skipped<T>(why: &str) -> Option<T> {
    eprintln!("skipped: {why}");
    None
}

/// Whether a command of this name can be run; if not, says so.
pub fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        skipped::<()>(&format!("{program} is not installed"));
    }
    found
}

/// Splitmix64: the same bytes for the same seed.
pub struct Bytes(u64);

impl Bytes {
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut word = self.0;
            word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            bytes.extend((word ^ (word >> 31)).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
