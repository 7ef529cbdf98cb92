//! What is known to be bad now, by replica. In memory: after a restart it is found again by reading, never believed.

use std::collections::BTreeMap;
use std::ops::Range;

use uuid::Uuid;

/// What is bad of one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Blocks of the image (byte / 4096) that are not what was imported, in order, none next to another.
    pub ranges: Vec<Range<u64>>,
    /// In words: where, what is expected and what is there.
    pub why: String,
}

impl Damage {
    /// Bad blocks.
    pub fn blocks(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }
}

/// What is bad of all replicas.
#[derive(Debug, Default)]
pub struct DamageTable(BTreeMap<Uuid, Damage>);

impl DamageTable {
    /// What is known to be bad of a replica.
    pub fn of(&self, replica: Uuid) -> Option<&Damage> {
        self.0.get(&replica)
    }

    /// The bad blocks of a replica, for who plans reads.
    pub fn ranges(&self, replica: Uuid) -> Vec<Range<u64>> {
        self.of(replica)
            .map(|damage| damage.ranges.clone())
            .unwrap_or_default()
    }

    /// How many blocks of each replica are bad.
    pub fn blocks_by_replica(&self) -> BTreeMap<Uuid, u64> {
        self.0
            .iter()
            .map(|(replica, damage)| (*replica, damage.blocks()))
            .collect()
    }

    /// These blocks are bad too. The first words stay: they name the place where it was seen first. Answers how many of them are news.
    pub fn found(&mut self, replica: Uuid, blocks: &[u64], why: &str) -> u64 {
        let damage = self.0.entry(replica).or_insert_with(|| Damage {
            ranges: Vec::new(),
            why: why.to_owned(),
        });
        let before = damage.blocks();
        let known = damage.ranges.iter().cloned().flatten();
        damage.ranges = joined(known.chain(blocks.iter().copied()).collect());
        damage.blocks() - before
    }

    /// These blocks are good again. A replica of which none is bad any more is not damaged, unless more than blocks is.
    pub fn repaired(&mut self, replica: Uuid, blocks: &[u64]) {
        let Some(damage) = self.0.get_mut(&replica) else {
            return;
        };
        let left = damage.ranges.iter().cloned().flatten();
        let left: Vec<u64> = left.filter(|block| !blocks.contains(block)).collect();
        let had_blocks = !damage.ranges.is_empty();
        damage.ranges = joined(left);
        if had_blocks && damage.ranges.is_empty() {
            self.0.remove(&replica);
        }
    }

    /// All of a replica was read: this is what is bad, and of `before`, which was known to be bad when the reading began, nothing else. What others
    /// found to be bad since then stays: the reading may have passed there before. Answers with the blocks that were bad and are not.
    pub fn settle(
        &mut self,
        replica: Uuid,
        before: &[Range<u64>],
        now: Option<Damage>,
    ) -> Vec<Range<u64>> {
        let is_bad = |block: &u64| {
            now.iter()
                .any(|damage| damage.ranges.iter().any(|range| range.contains(block)))
        };
        let healed: Vec<u64> = before
            .iter()
            .cloned()
            .flatten()
            .filter(|block| !is_bad(block))
            .collect();
        let left = self.ranges(replica).into_iter().flatten();
        let left: Vec<u64> = left.filter(|block| !healed.contains(block)).collect();
        let former = self.0.remove(&replica);
        if let Some(mut damage) = now {
            let bad = damage.ranges.iter().cloned().flatten();
            damage.ranges = joined(bad.chain(left).collect());
            self.0.insert(replica, damage);
        } else if let Some(mut damage) = former
            && !left.is_empty()
        {
            damage.ranges = joined(left);
            self.0.insert(replica, damage);
        }
        joined(healed)
    }

    /// Forgets a replica that is no more.
    pub fn forget(&mut self, replica: Uuid) {
        self.0.remove(&replica);
    }
}

/// Blocks as ranges.
pub fn joined(mut blocks: Vec<u64>) -> Vec<Range<u64>> {
    blocks.sort_unstable();
    blocks.dedup();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for block in blocks {
        match ranges.last_mut() {
            Some(last) if last.end == block => last.end += 1,
            _ => ranges.push(block..block + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_grows_and_shrinks_by_blocks_and_its_first_words_stay() {
        let (replica, other) = (Uuid::new_v4(), Uuid::new_v4());
        let mut table = DamageTable::default();
        assert_eq!(table.found(replica, &[7, 3, 4], "first"), 3);
        assert_eq!(table.found(replica, &[5, 3], "second"), 1);
        assert_eq!(table.ranges(replica), [3..6, 7..8]);
        assert_eq!(table.of(replica).unwrap().why, "first");
        assert_eq!(table.blocks_by_replica()[&replica], 4);
        table.repaired(replica, &[4]);
        assert_eq!(table.ranges(replica), [3..4, 5..6, 7..8]);
        table.repaired(other, &[4]);
        table.repaired(replica, &[3, 5, 7]);
        assert_eq!(table.of(replica), None);
    }

    #[test]
    fn a_whole_reading_settles_what_is_bad() {
        let replica = Uuid::new_v4();
        let mut table = DamageTable::default();
        table.found(replica, &[1, 2, 9], "before");
        let now = Damage {
            ranges: vec![Range { start: 2, end: 3 }],
            why: "now".to_owned(),
        };
        let before = table.ranges(replica);
        assert_eq!(table.settle(replica, &before, Some(now)), [1..2, 9..10]);
        assert_eq!(table.of(replica).unwrap().why, "now");
        let before = table.ranges(replica);
        let healed = table.settle(replica, &before, None);
        assert_eq!(healed.into_iter().flatten().collect::<Vec<_>>(), [2]);
        assert_eq!(table.of(replica), None);
    }

    #[test]
    fn what_others_found_while_it_was_read_stays() {
        let replica = Uuid::new_v4();
        let mut table = DamageTable::default();
        table.found(replica, &[1], "before");
        let before = table.ranges(replica);
        // The reading has passed block 5 when a rebuild finds it bad.
        table.found(replica, &[5], "a rebuild");
        let blocks = |ranges: Vec<Range<u64>>| ranges.into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(blocks(table.settle(replica, &before, None)), [1]);
        assert_eq!(blocks(table.ranges(replica)), [5]);
        let now = Damage {
            ranges: vec![Range { start: 7, end: 8 }],
            why: "now".to_owned(),
        };
        table.found(replica, &[7], "now");
        assert!(table.settle(replica, &[], Some(now)).is_empty());
        assert_eq!(table.ranges(replica), [5..6, 7..8]);
        let before = table.ranges(replica);
        table.settle(replica, &before, None);
        assert_eq!(table.of(replica), None);
    }

    #[test]
    fn what_is_worse_than_blocks_is_not_repaired_by_blocks() {
        let replica = Uuid::new_v4();
        let mut table = DamageTable::default();
        let now = Damage {
            ranges: Vec::new(),
            why: "a checksum page is lost".to_owned(),
        };
        table.settle(replica, &[], Some(now));
        table.repaired(replica, &[1]);
        assert!(table.of(replica).is_some());
    }
}
