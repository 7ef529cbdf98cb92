//! Leaves of a map that have changed.

use std::collections::BTreeSet;

/// A set of leaves to which the same one is added many times in a row: a commit and a replay walk through the entries of a page.
#[derive(Clone, Debug, Default)]
pub(super) struct LeafSet {
    leaves: BTreeSet<u32>,
    last: Option<u32>,
}

impl LeafSet {
    #[inline]
    pub fn insert(&mut self, leaf: u32) {
        if self.last != Some(leaf) {
            self.leaves.insert(leaf);
            self.last = Some(leaf);
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.leaves.iter().copied()
    }
}
