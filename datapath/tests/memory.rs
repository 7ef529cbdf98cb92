//! A node that gives no memory for a large map: the volume is refused, or held alone. In a binary of its own, since the limit is the process's.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::sync::{Arc, Mutex};

use bedplate_datapath::live::SharedWords;
use bedplate_datapath::medium::{IoFault, Medium};
use bedplate_datapath::store::{
    Damage, FormatParams, NewVolume, ReplicaState, SessionStart, Store, StoreErrorKind, format,
};
use bedplate_datapath::units::ByteOffset;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use uuid::Uuid;

const DISK_BYTES: usize = 64 << 20;
const TIB: u64 = 1 << 40;
const START: SessionStart = SessionStart {
    boot_id: Uuid::from_u128(1),
    diskseq: None,
};

#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Medium for Memory {
    fn len_bytes(&self) -> u64 {
        DISK_BYTES as u64
    }

    fn read(&mut self, at: ByteOffset, into: &mut [u8]) -> Result<(), IoFault> {
        let at = usize::try_from(at.get()).unwrap();
        into.copy_from_slice(&self.0.lock().unwrap()[at..][..into.len()]);
        Ok(())
    }

    fn write(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        let at = usize::try_from(at.get()).unwrap();
        self.0.lock().unwrap()[at..][..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn write_zeroes(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        self.write(at, &vec![0; usize::try_from(len_bytes).unwrap()])
    }

    fn flush(&mut self) -> Result<(), IoFault> {
        Ok(())
    }
}

fn volume(number: u128, size_bytes: u64) -> NewVolume {
    NewVolume {
        name: format!("v{number}"),
        object_uuid: Uuid::from_u128(number),
        size_bytes,
        parent: None,
        created_unix_s: 1,
    }
}

/// 2 GiB of address space: no room for the map of 64 TiB, which is 4 GiB.
fn with_little_memory<T>(run: impl FnOnce() -> T) -> T {
    let (soft, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
    setrlimit(Resource::RLIMIT_AS, 2 << 30, hard).unwrap();
    let result = run();
    setrlimit(Resource::RLIMIT_AS, soft, hard).unwrap();
    result
}

/// One test, since the limit is for all threads.
#[test]
fn a_map_without_memory_refuses_its_volume_and_holds_it_alone() {
    // What nobody touches is not counted: here half a TiB, more than a machine for tests has.
    let strict = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap();
    if strict.trim() != "2" {
        assert_eq!(SharedWords::try_zeroed(1 << 36).unwrap().len(), 1 << 36);
    }

    let mut disk = Memory(Arc::new(Mutex::new(vec![0; DISK_BYTES])));
    let params = FormatParams {
        disk_uuid: Uuid::from_u128(1),
        hardware_id_hash: [0; 32],
        created_unix_s: 1,
    };
    format(&mut disk, &params).unwrap();
    let (mut store, _) = Store::open(disk.clone(), &START).unwrap();
    store.create_volume(volume(2, 1 << 30)).unwrap();

    // Refused before anything of it is durable.
    let free = store.free_clusters();
    let error = with_little_memory(|| store.create_volume(volume(3, 64 * TIB)).unwrap_err());
    assert_eq!(error.kind(), StoreErrorKind::BadSize, "{error}");
    let error = with_little_memory(|| store.resize_volume(Uuid::from_u128(2), 64 * TIB));
    assert_eq!(error.unwrap_err().kind(), StoreErrorKind::BadSize);
    assert_eq!((store.free_clusters(), store.objects().count()), (free, 1));

    // One that was made while there was memory.
    store.create_volume(volume(4, 64 * TIB)).unwrap();
    store.close().unwrap();
    let (store, report) = with_little_memory(|| Store::open(disk.clone(), &START))
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.held.len(), 1);
    assert_eq!(report.held[0].uuid, Uuid::from_u128(4));
    assert!(
        matches!(report.held[0].why, Damage::NoMemory { map_bytes, .. } if map_bytes == 4 << 30),
        "{:?}",
        report.held
    );
    let small = store.object(Uuid::from_u128(2)).unwrap();
    assert_eq!(small.state, ReplicaState::Ready);
    store.close().unwrap();
    let (_, report) = Store::open(disk, &START).unwrap();
    assert!(report.held.is_empty(), "{report:?}");
}
