//! Requests as long as they come: one way through ublk each, and no I/O so long that the kernel would need a thread to divide it.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bedplate_datapath::map::{LayerMap, MapEntry};
use bedplate_datapath::plan::{Layer, LayerStack};
use bedplate_datapath::units::{BlockMask, CLUSTER_BYTES, Pcn};
use bedplate_ublk_target::DataMode;

use crate::Outcome;
use crate::fixture::{Bench, FIRST_DEVICE, bench, config, disk_bytes, spec};
use crate::reader::{Aligned, open_direct};
use crate::scenarios::ensure;

const REQUEST_BYTES: usize = 1 << 20;
const CLUSTERS: u32 = 8;
const ROUNDS: usize = 50;
/// How the target names its reactors' threads.
const REACTOR: &str = "ublk-reactor";

/// What lies together on the disk, in one request of 1 MiB.
pub fn long_reads_are_divided_by_us(mode: DataMode) -> Outcome {
    let Bench {
        target, indexes, ..
    } = bench(config(mode))?;
    let first = 3;
    let entries =
        (first..first + CLUSTERS).map(|pcn| MapEntry::new(Pcn::new(pcn), BlockMask::new(u32::MAX)));
    let map = LayerMap::from_entries(entries.map(MapEntry::bits).collect());
    let stack = LayerStack {
        layers: vec![Layer::new(Arc::new(map), indexes[0])],
        size_bytes: u64::from(CLUSTERS) * CLUSTER_BYTES,
    };
    let attached = target.attach(&spec(FIRST_DEVICE), Arc::new(stack))?;
    let file = open_direct(&attached.path)?;
    let mut expected = vec![0; REQUEST_BYTES];
    disk_bytes(0, u64::from(first) * CLUSTER_BYTES, &mut expected);
    let mut buffer = Aligned::new(REQUEST_BYTES);
    let before = requests_of(FIRST_DEVICE)?;
    for _ in 0..ROUNDS {
        let got = buffer.bytes(REQUEST_BYTES);
        got.fill(0);
        file.read_exact_at(got, 0)?;
        ensure(got == expected.as_slice(), "wrong bytes")?;
    }
    let requests = requests_of(FIRST_DEVICE)? - before;
    ensure(
        requests == ROUNDS,
        format!("{ROUNDS} reads of 1 MiB were {requests} requests"),
    )?;
    let workers = workers()?;
    ensure(
        workers == 0,
        format!("io_uring needed {workers} threads: an I/O was longer than the disk takes"),
    )?;
    drop(file);
    target.detach(attached.dev_id)?;
    Ok(target.quiesce_all()?)
}

/// Reads that the device has answered: the first field of `stat` (Documentation/block/stat.rst).
fn requests_of(number: u32) -> Result<usize, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string(format!("/sys/block/ublkb{number}/stat"))?;
    let first = stat.split_whitespace().next().ok_or("an empty stat")?;
    Ok(first.parse()?)
}

/// Threads that io_uring started for reactors: named after the thread that they work for (`create_io_thread`, io_uring/io-wq.c). Those of
/// others are for control commands, which always need one.
fn workers() -> Result<usize, Box<dyn std::error::Error>> {
    let name_of = |thread: &str| {
        // One that ended meanwhile is none.
        std::fs::read_to_string(format!("/proc/self/task/{thread}/comm")).unwrap_or_default()
    };
    let mut count = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?.file_name();
        let name = name_of(&thread.to_string_lossy());
        if let Some(of) = name.trim().strip_prefix("iou-wrk-") {
            count += usize::from(name_of(of).starts_with(REACTOR));
        }
    }
    Ok(count)
}
