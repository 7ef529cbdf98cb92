//! A tmpfs for live files that is too small: what does not fit takes nothing from those that do.

use std::path::Path;

use bedplate_datapath::engine::LiveDir;
use bedplate_datapath::live::{LiveFiles, LiveName, LiveSection};
use bedplate_datapath::store::{FormatParams, NewVolume, Store, StoreErrorKind, format};
use bedplate_datapath::units::DevId;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::statfs;
use uuid::Uuid;

use super::node::{Memory, start};

const SMALL: Uuid = Uuid::from_u128(1);
const LARGE: Uuid = Uuid::from_u128(2);
const HUGE: Uuid = Uuid::from_u128(3);
const LATE: Uuid = Uuid::from_u128(4);
const DISK: Uuid = Uuid::from_u128(9);
/// Bytes of a volume for each page of its map.
const PER_MAP_PAGE: u64 = 512 * 131_072;
/// Of 9 MiB five pages are gone: its map takes all others but one, and its marks are two.
const LARGE_BYTES: u64 = (9 * 256 - 6) * PER_MAP_PAGE;
/// Where a map of one page is there already: the rest takes all others.
const GROWN_BYTES: u64 = (9 * 256 - 4) * PER_MAP_PAGE;

/// Runs on a thread with mounts of its own, below which a folder is a tmpfs of 9 MiB.
fn on_a_tmpfs(run: impl FnOnce(&Path) + Send) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let none = None::<&str>;
            let mounted = unshare(CloneFlags::CLONE_NEWNS)
                .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
                .and_then(|()| mount(none, path, Some("tmpfs"), MsFlags::empty(), Some("size=9m")));
            match mounted {
                Ok(()) => run(path),
                Err(errno) => println!("skipped: no tmpfs can be mounted: {errno}"),
            }
        });
    });
}

fn free_pages(folder: &Path) -> u64 {
    statfs(folder).unwrap().blocks_free()
}

fn open(disk: &Memory, folder: &Path) -> Store<Memory> {
    let live = LiveDir::open(folder).unwrap();
    let (mut store, report) = Store::open_live(disk.clone(), &start(1), Box::new(live)).unwrap();
    assert!(report.lost.is_empty(), "{report:?}");
    store.settle().unwrap();
    store
}

fn formatted() -> Memory {
    let mut disk = Memory::new();
    let params = FormatParams {
        disk_uuid: DISK,
        hardware_id_hash: [0; 32],
        created_unix_s: 1,
    };
    format(&mut disk, &params).unwrap();
    disk
}

fn make(store: &mut Store<Memory>, uuid: Uuid, size_bytes: u64) {
    let new = NewVolume {
        name: format!("v{uuid}"),
        object_uuid: uuid,
        size_bytes,
        parent: None,
        created_unix_s: 1,
    };
    store.create_volume(new).unwrap();
}

#[test]
fn live_state_that_does_not_fit_leaves_the_room_as_it_was() {
    on_a_tmpfs(|folder| {
        let disk = formatted();
        let mut store = open(&disk, folder);
        for (uuid, size_bytes) in [
            (SMALL, 1 << 20),
            (LARGE, LARGE_BYTES),
            (HUGE, 40 << 40),
            (LATE, 1 << 20),
        ] {
            make(&mut store, uuid, size_bytes);
        }
        store.prepare_attach(SMALL).unwrap();
        store.set_attachment(SMALL, DevId::new(0), true).unwrap();
        let free = free_pages(folder);

        for uuid in [LARGE, HUGE] {
            let error = store.prepare_attach(uuid).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::NoSpace, "{error}");
            assert_eq!(free_pages(folder), free, "{uuid}");
        }
        for size_bytes in [GROWN_BYTES, 40 << 40] {
            let error = store.resize_volume(SMALL, size_bytes).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::NoSpace, "{error}");
            assert_eq!(free_pages(folder), free, "resize to {size_bytes}");
        }
        store.resize_volume(SMALL, 2 << 20).unwrap();
        store.prepare_attach(LATE).unwrap();
    });
}

#[test]
fn a_live_file_that_was_never_finished_does_not_keep_a_disk_from_being_opened() {
    on_a_tmpfs(|folder| {
        let disk = formatted();
        let mut store = open(&disk, folder);
        make(&mut store, LARGE, LARGE_BYTES);
        make(&mut store, SMALL, 1 << 20);
        store.prepare_attach(SMALL).unwrap();
        store.set_attachment(SMALL, DevId::new(0), true).unwrap();
        // The process dies while it makes one, with the last page just taken.
        let mut live = LiveDir::open(folder).unwrap();
        live.of_disk(DISK).unwrap();
        let words = usize::try_from(free_pages(folder) * 512).unwrap();
        live.map(LiveName::Volume(LARGE), LiveSection::Entries, words)
            .unwrap();
        assert_eq!(free_pages(folder), 0);
        drop(store.abandon());
        let store = open(&disk, folder);
        assert!(store.object(SMALL).unwrap().want_attached);
        assert!(free_pages(folder) > 0);
    });
}
