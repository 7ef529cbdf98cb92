//! The end of a device, and the end of its server: two different things.

use std::fs::OpenOptions;
use std::time::{Duration, Instant};

use bedplate_datapath::units::DevId;
use crossbeam::channel::bounded;
use nix::errno::Errno;

use crate::ctrl::Control;
use crate::error::TargetError;
use crate::kernel_device::{DeviceState, KernelDevice};
use crate::openers::openers_of;
use crate::reactor::ReactorHandle;
use crate::support::KernelSupport;
use crate::sys::Features;
use crate::target::{DeviceEntry, REACTOR_TIMEOUT, Target, locked, reactor_failed};

/// How long another server may take to close `/dev/ublkcN` of a device that was stopped under it.
const FOREIGN_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a device that is stopped may stay because somebody has it open still, when the node goes down.
const LAST_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a flush may take before the device is removed without.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the kernel may take to let go of a dead server, before its device is removed regardless.
const DEAD_SERVER_TIMEOUT: Duration = Duration::from_secs(20);

/// What is left of a device that was taken out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Nothing.
    Gone,
    /// Its number, until whoever has `/dev/ublkbN` or `/dev/ublkcN` open closes it. Every request fails already.
    WhenClosed,
}

impl Target {
    /// Takes the device away from the kernel.
    ///
    /// # Errors
    /// [`TargetError::NotFound`] if it is not served here; [`TargetError::Busy`] if somebody has it open, with who: the device
    /// goes on.
    pub fn detach(&self, dev_id: DevId) -> Result<(), TargetError> {
        let entry = {
            let mut devices = locked(&self.devices);
            match devices.get(&dev_id) {
                None => return Err(TargetError::NotFound { dev_id }),
                Some(DeviceEntry::Changing) => {
                    return Err(TargetError::Busy {
                        dev_id,
                        by: Vec::new(),
                    });
                }
                Some(DeviceEntry::Served { .. }) => devices.insert(dev_id, DeviceEntry::Changing),
            }
        };
        let reactors = match &entry {
            Some(DeviceEntry::Served { reactors, .. }) => reactors.clone(),
            _ => Vec::new(),
        };
        match stop_unless_open(&self.control, &self.support, dev_id) {
            // Without a device: removed by somebody else.
            Ok(())
            | Err(TargetError::Command {
                errno: Errno::ENODEV,
                ..
            }) => {}
            Err(error) => {
                if let Some(entry) = entry {
                    locked(&self.devices).insert(dev_id, entry);
                }
                return Err(error);
            }
        }
        self.wait_forgotten(dev_id, reactors);
        let deleted = match self.control.delete(dev_id, REACTOR_TIMEOUT) {
            Err(TargetError::Command {
                errno: Errno::ENODEV,
                ..
            }) => Ok(()),
            other => other,
        };
        locked(&self.devices).remove(&dev_id);
        deleted
    }

    /// Removes a device that nobody here serves: flushes it if somebody does elsewhere, stops it (what waits in it fails), frees
    /// its number. Works without a daemon.
    ///
    /// # Errors
    /// [`TargetError::NotFound`]; [`TargetError::TimedOut`] if somebody keeps `/dev/ublkcN` or `/dev/ublkbN` open: it is stopped
    /// then, and its number not free.
    pub fn remove_device(dev_id: DevId) -> Result<(), TargetError> {
        stop_foreign(dev_id)?.delete(dev_id, FOREIGN_CLOSE_TIMEOUT)
    }

    /// As [`Target::remove_device`], for the end of a node: whoever has the device open still is being ended as well, and
    /// must not hold up all the others.
    ///
    /// # Errors
    /// [`TargetError::NotFound`]; what the kernel has against stopping it.
    pub fn remove_at_shutdown(dev_id: DevId) -> Result<Removed, TargetError> {
        match stop_foreign(dev_id)?.delete(dev_id, LAST_CLOSE_TIMEOUT) {
            Ok(()) => Ok(Removed::Gone),
            // The kernel waits for the last close after it took the device down (ublk_ctrl_del_dev, drivers/block/ublk_drv.c).
            Err(TargetError::TimedOut { .. }) => Ok(Removed::WhenClosed),
            Err(error) => Err(error),
        }
    }

    /// Leaves every device to the next process: delivery stops, requests in flight are answered, the rest waits in the kernel.
    /// Consumes the target; with it go the reactors, and then the process should go too.
    ///
    /// # Errors
    /// [`TargetError::Reactor`] if requests in flight did not end in time: a hung disk. Ending the process is still right.
    pub fn quiesce_all(mut self) -> Result<(), TargetError> {
        let served: Vec<DevId> = locked(&self.devices).keys().copied().collect();
        let deadline = Instant::now() + self.config.drain_patience;
        if self.support.quiesce() {
            for dev_id in served {
                // A queue without an idle tag cannot be told: then the reactors' leaving does it alone.
                if let Err(error) = self.control.quiesce(dev_id, Duration::from_secs(1)) {
                    tracing::info!(%dev_id, %error, "the device is drained instead");
                }
            }
        }
        self.leave(deadline)
    }

    /// Ends the reactors: what is in flight is answered, the rest is left to the next process.
    pub(crate) fn leave(&mut self, deadline: Instant) -> Result<(), TargetError> {
        let leaving: Vec<_> = self.reactors.iter().map(ReactorHandle::leave).collect();
        let mut hung = None;
        for (mut reactor, left) in std::mem::take(&mut self.reactors).into_iter().zip(leaving) {
            if left.wait_closed(deadline.saturating_duration_since(Instant::now())) {
                reactor.join();
            } else {
                let source = std::io::Error::from_raw_os_error(libc::ETIMEDOUT);
                hung = Some(reactor_failed(
                    &reactor,
                    "requests in flight do not end",
                    source,
                ));
            }
        }
        hung.map_or(Ok(()), Err)
    }
}

impl Drop for Target {
    /// As [`Target::quiesce_all`], without asking the kernel first.
    fn drop(&mut self) {
        if let Err(error) = self.leave(Instant::now() + self.config.drain_patience) {
            tracing::error!(%error, "a reactor is left behind");
        }
    }
}

/// Flushes a device that somebody else serves, and stops it, whoever has it open.
fn stop_foreign(dev_id: DevId) -> Result<Control, TargetError> {
    let control = Control::open()?;
    let info = control
        .info(dev_id)?
        .ok_or(TargetError::NotFound { dev_id })?;
    let device = KernelDevice::of(&info);
    if device.state == DeviceState::Live && device.server_pid.is_some() {
        flush(dev_id);
    } else if device.state != DeviceState::Dead {
        // Its server is gone, or going. This command is refused until the kernel has let go of it, and changes nothing of a
        // device that is then removed.
        if let Err(error) = control.start_recovery(dev_id, DEAD_SERVER_TIMEOUT) {
            tracing::info!(%dev_id, %error, "removing the device all the same");
        }
    }
    control.stop(dev_id)?;
    Ok(control)
}

/// Stops the device if nobody has it open. Where the kernel cannot check and stop in one step, somebody may open the device in
/// between, and gets errors.
fn stop_unless_open(
    control: &Control,
    support: &KernelSupport,
    dev_id: DevId,
) -> Result<(), TargetError> {
    if support.features.contains(Features::SAFE_STOP_DEV) {
        return match control.try_stop(dev_id) {
            Err(TargetError::Command {
                errno: Errno::EBUSY,
                ..
            }) => Err(TargetError::Busy {
                dev_id,
                by: openers_of(dev_id),
            }),
            other => other,
        };
    }
    let by = openers_of(dev_id);
    if by.is_empty() {
        control.stop(dev_id)
    } else {
        Err(TargetError::Busy { dev_id, by })
    }
}

/// Writes back what the page cache has for the device. Best effort, and not for ever: if the server dies meanwhile, the flush
/// waits for the next one, in a thread that the device's removal sets free.
fn flush(dev_id: DevId) {
    let path = format!("/dev/ublkb{dev_id}");
    let (done, is_done) = bounded(1);
    let flusher = std::thread::Builder::new()
        .name("ublk-flush".to_owned())
        .spawn(move || {
            let flushed = OpenOptions::new()
                .read(true)
                .open(&path)
                .and_then(|device| device.sync_all());
            // The one who waited may have given up.
            let _ = done.send(flushed);
        });
    let answer = flusher
        .map_err(Some)
        .and_then(|_| is_done.recv_timeout(FLUSH_TIMEOUT).map_err(|_| None));
    match answer {
        Ok(Ok(())) => {}
        Ok(Err(error)) | Err(Some(error)) => {
            tracing::warn!(%dev_id, %error, "cannot flush the device");
        }
        Err(None) => {
            tracing::warn!(%dev_id, "the device's flush does not end: removing it all the same");
        }
    }
}
