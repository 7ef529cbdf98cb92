//! Metadata and data that went bad on a disk at rest: repaired from another copy, or refused, never served as good.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::format::map_page::MapPage;
use bedplate_datapath::format::{Expect, Stamp};
use bedplate_datapath::map::MapEntry;
use bedplate_datapath::store::{
    Damage, FormatParams, OpenError, OpenErrorKind, OpenReport, Repaired, SessionStart, Store,
    StoreErrorKind, format,
};
use bedplate_datapath::units::{ByteOffset, DevId, Page};
use bedplate_datapath::verify::BlockContent;
use bedplate_tests::sim::content::{Content, content};
use bedplate_tests::sim::disk::{Fault, SimDisk};
use bedplate_tests::sim::node;
use std::sync::Arc;
use uuid::Uuid;

const DISK_BYTES: u64 = 64 << 20;
const DISK: Uuid = Uuid::from_u128(0xd15c);
const BOOT: SessionStart = SessionStart {
    boot_id: Uuid::from_u128(77),
    diskseq: None,
};
const ONE: Uuid = Uuid::from_u128(1);
const TWO: Uuid = Uuid::from_u128(2);

fn geometry() -> Geometry {
    Geometry::of_disk(DISK_BYTES).unwrap()
}

/// A content with several clusters of data.
fn large() -> Arc<Content> {
    let number = (0..150)
        .max_by_key(|&number| content(number).clusters_on_disk())
        .unwrap();
    content(number)
}

/// A disk with two images, closed.
fn with_two_images() -> SimDisk {
    let mut disk = SimDisk::new(DISK_BYTES, 1);
    let params = FormatParams {
        disk_uuid: DISK,
        hardware_id_hash: [7; 32],
        created_unix_s: 1,
    };
    format(&mut disk, &params).unwrap();
    let (mut store, _) = Store::open(&mut disk, &BOOT).unwrap();
    node::import(&mut store, "one", ONE, &large()).unwrap();
    node::import(&mut store, "two", TWO, &content(3)).unwrap();
    store.close().unwrap();
    disk
}

fn open(disk: &mut SimDisk) -> (Store<&mut SimDisk>, OpenReport) {
    Store::open(disk, &BOOT).unwrap_or_else(|error| panic!("{error}"))
}

/// Opens a disk that must be refused, and sees that nothing was written.
fn refused(disk: &mut SimDisk) -> OpenError {
    let before = disk.operations();
    let error = Store::open(&mut *disk, &BOOT)
        .err()
        .expect("the disk is opened");
    assert_eq!(
        disk.operations(),
        before,
        "a refused disk was written to: {error}"
    );
    assert!(!error.remedy().is_empty());
    error
}

fn assert_serves(store: &mut Store<&mut SimDisk>, uuid: Uuid, content: &Arc<Content>) {
    let bytes = node::read_image(store, uuid, content.size_bytes).unwrap();
    assert!(bytes == node::expected_bytes(content), "wrong bytes");
}

fn reseal(page: &mut Page) {
    page[12..16].fill(0);
    let crc = crc32c::crc32c(page);
    page[12..16].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn any_one_superblock_copy_destroyed_is_repaired() {
    for (copy, at) in (0..).zip(geometry().superblock_offsets()) {
        for garbage in [0x00, 0xff] {
            let mut disk = with_two_images();
            disk.rot(at, |page| page.fill(garbage));
            let (mut store, report) = open(&mut disk);
            assert_eq!(report.repairs.len(), 1);
            assert_eq!(
                (report.repairs[0].what, report.repairs[0].at),
                (Repaired::Superblock(copy), at)
            );
            assert_serves(&mut store, ONE, &large());
            store.close().unwrap();
            assert!(open(&mut disk).1.repairs.is_empty());
        }
    }
}

#[test]
fn three_superblock_copies_destroyed_are_refused_and_named() {
    for survivor in 0..4u32 {
        let mut disk = with_two_images();
        for (copy, at) in (0..).zip(geometry().superblock_offsets()) {
            if copy != survivor {
                disk.rot(at, |page| page[100] ^= 1);
            }
        }
        let error = refused(&mut disk);
        assert_eq!(error.kind(), OpenErrorKind::SuperblockLost);
        let OpenError::SuperblockLost { good, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(good, &[survivor]);
        for at in geometry().superblock_offsets() {
            assert!(error.to_string().contains(&at.to_string()), "{error}");
        }
    }
}

#[test]
fn a_disk_without_any_superblock_is_not_a_bedplate_disk() {
    let mut disk = SimDisk::new(DISK_BYTES, 5);
    assert_eq!(refused(&mut disk).kind(), OpenErrorKind::NotBedplate);
}

#[test]
fn unknown_versions_and_features_are_refused_untouched() {
    for (field, kind) in [
        (64, OpenErrorKind::UnknownVersion),
        (79, OpenErrorKind::UnknownFeature),
    ] {
        let mut disk = with_two_images();
        for at in geometry().superblock_offsets() {
            disk.rot(at, |page| {
                page[field] ^= 0x40;
                reseal(page);
            });
        }
        assert_eq!(refused(&mut disk).kind(), kind);
    }
}

#[test]
fn an_unknown_ro_compat_feature_opens_the_disk_read_only() {
    let mut disk = with_two_images();
    for at in geometry().superblock_offsets() {
        disk.rot(at, |page| {
            page[80] |= 1;
            reseal(page);
        });
    }
    let before = disk.operations();
    let (mut store, _) = open(&mut disk);
    assert!(store.is_read_only());
    assert_serves(&mut store, ONE, &large());
    assert_eq!(
        store.delete(ONE).unwrap_err().kind(),
        StoreErrorKind::ReadOnlyLatched
    );
    let attach = store.set_attachment(ONE, DevId::new(1), true);
    assert_eq!(attach.unwrap_err().kind(), StoreErrorKind::ReadOnlyLatched);
    store.close().unwrap();
    assert_eq!(disk.operations(), before);
}

#[test]
fn a_device_that_grew_is_opened_and_one_that_shrank_is_refused() {
    let mut disk = with_two_images();
    disk.resize(DISK_BYTES + (3 << 20));
    let (mut store, report) = open(&mut disk);
    assert!(report.repairs.is_empty());
    assert_serves(&mut store, TWO, &content(3));
    store.close().unwrap();
    disk.resize(DISK_BYTES - (1 << 20));
    let error = refused(&mut disk);
    assert_eq!(error.kind(), OpenErrorKind::DiskTooShort, "{error}");
}

/// Every page of metadata that was written, and whether it belongs to an image.
fn metadata_pages(disk: &SimDisk) -> Vec<(ByteOffset, [u8; 8])> {
    disk.written_pages()
        .filter(|(_, page)| page.starts_with(b"BP"))
        .map(|(at, page)| (at, page[..8].try_into().unwrap()))
        .collect()
}

#[test]
fn a_bit_flipped_in_any_metadata_page_is_repaired_from_its_twin() {
    let healthy = with_two_images();
    let pages = metadata_pages(&healthy);
    for magic in [
        b"BPSUPER\0",
        b"BPROOT\0\0",
        b"BPOBJECT",
        b"BPMAP\0\0\0",
        b"BPDIR\0\0\0",
        b"BPCRC\0\0\0",
    ] {
        assert!(
            pages.iter().any(|(_, found)| found == magic),
            "no page {}",
            magic.escape_ascii()
        );
    }
    for (nth, (at, magic)) in pages.into_iter().enumerate() {
        let mut disk = healthy.clone();
        disk.rot(at, |page| page[(nth * 997) % 4096] ^= 1 << (nth % 8));
        let (mut store, report) = open(&mut disk);
        let mut repaired: Vec<ByteOffset> = report.repairs.iter().map(|repair| repair.at).collect();
        for uuid in [ONE, TWO] {
            let report = node::verify(&mut store, uuid).unwrap();
            assert!(report.is_good(), "{report:?}");
            repaired.extend(report.repaired.iter().map(|repair| repair.at));
        }
        assert_eq!(repaired, [at], "{}", magic.escape_ascii());
        assert_serves(&mut store, ONE, &large());
        store.close().unwrap();
        let (mut store, report) = open(&mut disk);
        assert!(report.repairs.is_empty());
        assert!(node::verify(&mut store, ONE).unwrap().repaired.is_empty());
    }
}

#[test]
fn a_pair_lost_in_both_copies_is_never_served_as_good() {
    let healthy = with_two_images();
    for (at, magic) in metadata_pages(&healthy) {
        let is_pair = at.get() >= geometry().table_offset().get() && at.get() % 8192 == 0;
        if !is_pair || magic.starts_with(b"BPSUPER") {
            continue;
        }
        let mut disk = healthy.clone();
        for copy in [at, at.plus(4096)] {
            disk.rot(copy, |page| page[20] ^= 1);
        }
        let (mut store, report) = open(&mut disk);
        if &magic == b"BPCRC\0\0\0" {
            let reports = [ONE, TWO].map(|uuid| node::verify(&mut store, uuid).unwrap());
            let bad: Vec<_> = reports.iter().filter(|report| !report.is_good()).collect();
            assert_eq!(bad.len(), 1);
            assert_eq!(
                (bad[0].lost_pages.len(), bad[0].lost_pages[0].disk_offset()),
                (1, at)
            );
            assert!(bad[0].unchecked_blocks > 0 && bad[0].hashes_match());
            continue;
        }
        assert_eq!(
            report.held.len(),
            1,
            "{} at {at}: {:?}",
            magic.escape_ascii(),
            report.held
        );
        let held = &report.held[0];
        assert_eq!(held.why.disk_offset(), at);
        // The other one is served, nothing is allocated.
        let other = store
            .objects()
            .find(|object| object.state.is_ready())
            .unwrap()
            .clone();
        assert!(node::verify(&mut store, other.uuid).unwrap().is_good());
        assert_eq!(
            store.map_of(held.uuid).unwrap_err().kind(),
            StoreErrorKind::Corrupt
        );
        let refused = store.begin_import(node::new_image("three", Uuid::from_u128(3), &content(1)));
        assert_eq!(
            refused.unwrap_err().kind(),
            StoreErrorKind::AllocationRefused
        );
        // Until it is deleted.
        store.delete(held.uuid).unwrap();
        let owned = other.stored_clusters + other.tree_clusters;
        assert_eq!(store.free_clusters() + owned, store.total_clusters());
        node::import(&mut store, "three", Uuid::from_u128(3), &content(1)).unwrap();
        store.close().unwrap();
        let (mut store, report) = open(&mut disk);
        assert!(report.held.is_empty() && report.repairs.is_empty());
        assert_serves(&mut store, Uuid::from_u128(3), &content(1));
    }
}

#[test]
fn both_roots_lost_are_refused_untouched() {
    let mut disk = with_two_images();
    for at in [262_144, 266_240] {
        disk.rot(ByteOffset::new(at), |page| page[80] ^= 1);
    }
    let error = refused(&mut disk);
    assert_eq!(
        (error.kind(), error.disk_offset()),
        (
            OpenErrorKind::MetadataDamaged,
            Some(ByteOffset::new(262_144))
        )
    );
}

#[test]
fn a_cluster_with_two_owners_holds_both_and_frees_nothing_of_either() {
    let mut disk = with_two_images();
    let (store, _) = open(&mut disk);
    let stolen = store
        .map_of(ONE)
        .unwrap()
        .iter()
        .find(|entry| !entry.pcn().is_none())
        .unwrap();
    store.close().unwrap();
    let slot_of_two = 1;
    let forged = metadata_pages(&disk)
        .into_iter()
        .filter(|(at, magic)| magic == b"BPMAP\0\0\0" && disk.peek(*at)[48] == slot_of_two);
    for (at, _) in forged.collect::<Vec<_>>() {
        let mut page = MapPage::decode(&disk.peek(at), &Expect::at(at)).unwrap();
        let entry = page
            .entries
            .iter_mut()
            .find(|entry| !entry.pcn().is_none())
            .unwrap();
        *entry = MapEntry::new(stolen.pcn(), entry.mask());
        disk.rot(at, |bytes| {
            *bytes = page.encode(&Stamp {
                disk_uuid: DISK,
                self_offset: at,
            });
        });
    }
    let (mut store, report) = open(&mut disk);
    let shared: Vec<_> = report
        .held
        .iter()
        .map(|held| (held.uuid, held.why.clone()))
        .collect();
    let why = Damage::ClusterShared { pcn: stolen.pcn() };
    assert_eq!(shared, [(ONE, why.clone()), (TWO, why)]);
    store.delete(TWO).unwrap();
    assert!(store.is_allocation_refused());
    store.delete(ONE).unwrap();
    assert!(!store.is_allocation_refused());
    assert_eq!(store.free_clusters(), store.total_clusters());
}

#[test]
fn a_flipped_data_byte_is_found_with_its_offsets_and_checksums() {
    let mut disk = with_two_images();
    let (store, _) = open(&mut disk);
    let (lcn, entry) = (0..)
        .zip(store.map_of(ONE).unwrap().iter())
        .find(|(_, entry)| !entry.pcn().is_none())
        .unwrap();
    store.close().unwrap();
    let block = entry.mask().get().trailing_zeros();
    let disk_offset = entry.pcn().offset().plus(u64::from(block) * 4096);
    let expected = crc32c::crc32c(&disk.peek(disk_offset));
    disk.rot(disk_offset, |page| page[1234] ^= 0x10);
    let actual = crc32c::crc32c(&disk.peek(disk_offset));

    let (mut store, report) = open(&mut disk);
    assert!(report.held.is_empty());
    let report = node::verify(&mut store, ONE).unwrap();
    assert!(!report.is_good());
    assert_eq!((report.bad_block_count, report.bad_blocks.len()), (1, 1));
    let bad = &report.bad_blocks[0];
    let object_offset = lcn * 131_072 + u64::from(block) * 4096;
    assert_eq!(
        (bad.object_offset.get(), bad.disk_offset),
        (object_offset, disk_offset)
    );
    assert_eq!(
        (bad.expected_crc, bad.actual),
        (expected, BlockContent::Crc(actual))
    );
    assert_ne!(report.expected.sha256, report.actual.sha256);
    assert_ne!(report.expected.sha512, report.actual.sha512);
    assert!(node::verify(&mut store, TWO).unwrap().is_good());
}

#[test]
fn a_misdirected_data_write_is_found_by_verify() {
    let mut disk = with_two_images();
    let (mut store, _) = open(&mut disk);
    let now = store.medium_mut().operations();
    store
        .medium_mut()
        .inject(now, Fault::Misdirected { by_blocks: 2048 });
    let uuid = Uuid::from_u128(3);
    node::import(&mut store, "three", uuid, &large()).unwrap();
    let report = node::verify(&mut store, uuid).unwrap();
    assert!(report.bad_block_count > 0 && !report.hashes_match());
    assert_eq!(report.bad_blocks[0].disk_offset.get() % 4096, 0);
}

#[test]
fn a_misdirected_slot_write_is_repaired_and_serves_nobody_else() {
    for nth in 0..2 {
        let mut disk = with_two_images();
        let (mut store, _) = open(&mut disk);
        // The delete's write of copy A or B lands on the same copy of the next slot.
        let now = store.medium_mut().operations();
        store
            .medium_mut()
            .inject(now + nth * 2, Fault::Misdirected { by_blocks: 2 });
        store.delete(ONE).unwrap();
        store.close().unwrap();
        let (mut store, report) = open(&mut disk);
        assert!(report.held.is_empty() && !report.repairs.is_empty());
        assert!(store.object(ONE).is_none());
        assert_serves(&mut store, TWO, &content(3));
    }
}

#[test]
fn a_failed_flush_latches_the_disk_until_it_is_opened_again() {
    let mut disk = with_two_images();
    let (mut store, _) = open(&mut disk);
    let now = store.medium_mut().operations();
    store.medium_mut().inject(now + 1, Fault::Error);
    assert_eq!(store.delete(ONE).unwrap_err().kind(), StoreErrorKind::Io);
    let before = store.medium_mut().operations();
    assert!(store.is_latched().is_some());
    assert_eq!(
        store.delete(TWO).unwrap_err().kind(),
        StoreErrorKind::ReadOnlyLatched
    );
    assert_eq!(
        store.medium_mut().operations(),
        before,
        "a failed flush is not tried again"
    );
    assert_serves(&mut store, TWO, &content(3));
    assert_eq!(
        store.close().unwrap_err().kind(),
        StoreErrorKind::ReadOnlyLatched
    );
    let (mut store, _) = open(&mut disk);
    assert!(store.is_latched().is_none());
    assert_serves(&mut store, TWO, &content(3));
}

#[test]
fn a_full_disk_gives_the_space_of_a_failed_import_back() {
    let mut disk = with_two_images();
    let (mut store, _) = open(&mut disk);
    let free = store.free_clusters();
    let mut ballast = store
        .begin_import(node::new_image("ballast", Uuid::from_u128(9), &content(0)))
        .unwrap();
    while store.free_clusters() > 1 {
        let want = u32::try_from(store.free_clusters() - 1).unwrap();
        store.allocate(&mut ballast, want).unwrap();
    }
    let node::NodeError::Store(error) =
        node::import(&mut store, "three", Uuid::from_u128(3), &large()).unwrap_err()
    else {
        panic!("not the store's error")
    };
    assert_eq!(error.kind(), StoreErrorKind::NoSpace);
    assert_eq!(store.free_clusters(), 1);
    store.abort(ballast);
    assert_eq!(store.free_clusters(), free);
    node::import(&mut store, "three", Uuid::from_u128(3), &large()).unwrap();
}

#[test]
fn names_are_checked_and_unique_while_an_import_is_on_its_way() {
    let mut disk = with_two_images();
    let (mut store, _) = open(&mut disk);
    let mut begin = |name: &str, uuid| {
        store.begin_import(node::new_image(name, Uuid::from_u128(uuid), &content(0)))
    };
    for bad in ["", ".hidden", "-x", "a b", "ä", "a/b", &"x".repeat(129)] {
        assert_eq!(
            begin(bad, 10).unwrap_err().kind(),
            StoreErrorKind::BadName,
            "{bad:?}"
        );
    }
    assert_eq!(
        begin("one", 10).unwrap_err().kind(),
        StoreErrorKind::NameTaken
    );
    let ticket = begin(&"x".repeat(128), 10).unwrap();
    assert_eq!(
        begin(&"x".repeat(128), 11).unwrap_err().kind(),
        StoreErrorKind::NameTaken
    );
    store.abort(ticket);
    let again = store
        .begin_import(node::new_image(
            &"x".repeat(128),
            Uuid::from_u128(11),
            &content(0),
        ))
        .unwrap();
    store.abort(again);
}
