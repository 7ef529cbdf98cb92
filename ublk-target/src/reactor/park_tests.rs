//! A disk that goes, in the rig: a socket, which fails every read and write at a place.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bedplate_datapath::plan::{DiskIndex, Layer};
use bedplate_datapath::units::DevId;
use bedplate_datapath::volume::space::Gate;

use super::park::Park;
use super::rig::{Rig, RigLoad};
use super::steady_path_tests::{clone_of, disk, image, load, of_layers};
use crate::backing::{Backing, Committed, Committer, Writable};
use crate::replica_events::{DiskInDoubt, EventsTo, ReadFailed, ReadLate, ReplicaEvents};

const DEVICE: DevId = DevId::new(0);
const DEPTH: u16 = 4;

/// Somebody who will send word.
#[derive(Default)]
struct Judge {
    asked: Mutex<Vec<DiskInDoubt>>,
}

impl ReplicaEvents for Judge {
    fn read_failed(&self, _: ReadFailed) {}

    fn read_late(&self, _: ReadLate) {}

    fn disk_in_doubt(&self, event: DiskInDoubt) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(event);
        true
    }
}

impl Judge {
    fn asked(&self) -> Vec<DiskInDoubt> {
        let asked = self.asked.lock();
        asked.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A disk that has gone.
fn gone() -> OwnedFd {
    let (disk, _) = UnixStream::pair().expect("a pair");
    disk.into()
}

/// Answers every commit with what it is set to.
#[derive(Default)]
struct Disk {
    has_gone: AtomicBool,
    commits: AtomicU32,
}

impl Committer for Disk {
    fn commit(&self, done: Committed) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        let has_gone = self.has_gone.load(Ordering::Relaxed);
        done.done(if has_gone { Err(libc::ENODEV) } else { Ok(()) });
    }
}

fn load_of(is_write: bool, zero_copy: bool) -> RigLoad {
    RigLoad {
        depth: DEPTH,
        ..load(is_write, zero_copy)
    }
}

fn rig(load: RigLoad, backing: Backing, first: OwnedFd) -> Option<(Rig, Arc<Judge>)> {
    let events = EventsTo::default();
    let judge = Arc::new(Judge::default());
    events.listen(Arc::clone(&judge) as Arc<dyn ReplicaEvents>);
    let made = Rig::with_events(load, backing, vec![first, disk()], events);
    made.map_err(|error| println!("skipped: no ring here: {error}"))
        .ok()
        .map(|rig| (rig, judge))
}

fn of_image() -> Backing {
    of_layers(vec![Layer::new(image(500), DiskIndex::new(0))]).into()
}

fn clone_with(committer: &Arc<Disk>) -> Backing {
    let mut backing = clone_of(image(500));
    let committer = Arc::clone(committer) as Arc<dyn Committer>;
    backing.writable = backing.writable.map(|writable| Writable {
        committer,
        ..writable
    });
    backing
}

#[test]
fn reads_of_a_disk_that_has_gone_wait_and_are_carried_out_when_it_is_back() {
    for zero_copy in [true, false] {
        let Some((mut rig, judge)) = rig(load_of(false, zero_copy), of_image(), gone()) else {
            return;
        };
        rig.turns(20);
        assert_eq!(rig.waiting(), usize::from(DEPTH), "all wait");
        assert_eq!(judge.asked().len(), 1, "asked once");
        assert_eq!(judge.asked()[0].disk, DiskIndex::new(0));
        rig.park(DEVICE, Park::Wait);
        rig.turns(20);
        assert_eq!((rig.answered(), rig.in_flight(DEVICE)), ((0, 0), 0));
        rig.swap(DiskIndex::new(0), &disk());
        rig.unpark(DEVICE, None);
        let run = rig.run(100).expect("a ring");
        assert_eq!((run.errors, rig.waiting()), (0, 0));
    }
}

#[test]
fn an_error_of_a_disk_that_is_there_is_answered_as_it_was() {
    let Some((mut rig, judge)) = rig(load_of(false, true), of_image(), gone()) else {
        return;
    };
    rig.turns(20);
    rig.park(DEVICE, Park::Answer);
    assert_eq!(rig.answered(), (u64::from(DEPTH), u64::from(DEPTH)));
    // And the next ones are in doubt again.
    rig.next_requests();
    rig.turns(20);
    assert_eq!(
        (rig.waiting(), judge.asked().len()),
        (usize::from(DEPTH), 2)
    );
    // Word that comes late says nothing of what is served again.
    rig.swap(DiskIndex::new(0), &disk());
    rig.unpark(DEVICE, None);
    rig.park(DEVICE, Park::Answer);
    assert_eq!(rig.run(100).expect("a ring").errors, 0);
}

#[test]
fn when_the_time_is_over_all_is_eio_until_the_disk_is_back() {
    let Some((mut rig, _)) = rig(load_of(false, true), of_image(), gone()) else {
        return;
    };
    rig.turns(20);
    rig.park(DEVICE, Park::Wait);
    rig.park(DEVICE, Park::GiveUp);
    assert_eq!(rig.answered(), (u64::from(DEPTH), u64::from(DEPTH)));
    // The disk is there again, and its map may be another's: nothing is read by the old one. Nor does a second word to wait change that.
    rig.swap(DiskIndex::new(0), &disk());
    rig.park(DEVICE, Park::Wait);
    let run = rig.run(20).expect("a ring");
    assert_eq!(run.errors, run.requests);
    rig.unpark(DEVICE, None);
    rig.run(u64::from(DEPTH) * 2).expect("a ring");
    assert_eq!(rig.run(100).expect("a ring").errors, 0);
}

#[test]
fn writes_wait_too_and_go_to_what_the_device_has_then() {
    for len_bytes in [4096, 512] {
        let committer = Arc::new(Disk::default());
        let load = RigLoad {
            len_bytes,
            ..load_of(true, true)
        };
        let old = clone_with(&committer);
        let Some((mut rig, judge)) = rig(load, old.clone(), gone()) else {
            return;
        };
        rig.turns(20);
        assert_eq!(rig.waiting(), usize::from(DEPTH), "all wait");
        assert_eq!(judge.asked().len(), 1);
        rig.park(DEVICE, Park::Wait);
        rig.turns(5);
        assert_eq!(rig.in_flight(DEVICE), 0);
        let volume = &old.writable.as_ref().expect("one").volume;
        assert!(!volume.has_unflushed(), "nothing was acknowledged");
        let new = clone_with(&committer);
        rig.swap(DiskIndex::new(0), &disk());
        rig.unpark(DEVICE, Some(&new));
        let before = volume.allocated_clusters();
        let run = rig.run(400).expect("a ring");
        assert_eq!((run.errors, rig.waiting()), (0, 0));
        assert_eq!(volume.allocated_clusters(), before, "the old one rests");
        let volume = &new.writable.as_ref().expect("one").volume;
        assert!(volume.allocated_clusters() > 0 && volume.has_unflushed());
    }
}

/// Its volume may be opened anew then, and the new one would not know that it has something to flush.
#[test]
fn a_write_that_lands_while_its_device_waits_is_not_acknowledged() {
    let committer = Arc::new(Disk::default());
    let old = clone_with(&committer);
    let Some((mut rig, _)) = rig(load_of(true, true), old.clone(), disk()) else {
        return;
    };
    rig.turns(1);
    assert_eq!(rig.in_flight(DEVICE), u32::from(DEPTH));
    rig.park(DEVICE, Park::Wait);
    rig.turns(5);
    assert_eq!((rig.in_flight(DEVICE), rig.answered()), (0, (0, 0)));
    assert_eq!(rig.waiting(), usize::from(DEPTH));
    let volume = &old.writable.as_ref().expect("one").volume;
    assert!(!volume.has_unflushed());
    rig.unpark(DEVICE, Some(&clone_with(&committer)));
    assert_eq!(rig.run(100).expect("a ring").errors, 0);
}

#[test]
fn flushes_wait_and_ask_the_new_committer() {
    let old = Arc::new(Disk::default());
    old.has_gone.store(true, Ordering::Relaxed);
    let Some((mut rig, judge)) = rig(load_of(true, true), clone_with(&old), disk()) else {
        return;
    };
    rig.flush_next();
    rig.turns(20);
    assert_eq!(rig.waiting(), usize::from(DEPTH));
    assert_eq!(judge.asked().len(), 1);
    assert_eq!(old.commits.load(Ordering::Relaxed), u32::from(DEPTH));
    rig.park(DEVICE, Park::Wait);
    let new = Arc::new(Disk::default());
    rig.unpark(DEVICE, Some(&clone_with(&new)));
    rig.turns(20);
    let (answered, errors) = rig.answered();
    assert!(answered >= u64::from(DEPTH) && errors == 0);
    assert_eq!(old.commits.load(Ordering::Relaxed), u32::from(DEPTH));
    assert!(new.commits.load(Ordering::Relaxed) >= u32::from(DEPTH));
}

#[test]
fn a_store_that_failed_refuses_space_which_is_no_full_disk() {
    let committer = Arc::new(Disk::default());
    let backing = clone_with(&committer);
    let space = Arc::clone(backing.writable.as_ref().expect("one").volume.space());
    space.set_gate(Gate::Refused);
    let Some((mut rig, judge)) = rig(load_of(true, true), backing, disk()) else {
        return;
    };
    rig.turns(20);
    assert_eq!(rig.waiting(), usize::from(DEPTH));
    assert_eq!(judge.asked()[0].errno, libc::ENOSPC);
    rig.park(DEVICE, Park::Wait);
    rig.unpark(DEVICE, Some(&clone_with(&committer)));
    assert_eq!(rig.run(100).expect("a ring").errors, 0);
}

#[test]
fn a_write_that_waits_for_space_waits_for_the_disk_then_and_takes_none_of_the_old_space() {
    let committer = Arc::new(Disk::default());
    let old = clone_with(&committer);
    let volume = Arc::clone(&old.writable.as_ref().expect("one").volume);
    volume.space().set_gate(Gate::Rebuilding);
    let Some((mut rig, _)) = rig(load_of(true, true), old, disk()) else {
        return;
    };
    rig.turns(20);
    assert_eq!(
        (rig.waiting(), rig.in_flight(DEVICE)),
        (0, u32::from(DEPTH))
    );
    rig.park(DEVICE, Park::Wait);
    volume.space().set_gate(Gate::Open);
    rig.turns(20);
    assert_eq!(
        (rig.waiting(), rig.in_flight(DEVICE)),
        (usize::from(DEPTH), 0)
    );
    assert_eq!(volume.allocated_clusters(), 0);
    let new = clone_with(&committer);
    rig.unpark(DEVICE, Some(&new));
    assert_eq!(rig.run(100).expect("a ring").errors, 0);
    assert_eq!(volume.allocated_clusters(), 0);
}

#[test]
fn a_disk_without_bytes_is_no_full_volume() {
    let committer = Arc::new(Disk::default());
    let full = std::fs::File::options().write(true).open("/dev/full");
    let full = full.expect("a device that takes nothing");
    let Some((mut rig, judge)) = rig(load_of(true, true), clone_with(&committer), full.into())
    else {
        return;
    };
    rig.turns(20);
    assert_eq!(rig.waiting(), usize::from(DEPTH));
    assert_eq!(judge.asked()[0].errno, libc::EIO);
    // It is there, and full: a file system below it is.
    rig.park(DEVICE, Park::Answer);
    assert_eq!(rig.answered(), (u64::from(DEPTH), u64::from(DEPTH)));
}

#[test]
fn a_reactor_that_leaves_holds_what_waits_for_the_next_server() {
    let Some((mut rig, _)) = rig(load_of(false, true), of_image(), gone()) else {
        return;
    };
    rig.turns(20);
    rig.park(DEVICE, Park::Wait);
    rig.leave();
    assert_eq!((rig.waiting(), rig.working()), (0, 0));
    assert_eq!(rig.answered().1, 0, "nobody hears of an error");
}

#[test]
fn with_nobody_to_ask_an_error_is_answered_at_once() {
    let made = Rig::new(load_of(false, true), of_image(), vec![gone()]);
    let Ok(mut rig) = made else { return };
    let run = rig.run(20).expect("a ring");
    assert_eq!(run.errors, run.requests);
}

#[test]
fn a_device_that_is_to_end_and_stays_is_served_as_before() {
    let Some((mut rig, _)) = rig(load_of(false, true), of_image(), disk()) else {
        return;
    };
    rig.park(DEVICE, Park::End);
    assert_eq!(rig.run(100).expect("a ring").errors, 0, "its disk is there");
    rig.park(DEVICE, Park::Stay);
    assert_eq!(rig.run(100).expect("a ring").errors, 0);
}

#[test]
fn a_device_that_is_to_end_waits_for_no_disk_and_if_it_stays_it_waits_again() {
    let Some((mut rig, judge)) = rig(load_of(false, true), of_image(), gone()) else {
        return;
    };
    let all_wait = usize::from(DEPTH);
    rig.turns(20);
    assert_eq!((rig.waiting(), judge.asked().len()), (all_wait, 1));
    rig.park(DEVICE, Park::End);
    assert_eq!(rig.answered(), (u64::from(DEPTH), u64::from(DEPTH)));
    // Word of the disk comes as if nothing was.
    rig.park(DEVICE, Park::Answer);
    rig.turns(5);
    assert_eq!((rig.waiting(), judge.asked().len()), (0, 1));
    rig.park(DEVICE, Park::Stay);
    rig.turns(20);
    assert_eq!((rig.waiting(), judge.asked().len()), (all_wait, 2));
    // The same for one that is parked already.
    rig.park(DEVICE, Park::Wait);
    rig.park(DEVICE, Park::End);
    rig.turns(5);
    let (answered, errors) = rig.answered();
    assert_eq!((answered, rig.waiting()), (errors, 0));
    rig.park(DEVICE, Park::Stay);
    rig.turns(20);
    assert_eq!(rig.waiting(), all_wait);
    rig.swap(DiskIndex::new(0), &disk());
    rig.unpark(DEVICE, None);
    assert_eq!(rig.run(100).expect("a ring").errors, 0);
}

#[test]
fn what_meets_a_disk_that_goes_while_the_reactor_leaves_is_the_next_servers() {
    for is_write in [false, true] {
        let backing = clone_with(&Arc::default());
        let Some((mut rig, judge)) = rig(load_of(is_write, true), backing, gone()) else {
            return;
        };
        // Once more, after word that nothing has gone.
        rig.turns(5);
        rig.park(DEVICE, Park::Answer);
        let (_, errors) = rig.answered();
        rig.turns(1);
        assert_eq!(rig.in_flight(DEVICE), u32::from(DEPTH));
        rig.leave();
        rig.turns(10);
        assert_eq!((rig.answered().1, rig.working()), (errors, 0));
        assert_eq!(judge.asked().len(), 1, "nobody listens any more");
    }
}

/// Answers commits when the test says so.
#[derive(Default)]
struct Later(Mutex<Vec<Committed>>);

impl Committer for Later {
    fn commit(&self, done: Committed) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(done);
    }
}

/// A second flush would succeed, and save nothing of what the first one lost.
#[test]
fn a_flush_that_fails_while_the_reactor_leaves_is_answered() {
    let later = Arc::new(Later::default());
    let mut backing = clone_of(image(500));
    let committer = Arc::clone(&later) as Arc<dyn Committer>;
    backing.writable = backing.writable.map(|writable| Writable {
        committer,
        ..writable
    });
    let Some((mut rig, _)) = rig(load_of(true, true), backing, disk()) else {
        return;
    };
    rig.flush_next();
    rig.turns(5);
    rig.leave();
    let asked: Vec<_> = {
        let mut asked = later.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.drain(..).collect()
    };
    assert_eq!(asked.len(), usize::from(DEPTH));
    for done in asked {
        done.done(Err(libc::EIO));
    }
    rig.turns(5);
    assert_eq!(rig.answered().1, u64::from(DEPTH));
}
