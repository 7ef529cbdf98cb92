//! Units and numbers that must not be mixed up: each has a type of its own.

use std::fmt;

/// Unit of presence and of checksums.
pub const BLOCK_BYTES: u64 = 4096;
/// Unit of allocation.
pub const CLUSTER_BYTES: u64 = 131_072;
/// Blocks in a cluster, which is the number of bits in a [`BlockMask`].
pub const BLOCKS_PER_CLUSTER: u32 = 32;
/// What the kernel counts requests in, and the largest write that a medium does atomically.
pub const SECTOR_BYTES: u64 = 512;
/// Unit of metadata.
pub const PAGE_BYTES: usize = 4096;

/// A metadata page as it lies on the disk.
pub type Page = [u8; PAGE_BYTES];

const _: () = assert!(CLUSTER_BYTES == BLOCK_BYTES * BLOCKS_PER_CLUSTER as u64);
const _: () = assert!(BLOCK_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(BLOCKS_PER_CLUSTER == u32::BITS);
const _: () = assert!(BLOCK_BYTES == PAGE_BYTES as u64);

macro_rules! number {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name($inner);

        impl $name {
            /// Wraps the bare number.
            #[inline]
            pub const fn new(value: $inner) -> Self {
                Self(value)
            }

            /// The bare number.
            #[inline]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A byte of a disk, or of an object, counted from its start.
    ByteOffset(u64)
);
number!(
    /// Logical cluster number: a cluster of an object, counted from the object's start.
    Lcn(u32)
);
number!(
    /// Orders changes of one thing; never restarts.
    Seq(u64)
);
number!(
    /// How often a slot of the object table was given to a new object.
    Epoch(u32)
);
number!(
    /// A slot of the object table.
    SlotIndex(u32)
);
number!(
    /// Number of a ublk device: the N of `/dev/ublkbN`.
    DevId(u32)
);

impl ByteOffset {
    /// The offset `len_bytes` further on.
    #[inline]
    #[must_use]
    pub const fn plus(self, len_bytes: u64) -> Self {
        Self(self.0 + len_bytes)
    }
}

/// Physical cluster number: a cluster of a disk, counted from the disk's start. 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pcn(u32);

impl Pcn {
    /// No cluster. (The first cluster of a disk holds the boot block and is never allocated.)
    pub const NONE: Self = Self(0);
    /// The largest number that the 31 bits of a map entry hold.
    pub const MAX: Self = Self((1 << 31) - 1);

    /// Wraps a number that is known to fit in 31 bits.
    ///
    /// # Panics
    /// If it does not fit; numbers read from a disk go through [`Pcn::try_new`].
    #[inline]
    pub const fn new(value: u32) -> Self {
        assert!(value <= Self::MAX.0, "a pcn has 31 bits");
        Self(value)
    }

    /// Wraps a number if it fits in 31 bits.
    #[inline]
    pub const fn try_new(value: u32) -> Option<Self> {
        if value <= Self::MAX.0 {
            Some(Self(value))
        } else {
            None
        }
    }

    /// The bare number.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether this is no cluster.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Where the cluster starts on its disk.
    #[inline]
    pub const fn offset(self) -> ByteOffset {
        ByteOffset(self.0 as u64 * CLUSTER_BYTES)
    }
}

impl fmt::Display for Pcn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of a cluster's 32 blocks are meant; bit `i` is block `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct BlockMask(u32);

impl BlockMask {
    /// No block.
    pub const EMPTY: Self = Self(0);
    /// Every block of the cluster.
    pub const ALL: Self = Self(u32::MAX);

    /// Wraps the bits.
    #[inline]
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether block `block` (0 to 31) is in the mask; false for any other number.
    #[inline]
    pub const fn contains(self, block: u32) -> bool {
        block < BLOCKS_PER_CLUSTER && self.0 & (1 << block) != 0
    }
}

impl fmt::Display for BlockMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}
