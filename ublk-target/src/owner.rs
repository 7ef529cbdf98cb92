//! Whose a kernel device is: a tag in the 64 bits that ublk keeps for servers.

use uuid::Uuid;

/// The upper half of every tag: "BedP".
const MAGIC: u64 = 0x4265_6450;

/// Marks a device as ours, and says which object it exposes. Kept in `ublksrv_flags`, which the driver never reads, and which
/// lives as long as the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerTag(u64);

impl OwnerTag {
    /// The tag of the object with this UUID.
    pub fn of(uuid: Uuid) -> Self {
        // FNV-1a: a UUID is random already, this only folds it to 32 bits, the same in every version of this program.
        let hash = uuid.as_bytes().iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        Self(MAGIC << 32 | u64::from(hash))
    }

    /// The tag in these bits, if they are one of ours.
    pub fn from_bits(bits: u64) -> Option<Self> {
        (bits >> 32 == MAGIC).then_some(Self(bits))
    }

    /// The bits.
    pub fn bits(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_known_again_and_foreign_bits_are_not() {
        let tag = OwnerTag::of(Uuid::from_bytes([7; 16]));
        assert_eq!(OwnerTag::from_bits(tag.bits()), Some(tag));
        assert_ne!(tag, OwnerTag::of(Uuid::from_bytes([8; 16])));
        assert_eq!(OwnerTag::from_bits(0), None);
        assert_eq!(OwnerTag::from_bits(u64::MAX), None);
    }

    #[test]
    fn tags_do_not_change_between_versions() {
        // A daemon must know the devices of the one before it.
        assert_eq!(OwnerTag::of(Uuid::nil()).bits(), 0x4265_6450_6969_1905);
    }
}
