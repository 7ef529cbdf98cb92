//! Stand-ins for what `bedplate-ublk-target` gets for writable devices, to be replaced by its own: `Backing`, `Writable`, `Committer`,
//! `Committed`, and the calls of `Target` that take them.

use std::sync::Arc;

use bedplate_datapath::plan::LayerStack;
use bedplate_datapath::units::DevId;
use bedplate_datapath::volume::Volume;
use bedplate_ublk_target::{DeviceSpec, Target, TargetError};

/// What a device reads and writes.
#[derive(Clone)]
pub struct Backing {
    pub stack: Arc<LayerStack>,
    pub writable: Option<Writable>,
}

/// What a writable device needs.
#[derive(Clone)]
#[allow(dead_code)]
pub struct Writable {
    pub volume: Arc<Volume>,
    pub committer: Arc<dyn Committer>,
}

/// Makes writes durable.
#[allow(dead_code)]
pub trait Committer: Send + Sync {
    /// Asks for a commit.
    fn commit(&self, done: Committed);
}

/// Whoever waits for a commit.
pub struct Committed;

impl Committed {
    #[allow(clippy::unused_self)]
    pub fn done(self, _outcome: Result<(), i32>) {}
}

const LACKS: TargetError = TargetError::KernelTooOld {
    lacks: "writable devices",
};

pub fn attach(target: &Target, spec: &DeviceSpec, backing: &Backing) -> Result<(), TargetError> {
    match backing.writable {
        Some(_) => Err(LACKS),
        None => target.attach(spec, Arc::clone(&backing.stack)).map(drop),
    }
}

pub fn recover(target: &Target, spec: &DeviceSpec, backing: &Backing) -> Result<(), TargetError> {
    match backing.writable {
        Some(_) => Err(LACKS),
        None => target.recover(spec, Arc::clone(&backing.stack)).map(drop),
    }
}

pub fn resize(_target: &Target, _device: DevId, _backing: Backing) -> Result<(), TargetError> {
    Err(LACKS)
}

pub fn can_resize(_target: &Target) -> bool {
    false
}

pub fn after_grace(_target: &Target, then: Box<dyn FnOnce() + Send>) {
    then();
}
