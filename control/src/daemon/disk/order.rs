//! In which order disks that are found together are opened: an old copy of a disk after those that know it for what it is. Its devices would be
//! served, and written to, for as long as it is open alone.

use std::collections::BTreeMap;

use bedplate_datapath::format::peers::Peers;
use uuid::Uuid;

/// Takes those out of `left` that can be opened now: none that is left knows a later session of theirs than they have noted of themselves. Where
/// that holds for none, all of them. What superblocks say is enough to tell, so that nobody else has to wait.
pub fn take_next<T>(left: &mut Vec<T>, says: impl Fn(&T) -> (Uuid, &Peers)) -> Vec<T> {
    let mut known: BTreeMap<Uuid, u64> = BTreeMap::new();
    for (disk, session) in left.iter().flat_map(|one| says(one).1.iter()) {
        let known = known.entry(disk).or_default();
        *known = (*known).max(session);
    }
    let is_newest = |one: &T| {
        let (disk, peers) = says(one);
        let latest = known.get(&disk).copied().unwrap_or_default();
        peers.session_of(disk) >= latest
    };
    let all = std::mem::take(left);
    let (now, later): (Vec<T>, Vec<T>) = all.into_iter().partition(is_newest);
    if now.is_empty() {
        return later;
    }
    *left = later;
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk, and what it has noted: disks and sessions.
    fn disk(number: u128, noted: &[(u128, u64)]) -> (Uuid, Peers) {
        let mut peers = Peers::default();
        for (disk, session) in noted {
            peers.note(Uuid::from_u128(*disk), *session);
        }
        (Uuid::from_u128(number), peers)
    }

    /// The disks in the order in which they are opened: each time those that are opened together.
    fn rounds(mut left: Vec<(Uuid, Peers)>) -> Vec<Vec<u128>> {
        let mut rounds = Vec::new();
        while !left.is_empty() {
            let now = take_next(&mut left, |(disk, peers)| (*disk, peers));
            assert!(!now.is_empty());
            rounds.push(now.iter().map(|(disk, _)| disk.as_u128()).collect());
        }
        rounds
    }

    #[test]
    fn disks_that_agree_or_never_met_are_opened_together() {
        let one = disk(1, &[(1, 5), (2, 7)]);
        // Noted by the other one before it was told by this one.
        let two = disk(2, &[(1, 4), (2, 7)]);
        assert_eq!(rounds(vec![one, two, disk(3, &[])]), [[1, 2, 3]]);
        assert!(rounds(Vec::new()).is_empty());
    }

    #[test]
    fn an_old_copy_comes_after_all_that_know_better_however_many_are_old() {
        let old = disk(1, &[(1, 4), (2, 7)]);
        let knows = disk(2, &[(1, 5), (2, 7)]);
        assert_eq!(
            rounds(vec![old.clone(), knows, disk(3, &[])]),
            [vec![2, 3], vec![1]]
        );
        // The one that knows better of the first is old itself.
        let knows = disk(2, &[(1, 5), (2, 7)]);
        let knows_of_that = disk(3, &[(2, 8)]);
        assert_eq!(
            rounds(vec![old, knows, knows_of_that]),
            [vec![3], vec![2], vec![1]]
        );
    }

    #[test]
    fn disks_that_know_better_of_each_other_do_not_wait_for_ever() {
        let one = disk(1, &[(1, 4), (2, 8)]);
        let two = disk(2, &[(1, 5), (2, 7)]);
        assert_eq!(rounds(vec![one, two]), [[1, 2]]);
    }
}
