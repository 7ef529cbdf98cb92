//! The end of a session.

use super::error::StoreError;
use super::{Store, superblocks};
use crate::medium::Medium;
use crate::units::Seq;

impl<M: Medium> Store<M> {
    /// Ends the session in order and gives the disk back. Imports that were not sealed are gone.
    ///
    /// # Errors
    /// `ReadOnlyLatched` if the disk had failed before, `Io` if it does now: it is then not marked clean, and nothing is lost by it.
    pub fn close(mut self) -> Result<M, StoreError> {
        if self.read_only && self.disk.fault().is_none() {
            return Ok(self.disk.into_medium());
        }
        self.check_writable()?;
        // Before the mark: "clean" says that everything before it is durable, and in the pages.
        let _ = self.commit()?;
        self.checkpoint()?;
        let io = |fault| StoreError::io("closing the disk", fault);
        self.disk.flush().map_err(io)?;
        self.superblock.clean = true;
        self.superblock.generation = Seq::new(self.superblock.generation.get() + 1);
        superblocks::write(&mut self.disk, &self.superblock).map_err(io)?;
        Ok(self.disk.into_medium())
    }

    /// Gives the disk back as it is, without ending the session: for a disk that failed.
    pub fn abandon(self) -> M {
        self.disk.into_medium()
    }
}
