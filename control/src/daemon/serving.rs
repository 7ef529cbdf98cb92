//! The target, and the lack of one: a daemon on a kernel without ublk still formats, imports and verifies.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bedplate_datapath::engine::DiskFile;
use bedplate_datapath::plan::DiskIndex;
use bedplate_ublk_target::{
    DataMode, KernelDevice, ReplicaEvents, Target, TargetConfig, TargetError,
};

use super::errors;
use crate::api::ApiError;
use crate::config;
use crate::error_kind::ErrorKind;

/// How long the end of the daemon waits for calls into the target that are still under way.
const CALLS_END_WITHIN: Duration = Duration::from_secs(5);
/// How long requests in flight are waited for then. Together with the rest of the way down this stays below the unit's TimeoutStopSec.
const REQUESTS_END_WITHIN: Duration = Duration::from_secs(8);

/// How devices are served. Every call blocks.
pub struct Serving {
    config: TargetConfig,
    state: Mutex<State>,
    events: OnceLock<Arc<dyn ReplicaEvents>>,
}

enum State {
    Running(Arc<Target>),
    /// This kernel cannot, or could not when it was asked last.
    Unavailable,
    Stopped,
}

impl Serving {
    /// With these settings; nothing is started yet.
    pub fn new(config: &config::Ublk) -> Self {
        let defaults = TargetConfig::default();
        let reactors = if config.reactors == 0 {
            defaults.reactors
        } else {
            config.reactors
        };
        let config = TargetConfig {
            reactors,
            queues: config.queues,
            queue_depth: config.queue_depth,
            data_mode: match config.data_mode {
                config::DataMode::Auto => None,
                config::DataMode::ZeroCopy => Some(DataMode::ZeroCopy),
                config::DataMode::UserCopy => Some(DataMode::UserCopy),
            },
            devices_max: config.devices_max,
            drain_patience: REQUESTS_END_WITHIN,
            read_deadline: (config.read_deadline_ms > 0)
                .then(|| Duration::from_millis(config.read_deadline_ms)),
            ..defaults
        };
        Self {
            config,
            state: Mutex::new(State::Unavailable),
            events: OnceLock::new(),
        }
    }

    /// The target; started now if it was not, since the module may have been loaded meanwhile.
    ///
    /// # Errors
    /// `KernelUnsupported` with what is missing; `ShuttingDown`.
    pub fn target(&self) -> Result<Arc<Target>, ApiError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Running(target) => return Ok(Arc::clone(target)),
            State::Stopped => {
                return Err(ApiError::new(
                    ErrorKind::ShuttingDown,
                    "the daemon is going down",
                ));
            }
            State::Unavailable => {}
        }
        let target = Arc::new(
            Target::start(self.config.clone()).map_err(|error| errors::of_target(None, &error))?,
        );
        // Before the first device: what happened before nobody would be told.
        if let Some(events) = self.events.get() {
            target.set_replica_events(Arc::clone(events));
        }
        *state = State::Running(Arc::clone(&target));
        Ok(target)
    }

    /// Who is told of copies that fail. Once, before [`Self::target`] is asked for.
    pub fn listen(&self, events: Arc<dyn ReplicaEvents>) {
        // The first one stays.
        let _ = self.events.set(events);
    }

    /// The target, if it was started.
    pub fn started(&self) -> Option<Arc<Target>> {
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Running(target) => Some(Arc::clone(target)),
            State::Unavailable | State::Stopped => None,
        }
    }

    /// Number of reactors.
    pub fn reactors(&self) -> usize {
        if self.started().is_some() {
            self.config.reactors
        } else {
            0
        }
    }

    /// Puts a disk into the tables of the reactors.
    ///
    /// # Errors
    /// As [`Self::target`], or when the tables are full.
    pub fn add_disk(&self, disk: &DiskFile) -> Result<DiskIndex, ApiError> {
        self.target()?
            .add_disk(disk)
            .map_err(|error| errors::of_target(None, &error))
    }

    /// Puts a disk that was opened anew into the place that it had before.
    ///
    /// # Errors
    /// As [`Self::target`]; when the place is another disk's by now.
    pub fn swap_disk(&self, slot: DiskIndex, disk: &DiskFile) -> Result<(), ApiError> {
        self.target()?
            .swap_disk(slot, disk)
            .map_err(|error| errors::of_target(None, &error))
    }

    /// Takes a disk out of the tables of the reactors.
    ///
    /// # Errors
    /// `Busy` while an attached device reads from it.
    pub fn remove_disk(&self, slot: DiskIndex) -> Result<(), ApiError> {
        match self.started() {
            Some(target) => target
                .remove_disk(slot)
                .map_err(|error| errors::of_target(None, &error)),
            None => Ok(()),
        }
    }

    /// The ublk devices that the kernel has; none where it has no ublk.
    pub fn kernel_devices() -> Vec<KernelDevice> {
        match Target::kernel_devices() {
            Ok(devices) => devices,
            Err(TargetError::NoUblk { .. }) => Vec::new(),
            Err(error) => {
                tracing::warn!("cannot ask for the kernel's ublk devices: {error}");
                Vec::new()
            }
        }
    }

    /// Of these, the ones with our tag.
    pub fn devices_of_ours() -> Vec<KernelDevice> {
        let mut devices = Self::kernel_devices();
        devices.retain(|device| device.owner.is_some());
        devices
    }

    /// And of these, the ones whose number is not known to be in use: the kernel is asked about no others.
    pub fn stray_devices_of_ours(&self, known: &BTreeSet<u32>) -> Vec<KernelDevice> {
        let Some(target) = self.started() else {
            return Self::devices_of_ours();
        };
        let mut devices = target.other_kernel_devices(known).unwrap_or_else(|error| {
            tracing::debug!("listing ublk devices: {error}");
            Vec::new()
        });
        devices.retain(|device| device.owner.is_some());
        devices
    }

    /// Runs `then` once no request that is in flight now is left.
    pub fn after_grace(&self, then: Box<dyn FnOnce() + Send>) {
        let target = match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Running(target) => Arc::clone(target),
            // No reactor, no request.
            State::Unavailable => return then(),
            // The reactors are ending, and who knows when their last request does: then it is never.
            State::Stopped => return,
        };
        target.after_grace(then);
    }

    /// Whether every reactor answers.
    pub fn all_alive(&self, patience: Duration) -> bool {
        self.started()
            .is_none_or(|target| target.beats(patience).iter().all(|beat| beat.alive))
    }

    /// Leaves every device to the next process: its requests wait in the kernel. Answers whether all reactors have ended. If not, a
    /// write may still be acknowledged, so no disk must be marked clean: the process is to end as in a crash.
    #[must_use]
    pub fn leave(&self) -> bool {
        let state = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *state, State::Stopped)
        };
        let State::Running(mut shared) = state else {
            return true;
        };
        let deadline = Instant::now() + CALLS_END_WITHIN;
        let target = loop {
            match Arc::try_unwrap(shared) {
                Ok(target) => break target,
                Err(still_shared) if Instant::now() < deadline => {
                    shared = still_shared;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(still_shared) => {
                    // Nothing more is begun, so that no guest is told of a failure while the process ends. The kernel quiesces the devices
                    // then, as after a crash.
                    still_shared.begin_leaving();
                    tracing::warn!(
                        "a call into the target does not end; its devices are left as after a crash"
                    );
                    return false;
                }
            }
        };
        match target.quiesce_all() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!("leaving the devices: {error}");
                false
            }
        }
    }
}
