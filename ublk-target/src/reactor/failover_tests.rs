//! Replicas that fail or keep silent, in the rig: a pipe is the disk. One that nobody writes to is silent, one that is closed fails.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bedplate_datapath::plan::{DiskIndex, Layer};
use bedplate_datapath::replica::{Replica, ReplicaSet};
use bedplate_datapath::units::BLOCKS_PER_CLUSTER;

use super::rig::{Rig, RigLoad};
use super::steady_path_tests::{CLUSTERS, clone_of, disk, image, load, of_layers};
use crate::backing::Backing;
use crate::replica_events::{EventsTo, ReadFailed, ReadLate, ReplicaEvents};

#[derive(Default)]
struct Heard {
    failed: Mutex<Vec<ReadFailed>>,
    late: Mutex<Vec<ReadLate>>,
}

impl ReplicaEvents for Heard {
    fn read_failed(&self, event: ReadFailed) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.push(event);
    }

    fn read_late(&self, event: ReadLate) {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.push(event);
    }
}

impl Heard {
    fn failed(&self) -> Vec<ReadFailed> {
        let failed = self.failed.lock();
        failed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn late(&self) -> Vec<ReadLate> {
        let late = self.late.lock();
        late.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A disk that keeps silent until something is written to the other end, and fails once that is closed.
fn pipe() -> (OwnedFd, File) {
    let (disk, writer) = nix::unistd::pipe().expect("a pipe");
    (disk, writer.into())
}

/// Two replicas, on disk 0 and on disk 1; disk 0 is read first.
fn two() -> (Arc<ReplicaSet>, Layer) {
    let replica = |disk| Replica {
        map: image(500),
        disk: DiskIndex::new(disk),
    };
    let set = ReplicaSet::new(vec![replica(0), replica(1)]).expect("two");
    let layer = Layer::of_replicas(Arc::clone(&set), 0).expect("the first");
    (set, layer)
}

fn rig(load: RigLoad, backing: Backing, first: OwnedFd, heard: &Arc<Heard>) -> Option<Rig> {
    let events = EventsTo::default();
    events.listen(Arc::clone(heard) as Arc<dyn ReplicaEvents>);
    let made = Rig::with_events(load, backing, vec![first, disk()], events);
    made.map_err(|error| println!("skipped: no ring here: {error}"))
        .ok()
}

fn impatient(zero_copy: bool) -> RigLoad {
    RigLoad {
        read_deadline: Some(Duration::from_millis(50)),
        depth: 4,
        ..load(false, zero_copy)
    }
}

#[test]
fn a_replica_that_fails_is_avoided_and_nobody_sees_an_error() {
    for zero_copy in [true, false] {
        let (first, writer) = pipe();
        drop(writer);
        let (set, layer) = two();
        let heard = Arc::new(Heard::default());
        let backing = of_layers(vec![layer]).into();
        let Some(mut rig) = rig(impatient(zero_copy), backing, first, &heard) else {
            return;
        };
        let run = rig.run(100).expect("a ring");
        assert_eq!(run.errors, 0);
        assert!(set.is_avoided(0) && !set.is_avoided(1));
        let failed = heard.failed();
        // At most one for each tag: those that come after are read elsewhere.
        assert!((1..=4).contains(&failed.len()), "{failed:?}");
        assert!(failed.iter().all(|event| event.goes_on
            && event.disk == DiskIndex::new(0)
            && event.errno == libc::EIO));
        // Taken back too early, it is avoided again.
        assert!(set.readmit(0));
        assert_eq!(rig.run(100).expect("a ring").errors, 0);
        assert!(set.is_avoided(0));
    }
}

#[test]
fn when_no_replica_is_left_the_error_is_the_disks() {
    let (first, writer) = pipe();
    drop(writer);
    let (set, layer) = two();
    let blocks = u64::from(CLUSTERS) * u64::from(BLOCKS_PER_CLUSTER);
    set.mark_damaged(1, 0..blocks);
    let heard = Arc::new(Heard::default());
    let backing = of_layers(vec![layer]).into();
    let Some(mut rig) = rig(impatient(true), backing, first, &heard) else {
        return;
    };
    let run = rig.run(20).expect("a ring");
    assert_eq!(run.errors, run.requests);
    set.mark_repaired(1, 0..blocks);
    // Those that are in flight may have been planned before.
    rig.run(8).expect("a ring");
    assert_eq!(rig.run(20).expect("a ring").errors, 0);
}

#[test]
fn a_late_read_is_answered_by_another_replica_and_lands_in_nobodys_memory() {
    let (first, mut writer) = pipe();
    let (set, layer) = two();
    let heard = Arc::new(Heard::default());
    let backing = of_layers(vec![layer]).into();
    let Some(mut rig) = rig(impatient(false), backing, first, &heard) else {
        return;
    };
    let run = rig.run(100).expect("a ring");
    assert_eq!(run.errors, 0);
    assert!(set.is_avoided(0));
    assert_eq!(rig.orphans(), 4, "one for each tag");
    let late = heard.late();
    assert_eq!(late.len(), 1, "told once");
    assert!(late[0].goes_on && late[0].waited >= Duration::from_millis(50));
    // They land, each in its own buffer, which is free then.
    writer.write_all(&[7; 4 * 4096]).expect("a pipe");
    for _ in 0..100 {
        assert_eq!(rig.run(100).expect("a ring").errors, 0);
        if rig.orphans() == 0 {
            return;
        }
    }
    panic!("{} late reads have not landed", rig.orphans());
}

#[test]
fn in_zero_copy_a_late_read_waits_for_its_own_disk() {
    let (first, mut writer) = pipe();
    let (set, layer) = two();
    let heard = Arc::new(Heard::default());
    let backing = of_layers(vec![layer]).into();
    let Some(mut rig) = rig(impatient(true), backing, first, &heard) else {
        return;
    };
    // The disk wakes up some time after its silence was noticed, and from then on nothing begins on it. Without that the requests would
    // wait for ever.
    let noticed = Arc::clone(&set);
    let wakes = std::thread::spawn(move || {
        while !noticed.is_avoided(0) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(300));
        writer.write_all(&[7; 4 * 4096]).expect("a pipe");
        writer
    });
    let run = rig.run(100).expect("a ring");
    assert_eq!((run.errors, rig.orphans()), (0, 0));
    assert!(run.total >= Duration::from_millis(300), "{:?}", run.total);
    assert!(
        set.is_avoided(0),
        "those that come after are read elsewhere"
    );
    assert!(heard.late().iter().all(|event| !event.goes_on));
    drop(wakes.join());
}

#[test]
fn a_copy_up_is_read_from_another_replica_too() {
    let (first, writer) = pipe();
    drop(writer);
    let (set, layer) = two();
    let heard = Arc::new(Heard::default());
    // The clone itself is on disk 1, as the second replica.
    let mut backing = clone_of(image(500));
    let own = Layer::new(Arc::clone(&backing.stack.layers[0].map), DiskIndex::new(1));
    backing.stack = of_layers(vec![own, layer]);
    let parts_of_blocks = RigLoad {
        is_write: true,
        len_bytes: 512,
        ..impatient(true)
    };
    let Some(mut rig) = rig(parts_of_blocks, backing, first, &heard) else {
        return;
    };
    let run = rig.run(400).expect("a ring");
    assert_eq!(run.errors, 0);
    assert!(set.is_avoided(0));
    assert!(heard.failed().iter().all(|event| event.goes_on));
}
