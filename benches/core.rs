//! The sans-I/O core: what the CPU does for a request, a page or a cluster. No disk is touched; the ring, the kernel and the
//! device come on top of these figures.
//!
//! `cargo bench -p bedplate-benches --bench core`

use std::hint::black_box;
use std::sync::Arc;

use bedplate_benches::random::Random;
use bedplate_datapath::format::checksum_page::{self, ChecksumPage};
use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::format::journal::{JournalBatch, JournalChange, JournalRecord};
use bedplate_datapath::format::map_page::MapPage;
use bedplate_datapath::format::peers::Peers;
use bedplate_datapath::format::superblock::{Superblock, SuperblockCopy};
use bedplate_datapath::format::{Expect, Stamp};
use bedplate_datapath::import::verdict;
use bedplate_datapath::map::{LayerMap, MapEntry};
use bedplate_datapath::plan::{DiskIndex, Layer, LayerStack, RunList};
use bedplate_datapath::units::{
    BLOCK_BYTES, BLOCKS_PER_CLUSTER, BlockMask, ByteOffset, CLUSTER_BYTES, Epoch, Lcn, Pcn, Seq,
    SlotIndex,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use uuid::Uuid;

/// Positions looked up in one iteration, so that the clock does not show.
const LOOKUPS: usize = 1024;
/// A map of 128 GiB: 8 MiB, more than a core's own caches.
const LARGE_CLUSTERS: u32 = 1 << 20;
/// A map of 1 GiB: 64 KiB.
const SMALL_CLUSTERS: u32 = 1 << 13;

/// Every block is held; the clusters lie on the disk in random order.
fn full_map(clusters: u32) -> Arc<LayerMap> {
    let places = Random::seeded(1).permutation(clusters);
    let entry = |pcn: u32| MapEntry::new(Pcn::new(pcn + 1), BlockMask::ALL).bits();
    Arc::new(LayerMap::from_entries(
        places.into_iter().map(entry).collect(),
    ))
}

fn stack(layers: Vec<Arc<LayerMap>>) -> LayerStack {
    let clusters = layers.iter().map(|map| map.len()).max().unwrap_or(0) as u64;
    let layers = layers
        .into_iter()
        .map(|map| Layer::new(map, DiskIndex::new(0)))
        .collect();
    LayerStack {
        layers,
        size_bytes: clusters * CLUSTER_BYTES,
    }
}

fn positions(below: u64) -> Vec<u64> {
    let mut random = Random::seeded(2);
    (0..LOOKUPS).map(|_| random.below(below)).collect()
}

/// One entry of a map, at a random cluster.
fn map_lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core/map_lookup");
    group.throughput(Throughput::Elements(LOOKUPS as u64));
    for (name, clusters) in [("1_GiB", SMALL_CLUSTERS), ("128_GiB", LARGE_CLUSTERS)] {
        let map = full_map(clusters);
        let lcns: Vec<Lcn> = positions(clusters.into())
            .into_iter()
            .filter_map(|lcn| u32::try_from(lcn).ok())
            .map(Lcn::new)
            .collect();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for &lcn in &lcns {
                    black_box(map.get(lcn));
                }
            });
        });
    }
    group.finish();
}

/// A request of 4 KiB, 128 KiB or 1 MiB at a random place of 128 GiB, to runs.
fn plan_read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core/plan_read");
    group.throughput(Throughput::Elements(LOOKUPS as u64));
    let mapped = stack(vec![full_map(LARGE_CLUSTERS)]);
    // Blocks by turns in the upper layer and in the lower one: as many runs as a request can have.
    let fragmented = stack(vec![
        Arc::new(LayerMap::from_entries(
            (0..LARGE_CLUSTERS)
                .map(|lcn| {
                    MapEntry::new(
                        Pcn::new(LARGE_CLUSTERS + lcn + 1),
                        BlockMask::new(0x5555_5555),
                    )
                    .bits()
                })
                .collect(),
        )),
        full_map(LARGE_CLUSTERS),
    ]);
    for (name, stack, len_bytes) in [
        ("4_KiB_mapped", &mapped, 4 << 10),
        ("128_KiB_mapped", &mapped, 128 << 10),
        ("1_MiB_mapped", &mapped, 1 << 20),
        ("4_KiB_through_a_layer", &fragmented, 4 << 10),
        ("1_MiB_fragmented", &fragmented, 1 << 20),
    ] {
        let blocks = (stack.size_bytes - u64::from(len_bytes)) / BLOCK_BYTES;
        let requests: Vec<_> = positions(blocks)
            .into_iter()
            .map(|block| ByteOffset::new(block * BLOCK_BYTES))
            .collect();
        let mut runs = RunList::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for &at in &requests {
                    assert!(stack.plan_read(at, len_bytes, &mut runs).is_ok());
                    black_box(runs.as_slice());
                }
            });
        });
    }
    group.finish();
}

/// Pages to bytes and back, CRC32C included: what opening a disk and sealing an image cost in CPU.
fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core/codec");
    let at = ByteOffset::new(CLUSTER_BYTES * 1000);
    let stamp = Stamp {
        disk_uuid: Uuid::from_u128(7),
        self_offset: at,
    };
    let expect = Expect::at(at).on_disk(stamp.disk_uuid);
    let (slot, epoch) = (SlotIndex::new(3), Epoch::new(1));

    group.throughput(Throughput::Bytes(BLOCK_BYTES));
    let mut entry = 0;
    let entries = [(); 504].map(|()| {
        entry += 1;
        MapEntry::new(Pcn::new(entry), BlockMask::ALL)
    });
    let map = MapPage {
        slot,
        epoch,
        seq: Seq::new(0),
        index: 5,
        entries,
    };
    let page = map.encode(&stamp);
    group.bench_function("map_page_encode", |bencher| {
        bencher.iter(|| black_box(&map).encode(&stamp));
    });
    group.bench_function("map_page_decode", |bencher| {
        bencher.iter(|| MapPage::decode(black_box(&page), &expect));
    });

    let checksums = ChecksumPage {
        slot,
        epoch,
        index: 5,
        crcs: [0x1234_5678; 992],
    };
    let page = checksums.encode(&stamp);
    group.bench_function("checksum_page_encode", |bencher| {
        bencher.iter(|| black_box(&checksums).encode(&stamp));
    });
    group.bench_function("checksum_page_decode", |bencher| {
        bencher.iter(|| ChecksumPage::decode(black_box(&page), &expect));
    });

    if let Ok(geometry) = Geometry::of_disk(1 << 40) {
        let superblock = Superblock {
            disk_uuid: stamp.disk_uuid,
            generation: Seq::new(9),
            clean: true,
            incompat: 0,
            ro_compat: 0,
            compat: 0,
            hardware_id_hash: [1; 32],
            geometry,
            session: 4,
            boot_id: Uuid::from_u128(8),
            created_unix_s: 1,
            owner_node_hash: [0; 32],
            peers: Peers::default(),
        };
        let expect = Expect::at(geometry.superblock_offset(SuperblockCopy::First));
        let page = superblock.encode(SuperblockCopy::First);
        group.bench_function("superblock_decode", |bencher| {
            bencher.iter(|| Superblock::decode(black_box(&page), &expect));
        });
    }

    let record = |lcn| JournalRecord {
        slot,
        epoch,
        change: JournalChange::MapEntry(
            Lcn::new(lcn),
            MapEntry::new(Pcn::new(lcn + 1), BlockMask::ALL),
        ),
        freed: Pcn::NONE,
    };
    let batch = JournalBatch {
        seq: Seq::new(1),
        session: 1,
        records: (0..125).map(record).collect(),
    };
    group.bench_function("journal_batch_of_125_encode", |bencher| {
        bencher.iter(|| black_box(&batch).encode(&stamp));
    });
    group.finish();
}

/// What an import does with a cluster besides hashing: look for zeros, and checksum its blocks.
fn import(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core/import");
    group.throughput(Throughput::Bytes(CLUSTER_BYTES));
    let random = Random::seeded(3).bytes(131_072);
    let zero = vec![0; random.len()];
    let mut nearly_zero = zero.clone();
    if let Some(last) = nearly_zero.last_mut() {
        *last = 1;
    }
    for (name, cluster) in [
        ("random", &random),
        ("zero", &zero),
        ("one_byte_at_the_end", &nearly_zero),
    ] {
        group.bench_function(format!("zero_detection_{name}"), |bencher| {
            bencher.iter(|| verdict(black_box(cluster)));
        });
    }
    group.bench_function("crc32c_of_32_blocks", |bencher| {
        bencher.iter(|| {
            let blocks = black_box(&random).chunks(random.len() / BLOCKS_PER_CLUSTER as usize);
            blocks
                .map(checksum_page::block_crc)
                .fold(0, u32::wrapping_add)
        });
    });
    group.finish();
}

criterion_group!(core, map_lookup, plan_read, codecs, import);
criterion_main!(core);
