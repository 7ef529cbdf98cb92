//! Images with two replicas, one of which fails: the reader sees no error, and the right bytes.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bedplate_datapath::map::{LayerMap, MapEntry};
use bedplate_datapath::plan::{DiskIndex, Layer, LayerStack};
use bedplate_datapath::replica::{Replica, ReplicaSet};
use bedplate_datapath::units::{BLOCK_BYTES, Pcn};
use bedplate_ublk_target::{DataMode, ReadFailed, ReadLate, ReplicaEvents};

use crate::Outcome;
use crate::fixture::{Bench, FIRST_DEVICE, bench, config, spec};
use crate::reader::{Aligned, check, check_all, open_direct};
use crate::scenarios::ensure;

#[derive(Default)]
struct Heard {
    failed: Mutex<Vec<ReadFailed>>,
    late: AtomicU64,
}

impl ReplicaEvents for Heard {
    fn read_failed(&self, event: ReadFailed) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.push(event);
    }

    fn read_late(&self, _: ReadLate) {
        self.late.fetch_add(1, Ordering::SeqCst);
    }
}

type Twins = (Vec<Arc<ReplicaSet>>, Arc<LayerStack>);

/// For each layer of the image: a replica that is good, and before it one on the other disk all of whose clusters lie beyond the disk's
/// end, where every read fails.
fn with_bad_twins(stack: &LayerStack, disks: &[DiskIndex]) -> Result<Twins, Box<dyn Error>> {
    let mut sets = Vec::new();
    let mut layers = Vec::new();
    for layer in &stack.layers {
        let other = disks.iter().find(|disk| **disk != layer.disk);
        let other = *other.ok_or("one disk only")?;
        let astray = |entry: MapEntry| match entry.pcn() {
            pcn if pcn.is_none() => entry,
            pcn => entry.with_pcn(Pcn::new(pcn.get() + (1 << 30))),
        };
        let bad = layer.map.iter().map(|entry| astray(entry).bits());
        let set = ReplicaSet::new(vec![
            Replica {
                map: Arc::new(LayerMap::from_entries(bad.collect())),
                disk: other,
            },
            Replica {
                map: Arc::clone(&layer.map),
                disk: layer.disk,
            },
        ]);
        let set = set.ok_or("no set")?;
        layers.push(Layer::of_replicas(Arc::clone(&set), 0).ok_or("no layer")?);
        sets.push(set);
    }
    let stack = LayerStack {
        layers,
        size_bytes: stack.size_bytes,
    };
    Ok((sets, Arc::new(stack)))
}

pub fn a_failed_replica_is_nobodys_error(mode: DataMode) -> Outcome {
    let Bench {
        target,
        image,
        stack,
        indexes,
    } = bench(config(mode))?;
    let heard = Arc::new(Heard::default());
    target.set_replica_events(Arc::clone(&heard) as Arc<dyn ReplicaEvents>);
    let (sets, twins) = with_bad_twins(&stack, &indexes)?;
    let attached = target.attach(&spec(FIRST_DEVICE), twins)?;
    let file = open_direct(&attached.path)?;
    check_all(&file, &image, 1 << 20)?;
    check_all(&file, &image, 4096)?;
    for set in &sets {
        ensure(set.is_avoided(0), "the replica that failed is not avoided")?;
        ensure(!set.is_avoided(1), "the good replica is avoided")?;
    }
    let failed = heard.failed.lock().unwrap_or_else(PoisonError::into_inner);
    let told = failed.len();
    ensure(told > 0, "nobody was told")?;
    ensure(
        failed.iter().all(|event| event.goes_on),
        "a read is said to have failed",
    )?;
    drop(failed);
    // Damage of the good one: nobody can answer these blocks, and all others are answered.
    let damaged = 40..42_u64;
    for set in &sets {
        set.mark_damaged(1, damaged.clone());
        // The bad one is tried for them, though it is avoided, and fails.
        set.readmit(0);
    }
    let mut buffer = Aligned::new(4096);
    let mut errors = 0;
    for block in 0..64 {
        let at = block * BLOCK_BYTES;
        match check(&file, &image, at, 4096, &mut buffer) {
            Ok(()) => {}
            Err(error) if damaged.contains(&block) => {
                ensure(
                    error.to_string().contains("os error 5"),
                    "another error than EIO",
                )?;
                errors += 1;
            }
            Err(error) => return Err(error),
        }
    }
    println!("  told of {told} failed reads; {errors} of 2 damaged blocks are on a disk");
    for set in &sets {
        set.mark_repaired(1, damaged.clone());
    }
    check_all(&file, &image, 4096)?;
    // Other replicas, while it is served: the plain ones.
    target.replace_layers(attached.dev_id, Arc::clone(&stack).into())?;
    check_all(&file, &image, 1 << 20)?;
    drop(file);
    target.detach(attached.dev_id)?;
    ensure(heard.late.load(Ordering::SeqCst) == 0, "a read was late")?;
    Ok(target.quiesce_all()?)
}
