//! The merge of what several disks say: what must come of each situation, and what holds for any.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use bedplate_datapath::catalogue::{
    Catalogue, CatalogueState, Conflict, DiskSays, MergeStep, delete_steps, merge,
};
use bedplate_datapath::store::{Damage, Description, Grave, Object, ObjectKind, ReplicaState};
use bedplate_datapath::units::{ByteOffset, DevId, Epoch, SlotIndex};
use proptest::prelude::*;
use uuid::Uuid;

const IMAGE: Uuid = id(0x100);

const fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn copy(image: Uuid, disk: u128, generation: u64, members: &[u128]) -> Object {
    Object {
        kind: ObjectKind::ImageReplica,
        parent: None,
        loss_not_accepted: false,
        slot: SlotIndex::new(1),
        epoch: Epoch::new(1),
        uuid: image,
        replica_uuid: id(image.as_u128() * 1000 + disk),
        name: format!("image-{image}"),
        size_bytes: 1 << 20,
        sha256: [1; 32],
        sha512: [2; 64],
        stored_clusters: 8,
        tree_clusters: 4,
        wanted_copies: 2,
        source: String::new(),
        created_unix_s: 1,
        dev_id: None,
        want_attached: false,
        generation,
        member_disks: members.iter().copied().map(id).collect(),
        state: ReplicaState::Ready,
    }
}

fn says(disk: u128, objects: Vec<Object>) -> DiskSays {
    DiskSays {
        disk: id(disk),
        session: 5,
        // They know each other: what is not about peers shall not tell of them.
        peers: (1..=6).map(|peer| (id(peer), 5)).collect(),
        is_writable: true,
        objects,
        graves: Vec::new(),
    }
}

fn grave(pending: &[u128]) -> Grave {
    Grave {
        object_uuid: IMAGE,
        name: "gone".to_owned(),
        generation: 3,
        deleted_unix_s: 9,
        pending: pending.iter().copied().map(id).collect(),
    }
}

/// What a store does with a step, and what it would refuse.
fn apply(disks: &mut [DiskSays], step: &MergeStep) {
    let says = disks
        .iter_mut()
        .find(|says| says.disk == step.disk())
        .unwrap();
    assert!(
        says.is_writable,
        "a step for a disk that takes none: {step:?}"
    );
    match step {
        MergeStep::NotePeers { sessions, .. } => {
            for (peer, session) in sessions {
                says.peers.retain(|(known, _)| known != peer);
                says.peers.push((*peer, *session));
            }
            says.peers.sort_unstable();
        }
        MergeStep::Bury { disk, grave } => {
            let mut grave = grave.clone();
            grave.pending.retain(|pending| pending != disk);
            grave.pending.sort_unstable();
            assert!(grave.pending.len() <= 16);
            let uuid = grave.object_uuid;
            let known = says
                .graves
                .iter_mut()
                .find(|known| known.object_uuid == uuid);
            if let Some(known) = known {
                *known = grave;
            } else {
                says.objects.retain(|object| object.uuid != uuid);
                says.graves.push(grave);
            }
        }
        MergeStep::RemoveReplica { uuid, .. } => {
            assert!(
                says.objects
                    .iter()
                    .all(|object| object.parent != Some(*uuid))
            );
            says.objects.retain(|object| object.uuid != *uuid);
        }
        MergeStep::Unbury { uuid, .. } => says.graves.retain(|grave| grave.object_uuid != *uuid),
        MergeStep::SetDescription {
            disk,
            uuid,
            description,
        } => {
            let object = says
                .objects
                .iter_mut()
                .find(|object| object.uuid == *uuid)
                .unwrap();
            assert!(
                description.generation > object.generation,
                "refused as stale: {step:?}"
            );
            assert!(
                description.member_disks.contains(disk) && description.member_disks.len() <= 16
            );
            object.generation = description.generation;
            object.wanted_copies = description.wanted_copies;
            object.member_disks.clone_from(&description.member_disks);
            object.dev_id = description.dev_id;
            object.want_attached = description.want_attached;
        }
    }
}

/// Merges and applies until there is nothing to do.
fn settle(disks: &mut [DiskSays]) -> Catalogue {
    for _ in 0..10 {
        let catalogue = merge(disks);
        if catalogue.steps.is_empty() {
            return catalogue;
        }
        for step in &catalogue.steps {
            apply(disks, step);
        }
    }
    panic!("ten rounds, and still steps: {:?}", merge(disks).steps);
}

fn states(catalogue: &Catalogue) -> Vec<(u128, CatalogueState)> {
    let [image] = catalogue.images.as_slice() else {
        panic!("one image wanted: {:?}", catalogue.images)
    };
    let replicas = image.replicas.iter();
    replicas
        .map(|replica| (replica.disk.as_u128(), replica.state.clone()))
        .collect()
}

#[test]
fn a_late_disk_is_unknown_and_then_ready_and_nothing_is_written() {
    let (a, b) = (copy(IMAGE, 1, 2, &[1, 2]), copy(IMAGE, 2, 2, &[1, 2]));
    let early = merge(&[says(1, vec![a.clone()])]);
    assert_eq!(
        states(&early),
        [(1, CatalogueState::Ready), (2, CatalogueState::Unknown)]
    );
    let both = merge(&[says(1, vec![a]), says(2, vec![b])]);
    assert_eq!(
        states(&both),
        [(1, CatalogueState::Ready), (2, CatalogueState::Ready)]
    );
    assert!(early.steps.is_empty() && both.steps.is_empty() && both.conflicts.is_empty());
}

#[test]
fn the_newer_description_is_written_over_the_older_one() {
    let mut newer = copy(IMAGE, 1, 3, &[1, 2]);
    newer.wanted_copies = 1;
    newer.dev_id = Some(DevId::new(7));
    let mut disks = [
        says(2, vec![copy(IMAGE, 2, 2, &[1, 2])]),
        says(1, vec![newer.clone()]),
    ];
    let catalogue = merge(&disks);
    let [
        MergeStep::SetDescription {
            disk, description, ..
        },
    ] = catalogue.steps.as_slice()
    else {
        panic!("{:?}", catalogue.steps)
    };
    assert_eq!((*disk, description), (id(2), &newer.description()));
    settle(&mut disks);
    assert_eq!(disks[0].objects[0].description(), newer.description());
}

#[test]
fn two_disks_that_were_used_apart_agree_on_the_greater_replicas_description() {
    let (mut a, mut b) = (copy(IMAGE, 1, 4, &[1, 2]), copy(IMAGE, 2, 4, &[1, 2]));
    (a.want_attached, b.wanted_copies) = (true, 1);
    let mut disks = [says(1, vec![a]), says(2, vec![b.clone()])];
    let first = merge(&disks);
    assert!(
        matches!(first.conflicts[..], [Conflict::Descriptions { holds, .. }] if holds == id(2))
    );
    let settled = settle(&mut disks);
    let expected = Description {
        generation: 5,
        ..b.description()
    };
    assert!(
        disks
            .iter()
            .all(|says| says.objects[0].description() == expected)
    );
    assert!(settled.conflicts.is_empty());
}

#[test]
fn a_replica_that_differs_is_refused_and_not_merged() {
    let mut odd = copy(IMAGE, 2, 9, &[1, 2]);
    odd.sha256 = [9; 32];
    odd.state = ReplicaState::Building { done_bytes: 0 };
    let catalogue = merge(&[
        says(1, vec![copy(IMAGE, 1, 2, &[1, 2])]),
        says(2, vec![odd]),
    ]);
    assert_eq!(
        states(&catalogue),
        [(1, CatalogueState::Ready), (2, CatalogueState::Foreign)]
    );
    assert!(catalogue.conflicts.contains(&Conflict::Identity {
        uuid: IMAGE,
        disk: id(2)
    }));
    assert!(catalogue.steps.is_empty(), "{:?}", catalogue.steps);
}

#[test]
fn a_named_disk_without_a_copy_is_pending_and_stays_named() {
    let mut disks = vec![says(1, vec![copy(IMAGE, 1, 2, &[1, 2])]), says(2, vec![])];
    assert_eq!(
        states(&settle(&mut disks)),
        [(1, CatalogueState::Ready), (2, CatalogueState::Pending)]
    );
    disks.push(says(3, vec![copy(IMAGE, 3, 2, &[1, 2, 3])]));
    // Though there are enough: a drain names a disk before the copy on it is begun.
    let settled = settle(&mut disks);
    assert_eq!(
        states(&settled),
        [
            (1, CatalogueState::Ready),
            (2, CatalogueState::Pending),
            (3, CatalogueState::Ready)
        ]
    );
}

#[test]
fn an_image_that_was_deleted_while_a_disk_was_away_is_gone_when_it_comes() {
    let mut disks = vec![
        says(1, vec![copy(IMAGE, 1, 2, &[1, 2, 3])]),
        says(2, vec![copy(IMAGE, 2, 2, &[1, 2, 3])]),
    ];
    for step in delete_steps(&merge(&disks), IMAGE, 9) {
        apply(&mut disks, &step);
        assert!(
            merge(&disks).images.is_empty(),
            "deleted from the first step on"
        );
    }
    let settled = settle(&mut disks);
    assert!(settled.images.is_empty());
    assert_eq!(settled.deleted[0].pending, [id(3)]);
    // The one that comes late has not heard of it, even with a newer description.
    disks.push(says(3, vec![copy(IMAGE, 3, 8, &[1, 2, 3])]));
    let settled = settle(&mut disks);
    assert!(settled.images.is_empty() && settled.deleted.is_empty());
    assert!(
        disks
            .iter()
            .all(|says| says.objects.is_empty() && says.graves.is_empty())
    );
}

/// What a disk tells of a slot that it cannot read.
fn lost_slot(disk: u128) -> Object {
    let mut lost = copy(id(0x900 + disk), disk, 0, &[disk]);
    "lost-slot-3".clone_into(&mut lost.name);
    let at = ByteOffset::new(4096);
    lost.state = ReplicaState::Failed(Damage::SlotConflict { at });
    lost
}

#[test]
fn a_deleted_image_does_not_come_back_from_a_slot_that_could_not_be_read() {
    let mut disks = vec![
        says(1, vec![copy(IMAGE, 1, 2, &[1, 2])]),
        says(2, vec![lost_slot(2)]),
    ];
    let before = settle(&mut disks);
    // It may be there: nobody makes it anew, or takes its name off.
    let expected = [(1, CatalogueState::Ready), (2, CatalogueState::Hidden)];
    let image = before.images.iter().find(|image| image.uuid == IMAGE);
    let seen = &image.unwrap().replicas;
    let seen = seen
        .iter()
        .map(|replica| (replica.disk.as_u128(), replica.state.clone()));
    assert_eq!(seen.collect::<Vec<_>>(), expected);
    for step in delete_steps(&before, IMAGE, 9) {
        apply(&mut disks, &step);
    }
    let settled = settle(&mut disks);
    assert_eq!(settled.deleted[0].pending, [id(2)]);
    // The disk is cured, and the slot was the copy.
    disks[1].objects = vec![copy(IMAGE, 2, 2, &[1, 2])];
    let settled = settle(&mut disks);
    assert!(settled.images.is_empty() && settled.deleted.is_empty());
    assert!(disks[1].objects.is_empty());
}

#[test]
fn a_disk_whose_lost_slot_was_given_up_was_told() {
    let mut disks = vec![says(1, vec![]), says(2, vec![lost_slot(2)])];
    disks[0].graves.push(grave(&[2]));
    assert_eq!(settle(&mut disks).deleted[0].pending, [id(2)]);
    disks[1].objects.clear();
    assert!(settle(&mut disks).deleted.is_empty());
}

#[test]
fn disks_that_only_the_late_copy_names_are_told_as_well() {
    // Disk 3 has made disk 4 a member, and disk 1 has not heard of it when the image is deleted.
    let mut disks = vec![
        says(1, vec![]),
        says(3, vec![copy(IMAGE, 3, 5, &[1, 3, 4])]),
    ];
    disks[0].graves.push(grave(&[3]));
    let settled = settle(&mut disks);
    assert_eq!(settled.deleted[0].pending, [id(4)]);
    assert_eq!(disks[1].graves.len(), 1, "the late disk remembers it too");
    // The first one is lost: the late one still knows.
    let mut disks = vec![
        disks.remove(1),
        says(4, vec![copy(IMAGE, 4, 5, &[1, 3, 4])]),
    ];
    assert!(settle(&mut disks).images.is_empty());
    assert!(disks.iter().all(|says| says.objects.is_empty()));
}

#[test]
fn a_clone_that_comes_late_keeps_the_copies_of_its_deleted_image() {
    let mut clone = copy(id(0x200), 2, 1, &[2]);
    (clone.kind, clone.parent) = (ObjectKind::Volume, Some(IMAGE));
    let mut disks = vec![
        says(1, vec![]),
        says(2, vec![copy(IMAGE, 2, 2, &[1, 2]), clone]),
    ];
    disks[0].graves.push(grave(&[2]));
    let settled = settle(&mut disks);
    assert!(settled.images.is_empty(), "deleted stays deleted");
    assert!(matches!(
        settled.conflicts[..],
        [Conflict::CloneOfDeleted { .. }]
    ));
    assert_eq!(disks[1].objects.len(), 2);
    disks[1]
        .objects
        .retain(|object| object.kind != ObjectKind::Volume);
    settle(&mut disks);
    assert!(disks[1].objects.is_empty() && disks[0].graves.is_empty());
}

#[test]
fn a_disk_notes_its_session_before_others_are_told_and_they_tell_each_other() {
    let mut disks = [says(1, vec![]), says(2, vec![]), says(3, vec![])];
    disks[0].peers = vec![(id(1), 5), (id(9), 7)];
    disks[1].session = 6;
    let first = merge(&disks);
    for step in &first.steps {
        let MergeStep::NotePeers { disk, sessions } = step else {
            panic!("{step:?}")
        };
        assert!(
            *disk == id(2) || !sessions.contains(&(id(2), 6)),
            "{step:?}"
        );
    }
    settle(&mut disks);
    for says in &disks {
        assert!(says.peers.contains(&(id(2), 6)) && says.peers.contains(&(id(9), 7)));
    }
}

#[test]
fn an_old_copy_of_a_disk_is_not_believed() {
    let mut old = says(
        2,
        vec![copy(IMAGE, 2, 2, &[1, 2]), copy(id(0x300), 2, 9, &[2])],
    );
    old.session = 9;
    old.peers = vec![(id(2), 4)];
    let now = says(1, vec![copy(IMAGE, 1, 1, &[1, 2])]);
    let catalogue = merge(&[old.clone(), now]);
    assert_eq!(
        (catalogue.stale[0].disk, catalogue.stale[0].known_session),
        (id(2), 5)
    );
    assert!(catalogue.steps.is_empty());
    let image = &catalogue.images[0];
    assert_eq!(image.replicas[1].state, CatalogueState::Stale);
    assert_eq!(image.description.generation, 1);
    assert_eq!(catalogue.images[1].replicas[0].state, CatalogueState::Stale);
    // Alone, nobody can tell.
    assert!(merge(&[old]).stale.is_empty());
}

fn replica_state() -> impl Strategy<Value = ReplicaState> {
    prop_oneof![
        4 => Just(ReplicaState::Ready),
        1 => Just(ReplicaState::Building { done_bytes: 4096 }),
        1 => Just(ReplicaState::Failed(Damage::SlotConflict { at: ByteOffset::new(4096) })),
    ]
}

fn any_copy(image: u128, disk: u128) -> impl Strategy<Value = Object> {
    let members = proptest::collection::btree_set(1u128..=5, 0..5);
    (members, 1u64..4, 1u32..4, any::<bool>(), replica_state()).prop_map(
        move |(mut members, generation, wanted, attached, state)| {
            members.insert(disk);
            let members: Vec<u128> = members.into_iter().collect();
            let mut copy = copy(id(image), disk, generation, &members);
            (copy.wanted_copies, copy.want_attached, copy.state) = (wanted, attached, state);
            copy
        },
    )
}

fn any_grave(image: u128) -> impl Strategy<Value = Grave> {
    proptest::collection::btree_set(1u128..=5, 0..4).prop_map(move |pending| Grave {
        object_uuid: id(image),
        ..grave(&pending.into_iter().collect::<Vec<_>>())
    })
}

fn any_disk(disk: u128) -> impl Strategy<Value = DiskSays> {
    let copies: Vec<_> = (0x100..0x104)
        .map(|image| proptest::option::weighted(0.6, any_copy(image, disk)))
        .collect();
    let graves: Vec<_> = (0x100..0x104)
        .map(|image| proptest::option::weighted(0.1, any_grave(image)))
        .collect();
    let peers = proptest::collection::btree_map(1u128..=5, 3u64..7, 0..4);
    (
        copies,
        graves,
        peers,
        4u64..7,
        proptest::bool::weighted(0.9),
    )
        .prop_map(move |(copies, graves, peers, session, is_writable)| {
            let mut says = says(disk, copies.into_iter().flatten().collect());
            says.graves = graves.into_iter().flatten().collect();
            for grave in &mut says.graves {
                grave.pending.retain(|pending| *pending != id(disk));
            }
            says.peers = peers
                .into_iter()
                .filter(|(peer, noted)| *peer != disk || *noted <= session)
                .map(|(peer, session)| (id(peer), session))
                .collect();
            (says.session, says.is_writable) = (session, is_writable);
            says
        })
}

fn any_disks() -> impl Strategy<Value = Vec<DiskSays>> {
    let disks: Vec<_> = (1..=4)
        .map(|disk| proptest::option::weighted(0.8, any_disk(disk)))
        .collect();
    disks.prop_map(|disks| disks.into_iter().flatten().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_order_of_the_disks_makes_no_difference(disks in any_disks(), turn in 0usize..4) {
        let mut other = disks.clone();
        other.reverse();
        if !other.is_empty() {
            let turn = turn % other.len();
            other.rotate_left(turn);
        }
        prop_assert_eq!(merge(&disks), merge(&other));
    }

    /// Whatever part of the steps is done before a crash, in whatever state the rest is.
    #[test]
    fn steps_come_to_an_end_wherever_they_are_cut(disks in any_disks(), cuts in proptest::collection::vec(0usize..9, 0..6)) {
        let mut disks = disks;
        for cut in cuts {
            for step in merge(&disks).steps.iter().take(cut) {
                apply(&mut disks, step);
            }
        }
        let settled = settle(&mut disks);
        prop_assert_eq!(&settled, &merge(&disks));
    }

    #[test]
    fn what_one_believed_disk_knows_to_be_deleted_is_deleted(disks in any_disks(), cuts in proptest::collection::vec(0usize..9, 0..4)) {
        let mut disks = disks;
        let stale: Vec<Uuid> = merge(&disks).stale.iter().map(|stale| stale.disk).collect();
        let deleted: Vec<Uuid> = disks
            .iter()
            .filter(|says| !stale.contains(&says.disk))
            .flat_map(|says| says.graves.iter().map(|grave| grave.object_uuid))
            .collect();
        for cut in cuts {
            let catalogue = merge(&disks);
            for image in &catalogue.images {
                let shown = image.replicas.iter().any(|replica| replica.state != CatalogueState::Stale);
                prop_assert!(!(deleted.contains(&image.uuid) && shown));
            }
            for step in catalogue.steps.iter().take(cut) {
                apply(&mut disks, step);
            }
        }
        settle(&mut disks);
        for says in disks.iter().filter(|says| says.is_writable && !stale.contains(&says.disk)) {
            for object in &says.objects {
                prop_assert!(!deleted.contains(&object.uuid), "{} is back on {}", object.uuid, says.disk);
            }
        }
    }

    /// Copies go only by word of a grave; and what is Stale is neither served nor changed.
    #[test]
    fn machinery_removes_no_copy_of_an_image_that_lives(disks in any_disks()) {
        let catalogue = merge(&disks);
        for step in &catalogue.steps {
            prop_assert!(catalogue.stale.iter().all(|stale| stale.disk != step.disk()));
            if let MergeStep::RemoveReplica { uuid, .. } | MergeStep::Bury { grave: Grave { object_uuid: uuid, .. }, .. } = step {
                prop_assert!(catalogue.deleted.iter().any(|grave| grave.object_uuid == *uuid));
            }
        }
        for image in &catalogue.images {
            for replica in &image.replicas {
                let is_stale = catalogue.stale.iter().any(|stale| stale.disk == replica.disk);
                prop_assert!(!is_stale || replica.state == CatalogueState::Stale);
            }
        }
    }

    #[test]
    fn the_description_of_the_highest_generation_holds(disks in any_disks()) {
        let catalogue = merge(&disks);
        for image in &catalogue.images {
            let believed = |says: &&DiskSays| catalogue.stale.iter().all(|stale| stale.disk != says.disk);
            let copies: Vec<&Object> = disks
                .iter()
                .filter(believed)
                .flat_map(|says| says.objects.iter().filter(|object| object.uuid == image.uuid))
                .collect();
            let Some(highest) = copies.iter().max_by_key(|copy| (copy.generation, copy.replica_uuid)) else { continue };
            prop_assert_eq!(image.description.wanted_copies, highest.wanted_copies);
            prop_assert_eq!(image.description.want_attached, highest.want_attached);
            prop_assert!(image.description.generation >= highest.generation);
            for copy in copies {
                prop_assert!(image.description.member_disks.iter().any(|disk| image.replicas.iter().any(|replica| replica.disk == *disk && replica.replica_uuid == Some(copy.replica_uuid))));
            }
        }
    }
}
