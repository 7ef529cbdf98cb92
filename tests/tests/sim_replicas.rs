//! Copies on two simulated disks without crashes: damage, repair, descriptions, graves, clones whose image is elsewhere.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use bedplate_datapath::catalogue::{Conflict, apply, merge};
use bedplate_datapath::rebuild::RebuildRun;
use bedplate_datapath::store::{
    CheckedBlock, Description, FormatParams, Grave, NewIdentity, NewVolume, OpenErrorKind, Parent,
    ReUuidError, RemoveReplica, ReplicaState, SessionStart, Store, StoreErrorKind, format, re_uuid,
};
use bedplate_datapath::units::{DevId, Lcn};
use bedplate_datapath::verify::BlockContent;
use bedplate_tests::sim::content::Content;
use bedplate_tests::sim::disk::{Crash, SimDisk};
use bedplate_tests::sim::node;
use std::sync::Arc;
use uuid::Uuid;

const IMAGE: Uuid = Uuid::from_u128(0x1111);
const REPLICA: Uuid = Uuid::from_u128(0x2222);
const A: Uuid = Uuid::from_u128(0xa);
const B: Uuid = Uuid::from_u128(0xb);
const C: Uuid = Uuid::from_u128(0xc);

fn formatted(uuid: Uuid) -> SimDisk {
    let mut disk = SimDisk::new(64 << 20, 1);
    let params = FormatParams {
        disk_uuid: uuid,
        hardware_id_hash: [7; 32],
        created_unix_s: 1,
    };
    format(&mut disk, &params).unwrap();
    disk
}

fn open(disk: &mut SimDisk) -> Store<&mut SimDisk> {
    let start = SessionStart {
        boot_id: Uuid::from_u128(77),
        diskseq: None,
    };
    let (store, report) = Store::open(disk, &start).unwrap();
    assert!(report.held.is_empty(), "{:?}", report.held);
    store
}

/// 12 clusters and a bit, every third block a hole: two chunks.
fn image() -> Arc<Content> {
    Arc::new(Content::generate(7, 12 * 131_072 + 777, |block| {
        block % 3 != 1
    }))
}

fn describe(store: &mut Store<&mut SimDisk>, members: &[Uuid]) {
    let mut description = store.object(IMAGE).unwrap().description();
    description.generation += 1;
    description.member_disks = members.to_vec();
    store.set_description(IMAGE, &description).unwrap();
}

fn copy(from: &mut Store<&mut SimDisk>, to: &mut Store<&mut SimDisk>) {
    let source = from.object(IMAGE).unwrap().clone();
    let mut run = RebuildRun::begin(to, &source, REPLICA).unwrap();
    while let Some(step) = run.next_step() {
        let chunk = step.read(from).unwrap();
        run.write(to, &chunk).unwrap();
    }
    run.seal(to).unwrap();
}

fn spoil(store: &mut Store<&mut SimDisk>, block: u64) {
    let entry = store
        .map_of(IMAGE)
        .unwrap()
        .get(Lcn::new(u32::try_from(block / 32).unwrap()));
    let at = entry.pcn().offset().plus(block % 32 * 4096);
    store.medium_mut().rot(at, |page| page[100] ^= 0x40);
}

#[test]
fn damage_is_told_block_by_block_and_repaired_from_another_copy() {
    let (mut a, mut b) = (formatted(A), formatted(B));
    let (mut a, mut b) = (open(&mut a), open(&mut b));
    let content = image();
    node::import(&mut a, "image", IMAGE, &content).unwrap();
    describe(&mut a, &[A, B]);
    copy(&mut a, &mut b);
    assert!(node::verify(&mut b, IMAGE).unwrap().is_good());
    assert_eq!(b.object(IMAGE).unwrap().replica_uuid, REPLICA);

    spoil(&mut a, 33);
    let mut bytes = vec![0; 4 * 4096];
    let found = a.read_checked(IMAGE, 32..36, &mut bytes).unwrap();
    let CheckedBlock::Bad(bad) = found[1] else {
        panic!("{found:?}")
    };
    assert_eq!(bad.object_offset.get(), 33 * 4096);
    assert!(matches!(bad.actual, BlockContent::Crc(crc) if crc != bad.expected_crc));
    assert!(matches!(found[0], CheckedBlock::Good { .. }));
    assert!(found.contains(&CheckedBlock::Hole));

    // The wrong bytes are refused, the right ones written, and the checksum is what it was.
    let refused = a.repair_blocks(IMAGE, 33, &bytes[4096..8192]).unwrap();
    assert_eq!((refused.repaired, refused.refused.len()), (0, 1));
    assert!(matches!(
        a.read_checked(IMAGE, 33..34, &mut bytes[..4096]).unwrap()[0],
        CheckedBlock::Bad(_)
    ));
    b.read_checked(IMAGE, 32..36, &mut bytes).unwrap();
    let repair = a.repair_blocks(IMAGE, 32, &bytes).unwrap();
    assert_eq!((repair.refused.len(), repair.still_bad.len()), (0, 0));
    let found = a.read_checked(IMAGE, 33..34, &mut bytes[..4096]).unwrap();
    assert_eq!(
        found,
        [CheckedBlock::Good {
            crc: bad.expected_crc
        }]
    );
    assert!(node::verify(&mut a, IMAGE).unwrap().is_good());
}

#[test]
fn two_sources_with_damage_at_different_places_make_one_good_copy() {
    let (mut a, mut b, mut c) = (formatted(A), formatted(B), formatted(C));
    let (mut a, mut b, mut c) = (open(&mut a), open(&mut b), open(&mut c));
    node::import(&mut a, "image", IMAGE, &image()).unwrap();
    describe(&mut a, &[A, B]);
    copy(&mut a, &mut b);
    describe(&mut a, &[A, B, C]);
    spoil(&mut a, 33);
    spoil(&mut b, 36);

    let source = a.object(IMAGE).unwrap().clone();
    let mut run = RebuildRun::begin(&mut c, &source, Uuid::from_u128(9)).unwrap();
    let step = run.next_step().unwrap();
    let mut chunk = step.read(&mut a).unwrap();
    assert!(!chunk.is_whole());
    assert_eq!(chunk.take_bad_blocks().len(), 1);
    assert_eq!(
        run.write(&mut c, &chunk).unwrap_err().kind(),
        StoreErrorKind::NotComplete
    );
    chunk.fill_from(&mut b).unwrap();
    assert!(
        chunk.is_whole() && chunk.bad_blocks().is_empty(),
        "what is good already is not read again"
    );
    run.write(&mut c, &chunk).unwrap();
    while let Some(step) = run.next_step() {
        let chunk = step.read(&mut b).unwrap();
        run.write(&mut c, &chunk).unwrap();
    }
    run.seal(&mut c).unwrap();
    let report = node::verify(&mut c, IMAGE).unwrap();
    assert!(report.is_good(), "{report:?}");

    // Bad at the same place in both: no copy is made of that.
    spoil(&mut b, 33);
    c.remove_replica(IMAGE, RemoveReplica { other_copies: true })
        .unwrap();
    let mut run = RebuildRun::begin(&mut c, &source, Uuid::from_u128(10)).unwrap();
    let mut chunk = run.next_step().unwrap().read(&mut a).unwrap();
    chunk.fill_from(&mut b).unwrap();
    assert!(!chunk.is_whole());
    assert_eq!(
        run.write(&mut c, &chunk).unwrap_err().kind(),
        StoreErrorKind::NotComplete
    );
    run.abort(&mut c).unwrap();
    assert_eq!(c.free_clusters(), c.total_clusters());
}

#[test]
fn a_copy_that_is_being_made_is_not_served_and_goes_on_after_reopening() {
    let (mut a, mut b) = (formatted(A), formatted(B));
    let mut a = open(&mut a);
    node::import(&mut a, "image", IMAGE, &image()).unwrap();
    let source = a.object(IMAGE).unwrap().clone();
    {
        let mut b = open(&mut b);
        let refused = b.begin_copy(&source, REPLICA).map(drop).unwrap_err();
        assert_eq!(
            refused.kind(),
            StoreErrorKind::BadDescription,
            "it does not name B"
        );
        describe(&mut a, &[A, B]);
        let source = a.object(IMAGE).unwrap().clone();
        let mut run = RebuildRun::begin(&mut b, &source, REPLICA).unwrap();
        let chunk = run.next_step().unwrap().read(&mut a).unwrap();
        run.write(&mut b, &chunk).unwrap();
        run.mark(&mut b).unwrap();
        // Neither served, nor deleted under the run's hands.
        assert_eq!(
            b.map_of(IMAGE).map(drop).unwrap_err().kind(),
            StoreErrorKind::NotComplete
        );
        assert_eq!(b.delete(IMAGE).unwrap_err().kind(), StoreErrorKind::Busy);
        drop(run);
        b.close().unwrap();
    }
    let mut b = open(&mut b);
    let ReplicaState::Building { done_bytes } = b.object(IMAGE).unwrap().state else {
        panic!("{:?}", b.object(IMAGE))
    };
    assert_eq!(done_bytes, 8 * 131_072);
    describe(&mut b, &[A, B]);
    let source = a.object(IMAGE).unwrap().clone();
    let mut run = RebuildRun::resume(&mut b, &source).unwrap();
    assert_eq!(run.done_bytes(), done_bytes);
    assert_eq!(
        b.resume_copy(IMAGE).map(drop).unwrap_err().kind(),
        StoreErrorKind::Busy
    );
    while let Some(step) = run.next_step() {
        let chunk = step.read(&mut a).unwrap();
        run.write(&mut b, &chunk).unwrap();
    }
    run.seal(&mut b).unwrap();
    assert_eq!(
        b.object(IMAGE).unwrap().generation,
        3,
        "a description that came meanwhile stays"
    );
    assert!(node::verify(&mut b, IMAGE).unwrap().is_good());
    assert_eq!(a.free_clusters(), b.free_clusters());
}

#[test]
fn a_description_only_goes_forward() {
    let mut a = formatted(A);
    let mut a = open(&mut a);
    node::import(&mut a, "image", IMAGE, &image()).unwrap();
    let known = a.object(IMAGE).unwrap().description();
    a.set_description(IMAGE, &known).unwrap();
    let change = |generation, wanted_copies, member_disks: &[Uuid]| Description {
        generation,
        wanted_copies,
        member_disks: member_disks.to_vec(),
        dev_id: Some(DevId::new(4)),
        want_attached: true,
    };
    for (description, kind) in [
        (change(1, 2, &[A, B]), StoreErrorKind::Stale),
        (change(2, 0, &[A]), StoreErrorKind::BadDescription),
        (change(2, 1, &[B]), StoreErrorKind::BadDescription),
    ] {
        assert_eq!(
            a.set_description(IMAGE, &description).unwrap_err().kind(),
            kind
        );
    }
    let new = change(2, 2, &[B, A]);
    a.set_description(IMAGE, &new).unwrap();
    let alone = a.set_attachment(IMAGE, DevId::new(4), false).unwrap_err();
    assert_eq!(alone.kind(), StoreErrorKind::BadDescription);
    let disk = a.close().unwrap();
    let a = open(disk);
    assert!(a.object(IMAGE).unwrap().description().says_the_same(&new));
}

#[test]
fn a_grave_takes_the_copys_slot_and_space_and_keeps_the_uuid() {
    let mut a = formatted(A);
    let mut a = open(&mut a);
    node::import(&mut a, "image", IMAGE, &image()).unwrap();
    describe(&mut a, &[A, B]);
    let copy = a.object(IMAGE).unwrap().clone();
    a.bury(&Grave::of(&copy, A, 5)).unwrap();
    assert!(a.object(IMAGE).is_none());
    assert_eq!(a.free_clusters(), a.total_clusters());
    let disk = a.close().unwrap();
    let mut a = open(disk);
    assert_eq!(a.grave(IMAGE).unwrap().pending, [B]);
    assert_eq!(
        a.begin_copy(&copy, REPLICA).map(drop).unwrap_err().kind(),
        StoreErrorKind::Deleted
    );
    // The name is free, the UUID is not.
    let error = node::import(&mut a, "image", IMAGE, &image())
        .unwrap_err()
        .to_string();
    assert!(error.contains("taken"), "{error}");
    node::import(&mut a, "image", Uuid::from_u128(3), &image()).unwrap();
    a.unbury(IMAGE).unwrap();
    assert!(a.graves().next().is_none());
    assert!(node::verify(&mut a, Uuid::from_u128(3)).unwrap().is_good());
}

#[test]
fn a_clone_lives_on_a_disk_that_does_not_have_its_image() {
    let (mut a, mut b) = (formatted(A), formatted(B));
    let (mut a, mut b) = (open(&mut a), open(&mut b));
    node::import(&mut a, "image", IMAGE, &image()).unwrap();
    let clone = |uuid: u128, name: &str| NewVolume {
        name: name.to_owned(),
        object_uuid: Uuid::from_u128(uuid),
        size_bytes: 4 << 20,
        parent: Some(Parent {
            uuid: IMAGE,
            size_bytes: image().size_bytes,
        }),
        created_unix_s: 1,
    };
    let too_small = NewVolume {
        size_bytes: 512,
        ..clone(0x50, "small")
    };
    assert_eq!(
        b.create_volume(too_small).unwrap_err().kind(),
        StoreErrorKind::BadSize
    );
    b.create_volume(clone(0x50, "elsewhere")).unwrap();
    let uuid = Uuid::from_u128(0x50);
    assert_eq!(b.object(uuid).unwrap().parent, Some(IMAGE));
    b.layer_of(uuid, bedplate_datapath::plan::DiskIndex::new(0))
        .unwrap();
    // Zeros instead of the image would be another tenant's nothing: whoever wants both layers here is told.
    let whole = b.layers_of(uuid, bedplate_datapath::plan::DiskIndex::new(0));
    assert_eq!(
        whole.map(drop).unwrap_err().kind(),
        StoreErrorKind::NotFound
    );

    // A copy under a clone goes only if there is another one.
    a.create_volume(clone(0x51, "here")).unwrap();
    let last = RemoveReplica {
        other_copies: false,
    };
    assert_eq!(
        a.remove_replica(IMAGE, last).unwrap_err().kind(),
        StoreErrorKind::Busy
    );
    a.remove_replica(IMAGE, RemoveReplica { other_copies: true })
        .unwrap();
    let disk = a.close().unwrap();
    assert!(
        open(disk)
            .object(Uuid::from_u128(0x51))
            .unwrap()
            .state
            .is_ready()
    );
}

/// A copied disk: an image with a copy elsewhere, one without, a volume, a grave.
fn with_everything() -> SimDisk {
    let mut disk = formatted(A);
    let mut a = open(&mut disk);
    node::import(&mut a, "image", IMAGE, &image()).unwrap();
    describe(&mut a, &[A, B]);
    node::import(&mut a, "alone", Uuid::from_u128(3), &image()).unwrap();
    node::import(&mut a, "gone", Uuid::from_u128(4), &image()).unwrap();
    let mut gone = a.object(Uuid::from_u128(4)).unwrap().clone();
    gone.member_disks.push(C);
    a.bury(&Grave::of(&gone, A, 5)).unwrap();
    let volume = NewVolume {
        name: "volume".to_owned(),
        object_uuid: Uuid::from_u128(5),
        size_bytes: 4 << 20,
        parent: Some(Parent {
            uuid: IMAGE,
            size_bytes: image().size_bytes,
        }),
        created_unix_s: 1,
    };
    a.create_volume(volume).unwrap();
    a.close().unwrap();
    disk
}

fn renew(disk: &mut SimDisk, boot: u128) -> Result<Uuid, ReUuidError> {
    let start = SessionStart {
        boot_id: Uuid::from_u128(boot),
        diskseq: None,
    };
    let new = NewIdentity {
        disk_uuid: C,
        hardware_id_hash: [9; 32],
    };
    let mut next = 0x9000;
    re_uuid(disk, &start, &new, &mut || {
        next += 1;
        Uuid::from_u128(next)
    })
}

fn check_renewed(disk: &mut SimDisk) {
    let mut c = open(disk);
    assert_eq!((c.disk_uuid(), c.hardware_id_hash()), (C, &[9; 32]));
    let with_copies = c.object(IMAGE).unwrap().clone();
    assert_eq!(with_copies.member_disks, [A, B, C]);
    assert!(with_copies.replica_uuid.as_u128() > 0x9000);
    assert_eq!(c.object(Uuid::from_u128(3)).unwrap().member_disks, [C]);
    for image in [IMAGE, Uuid::from_u128(3)] {
        assert!(node::verify(&mut c, image).unwrap().is_good());
    }
    let volume = c.objects().find(|object| object.name == "volume").unwrap();
    assert!(volume.uuid != Uuid::from_u128(5) && volume.state.is_ready());
    assert_eq!(volume.parent, Some(IMAGE));
    assert!(c.grave(Uuid::from_u128(4)).unwrap().pending.is_empty());
    c.close().unwrap();
}

#[test]
fn a_copied_disk_gets_an_identity_of_its_own_and_meets_its_original() {
    let mut original = with_everything();
    let mut copy = original.clone();
    assert_eq!(renew(&mut copy, 78).unwrap(), C);
    check_renewed(&mut copy);
    let (store, report) = Store::open(
        &mut copy,
        &SessionStart {
            boot_id: A,
            diskseq: None,
        },
    )
    .unwrap();
    assert!(report.repairs.is_empty(), "{:?}", report.repairs);
    let (mut a, mut c) = (open(&mut original), store);
    for _ in 0..8 {
        let catalogue = merge(&[a.says(), c.says()]);
        if catalogue.steps.is_empty() {
            assert!(
                catalogue
                    .conflicts
                    .iter()
                    .all(|one| matches!(one, Conflict::Name { .. })),
                "{:?}",
                catalogue.conflicts
            );
            let image = catalogue
                .images
                .iter()
                .find(|image| image.uuid == IMAGE)
                .unwrap();
            assert_eq!(image.description.member_disks, [A, B, C]);
            return;
        }
        for step in &catalogue.steps {
            let store = if step.disk() == A { &mut a } else { &mut c };
            apply(store, step).unwrap();
        }
    }
    panic!("merging does not come to an end");
}

#[test]
fn a_crash_while_a_disk_gets_its_identity_leaves_the_old_or_the_new_disk_or_is_finished() {
    let ready = with_everything();
    let mut whole = ready.clone();
    renew(&mut whole, 78).unwrap();
    let (mut old, mut new, mut mixed) = (0, 0, 0);
    for point in ready.operations()..=whole.operations() {
        for seed in 0..2 {
            let mut disk = ready.clone();
            disk.crash_at(point);
            let _ = renew(&mut disk, 78);
            disk.crash(if seed == 0 {
                Crash::Process
            } else {
                Crash::Power {
                    seed: point * 16 + seed,
                }
            });
            let start = SessionStart {
                boot_id: Uuid::from_u128(79),
                diskseq: None,
            };
            match Store::open(&mut disk.clone(), &start) {
                Ok((mut store, report)) => {
                    assert!(
                        report.held.is_empty(),
                        "operation {point}: {:?}",
                        report.held
                    );
                    if store.disk_uuid() == A {
                        old += 1;
                    } else {
                        new += 1;
                    }
                    assert!(
                        node::verify(&mut store, IMAGE).unwrap().is_good(),
                        "operation {point}"
                    );
                }
                Err(error) => {
                    mixed += 1;
                    assert_eq!(
                        error.kind(),
                        OpenErrorKind::SuperblockLost,
                        "operation {point}: {error}"
                    );
                }
            }
            if Store::open(&mut disk.clone(), &start).is_ok_and(|(store, _)| store.disk_uuid() == C)
            {
                check_renewed(&mut disk);
            } else {
                renew(&mut disk, 80).unwrap_or_else(|error| panic!("operation {point}: {error}"));
                check_renewed(&mut disk);
            }
        }
    }
    println!(
        "{old} were the old disk, {new} the new one, {mixed} neither, and all could be finished"
    );
    assert!(old > 0 && new > 0 && mixed > 0);
}
