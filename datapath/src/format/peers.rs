//! What a disk knows about other disks: the latest session of each that it was told of. An old copy of a disk has an older one.

use uuid::Uuid;

use super::superblock::RawPeer;

/// How many a disk knows. Of more, those that were told first are kept.
pub const PEERS_MAX: usize = 32;

/// The latest sessions of other disks, by disk. Sessions only go up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(Vec<(Uuid, u64)>);

impl Peers {
    /// The session of `disk` that is known; 0 if none is.
    pub fn session_of(&self, disk: Uuid) -> u64 {
        self.0
            .iter()
            .find(|(peer, _)| *peer == disk)
            .map_or(0, |(_, session)| *session)
    }

    /// Each disk and its session, sorted by disk.
    pub fn iter(&self) -> impl Iterator<Item = (Uuid, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Notes that `disk` has come to `session`. False if that was known, or there is no room for one more.
    pub fn note(&mut self, disk: Uuid, session: u64) -> bool {
        if disk.is_nil() || session == 0 {
            return false;
        }
        match self.0.binary_search_by_key(&disk, |(peer, _)| *peer) {
            Ok(at) => {
                let known = &mut self.0[at].1;
                let is_news = *known < session;
                *known = (*known).max(session);
                is_news
            }
            Err(_) if self.0.len() >= PEERS_MAX => false,
            Err(at) => {
                self.0.insert(at, (disk, session));
                true
            }
        }
    }

    /// Forgets a disk, which makes room. False if it was not known.
    pub fn forget(&mut self, disk: Uuid) -> bool {
        let before = self.0.len();
        self.0.retain(|(peer, _)| *peer != disk);
        self.0.len() < before
    }

    pub(super) fn to_raw(&self) -> [RawPeer; PEERS_MAX] {
        let mut raw = [RawPeer::NONE; PEERS_MAX];
        for (to, (disk, session)) in raw.iter_mut().zip(self.iter()) {
            *to = RawPeer::new(disk, session);
        }
        raw
    }

    /// `None` unless it is what [`Self::to_raw`] makes.
    pub(super) fn from_raw(raw: &[RawPeer; PEERS_MAX]) -> Option<Self> {
        let mut peers = Self::default();
        for (disk, session) in raw.iter().filter_map(RawPeer::get) {
            peers.note(disk, session);
        }
        let same = peers.to_raw().iter().zip(raw).all(|(a, b)| a.is_same(b));
        same.then_some(peers)
    }
}
