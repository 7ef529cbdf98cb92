//! Where few devices ever are: half made, and more of them than the buffer table has room for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::units::DevId;
use bedplate_ublk_target::{
    DataMode, DeviceState, KernelDevice, Target, TargetConfig, TargetError,
};

use crate::Outcome;
use crate::fixture::{Bench, FIRST_DEVICE, bench, config, spec};
use crate::reader::{check_all, open_direct};
use crate::scenarios::ensure;
use crate::server::Server;

/// Servers to kill before one of them must have died between ADD and START.
const ROUNDS_MAX: u32 = 40;

/// A server dies between ADD and START: what it leaves is no device, and the next one makes it anew under the same number.
pub fn half_made_device_is_made_anew(mode: DataMode) -> Outcome {
    let mut dead = 0;
    for round in 1..=ROUNDS_MAX {
        let Some(left) = killed_while_it_attaches(mode)? else {
            continue;
        };
        let Bench {
            target,
            image,
            stack,
            ..
        } = bench(config(mode))?;
        let attached = match target.recover(&spec(FIRST_DEVICE), Arc::clone(&stack)) {
            // The kernel removes a device whose ADD did not end.
            Err(TargetError::NotFound { .. }) => target.attach(&spec(FIRST_DEVICE), stack)?,
            other => other?,
        };
        check_all(&open_direct(&attached.path)?, &image, 1 << 20)?;
        target.detach(attached.dev_id)?;
        target.quiesce_all()?;
        dead += u32::from(left.state == DeviceState::Dead);
        if dead == 3 {
            println!("  {dead} half made devices in {round} rounds");
            return Ok(());
        }
    }
    Err(
        format!("only {dead} of {ROUNDS_MAX} servers left a half made device: nothing is shown")
            .into(),
    )
}

/// Kills a server as soon as its device can be seen; answers with what it left.
fn killed_while_it_attaches(
    mode: DataMode,
) -> Result<Option<KernelDevice>, Box<dyn std::error::Error>> {
    let look = || -> Result<Option<KernelDevice>, TargetError> {
        let devices = Target::kernel_devices()?;
        Ok(devices
            .into_iter()
            .find(|device| device.dev_id == DevId::new(FIRST_DEVICE)))
    };
    let server = Server::spawn("attach", FIRST_DEVICE, mode, 2)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while look()?.is_none() {
        ensure(Instant::now() < deadline, "the server adds no device")?;
    }
    server.kill()?;
    Ok(look()?)
}

/// One reactor's buffer table has 16,384 slots. The third device of 8,192 tags finds no room: its data is copied, and is right.
pub fn full_buffer_table_is_copied_around(mode: DataMode) -> Outcome {
    let Bench {
        target,
        image,
        stack,
        ..
    } = bench(TargetConfig {
        reactors: 1,
        queues: 2,
        queue_depth: 4096,
        ..config(mode)
    })?;
    let numbers = FIRST_DEVICE..FIRST_DEVICE + 3;
    for number in numbers.clone() {
        let attached = target.attach(&spec(number), Arc::clone(&stack))?;
        check_all(&open_direct(&attached.path)?, &image, 1 << 20)?;
    }
    // Room that a device gives back is used again.
    target.detach(DevId::new(FIRST_DEVICE))?;
    let attached = target.attach(&spec(FIRST_DEVICE), stack)?;
    check_all(&open_direct(&attached.path)?, &image, 1 << 20)?;
    for number in numbers {
        target.detach(DevId::new(number))?;
    }
    Ok(target.quiesce_all()?)
}
