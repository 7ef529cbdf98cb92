//! Reads compared with checksums, in the rig: what was imported is zeros, and a spoilt disk has something else.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bedplate_datapath::format::checksum_page::{CRCS, block_crc};
use bedplate_datapath::plan::{DiskIndex, Layer};
use bedplate_datapath::replica::{Replica, ReplicaSet};
use bedplate_datapath::units::{CLUSTER_BYTES, DevId};
use uuid::Uuid;

use super::Park;
use super::rig::{Rig, RigLoad};
use super::steady_path_tests::{CLUSTERS, clone_of, disk, image, load, of_layers};
use crate::backing::{Backing, ChecksumsAnswer, RecordedChecksums};
use crate::replica_events::{DiskInDoubt, EventsTo, ReadFailed, ReadLate, ReplicaEvents};

const FIRST: u32 = 500;

#[derive(Default)]
struct Heard(Mutex<Vec<ReadFailed>>);

/// Will send word of disks in doubt.
#[derive(Default)]
struct Judge(Mutex<Vec<DiskIndex>>);

impl ReplicaEvents for Judge {
    fn read_failed(&self, _: ReadFailed) {}

    fn read_late(&self, _: ReadLate) {}

    fn disk_in_doubt(&self, event: DiskInDoubt) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(event.disk);
        true
    }
}

impl ReplicaEvents for Heard {
    fn read_failed(&self, event: ReadFailed) {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failed.push(event);
    }

    fn read_late(&self, _: ReadLate) {}
}

impl Heard {
    fn failed(&self) -> Vec<ReadFailed> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Has the checksums of zeros, or none.
struct OfZeros {
    has_some: bool,
    asked: AtomicU32,
}

impl RecordedChecksums for OfZeros {
    fn image(&self) -> Uuid {
        Uuid::from_u128(9)
    }

    fn ask(&self, _: u32, answer: ChecksumsAnswer) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let crcs = vec![block_crc(&[0; 4096]); CRCS];
        answer.give(self.has_some.then(|| crcs.into()));
    }
}

fn checksums(has_some: bool) -> Arc<OfZeros> {
    Arc::new(OfZeros {
        has_some,
        asked: AtomicU32::new(0),
    })
}

/// A disk on which nothing of the image is what was imported.
fn spoilt() -> OwnedFd {
    let file = File::from(disk());
    let bytes = vec![7; usize::try_from(u64::from(CLUSTERS) * CLUSTER_BYTES).expect("small")];
    file.write_all_at(&bytes, u64::from(FIRST) * CLUSTER_BYTES)
        .expect("memory");
    file.into()
}

/// Replicas on so many disks; the one on disk 0 is read first.
fn replicas(count: u16) -> (Arc<ReplicaSet>, Layer) {
    let replica = |disk| Replica {
        map: image(FIRST),
        disk: DiskIndex::new(disk),
    };
    let set = ReplicaSet::new((0..count).map(replica).collect()).expect("some");
    let layer = Layer::of_replicas(Arc::clone(&set), 0).expect("the first");
    (set, layer)
}

fn compared(layer: Layer, checksums: &Arc<OfZeros>) -> Backing {
    Backing {
        checksums: Some(Arc::clone(checksums) as Arc<dyn RecordedChecksums>),
        ..of_layers(vec![layer]).into()
    }
}

fn rig(load: RigLoad, backing: Backing, disks: Vec<OwnedFd>, heard: &Arc<Heard>) -> Option<Rig> {
    let events = EventsTo::default();
    events.listen(Arc::clone(heard) as Arc<dyn ReplicaEvents>);
    let made = Rig::with_events(load, backing, disks, events);
    made.map_err(|error| println!("skipped: no ring here: {error}"))
        .ok()
}

fn few(len_bytes: u32, zero_copy: bool) -> RigLoad {
    RigLoad {
        len_bytes,
        depth: 4,
        ..load(false, zero_copy)
    }
}

#[test]
fn good_blocks_are_given_whole_and_in_parts_and_checksums_are_asked_for_once_a_leaf() {
    for zero_copy in [true, false] {
        // 15.5 KiB may lie in five blocks: more than is pinned of a buffer.
        for len_bytes in [512, 1536, 4096, 15_872, 262_144, 1 << 20] {
            let heard = Arc::default();
            let (_, layer) = replicas(1);
            let known = checksums(true);
            let backing = compared(layer, &known);
            let Some(mut rig) = rig(few(len_bytes, zero_copy), backing, vec![disk()], &heard)
            else {
                return;
            };
            let run = rig.run(200).expect("a ring");
            assert_eq!(run.errors, 0, "{len_bytes}");
            assert!(heard.failed().is_empty());
            // 64 clusters are three leaves.
            let asked = known.asked.load(Ordering::Relaxed);
            assert!((1..=3).contains(&asked), "{asked}");
        }
    }
}

#[test]
fn a_block_that_is_not_what_was_imported_is_read_from_another_replica_and_told_of() {
    for zero_copy in [true, false] {
        for len_bytes in [512, 4096, 131_072] {
            let heard = Arc::default();
            let (set, layer) = replicas(2);
            let backing = compared(layer, &checksums(true));
            let disks = vec![spoilt(), disk()];
            let Some(mut rig) = rig(few(len_bytes, zero_copy), backing, disks, &heard) else {
                return;
            };
            let run = rig.run(100).expect("a ring");
            assert_eq!(run.errors, 0, "{len_bytes}");
            assert!(set.is_avoided(0) && !set.is_avoided(1));
            let failed = heard.failed();
            assert!(!failed.is_empty());
            for event in failed {
                assert!(
                    event.goes_on && event.disk == DiskIndex::new(0),
                    "{event:?}"
                );
                assert!(event.device_at.get().is_multiple_of(4096) && event.len_bytes >= 4096);
            }
        }
    }
}

#[test]
fn without_comparing_nobody_notices() {
    let heard = Arc::default();
    let (_, layer) = replicas(2);
    let backing = of_layers(vec![layer]).into();
    let Some(mut rig) = rig(few(4096, false), backing, vec![spoilt(), disk()], &heard) else {
        return;
    };
    assert_eq!(rig.run(100).expect("a ring").errors, 0);
    assert!(heard.failed().is_empty());
}

#[test]
fn what_no_replica_has_as_it_was_imported_is_an_error() {
    for (count, disks) in [(1, vec![spoilt()]), (2, vec![spoilt(), spoilt()])] {
        let heard = Arc::default();
        let (_, layer) = replicas(count);
        let backing = compared(layer, &checksums(true));
        let Some(mut rig) = rig(few(4096, true), backing, disks, &heard) else {
            return;
        };
        let run = rig.run(40).expect("a ring");
        assert_eq!(run.errors, run.requests);
        // The last one is asked, and told of, too.
        let failed = heard.failed();
        assert!(failed.iter().any(|event| event.disk.get() + 1 == count));
        assert!(count > 1 || failed.iter().all(|event| !event.goes_on));
    }
}

#[test]
fn a_block_whose_checksum_nobody_has_is_given_to_nobody() {
    let heard = Arc::default();
    let (_, layer) = replicas(1);
    let backing = compared(layer, &checksums(false));
    let Some(mut rig) = rig(few(4096, true), backing, vec![disk()], &heard) else {
        return;
    };
    let run = rig.run(40).expect("a ring");
    assert_eq!(run.errors, run.requests);
}

/// A clone on this disk, of an image that is elsewhere.
fn clone_over(layer: Layer, own_disk: u16) -> Backing {
    let mut backing = clone_of(image(FIRST));
    let map = Arc::clone(&backing.stack.layers[0].map);
    let own = Layer::new(map, DiskIndex::new(own_disk));
    backing.stack = of_layers(vec![own, layer]);
    backing
}

#[test]
fn a_block_is_compared_before_it_is_copied_up() {
    for (first, second, is_good) in [
        (disk(), disk(), true),
        (spoilt(), disk(), true),
        (spoilt(), spoilt(), false),
    ] {
        let heard = Arc::default();
        let (set, layer) = replicas(2);
        let mut backing = clone_over(layer, 1);
        backing.checksums = Some(checksums(true));
        let parts_of_blocks = RigLoad {
            is_write: true,
            ..few(512, true)
        };
        let Some(mut rig) = rig(parts_of_blocks, backing, vec![first, second], &heard) else {
            return;
        };
        let run = rig.run(400).expect("a ring");
        if is_good {
            assert_eq!(run.errors, 0);
        } else {
            assert!(run.errors > 0);
        }
        let has_bad = heard.failed().iter().any(|event| event.disk.get() == 0);
        assert_eq!(has_bad, set.is_avoided(0));
    }
}

/// A disk on which every other block of the image is not what was imported, from block `from` on.
fn half_spoilt(from: u64) -> OwnedFd {
    let file = File::from(disk());
    for block in (from..u64::from(CLUSTERS) * CLUSTER_BYTES / 4096).step_by(2) {
        let at = u64::from(FIRST) * CLUSTER_BYTES + block * 4096;
        file.write_all_at(&[7; 4096], at).expect("memory");
    }
    file.into()
}

/// Of the two blocks that a write begins and ends in, each disk has the one that the other lacks.
#[test]
fn a_bad_block_of_a_copy_up_is_no_bad_disk() {
    let heard = Arc::default();
    let (_, layer) = replicas(2);
    let mut backing = clone_over(layer, 2);
    backing.checksums = Some(checksums(true));
    let over_two_blocks = RigLoad {
        is_write: true,
        ..few(1536, true)
    };
    let disks = vec![half_spoilt(0), half_spoilt(1), disk()];
    let Some(mut rig) = rig(over_two_blocks, backing, disks, &heard) else {
        return;
    };
    assert_eq!(rig.run(400).expect("a ring").errors, 0);
    assert!(!heard.failed().is_empty());
}

/// Has checksums later, if at all.
#[derive(Default)]
struct Later(Mutex<Vec<ChecksumsAnswer>>);

impl RecordedChecksums for Later {
    fn image(&self) -> Uuid {
        Uuid::from_u128(9)
    }

    fn ask(&self, _: u32, answer: ChecksumsAnswer) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(answer);
    }
}

/// A write that waits for checksums has clusters and locks of the store that is to be given up.
#[test]
fn a_parked_device_is_not_quiet_while_what_a_write_read_waits_for_its_checksums() {
    const DEVICE: DevId = DevId::new(0);
    let (_, layer) = replicas(1);
    let mut backing = clone_over(layer, 1);
    let later = Arc::<Later>::default();
    backing.checksums = Some(Arc::clone(&later) as Arc<dyn RecordedChecksums>);
    let parts_of_blocks = RigLoad {
        is_write: true,
        ..few(512, true)
    };
    let Some(mut rig) = rig(
        parts_of_blocks,
        backing,
        vec![disk(), disk()],
        &Arc::default(),
    ) else {
        return;
    };
    rig.next_requests();
    let has_asked = || {
        !later
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    };
    for _ in 0..1000 {
        rig.turns(1);
        if has_asked() {
            break;
        }
    }
    assert!(has_asked(), "a part of a block is copied up");
    rig.park(DEVICE, Park::Wait);
    rig.turns(50);
    assert!(rig.in_flight(DEVICE) > 0);
    // Nobody has them: the write fails, and waits with all others.
    later
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clear();
    rig.turns(50);
    assert_eq!(rig.in_flight(DEVICE), 0);
    assert!(rig.waiting() > 0);
    assert_eq!(rig.answered(), (0, 0));
}

impl Later {
    fn taken(&self) -> Vec<ChecksumsAnswer> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.drain(..).collect()
    }
}

/// A disk gave the block, and went before it gave the checksums.
#[test]
fn what_lacks_its_checksums_waits_for_the_disk_that_it_was_read_from() {
    const DEVICE: DevId = DevId::new(0);
    for is_write in [false, true] {
        let (_, layer) = replicas(1);
        let mut backing = clone_over(layer, 1);
        let later = Arc::<Later>::default();
        backing.checksums = Some(Arc::clone(&later) as Arc<dyn RecordedChecksums>);
        let load = RigLoad {
            is_write,
            ..few(512, true)
        };
        let events = EventsTo::default();
        let judge = Arc::<Judge>::default();
        events.listen(Arc::clone(&judge) as Arc<dyn ReplicaEvents>);
        let Ok(mut rig) = Rig::with_events(load, backing, vec![disk(), disk()], events) else {
            return;
        };
        rig.next_requests();
        let mut asked = Vec::new();
        for _ in 0..1000 {
            rig.turns(1);
            asked = later.taken();
            if !asked.is_empty() {
                break;
            }
        }
        assert!(!asked.is_empty());
        drop(asked);
        rig.turns(20);
        drop(later.taken());
        rig.turns(20);
        assert!(rig.waiting() > 0);
        let (_, errors) = rig.answered();
        assert_eq!(errors, 0);
        let of_image = [DiskIndex::new(0)];
        let asked = judge.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(*asked, of_image, "once, and of no other disk");
        drop(asked);
        // It is back.
        rig.park(DEVICE, Park::Wait);
        rig.unpark(DEVICE, None);
        for _ in 0..200 {
            rig.turns(1);
            for answer in later.taken() {
                answer.give(Some(vec![block_crc(&[0; 4096]); CRCS].into()));
            }
        }
        let (answered, errors) = rig.answered();
        assert!(answered > 0 && errors == 0, "{answered}, {errors}");
    }
}
