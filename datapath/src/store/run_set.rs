//! A set to which the same element is added many times in a row.

use std::collections::BTreeSet;

/// Leaves of a map, or volumes: a commit and a replay walk through millions of entries of few of them.
#[derive(Clone, Debug)]
pub(super) struct RunSet<T> {
    elements: BTreeSet<T>,
    last: Option<T>,
}

impl<T> Default for RunSet<T> {
    fn default() -> Self {
        Self {
            elements: BTreeSet::new(),
            last: None,
        }
    }
}

impl<T: Copy + Ord> RunSet<T> {
    #[inline]
    pub fn insert(&mut self, element: T) {
        if self.last != Some(element) {
            self.elements.insert(element);
            self.last = Some(element);
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    pub fn contains(&self, element: &T) -> bool {
        self.elements.contains(element)
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.elements.iter().copied()
    }
}
