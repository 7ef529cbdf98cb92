//! The end of a device, and the end of its server: two different things.

use std::fs::OpenOptions;
use std::sync::{Mutex, PoisonError};
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

/// How long a queue may take to have an idle tag, by which the kernel can tell it to stop.
const QUIESCE_PATIENCE: Duration = Duration::from_secs(1);

/// How long all devices together may take to be told; the reactors' leaving drains those that are left.
const QUIESCE_WITHIN: Duration = Duration::from_secs(5);

/// Devices that are told at a time: each may take all of [`QUIESCE_PATIENCE`].
const QUIESCE_THREADS: usize = 16;

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
        let (reactors, backing) = self.take_served(dev_id, None)?;
        // Where somebody has the device open, it goes on, and on waiting.
        let may_end = openers_of(dev_id).is_empty();
        if may_end && let Err(error) = self.begin_ending(dev_id) {
            tracing::warn!(%dev_id, %error, "requests may wait for a disk still");
        }
        match stop_unless_open(&self.control, &self.support, dev_id) {
            // Without a device: removed by somebody else.
            Ok(())
            | Err(TargetError::Command {
                errno: Errno::ENODEV,
                ..
            }) => {}
            Err(error) => {
                // Somebody has opened it since. Before the next one may detach it.
                if may_end && let Err(error) = self.end_ending(dev_id) {
                    tracing::error!(%dev_id, %error, "its requests do not wait for a disk that goes");
                }
                let entry = DeviceEntry::Served { reactors, backing };
                locked(&self.devices).insert(dev_id, entry);
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
    /// [`TargetError::Reactor`] if some reactor has not ended: requests in flight did not end in time. What it has in flight may still
    /// land on the disks, so nobody may say of them that they are closed. Ending the process is still right.
    pub fn quiesce_all(mut self) -> Result<(), TargetError> {
        if self.support.quiesce() {
            let served: Vec<DevId> = locked(&self.devices).keys().copied().collect();
            let control = &self.control;
            let told = for_each_within(QUIESCE_WITHIN, QUIESCE_THREADS, &served, |dev_id, left| {
                // A queue without an idle tag cannot be told: then the reactors' leaving does it alone.
                if let Err(error) = control.quiesce(dev_id, QUIESCE_PATIENCE.min(left)) {
                    tracing::info!(%dev_id, %error, "the device is drained instead");
                }
            });
            if told < served.len() {
                tracing::info!(
                    devices = served.len() - told,
                    "there was no time to tell the kernel: they are drained instead"
                );
            }
        }
        // Counted from here: telling the kernel takes none of the requests' time.
        let deadline = Instant::now() + self.config.drain_patience;
        self.leave(deadline)
    }

    /// Tells the reactors to leave, and does not wait for them: for a process that has to go while somebody still has the target. What
    /// is in flight is answered, nothing more is begun. Whether they end is not known, so the disks are to be left as after a crash.
    pub fn begin_leaving(&self) {
        for reactor in &self.reactors {
            // Nobody waits for the answer.
            drop(reactor.leave());
        }
    }

    /// Ends the reactors: what is in flight is answered, the rest is left to the next process. An error unless all have ended.
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

/// Runs `work` for each of `items` on a few threads, and begins none any more when the time is up; `work` hears how much is left. Says for how
/// many it was run.
fn for_each_within<T: Copy + Send + Sync>(
    limit: Duration,
    threads: usize,
    items: &[T],
    work: impl Fn(T, Duration) + Sync,
) -> usize {
    let deadline = Instant::now() + limit;
    let next = Mutex::new(0_usize);
    let take_next = || {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
        let item = items.get(*next).copied().filter(|_| !left.is_zero())?;
        *next += 1;
        Some((item, left))
    };
    let run = || {
        while let Some((item, left)) = take_next() {
            work(item, left);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(items.len()) {
            let builder = std::thread::Builder::new().name("ublk-quiesce".to_owned());
            if let Err(error) = builder.spawn_scoped(scope, run) {
                // The others do its part.
                tracing::warn!(%error, "cannot start a thread");
                break;
            }
        }
        run();
    });
    *next.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_has_its_turn_once() {
        let items: Vec<u32> = (0..1000).collect();
        let seen = Mutex::new(Vec::new());
        let run = for_each_within(Duration::from_secs(60), 16, &items, |item, _| {
            locked(&seen).push(item);
        });
        let mut seen = locked(&seen).clone();
        seen.sort_unstable();
        assert_eq!((run, seen), (items.len(), items));
        assert_eq!(
            for_each_within(Duration::from_secs(60), 16, &[0_u32; 0], |_, _| {}),
            0
        );
    }

    #[test]
    fn when_the_time_is_up_none_is_begun() {
        let started = Instant::now();
        let run = for_each_within(Duration::from_millis(50), 2, &[(); 1000], |(), _| {
            std::thread::sleep(Duration::from_millis(20));
        });
        assert!(run < 1000, "it ran for {run}");
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(for_each_within(Duration::ZERO, 2, &[()], |(), _| {}), 0);
    }
}
