//! The steady path of a reactor without ublk: nanoseconds and, under callgrind, instructions a request. See `src/reactor/rig.rs`.
//!
//! `rig FILE read|clone|large|overwrite|first-touch [REQUESTS] [ROUNDS] [copy]`: FILE is made, 256 MiB, and removed.

use std::error::Error;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use bedplate_datapath::alloc::Allocator;
use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::map::{LayerMap, MapEntry};
use bedplate_datapath::plan::{DiskIndex, Layer, LayerStack};
use bedplate_datapath::units::{BlockMask, CLUSTER_BYTES, Pcn};
use bedplate_datapath::volume::space::Gate;
use bedplate_datapath::volume::{ClusterLocks, DiskShared, Space, Volume};
use bedplate_ublk_target::rig::{Rig, RigLoad};
use bedplate_ublk_target::{Backing, Committed, Committer, Writable};
use uuid::Uuid;

const FILE_BYTES: u64 = 256 << 20;
const SPAN_BYTES: u64 = 200 << 20;

struct Nobody;

impl Committer for Nobody {
    fn commit(&self, done: Committed) {
        done.done(Ok(()));
    }
}

fn image(clusters: u64) -> Arc<LayerMap> {
    // In an order that no prefetcher foresees.
    let entry = |n: u64| {
        let place = 300 + n * 911 % (SPAN_BYTES / CLUSTER_BYTES);
        MapEntry::new(Pcn::new(u32::try_from(place).unwrap_or(1)), BlockMask::ALL).bits()
    };
    Arc::new(LayerMap::from_entries((0..clusters).map(entry).collect()))
}

fn volume(clusters: u64) -> Result<Arc<Volume>, Box<dyn Error>> {
    let size_bytes = clusters * CLUSTER_BYTES;
    let disk = DiskShared {
        space: Arc::new(Space::new(
            Allocator::new(&Geometry::of_disk(FILE_BYTES * 4)?),
            Gate::Open,
        )),
        locks: Arc::new(ClusterLocks::default()),
    };
    Ok(Arc::new(Volume::in_memory(
        Uuid::from_u128(1),
        size_bytes,
        disk,
    )))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("which file?")?;
    let what = args.next().ok_or("read, overwrite or first-touch?")?;
    let requests: u64 = args.next().map_or(Ok(20_000), |text| text.parse())?;
    let rounds: u64 = args.next().map_or(Ok(9), |text| text.parse())?;
    let zero_copy = args.next().is_none();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    file.set_len(FILE_BYTES * 4)?;
    // A terabyte, whose map no cache holds, over the same few clusters of the file.
    let is_large = what == "large";
    let clusters = if is_large {
        1 << 23
    } else {
        SPAN_BYTES / CLUSTER_BYTES
    };
    let map = image(clusters);
    let disk = DiskIndex::new(0);
    let is_write = !matches!(what.as_str(), "read" | "clone" | "large");
    let backing = if is_write || what == "clone" {
        let volume = volume(clusters)?;
        let own = Layer::new(Arc::clone(volume.map()), disk);
        Backing {
            stack: Arc::new(LayerStack {
                layers: vec![own, Layer::new(map, disk)],
                size_bytes: clusters * CLUSTER_BYTES,
            }),
            checksums: None,
            writable: Some(Writable {
                volume,
                committer: Arc::new(Nobody),
            }),
        }
    } else {
        Arc::new(LayerStack {
            layers: vec![Layer::new(map, disk)],
            size_bytes: clusters * CLUSTER_BYTES,
        })
        .into()
    };
    let load = RigLoad {
        is_write,
        len_bytes: 4096,
        span_bytes: clusters * CLUSTER_BYTES,
        depth: 32,
        zero_copy,
        read_deadline: None,
    };
    let mut rig = Rig::new(load, backing, vec![file.into()])?;
    if what == "overwrite" {
        // Until every block is held: coupon collector, 51,200 blocks.
        rig.run(if rounds == 0 { 0 } else { 900_000 })?;
    }
    let mut ours: Vec<u128> = Vec::new();
    for _ in 0..rounds {
        let run = rig.run(requests)?;
        let a_request = |time: std::time::Duration| time.as_nanos() / u128::from(run.requests);
        if run.errors > 0 {
            return Err(format!("{} requests failed", run.errors).into());
        }
        ours.push(a_request(run.ours));
        println!(
            "{what}: {} ns a request in our code, {} ns in all, {} requests a turn",
            a_request(run.ours),
            a_request(run.total),
            run.requests / run.turns.max(1),
        );
    }
    ours.sort_unstable();
    println!(
        "{what}: median {} ns, least {} ns",
        ours[ours.len() / 2],
        ours[0]
    );
    Ok(())
}
