//! Disks made by released versions. They must open for ever, with every image Ready and byte for byte the same.
//!
//! A golden disk is kept as the runs of bytes that are not zero. `BEDPLATE_MAKE_GOLDEN=1 cargo test --test golden` makes a missing one; one
//! that is there is never made again.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::path::PathBuf;

use bedplate_datapath::import::{ClusterVerdict, ImportPlanner, verdict};
use bedplate_datapath::medium::{IoFault, Medium};
use bedplate_datapath::store::{
    FormatParams, NewImage, PreviousSession, SessionStart, Store, format,
};
use bedplate_datapath::units::{ByteOffset, DevId, Lcn};
use bedplate_datapath::verify::{StepOutcome, VerifyRun};
use sha2::{Digest, Sha256, Sha512};
use uuid::Uuid;

const DISK_BYTES: usize = 64 << 20;
const DISK: Uuid = Uuid::from_u128(0xbed0_0001);
const IMAGE: Uuid = Uuid::from_u128(0x1111);
const EMPTY: Uuid = Uuid::from_u128(0x2222);
const DELETED: Uuid = Uuid::from_u128(0x3333);

/// A disk in memory.
struct Memory(Vec<u8>);

fn at(offset: ByteOffset) -> usize {
    usize::try_from(offset.get()).unwrap()
}

impl Medium for Memory {
    fn len_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, offset: ByteOffset, into: &mut [u8]) -> Result<(), IoFault> {
        into.copy_from_slice(&self.0[at(offset)..][..into.len()]);
        Ok(())
    }

    fn write(&mut self, offset: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.0[at(offset)..][..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn write_zeroes(&mut self, offset: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        self.0[at(offset)..][..usize::try_from(len_bytes).unwrap()].fill(0);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), IoFault> {
        Ok(())
    }
}

/// An image of 4 clusters and a ragged end: data, a hole, a cluster with holes, its last byte.
fn image_bytes() -> Vec<u8> {
    let mut bytes = vec![0; 4 * 131_072 + 777];
    let blocks = [0usize, 1, 64 + 3, 96 + 31, 128];
    for block in blocks {
        let end = bytes.len().min((block + 1) * 4096);
        for (nth, byte) in bytes[block * 4096..end].iter_mut().enumerate() {
            *byte = u8::try_from((nth * 7 + block * 13) % 251).unwrap() | 1;
        }
    }
    bytes
}

fn import(store: &mut Store<Memory>, uuid: Uuid, name: &str, bytes: &[u8]) {
    let image = NewImage {
        name: name.to_owned(),
        size_bytes: Some(bytes.len() as u64),
        source: "/srv/images/golden.raw".to_owned(),
        wanted_copies: 2,
        created_unix_s: 1_790_000_000,
        object_uuid: uuid,
        replica_uuid: Uuid::from_u128(uuid.as_u128() + 1),
    };
    let mut ticket = store.begin_import(image).unwrap();
    let mut planner = ImportPlanner::new(ticket.owner(), Some(bytes.len() as u64));
    for (lcn, bytes) in (0..).zip(bytes.chunks(131_072)) {
        let mut cluster = bytes.to_vec();
        cluster.resize(131_072, 0);
        if let ClusterVerdict::Store { mask } = verdict(&cluster) {
            let pcn = store.allocate(&mut ticket, 1).unwrap().pcn;
            store.medium_mut().write(pcn.offset(), &cluster).unwrap();
            planner.stored(Lcn::new(lcn), pcn, mask, &cluster).unwrap();
        }
    }
    planner.finish();
    while planner.needs_cluster() {
        let pcn = store.allocate(&mut ticket, 1).unwrap().pcn;
        let write = planner.place(pcn).unwrap();
        store.medium_mut().write(write.at, &write.bytes).unwrap();
    }
    let (sha256, sha512) = (Sha256::digest(bytes).into(), Sha512::digest(bytes).into());
    let sealed = planner
        .seal_input(bytes.len() as u64, sha256, sha512)
        .unwrap();
    store.seal(ticket, sealed).unwrap();
}

fn make() -> Memory {
    let mut disk = Memory(vec![0; DISK_BYTES]);
    let params = FormatParams {
        disk_uuid: DISK,
        hardware_id_hash: [0x5a; 32],
        created_unix_s: 1_789_999_999,
    };
    format(&mut disk, &params).unwrap();
    let start = SessionStart {
        boot_id: Uuid::from_u128(0xb007),
        diskseq: None,
    };
    let (mut store, _) = Store::open(disk, &start).unwrap();
    import(&mut store, DELETED, "deleted", &image_bytes()[..5000]);
    import(&mut store, IMAGE, "debian-13.raw", &image_bytes());
    import(&mut store, EMPTY, "all-zero", &vec![0; 1_000_001]);
    store.set_attachment(IMAGE, DevId::new(7), true).unwrap();
    store.delete(DELETED).unwrap();
    store.close().unwrap()
}

/// Runs of bytes that are not zero: offset, length (both u32), bytes. Gaps shorter than 16 bytes belong to a run.
fn pack(disk: &Memory) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut next = 0;
    while let Some(skip) = disk.0[next..].iter().position(|&byte| byte != 0) {
        let start = next + skip;
        let gap = disk.0[start..]
            .windows(16)
            .position(|bytes| bytes.iter().all(|&byte| byte == 0));
        let end = gap.map_or(disk.0.len(), |gap| start + gap);
        packed.extend(u32::try_from(start).unwrap().to_le_bytes());
        packed.extend(u32::try_from(end - start).unwrap().to_le_bytes());
        packed.extend(&disk.0[start..end]);
        next = end;
    }
    packed
}

fn unpack(mut packed: &[u8]) -> Memory {
    let mut disk = Memory(vec![0; DISK_BYTES]);
    let number = |packed: &mut &[u8]| {
        let (number, rest) = packed.split_first_chunk().unwrap();
        *packed = rest;
        u32::from_le_bytes(*number) as usize
    };
    while !packed.is_empty() {
        let (start, len) = (number(&mut packed), number(&mut packed));
        let (bytes, rest) = packed.split_at(len);
        disk.0[start..start + len].copy_from_slice(bytes);
        packed = rest;
    }
    disk
}

#[test]
fn the_disk_of_version_1_opens_and_every_image_is_what_it_was() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1.disk");
    if !path.exists() && std::env::var_os("BEDPLATE_MAKE_GOLDEN").is_some() {
        std::fs::write(&path, pack(&make())).unwrap();
    }
    let packed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(packed.len() < 100 << 10, "{} bytes", packed.len());

    let start = SessionStart {
        boot_id: Uuid::from_u128(0xb008),
        diskseq: None,
    };
    let (mut store, report) = Store::open(unpack(&packed), &start).unwrap();
    assert_eq!(
        (report.previous, report.session),
        (PreviousSession::Clean, 2)
    );
    assert_eq!((report.repairs.len(), report.held.len()), (0, 0));
    assert_eq!(
        (store.disk_uuid(), store.hardware_id_hash()),
        (DISK, &[0x5a; 32])
    );
    assert_eq!(
        store
            .objects()
            .map(|object| object.uuid)
            .collect::<Vec<_>>(),
        [IMAGE, EMPTY]
    );

    let bytes = image_bytes();
    let image = store.object(IMAGE).unwrap().clone();
    assert_eq!(
        (image.name.as_str(), image.size_bytes),
        ("debian-13.raw", bytes.len() as u64)
    );
    assert_eq!(image.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
    assert_eq!(image.sha512, <[u8; 64]>::from(Sha512::digest(&bytes)));
    assert_eq!(
        (image.dev_id, image.want_attached),
        (Some(DevId::new(7)), true)
    );
    assert_eq!(
        (image.wanted_copies, image.source.as_str()),
        (2, "/srv/images/golden.raw")
    );
    assert_eq!((image.stored_clusters, image.tree_clusters), (4, 4));
    let empty = store.object(EMPTY).unwrap();
    assert_eq!(
        (empty.size_bytes, empty.stored_clusters, empty.tree_clusters),
        (1_000_001, 0, 0)
    );
    assert_eq!(store.free_clusters() + 8, store.total_clusters());

    for uuid in [IMAGE, EMPTY] {
        let mut run = VerifyRun::new(&store, uuid).unwrap();
        while run.step(&mut store).unwrap() == StepOutcome::More {}
        let report = run.finish();
        assert!(report.is_good(), "{report:?}");
    }
}

#[test]
fn this_version_writes_the_golden_disk_byte_for_byte() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1.disk");
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(
        pack(&make()) == golden,
        "the same steps leave another disk: was the format changed without a new version?"
    );
}
