//! A new device: added under its own number, described, fetched for, started.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::plan::{Layer, LayerStack, REQUEST_BYTES_MAX};
use bedplate_datapath::units::DevId;
use nix::errno::Errno;

use crate::backing::Backing;
use crate::ctrl::DevInfo;
use crate::error::TargetError;
use crate::kernel_device::{DeviceState, KernelDevice};
use crate::owner::OwnerTag;
use crate::params::{self, DiskLimits};
use crate::queue::Descriptors;
use crate::reactor::{NewQueue, NewQueues};
use crate::support::DataMode;
use crate::sys::Features;
use crate::target::{DeviceEntry, DiskEntry, REACTOR_TIMEOUT, Target, locked, reactor_failed};

/// How long a device node may take to appear after its device was added.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a device is to be.
#[derive(Clone, Debug)]
pub struct DeviceSpec {
    /// N of `/dev/ublkbN`. Never another one.
    pub dev_id: DevId,
    /// Whose it is.
    pub owner: OwnerTag,
    /// Whether the block layer refuses writes. (The reactors refuse them where the backing is not writable, whatever this says.)
    pub read_only: bool,
    /// Alignment of memory, in bytes, that some disk below asks for beyond what [`Target::add_disk`] was told; 1 for none.
    pub dma_alignment: u32,
}

/// A device that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its number.
    pub dev_id: DevId,
    /// `/dev/ublkbN`.
    pub path: PathBuf,
    /// How its data moves.
    pub data_mode: DataMode,
    /// Its hardware queues.
    pub queues: u16,
    /// Requests that a queue holds.
    pub queue_depth: u16,
}

impl Target {
    /// Makes the device and serves it. A device of the same owner that never came up (a crash between ADD and START) is
    /// removed first.
    ///
    /// # Errors
    /// [`TargetError::DeviceTaken`] if the number is in use, with who has it; [`TargetError::Busy`] if another operation changes
    /// the device; or the step that failed. Nothing is left behind then.
    pub fn attach(
        &self,
        spec: &DeviceSpec,
        backing: impl Into<Backing>,
    ) -> Result<Attached, TargetError> {
        let backing = backing.into();
        let stack = Arc::clone(&backing.stack);
        self.changing(spec.dev_id, &stack, || {
            let limits = self.limits_below(spec, &backing.stack)?;
            self.free_number(spec)?;
            let mut info = self.add(spec)?;
            let attached = self.bring_up(spec, &mut info, &limits, backing);
            if attached.is_err() {
                self.clean_up(spec.dev_id);
            }
            attached
        })
    }

    /// Runs an operation that gives the device its entry, with the device locked against others, and its disks against removal. The
    /// operation asks for their limits first: a disk that left before is unknown then.
    pub(crate) fn changing<T>(
        &self,
        dev_id: DevId,
        stack: &LayerStack,
        operation: impl FnOnce() -> Result<(T, DeviceEntry), TargetError>,
    ) -> Result<T, TargetError> {
        {
            let mut devices = locked(&self.devices);
            if devices.contains_key(&dev_id) {
                return Err(TargetError::Busy {
                    dev_id,
                    by: Vec::new(),
                });
            }
            // Before the kernel hears of it: a reactor that has no place left would find out too late.
            if devices.len() >= self.config.devices_max as usize {
                return Err(TargetError::Full {
                    what: "device",
                    limit: self.config.devices_max,
                });
            }
            devices.insert(dev_id, DeviceEntry::changing([stack]));
        }
        let outcome = operation();
        let mut devices = locked(&self.devices);
        match outcome {
            Ok((answer, entry)) => {
                devices.insert(dev_id, entry);
                Ok(answer)
            }
            Err(error) => {
                devices.remove(&dev_id);
                Err(error)
            }
        }
    }

    /// The entry of a device that is served, with the device locked against other operations until it is put back. `next` is what it
    /// is to have then.
    pub(crate) fn take_served(
        &self,
        dev_id: DevId,
        next: Option<&LayerStack>,
    ) -> Result<(Vec<usize>, Backing), TargetError> {
        let mut devices = locked(&self.devices);
        let Some(entry) = devices.get_mut(&dev_id) else {
            return Err(TargetError::NotFound { dev_id });
        };
        let changing = match &*entry {
            DeviceEntry::Served { backing, .. } => {
                DeviceEntry::changing(next.into_iter().chain([&*backing.stack]))
            }
            DeviceEntry::Changing { .. } => DeviceEntry::changing([]),
        };
        match std::mem::replace(entry, changing) {
            DeviceEntry::Served { reactors, backing } => Ok((reactors, backing)),
            was @ DeviceEntry::Changing { .. } => {
                *entry = was;
                Err(TargetError::Busy {
                    dev_id,
                    by: Vec::new(),
                })
            }
        }
    }

    /// Limits of the disks that the stack reads from.
    pub(crate) fn limits_below(
        &self,
        spec: &DeviceSpec,
        stack: &LayerStack,
    ) -> Result<DiskLimits, TargetError> {
        let disks = locked(&self.disks);
        let mut limits = DiskLimits {
            dma_alignment_bytes: spec.dma_alignment.max(1),
            ..DiskLimits::NONE
        };
        for disk in stack.layers.iter().flat_map(Layer::disks) {
            let index = disk.get();
            let disk = disks.get(usize::from(index)).copied();
            limits = limits.and(disk.and_then(DiskEntry::limits).ok_or(TargetError::Disk {
                index,
                why: "is not known here",
            })?);
        }
        Ok(limits)
    }

    /// Makes sure that nobody has the number.
    fn free_number(&self, spec: &DeviceSpec) -> Result<(), TargetError> {
        let Some(info) = self.control.info(spec.dev_id)? else {
            return Ok(());
        };
        let device = KernelDevice::of(&info);
        if device.owner != Some(spec.owner) || device.state != DeviceState::Dead {
            return Err(TargetError::DeviceTaken {
                by: Box::new(device),
            });
        }
        tracing::info!(dev_id = %spec.dev_id, "removing a device of ours that never came up");
        self.control.delete(spec.dev_id, REACTOR_TIMEOUT)
    }

    fn add(&self, spec: &DeviceSpec) -> Result<DevInfo, TargetError> {
        let mut info = DevInfo {
            nr_hw_queues: self.config.queues.max(1),
            queue_depth: self.config.queue_depth.clamp(1, 4096),
            max_io_buf_bytes: REQUEST_BYTES_MAX,
            dev_id: spec.dev_id.get(),
            flags: self.support.device_flags(self.data_mode()).bits(),
            ublksrv_flags: spec.owner.bits(),
            ..DevInfo::default()
        };
        match self.control.add(&mut info) {
            Ok(()) => Ok(info),
            // Somebody was faster.
            Err(TargetError::Command {
                errno: Errno::EEXIST,
                ..
            }) => match self.control.info(spec.dev_id)? {
                Some(other) => Err(TargetError::DeviceTaken {
                    by: Box::new(KernelDevice::of(&other)),
                }),
                None => Err(TargetError::Busy {
                    dev_id: spec.dev_id,
                    by: Vec::new(),
                }),
            },
            Err(error) => Err(error),
        }
    }

    fn bring_up(
        &self,
        spec: &DeviceSpec,
        info: &mut DevInfo,
        limits: &DiskLimits,
        backing: Backing,
    ) -> Result<(Attached, DeviceEntry), TargetError> {
        let backing = whole_blocks(backing, limits);
        let mode = mode_of(info);
        let device_bytes = backing.stack.device_bytes();
        let mut params = params::of_device(device_bytes, spec.read_only, mode, limits);
        self.control.set_params(spec.dev_id, &mut params)?;
        let reactors = self.fetch(spec, info, &backing)?;
        self.control.start(spec.dev_id)?;
        choose_scheduler(spec.dev_id);
        Ok((
            attached(spec, info),
            DeviceEntry::Served { reactors, backing },
        ))
    }

    /// Opens `/dev/ublkcN`, spreads its queues over the reactors, and returns when the kernel has the FETCH of every tag. From
    /// then on requests may arrive. The plain file is closed again: the rings hold it.
    pub(crate) fn fetch(
        &self,
        spec: &DeviceSpec,
        info: &DevInfo,
        backing: &Backing,
    ) -> Result<Vec<usize>, TargetError> {
        if let Some(writable) = &backing.writable {
            // Before the first request may wait.
            self.wake_for(writable);
        }
        let path = PathBuf::from(format!("/dev/ublkc{}", spec.dev_id));
        let failed = |doing| {
            let path = path.clone();
            move |source| TargetError::Io {
                doing,
                path,
                source,
            }
        };
        let device = Arc::new(open_node(&path).map_err(failed("cannot open"))?);
        let mut shares: Vec<Vec<NewQueue>> = self.reactors.iter().map(|_| Vec::new()).collect();
        for queue in 0..info.nr_hw_queues {
            let descriptors =
                Descriptors::map(&device, queue, info.queue_depth).map_err(failed("cannot map"))?;
            let reactor = (spec.dev_id.get() as usize + usize::from(queue)) % self.reactors.len();
            shares[reactor].push(NewQueue {
                queue,
                descriptors,
                stats: self.stats.of_new_queue(spec.dev_id),
            });
        }
        let mut asked = Vec::new();
        for (reactor, queues) in self.reactors.iter().zip(shares) {
            if queues.is_empty() {
                continue;
            }
            let new = NewQueues {
                dev_id: spec.dev_id,
                device: Arc::clone(&device),
                depth: info.queue_depth,
                auto_buffers: mode_of(info) == DataMode::ZeroCopy,
                backing: backing.clone(),
                queues,
            };
            asked.push((reactor, reactor.serve(new)));
        }
        drop(device);
        let mut reactors = Vec::with_capacity(asked.len());
        let mut refused = None;
        for (reactor, answer) in asked {
            reactors.push(reactor.number());
            if let Err(source) = answer.wait_ok(REACTOR_TIMEOUT) {
                refused = Some(reactor_failed(reactor, "cannot serve a device", source));
            }
        }
        refused.map_or(Ok(reactors), Err)
    }

    /// Removes a device that did not come up.
    fn clean_up(&self, dev_id: DevId) {
        // Takes fetched tags back, so that the reactors let go.
        let stopped = self.control.stop(dev_id);
        self.wait_forgotten(dev_id, 0..self.reactors.len());
        if let Err(error) = stopped.and_then(|()| self.control.delete(dev_id, REACTOR_TIMEOUT)) {
            tracing::error!(%dev_id, %error, "a device that did not come up cannot be removed");
        }
    }

    /// Waits until these reactors have nothing of the device any more.
    pub(crate) fn wait_forgotten(&self, dev_id: DevId, reactors: impl IntoIterator<Item = usize>) {
        let asked: Vec<_> = reactors
            .into_iter()
            .filter_map(|number| self.reactors.get(number))
            .map(|r| r.forget(dev_id))
            .collect();
        for answer in asked {
            if let Err(error) = answer.wait(REACTOR_TIMEOUT) {
                tracing::error!(%dev_id, %error, "a reactor does not let go of a device");
            }
        }
    }
}

/// The mode that a device was added with.
pub(crate) fn mode_of(info: &DevInfo) -> DataMode {
    if Features::from_bits(info.flags).contains(Features::AUTO_BUF_REG) {
        DataMode::ZeroCopy
    } else {
        DataMode::UserCopy
    }
}

pub(crate) fn attached(spec: &DeviceSpec, info: &DevInfo) -> Attached {
    Attached {
        dev_id: spec.dev_id,
        path: PathBuf::from(format!("/dev/ublkb{}", spec.dev_id)),
        data_mode: mode_of(info),
        queues: info.nr_hw_queues,
        queue_depth: info.queue_depth,
    }
}

/// Over disks with blocks larger than 512 bytes the device has blocks as large, so that every run is whole blocks of the disk. It
/// then ends on such a block. The last block of an object is padded with zeros on disk; that of a volume keeps what is written there.
pub(crate) fn whole_blocks(backing: Backing, limits: &DiskLimits) -> Backing {
    let block_bytes = u64::from(limits.logical_block_bytes);
    if block_bytes <= 512 {
        return backing;
    }
    let stack = LayerStack {
        layers: backing.stack.layers.clone(),
        size_bytes: backing.stack.size_bytes.next_multiple_of(block_bytes),
    };
    Backing {
        stack: Arc::new(stack),
        ..backing
    }
}

fn open_node(path: &PathBuf) -> std::io::Result<File> {
    let deadline = Instant::now() + NODE_TIMEOUT;
    loop {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(path);
        match opened {
            // udev may still be at it.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EACCES))
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

/// A single-queue device starts with mq-deadline, which only costs here. Best effort.
fn choose_scheduler(dev_id: DevId) {
    let path = format!("/sys/block/ublkb{dev_id}/queue/scheduler");
    if let Err(error) = std::fs::write(&path, "none") {
        tracing::warn!(%dev_id, path, %error, "cannot choose the I/O scheduler");
    }
}
