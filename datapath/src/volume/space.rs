//! The free clusters of a disk, shared by all who take some: first touches on the reactors, imports, map pages. And the way back of dropped ones.
//!
//! A dropped cluster goes a long way: dropped, on the list; in quarantine, when the record of its drop is durable; free, when every request
//! that may still use it has ended. A shorter way would hand a tenant's bytes, or a late write, to another tenant.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::alloc::{Allocator, Extent};
use crate::units::Pcn;

/// Called when space came back or a lock became free.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// Clusters that are given back under one hold of the lock.
const CLUSTERS_PER_LOCK: usize = 4096;

/// Why no cluster is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The disk is full.
    Full,
    /// None now, but some are on their way: a commit frees them, or the allocator is being rebuilt.
    Soon,
    /// Nothing is allocated on this disk: metadata of an object is bad, or the disk is read-only.
    Refused,
}

/// Whether clusters are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They are.
    Open,
    /// After an adoption, until the allocator was rebuilt and all that is dirty was committed.
    Rebuilding,
    /// They are not, until somebody acts.
    Refused,
}

/// The free clusters of one disk.
pub struct Space {
    inner: Mutex<Inner>,
    waker: OnceLock<Waker>,
}

struct Inner {
    allocator: Allocator,
    gate: Gate,
    dropped: Vec<Pcn>,
    /// Every cluster that is dropped and not free yet, wherever it is on its way.
    returning: BTreeSet<Pcn>,
    /// A write to it was answered with an error, and may still land. Not handed out again before the disk is opened anew: then the claim has
    /// waited for all I/O of this process.
    tainted: BTreeSet<Pcn>,
}

impl Inner {
    fn free(&mut self, pcn: Pcn) {
        if self.tainted.contains(&pcn) {
            return;
        }
        let released = self.allocator.release(Extent { pcn, count: 1 });
        debug_assert!(released.is_ok(), "{released:?}");
    }
}

/// Clusters whose drop is durable, and that a request in flight may still use. To be given to [`Space::release`] after a grace period.
#[derive(Debug, Default)]
#[must_use = "clusters that are not released stay unused until the disk is opened again"]
pub struct Quarantine(Vec<Pcn>);

impl Quarantine {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds those of another one.
    pub fn absorb(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

impl Space {
    /// With this allocator.
    pub fn new(allocator: Allocator, gate: Gate) -> Self {
        Self {
            inner: Mutex::new(Inner {
                allocator,
                gate,
                dropped: Vec::new(),
                returning: BTreeSet::new(),
                tainted: BTreeSet::new(),
            }),
            waker: OnceLock::new(),
        }
    }

    /// Who is told when space comes back. The first one stays.
    pub fn set_waker(&self, wake: Waker) {
        let _ = self.waker.set(wake);
    }

    /// Takes up to `max` clusters that follow each other.
    ///
    /// # Errors
    /// Why there is none.
    pub fn take(&self, max: u32) -> Result<Extent, Unavailable> {
        self.take_at(None, max)
    }

    /// As [`Self::take`], from `wanted` on if that can be.
    ///
    /// # Errors
    /// Why there is none.
    pub fn take_at(&self, wanted: Option<Pcn>, max: u32) -> Result<Extent, Unavailable> {
        let mut inner = self.lock();
        match inner.gate {
            Gate::Open => {}
            Gate::Rebuilding => return Err(Unavailable::Soon),
            Gate::Refused => return Err(Unavailable::Refused),
        }
        let taken = match wanted {
            Some(wanted) => inner.allocator.allocate_at(wanted, max),
            None => inner.allocator.allocate(max),
        };
        taken.ok_or_else(|| {
            if inner.returning.is_empty() {
                Unavailable::Full
            } else {
                Unavailable::Soon
            }
        })
    }

    /// As [`Self::give`], of many.
    pub fn give_all(&self, clusters: impl Iterator<Item = Pcn>) {
        // Walking a map takes its time, and is done outside of the lock.
        let clusters: Vec<Pcn> = clusters.collect();
        for some in clusters.chunks(CLUSTERS_PER_LOCK) {
            let mut inner = self.lock();
            for pcn in some {
                inner.free(*pcn);
            }
        }
        self.wake();
    }

    /// Gives back clusters that no map ever named, or that the table does not name any more, with no I/O to them in flight.
    ///
    /// Wakes nobody: who waits for space waits for a commit, and would otherwise be woken by what it gives back itself.
    pub fn give(&self, extent: Extent) {
        let released = self.lock().allocator.release(extent);
        debug_assert!(released.is_ok(), "{released:?}");
    }

    /// A write to this cluster was answered with an error: it may still land, so nobody else ever gets the cluster in this session.
    pub fn taint(&self, pcn: Pcn) {
        self.lock().tainted.insert(pcn);
    }

    /// Runs `drop`, which takes a cluster out of a map and answers with it; the entry was marked before. Under the lock: whoever rebuilds the
    /// allocator from the maps finds the cluster in the map or on its way, never in neither.
    pub fn dropping(&self, drop: impl FnOnce() -> Option<Pcn>) {
        let mut inner = self.lock();
        if let Some(pcn) = drop() {
            inner.dropped.push(pcn);
            inner.returning.insert(pcn);
        }
    }

    /// Whether clusters wait for a commit.
    pub fn has_dropped(&self) -> bool {
        !self.lock().dropped.is_empty()
    }

    /// Takes the list of dropped clusters, at the start of a commit, before marks are drained: each of these drops is then in that commit, or
    /// was in an earlier one.
    pub fn take_dropped(&self) -> Quarantine {
        Quarantine(std::mem::take(&mut self.lock().dropped))
    }

    /// The commit failed: they stay dropped, for ever as far as this session is concerned.
    pub fn put_back(&self, clusters: Quarantine) {
        self.lock().dropped.extend(clusters.0);
    }

    /// Makes clusters free: their drop is durable, and no request uses them any more.
    pub fn release(&self, clusters: Quarantine) {
        let Quarantine(clusters) = clusters;
        if clusters.is_empty() {
            return;
        }
        // A discard of a whole disk comes back as millions: others get their turn in between.
        for some in clusters.chunks(CLUSTERS_PER_LOCK) {
            let mut inner = self.lock();
            for pcn in some {
                inner.returning.remove(pcn);
                inner.free(*pcn);
            }
        }
        self.wake();
    }

    /// Opens or closes the gate.
    pub fn set_gate(&self, gate: Gate) {
        self.lock().gate = gate;
        self.wake();
    }

    /// Replaces the allocator: it was rebuilt from the maps. Clusters on their way back are in no map, and not free all the same.
    pub fn replace(&self, mut allocator: Allocator, gate: Gate) {
        {
            let mut inner = self.lock();
            for pcn in inner.returning.iter().chain(&inner.tainted) {
                // One that was dropped since its map was looked at is marked already, and so is a tainted one in a map.
                let _ = allocator.mark(*pcn);
            }
            inner.allocator = allocator;
            inner.gate = gate;
        }
        self.wake();
    }

    /// Whether nothing is handed out until somebody acts.
    pub fn is_refused(&self) -> bool {
        self.lock().gate == Gate::Refused
    }

    /// Clusters that are free.
    pub fn free_clusters(&self) -> u64 {
        u64::from(self.lock().allocator.free())
    }

    /// Whether a cluster is free.
    pub fn is_free(&self, pcn: Pcn) -> bool {
        self.lock().allocator.is_free(pcn)
    }

    fn wake(&self) {
        if let Some(wake) = self.waker.get() {
            wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Changed in single steps: a panic elsewhere leaves it whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space")
            .field("free", &self.free_clusters())
            .finish_non_exhaustive()
    }
}
