//! Whom this disk knows: the node that uses it, and how far other disks have come.

use uuid::Uuid;

use super::Store;
use super::error::StoreError;
use crate::format::peers::Peers;
use crate::medium::Medium;

impl<M: Medium> Store<M> {
    /// The latest sessions that this disk has noted, of itself and of others.
    pub fn peers(&self) -> &Peers {
        &self.superblock.peers
    }

    /// Notes durably that disks have come to these sessions: this one before any other disk is told of it, then others, as they have noted it
    /// of themselves. What is known already costs nothing. Noting of an old copy the session that others know of it makes it believed: an
    /// operator's word.
    ///
    /// # Errors
    /// `ReadOnlyLatched`, `Io`.
    pub fn note_peers(
        &mut self,
        sessions: impl IntoIterator<Item = (Uuid, u64)>,
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        let mut peers = self.superblock.peers.clone();
        let mut is_news = false;
        for (disk, session) in sessions {
            is_news |= peers.note(disk, session);
        }
        self.replace_peers(peers, is_news)
    }

    /// Forgets a disk that never comes back, or that an operator accepts as it is though it is older than it was.
    ///
    /// # Errors
    /// `ReadOnlyLatched`, `Io`.
    pub fn forget_peer(&mut self, disk: Uuid) -> Result<(), StoreError> {
        self.check_writable()?;
        let mut peers = self.superblock.peers.clone();
        let is_news = peers.forget(disk);
        self.replace_peers(peers, is_news)
    }

    fn replace_peers(&mut self, peers: Peers, is_news: bool) -> Result<(), StoreError> {
        if !is_news {
            return Ok(());
        }
        let doing = "noting how far other disks have come";
        self.superblock.peers = peers;
        self.superblock.incompat |= crate::format::superblock::INCOMPAT_REPLICAS;
        self.write_superblock(doing)
    }

    /// SHA-256 of what tells the node that uses this disk from others; `None` if any may.
    pub fn owner_node_hash(&self) -> Option<[u8; 32]> {
        Some(self.superblock.owner_node_hash).filter(|hash| *hash != [0; 32])
    }

    /// Says durably which node uses the disk; `None` for any.
    ///
    /// # Errors
    /// `ReadOnlyLatched`, `Io`.
    pub fn set_owner_node(&mut self, hash: Option<[u8; 32]>) -> Result<(), StoreError> {
        self.check_writable()?;
        let hash = hash.unwrap_or([0; 32]);
        if self.superblock.owner_node_hash == hash {
            return Ok(());
        }
        self.superblock.owner_node_hash = hash;
        self.superblock.incompat |= crate::format::superblock::INCOMPAT_REPLICAS;
        self.write_superblock("noting whose disk it is")
    }
}
