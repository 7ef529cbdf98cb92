//! A store with one volume on a disk in memory, and its ways of going down.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bedplate_datapath::live::HeapLive;
use bedplate_datapath::medium::{IoFault, IoOp, Medium};
use bedplate_datapath::plan::{DiskIndex, RunList, RunSource};
use bedplate_datapath::store::{FormatParams, NewVolume, SessionStart, Store, format};
use bedplate_datapath::units::{ByteOffset, DevId};
use bedplate_datapath::volume::write::{
    SCRATCH_BYTES, WriteIo, WriteIoList, WriteKind, WriteOp, WriteStep,
};
use uuid::Uuid;

pub const DISK_BYTES: usize = 64 << 20;
pub const VOLUME: Uuid = Uuid::from_u128(0x70);

/// A disk in memory that outlives its store.
#[derive(Clone)]
pub struct Memory {
    bytes: Arc<Mutex<Vec<u8>>>,
    fails_flushes: Arc<AtomicBool>,
    /// Writes and flushes until it goes.
    goes_after: Arc<AtomicU32>,
}

impl Memory {
    pub fn new() -> Self {
        Self {
            bytes: Arc::new(Mutex::new(vec![0xa5; DISK_BYTES])),
            fails_flushes: Arc::default(),
            goes_after: Arc::new(u32::MAX.into()),
        }
    }

    pub fn fail_flushes(&self, fail: bool) {
        self.fails_flushes.store(fail, Ordering::SeqCst);
    }

    /// So many writes and flushes succeed, and none after them.
    pub fn goes_after(&self, writes: u32) {
        self.goes_after.store(writes, Ordering::SeqCst);
    }

    fn may_change(&self, op: IoOp) -> Result<(), IoFault> {
        let left = self.goes_after.load(Ordering::SeqCst);
        self.goes_after
            .store(left.saturating_sub(1), Ordering::SeqCst);
        if left == 0 || (op == IoOp::Flush && self.fails_flushes.load(Ordering::SeqCst)) {
            return Err(IoFault {
                op,
                at: ByteOffset::new(0),
                len_bytes: 0,
                errno: 5,
            });
        }
        Ok(())
    }

    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        self.bytes.lock().unwrap()[usize::try_from(at).unwrap()..][..len].to_vec()
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.bytes.lock().unwrap()[usize::try_from(at).unwrap()..][..bytes.len()]
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
        self.may_change(IoOp::Write)?;
        self.put(at.get(), from);
        Ok(())
    }

    fn write_zeroes(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        self.may_change(IoOp::Write)?;
        self.put(at.get(), &vec![0; usize::try_from(len_bytes).unwrap()]);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), IoFault> {
        self.may_change(IoOp::Flush)
    }
}

pub struct Node {
    pub disk: Memory,
    pub live: HeapLive,
    pub store: Store<Memory>,
}

pub fn start(boot: u128) -> SessionStart {
    SessionStart {
        boot_id: Uuid::from_u128(boot),
        diskseq: Some(1),
    }
}

impl Node {
    pub fn new() -> Self {
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

    pub fn with_volume(size_bytes: u64) -> Self {
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

    pub fn attach(&mut self) {
        self.store.prepare_attach(VOLUME).unwrap();
        self.store
            .set_attachment(VOLUME, DevId::new(0), true)
            .unwrap();
    }

    /// The process dies, and the next one comes; on another boot, with the live files gone, if `boot` says so.
    pub fn crash(self, boot: u128) -> (Self, bedplate_datapath::store::OpenReport) {
        let Self { disk, live, store } = self;
        drop(store.abandon());
        if boot != 1 {
            live.clear();
        }
        let (store, report) =
            Store::open_live(disk.clone(), &start(boot), Box::new(live.clone())).unwrap();
        (Self { disk, live, store }, report)
    }

    pub fn write(&mut self, kind: WriteKind, at: u64, data: &[u8]) -> Result<(), i32> {
        self.write_to(VOLUME, kind, at, data)
    }

    pub fn write_to(
        &mut self,
        uuid: Uuid,
        kind: WriteKind,
        at: u64,
        data: &[u8],
    ) -> Result<(), i32> {
        let stack = self.store.layers_of(uuid, DiskIndex::new(0)).unwrap();
        let volume = self.store.volume_of(uuid).unwrap();
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

    pub fn read(&self, at: u64, len: u32) -> Vec<u8> {
        self.read_of(VOLUME, at, len)
    }

    pub fn read_of(&self, uuid: Uuid, at: u64, len: u32) -> Vec<u8> {
        let stack = self.store.layers_of(uuid, DiskIndex::new(0)).unwrap();
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
