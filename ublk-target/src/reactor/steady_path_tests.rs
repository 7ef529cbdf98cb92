//! The steady path allocates nothing: a counting allocator watches a reactor in its rig.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bedplate_datapath::alloc::Allocator;
use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::map::{LayerMap, MapEntry};
use bedplate_datapath::plan::{DiskIndex, Layer, LayerStack};
use bedplate_datapath::replica::{Replica, ReplicaSet};
use bedplate_datapath::units::{BlockMask, CLUSTER_BYTES, Pcn};
use bedplate_datapath::volume::space::Gate;
use bedplate_datapath::volume::{ClusterLocks, DiskShared, Space, Volume};
use nix::sys::memfd::{MFdFlags, memfd_create};
use uuid::Uuid;

use super::rig::{Rig, RigLoad};
use crate::backing::{Backing, Committed, Committer, Writable};

struct Counting;

thread_local! {
    /// Of this thread alone: other tests run beside this one.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

pub(super) const CLUSTERS: u32 = 64;
const DISK_BYTES: u64 = 256 << 20;

struct Nobody;

impl Committer for Nobody {
    fn commit(&self, done: Committed) {
        done.done(Ok(()));
    }
}

pub(super) fn disk() -> OwnedFd {
    let disk = memfd_create("rig-disk", MFdFlags::MFD_CLOEXEC).expect("a memfd");
    nix::unistd::ftruncate(&disk, i64::try_from(DISK_BYTES).expect("small")).expect("memory");
    disk
}

pub(super) fn image(first: u32) -> Arc<LayerMap> {
    let entry = |n| MapEntry::new(Pcn::new(first + n * 7 % CLUSTERS), BlockMask::ALL).bits();
    Arc::new(LayerMap::from_entries((0..CLUSTERS).map(entry).collect()))
}

fn size_bytes() -> u64 {
    u64::from(CLUSTERS) * CLUSTER_BYTES
}

pub(super) fn of_layers(layers: Vec<Layer>) -> Arc<LayerStack> {
    Arc::new(LayerStack {
        layers,
        size_bytes: size_bytes(),
    })
}

pub(super) fn clone_of(image: Arc<LayerMap>) -> Backing {
    let geometry = Geometry::of_disk(DISK_BYTES).expect("a disk");
    let size_bytes = size_bytes();
    let shared = DiskShared {
        space: Arc::new(Space::new(Allocator::new(&geometry), Gate::Open)),
        locks: Arc::new(ClusterLocks::default()),
    };
    let volume = Arc::new(Volume::in_memory(Uuid::from_u128(1), size_bytes, shared));
    let disk = DiskIndex::new(0);
    let own = Layer::new(Arc::clone(volume.map()), disk);
    Backing {
        stack: of_layers(vec![own, Layer::new(image, disk)]),
        checksums: None,
        writable: Some(Writable {
            volume,
            committer: Arc::new(Nobody),
        }),
    }
}

pub(super) fn load(is_write: bool, zero_copy: bool) -> RigLoad {
    RigLoad {
        is_write,
        len_bytes: 4096,
        span_bytes: size_bytes(),
        depth: 16,
        zero_copy,
        // As in service: the clock must not allocate either.
        read_deadline: Some(std::time::Duration::from_secs(2)),
    }
}

/// Nanoseconds are for the example; here it counts that nothing fails, and nothing is allocated.
fn must_not_allocate(what: &str, load: RigLoad, backing: Backing) {
    let mut rig = match Rig::new(load, backing, vec![disk()]) {
        Ok(rig) => rig,
        Err(error) => {
            println!("skipped: {what}: no ring here: {error}");
            return;
        }
    };
    rig.run(500).expect("a ring");
    let before = ALLOCATIONS.get();
    let run = rig.run(20_000).expect("a ring");
    assert_eq!(run.errors, 0, "{what}");
    assert_eq!(
        ALLOCATIONS.get() - before,
        0,
        "{what}: allocations in {} requests",
        run.requests
    );
}

#[test]
fn a_steady_read_allocates_nothing() {
    let stack = || of_layers(vec![Layer::new(image(500), DiskIndex::new(0))]);
    must_not_allocate("zero copy", load(false, true), stack().into());
    must_not_allocate("copied", load(false, false), stack().into());
}

#[test]
fn nor_does_one_of_a_layer_with_several_replicas() {
    let replica = |disk| Replica {
        map: image(500),
        disk: DiskIndex::new(disk),
    };
    let set = ReplicaSet::new(vec![replica(0), replica(1)]).expect("two");
    let layer = Layer::of_replicas(set, 0).expect("the first");
    let backing = of_layers(vec![layer]).into();
    must_not_allocate("two replicas", load(false, true), backing);
}

/// The map's first touches are in it: 2,048 blocks, and then overwrites.
#[test]
fn nor_does_a_write() {
    must_not_allocate("zero copy", load(true, true), clone_of(image(500)));
}
