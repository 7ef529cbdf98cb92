//! A device that outlived its server: taken over, with the requests that wait in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::units::{DevId, SECTOR_BYTES};

use crate::attach::{Attached, DeviceSpec, attached, whole_blocks};
use crate::backing::Backing;
use crate::error::TargetError;
use crate::kernel_device::{DeviceState, KernelDevice};
use crate::target::{DeviceEntry, Target};

/// How long reactors may take to let go of a device that the kernel has removed, or that they never had.
const LET_GO_WITHIN: Duration = Duration::from_secs(5);

impl Target {
    /// Takes over a device of ours whose server is gone. It keeps its number of queues, their depth, and the flags that it was
    /// added with, whatever the settings are now. `backing` is used from the first moment: requests arrive before this
    /// returns. If the device never came up (state dead), it is removed and attached anew.
    ///
    /// A writable device that is shorter than its volume (a crash came between a volume's new length and its device's) gets the
    /// new length where the kernel can do that; else it is served with the old one.
    ///
    /// # Errors
    /// [`TargetError::NotFound`]; [`TargetError::DeviceTaken`] if it is not of this owner, or lives under another server;
    /// [`TargetError::Mismatch`] if its size is not the object's, or is beyond the volume's; a `START_USER_RECOVERY` with `EBUSY` if the kernel did not let go
    /// of the dead server in time; [`TargetError::Full`]. The device is left quiesced, and may be recovered again.
    ///
    /// # Aborts
    /// If the kernel refuses to resume a device whose tags have been fetched: nobody could recover it while this process lives.
    pub fn recover(
        &self,
        spec: &DeviceSpec,
        backing: impl Into<Backing>,
    ) -> Result<Attached, TargetError> {
        let backing = backing.into();
        let info = self
            .control
            .info(spec.dev_id)?
            .ok_or(TargetError::NotFound {
                dev_id: spec.dev_id,
            })?;
        let device = KernelDevice::of(&info);
        if device.owner != Some(spec.owner) {
            return Err(TargetError::DeviceTaken {
                by: Box::new(device),
            });
        }
        if device.state == DeviceState::Dead {
            return self.attach(spec, backing);
        }
        let stack = Arc::clone(&backing.stack);
        self.changing(spec.dev_id, &stack, || self.take_over(spec, backing))
    }

    fn take_over(
        &self,
        spec: &DeviceSpec,
        backing: Backing,
    ) -> Result<(Attached, DeviceEntry), TargetError> {
        let limits = self.limits_below(spec, &backing.stack)?;
        let backing = whole_blocks(backing, &limits);
        let params = self.control.params(spec.dev_id)?;
        let expected = backing.stack.device_bytes() / SECTOR_BYTES;
        let actual = params.basic.dev_sectors;
        let is_behind = backing.writable.is_some() && actual < expected;
        if actual != expected && !is_behind {
            return Err(TargetError::Mismatch {
                dev_id: spec.dev_id,
                what: "a size in sectors of",
                actual,
                expected,
            });
        }
        if let Err(error) = self
            .control
            .start_recovery(spec.dev_id, self.config.recovery_patience)
        {
            // Still served by somebody: say by whom.
            return Err(
                match self
                    .control
                    .info(spec.dev_id)?
                    .map(|info| KernelDevice::of(&info))
                {
                    Some(by) if by.state == DeviceState::Live && by.server_pid.is_some() => {
                        TargetError::DeviceTaken { by: Box::new(by) }
                    }
                    _ => error,
                },
            );
        }
        // Asked again: what the kernel has now is what FETCH must match.
        let info = self
            .control
            .info(spec.dev_id)?
            .ok_or(TargetError::NotFound {
                dev_id: spec.dev_id,
            })?;
        let fetched = self.fetch(spec, &info, &backing);
        let ended =
            fetched.and_then(|reactors| self.control.end_recovery(spec.dev_id).map(|()| reactors));
        let reactors = match ended {
            Ok(reactors) => reactors,
            Err(error) => {
                self.let_go_or_abort(spec.dev_id, &error);
                return Err(error);
            }
        };
        if is_behind {
            self.catch_up(spec.dev_id, actual, expected);
        }
        Ok((
            attached(spec, &info),
            DeviceEntry::Served { reactors, backing },
        ))
    }

    /// After a recovery that failed once it had begun: makes sure that no reactor has anything of the device, so that it can be recovered
    /// again.
    ///
    /// FETCHes cannot be taken back but by stopping the device, which would fail its requests; and as long as a ring has them, the kernel
    /// does not let the device be recovered again, by nobody. So if there are some, the process ends: the kernel then quiesces the
    /// device, and the next process recovers it.
    fn let_go_or_abort(&self, dev_id: DevId, error: &TargetError) {
        let deadline = Instant::now() + LET_GO_WITHIN;
        let asked: Vec<_> = self.reactors.iter().map(|r| r.forget(dev_id)).collect();
        let are_free = asked.into_iter().all(|answer| {
            let left = deadline.saturating_duration_since(Instant::now());
            answer.wait(left).is_ok()
        });
        if !are_free {
            tracing::error!(%dev_id, %error, "the device's recovery failed half-way: this process ends, so that the kernel takes the device back and the next process can recover it");
            std::process::abort();
        }
    }
}
