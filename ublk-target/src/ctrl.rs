//! Control commands on `/dev/ublk-control`: one call, one command, one answer.
//!
//! Most commands may sleep in the kernel, and some wait for a server to fetch. So every call drives a ring of its own, and
//! waits in its caller's thread; no command holds up another.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bedplate_datapath::units::DevId;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use libublk::sys as lib;
use nix::errno::Errno;

use crate::error::TargetError;
use crate::sys::{self, Features, Params};

const CONTROL_PATH: &str = "/dev/ublk-control";

/// How long a command may take that has nothing to wait for but the kernel.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Rings that wait for the next call.
const IDLE_RINGS_MAX: usize = 16;

/// How much longer than its patience a `QUIESCE_DEV` may take.
const QUIESCE_EXTRA: Duration = Duration::from_secs(1);

type ControlRing = IoUring<squeue::Entry128, cqueue::Entry>;

/// Device information as the kernel has it.
pub(crate) type DevInfo = lib::ublksrv_ctrl_dev_info;

/// `/dev/ublk-control`, and rings to reach it by.
pub(crate) struct Control {
    file: Arc<OwnedFd>,
    /// Rings that no call uses now.
    idle: Mutex<Vec<ControlRing>>,
}

/// One command: its name for messages, its number, and what goes with it.
struct Command {
    name: &'static str,
    number: u32,
    dev_id: DevId,
    data: u64,
    timeout: Duration,
}

impl Command {
    fn new(name: &'static str, number: u32, dev_id: DevId) -> Self {
        Self {
            name,
            number,
            dev_id,
            data: 0,
            timeout: COMMAND_TIMEOUT,
        }
    }

    fn data(self, data: u64) -> Self {
        Self { data, ..self }
    }

    fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

/// Plain structs that the kernel reads and writes whole.
///
/// # Safety
/// Every bit pattern must be a value, and there must be no padding that matters.
unsafe trait KernelStruct: Default {}
// SAFETY: integers only.
unsafe impl KernelStruct for DevInfo {}
// SAFETY: integers only; the padding before `seg` is never looked at.
unsafe impl KernelStruct for Params {}
// SAFETY: an integer.
unsafe impl KernelStruct for u64 {}

impl Control {
    pub(crate) fn open() -> Result<Self, TargetError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(CONTROL_PATH)
            .map_err(|error| TargetError::NoUblk {
                path: CONTROL_PATH,
                errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
            })?;
        Ok(Self {
            file: Arc::new(file.into()),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// What the driver can do. `GET_FEATURES` is in Linux 6.5 and newer.
    pub(crate) fn features(&self) -> Result<Features, TargetError> {
        let command = Command::new(
            "GET_FEATURES",
            lib::UBLK_U_CMD_GET_FEATURES,
            DevId::new(u32::MAX),
        );
        let mut bits = 0_u64;
        self.run_with(&command, &mut bits, sys::FEATURES_BYTES)?;
        Ok(Features::from_bits(bits))
    }

    /// Makes a device; `info` comes back as the kernel understood it.
    pub(crate) fn add(&self, info: &mut DevInfo) -> Result<(), TargetError> {
        let command = Command::new("ADD_DEV", lib::UBLK_U_CMD_ADD_DEV, DevId::new(info.dev_id));
        self.run_with(&command, info, sys::DEV_INFO_BYTES)
    }

    pub(crate) fn set_params(&self, dev_id: DevId, params: &mut Params) -> Result<(), TargetError> {
        let command = Command::new("SET_PARAMS", lib::UBLK_U_CMD_SET_PARAMS, dev_id);
        params.len = u32::from(sys::PARAMS_BYTES);
        self.run_with(&command, params, sys::PARAMS_BYTES)
    }

    pub(crate) fn params(&self, dev_id: DevId) -> Result<Params, TargetError> {
        let command = Command::new("GET_PARAMS", lib::UBLK_U_CMD_GET_PARAMS, dev_id);
        let mut params = Params {
            len: u32::from(sys::PARAMS_BYTES),
            ..Params::default()
        };
        self.run_with(&command, &mut params, sys::PARAMS_BYTES)?;
        Ok(params)
    }

    /// `None` when there is no such device.
    pub(crate) fn info(&self, dev_id: DevId) -> Result<Option<DevInfo>, TargetError> {
        let command = Command::new("GET_DEV_INFO", lib::UBLK_U_CMD_GET_DEV_INFO, dev_id);
        let mut info = DevInfo::default();
        match self.run_with(&command, &mut info, sys::DEV_INFO_BYTES) {
            Ok(()) => Ok(Some(info)),
            Err(TargetError::Command {
                errno: Errno::ENODEV,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Brings the block device up. Every tag must have been fetched, by this process.
    pub(crate) fn start(&self, dev_id: DevId) -> Result<(), TargetError> {
        let pid = u64::from(std::process::id());
        self.run(&Command::new("START_DEV", lib::UBLK_U_CMD_START_DEV, dev_id).data(pid))
    }

    /// Takes the block device down; waits for its requests.
    pub(crate) fn stop(&self, dev_id: DevId) -> Result<(), TargetError> {
        self.run(&Command::new("STOP_DEV", lib::UBLK_U_CMD_STOP_DEV, dev_id))
    }

    /// Takes the block device down unless somebody has it open; needs [`Features::SAFE_STOP_DEV`].
    pub(crate) fn try_stop(&self, dev_id: DevId) -> Result<(), TargetError> {
        self.run(&Command::new(
            "TRY_STOP_DEV",
            lib::UBLK_U_CMD_TRY_STOP_DEV,
            dev_id,
        ))
    }

    /// Frees the number; waits until nobody has `/dev/ublkcN` open.
    pub(crate) fn delete(&self, dev_id: DevId, timeout: Duration) -> Result<(), TargetError> {
        self.run(&Command::new("DEL_DEV", lib::UBLK_U_CMD_DEL_DEV, dev_id).timeout(timeout))
    }

    /// Waits, in short sleeps, until the kernel has let go of the dead server; `EBUSY` until then.
    pub(crate) fn start_recovery(
        &self,
        dev_id: DevId,
        patience: Duration,
    ) -> Result<(), TargetError> {
        let command = Command::new(
            "START_USER_RECOVERY",
            lib::UBLK_U_CMD_START_USER_RECOVERY,
            dev_id,
        );
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(1);
        loop {
            match self.run(&command) {
                Err(TargetError::Command {
                    errno: Errno::EBUSY,
                    ..
                }) if Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(5));
                }
                other => return other,
            }
        }
    }

    /// Resumes a device. Every tag must have been fetched, by this process.
    pub(crate) fn end_recovery(&self, dev_id: DevId) -> Result<(), TargetError> {
        let pid = u64::from(std::process::id());
        self.run(
            &Command::new(
                "END_USER_RECOVERY",
                lib::UBLK_U_CMD_END_USER_RECOVERY,
                dev_id,
            )
            .data(pid),
        )
    }

    /// Changes the length of a block device that is up; needs [`Features::UPDATE_SIZE`]. The new length is in `data[0]`
    /// (`ublk_ctrl_set_size`, drivers/block/ublk_drv.c), and `GET_PARAMS` tells it from then on.
    pub(crate) fn update_size(&self, dev_id: DevId, sectors: u64) -> Result<(), TargetError> {
        self.run(&Command::new("UPDATE_SIZE", lib::UBLK_U_CMD_UPDATE_SIZE, dev_id).data(sectors))
    }

    /// Stops delivery and hands back fetched tags; the device is quiesced once `/dev/ublkcN` is let go of. `EBUSY` when
    /// a queue had no idle tag within `patience`.
    pub(crate) fn quiesce(&self, dev_id: DevId, patience: Duration) -> Result<(), TargetError> {
        let millis = u64::try_from(patience.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let command = Command::new("QUIESCE_DEV", lib::UBLK_U_CMD_QUIESCE_DEV, dev_id).data(millis);
        // The kernel counts from when it has the device's mutex, which somebody else may hold.
        self.run(&command.timeout(patience + QUIESCE_EXTRA))
    }

    fn run(&self, command: &Command) -> Result<(), TargetError> {
        // SAFETY: there is no buffer.
        unsafe { self.run_raw(command, (0, 0), Some(command.timeout)) }
    }

    fn run_with<T: KernelStruct>(
        &self,
        command: &Command,
        value: &mut T,
        len: u16,
    ) -> Result<(), TargetError> {
        debug_assert_eq!(
            usize::from(len),
            size_of::<T>(),
            "the kernel gets the whole struct"
        );
        let address = std::ptr::from_mut(value).expose_provenance() as u64;
        // SAFETY: `value` lives, mutably borrowed, until the call returns; without a time limit it returns only when the
        // kernel has answered. Every bit pattern that the kernel writes is a value, says the trait.
        unsafe { self.run_raw(command, (address, len), None) }
    }

    /// # Safety
    /// The buffer must be valid for the kernel to read and write until the call returns; with a time limit, for ever.
    unsafe fn run_raw(
        &self,
        command: &Command,
        buffer: (u64, u16),
        timeout: Option<Duration>,
    ) -> Result<(), TargetError> {
        let failed = |errno| TargetError::Command {
            command: command.name,
            dev_id: command.dev_id,
            errno,
        };
        let io_failed = |error: std::io::Error| {
            failed(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
        };
        let mut ring = self.take_ring().map_err(io_failed)?;
        let bytes = sys::control_command(command.dev_id.get(), buffer, command.data);
        let entry = opcode::UringCmd80::new(Fd(self.file.as_raw_fd()), command.number)
            .cmd(bytes)
            .build();
        // SAFETY: the caller vouches for the buffer; the file outlives the call. The ring was empty.
        unsafe { ring.submission().push(&entry) }.map_err(|_| failed(Errno::EBUSY))?;
        let deadline = timeout.map(|timeout| (timeout, Instant::now() + timeout));
        loop {
            let answer = ring.completion().next();
            if let Some(answer) = answer {
                self.keep(ring);
                let result = answer.result();
                return if result < 0 {
                    Err(failed(Errno::from_raw(-result)))
                } else {
                    Ok(())
                };
            }
            let waited = match deadline {
                None => ring.submit_and_wait(1),
                Some((timeout, deadline)) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        // Dropping the ring cancels the command, when the kernel gets to it.
                        return Err(TargetError::TimedOut {
                            command: command.name,
                            dev_id: command.dev_id,
                            waited: timeout,
                        });
                    }
                    ring.submitter()
                        .submit_with_args(1, &SubmitArgs::new().timespec(&Timespec::from(left)))
                }
            };
            match waited {
                Ok(_) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME)) => {}
                Err(error) => return Err(io_failed(error)),
            }
        }
    }

    /// Keeps a ring for the next call; of the rings of a whole recovery at once, some.
    fn keep(&self, ring: ControlRing) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_RINGS_MAX {
            idle.push(ring);
        }
    }

    fn take_ring(&self) -> std::io::Result<ControlRing> {
        if let Some(ring) = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
        {
            return Ok(ring);
        }
        IoUring::builder().dontfork().build(2)
    }
}
