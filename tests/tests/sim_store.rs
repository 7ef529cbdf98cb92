//! The store on a simulated disk without crashes: what it does with images, and with metadata that went bad.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use bedplate_datapath::import::ImportPlanner;
use bedplate_datapath::medium::Medium;
use bedplate_datapath::store::{FormatParams, PreviousSession, SessionStart, Store, format};
use bedplate_datapath::units::{BlockMask, DevId, Lcn};
use bedplate_tests::sim::content::content;
use bedplate_tests::sim::disk::SimDisk;
use bedplate_tests::sim::node;
use uuid::Uuid;

const DISK_BYTES: u64 = 64 << 20;
const BOOT: SessionStart = SessionStart {
    boot_id: Uuid::from_u128(77),
    diskseq: None,
};

fn formatted() -> SimDisk {
    let mut disk = SimDisk::new(DISK_BYTES, 1);
    let params = FormatParams {
        disk_uuid: Uuid::from_u128(1),
        hardware_id_hash: [7; 32],
        created_unix_s: 1,
    };
    format(&mut disk, &params).unwrap();
    disk
}

fn open(disk: &mut SimDisk) -> (Store<&mut SimDisk>, bedplate_datapath::store::OpenReport) {
    Store::open(disk, &BOOT).unwrap()
}

#[test]
fn every_content_survives_import_and_reopening() {
    let mut disk = formatted();
    for number in 0..80 {
        let uuid = Uuid::from_u128(1000 + number as u128);
        let content = content(number);
        let (mut store, report) = open(&mut disk);
        assert_eq!(
            report.previous,
            if number == 0 {
                PreviousSession::First
            } else {
                PreviousSession::Clean
            }
        );
        assert_eq!((report.repairs.len(), report.held.len()), (0, 0));
        let free = store.free_clusters();
        assert_eq!(free, store.total_clusters());
        node::import(&mut store, "an-image", uuid, &content).unwrap();
        assert_eq!(store.free_clusters(), free - content.clusters_on_disk());
        store.set_attachment(uuid, DevId::new(5), true).unwrap();
        store.close().unwrap();

        let (mut store, report) = open(&mut disk);
        assert_eq!(
            (report.previous, report.repairs.len()),
            (PreviousSession::Clean, 0)
        );
        let object = store.object(uuid).unwrap().clone();
        assert_eq!(object.name, "an-image");
        assert_eq!(
            (object.size_bytes, object.sha256, object.sha512),
            (content.size_bytes, content.sha256, content.sha512)
        );
        assert_eq!(
            (object.dev_id, object.want_attached),
            (Some(DevId::new(5)), true)
        );
        assert_eq!(
            object.stored_clusters + object.tree_clusters,
            content.clusters_on_disk()
        );
        assert_eq!(store.free_clusters(), free - content.clusters_on_disk());
        let bytes = node::read_image(&mut store, uuid, object.size_bytes).unwrap();
        assert!(bytes == node::expected_bytes(&content), "content {number}");
        assert!(node::verify(&mut store, uuid).unwrap().is_good());
        store.set_attachment(uuid, DevId::new(5), false).unwrap();
        store.delete(uuid).unwrap();
        assert_eq!(store.free_clusters(), free);
        store.close().unwrap();
    }
}

/// Metadata of an image of `gib` GiB of which every cluster is mapped; of its data only the first block of each is claimed to exist.
fn fully_mapped(gib: u64) -> SimDisk {
    let mut disk = SimDisk::new((gib + gib / 50 + 1) << 30, 1);
    let params = FormatParams {
        disk_uuid: Uuid::from_u128(1),
        hardware_id_hash: [7; 32],
        created_unix_s: 1,
    };
    format(&mut disk, &params).unwrap();
    let (mut store, _) = open(&mut disk);
    let mut ticket = store
        .begin_import(node::new_image("large", Uuid::from_u128(5), &content(0)))
        .unwrap();
    let mut planner = ImportPlanner::new(ticket.owner(), Some(gib << 30));
    let block = [0x11; 4096];
    for lcn in 0..u32::try_from(gib << 13).unwrap() {
        let pcn = store.allocate(&mut ticket, 1).unwrap().pcn;
        planner
            .stored(Lcn::new(lcn), pcn, BlockMask::new(1), &block)
            .unwrap();
        while planner.needs_cluster() {
            let pcn = store.allocate(&mut ticket, 1).unwrap().pcn;
            let write = planner.place(pcn).unwrap();
            store.medium_mut().write(write.at, &write.bytes).unwrap();
        }
    }
    planner.finish();
    while planner.needs_cluster() {
        let pcn = store.allocate(&mut ticket, 1).unwrap().pcn;
        let write = planner.place(pcn).unwrap();
        store.medium_mut().write(write.at, &write.bytes).unwrap();
    }
    let sealed = planner.seal_input(gib << 30, [1; 32], [2; 64]).unwrap();
    store.seal(ticket, sealed).unwrap();
    store.close().unwrap();
    disk
}

/// `SIM_MAPPED_GIB` says how large; at 1024 it is the 1 TiB of the design, and needs some 5 GiB of memory.
#[test]
fn a_large_map_is_read_in_large_pieces() {
    let gib = std::env::var("SIM_MAPPED_GIB").map_or(16, |gib| gib.parse().unwrap());
    let mut disk = fully_mapped(gib);
    let reads = disk.reads();
    let started = std::time::Instant::now();
    let (mut store, report) = open(&mut disk);
    let elapsed = started.elapsed();
    let reads = store.medium_mut().reads() - reads;
    println!("{gib} GiB fully mapped: opened in {elapsed:.1?} with {reads} reads");
    assert!(report.repairs.is_empty() && report.held.is_empty());
    let map = store.map_of(Uuid::from_u128(5)).unwrap();
    assert_eq!(
        map.iter().filter(|entry| !entry.pcn().is_none()).count() as u64,
        gib << 13
    );
    // Four superblock copies, two roots, the table, the directories, and a read for each 8 clusters of 16 map pages.
    let leaves = (gib << 13).div_ceil(504 * 16).div_ceil(8);
    let table = store.geometry().table_bytes().div_ceil(1 << 20);
    let checksum_dirs = (gib << 13).div_ceil(31 * 16).div_ceil(504 * 16);
    assert_eq!(reads, 4 + 2 + table + 1 + checksum_dirs + leaves);
}
