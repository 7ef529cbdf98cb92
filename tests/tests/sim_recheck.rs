//! Metadata that a disk did not give for a while: images trusted again.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::sync::Arc;

use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::format::map_page::MapPage;
use bedplate_datapath::format::{Expect, Stamp};
use bedplate_datapath::map::MapEntry;
use bedplate_datapath::medium::Medium;
use bedplate_datapath::store::{
    Damage, FormatParams, OpenReport, Recheck, SessionStart, Store, StoreErrorKind, format,
};
use bedplate_datapath::units::ByteOffset;
use bedplate_tests::sim::content::{Content, content};
use bedplate_tests::sim::disk::SimDisk;
use bedplate_tests::sim::node;
use uuid::Uuid;

const DISK_BYTES: u64 = 64 << 20;
const A: Uuid = Uuid::from_u128(0xa);
const ONE: Uuid = Uuid::from_u128(1);
const TWO: Uuid = Uuid::from_u128(2);
const BOOT: SessionStart = SessionStart {
    boot_id: Uuid::from_u128(77),
    diskseq: None,
};

fn formatted(disk_uuid: Uuid) -> SimDisk {
    let mut disk = SimDisk::new(DISK_BYTES, 1);
    let params = FormatParams {
        disk_uuid,
        hardware_id_hash: [7; 32],
        created_unix_s: 1,
    };
    format(&mut disk, &params).unwrap();
    disk
}

fn open<M: Medium>(disk: M) -> (Store<M>, OpenReport) {
    Store::open(disk, &BOOT).unwrap_or_else(|error| panic!("{error}"))
}

/// Two leaves of checksums, every third block a hole.
fn image() -> Arc<Content> {
    Arc::new(Content::generate(7, 40 * 131_072 + 777, |block| {
        block % 3 != 1
    }))
}

fn with_two_images() -> SimDisk {
    let mut disk = formatted(A);
    let (mut store, _) = open(&mut disk);
    node::import(&mut store, "one", ONE, &image()).unwrap();
    node::import(&mut store, "two", TWO, &content(3)).unwrap();
    store.close().unwrap();
    disk
}

fn metadata_pages(disk: &SimDisk, magic: &[u8; 8]) -> Vec<ByteOffset> {
    disk.written_pages()
        .filter(|(_, page)| page.starts_with(magic))
        .map(|(at, _)| at)
        .collect()
}

/// First copies of the pages that make an object not trusted when both copies are bad.
fn vital_pairs(disk: &SimDisk) -> Vec<ByteOffset> {
    let table = Geometry::of_disk(DISK_BYTES).unwrap().table_offset();
    let all = [b"BPOBJECT", b"BPMAP\0\0\0", b"BPDIR\0\0\0"]
        .into_iter()
        .flat_map(|magic| metadata_pages(disk, magic));
    all.filter(|at| at.get() >= table.get() && at.get() % 8192 == 0)
        .collect()
}

/// A second time takes it back.
fn flip(disk: &mut SimDisk, at: ByteOffset) {
    disk.rot(at, |page| page[20] ^= 1);
}

#[test]
fn an_image_is_trusted_again_once_its_metadata_is_whole_and_not_before() {
    let healthy = with_two_images();
    let free = open(&mut healthy.clone()).0.free_clusters();
    let pairs = vital_pairs(&healthy);
    assert!(pairs.len() >= 8, "{pairs:?}");
    for at in pairs {
        for whole in [&[at, at.plus(4096)][..], &[at.plus(4096)]] {
            let mut disk = healthy.clone();
            for copy in [at, at.plus(4096)] {
                flip(&mut disk, copy);
            }
            let (mut store, report) = open(&mut disk);
            let held = report.held[0].clone();
            assert_eq!(
                store.recheck(held.uuid).unwrap(),
                Recheck::Failed(held.why.clone())
            );
            let refused = store.begin_import(node::new_image("x", Uuid::from_u128(9), &content(1)));
            assert_eq!(
                refused.unwrap_err().kind(),
                StoreErrorKind::AllocationRefused
            );

            for copy in whole {
                flip(store.medium_mut(), *copy);
            }
            let Recheck::Trusted(uuid) = store.recheck(held.uuid).unwrap() else {
                panic!("{at}: {:?}", store.object(held.uuid))
            };
            assert!(uuid == ONE || uuid == TWO);
            assert!(!store.is_allocation_refused());
            assert_eq!(store.free_clusters(), free);
            for image in [ONE, TWO] {
                assert!(node::verify(&mut store, image).unwrap().is_good(), "{at}");
            }
            // A slot that was lost goes on counting where it was.
            node::import(&mut store, "three", Uuid::from_u128(3), &content(1)).unwrap();
            store.delete(uuid).unwrap();
            store.close().unwrap();
            let (mut store, report) = open(&mut disk);
            assert!(report.held.is_empty() && report.repairs.is_empty());
            assert!(store.object(uuid).is_none());
            let other = if uuid == ONE { TWO } else { ONE };
            assert!(node::verify(&mut store, other).unwrap().is_good());
            assert!(
                node::verify(&mut store, Uuid::from_u128(3))
                    .unwrap()
                    .is_good()
            );
        }
    }
}

#[test]
fn who_names_anothers_clusters_is_not_trusted_and_the_other_one_is_served_on() {
    let mut disk = with_two_images();
    let (store, _) = open(&mut disk);
    let first_of = |uuid| {
        let map = store.map_of(uuid).unwrap();
        map.iter().find(|entry| !entry.pcn().is_none()).unwrap()
    };
    let stolen = first_of(ONE);
    store.close().unwrap();
    let slot_of_two = 1;
    let mut maps = metadata_pages(&disk, b"BPMAP\0\0\0");
    maps.retain(|at| disk.peek(*at)[48] == slot_of_two);
    maps.iter().for_each(|at| flip(&mut disk, *at));
    let (mut store, report) = open(&mut disk);
    assert_eq!(report.held.len(), 1);
    // What comes back is whole, and names a cluster of the other one.
    for at in maps {
        let disk = store.medium_mut();
        flip(disk, at);
        let mut page = MapPage::decode(&disk.peek(at), &Expect::at(at)).unwrap();
        let mut entries = page.entries.iter_mut();
        let entry = entries.find(|entry| !entry.pcn().is_none()).unwrap();
        *entry = MapEntry::new(stolen.pcn(), entry.mask());
        let stamp = Stamp {
            disk_uuid: A,
            self_offset: at,
        };
        disk.rot(at, |bytes| *bytes = page.encode(&stamp));
    }
    let why = Damage::ClusterShared { pcn: stolen.pcn() };
    assert_eq!(store.recheck(TWO).unwrap(), Recheck::Failed(why));
    assert!(store.is_allocation_refused());
    assert!(node::verify(&mut store, ONE).unwrap().is_good());
}
