//! Writable volumes on one disk: made, grown, made live, committed.

use std::sync::Arc;

use uuid::Uuid;

use super::Store;
use super::error::{StoreError, StoreErrorKind};
use crate::live::LiveFiles;
use crate::medium::Medium;
use crate::plan::{DiskIndex, LayerStack};
use crate::volume::{Quarantine, Space, Volume};

/// A volume that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub object_uuid: Uuid,
    /// Its length, a multiple of 512.
    pub size_bytes: u64,
    /// The image below it; none for a blank volume.
    pub parent: Option<Uuid>,
    /// For people.
    pub created_unix_s: u64,
}

/// What a volume takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of clusters that are its own.
    pub allocated_bytes: u64,
    /// Bytes of blocks that are read from the layers below.
    pub shared_bytes: u64,
}

impl<M: Medium> Store<M> {
    /// See INTERFACES.
    pub fn create_volume(&mut self, _new: NewVolume) -> Result<Uuid, StoreError> {
        unimplemented!()
    }
    /// See INTERFACES.
    pub fn resize_volume(&mut self, _uuid: Uuid, _size_bytes: u64) -> Result<(), StoreError> {
        unimplemented!()
    }
    /// See INTERFACES.
    pub fn prepare_attach(&mut self, _uuid: Uuid) -> Result<(), StoreError> {
        unimplemented!()
    }
    /// See INTERFACES.
    pub fn accept_loss(&mut self, _uuid: Uuid) -> Result<(), StoreError> {
        unimplemented!()
    }
    /// See INTERFACES.
    pub fn layers_of(&self, _uuid: Uuid, _disk: DiskIndex) -> Result<LayerStack, StoreError> {
        unimplemented!()
    }
    /// See INTERFACES.
    pub fn volume_of(&self, _uuid: Uuid) -> Result<Arc<Volume>, StoreError> {
        unimplemented!()
    }
    /// See INTERFACES.
    pub fn usage_of(&self, _uuid: Uuid) -> Result<Usage, StoreError> {
        unimplemented!()
    }
    /// See INTERFACES.
    pub fn commit(&mut self) -> Result<Quarantine, StoreError> {
        unimplemented!()
    }
    /// See INTERFACES.
    pub fn needs_commit(&self) -> bool {
        unimplemented!()
    }
    /// See INTERFACES.
    pub fn disk_space(&self) -> &Arc<Space> {
        unimplemented!()
    }
}
