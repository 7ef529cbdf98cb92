//! Whose disk it is: a disk that another node uses must not be opened here by mistake, since two nodes on one disk destroy it.

use std::path::Path;

use bedplate_datapath::discover;
use bedplate_datapath::store::{OpenReport, PreviousSession, StoreError};
use sha2::{Digest as _, Sha256};

use super::actor::DiskStore;
use crate::api::ApiError;
use crate::error_kind::ErrorKind;

/// Which disks a node uses.
#[derive(Debug, Clone, Default)]
pub struct Owner {
    /// Of the node's id, where it has one.
    node: Option<[u8; 32]>,
    /// Whether a disk of another node becomes this one's.
    adopts: bool,
}

impl Owner {
    /// Disks of this node, and of none.
    pub fn of(node_id: Option<&str>) -> Self {
        Self {
            node: node_id.map(|id| Sha256::digest(id.as_bytes()).into()),
            adopts: false,
        }
    }

    /// Also disks of other nodes, which become this one's.
    #[must_use]
    pub const fn adopting(mut self) -> Self {
        self.adopts = true;
        self
    }

    /// Refuses a disk of another node, before anything is written to it.
    ///
    /// # Errors
    /// `ForeignNode`.
    pub fn refuse(&self, path: &Path) -> Result<(), ApiError> {
        let (Some(node), false) = (self.node, self.adopts) else {
            return Ok(());
        };
        let scan = discover::scan_within(&[path.to_owned()], false, discover::PROBE_TIMEOUT);
        let foreign = scan.found.iter().any(|found| {
            let owner = found.superblock.owner_node_hash;
            owner != [0; 32] && owner != node
        });
        if !foreign {
            return Ok(());
        }
        let name = path.display().to_string();
        Err(ApiError::new(
            ErrorKind::ForeignNode,
            format!("the disk {name} belongs to another node"),
        )
        .disk(name.clone())
        .remedy(format!(
            "if that node is gone for good, or cannot see the disk any more: `bedplate disk adopt {name}`"
        )))
    }

    /// Notes on a disk that was just formatted, or adopted, whose it is.
    ///
    /// # Errors
    /// The disk's.
    pub fn mark(&self, store: &mut DiskStore, report: &OpenReport) -> Result<(), StoreError> {
        if self.adopts || (self.node.is_some() && report.previous == PreviousSession::First) {
            store.set_owner_node(self.node)?;
        }
        Ok(())
    }
}
