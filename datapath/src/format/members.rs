//! A bounded list of disks, as object slots carry it.

use uuid::Uuid;

/// Most disks that one object names: copies on more than that many help nobody.
pub const MEMBERS_MAX: usize = 16;

/// Up to [`MEMBERS_MAX`] disks: sorted, each once, none nil. Two lists of the same disks are equal and encode to the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Members(Vec<Uuid>);

/// More disks than fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} disks are more than {MEMBERS_MAX}")]
pub struct TooManyMembers {
    /// How many there are.
    pub count: usize,
}

impl Members {
    /// No disk at all. In an image's slot: only the disk that the slot lies on.
    pub const NONE: Self = Self(Vec::new());

    /// Takes the disks, each once. A nil UUID is no disk and is left out.
    ///
    /// # Errors
    /// If they are more than [`MEMBERS_MAX`].
    pub fn new(disks: impl IntoIterator<Item = Uuid>) -> Result<Self, TooManyMembers> {
        let mut disks: Vec<Uuid> = disks.into_iter().filter(|disk| !disk.is_nil()).collect();
        disks.sort_unstable();
        disks.dedup();
        if disks.len() > MEMBERS_MAX {
            return Err(TooManyMembers { count: disks.len() });
        }
        Ok(Self(disks))
    }

    /// The disks, sorted.
    pub fn as_slice(&self) -> &[Uuid] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nil-filled.
    pub(super) fn to_raw(&self) -> [[u8; 16]; MEMBERS_MAX] {
        let mut raw = [[0; 16]; MEMBERS_MAX];
        for (to, from) in raw.iter_mut().zip(&self.0) {
            *to = *from.as_bytes();
        }
        raw
    }

    /// `None` unless it is what [`Self::to_raw`] makes: sorted, each once, nil only at the end.
    pub(super) fn from_raw(raw: &[[u8; 16]; MEMBERS_MAX]) -> Option<Self> {
        let disks = raw.iter().map(|bytes| Uuid::from_bytes(*bytes));
        let members = Self::new(disks).ok()?;
        (members.to_raw() == *raw).then_some(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_in_which_disks_are_told_makes_no_difference() {
        let disks = [3, 1, 2, 3].map(Uuid::from_u128);
        let members = Members::new(disks).unwrap();
        assert_eq!(members.as_slice(), [1, 2, 3].map(Uuid::from_u128));
        assert_eq!(Members::from_raw(&members.to_raw()), Some(members));
        assert!(Members::new((1..=17).map(Uuid::from_u128)).is_err());
    }

    #[test]
    fn only_one_encoding_of_a_list_is_accepted() {
        let mut raw = Members::new([1, 2].map(Uuid::from_u128)).unwrap().to_raw();
        raw.swap(0, 1);
        assert_eq!(Members::from_raw(&raw), None, "not sorted");
        raw[1] = raw[0];
        assert_eq!(Members::from_raw(&raw), None, "twice the same");
        raw[0] = [0; 16];
        assert_eq!(Members::from_raw(&raw), None, "nil before a disk");
    }
}
