//! Locks of clusters: shared by those who write blocks that are not held yet, alone for whoever copies a block up.
//!
//! A fixed table; clusters that follow each other have different places, so that one request never meets itself. Nobody waits here: who
//! does not get a lock lets go of all others and is woken when it is free.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::space::Waker;
use crate::units::{Lcn, SlotIndex};

const PLACES: u32 = 8192;
/// Holders that share it.
const SHARED: u32 = 0xffff;
/// One holder has it alone.
const ALONE: u32 = 1 << 16;
/// Somebody was refused.
const WAITED: u32 = 1 << 17;

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// With others.
    Shared,
    /// Alone.
    Alone,
}

/// The locks of all clusters of all volumes of a disk.
pub struct ClusterLocks {
    places: Box<[AtomicU32]>,
    waker: OnceLock<Waker>,
}

impl Default for ClusterLocks {
    fn default() -> Self {
        Self {
            places: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
            waker: OnceLock::new(),
        }
    }
}

impl ClusterLocks {
    /// Who is told when a lock is free that somebody was refused. The first one stays.
    pub fn set_waker(&self, wake: Waker) {
        let _ = self.waker.set(wake);
    }

    /// Takes the lock of a cluster, or not.
    #[inline]
    pub fn try_take(&self, slot: SlotIndex, lcn: Lcn, hold: Hold) -> bool {
        let place = self.place(slot, lcn);
        let mut now = place.load(Ordering::Relaxed);
        loop {
            let free = match hold {
                Hold::Shared => now & ALONE == 0 && now & SHARED < SHARED,
                Hold::Alone => now & (ALONE | SHARED) == 0,
            };
            let next = match (free, hold) {
                (true, Hold::Shared) => now + 1,
                (true, Hold::Alone) => now | ALONE,
                (false, _) => now | WAITED,
            };
            match place.compare_exchange_weak(now, next, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return free,
                Err(actual) => now = actual,
            }
        }
    }

    /// Gives it back.
    #[inline]
    pub fn give(&self, slot: SlotIndex, lcn: Lcn, hold: Hold) {
        let place = self.place(slot, lcn);
        let mut now = place.load(Ordering::Relaxed);
        loop {
            let left = match hold {
                Hold::Shared => now - 1,
                Hold::Alone => now & !ALONE,
            };
            // Those who were refused try again when it is free; until then the mark stays.
            let is_free = left & (SHARED | ALONE) == 0;
            let next = if is_free { 0 } else { left };
            match place.compare_exchange_weak(now, next, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => {
                    if is_free
                        && left & WAITED != 0
                        && let Some(wake) = self.waker.get()
                    {
                        wake();
                    }
                    return;
                }
                Err(actual) => now = actual,
            }
        }
    }

    fn place(&self, slot: SlotIndex, lcn: Lcn) -> &AtomicU32 {
        // Volumes are spread by a large odd step; clusters of one volume stay neighbours.
        let at = lcn.get().wrapping_add(slot.get().wrapping_mul(0x9e37_79b1)) % PLACES;
        &self.places[at as usize]
    }
}

impl fmt::Debug for ClusterLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterLocks").finish_non_exhaustive()
    }
}
