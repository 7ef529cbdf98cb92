//! Once things are made, the engine's paths allocate nothing: no lock of the heap, no pause, no growth under load.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bedplate_benches::random::Random;
use bedplate_benches::rig::{DISK_BYTES, Rig};

/// Counts what the thread that asks for it allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all of it is the system's allocator; counting allocates nothing, since the thread-local is a constant without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as asked of us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as asked of us.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as asked of us.
        unsafe { System.realloc(memory, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(what: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    what();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert!(allocations_of(|| drop(std::hint::black_box(Box::new(7)))) > 0);
}

#[test]
fn reads_and_writes_allocate_nothing() {
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
    file.as_file().set_len(DISK_BYTES).expect("a length");
    let mut rig = Rig::new(file.path()).expect("a rig: io_uring and direct I/O");
    let mut random = Random::seeded(1);
    let blocks = rig.clone.blocks();

    let through = allocations_of(|| rig.reads.run(&mut random, 2000));
    assert_eq!(through, 0, "reads through an unwritten clone");

    let mut order = Random::seeded(2).permutation(blocks).into_iter();
    let touch = allocations_of(|| {
        rig.writes
            .run(&rig.clone, 4000, || order.next().expect("more blocks"));
    });
    assert_eq!(touch, 0, "first touches");

    rig.write_all();
    let mapped = allocations_of(|| rig.reads.run(&mut random, 2000));
    assert_eq!(mapped, 0, "reads of what was written");
    let overwrite = allocations_of(|| {
        rig.writes.run(&rig.clone, 4000, || {
            u32::try_from(random.below(blocks.into())).expect("below u32")
        });
    });
    assert_eq!(overwrite, 0, "overwrites");
}
