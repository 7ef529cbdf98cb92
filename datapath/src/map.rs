//! A layer's map: one word a cluster says which of its blocks the layer holds, and where.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::live::SharedWords;
use crate::units::{BlockMask, Lcn, Pcn};

/// The word of the format: `pcn:31 | dirty:1 | mask:32`. What each combination means stands in
/// `docs/on-disk-format.md`, under MapPage.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct MapEntry(u64);

impl MapEntry {
    const PCN_BITS: u64 = Pcn::MAX.get() as u64;
    const DIRTY_BIT: u64 = 1 << 31;
    const MASK_SHIFT: u32 = 32;

    /// Holds nothing: every block falls through.
    pub const EMPTY: Self = Self(0);

    /// A clean entry.
    #[inline]
    pub const fn new(pcn: Pcn, mask: BlockMask) -> Self {
        Self(pcn.get() as u64 | (mask.get() as u64) << Self::MASK_SHIFT)
    }

    /// The entry of these bits; every word is one.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The cluster of the blocks that are held; none for tombstones.
    #[inline]
    pub const fn pcn(self) -> Pcn {
        Pcn::new((self.0 & Self::PCN_BITS) as u32)
    }

    /// The blocks that this layer holds.
    #[inline]
    pub const fn mask(self) -> BlockMask {
        BlockMask::new((self.0 >> Self::MASK_SHIFT) as u32)
    }

    /// Changed since the last commit. Only in memory, never on the disk.
    #[inline]
    pub const fn is_dirty(self) -> bool {
        self.0 & Self::DIRTY_BIT != 0
    }

    /// The same entry with another cluster.
    #[inline]
    #[must_use]
    pub const fn with_pcn(self, pcn: Pcn) -> Self {
        Self(self.0 & !Self::PCN_BITS | pcn.get() as u64)
    }

    /// The same entry with another mask.
    #[inline]
    #[must_use]
    pub const fn with_mask(self, mask: BlockMask) -> Self {
        Self(self.0 & 0xffff_ffff | (mask.get() as u64) << Self::MASK_SHIFT)
    }

    /// The same entry, dirty or not.
    #[inline]
    #[must_use]
    pub const fn with_dirty(self, dirty: bool) -> Self {
        if dirty {
            Self(self.0 | Self::DIRTY_BIT)
        } else {
            Self(self.0 & !Self::DIRTY_BIT)
        }
    }
}

impl fmt::Debug for MapEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dirty = if self.is_dirty() { " dirty" } else { "" };
        write!(
            f,
            "MapEntry(pcn {} mask {}{dirty})",
            self.pcn(),
            self.mask()
        )
    }
}

/// The map of one layer: an entry for each cluster of the object.
pub struct LayerMap {
    entries: SharedWords,
}

impl LayerMap {
    /// The map of these words, one a cluster, from cluster 0 on.
    pub fn from_entries(entries: Vec<u64>) -> Self {
        Self {
            entries: SharedWords::of_memory(entries.into_iter().map(AtomicU64::new).collect()),
        }
    }

    /// The map in these words, which others may change, each by a compare-and-swap of the whole word.
    pub fn of_words(entries: SharedWords) -> Self {
        Self { entries }
    }

    /// The word of a cluster, to change it; `None` beyond the map's end.
    #[inline]
    pub fn word(&self, lcn: Lcn) -> Option<&AtomicU64> {
        self.entries.get(lcn.get() as usize)
    }

    /// The entry of a cluster; empty beyond the map's end, where the layer holds nothing.
    #[inline]
    pub fn get(&self, lcn: Lcn) -> MapEntry {
        // Acquire: whoever published an entry wrote the data that it names before.
        self.entries
            .get(lcn.get() as usize)
            .map_or(MapEntry::EMPTY, |entry| {
                MapEntry::from_bits(entry.load(Ordering::Acquire))
            })
    }

    /// Brings the entry of a cluster towards the CPU, for a look at it soon. Changes nothing, whatever `lcn` is.
    #[inline]
    pub fn prefetch(&self, lcn: Lcn) {
        #[cfg(target_arch = "x86_64")]
        if let Some(word) = self.entries.get(lcn.get() as usize) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint, of an address that is valid.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = lcn;
    }

    /// How many clusters it covers.
    #[inline]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it covers none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every entry, from cluster 0 on.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MapEntry> + '_ {
        self.entries
            .iter()
            .map(|entry| MapEntry::from_bits(entry.load(Ordering::Acquire)))
    }
}

impl fmt::Debug for LayerMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerMap")
            .field("clusters", &self.len())
            .finish()
    }
}
