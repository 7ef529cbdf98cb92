//! Hands out contiguous ranges of small numbers: tags of a ring, slots of its buffer table.

/// First-fit allocator of ranges below a limit. Used when devices come and go, never for a request.
#[derive(Debug)]
pub(crate) struct Ranges {
    /// Free ranges `(start, len)`, by start, never adjacent.
    free: Vec<(u32, u32)>,
}

impl Ranges {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            free: if limit > 0 {
                vec![(0, limit)]
            } else {
                Vec::new()
            },
        }
    }

    /// The first free range of `len` numbers.
    pub(crate) fn take(&mut self, len: u32) -> Option<u32> {
        let position = self.free.iter().position(|(_, free)| *free >= len)?;
        let (start, free) = &mut self.free[position];
        let taken = *start;
        *start += len;
        *free -= len;
        if *free == 0 {
            self.free.remove(position);
        }
        Some(taken)
    }

    /// Gives a range back that [`Ranges::take`] handed out.
    pub(crate) fn give(&mut self, start: u32, len: u32) {
        let position = self.free.partition_point(|(other, _)| *other < start);
        self.free.insert(position, (start, len));
        // With the one after, then with the one before.
        for first in [position, position.wrapping_sub(1)] {
            if let (Some(&(a, a_len)), Some(&(b, b_len))) =
                (self.free.get(first), self.free.get(first.wrapping_add(1)))
                && a + a_len == b
            {
                self.free[first] = (a, a_len + b_len);
                self.free.remove(first + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_joins_its_neighbours() {
        let mut ranges = Ranges::new(100);
        let a = ranges.take(40).expect("room");
        let b = ranges.take(40).expect("room");
        let c = ranges.take(20).expect("room");
        assert_eq!((a, b, c), (0, 40, 80));
        assert_eq!(ranges.take(1), None);
        ranges.give(a, 40);
        ranges.give(c, 20);
        assert_eq!(ranges.take(41), None);
        ranges.give(b, 40);
        assert_eq!(ranges.free, [(0, 100)]);
    }
}
