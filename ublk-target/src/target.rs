//! What a daemon holds: the reactors, the disks that they read, the devices that they serve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bedplate_datapath::engine::DiskFile;
use bedplate_datapath::plan::{DiskIndex, Layer, LayerStack};
use bedplate_datapath::units::DevId;
use bedplate_datapath::volume::space::Waker;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::backing::{Backing, Writable};
use crate::ctrl::Control;
use crate::error::TargetError;
use crate::kernel_device::KernelDevice;
use crate::params::DiskLimits;
use crate::reactor::{self, AfterGrace, Pending, ReactorConfig, ReactorHandle};
use crate::replica_events::{EventsTo, ReplicaEvents};
use crate::stats::StatsTable;
use crate::support::{DataMode, KernelSupport};
use crate::sys::Features;

/// How long a reactor may take for a request from its own process. It answers within one turn of its loop.
pub(crate) const REACTOR_TIMEOUT: Duration = Duration::from_secs(30);

/// Descriptors of a daemon besides those of its devices: rings, connections, disks, sources of imports.
const OTHER_DESCRIPTORS: u64 = 1024;

/// Settings of a [`Target`]; fixed for its life.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// Threads that serve requests.
    pub reactors: usize,
    /// Hardware queues of a new device; the kernel gives at most one a CPU.
    pub queues: u16,
    /// Requests that a queue of a new device holds, at most 4096.
    pub queue_depth: u16,
    /// How data moves in new devices; `None` for the best that the kernel has.
    pub data_mode: Option<DataMode>,
    /// Attached devices.
    pub devices_max: u32,
    /// Disks.
    pub disks_max: u16,
    /// Buffers of 1 MiB that a reactor has for data that must be copied.
    pub copy_buffers: u16,
    /// How long recovery waits for the kernel to let go of a dead server.
    pub recovery_patience: Duration,
    /// How long requests in flight may take when the process leaves.
    pub drain_patience: Duration,
    /// After how long a read of a layer with several replicas is late; `None` for never.
    pub read_deadline: Option<Duration>,
}

impl Default for TargetConfig {
    fn default() -> Self {
        Self {
            reactors: std::thread::available_parallelism().map_or(1, usize::from),
            queues: 1,
            queue_depth: 64,
            data_mode: None,
            devices_max: 1024,
            disks_max: 128,
            copy_buffers: 64,
            recovery_patience: Duration::from_secs(60),
            drain_patience: Duration::from_secs(30),
            read_deadline: Some(Duration::from_secs(2)),
        }
    }
}

/// One reactor's answer to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Which reactor.
    pub reactor: usize,
    /// Whether its loop turned in time.
    pub alive: bool,
}

/// A device that is ours now.
pub(crate) enum DeviceEntry {
    /// Being attached, recovered, resized or detached.
    Changing {
        /// The disks that it reads, or may read soon.
        disks: Vec<DiskIndex>,
    },
    /// Served.
    Served {
        /// Reactors that have queues of it.
        reactors: Vec<usize>,
        /// What it serves.
        backing: Backing,
    },
}

impl DeviceEntry {
    pub(crate) fn changing<'a>(stacks: impl IntoIterator<Item = &'a LayerStack>) -> Self {
        let layers = stacks.into_iter().flat_map(|stack| &stack.layers);
        Self::Changing {
            disks: layers.flat_map(Layer::disks).collect(),
        }
    }

    fn reads(&self, disk: DiskIndex) -> bool {
        match self {
            Self::Changing { disks } => disks.contains(&disk),
            Self::Served { backing, .. } => {
                let mut layers = backing.stack.layers.iter();
                layers.any(|layer| layer.disks().any(|read| read == disk))
            }
        }
    }
}

/// A place in the file tables.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DiskEntry {
    /// To be given to the next disk.
    Free,
    /// A disk that devices may read.
    Known(DiskLimits),
    /// Of a disk that is being taken out: no device may begin to read it, no other disk has its place yet.
    Leaving,
}

impl DiskEntry {
    pub(crate) fn limits(self) -> Option<DiskLimits> {
        match self {
            Self::Known(limits) => Some(limits),
            Self::Free | Self::Leaving => None,
        }
    }
}

/// A target: makes block devices and answers their requests. All calls block; none is for the I/O path.
pub struct Target {
    pub(crate) config: TargetConfig,
    pub(crate) support: KernelSupport,
    pub(crate) control: Control,
    pub(crate) reactors: Vec<ReactorHandle>,
    pub(crate) devices: Mutex<BTreeMap<DevId, DeviceEntry>>,
    /// By [`DiskIndex`].
    pub(crate) disks: Mutex<Vec<DiskEntry>>,
    events: EventsTo,
    pub(crate) stats: StatsTable,
}

impl Target {
    /// Asks the kernel what it can do, and starts the reactors.
    ///
    /// # Errors
    /// [`TargetError::NoUblk`], [`TargetError::KernelTooOld`], or [`TargetError::Reactor`] where rings are forbidden or limits
    /// too low.
    pub fn start(config: TargetConfig) -> Result<Self, TargetError> {
        let control = Control::open()?;
        let support = KernelSupport::ask(&control)?;
        let reactor_config = ReactorConfig {
            disks_max: config.disks_max,
            devices_max: config.devices_max,
            copy_buffers: config.copy_buffers.clamp(1, reactor::BUFFERS_MAX),
            // Devices from before may want it, whatever new ones are to use.
            zero_copy: support.zero_copy(),
            scan_is_optional: support.features.contains(Features::NO_AUTO_PART_SCAN),
            read_deadline: config.read_deadline,
            buffers_at: 0,
        };
        // The table itself; on kernels where commands name devices by descriptor, one of those a device; and what else a daemon has open.
        let descriptors = u64::from(reactor_config.file_slots()) + u64::from(config.devices_max);
        raise_file_limit(descriptors + OTHER_DESCRIPTORS);
        let mut target = Self {
            support,
            control,
            reactors: Vec::new(),
            devices: Mutex::default(),
            disks: Mutex::default(),
            events: EventsTo::default(),
            stats: StatsTable::default(),
            config,
        };
        for number in 0..target.config.reactors.max(1) {
            target.reactors.push(reactor::spawn(
                number,
                reactor_config,
                target.events.clone(),
            )?);
        }
        Ok(target)
    }

    /// Who is told of replicas that give trouble. The first one stays.
    pub fn set_replica_events(&self, events: Arc<dyn ReplicaEvents>) {
        self.events.listen(events);
    }

    /// What the kernel can do.
    pub fn support(&self) -> &KernelSupport {
        &self.support
    }

    /// How data moves in devices that are attached from now on.
    pub fn data_mode(&self) -> DataMode {
        match self.config.data_mode {
            Some(DataMode::UserCopy) => DataMode::UserCopy,
            _ => self.support.best_mode(),
        }
    }

    /// Puts a disk into every reactor's file table. The tables share the file description of `disk`, and with it its claim.
    ///
    /// # Errors
    /// [`TargetError::Full`], or what a reactor answered.
    pub fn add_disk(&self, disk: &DiskFile) -> Result<DiskIndex, TargetError> {
        let index = self.take_disk_index(DiskLimits::of(disk))?;
        let installed = self.install_disk(index, disk);
        if installed.is_err() {
            self.drop_disk(index);
        }
        installed.map(|()| index)
    }

    fn take_disk_index(&self, limits: DiskLimits) -> Result<DiskIndex, TargetError> {
        let mut disks = locked(&self.disks);
        let place = disks
            .iter()
            .position(|disk| matches!(disk, DiskEntry::Free))
            .unwrap_or(disks.len());
        let index = u16::try_from(place)
            .ok()
            .filter(|index| *index < self.config.disks_max);
        let index = index.ok_or(TargetError::Full {
            what: "disk",
            limit: self.config.disks_max.into(),
        })?;
        if place == disks.len() {
            disks.push(DiskEntry::Free);
        }
        disks[place] = DiskEntry::Known(limits);
        Ok(DiskIndex::new(index))
    }

    pub(crate) fn install_disk(
        &self,
        index: DiskIndex,
        disk: &DiskFile,
    ) -> Result<(), TargetError> {
        let fd = disk.try_clone_fd().map_err(|source| TargetError::Io {
            doing: "cannot duplicate the claim on",
            path: disk.path().to_owned(),
            source,
        })?;
        let (fd, undivided) = (Arc::new(fd), disk.undivided_bytes_max());
        for reactor in &self.reactors {
            let installed = reactor.install_disk(index, &fd, undivided);
            let answer = installed.wait_ok(REACTOR_TIMEOUT);
            answer.map_err(|source| reactor_failed(reactor, "cannot take a disk", source))?;
        }
        Ok(())
    }

    /// Takes a disk out of every reactor's file table.
    ///
    /// # Errors
    /// [`TargetError::Disk`] if there is no such disk, or a device reads from it, or will when it has come up.
    pub fn remove_disk(&self, index: DiskIndex) -> Result<(), TargetError> {
        self.mark_leaving(index)?;
        self.drop_disk(index);
        Ok(())
    }

    /// From here on no device comes to read the disk: its entry is looked at after the device has its own, see [`Target::changing`].
    fn mark_leaving(&self, index: DiskIndex) -> Result<(), TargetError> {
        let refused = |why| TargetError::Disk {
            index: index.get(),
            why,
        };
        let devices = locked(&self.devices);
        let mut disks = locked(&self.disks);
        let disk = disks
            .get_mut(usize::from(index.get()))
            .filter(|disk| disk.limits().is_some())
            .ok_or_else(|| refused("is not known here"))?;
        if devices.values().any(|device| device.reads(index)) {
            return Err(refused("is read by attached devices"));
        }
        *disk = DiskEntry::Leaving;
        Ok(())
    }

    fn drop_disk(&self, index: DiskIndex) {
        for reactor in &self.reactors {
            if let Err(error) = reactor.remove_disk(index).wait_ok(REACTOR_TIMEOUT) {
                tracing::error!(reactor = reactor.number(), disk = index.get(), %error, "cannot let go of a disk");
            }
        }
        if let Some(disk) = locked(&self.disks).get_mut(usize::from(index.get())) {
            *disk = DiskEntry::Free;
        }
    }

    /// Pings every reactor through its own ring, and says which of them answered within `patience`. A watchdog beats only if
    /// all did.
    pub fn beats(&self, patience: Duration) -> Vec<Beat> {
        let deadline = Instant::now() + patience;
        let pings: Vec<_> = self
            .reactors
            .iter()
            .map(|reactor| (reactor.number(), reactor.ping()))
            .collect();
        pings
            .into_iter()
            .map(|(reactor, ping)| {
                let left = deadline.saturating_duration_since(Instant::now());
                Beat {
                    reactor,
                    alive: ping.wait(left).is_ok(),
                }
            })
            .collect()
    }

    /// Runs `then` once every request that is in flight now has ended, on all reactors; at once if there is none. It runs on a
    /// reactor's thread, so it must not wait for anything but a short lock.
    ///
    /// What a map does not name any more when this is called, no request uses when `then` runs. If a reactor's ring fails with
    /// I/O in flight, it never runs: that I/O may still land.
    pub fn after_grace(&self, then: Box<dyn FnOnce() + Send>) {
        let after = AfterGrace::new(then);
        for reactor in &self.reactors {
            reactor.grace(Arc::clone(&after));
        }
    }

    /// Makes the reactors go on with writes that wait for a lock or for space of the volume's disk, when there is some. The first
    /// target that does so for a disk's locks and space is the one that is woken.
    pub(crate) fn wake_for(&self, writable: &Writable) {
        // The eventfds alone: whoever keeps the waker must not keep the target.
        let wakes: Vec<_> = self
            .reactors
            .iter()
            .map(ReactorHandle::wake_event)
            .collect();
        let wake: Waker = Arc::new(move || {
            for wake in &wakes {
                // Fails only when the counter is full, and then the reactor is awake.
                let _ = wake.write(1);
            }
        });
        writable.volume.locks().set_waker(Arc::clone(&wake));
        writable.volume.space().set_waker(wake);
    }

    /// The ublk devices that the kernel has, ours and others, by number.
    ///
    /// # Errors
    /// [`TargetError::NoUblk`], or what `GET_DEV_INFO` answered.
    pub fn kernel_devices() -> Result<Vec<KernelDevice>, TargetError> {
        KernelDevice::list(&Control::open()?, |_| true)
    }

    /// The ublk devices that the kernel has, but those of these numbers: it is asked nothing about them, however many they are.
    ///
    /// # Errors
    /// What `GET_DEV_INFO` answered.
    pub fn other_kernel_devices(
        &self,
        known: &BTreeSet<u32>,
    ) -> Result<Vec<KernelDevice>, TargetError> {
        KernelDevice::list(&self.control, |dev_id| !known.contains(&dev_id.get()))
    }

    /// The ublk device of this number, if the kernel has it.
    ///
    /// # Errors
    /// What `GET_DEV_INFO` answered.
    pub fn kernel_device(&self, dev_id: DevId) -> Result<Option<KernelDevice>, TargetError> {
        let info = self.control.info(dev_id)?;
        Ok(info.map(|info| KernelDevice::of(&info)))
    }

    /// Numbers that the kernel has devices under, ours and others. It is not asked about each.
    pub fn numbers_in_kernel() -> BTreeSet<u32> {
        KernelDevice::numbers().into_iter().collect()
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The tables are changed in single steps: a panic elsewhere leaves them whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn reactor_failed(
    reactor: &ReactorHandle,
    doing: &'static str,
    source: std::io::Error,
) -> TargetError {
    TargetError::Reactor {
        reactor: reactor.number(),
        doing,
        source,
    }
}

/// Asks reactors something, all of them before it waits for the first answer; answers with theirs, in their order.
///
/// # Errors
/// [`TargetError::Reactor`] for the first one that does not answer.
pub(crate) fn ask_each<'r, R>(
    reactors: impl IntoIterator<Item = &'r ReactorHandle>,
    doing: &'static str,
    ask: impl Fn(&ReactorHandle) -> Pending<R>,
) -> Result<Vec<R>, TargetError> {
    let asked: Vec<_> = reactors
        .into_iter()
        .map(|reactor| (reactor, ask(reactor)))
        .collect();
    let answers = asked.into_iter().map(|(reactor, answer)| {
        answer
            .wait(REACTOR_TIMEOUT)
            .map_err(|source| reactor_failed(reactor, doing, source))
    });
    answers.collect()
}

/// The kernel wants a file table within `RLIMIT_NOFILE`, whose soft limit is 1024 on most systems.
fn raise_file_limit(slots: u64) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let wanted = slots.max(soft).min(hard);
    if wanted > soft
        && let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    {
        tracing::warn!(%errno, soft, wanted, "cannot raise RLIMIT_NOFILE");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bedplate_datapath::map::LayerMap;

    fn stack(disks: &[u16]) -> Arc<LayerStack> {
        let layers = disks.iter().map(|disk| {
            Layer::new(
                Arc::new(LayerMap::from_entries(Vec::new())),
                DiskIndex::new(*disk),
            )
        });
        Arc::new(LayerStack {
            layers: layers.collect(),
            size_bytes: 0,
        })
    }

    #[test]
    fn a_device_keeps_its_disks_while_it_changes() {
        let reads = |entry: &DeviceEntry| {
            (0..5)
                .filter(|disk| entry.reads(DiskIndex::new(*disk)))
                .collect::<Vec<_>>()
        };
        let served = DeviceEntry::Served {
            reactors: Vec::new(),
            backing: stack(&[3, 1]).into(),
        };
        assert_eq!(reads(&served), [1, 3]);
        assert_eq!(reads(&DeviceEntry::changing([&*stack(&[3, 1])])), [1, 3]);
        let resized = DeviceEntry::changing([&*stack(&[3, 1]), &*stack(&[3, 4])]);
        assert_eq!(reads(&resized), [1, 3, 4]);
    }
}
