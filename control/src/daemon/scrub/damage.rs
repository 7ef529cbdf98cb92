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

    /// These blocks are bad too. The first words stay: they name the place where it was seen first.
    pub fn found(&mut self, replica: Uuid, blocks: &[u64], why: &str) {
        let damage = self.0.entry(replica).or_insert_with(|| Damage {
            ranges: Vec::new(),
            why: why.to_owned(),
        });
        let known = damage.ranges.iter().cloned().flatten();
        damage.ranges = joined(known.chain(blocks.iter().copied()).collect());
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

    /// All of a replica was read: this is what is bad, and nothing else. Answers with the blocks that were bad and are not.
    pub fn settle(&mut self, replica: Uuid, now: Option<Damage>) -> Vec<Range<u64>> {
        let bad: Vec<u64> = now
            .iter()
            .flat_map(|damage| damage.ranges.iter().cloned().flatten())
            .collect();
        let before = self.ranges(replica).into_iter().flatten();
        let healed = joined(before.filter(|block| !bad.contains(block)).collect());
        match now {
            Some(damage) => self.0.insert(replica, damage),
            None => self.0.remove(&replica),
        };
        healed
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
        table.found(replica, &[7, 3, 4], "first");
        table.found(replica, &[5, 3], "second");
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
        assert_eq!(table.settle(replica, Some(now)), [1..2, 9..10]);
        assert_eq!(table.of(replica).unwrap().why, "now");
        let healed = table.settle(replica, None);
        assert_eq!(healed.into_iter().flatten().collect::<Vec<_>>(), [2]);
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
        table.settle(replica, Some(now));
        table.repaired(replica, &[1]);
        assert!(table.of(replica).is_some());
    }
}
