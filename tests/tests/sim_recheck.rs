//! Metadata that a disk did not give for a while, or lost: images trusted again, and pages of checksums had back from another copy.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::sync::Arc;

use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::format::map_page::MapPage;
use bedplate_datapath::format::{Expect, PairCopy, Stamp};
use bedplate_datapath::map::MapEntry;
use bedplate_datapath::medium::{IoFault, IoOp, Medium};
use bedplate_datapath::rebuild::RebuildRun;
use bedplate_datapath::store::{
    ChecksumsRestored, Damage, FormatParams, OpenReport, Recheck, RecordedChecksums, SessionStart,
    Store, StoreErrorKind, format,
};
use bedplate_datapath::units::{ByteOffset, DevId};
use bedplate_datapath::verify::{StepOutcome, VerifyReport, VerifyRun};
use bedplate_tests::sim::content::{Content, content};
use bedplate_tests::sim::disk::{Crash, SimDisk};
use bedplate_tests::sim::node;
use uuid::Uuid;

const DISK_BYTES: u64 = 64 << 20;
const A: Uuid = Uuid::from_u128(0xa);
const B: Uuid = Uuid::from_u128(0xb);
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
    // The slot of one has counted further than any other.
    for wanted in [true, false, true, false] {
        store.set_attachment(ONE, DevId::new(1), wanted).unwrap();
    }
    store.close().unwrap();
    disk
}

fn metadata_pages(disk: &SimDisk, magic: [u8; 8]) -> Vec<ByteOffset> {
    disk.written_pages()
        .filter(|(_, page)| page.starts_with(&magic))
        .map(|(at, _)| at)
        .collect()
}

/// First copies of the pages that make an object not trusted when both copies are bad.
fn vital_pairs(disk: &SimDisk) -> Vec<ByteOffset> {
    let table = Geometry::of_disk(DISK_BYTES).unwrap().table_offset();
    let all = [*b"BPOBJECT", *b"BPMAP\0\0\0", *b"BPDIR\0\0\0"]
        .into_iter()
        .flat_map(|magic| metadata_pages(disk, magic));
    all.filter(|at| at.get() >= table.get() && at.get() % 8192 == 0)
        .collect()
}

/// The sequence of a page.
fn seq_of(disk: &SimDisk, at: ByteOffset) -> u64 {
    let page = disk.peek(at);
    u64::from_le_bytes(page[32..40].try_into().unwrap())
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
            for copy in [at, at.plus(4096)] {
                let disk = store.medium_mut();
                assert!(disk.peek(copy) == healthy.peek(copy), "{copy} is still bad");
            }
            for image in [ONE, TWO] {
                assert!(node::verify(&mut store, image).unwrap().is_good(), "{at}");
            }
            node::import(&mut store, "three", Uuid::from_u128(3), &content(1)).unwrap();
            let slot = store.object(uuid).unwrap().slot;
            store.delete(uuid).unwrap();
            store.close().unwrap();
            // A slot that was lost goes on counting where it was: else a crash in its next change would bring the older copy back.
            let slot_at = Geometry::of_disk(DISK_BYTES)
                .unwrap()
                .slot_offset(slot, PairCopy::A);
            assert!(seq_of(&disk, slot_at) > seq_of(&healthy, slot_at));
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
    let mut maps = metadata_pages(&disk, *b"BPMAP\0\0\0");
    maps.retain(|at| disk.peek(*at)[48] == slot_of_two);
    for at in &maps {
        flip(&mut disk, *at);
    }
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

/// Both disks have the image `ONE`.
fn with_two_copies() -> (SimDisk, SimDisk) {
    let (mut first, mut second) = (formatted(A), formatted(B));
    let (mut a, mut b) = (open(&mut first).0, open(&mut second).0);
    node::import(&mut a, "one", ONE, &image()).unwrap();
    let mut description = a.object(ONE).unwrap().description();
    description.generation += 1;
    description.member_disks = vec![A, B];
    a.set_description(ONE, &description).unwrap();
    let source = a.object(ONE).unwrap().clone();
    let mut run = RebuildRun::begin(&mut b, &source, Uuid::from_u128(0x22)).unwrap();
    while let Some(step) = run.next_step() {
        let chunk = step.read(&mut a).unwrap();
        run.write(&mut b, &chunk).unwrap();
    }
    run.seal(&mut b).unwrap();
    a.close().unwrap();
    b.close().unwrap();
    (first, second)
}

/// A verification that has lost pages of checksums back from another copy.
fn verify_with<M: Medium, N: Medium>(target: &mut Store<M>, source: &mut Store<N>) -> VerifyReport {
    let mut run = VerifyRun::new(target, ONE).unwrap();
    loop {
        let outcome = run.step(target).unwrap();
        for leaf in run.take_lost_checksums() {
            if let Some(recorded) = source.recorded_checksums(ONE, leaf).unwrap()
                && target.restore_checksums(ONE, &recorded).unwrap() == ChecksumsRestored::Written
            {
                run.checksums_restored(leaf);
            }
        }
        if outcome == StepOutcome::Done {
            return run.finish();
        }
    }
}

#[test]
fn a_lost_page_of_checksums_is_had_back_from_another_copy_byte_for_byte() {
    let (mut first, mut second) = with_two_copies();
    let pages = metadata_pages(&second, *b"BPCRC\0\0\0");
    assert_eq!(pages.len(), 4, "two leaves, two copies each");
    for leaf in [0, 1] {
        let lost = [pages[leaf * 2], pages[leaf * 2 + 1]];
        let before = lost.map(|at| second.peek(at));
        for at in lost {
            second.rot(at, |page| page[1000] ^= 0x20);
        }
        let (mut a, mut b) = (open(&mut first).0, open(&mut second).0);
        assert!(!node::verify(&mut b, ONE).unwrap().is_good());
        let report = verify_with(&mut b, &mut a);
        assert!(report.is_good(), "{report:?}");
        assert_eq!(report.restored_checksum_pages, 1);
        assert!(node::verify(&mut b, ONE).unwrap().is_good());
        assert_eq!(
            node::verify(&mut b, ONE).unwrap().restored_checksum_pages,
            0
        );
        a.close().unwrap();
        b.close().unwrap();
        assert!(lost.map(|at| second.peek(at)) == before);
    }
}

#[test]
fn a_bad_block_under_a_lost_page_of_checksums_is_found_once_the_page_is_back() {
    let (mut first, mut second) = with_two_copies();
    for at in metadata_pages(&second, *b"BPCRC\0\0\0") {
        second.rot(at, |page| page[1000] ^= 0x20);
    }
    let (mut a, mut b) = (open(&mut first).0, open(&mut second).0);
    let map = b.map_of(ONE).unwrap();
    let entry = map.iter().next().unwrap();
    b.medium_mut()
        .rot(entry.pcn().offset(), |page| page[5] ^= 1);
    let report = verify_with(&mut b, &mut a);
    assert_eq!(
        (report.bad_block_count, report.unchecked_blocks),
        (1, 0),
        "{report:?}"
    );
    assert_eq!(report.restored_checksum_pages, 2);
}

#[test]
fn a_checksum_that_can_be_read_is_never_changed_and_another_images_are_refused() {
    let (mut first, mut second) = with_two_copies();
    // Rot in the source's page that its CRC does not tell would otherwise be taken over.
    let (mut a, mut b) = (open(&mut first).0, open(&mut second).0);
    node::import(&mut a, "two", TWO, &image()).unwrap();
    let recorded = a.recorded_checksums(ONE, 0).unwrap().unwrap();
    assert_eq!(
        b.restore_checksums(ONE, &recorded).unwrap(),
        ChecksumsRestored::NotLost
    );
    let of_other: RecordedChecksums = a.recorded_checksums(TWO, 0).unwrap().unwrap();
    assert_eq!(
        b.restore_checksums(ONE, &of_other).unwrap_err().kind(),
        StoreErrorKind::Corrupt
    );
    a.close().unwrap();
    b.close().unwrap();

    // One good copy is enough, and its twin is written from it.
    let pages = metadata_pages(&second, *b"BPCRC\0\0\0");
    let before: Vec<_> = pages.iter().map(|at| second.peek(*at)).collect();
    second.rot(pages[0], |page| page[1000] ^= 0x20);
    let (mut b, _) = open(&mut second);
    assert_eq!(
        b.restore_checksums(ONE, &recorded).unwrap(),
        ChecksumsRestored::NotLost
    );
    b.close().unwrap();
    let after: Vec<_> = pages.iter().map(|at| second.peek(*at)).collect();
    assert!(after == before);

    // Two copies that contradict each other can both be read.
    second.rot(pages[1], |page| {
        page[128] ^= 1;
        page[12..16].fill(0);
        let crc = crc32c::crc32c(page);
        page[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let contradictory = [second.peek(pages[0]), second.peek(pages[1])];
    let (mut b, _) = open(&mut second);
    assert_eq!(
        b.restore_checksums(ONE, &recorded).unwrap(),
        ChecksumsRestored::Contradictory
    );
    b.close().unwrap();
    assert!([second.peek(pages[0]), second.peek(pages[1])] == contradictory);
}

#[test]
fn a_crash_while_a_page_of_checksums_is_written_again_leaves_it_lost_or_there() {
    let (mut first, mut second) = with_two_copies();
    for at in metadata_pages(&second, *b"BPCRC\0\0\0") {
        second.rot(at, |page| page[1000] ^= 0x20);
    }
    let (mut a, _) = open(&mut first);
    let recorded = a.recorded_checksums(ONE, 0).unwrap().unwrap();
    let (mut lost, mut there) = (0, 0);
    for writes in 0..8 {
        for seed in 0..8 {
            let mut disk = second.clone();
            let (mut b, _) = open(&mut disk);
            let now = b.medium_mut().operations();
            b.medium_mut().crash_at(now + writes);
            let _ = b.restore_checksums(ONE, &recorded);
            drop(b);
            disk.crash(Crash::Power { seed });
            let (mut b, report) = open(&mut disk);
            assert!(report.held.is_empty());
            match b.recorded_checksums(ONE, 0).unwrap() {
                None => lost += 1,
                Some(found) => {
                    assert!(found == recorded);
                    there += 1;
                }
            }
            assert!(verify_with(&mut b, &mut a).is_good());
        }
    }
    assert!(lost > 0 && there > 0, "{lost} {there}");
}

/// A disk that does not give some pages until they are written.
struct Unreadable<'a> {
    disk: &'a mut SimDisk,
    pages: BTreeSet<u64>,
}

impl Medium for Unreadable<'_> {
    fn len_bytes(&self) -> u64 {
        self.disk.len_bytes()
    }

    fn read(&mut self, at: ByteOffset, into: &mut [u8]) -> Result<(), IoFault> {
        let range = at.get()..at.get() + into.len() as u64;
        if self.pages.range(range).next().is_some() {
            return Err(IoFault {
                op: IoOp::Read,
                at,
                len_bytes: into.len() as u64,
                errno: 5,
            });
        }
        self.disk.read(at, into)
    }

    fn write(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        let range = at.get()..at.get() + from.len() as u64;
        self.pages.retain(|page| !range.contains(page));
        self.disk.write(at, from)
    }

    fn write_zeroes(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        self.disk.write_zeroes(at, len_bytes)
    }

    fn flush(&mut self) -> Result<(), IoFault> {
        self.disk.flush()
    }
}

#[test]
fn a_page_of_checksums_that_cannot_be_read_is_written_again_from_its_twin_or_another_copy() {
    let (mut first, mut second) = with_two_copies();
    let pages = metadata_pages(&second, *b"BPCRC\0\0\0");
    for unreadable in [&pages[..1], &pages[..2], &pages[1..4]] {
        let disk = Unreadable {
            disk: &mut second,
            pages: unreadable.iter().map(|at| at.get()).collect(),
        };
        let (mut a, mut b) = (open(&mut first).0, open(disk).0);
        let report = verify_with(&mut b, &mut a);
        assert!(report.is_good(), "{report:?}");
        assert!(b.medium_mut().pages.is_empty());
        if unreadable.len() == 1 {
            assert_eq!(report.restored_checksum_pages, 0);
            let why = report.repaired[0].to_string();
            assert!(why.contains("unreadable"), "{why}");
        } else {
            assert_eq!(report.restored_checksum_pages, 1);
        }
        a.close().unwrap();
        b.close().unwrap();
    }
}
