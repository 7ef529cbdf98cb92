//! The node at a glance.

use super::node::Node;
use crate::api::{DataMode, Status};
use crate::doctor::Place;

impl Node {
    /// Everything that `bedplate status` shows.
    pub fn status(&self) -> Status {
        let target = self.serving.started();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_unix_ms: self.started_unix_ms,
            boot_id: self.boot_id,
            kernel: kernel_release(),
            data_mode: target.map(|target| match target.data_mode() {
                bedplate_ublk_target::DataMode::ZeroCopy => DataMode::ZeroCopy,
                bedplate_ublk_target::DataMode::UserCopy => DataMode::UserCopy,
            }),
            reactors: u32::try_from(self.serving.reactors()).unwrap_or(u32::MAX),
            disks: self.disk_list(),
            images: self.image_list(),
            volumes: self.volume_list(),
            jobs: self
                .jobs
                .list()
                .into_iter()
                .filter(|job| !job.state.is_final())
                .collect(),
            problems: self.problems(),
        }
    }

    /// Where `doctor` looks.
    pub fn doctor_place(&self) -> Place {
        Place {
            run_dir: self.config.run_dir.clone(),
        }
    }
}

fn kernel_release() -> String {
    nix::sys::utsname::uname().map_or_else(
        |_| "unknown".to_owned(),
        |name| name.release().to_string_lossy().into_owned(),
    )
}
