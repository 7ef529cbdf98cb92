//! Where the zones of a disk lie: one function of the disk's length, as the specification says.

use super::pair::PairCopy;
use super::superblock::{SUPERBLOCK_COPIES, SuperblockCopy};
use crate::units::{BLOCK_BYTES, ByteOffset, CLUSTER_BYTES, Pcn, SlotIndex};

const MIB: u64 = 1 << 20;

/// The smallest disk.
pub const DISK_BYTES_MIN: u64 = 64 * MIB;
/// The largest disk: its clusters are what 31 bits can number.
pub const DISK_BYTES_MAX: u64 = 256 << 40;
/// Superblock copies 0, 1 and 2; copy 3 lies in the last cluster.
pub const SUPERBLOCK_OFFSETS: [u64; 3] = [4096, 65_536, 131_072];
/// Checkpoint roots A and B.
pub const ROOT_OFFSETS: [u64; 2] = [262_144, 266_240];
/// Object table.
pub const TABLE_OFFSET: u64 = MIB;
/// A slot of the object table: two pages, A and B.
pub const SLOT_BYTES: u64 = 2 * BLOCK_BYTES;
/// One slot for so much disk.
pub const DISK_BYTES_PER_SLOT: u64 = 16 * MIB;
/// Fewest slots.
pub const SLOTS_MIN: u64 = 64;
/// Most slots.
pub const SLOTS_MAX: u64 = 8192;
/// The journal is the disk's length divided by this, within the two bounds below.
pub const JOURNAL_DIVISOR: u64 = 1024;
/// Shortest journal.
pub const JOURNAL_BYTES_MIN: u64 = 16 * MIB;
/// Longest journal.
pub const JOURNAL_BYTES_MAX: u64 = 256 * MIB;

const _: () = assert!(DISK_BYTES_MAX / CLUSTER_BYTES - 1 <= Pcn::MAX.get() as u64);

/// A disk that no layout exists for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Below 64 MiB.
    #[error("a disk needs at least {DISK_BYTES_MIN} bytes, this one has {len_bytes}")]
    TooSmall {
        /// The disk's length.
        len_bytes: u64,
    },
    /// Above 256 TiB.
    #[error("a disk has at most {DISK_BYTES_MAX} bytes, this one has {len_bytes}")]
    TooLarge {
        /// The disk's length.
        len_bytes: u64,
    },
}

/// The zones of one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    disk_bytes: u64,
    slots: u32,
    journal: JournalZone,
    first_pcn: Pcn,
    end_pcn: Pcn,
}

/// The ring that journal batches are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalZone {
    /// First byte.
    pub offset: ByteOffset,
    /// Length.
    pub len_bytes: u64,
}

impl JournalZone {
    /// One past the last byte.
    pub fn end(&self) -> ByteOffset {
        self.offset.plus(self.len_bytes)
    }

    /// Whether a batch may begin at `at`: inside the zone, on a block.
    pub fn may_begin(&self, at: ByteOffset) -> bool {
        at >= self.offset && at < self.end() && at.get().is_multiple_of(BLOCK_BYTES)
    }

    /// Where a batch of `batch_bytes` goes if the one before it ended at `next`: there, or at the zone's
    /// start if it does not fit before the zone's end. `None` if it fits nowhere.
    pub fn place(&self, next: ByteOffset, batch_bytes: u64) -> Option<ByteOffset> {
        if batch_bytes > self.len_bytes || next < self.offset || next > self.end() {
            return None;
        }
        let fits = self.end().get() - next.get() >= batch_bytes;
        Some(if fits { next } else { self.offset })
    }
}

impl Geometry {
    /// The layout of a disk of `len_bytes`. What is beyond the last whole cluster stays unused.
    ///
    /// # Errors
    /// If the disk is too small or too large.
    pub fn of_disk(len_bytes: u64) -> Result<Self, GeometryError> {
        if len_bytes < DISK_BYTES_MIN {
            return Err(GeometryError::TooSmall { len_bytes });
        }
        if len_bytes > DISK_BYTES_MAX {
            return Err(GeometryError::TooLarge { len_bytes });
        }
        let disk_bytes = len_bytes - len_bytes % CLUSTER_BYTES;
        let slots = (disk_bytes / DISK_BYTES_PER_SLOT).clamp(SLOTS_MIN, SLOTS_MAX);
        let journal_offset = (TABLE_OFFSET + slots * SLOT_BYTES).next_multiple_of(CLUSTER_BYTES);
        let journal_bytes =
            (disk_bytes / JOURNAL_DIVISOR).clamp(JOURNAL_BYTES_MIN, JOURNAL_BYTES_MAX);
        let journal = JournalZone {
            offset: ByteOffset::new(journal_offset),
            len_bytes: journal_bytes - journal_bytes % CLUSTER_BYTES,
        };
        Ok(Self {
            disk_bytes,
            slots: narrow(slots),
            journal,
            first_pcn: Pcn::new(narrow(journal.end().get() / CLUSTER_BYTES)),
            end_pcn: Pcn::new(narrow(disk_bytes / CLUSTER_BYTES - 1)),
        })
    }

    /// The disk's length in whole clusters, in bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Where superblock copy `copy` lies.
    pub fn superblock_offset(&self, copy: SuperblockCopy) -> ByteOffset {
        self.superblock_offsets()[copy.index()]
    }

    /// Where the four superblock copies lie.
    pub fn superblock_offsets(&self) -> [ByteOffset; SUPERBLOCK_COPIES] {
        let [first, second, third] = SUPERBLOCK_OFFSETS;
        [first, second, third, self.disk_bytes - CLUSTER_BYTES].map(ByteOffset::new)
    }

    /// Where a checkpoint root lies.
    pub fn root_offset(&self, copy: PairCopy) -> ByteOffset {
        ByteOffset::new(ROOT_OFFSETS[copy.index()])
    }

    /// Slots in the object table.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Where the object table starts.
    pub fn table_offset(&self) -> ByteOffset {
        ByteOffset::new(TABLE_OFFSET)
    }

    /// Length of the object table.
    pub fn table_bytes(&self) -> u64 {
        u64::from(self.slots) * SLOT_BYTES
    }

    /// Where a copy of a slot lies.
    pub fn slot_offset(&self, slot: SlotIndex, copy: PairCopy) -> ByteOffset {
        debug_assert!(slot.get() < self.slots);
        let pair = self.table_offset().plus(u64::from(slot.get()) * SLOT_BYTES);
        pair.plus(copy.offset_bytes())
    }

    /// The journal's ring.
    pub fn journal(&self) -> JournalZone {
        self.journal
    }

    /// First cluster that can be allocated.
    pub fn first_pcn(&self) -> Pcn {
        self.first_pcn
    }

    /// One past the last cluster that can be allocated.
    pub fn end_pcn(&self) -> Pcn {
        self.end_pcn
    }

    /// How many clusters can be allocated.
    pub fn clusters(&self) -> u32 {
        self.end_pcn.get() - self.first_pcn.get()
    }
}

/// Narrows what the disk's largest size keeps far below 2^32.
fn narrow(value: u64) -> u32 {
    debug_assert!(u32::try_from(value).is_ok());
    (value & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_disk_has_every_zone() {
        let geometry = Geometry::of_disk(DISK_BYTES_MIN).unwrap();
        assert_eq!(geometry.slots(), 64);
        assert_eq!(geometry.journal().offset.get(), MIB + MIB / 2);
        assert_eq!(geometry.journal().len_bytes, 16 * MIB);
        assert_eq!(geometry.first_pcn().get(), 140);
        assert_eq!(geometry.end_pcn().get(), 511);
        assert_eq!(geometry.superblock_offsets()[3].get(), 511 * CLUSTER_BYTES);
    }

    #[test]
    fn the_largest_disk_numbers_its_clusters_with_31_bits() {
        let geometry = Geometry::of_disk(DISK_BYTES_MAX).unwrap();
        assert_eq!(geometry.slots(), 8192);
        assert_eq!(geometry.journal().len_bytes, 256 * MIB);
        assert_eq!(geometry.end_pcn(), Pcn::MAX);
    }

    #[test]
    fn sizes_outside_the_bounds_are_refused() {
        let (small, large) = (DISK_BYTES_MIN - 1, DISK_BYTES_MAX + 1);
        assert_eq!(
            Geometry::of_disk(small),
            Err(GeometryError::TooSmall { len_bytes: small })
        );
        assert_eq!(
            Geometry::of_disk(large),
            Err(GeometryError::TooLarge { len_bytes: large })
        );
    }

    #[test]
    fn a_ragged_end_is_left_unused() {
        let even = Geometry::of_disk(DISK_BYTES_MIN).unwrap();
        assert_eq!(
            Geometry::of_disk(DISK_BYTES_MIN + CLUSTER_BYTES - 1).unwrap(),
            even
        );
    }

    #[test]
    fn zones_follow_each_other_without_overlap() {
        for shift in 26..=48 {
            for len_bytes in [1u64 << shift, (1u64 << shift) + 3 * CLUSTER_BYTES + 512] {
                let Ok(geometry) = Geometry::of_disk(len_bytes) else {
                    continue;
                };
                let offsets = geometry.superblock_offsets();
                assert!(offsets[2].get() + BLOCK_BYTES <= ROOT_OFFSETS[0]);
                assert!(ROOT_OFFSETS[1] + BLOCK_BYTES <= geometry.table_offset().get());
                assert!(
                    geometry.table_offset().plus(geometry.table_bytes())
                        <= geometry.journal().offset
                );
                assert_eq!(geometry.journal().end(), geometry.first_pcn().offset());
                assert!(geometry.clusters() > 300);
                assert_eq!(geometry.end_pcn().offset(), offsets[3]);
                assert!(offsets[3].get() + CLUSTER_BYTES <= len_bytes);
            }
        }
    }

    #[test]
    fn a_batch_that_does_not_fit_starts_over_at_the_ring_start() {
        let ring = JournalZone {
            offset: ByteOffset::new(1 << 20),
            len_bytes: 64 << 10,
        };
        let last = ByteOffset::new(ring.end().get() - 4096);
        assert_eq!(ring.place(last, 4096), Some(last));
        assert_eq!(ring.place(last, 8192), Some(ring.offset));
        assert_eq!(ring.place(ring.end(), 4096), Some(ring.offset));
        assert_eq!(ring.place(ring.offset, ring.len_bytes), Some(ring.offset));
        assert_eq!(ring.place(ring.offset, ring.len_bytes + 4096), None);
        assert_eq!(ring.place(ByteOffset::new(0), 4096), None);
        assert!(ring.may_begin(last) && !ring.may_begin(ring.end()));
    }
}
