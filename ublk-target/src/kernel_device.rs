//! The ublk devices that the kernel has, ours and others.

use std::fmt;

use bedplate_datapath::units::DevId;

use crate::ctrl::{Control, DevInfo};
use crate::error::TargetError;
use crate::owner::OwnerTag;
use crate::sys::Features;

/// State of a device, `UBLK_S_DEV_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// Added, and not started, or stopped: there is no block device.
    Dead,
    /// Served.
    Live,
    /// Its server is gone; requests wait for the next one.
    Quiesced,
    /// Its server is gone; requests fail.
    FailIo,
    /// A state that this program does not know.
    Unknown(u16),
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dead => f.write_str("dead"),
            Self::Live => f.write_str("live"),
            Self::Quiesced => f.write_str("quiesced"),
            Self::FailIo => f.write_str("failing I/O"),
            Self::Unknown(number) => write!(f, "in state {number}"),
        }
    }
}

/// A device, as the kernel tells.
#[derive(Clone, Debug)]
pub struct KernelDevice {
    /// N of `/dev/ublkbN`.
    pub dev_id: DevId,
    /// What it is doing.
    pub state: DeviceState,
    /// Ours, and of which object; `None` for somebody else's.
    pub owner: Option<OwnerTag>,
    /// Process that serves it, if it is alive.
    pub server_pid: Option<i32>,
    /// That process's name.
    pub server_name: Option<String>,
    /// Hardware queues.
    pub queues: u16,
    /// Requests that a queue holds.
    pub queue_depth: u16,
    /// What it was added with.
    pub features: Features,
}

impl fmt::Display for KernelDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.owner.is_some() {
            "a device of Bedplate"
        } else {
            "a foreign ublk device"
        };
        write!(f, "{whose}, {}", self.state)?;
        match (self.server_pid, &self.server_name) {
            (Some(pid), Some(name)) => write!(f, ", served by {name} (pid {pid})"),
            (Some(pid), None) => write!(f, ", served by pid {pid}"),
            (None, _) => f.write_str(", served by nobody"),
        }
    }
}

impl KernelDevice {
    pub(crate) fn of(info: &DevInfo) -> Self {
        // Linux 6.12 tells the last server's number, dead or alive (`ublk_ctrl_get_dev_info`).
        let server_pid =
            (info.ublksrv_pid > 0 && is_alive(info.ublksrv_pid)).then_some(info.ublksrv_pid);
        Self {
            dev_id: DevId::new(info.dev_id),
            state: match info.state {
                0 => DeviceState::Dead,
                1 => DeviceState::Live,
                2 => DeviceState::Quiesced,
                3 => DeviceState::FailIo,
                other => DeviceState::Unknown(other),
            },
            owner: OwnerTag::from_bits(info.ublksrv_flags),
            server_pid,
            server_name: server_pid.and_then(process_name),
            queues: info.nr_hw_queues,
            queue_depth: info.queue_depth,
            features: Features::from_bits(info.flags),
        }
    }

    /// Numbers of all of them.
    pub(crate) fn numbers() -> Vec<u32> {
        let mut numbers: Vec<u32> = std::fs::read_dir("/sys/class/ublk-char")
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                entry
                    .ok()?
                    .file_name()
                    .to_str()?
                    .strip_prefix("ublkc")?
                    .parse()
                    .ok()
            })
            .collect();
        numbers.sort_unstable();
        numbers
    }

    /// Those that are asked for, by number.
    pub(crate) fn list(
        control: &Control,
        is_asked_for: impl Fn(DevId) -> bool,
    ) -> Result<Vec<Self>, TargetError> {
        let mut devices = Vec::new();
        for number in Self::numbers() {
            if !is_asked_for(DevId::new(number)) {
                continue;
            }
            // One that went away meanwhile is not there.
            if let Some(info) = control.info(DevId::new(number))? {
                devices.push(Self::of(&info));
            }
        }
        Ok(devices)
    }
}

/// Whether there is such a process, and it is more than a zombie (proc(5), `stat`, third field).
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|fields| fields.split_whitespace().next());
    state.is_some_and(|state| !matches!(state, "Z" | "X"))
}

/// `comm` of a process that is alive.
pub(crate) fn process_name(pid: i32) -> Option<String> {
    Some(
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .ok()?
            .trim_end()
            .to_owned(),
    )
}
