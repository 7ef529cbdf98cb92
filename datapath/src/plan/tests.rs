//! The planner against the rule of the format, one sector at a time.

use proptest::prelude::*;

use super::*;
use crate::map::MapEntry;
use crate::units::{BlockMask, Pcn};

const SECTORS_PER_BLOCK: u64 = BLOCK_BYTES / SECTOR_BYTES;

fn entry(pcn: u32, mask: u32) -> u64 {
    MapEntry::new(Pcn::new(pcn), BlockMask::new(mask)).bits()
}

fn layer(disk: u16, entries: Vec<u64>) -> Layer {
    Layer::new(
        Arc::new(LayerMap::from_entries(entries)),
        DiskIndex::new(disk),
    )
}

fn disk_run(request_offset: u32, len_bytes: u32, disk: u16, at: u64) -> Run {
    let source = RunSource::Disk {
        disk: DiskIndex::new(disk),
        at: ByteOffset::new(at),
    };
    Run {
        request_offset,
        len_bytes,
        source,
    }
}

fn plan(stack: &LayerStack, at: u64, len_bytes: u32) -> Result<Vec<Run>, PlanError> {
    let mut runs = RunList::new();
    stack.plan_read(ByteOffset::new(at), len_bytes, &mut runs)?;
    Ok(runs.as_slice().to_vec())
}

#[test]
fn adjacent_clusters_are_read_with_one_io() {
    let layers = vec![layer(3, vec![entry(10, u32::MAX), entry(11, u32::MAX)])];
    let stack = LayerStack {
        layers,
        size_bytes: 2 * CLUSTER_BYTES,
    };
    let start = CLUSTER_BYTES - 4096;
    assert_eq!(
        plan(&stack, start, 8192),
        Ok(vec![disk_run(0, 8192, 3, 10 * CLUSTER_BYTES + start)])
    );
}

#[test]
fn neighbours_on_two_disks_are_not_joined() {
    let top = layer(0, vec![entry(10, 0xffff)]);
    let base = layer(1, vec![entry(10, u32::MAX)]);
    let stack = LayerStack {
        layers: vec![top, base],
        size_bytes: CLUSTER_BYTES,
    };
    let at = 10 * CLUSTER_BYTES;
    assert_eq!(
        plan(&stack, 0, 131_072),
        Ok(vec![
            disk_run(0, 65_536, 0, at),
            disk_run(65_536, 65_536, 1, at + 65_536)
        ])
    );
}

#[test]
fn what_is_adjacent_is_joined_up_to_what_disks_take_at_once() {
    let entries = (10..18).map(|pcn| entry(pcn, u32::MAX)).collect();
    let stack = LayerStack {
        layers: vec![layer(0, entries)],
        size_bytes: 8 * CLUSTER_BYTES,
    };
    let mut out = RunList::new();
    let mut lens = |undivided_bytes_max, at: u32| {
        out.join_at_most(JoinedMax::ANY.and(undivided_bytes_max));
        let len_bytes = REQUEST_BYTES_MAX - at;
        stack
            .plan_read(ByteOffset::new(at.into()), len_bytes, &mut out)
            .unwrap();
        let runs = out.as_slice();
        let adjoin = runs.windows(2).all(|two| {
            two[0].request_offset + two[0].len_bytes == two[1].request_offset
                && matches!((two[0].source, two[1].source), (RunSource::Disk { at, .. }, RunSource::Disk { at: next, .. })
                    if at.plus(two[0].len_bytes.into()) == next)
        });
        assert!(adjoin, "{runs:?}");
        runs.iter()
            .map(|run| run.len_bytes >> 10)
            .collect::<Vec<u32>>()
    };
    assert_eq!(lens(None, 0), [1024]);
    assert_eq!(lens(Some(512 << 10), 0), [512, 512]);
    assert_eq!(lens(Some(508 << 10), 0), [384, 384, 256]);
    assert_eq!(lens(Some(512 << 10), 65_536), [448, 512]);
    // No part is divided, and the list has room for all.
    assert_eq!(lens(Some(4096), 0), [128; 8]);
    let both = JoinedMax::ANY.and(Some(512 << 10)).and(None);
    assert_eq!(both.and(Some(u64::MAX)), both, "the shortest of all");
}

#[test]
fn a_tombstone_hides_the_layer_below() {
    let layers = vec![
        layer(0, vec![entry(0, 2)]),
        layer(1, vec![entry(7, u32::MAX)]),
    ];
    let stack = LayerStack {
        layers,
        size_bytes: CLUSTER_BYTES,
    };
    let zero = Run {
        request_offset: 4096,
        len_bytes: 4096,
        source: RunSource::Zero,
    };
    let at = 7 * CLUSTER_BYTES;
    assert_eq!(
        plan(&stack, 0, 12_288),
        Ok(vec![
            disk_run(0, 4096, 1, at),
            zero,
            disk_run(8192, 4096, 1, at + 8192)
        ])
    );
}

#[test]
fn the_last_sector_is_padded_and_nothing_lies_beyond_it() {
    let layers = vec![layer(0, vec![entry(9, u32::MAX)])];
    let stack = LayerStack {
        layers,
        size_bytes: 1025,
    };
    assert_eq!(stack.device_bytes(), 1536);
    assert_eq!(
        plan(&stack, 1024, 512),
        Ok(vec![disk_run(0, 512, 0, 9 * CLUSTER_BYTES + 1024)])
    );
    assert!(matches!(
        plan(&stack, 1536, 512),
        Err(PlanError::PastEnd { .. })
    ));
    assert!(matches!(
        plan(&stack, 1024, 1024),
        Err(PlanError::PastEnd { .. })
    ));
    assert!(matches!(
        plan(&stack, u64::MAX - 511, 512),
        Err(PlanError::PastEnd { .. })
    ));
}

#[test]
fn requests_that_no_kernel_sends_are_refused() {
    // All of it held, by which a request goes the short way.
    let held = (0..32).map(|lcn| entry(9 + lcn, u32::MAX)).collect();
    for layers in [Vec::new(), vec![layer(0, held)]] {
        refuses_what_no_kernel_sends(layers);
    }
}

fn refuses_what_no_kernel_sends(layers: Vec<Layer>) {
    let stack = LayerStack {
        layers,
        size_bytes: 4 << 20,
    };
    assert!(matches!(
        plan(&stack, 1, 512),
        Err(PlanError::Misaligned { .. })
    ));
    assert!(matches!(
        plan(&stack, 0, 100),
        Err(PlanError::Misaligned { .. })
    ));
    assert!(matches!(
        plan(&stack, 0, (1 << 20) + 512),
        Err(PlanError::TooLong { .. })
    ));
    assert_eq!(plan(&stack, 0, 0), Ok(Vec::new()));
}

#[test]
fn the_most_scattered_request_fits_in_a_run_list() {
    let clusters = 9;
    let odd = (0..clusters)
        .map(|lcn| entry(100 + 2 * lcn, 0xaaaa_aaaa))
        .collect();
    let even = (0..clusters)
        .map(|lcn| entry(1001 + 2 * lcn, 0x5555_5555))
        .collect();
    let stack = LayerStack {
        layers: vec![layer(0, odd), layer(1, even)],
        size_bytes: u64::from(clusters) * CLUSTER_BYTES,
    };
    assert_eq!(
        plan(&stack, 512, REQUEST_BYTES_MAX).unwrap().len(),
        RUNS_MAX
    );
}

/// The rule of the format, one sector at a time.
fn model(layers: &[(u16, Vec<u64>)], sector: u64) -> RunSource {
    let at = sector * SECTOR_BYTES;
    let (lcn, block) = (at / CLUSTER_BYTES, at % CLUSTER_BYTES / BLOCK_BYTES);
    for (disk, entries) in layers {
        let word = entries
            .get(usize::try_from(lcn).unwrap())
            .copied()
            .unwrap_or(0);
        if word >> (32 + block) & 1 == 0 {
            continue;
        }
        let pcn = word & 0x7fff_ffff;
        if pcn == 0 {
            return RunSource::Zero;
        }
        let in_block = sector % SECTORS_PER_BLOCK * SECTOR_BYTES;
        let at = ByteOffset::new(pcn * 131_072 + block * 4096 + in_block);
        return RunSource::Disk {
            disk: DiskIndex::new(*disk),
            at,
        };
    }
    RunSource::Zero
}

fn mask() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        Just(u32::MAX),
        any::<u32>(),
        (0u32..32).prop_map(|bit| u32::MAX << bit)
    ]
}

fn word() -> impl Strategy<Value = u64> {
    // Few clusters, so that neighbours meet; dirty bits must not matter.
    (0u32..6, mask(), any::<bool>())
        .prop_map(|(pcn, mask, dirty)| entry(pcn, mask) | u64::from(dirty) << 31)
}

fn layers() -> impl Strategy<Value = Vec<(u16, Vec<u64>)>> {
    let entries = proptest::collection::vec(word(), 0..12);
    proptest::collection::vec((0u16..3, entries), 0..=3)
}

proptest! {
    #[test]
    fn plans_what_the_format_says_of_each_sector(
        layers in layers(),
        size_bytes in 1u64..12 * CLUSTER_BYTES,
        at in any::<u64>(),
        len in any::<u64>(),
    ) {
        let stack = LayerStack {
            layers: layers.iter().map(|(disk, entries)| layer(*disk, entries.clone())).collect(),
            size_bytes,
        };
        let sectors = stack.device_bytes() / SECTOR_BYTES;
        let first = at % sectors;
        let count = 1 + len % (sectors - first).min(2048);
        let len_bytes = u32::try_from(count * SECTOR_BYTES).unwrap();
        let runs = plan(&stack, first * SECTOR_BYTES, len_bytes).unwrap();

        let mut sector = first;
        for run in &runs {
            prop_assert_eq!(u64::from(run.request_offset), (sector - first) * SECTOR_BYTES);
            prop_assert!(run.len_bytes > 0);
            for step in 0..u64::from(run.len_bytes) / SECTOR_BYTES {
                let planned = match run.source {
                    RunSource::Zero => RunSource::Zero,
                    RunSource::Disk { disk, at } => {
                        RunSource::Disk { disk, at: at.plus(step * SECTOR_BYTES) }
                    }
                };
                prop_assert_eq!(planned, model(&layers, sector));
                sector += 1;
            }
        }
        prop_assert_eq!(sector, first + count);
        for pair in runs.windows(2) {
            prop_assert!(!follows(&pair[0], pair[1].source), "neighbours were not joined");
        }
    }
}

mod replicas {
    use super::*;
    use crate::replica::{Excluded, Replica, ReplicaSet};

    /// One full cluster, on disk 1 at cluster 10 and on disk 2 at cluster 20.
    fn two() -> (Arc<ReplicaSet>, LayerStack) {
        let replica = |disk, pcn| Replica {
            map: Arc::new(LayerMap::from_entries(vec![entry(pcn, u32::MAX)])),
            disk: DiskIndex::new(disk),
        };
        let set = ReplicaSet::new(vec![replica(1, 10), replica(2, 20)]).expect("two");
        let stack = LayerStack {
            layers: vec![Layer::of_replicas(Arc::clone(&set), 0).expect("the first")],
            size_bytes: CLUSTER_BYTES,
        };
        (set, stack)
    }

    /// Which disk answers each block of the cluster; 0 for none.
    fn answers(stack: &LayerStack, excluded: &Excluded) -> Vec<u16> {
        let mut runs = RunList::new();
        (0..u64::from(BLOCKS_PER_CLUSTER))
            .map(|block| {
                let at = ByteOffset::new(block * BLOCK_BYTES);
                match stack.plan_read_without(excluded, at, 4096, &mut runs) {
                    Ok(()) => match runs.as_slice()[0].source {
                        RunSource::Disk { disk, .. } => disk.get(),
                        RunSource::Zero => panic!("nothing is zero here"),
                    },
                    Err(PlanError::Unreadable { at: told }) if told == at => 0,
                    Err(error) => panic!("{error}"),
                }
            })
            .collect()
    }

    fn but(most: u16, others: &[(usize, u16)]) -> Vec<u16> {
        let mut all = vec![most; BLOCKS_PER_CLUSTER as usize];
        for (block, disk) in others {
            all[*block] = *disk;
        }
        all
    }

    #[test]
    fn the_nearest_answers_until_it_is_avoided_and_again_when_it_is_back() {
        let (set, stack) = two();
        assert_eq!(answers(&stack, &Excluded::NONE), but(1, &[]));
        assert!(set.avoid(0) && !set.avoid(0));
        assert_eq!(answers(&stack, &Excluded::NONE), but(2, &[]));
        // Both: better than nobody.
        set.avoid(1);
        assert_eq!(answers(&stack, &Excluded::NONE), but(1, &[]));
        assert!(set.readmit(0) && set.readmit(1) && !set.readmit(1));
        assert_eq!(answers(&stack, &Excluded::NONE), but(1, &[]));
    }

    #[test]
    fn damage_is_read_elsewhere_and_where_both_have_it_nowhere() {
        let (set, stack) = two();
        set.mark_damaged(0, 4..6);
        assert_eq!(answers(&stack, &Excluded::NONE), but(1, &[(4, 2), (5, 2)]));
        set.mark_damaged(1, 5..7);
        assert_eq!(answers(&stack, &Excluded::NONE), but(1, &[(4, 2), (5, 0)]));
        assert_eq!((set.damaged_blocks(0), set.damaged_blocks(1)), (2, 2));
        // A long read ends where the damage is, and says so.
        let mut runs = RunList::new();
        let planned = stack.plan_read(ByteOffset::new(0), 131_072, &mut runs);
        let at = ByteOffset::new(5 * BLOCK_BYTES);
        assert_eq!(planned, Err(PlanError::Unreadable { at }));
        assert!(runs.as_slice().is_empty());
        set.mark_repaired(0, 0..32);
        assert_eq!(answers(&stack, &Excluded::NONE), but(1, &[]));
    }

    #[test]
    fn a_bad_place_on_each_disk_leaves_each_block_a_good_one() {
        let (_set, stack) = two();
        let mut excluded = Excluded::NONE;
        assert!(excluded.add(DiskIndex::new(1), 3..5));
        assert!(excluded.add(DiskIndex::new(2), 8..9));
        assert!(!excluded.add(DiskIndex::new(1), 4..5), "known already");
        assert_eq!(answers(&stack, &excluded), but(1, &[(3, 2), (4, 2)]));
        excluded.add(DiskIndex::new(1), 8..9);
        assert_eq!(
            answers(&stack, &excluded),
            but(1, &[(3, 2), (4, 2), (8, 0)])
        );
    }
}
