//! Volumes end to end on a disk in memory: written, committed, opened again after each way of going down. Crashes at every step are the
//! simulator's business (`tests/`); here stands what must work at all.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bedplate_datapath::live::HeapLive;
use bedplate_datapath::medium::{IoFault, IoOp, Medium};
use bedplate_datapath::plan::{DiskIndex, RunList, RunSource};
use bedplate_datapath::store::{
    Foreknowledge, FormatParams, LeftDisk, NewVolume, SessionStart, Store, StoreErrorKind, format,
};
use bedplate_datapath::units::{ByteOffset, DevId};
use bedplate_datapath::volume::write::{
    SCRATCH_BYTES, WriteIo, WriteIoList, WriteKind, WriteOp, WriteStep,
};
use uuid::Uuid;

const DISK_BYTES: usize = 64 << 20;
const VOLUME: Uuid = Uuid::from_u128(0x70);

/// A disk in memory that outlives its store.
#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>, Arc<AtomicBool>);

impl Memory {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(vec![0xa5; DISK_BYTES])), Arc::default())
    }

    fn fail_flushes(&self, fail: bool) {
        self.1.store(fail, Ordering::SeqCst);
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        self.0.lock().unwrap()[usize::try_from(at).unwrap()..][..len].to_vec()
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.0.lock().unwrap()[usize::try_from(at).unwrap()..][..bytes.len()]
            .copy_from_slice(bytes);
    }
}

impl Medium for Memory {
    fn len_bytes(&self) -> u64 {
        DISK_BYTES as u64
    }

    fn read(&mut self, at: ByteOffset, into: &mut [u8]) -> Result<(), IoFault> {
        into.copy_from_slice(&self.get(at.get(), into.len()));
        Ok(())
    }

    fn write(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.put(at.get(), from);
        Ok(())
    }

    fn write_zeroes(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        self.put(at.get(), &vec![0; usize::try_from(len_bytes).unwrap()]);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), IoFault> {
        if self.1.load(Ordering::SeqCst) {
            return Err(IoFault {
                op: IoOp::Flush,
                at: ByteOffset::new(0),
                len_bytes: 0,
                errno: 5,
            });
        }
        Ok(())
    }
}

struct Node {
    disk: Memory,
    live: HeapLive,
    store: Store<Memory>,
}

fn start(boot: u128) -> SessionStart {
    SessionStart {
        boot_id: Uuid::from_u128(boot),
        diskseq: Some(1),
    }
}

impl Node {
    fn new() -> Self {
        let mut disk = Memory::new();
        let params = FormatParams {
            disk_uuid: Uuid::from_u128(1),
            hardware_id_hash: [0; 32],
            created_unix_s: 1,
        };
        format(&mut disk, &params).unwrap();
        let live = HeapLive::default();
        let (store, _) = Store::open_live(disk.clone(), &start(1), Box::new(live.clone())).unwrap();
        Self { disk, live, store }
    }

    fn with_volume(size_bytes: u64) -> Self {
        let mut node = Self::new();
        node.store
            .create_volume(NewVolume {
                name: "v".to_owned(),
                object_uuid: VOLUME,
                size_bytes,
                parent: None,
                created_unix_s: 1,
            })
            .unwrap();
        node.attach();
        node
    }

    fn attach(&mut self) {
        self.store.prepare_attach(VOLUME).unwrap();
        self.store
            .set_attachment(VOLUME, DevId::new(0), true)
            .unwrap();
    }

    /// The process dies, and the next one comes; on another boot, with the live files gone, if `boot` says so.
    fn crash(self, boot: u128) -> (Self, bedplate_datapath::store::OpenReport) {
        let Self { disk, live, store } = self;
        drop(store.abandon());
        if boot != 1 {
            live.clear();
        }
        let (store, report) =
            Store::open_live(disk.clone(), &start(boot), Box::new(live.clone())).unwrap();
        (Self { disk, live, store }, report)
    }

    fn write(&mut self, kind: WriteKind, at: u64, data: &[u8]) -> Result<(), i32> {
        let stack = self.store.layers_of(VOLUME, DiskIndex::new(0)).unwrap();
        let volume = self.store.volume_of(VOLUME).unwrap();
        let mut op = WriteOp::new();
        let mut ios = WriteIoList::new();
        let mut scratch = vec![0; SCRATCH_BYTES];
        op.begin(kind, ByteOffset::new(at), data.len() as u64);
        loop {
            match op.step(&stack, &volume, &mut ios) {
                WriteStep::Done => return Ok(()),
                WriteStep::Failed(errno) => return Err(errno),
                WriteStep::Blocked(_) => continue,
                WriteStep::Io => {}
            }
            for io in ios.as_slice() {
                match *io {
                    WriteIo::FromRequest {
                        request_offset,
                        len_bytes,
                        at,
                    } => self.disk.put(
                        at.get(),
                        &data[request_offset as usize..][..len_bytes as usize],
                    ),
                    WriteIo::Zeroes { len_bytes, at } => {
                        self.disk.put(at.get(), &vec![0; len_bytes as usize]);
                    }
                    WriteIo::FromScratch {
                        scratch_offset,
                        len_bytes,
                        at,
                    } => self.disk.put(
                        at.get(),
                        &scratch[scratch_offset as usize..][..len_bytes as usize],
                    ),
                    WriteIo::ToScratch {
                        scratch_offset,
                        len_bytes,
                        source,
                    } => {
                        let into = &mut scratch[scratch_offset as usize..][..len_bytes as usize];
                        match source {
                            RunSource::Zero => into.fill(0),
                            RunSource::Disk { at, .. } => {
                                into.copy_from_slice(&self.disk.get(at.get(), into.len()));
                            }
                        }
                    }
                }
            }
            op.io_ended(Ok(()));
        }
    }

    fn read(&self, at: u64, len: u32) -> Vec<u8> {
        let stack = self.store.layers_of(VOLUME, DiskIndex::new(0)).unwrap();
        let mut runs = RunList::new();
        stack
            .plan_read(ByteOffset::new(at), len, &mut runs)
            .unwrap();
        let mut bytes = vec![0xee; len as usize];
        for run in runs.as_slice() {
            let into = &mut bytes[run.request_offset as usize..][..run.len_bytes as usize];
            match run.source {
                RunSource::Zero => into.fill(0),
                RunSource::Disk { at, .. } => {
                    into.copy_from_slice(&self.disk.get(at.get(), into.len()));
                }
            }
        }
        bytes
    }
}

#[test]
fn a_new_volume_reads_as_zero_on_a_disk_full_of_other_bytes() {
    let node = Node::with_volume(8 << 20);
    assert!(node.read(0, 1 << 20).iter().all(|byte| *byte == 0));
}

#[test]
fn a_part_of_a_block_leaves_the_rest_of_it_zero() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 131_072 + 4096 + 512, &[7; 1024])
        .unwrap();
    let block = node.read(131_072 + 4096, 4096);
    assert!(block[..512].iter().all(|byte| *byte == 0));
    assert!(block[512..1536].iter().all(|byte| *byte == 7));
    assert!(block[1536..].iter().all(|byte| *byte == 0));
}

#[test]
fn acknowledged_writes_survive_the_process() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 4096, &[1; 8192]).unwrap();
    let _ = node.store.commit().unwrap();
    node.write(WriteKind::Data, 1 << 20, &[2; 4096]).unwrap();
    node.write(WriteKind::Zero { keep: false }, 4096, &[0; 4096])
        .unwrap();
    let (node, report) = node.crash(1);
    assert_eq!((report.adopted, report.lost), (vec![VOLUME], vec![]));
    assert!(node.read(4096, 4096).iter().all(|byte| *byte == 0));
    assert!(node.read(8192, 4096).iter().all(|byte| *byte == 1));
    assert!(node.read(1 << 20, 4096).iter().all(|byte| *byte == 2));
}

#[test]
fn flushed_writes_survive_the_power() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 4096, &[1; 8192]).unwrap();
    let _ = node.store.commit().unwrap();
    node.write(WriteKind::Data, 1 << 20, &[2; 4096]).unwrap();
    let (node, report) = node.crash(2);
    assert_eq!((report.adopted, report.lost), (vec![], vec![]));
    assert!(node.read(4096, 8192).iter().all(|byte| *byte == 1));
    // Not flushed: the map never heard of it.
    assert!(node.read(1 << 20, 4096).iter().all(|byte| *byte == 0));
}

#[test]
fn a_checkpoint_leaves_nothing_to_replay() {
    let mut node = Node::with_volume(32 << 20);
    for lcn in 0..200u64 {
        node.write(WriteKind::Data, lcn * 131_072, &[3; 4096])
            .unwrap();
        if lcn % 50 == 0 {
            let _ = node.store.commit().unwrap();
        }
    }
    let _ = node.store.commit().unwrap();
    node.store.checkpoint().unwrap();
    let (mut node, _) = node.crash(2);
    assert!(node.read(199 * 131_072, 4096).iter().all(|byte| *byte == 3));
    node.write(WriteKind::Data, 0, &[4; 4096]).unwrap();
    node.write(WriteKind::Data, 250 * 131_072, &[5; 512])
        .unwrap();
    let _ = node.store.commit().unwrap();
    let (node, _) = node.crash(3);
    assert!(node.read(0, 4096).iter().all(|byte| *byte == 4));
    assert!(node.read(131_072, 4096).iter().all(|byte| *byte == 3));
    assert!(node.read(250 * 131_072, 512).iter().all(|byte| *byte == 5));
}

#[test]
fn the_journal_laps_its_ring_and_checkpoints_by_itself() {
    let mut node = Node::with_volume(32 << 20);
    node.write(WriteKind::Data, 0, &vec![1; 32 * 4096]).unwrap();
    // 16 MiB of ring, at least 4 KiB a batch: more than a lap.
    for round in 0..5_000u32 {
        let byte = u8::try_from(round % 251).unwrap();
        node.write(WriteKind::Zero { keep: false }, 131_072, &vec![0; 131_072])
            .unwrap();
        node.write(WriteKind::Data, 131_072, &[byte; 4096]).unwrap();
        let dropped = node.store.commit().unwrap();
        node.store.disk_space().release(dropped);
    }
    let (node, _) = node.crash(2);
    let last = u8::try_from(4_999 % 251).unwrap();
    assert!(node.read(131_072, 4096).iter().all(|byte| *byte == last));
    assert!(node.read(0, 4096).iter().all(|byte| *byte == 1));
}

#[test]
fn discarded_space_comes_back_and_never_before_its_commit() {
    let mut node = Node::with_volume(32 << 20);
    let before = node.store.free_clusters();
    node.write(WriteKind::Data, 0, &vec![9; 1 << 20]).unwrap();
    // Eight clusters, and one for the map's pages.
    assert_eq!(node.store.free_clusters(), before - 9);
    node.write(WriteKind::Zero { keep: false }, 0, &vec![0; 1 << 20])
        .unwrap();
    assert_eq!(node.store.free_clusters(), before - 9);
    let dropped = node.store.commit().unwrap();
    assert_eq!((dropped.len(), node.store.free_clusters()), (8, before - 9));
    node.store.disk_space().release(dropped);
    assert_eq!(node.store.free_clusters(), before - 1);
    assert!(node.read(0, 1 << 20).iter().all(|byte| *byte == 0));
}

#[test]
fn live_files_that_are_gone_hold_the_volume_until_the_loss_is_accepted() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
    let _ = node.store.commit().unwrap();
    node.write(WriteKind::Data, 0, &[2; 4096]).unwrap();
    node.live.clear();
    let (node, report) = node.crash(1);
    assert_eq!(report.lost.len(), 1, "{report:?}");
    // And it stays held.
    let (mut node, report) = node.crash(1);
    assert_eq!(report.lost.len(), 0);
    let error = node.store.prepare_attach(VOLUME).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::LossNotAccepted);
    node.store.accept_loss(VOLUME).unwrap();
    node.store.prepare_attach(VOLUME).unwrap();
    assert!(
        node.read(0, 512)
            .iter()
            .all(|byte| *byte == 2 || *byte == 1)
    );
}

#[test]
fn a_clean_end_needs_no_live_state() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 512, &[6; 512]).unwrap();
    let Node { disk, live, store } = node;
    store.close().unwrap();
    live.clear();
    let (store, report) =
        Store::open_live(disk.clone(), &start(1), Box::new(live.clone())).unwrap();
    assert!(
        report.lost.is_empty() && report.repairs.is_empty(),
        "{report:?}"
    );
    let node = Node { disk, live, store };
    assert!(node.read(512, 512).iter().all(|byte| *byte == 6));
}

#[test]
fn a_volume_grows_while_it_is_live_and_keeps_what_it_has() {
    let mut node = Node::with_volume(1 << 20);
    node.write(WriteKind::Data, 0, &[8; 4096]).unwrap();
    let former = node.store.volume_of(VOLUME).unwrap();
    node.store.resize_volume(VOLUME, 3 << 20).unwrap();
    // What is written through the former one is seen by the new one.
    former.drop_cluster(bedplate_datapath::units::Lcn::new(0));
    node.write(WriteKind::Data, 2 << 20, &[9; 4096]).unwrap();
    assert!(node.read(0, 4096).iter().all(|byte| *byte == 0));
    let _ = node.store.commit().unwrap();
    let (node, _) = node.crash(2);
    assert_eq!(node.store.object(VOLUME).unwrap().size_bytes, 3 << 20);
    assert!(node.read(0, 4096).iter().all(|byte| *byte == 0));
    assert!(node.read(2 << 20, 4096).iter().all(|byte| *byte == 9));
}

#[test]
fn a_full_disk_fails_first_touches_alone_and_recovers_when_space_is_freed() {
    let mut node = Node::with_volume(128 << 20);
    let mut lcn = 0;
    let full = loop {
        match node.write(WriteKind::Data, lcn * 131_072, &[1; 4096]) {
            Ok(()) => lcn += 1,
            Err(errno) => break errno,
        }
    };
    assert_eq!(full, 28);
    node.write(WriteKind::Data, 0, &[2; 4096]).unwrap();
    node.write(WriteKind::Zero { keep: false }, 131_072, &vec![0; 131_072])
        .unwrap();
    let dropped = node.store.commit().unwrap();
    node.store.disk_space().release(dropped);
    node.write(WriteKind::Data, lcn * 131_072, &[3; 4096])
        .unwrap();
    let (node, _) = node.crash(1);
    assert!(node.read(0, 4096).iter().all(|byte| *byte == 2));
    assert!(node.read(131_072, 4096).iter().all(|byte| *byte == 0));
    assert!(node.read(lcn * 131_072, 4096).iter().all(|byte| *byte == 3));
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let mut node = Node::new();
    for size_bytes in [0, 1000, (256 << 40) + 512] {
        let new = NewVolume {
            name: "v".to_owned(),
            object_uuid: VOLUME,
            size_bytes,
            parent: None,
            created_unix_s: 1,
        };
        let error = node.store.create_volume(new).unwrap_err();
        assert_eq!(
            error.kind(),
            StoreErrorKind::BadSize,
            "{size_bytes}: {error}"
        );
    }
    let mut node = Node::with_volume(1 << 20);
    let error = node.store.resize_volume(VOLUME, 512).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::BadSize);
}

#[test]
fn live_files_on_a_tmpfs_outlive_their_mappings_grow_in_place_and_know_their_room() {
    use bedplate_datapath::engine::LiveDir;
    use bedplate_datapath::live::{LiveFiles, LiveName, LiveSection};

    let folder = std::path::Path::new("/dev/shm").join(format!("bedplate-{}", std::process::id()));
    if std::fs::create_dir_all(&folder).is_err() {
        println!("skipped: /dev/shm cannot be written");
        return;
    }
    let Ok(mut live) = LiveDir::open(&folder) else {
        println!("skipped: /dev/shm is no tmpfs");
        return;
    };
    live.of_disk(Uuid::from_u128(5)).unwrap();
    let name = LiveName::Volume(VOLUME);
    let few = live.map(name, LiveSection::Entries, 10).unwrap();
    few[9].store(77, Ordering::Release);
    let more = live.map(name, LiveSection::Entries, 100_000).unwrap();
    assert_eq!((more[9].load(Ordering::Acquire), more.len()), (77, 100_000));
    more[3].store(78, Ordering::Release);
    assert_eq!(few[3].load(Ordering::Acquire), 78);
    drop((few, more));
    let mut next = LiveDir::open(&folder).unwrap();
    next.of_disk(Uuid::from_u128(5)).unwrap();
    assert_eq!(next.list().unwrap(), [name]);
    let again = next.map(name, LiveSection::Entries, 10).unwrap();
    assert_eq!(again[9].load(Ordering::Acquire), 77);
    next.remove(name).unwrap();
    assert!(next.list().unwrap().is_empty());
    std::fs::remove_dir_all(&folder).unwrap();
    // A folder on a disk is refused: it would outlive the boot.
    assert!(LiveDir::open(std::path::Path::new(env!("CARGO_MANIFEST_DIR"))).is_err());
}

#[test]
fn a_cluster_with_a_failed_write_is_nobody_elses_in_this_session() {
    let mut node = Node::with_volume(32 << 20);
    node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
    let free = node.store.free_clusters();
    let stack = node.store.layers_of(VOLUME, DiskIndex::new(0)).unwrap();
    let volume = node.store.volume_of(VOLUME).unwrap();
    let (mut op, mut ios) = (WriteOp::new(), WriteIoList::new());
    op.begin(WriteKind::Data, ByteOffset::new(0), 4096);
    assert_eq!(op.step(&stack, &volume, &mut ios), WriteStep::Io);
    op.io_ended(Err(110));
    assert_eq!(op.step(&stack, &volume, &mut ios), WriteStep::Failed(110));
    node.write(WriteKind::Zero { keep: false }, 0, &vec![0; 131_072])
        .unwrap();
    let dropped = node.store.commit().unwrap();
    node.store.disk_space().release(dropped);
    assert_eq!(node.store.free_clusters(), free, "the write may still land");
    // The next process waits for it, and has the cluster again.
    let (mut node, _) = node.crash(1);
    node.store.settle().unwrap();
    assert_eq!(node.store.free_clusters(), free + 1);
}

#[test]
fn an_adopted_volume_is_served_at_once_and_allocates_only_after_it_settled() {
    let mut node = Node::with_volume(32 << 20);
    node.write(WriteKind::Data, 0, &[1; 8192]).unwrap();
    let _ = node.store.commit().unwrap();
    // In memory only: for the disk the cluster is the volume's still.
    node.write(WriteKind::Zero { keep: false }, 0, &vec![0; 131_072])
        .unwrap();
    node.write(WriteKind::Data, 1 << 20, &[2; 4096]).unwrap();
    let (mut node, _) = node.crash(1);
    assert!(node.read(1 << 20, 4096).iter().all(|byte| *byte == 2));
    node.write(WriteKind::Data, 1 << 20, &[3; 4096]).unwrap();
    let stack = node.store.layers_of(VOLUME, DiskIndex::new(0)).unwrap();
    let volume = node.store.volume_of(VOLUME).unwrap();
    let (mut op, mut ios) = (WriteOp::new(), WriteIoList::new());
    op.begin(WriteKind::Data, ByteOffset::new(2 << 20), 4096);
    let blocked = WriteStep::Blocked(bedplate_datapath::volume::write::Blocked::Space);
    assert_eq!(op.step(&stack, &volume, &mut ios), blocked);
    assert!(node.store.needs_commit());
    let dropped = node.store.commit().unwrap();
    node.store.disk_space().release(dropped);
    node.write(WriteKind::Data, 2 << 20, &[4; 4096]).unwrap();
    let _ = node.store.commit().unwrap();
    let (node, _) = node.crash(2);
    assert!(node.read(0, 8192).iter().all(|byte| *byte == 0));
    assert!(node.read(1 << 20, 4096).iter().all(|byte| *byte == 3));
    assert!(node.read(2 << 20, 4096).iter().all(|byte| *byte == 4));
}

/// How a disk that went away comes back.
#[derive(Clone, Copy)]
struct Return {
    /// The process that had it open is the one that opens it again.
    same_process: bool,
    /// Sessions of others meanwhile,
    others: u32,
    /// which end in order.
    in_order: bool,
}

impl Node {
    fn keeping(keeps_cache: bool) -> Self {
        let node = Self::with_volume(8 << 20);
        let Self { disk, live, store } = node;
        drop(store.abandon());
        let known = Foreknowledge {
            keeps_cache,
            left: Vec::new(),
        };
        let opened =
            Store::open_knowing(disk.clone(), &start(1), Box::new(live.clone()), &known).unwrap();
        let (mut store, _) = opened;
        store.settle().unwrap();
        Self { disk, live, store }
    }

    /// The disk goes, with or without what it has in its cache (the test's business), and is back as another device.
    fn unplugged(self, how: Return) -> (Self, bedplate_datapath::store::OpenReport) {
        let Self { disk, live, store } = self;
        let flushed = !store.volume_of(VOLUME).unwrap().has_unflushed();
        let left = LeftDisk {
            disk: store.disk_uuid(),
            session: store.session(),
            flushed: if flushed { vec![VOLUME] } else { Vec::new() },
        };
        drop(store.abandon());
        for boot in 0..how.others {
            let elsewhere = start(100 + u128::from(boot));
            let (other, _) = Store::open(disk.clone(), &elsewhere).unwrap();
            if how.in_order {
                other.close().unwrap();
            } else {
                drop(other.abandon());
            }
        }
        let known = Foreknowledge {
            keeps_cache: false,
            left: if how.same_process {
                vec![left]
            } else {
                Vec::new()
            },
        };
        let back = SessionStart {
            diskseq: Some(2),
            ..start(1)
        };
        let (store, report) =
            Store::open_knowing(disk.clone(), &back, Box::new(live.clone()), &known).unwrap();
        (Self { disk, live, store }, report)
    }
}

const RETURN: Return = Return {
    same_process: true,
    others: 0,
    in_order: true,
};

#[test]
fn only_what_a_flush_covers_is_flushed_overwrites_too() {
    let mut node = Node::with_volume(8 << 20);
    let unflushed = |node: &Node| node.store.volume_of(VOLUME).unwrap().has_unflushed();
    assert!(!unflushed(&node));
    for _ in 0..2 {
        // The second time it leaves no record.
        node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
        assert!(unflushed(&node));
        let _ = node.store.commit().unwrap();
        assert!(!unflushed(&node));
    }
    node.write(WriteKind::Zero { keep: false }, 0, &vec![0; 131_072])
        .unwrap();
    assert!(unflushed(&node));
    let _ = node.store.commit().unwrap();
    // The next process does not know what the one before had flushed.
    let (mut node, _) = node.crash(1);
    assert!(unflushed(&node));
    node.store.settle().unwrap();
    assert!(!unflushed(&node));
}

#[test]
fn a_disk_that_comes_back_without_its_cache_goes_on_only_if_all_was_flushed() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
    let _ = node.store.commit().unwrap();
    let (mut node, report) = node.unplugged(RETURN);
    assert_eq!((report.adopted, report.lost), (vec![], vec![]));
    assert!(node.read(0, 4096).iter().all(|byte| *byte == 1));
    // It is live: what it writes from now on survives the process.
    node.write(WriteKind::Data, 4096, &[2; 4096]).unwrap();
    let start = SessionStart {
        diskseq: Some(2),
        ..start(1)
    };
    let Node { disk, live, store } = node;
    drop(store.abandon());
    let (store, report) = Store::open_live(disk.clone(), &start, Box::new(live.clone())).unwrap();
    assert_eq!(report.adopted, [VOLUME]);
    let mut node = Node { disk, live, store };
    assert!(node.read(4096, 4096).iter().all(|byte| *byte == 2));
    node.store.settle().unwrap();

    // An overwrite alone, of which no map knows.
    node.write(WriteKind::Data, 0, &[3; 4096]).unwrap();
    let (node, report) = node.unplugged(RETURN);
    assert_eq!(report.lost.len(), 1, "{report:?}");
    assert!(node.store.object(VOLUME).unwrap().loss_not_accepted);
}

#[test]
fn a_disk_that_keeps_its_cache_goes_on_with_everything_whoever_opens_it() {
    for same_process in [true, false] {
        let mut node = Node::keeping(true);
        node.write(WriteKind::Data, 1 << 20, &[5; 4096]).unwrap();
        let how = Return {
            same_process,
            ..RETURN
        };
        let (mut node, report) = node.unplugged(how);
        assert_eq!((report.adopted, report.lost), (vec![VOLUME], vec![]));
        node.store.settle().unwrap();
        assert!(node.read(1 << 20, 4096).iter().all(|byte| *byte == 5));
        // From now on it does not keep its cache: the next time is another matter.
        node.write(WriteKind::Data, 1 << 20, &[6; 4096]).unwrap();
        let Node { disk, live, store } = node;
        drop(store.abandon());
        let third = SessionStart {
            diskseq: Some(3),
            ..start(1)
        };
        let (_, report) = Store::open_live(disk, &third, Box::new(live)).unwrap();
        assert_eq!(report.lost.len(), 1, "{report:?}");
    }
}

#[test]
fn another_process_that_finds_the_disk_back_knows_nothing_of_flushes() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
    let _ = node.store.commit().unwrap();
    let how = Return {
        same_process: false,
        ..RETURN
    };
    let (_, report) = node.unplugged(how);
    assert_eq!(report.lost.len(), 1, "{report:?}");
}

#[test]
fn a_disk_that_somebody_else_used_meanwhile_is_not_gone_on_with() {
    for (keeps_cache, same_process) in [(true, true), (false, true), (true, false), (false, false)]
    {
        for others in [1, 2] {
            for in_order in [true, false] {
                let node = Node::keeping(keeps_cache);
                let how = Return {
                    same_process,
                    others,
                    in_order,
                };
                let (_, report) = node.unplugged(how);
                assert!(report.adopted.is_empty());
                assert_eq!(report.lost.len(), 1, "{report:?}");
                assert!(report.lost[0].why.contains("somebody else"), "{report:?}");
            }
        }
    }
}

#[test]
fn a_failure_is_forgiven_only_if_the_disk_had_gone_and_kept_its_cache() {
    for (keeps_cache, has_gone, goes_on) in [
        (true, true, true),
        (true, false, false),
        (false, true, false),
    ] {
        let mut node = Node::keeping(keeps_cache);
        node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
        node.disk.fail_flushes(true);
        node.store.commit().unwrap_err();
        node.disk.fail_flushes(false);
        assert!(node.store.volume_of(VOLUME).unwrap().has_unflushed());
        if has_gone {
            node.store.has_gone();
        }
        let (node, report) = node.unplugged(RETURN);
        assert_eq!(report.lost.is_empty(), goes_on, "{report:?}");
        if goes_on {
            assert_eq!(report.adopted, [VOLUME]);
            assert!(node.read(0, 4096).iter().all(|byte| *byte == 1));
            // And the next process believes what this one says.
            let Node { disk, live, store } = node;
            drop(store.abandon());
            let again = SessionStart {
                diskseq: Some(2),
                ..start(1)
            };
            let (_, report) = Store::open_live(disk, &again, Box::new(live)).unwrap();
            assert_eq!(report.adopted, [VOLUME], "{report:?}");
        }
    }
}

#[test]
fn without_live_state_the_process_that_left_the_disk_still_knows_the_session() {
    let node = Node::with_volume(8 << 20);
    node.live.clear();
    let how = Return {
        others: 1,
        ..RETURN
    };
    let (_, report) = node.unplugged(how);
    assert_eq!(report.lost.len(), 1, "{report:?}");
}
