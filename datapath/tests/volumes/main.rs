//! Volumes end to end on a disk in memory: written, committed, opened again after each way of going down. Crashes at every step are the
//! simulator's business (`tests/`); here stands what must work at all.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod node;
mod returned;
mod room;
mod unread;

use std::sync::atomic::Ordering;

use bedplate_datapath::plan::DiskIndex;
use bedplate_datapath::store::{NewVolume, Store, StoreErrorKind};
use bedplate_datapath::units::ByteOffset;
use bedplate_datapath::volume::write::{WriteIoList, WriteKind, WriteOp, WriteStep};
use uuid::Uuid;

use self::node::{Node, VOLUME, start};

#[test]
fn a_new_volume_reads_as_zero_on_a_disk_full_of_other_bytes() {
    let node = Node::with_volume(8 << 20);
    assert!(node.read(0, 1 << 20).iter().all(|byte| *byte == 0));
}

#[test]
fn a_part_of_a_block_leaves_the_rest_of_it_zero() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 131_072 + 4096 + 512, &[7; 1024])
        .unwrap();
    let block = node.read(131_072 + 4096, 4096);
    assert!(block[..512].iter().all(|byte| *byte == 0));
    assert!(block[512..1536].iter().all(|byte| *byte == 7));
    assert!(block[1536..].iter().all(|byte| *byte == 0));
}

#[test]
fn acknowledged_writes_survive_the_process() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 4096, &[1; 8192]).unwrap();
    let _ = node.store.commit().unwrap();
    node.write(WriteKind::Data, 1 << 20, &[2; 4096]).unwrap();
    node.write(WriteKind::Zero { keep: false }, 4096, &[0; 4096])
        .unwrap();
    let (node, report) = node.crash(1);
    assert_eq!((report.adopted, report.lost), (vec![VOLUME], vec![]));
    assert!(node.read(4096, 4096).iter().all(|byte| *byte == 0));
    assert!(node.read(8192, 4096).iter().all(|byte| *byte == 1));
    assert!(node.read(1 << 20, 4096).iter().all(|byte| *byte == 2));
}

#[test]
fn flushed_writes_survive_the_power() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 4096, &[1; 8192]).unwrap();
    let _ = node.store.commit().unwrap();
    node.write(WriteKind::Data, 1 << 20, &[2; 4096]).unwrap();
    let (node, report) = node.crash(2);
    assert_eq!((report.adopted, report.lost), (vec![], vec![]));
    assert!(node.read(4096, 8192).iter().all(|byte| *byte == 1));
    // Not flushed: the map never heard of it.
    assert!(node.read(1 << 20, 4096).iter().all(|byte| *byte == 0));
}

#[test]
fn a_checkpoint_leaves_nothing_to_replay() {
    let mut node = Node::with_volume(32 << 20);
    for lcn in 0..200u64 {
        node.write(WriteKind::Data, lcn * 131_072, &[3; 4096])
            .unwrap();
        if lcn % 50 == 0 {
            let _ = node.store.commit().unwrap();
        }
    }
    let _ = node.store.commit().unwrap();
    node.store.checkpoint().unwrap();
    let (mut node, _) = node.crash(2);
    assert!(node.read(199 * 131_072, 4096).iter().all(|byte| *byte == 3));
    node.write(WriteKind::Data, 0, &[4; 4096]).unwrap();
    node.write(WriteKind::Data, 250 * 131_072, &[5; 512])
        .unwrap();
    let _ = node.store.commit().unwrap();
    let (node, _) = node.crash(3);
    assert!(node.read(0, 4096).iter().all(|byte| *byte == 4));
    assert!(node.read(131_072, 4096).iter().all(|byte| *byte == 3));
    assert!(node.read(250 * 131_072, 512).iter().all(|byte| *byte == 5));
}

#[test]
fn the_journal_laps_its_ring_and_checkpoints_by_itself() {
    let mut node = Node::with_volume(32 << 20);
    node.write(WriteKind::Data, 0, &vec![1; 32 * 4096]).unwrap();
    // 16 MiB of ring, at least 4 KiB a batch: more than a lap.
    for round in 0..5_000u32 {
        let byte = u8::try_from(round % 251).unwrap();
        node.write(WriteKind::Zero { keep: false }, 131_072, &vec![0; 131_072])
            .unwrap();
        node.write(WriteKind::Data, 131_072, &[byte; 4096]).unwrap();
        let dropped = node.store.commit().unwrap();
        node.store.disk_space().release(dropped);
    }
    let (node, _) = node.crash(2);
    let last = u8::try_from(4_999 % 251).unwrap();
    assert!(node.read(131_072, 4096).iter().all(|byte| *byte == last));
    assert!(node.read(0, 4096).iter().all(|byte| *byte == 1));
}

#[test]
fn discarded_space_comes_back_and_never_before_its_commit() {
    let mut node = Node::with_volume(32 << 20);
    let before = node.store.free_clusters();
    node.write(WriteKind::Data, 0, &vec![9; 1 << 20]).unwrap();
    // Eight clusters, and one for the map's pages.
    assert_eq!(node.store.free_clusters(), before - 9);
    node.write(WriteKind::Zero { keep: false }, 0, &vec![0; 1 << 20])
        .unwrap();
    assert_eq!(node.store.free_clusters(), before - 9);
    let dropped = node.store.commit().unwrap();
    assert_eq!((dropped.len(), node.store.free_clusters()), (8, before - 9));
    node.store.disk_space().release(dropped);
    assert_eq!(node.store.free_clusters(), before - 1);
    assert!(node.read(0, 1 << 20).iter().all(|byte| *byte == 0));
}

#[test]
fn live_files_that_are_gone_hold_the_volume_until_the_loss_is_accepted() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
    let _ = node.store.commit().unwrap();
    node.write(WriteKind::Data, 0, &[2; 4096]).unwrap();
    node.live.clear();
    let (node, report) = node.crash(1);
    assert_eq!(report.lost.len(), 1, "{report:?}");
    // And it stays held.
    let (mut node, report) = node.crash(1);
    assert_eq!(report.lost.len(), 0);
    let error = node.store.prepare_attach(VOLUME).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::LossNotAccepted);
    node.store.accept_loss(VOLUME).unwrap();
    node.store.prepare_attach(VOLUME).unwrap();
    assert!(
        node.read(0, 512)
            .iter()
            .all(|byte| *byte == 2 || *byte == 1)
    );
}

#[test]
fn a_clean_end_needs_no_live_state() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 512, &[6; 512]).unwrap();
    let Node { disk, live, store } = node;
    store.close().unwrap();
    live.clear();
    let (store, report) =
        Store::open_live(disk.clone(), &start(1), Box::new(live.clone())).unwrap();
    assert!(
        report.lost.is_empty() && report.repairs.is_empty(),
        "{report:?}"
    );
    let node = Node { disk, live, store };
    assert!(node.read(512, 512).iter().all(|byte| *byte == 6));
}

#[test]
fn a_volume_grows_while_it_is_live_and_keeps_what_it_has() {
    let mut node = Node::with_volume(1 << 20);
    node.write(WriteKind::Data, 0, &[8; 4096]).unwrap();
    let former = node.store.volume_of(VOLUME).unwrap();
    node.store.resize_volume(VOLUME, 3 << 20).unwrap();
    // What is written through the former one is seen by the new one.
    former.drop_cluster(bedplate_datapath::units::Lcn::new(0));
    node.write(WriteKind::Data, 2 << 20, &[9; 4096]).unwrap();
    assert!(node.read(0, 4096).iter().all(|byte| *byte == 0));
    let _ = node.store.commit().unwrap();
    let (node, _) = node.crash(2);
    assert_eq!(node.store.object(VOLUME).unwrap().size_bytes, 3 << 20);
    assert!(node.read(0, 4096).iter().all(|byte| *byte == 0));
    assert!(node.read(2 << 20, 4096).iter().all(|byte| *byte == 9));
}

#[test]
fn a_full_disk_fails_first_touches_alone_and_recovers_when_space_is_freed() {
    let mut node = Node::with_volume(128 << 20);
    let mut lcn = 0;
    let full = loop {
        match node.write(WriteKind::Data, lcn * 131_072, &[1; 4096]) {
            Ok(()) => lcn += 1,
            Err(errno) => break errno,
        }
    };
    assert_eq!(full, 28);
    node.write(WriteKind::Data, 0, &[2; 4096]).unwrap();
    node.write(WriteKind::Zero { keep: false }, 131_072, &vec![0; 131_072])
        .unwrap();
    let dropped = node.store.commit().unwrap();
    node.store.disk_space().release(dropped);
    node.write(WriteKind::Data, lcn * 131_072, &[3; 4096])
        .unwrap();
    let (node, _) = node.crash(1);
    assert!(node.read(0, 4096).iter().all(|byte| *byte == 2));
    assert!(node.read(131_072, 4096).iter().all(|byte| *byte == 0));
    assert!(node.read(lcn * 131_072, 4096).iter().all(|byte| *byte == 3));
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let mut node = Node::new();
    for size_bytes in [0, 1000, (256 << 40) + 512] {
        let new = NewVolume {
            name: "v".to_owned(),
            object_uuid: VOLUME,
            size_bytes,
            parent: None,
            created_unix_s: 1,
        };
        let error = node.store.create_volume(new).unwrap_err();
        assert_eq!(
            error.kind(),
            StoreErrorKind::BadSize,
            "{size_bytes}: {error}"
        );
    }
    let mut node = Node::with_volume(1 << 20);
    let error = node.store.resize_volume(VOLUME, 512).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::BadSize);
}

#[test]
fn live_files_on_a_tmpfs_outlive_their_mappings_grow_in_place_and_know_their_room() {
    use bedplate_datapath::engine::LiveDir;
    use bedplate_datapath::live::{LiveFiles, LiveName, LiveSection};

    let folder = std::path::Path::new("/dev/shm").join(format!("bedplate-{}", std::process::id()));
    if std::fs::create_dir_all(&folder).is_err() {
        println!("skipped: /dev/shm cannot be written");
        return;
    }
    let Ok(mut live) = LiveDir::open(&folder) else {
        println!("skipped: /dev/shm is no tmpfs");
        return;
    };
    live.of_disk(Uuid::from_u128(5)).unwrap();
    let name = LiveName::Volume(VOLUME);
    let few = live.map(name, LiveSection::Entries, 10).unwrap();
    few[9].store(77, Ordering::Release);
    let more = live.map(name, LiveSection::Entries, 100_000).unwrap();
    assert_eq!((more[9].load(Ordering::Acquire), more.len()), (77, 100_000));
    more[3].store(78, Ordering::Release);
    assert_eq!(few[3].load(Ordering::Acquire), 78);
    drop((few, more));
    let mut next = LiveDir::open(&folder).unwrap();
    next.of_disk(Uuid::from_u128(5)).unwrap();
    // One that was not made to its end is none.
    let disk = folder.join(Uuid::from_u128(5).to_string()).join("disk");
    std::fs::write(&disk, [0; 4096]).unwrap();
    assert_eq!(next.list().unwrap(), [name]);
    assert!(next.has(name).unwrap() && !next.has(LiveName::Disk).unwrap());
    std::fs::remove_file(disk).unwrap();
    assert!(!next.has(LiveName::Disk).unwrap());
    let again = next.map(name, LiveSection::Entries, 10).unwrap();
    assert_eq!(again[9].load(Ordering::Acquire), 77);
    next.remove(name).unwrap();
    assert!(next.list().unwrap().is_empty() && !next.has(name).unwrap());
    std::fs::remove_dir_all(&folder).unwrap();
    // A folder on a disk is refused: it would outlive the boot.
    assert!(LiveDir::open(std::path::Path::new(env!("CARGO_MANIFEST_DIR"))).is_err());
}

#[test]
fn a_cluster_with_a_failed_write_is_nobody_elses_in_this_session() {
    let mut node = Node::with_volume(32 << 20);
    node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
    let free = node.store.free_clusters();
    let stack = node.store.layers_of(VOLUME, DiskIndex::new(0)).unwrap();
    let volume = node.store.volume_of(VOLUME).unwrap();
    let (mut op, mut ios) = (WriteOp::new(), WriteIoList::new());
    op.begin(WriteKind::Data, ByteOffset::new(0), 4096);
    assert_eq!(op.step(&stack, &volume, &mut ios), WriteStep::Io);
    op.io_ended(Err(110));
    assert_eq!(op.step(&stack, &volume, &mut ios), WriteStep::Failed(110));
    node.write(WriteKind::Zero { keep: false }, 0, &vec![0; 131_072])
        .unwrap();
    let dropped = node.store.commit().unwrap();
    node.store.disk_space().release(dropped);
    assert_eq!(node.store.free_clusters(), free, "the write may still land");
    // The next process waits for it, and has the cluster again.
    let (mut node, _) = node.crash(1);
    node.store.settle().unwrap();
    assert_eq!(node.store.free_clusters(), free + 1);
}

#[test]
fn an_adopted_volume_is_served_at_once_and_allocates_only_after_it_settled() {
    let mut node = Node::with_volume(32 << 20);
    node.write(WriteKind::Data, 0, &[1; 8192]).unwrap();
    let _ = node.store.commit().unwrap();
    // In memory only: for the disk the cluster is the volume's still.
    node.write(WriteKind::Zero { keep: false }, 0, &vec![0; 131_072])
        .unwrap();
    node.write(WriteKind::Data, 1 << 20, &[2; 4096]).unwrap();
    let (mut node, _) = node.crash(1);
    assert!(node.read(1 << 20, 4096).iter().all(|byte| *byte == 2));
    node.write(WriteKind::Data, 1 << 20, &[3; 4096]).unwrap();
    let stack = node.store.layers_of(VOLUME, DiskIndex::new(0)).unwrap();
    let volume = node.store.volume_of(VOLUME).unwrap();
    let (mut op, mut ios) = (WriteOp::new(), WriteIoList::new());
    op.begin(WriteKind::Data, ByteOffset::new(2 << 20), 4096);
    let blocked = WriteStep::Blocked(bedplate_datapath::volume::write::Blocked::Space);
    assert_eq!(op.step(&stack, &volume, &mut ios), blocked);
    assert!(node.store.needs_commit());
    let dropped = node.store.commit().unwrap();
    node.store.disk_space().release(dropped);
    node.write(WriteKind::Data, 2 << 20, &[4; 4096]).unwrap();
    let _ = node.store.commit().unwrap();
    let (node, _) = node.crash(2);
    assert!(node.read(0, 8192).iter().all(|byte| *byte == 0));
    assert!(node.read(1 << 20, 4096).iter().all(|byte| *byte == 3));
    assert!(node.read(2 << 20, 4096).iter().all(|byte| *byte == 4));
}
