//! A device that outlived its server: taken over, with the requests that wait in it.

use std::sync::Arc;

use bedplate_datapath::plan::LayerStack;
use bedplate_datapath::units::SECTOR_BYTES;

use crate::attach::{Attached, DeviceSpec, attached, whole_blocks};
use crate::error::TargetError;
use crate::kernel_device::{DeviceState, KernelDevice};
use crate::target::{DeviceEntry, Target};

impl Target {
    /// Takes over a device of ours whose server is gone. It keeps its number of queues, their depth, and the flags that it was
    /// added with, whatever the settings are now. `stack` is used from the first moment: requests arrive before this
    /// returns. If the device never came up (state dead), it is removed and attached anew.
    ///
    /// # Errors
    /// [`TargetError::NotFound`]; [`TargetError::DeviceTaken`] if it is not of this owner, or lives under another server;
    /// [`TargetError::Mismatch`] if its size is not the object's; a `START_USER_RECOVERY` with `EBUSY` if the kernel did not let go
    /// of the dead server in time. The device is left quiesced.
    pub fn recover(
        &self,
        spec: &DeviceSpec,
        stack: Arc<LayerStack>,
    ) -> Result<Attached, TargetError> {
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
            return self.attach(spec, stack);
        }
        self.changing(spec.dev_id, || self.take_over(spec, stack))
    }

    fn take_over(
        &self,
        spec: &DeviceSpec,
        stack: Arc<LayerStack>,
    ) -> Result<(Attached, DeviceEntry), TargetError> {
        let limits = self.limits_below(spec, &stack)?;
        let stack = whole_blocks(stack, &limits);
        let params = self.control.params(spec.dev_id)?;
        let expected = stack.device_bytes() / SECTOR_BYTES;
        if params.basic.dev_sectors != expected {
            let actual = params.basic.dev_sectors;
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
        let reactors = self.fetch(spec, &info, &stack)?;
        self.control.end_recovery(spec.dev_id)?;
        Ok((
            attached(spec, &info),
            DeviceEntry::Served { reactors, stack },
        ))
    }
}
