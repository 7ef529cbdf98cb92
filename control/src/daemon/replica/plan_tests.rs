//! Each rule of the plan, with its threshold. Time is a number.

use super::*;
use proptest_free::Random;

const GRACE: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::from_secs(1000);
const READY: CopyState = CopyState::Ready;
const BUILDING: CopyState = CopyState::Building { working: false };
const WORKING: CopyState = CopyState::Building { working: true };

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// Disks 1, 2, ... with that much room.
fn disks(room: &[u64]) -> Vec<DiskNow> {
    (1..)
        .zip(room)
        .map(|(number, room)| DiskNow {
            uuid: id(number),
            standing: Standing::Usable,
            room_bytes: *room,
            draining: false,
        })
        .collect()
}

fn image(wanted: u32, members: &[u128], copies: &[(u128, CopyState)]) -> ImageNow {
    ImageNow {
        uuid: id(100),
        wanted,
        members: members.iter().map(|disk| id(*disk)).collect(),
        copies: copies
            .iter()
            .map(|(disk, state)| CopyNow {
                disk: id(*disk),
                state: *state,
                clones: 0,
            })
            .collect(),
        needs_bytes: 10,
        backing_off: Vec::new(),
    }
}

fn situation(disks: Vec<DiskNow>, image: ImageNow) -> Situation {
    Situation {
        disks,
        images: vec![image],
        now: NOW,
        grace: GRACE,
    }
}

fn name(disk: u128) -> Action {
    Action::Name {
        image: id(100),
        disk: id(disk),
    }
}

fn build(disk: u128) -> Action {
    Action::Build {
        image: id(100),
        disk: id(disk),
    }
}

fn remove(disk: u128, why: Why) -> Action {
    Action::Remove {
        image: id(100),
        disk: id(disk),
        why,
    }
}

fn unname(disk: u128) -> Action {
    Action::Unname {
        image: id(100),
        disk: id(disk),
    }
}

fn actions(disks: Vec<DiskNow>, image: ImageNow) -> Vec<Action> {
    plan(&situation(disks, image)).actions
}

fn blocked(disks: Vec<DiskNow>, image: ImageNow) -> Option<Blocked> {
    plan(&situation(disks, image))
        .blocked
        .first()
        .map(|(_, why)| *why)
}

#[test]
fn an_image_with_what_it_wants_is_left_alone() {
    let image = image(2, &[1, 2], &[(1, READY), (2, READY)]);
    assert_eq!(
        plan(&situation(disks(&[50, 50, 50]), image)),
        Plan::default()
    );
}

#[test]
fn copies_go_to_the_disks_with_most_room_and_never_two_to_one() {
    let image = image(3, &[1], &[(1, READY)]);
    assert_eq!(
        actions(disks(&[900, 20, 500, 300]), image.clone()),
        [name(3), name(4)]
    );
    // Equal room: always the same one.
    assert_eq!(actions(disks(&[0, 70, 70, 70]), image), [name(2), name(3)]);
}

#[test]
fn a_disk_without_room_is_no_place_and_exactly_enough_is() {
    let image = image(2, &[1], &[(1, READY)]);
    assert_eq!(actions(disks(&[50, 9]), image.clone()), []);
    assert_eq!(
        blocked(disks(&[50, 9]), image.clone()),
        Some(Blocked::NoPlace { missing: 1 })
    );
    assert_eq!(actions(disks(&[50, 10]), image), [name(2)]);
}

#[test]
fn room_is_promised_once() {
    let mut both = situation(disks(&[50, 15]), image(2, &[1], &[(1, READY)]));
    let mut other = both.images[0].clone();
    other.uuid = id(101);
    both.images.push(other);
    let plan = plan(&both);
    assert_eq!(plan.actions, [name(2)]);
    assert_eq!(plan.blocked, [(id(101), Blocked::NoPlace { missing: 1 })]);
}

#[test]
fn more_copies_than_disks_gives_what_there_is_and_says_how_many_are_missing() {
    let image = image(5, &[1], &[(1, READY)]);
    let plan = plan(&situation(disks(&[50, 50, 50]), image));
    assert_eq!(plan.actions, [name(2), name(3)]);
    assert_eq!(plan.blocked, [(id(100), Blocked::NoPlace { missing: 2 })]);
}

#[test]
fn a_named_disk_without_a_copy_is_built_and_a_copy_at_work_is_not_begun_twice() {
    let wanted = image(2, &[1, 2], &[(1, READY)]);
    assert_eq!(actions(disks(&[50, 50, 50]), wanted), [build(2)]);
    let half = image(2, &[1, 2], &[(1, READY), (2, BUILDING)]);
    assert_eq!(actions(disks(&[50, 50, 50]), half), [build(2)]);
    let at_work = image(2, &[1, 2], &[(1, READY), (2, WORKING)]);
    assert_eq!(
        plan(&situation(disks(&[50, 50, 50]), at_work)),
        Plan::default()
    );
}

#[test]
fn nothing_is_begun_while_a_disk_is_within_its_grace_time_and_a_copy_elsewhere_at_its_end() {
    let image = image(2, &[1, 2], &[(1, READY)]);
    let mut disks = disks(&[50, 50, 50]);
    let since = Duration::from_secs(900);
    disks[1].standing = Standing::Away(since);
    let mut situation = situation(disks, image);
    situation.now = since + Duration::from_millis(59_999);
    let waiting = plan(&situation);
    assert_eq!(waiting.actions, []);
    assert_eq!(waiting.blocked, [(id(100), Blocked::Late(id(2)))]);
    assert_eq!(next_look(&situation), Some(since + GRACE));
    situation.now = since + GRACE;
    assert_eq!(plan(&situation).actions, [name(3)]);
    assert_eq!(next_look(&situation), None);
}

#[test]
fn a_late_disk_also_holds_up_removals_and_builds() {
    for copies in [
        vec![(1, READY), (3, READY)],
        vec![(1, READY), (3, BUILDING)],
    ] {
        let mut disks = disks(&[50, 50, 50]);
        disks[1].standing = Standing::Away(NOW);
        assert_eq!(actions(disks, image(1, &[1, 2, 3], &copies)), []);
    }
}

#[test]
fn a_late_disk_of_another_image_holds_up_nothing() {
    let mut disks = disks(&[50, 50, 50]);
    disks[2].standing = Standing::Away(NOW);
    assert_eq!(actions(disks, image(2, &[1], &[(1, READY)])), [name(2)]);
}

#[test]
fn when_a_disk_that_was_replaced_comes_back_one_extra_goes_the_one_on_the_fullest_disk() {
    let back = image(2, &[1, 2, 3], &[(1, READY), (2, READY), (3, READY)]);
    assert_eq!(actions(disks(&[50, 5, 30]), back), [remove(2, Why::Extra)]);
}

#[test]
fn an_extra_copy_that_volumes_read_from_is_kept_if_another_can_go() {
    let mut back = image(2, &[1, 2, 3], &[(1, READY), (2, READY), (3, READY)]);
    back.copies[1].clones = 4;
    assert_eq!(actions(disks(&[50, 5, 30]), back), [remove(3, Why::Extra)]);
}

#[test]
fn lowering_three_to_one_keeps_one_ready_copy() {
    let image = image(1, &[1, 2, 3], &[(1, READY), (2, READY), (3, READY)]);
    assert_eq!(
        actions(disks(&[50, 60, 70]), image),
        [remove(1, Why::Extra), remove(2, Why::Extra)]
    );
}

#[test]
fn what_is_not_ready_never_makes_a_ready_copy_an_extra() {
    for other in [BUILDING, WORKING, CopyState::Damaged, CopyState::Failed] {
        let image = image(1, &[1, 2], &[(1, READY), (2, other)]);
        let actions = actions(disks(&[1, 50]), image);
        assert!(!actions.contains(&remove(1, Why::Extra)), "{other:?}");
    }
}

#[test]
fn the_last_ready_copy_stays_even_on_a_disk_that_is_drained() {
    let mut disks = disks(&[50]);
    disks[0].draining = true;
    let image = image(1, &[1], &[(1, READY)]);
    assert_eq!(actions(disks.clone(), image.clone()), []);
    assert_eq!(blocked(disks, image), Some(Blocked::NoPlace { missing: 1 }));
}

#[test]
fn an_unfinished_copy_that_is_not_wanted_any_more_goes() {
    let half = image(1, &[1, 2], &[(1, READY), (2, WORKING)]);
    assert_eq!(actions(disks(&[50, 50]), half), [remove(2, Why::Extra)]);
    let named = image(1, &[1, 2], &[(1, READY)]);
    assert_eq!(actions(disks(&[50, 50]), named), [unname(2)]);
    // Of two on their way one is enough: the one that is furthest.
    let two = image(2, &[1, 2, 3], &[(1, READY), (3, WORKING)]);
    assert_eq!(actions(disks(&[50, 50, 50]), two), [unname(2)]);
}

#[test]
fn a_drain_makes_the_copy_elsewhere_first_and_then_removes_it() {
    let mut disks = disks(&[50, 50]);
    disks[0].draining = true;
    let before = image(1, &[1], &[(1, READY)]);
    assert_eq!(actions(disks.clone(), before), [name(2)]);
    let meanwhile = image(1, &[1, 2], &[(1, READY), (2, WORKING)]);
    assert_eq!(actions(disks.clone(), meanwhile), []);
    let after = image(1, &[1, 2], &[(1, READY), (2, READY)]);
    assert_eq!(actions(disks, after), [remove(1, Why::Drained)]);
}

#[test]
fn a_disk_that_is_drained_gets_nothing_and_loses_what_is_unfinished() {
    let mut disks = disks(&[50, 500, 40]);
    disks[1].draining = true;
    assert_eq!(
        actions(disks.clone(), image(2, &[1], &[(1, READY)])),
        [name(3)]
    );
    let half = image(2, &[1, 2], &[(1, READY), (2, WORKING)]);
    assert_eq!(actions(disks, half), [remove(2, Why::Drained), name(3)]);
}

#[test]
fn without_a_ready_copy_nothing_is_made_and_nothing_goes() {
    for state in [CopyState::Damaged, CopyState::Failed, BUILDING] {
        let image = image(2, &[1, 2], &[(1, state)]);
        let plan = plan(&situation(disks(&[50, 50, 50]), image));
        assert_eq!(plan.actions, [], "{state:?}");
        assert_eq!(plan.blocked, [(id(100), Blocked::NoSource)]);
    }
}

#[test]
fn a_damaged_copy_is_not_replaced_and_a_failed_one_is_and_stays() {
    let damaged = image(2, &[1, 2], &[(1, READY), (2, CopyState::Damaged)]);
    assert_eq!(actions(disks(&[50, 50, 50]), damaged), []);
    let failed = image(2, &[1, 2], &[(1, READY), (2, CopyState::Failed)]);
    assert_eq!(actions(disks(&[50, 50, 50]), failed), [name(3)]);
    let replaced = image(
        2,
        &[1, 2, 3],
        &[(1, READY), (2, CopyState::Failed), (3, READY)],
    );
    assert_eq!(actions(disks(&[50, 50, 50]), replaced), []);
}

#[test]
fn a_failed_copy_is_tried_again_when_its_time_has_come_and_not_a_moment_before() {
    let mut image = image(2, &[1, 2], &[(1, READY)]);
    image.backing_off = vec![(id(2), NOW + Duration::from_millis(1))];
    let mut situation = situation(disks(&[50, 50]), image);
    let waiting = plan(&situation);
    assert_eq!(waiting.actions, []);
    let until = NOW + Duration::from_millis(1);
    assert_eq!(waiting.blocked, [(id(100), Blocked::BackingOff(until))]);
    assert_eq!(next_look(&situation), Some(until));
    situation.now = until;
    assert_eq!(plan(&situation).actions, [build(2)]);
}

#[test]
fn a_disk_that_takes_no_changes_serves_as_a_source_and_is_never_changed() {
    let mut disks = disks(&[50, 50, 50]);
    disks[0].standing = Standing::ReadOnly;
    assert_eq!(
        actions(disks.clone(), image(2, &[1], &[(1, READY)])),
        [name(2)]
    );
    let extra = image(1, &[1, 2], &[(1, READY), (2, READY)]);
    // The fullest one is the read-only one, so it is the other one that goes.
    disks[0].room_bytes = 1;
    assert_eq!(actions(disks, extra), [remove(2, Why::Extra)]);
}

#[test]
fn a_description_that_is_full_names_no_more() {
    let members: Vec<u128> = (1..=16).collect();
    let image = image(
        17,
        &members,
        &members
            .iter()
            .map(|disk| (*disk, READY))
            .collect::<Vec<_>>(),
    );
    assert_eq!(actions(disks(&[50; 20]), image), []);
}

/// Whatever the situation: a Ready copy stays, no disk gets two, and a plan that is carried out leads to rest.
#[test]
fn carried_out_again_and_again_it_comes_to_rest_with_a_ready_copy() {
    for seed in 0..2000 {
        let mut random = Random(seed);
        let count = 1 + random.below(5);
        let mut disks = disks(&vec![0; usize::try_from(count).unwrap()]);
        for disk in &mut disks {
            disk.room_bytes = random.below(40);
            disk.draining = random.below(5) == 0;
            disk.standing = match random.below(6) {
                0 => Standing::ReadOnly,
                1 => Standing::Away(Duration::from_secs(random.below(1000))),
                _ => Standing::Usable,
            };
        }
        let mut one = image(u32::try_from(1 + random.below(4)).unwrap(), &[], &[]);
        for disk in &disks {
            let state = match random.below(6) {
                0 | 1 => READY,
                2 => BUILDING,
                3 => CopyState::Damaged,
                4 => CopyState::Failed,
                _ => continue,
            };
            one.members.push(disk.uuid);
            one.copies.push(CopyNow {
                disk: disk.uuid,
                state,
                clones: 0,
            });
        }
        let mut situation = situation(disks, one);
        let ready = |situation: &Situation| {
            situation.images[0]
                .copies
                .iter()
                .filter(|copy| copy.state == READY)
                .count()
        };
        let before = ready(&situation);
        let mut rounds = 0;
        loop {
            let plan = plan(&situation);
            if plan.actions.is_empty() {
                break;
            }
            rounds += 1;
            assert!(rounds < 20, "seed {seed}: {plan:?} {situation:?}");
            for action in plan.actions {
                carry_out(&mut situation.images[0], action, seed);
            }
            assert!(before == 0 || ready(&situation) > 0, "seed {seed}");
        }
    }
}

fn carry_out(image: &mut ImageNow, action: Action, seed: u64) {
    match action {
        Action::Name { disk, .. } => {
            assert!(!image.members.contains(&disk), "seed {seed}");
            image.members.push(disk);
        }
        Action::Build { disk, .. } => {
            image
                .copies
                .retain(|copy| copy.disk != disk || copy.state == BUILDING);
            image.copies.retain(|copy| copy.disk != disk);
            image.copies.push(CopyNow {
                disk,
                state: READY,
                clones: 0,
            });
        }
        Action::Remove { disk, .. } => {
            image.copies.retain(|copy| copy.disk != disk);
            image.members.retain(|member| *member != disk);
        }
        Action::Unname { disk, .. } => image.members.retain(|member| *member != disk),
    }
}

/// A generator that needs no crate: splitmix64.
mod proptest_free {
    pub struct Random(pub u64);

    impl Random {
        pub fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (word ^ (word >> 31)) % limit
        }
    }
}
