//! The engine against bare `io_uring`: 4 KiB random reads at depth 32 of one file, in one thread, by turns.
//!
//! Two files, each of 256 MiB: one on a disk (`BEDPLATE_BENCH_DIR`, else the target folder), and one on a tmpfs (`/dev/shm`),
//! where no device hides what our code costs. The engine plans each read over a fully mapped layer whose clusters lie in random
//! order; the yardstick reads the file directly. Bound: 0.97 of the yardstick's speed.
//!
//! `cargo bench -p bedplate-benches --bench engine`

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bedplate_benches::is_smoke_run;
use bedplate_benches::paired::{compare, timed};
use bedplate_benches::random::Random;
use bedplate_benches::read_loop::{DEPTH, EngineLoop, RawLoop};
use bedplate_datapath::engine::{DiskFile, UringMedium};
use bedplate_datapath::map::{LayerMap, MapEntry};
use bedplate_datapath::medium::Medium;
use bedplate_datapath::plan::{DiskIndex, Layer, LayerStack};
use bedplate_datapath::units::{BlockMask, ByteOffset, CLUSTER_BYTES, Pcn};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tempfile::NamedTempFile;

const FILE_CLUSTERS: u32 = 2048;
/// A turn is short, so that a disturbance hits few of them, and the median ignores it.
const READS_A_TURN: u32 = 2048;
const ROUNDS: usize = 150;

/// The file, kept until the end, and the two loops over it.
struct Rig {
    engine: EngineLoop,
    raw: RawLoop,
    _file: NamedTempFile,
}

impl Rig {
    fn on(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let file = NamedTempFile::new_in(folder)?;
        let len_bytes = u64::from(FILE_CLUSTERS) * CLUSTER_BYTES;
        file.as_file().set_len(len_bytes)?;
        let mut medium = UringMedium::new(DiskFile::claim(file.path())?)?;
        let mut random = Random::seeded(4);
        // Reads of holes would not get to the disk.
        for cluster in 0..u64::from(FILE_CLUSTERS) {
            medium.write(
                ByteOffset::new(cluster * CLUSTER_BYTES),
                &random.bytes(131_072),
            )?;
        }
        medium.flush()?;
        let disk = medium.into_disk();
        Ok(Self {
            engine: EngineLoop::new(&disk, shuffled_image(&mut random))?,
            raw: RawLoop::new(&disk, len_bytes - CLUSTER_BYTES)?,
            _file: file,
        })
    }
}

/// An image that fills the file, but for cluster 0: no pcn is 0.
fn shuffled_image(random: &mut Random) -> LayerStack {
    let places = random.permutation(FILE_CLUSTERS - 1);
    let entry = |place: u32| MapEntry::new(Pcn::new(place + 1), BlockMask::ALL).bits();
    let map = Arc::new(LayerMap::from_entries(
        places.into_iter().map(entry).collect(),
    ));
    let size_bytes = map.len() as u64 * CLUSTER_BYTES;
    LayerStack {
        layers: vec![Layer::new(map, DiskIndex::new(0))],
        size_bytes,
    }
}

fn random_reads(criterion: &mut Criterion) {
    let disk = std::env::var_os("BEDPLATE_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    for (name, folder) in [
        ("file_on_disk", disk.as_path()),
        ("file_on_tmpfs", Path::new("/dev/shm")),
    ] {
        let mut rig = match Rig::on(folder) {
            Ok(rig) => rig,
            Err(why) => {
                eprintln!("skipped: engine/{name}: {}: {why}", folder.display());
                continue;
            }
        };
        report_ratio(name, &mut rig);
        let mut group = criterion.benchmark_group(format!("engine/{name}"));
        group.throughput(Throughput::Elements(READS_A_TURN.into()));
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(5));
        let Rig { engine, raw, .. } = &mut rig;
        let mut random = Random::seeded(5);
        group.bench_function("executor", |bencher| {
            bencher.iter(|| engine.run(&mut random, READS_A_TURN));
        });
        group.bench_function("raw_io_uring", |bencher| {
            bencher.iter(|| raw.run(&mut random, READS_A_TURN));
        });
        group.finish();
    }
}

/// Criterion measures one thing after the other, and a machine drifts meanwhile: the ratio comes from turns.
fn report_ratio(name: &str, rig: &mut Rig) {
    let (rounds, reads) = if is_smoke_run() {
        (1, DEPTH * 4)
    } else {
        (ROUNDS, READS_A_TURN)
    };
    let mut engine_random = Random::seeded(6);
    let mut raw_random = Random::seeded(6);
    let Rig { engine, raw, .. } = rig;
    let result = compare(
        rounds,
        reads,
        || timed(|| engine.run(&mut engine_random, reads)),
        || timed(|| raw.run(&mut raw_random, reads)),
    );
    println!(
        "engine/{name}: 4 KiB random reads, depth {DEPTH}: executor / raw io_uring = {:.3} (quartiles {:.3} to {:.3}, {rounds} rounds), \
         {:+.0} ns CPU a read; raw: {:.0} reads/s",
        result.speed_ratio,
        result.quartiles.0,
        result.quartiles.1,
        result.extra_cpu_ns,
        result.yardstick_per_s,
    );
}

criterion_group!(engine, random_reads);
criterion_main!(engine);
