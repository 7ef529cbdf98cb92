//! Small files that tell udev which image a device is: `<run-dir>/devices/N`, written before the device starts.
//!
//! udev asks through `bedplated udev-name`, which must answer at once and without the daemon.

use std::path::{Path, PathBuf};

fn file_of(run_dir: &Path, number: u32) -> PathBuf {
    run_dir.join("devices").join(number.to_string())
}

/// Notes that device `number` is `name`. A failure costs the link in `/dev/disk/by-id` only, so it is logged.
pub fn note(run_dir: &Path, number: u32, name: &str) {
    let file = file_of(run_dir, number);
    let written = std::fs::create_dir_all(run_dir.join("devices")).and_then(|()| {
        let fresh = file.with_extension("new");
        std::fs::write(&fresh, format!("{name}\n"))?;
        std::fs::rename(&fresh, &file)
    });
    if let Err(error) = written {
        tracing::warn!(file = %file.display(), %error, "udev will not know the name of a device");
    }
}

/// The device is gone.
pub fn forget(run_dir: &Path, number: u32) {
    let file = file_of(run_dir, number);
    if let Err(error) = std::fs::remove_file(&file)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(file = %file.display(), %error, "cannot remove the name of a device");
    }
}

/// The name of the device at `node` (`/dev/ublkbN`, or its kernel name), if it is one of ours.
pub fn name_of(run_dir: &Path, node: &str) -> Option<String> {
    let number: u32 = node
        .strip_prefix("/dev/")
        .unwrap_or(node)
        .strip_prefix("ublkb")?
        .parse()
        .ok()?;
    let text = std::fs::read_to_string(file_of(run_dir, number)).ok()?;
    let name = text.trim_end();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udev_finds_the_name_while_the_device_is_there() {
        let run_dir = tempfile::tempdir().unwrap();
        note(run_dir.path(), 7, "debian-13");
        assert_eq!(
            name_of(run_dir.path(), "/dev/ublkb7").as_deref(),
            Some("debian-13")
        );
        assert_eq!(
            name_of(run_dir.path(), "ublkb7").as_deref(),
            Some("debian-13")
        );
        for other in [
            "/dev/ublkb8",
            "/dev/sda",
            "/dev/ublkb7p1",
            "/dev/ublkb../7",
            "",
        ] {
            assert_eq!(name_of(run_dir.path(), other), None, "{other}");
        }
        forget(run_dir.path(), 7);
        assert_eq!(name_of(run_dir.path(), "/dev/ublkb7"), None);
    }
}
