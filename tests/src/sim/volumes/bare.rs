//! Volumes without a store: write requests, maps, marks, locks and space alone, under random concurrency, without a crash. A commit is made here,
//! step by step, with requests going on between the steps, and what it captured is compared with the maps at the end.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use bedplate_datapath::alloc::Allocator;
use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::live::{HeapLive, LiveFiles, LiveName, LiveSection};
use bedplate_datapath::map::{LayerMap, MapEntry};
use bedplate_datapath::medium::Medium;
use bedplate_datapath::plan::{DiskIndex, Layer, LayerStack};
use bedplate_datapath::units::{BlockMask, CLUSTER_BYTES, Epoch, Lcn, Pcn, SlotIndex};
use bedplate_datapath::volume::dirty::{DirtyBits, ENTRIES_PER_GROUP};
use bedplate_datapath::volume::space::Gate;
use bedplate_datapath::volume::transition;
use bedplate_datapath::volume::{
    ClusterLocks, DiskShared, Space, Volume, VolumeParts, clusters_of, leaf_groups_of,
};
use uuid::Uuid;

use super::front::{Break, Counts, Front, server};
use super::oracle::{Rule, image_word};
use super::word::SECTOR;
use crate::sim::disk::SimDisk;
use crate::sim::rng::{Rng, mix};

/// The disk of a run.
pub const DISK_BYTES: u64 = 64 << 20;
const IMAGE: u8 = 200;

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Requests.
    pub requests: u64,
    /// Clusters that are free at the start.
    pub clusters: u32,
    /// A rule that is broken.
    pub breaks: Break,
    /// Each request looks at locks of its own: nobody is kept out.
    pub without_locks: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            requests: 200,
            clusters: 100,
            breaks: Break::Nothing,
            without_locks: false,
        }
    }
}

/// A run's things, kept for the next one.
pub struct Bare {
    disk: Rc<RefCell<SimDisk>>,
    front: Front,
}

impl Default for Bare {
    fn default() -> Self {
        let disk = Rc::new(RefCell::new(SimDisk::new(DISK_BYTES, 0)));
        let front = Front::new(Rc::clone(&disk));
        Self { disk, front }
    }
}

/// A volume and what the committer knows of it.
struct Made {
    volume: Arc<Volume>,
    layers: LayerStack,
    /// As the journal would have it.
    committed: Vec<MapEntry>,
}

impl Bare {
    /// Runs the schedule of a seed.
    ///
    /// # Errors
    /// What the oracle found.
    pub fn run(&mut self, seed: u64, setting: &Setting) -> Result<Counts, String> {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.whole(seed, setting)));
        outcome.unwrap_or_else(|panic| {
            *self = Self::default();
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panic: {}", text.unwrap_or("of unknown kind")))
        })
    }

    fn whole(&mut self, seed: u64, setting: &Setting) -> Result<Counts, String> {
        self.disk.borrow_mut().reset(mix(seed));
        let mut rng = Rng::new(mix(seed ^ 0xba5e));
        self.front.reset(rng.fork(1), setting.breaks);
        let geometry = Geometry::of_disk(DISK_BYTES).expect("a legal size");
        let space = Arc::new(Space::new(Allocator::new(&geometry), Gate::Open));
        let image = self.image(&space, geometry.clusters());
        let own = space.free_clusters();
        let spare = own.saturating_sub(u64::from(setting.clusters));
        if spare > 0 {
            // In single clusters: what follows may be anywhere.
            for _ in 0..spare {
                space.take(1).map_err(|why| format!("{why:?}"))?;
            }
        }
        let disk = DiskShared {
            space: Arc::clone(&space),
            locks: Arc::new(ClusterLocks::default()),
        };
        let mut live = HeapLive::default();
        let mut made = Vec::new();
        for number in 0..3u32 {
            let sectors = 1 + rng.below(24 * 256);
            let base = (number != 1).then_some(&image);
            let sectors = if base.is_some() {
                sectors.max(image.1 as u64)
            } else {
                sectors
            };
            made.push(self.volume(
                number,
                sectors,
                base,
                &disk,
                &mut live,
                setting.without_locks,
            ));
        }
        self.front.space = Some(Arc::clone(&space));
        self.front.to_issue = setting.requests;
        self.front.depth = 1 + usize::try_from(rng.below(12)).unwrap_or(0);
        let mut quiet = 0;
        while self.front.to_issue > 0 || self.front.in_flight() > 0 {
            for _ in 0..rng.below(30) {
                self.front.tick();
            }
            if self.front.wants_commit || rng.percent(5) {
                self.commit(&mut made, &space)?;
            }
            if let Some(why) = self.front.violation.take() {
                return Err(why);
            }
            quiet += 1;
            if quiet > 100_000 {
                return Err(format!("{} requests never end", self.front.in_flight()));
            }
        }
        self.commit(&mut made, &space)?;
        if !setting.without_locks {
            // Those without locks have marks of their own too, which nobody commits.
            check_idle(
                &made,
                &space,
                u64::from(geometry.clusters()),
                u64::from(image.2) + spare,
            )?;
        }
        for (number, made) in made.iter().enumerate() {
            let which = self.front.serving[number]
                .as_ref()
                .map(|serving| serving.which);
            let Some(which) = which else { continue };
            let since = self.front.oracle.tick();
            self.front
                .read_back(which, &made.layers, Rule::Seen { since }, false)?;
            self.front
                .read_back(which, &made.layers, Rule::Kept, true)?;
        }
        Ok(self.front.counts)
    }

    /// An image, written with its map: the map, its sectors, and the clusters that it takes.
    fn image(&mut self, space: &Space, _total: u32) -> (Arc<LayerMap>, usize, u32) {
        let clusters = 9u32;
        let sectors = 8 * 256 + 100;
        let mut entries = Vec::new();
        let mut bytes = vec![0; usize::try_from(CLUSTER_BYTES).expect("128 KiB")];
        for lcn in 0..clusters as usize {
            let extent = space.take(1).expect("an empty disk");
            let mut mask = 0u32;
            for (nth, sector_bytes) in bytes.chunks_exact_mut(SECTOR).enumerate() {
                let sector = lcn * 256 + nth;
                let word = if sector < sectors {
                    image_word(IMAGE, sector)
                } else {
                    super::word::Word::ZERO
                };
                word.fill(sector_bytes);
                if word != super::word::Word::ZERO {
                    mask |= 1 << (nth / 8);
                }
            }
            self.disk
                .borrow_mut()
                .write_sectors(extent.pcn.offset(), &bytes)
                .expect("a good disk");
            entries.push(MapEntry::new(extent.pcn, BlockMask::new(mask)).bits());
        }
        (Arc::new(LayerMap::from_entries(entries)), sectors, clusters)
    }

    fn volume(
        &mut self,
        number: u32,
        sectors: u64,
        image: Option<&(Arc<LayerMap>, usize, u32)>,
        disk: &DiskShared,
        live: &mut HeapLive,
        without_locks: bool,
    ) -> Made {
        let uuid = Uuid::from_u128(u128::from(number) + 1);
        let size_bytes = sectors * SECTOR as u64;
        let mut map = |section, words: u64| {
            let words = usize::try_from(words).expect("a small volume");
            live.map(LiveName::Volume(uuid), section, words)
                .expect("room in memory")
        };
        let mut parts = |disk: &DiskShared| VolumeParts {
            uuid,
            slot: SlotIndex::new(number),
            epoch: Epoch::new(1),
            size_bytes,
            entries: map(LiveSection::Entries, clusters_of(size_bytes)),
            dirty: map(
                LiveSection::Dirty,
                DirtyBits::words_of(clusters_of(size_bytes)),
            ),
            leaves: map(LiveSection::Leaves, leaf_groups_of(size_bytes)),
            disk: disk.clone(),
        };
        let volume = Arc::new(Volume::new(parts(disk), 0));
        let index = DiskIndex::new(0);
        let mut layers = LayerStack {
            layers: vec![Layer::new(Arc::clone(volume.map()), index)],
            size_bytes,
        };
        if let Some((map, ..)) = image {
            layers.layers.push(Layer::new(Arc::clone(map), index));
        }
        let count = usize::try_from(sectors).expect("a small volume");
        let base = image.map(|(_, sectors, _)| (IMAGE, *sectors));
        let object = u8::try_from(number).expect("few volumes");
        let which = self.front.oracle.add_volume(object, base, count);
        let at = number as usize;
        self.front.serve(
            at,
            which,
            server(Arc::clone(&volume), layers.clone()),
            count,
        );
        if without_locks {
            let serving = self.front.serving[at].as_mut().expect("just served");
            for _ in 0..6 {
                let own = DiskShared {
                    space: Arc::clone(&disk.space),
                    locks: Arc::new(ClusterLocks::default()),
                };
                // The same words and marks, other locks.
                let other = Volume::new(parts(&own), 0);
                serving.others.push(server(Arc::new(other), layers.clone()));
            }
        }
        let clusters = usize::try_from(clusters_of(size_bytes)).expect("a small volume");
        Made {
            volume,
            layers,
            committed: vec![MapEntry::EMPTY; clusters],
        }
    }

    /// A commit, as `docs/volumes.md` has it.
    fn commit(&mut self, made: &mut [Made], space: &Space) -> Result<(), String> {
        let number = self.front.commit_begins();
        let dropped = space.take_dropped();
        self.front.interleave();
        let mut drained = Vec::new();
        for made in &mut *made {
            let mut groups = Vec::new();
            made.volume.dirty().drain(|group| groups.push(group));
            drained.push(groups);
            self.front.interleave();
        }
        for (made, groups) in made.iter_mut().zip(&drained) {
            for group in groups {
                for lcn in group * ENTRIES_PER_GROUP..(group + 1) * ENTRIES_PER_GROUP {
                    let Some(word) = made.volume.map().word(Lcn::new(lcn)) else {
                        break;
                    };
                    let Some(entry) = transition::capture(word) else {
                        continue;
                    };
                    made.committed[lcn as usize] = entry;
                    if made.volume.leaf_cluster(Lcn::new(lcn)).is_none() {
                        return Err(format!("entry {lcn} is dirty and has no map page"));
                    }
                }
                self.front.interleave();
            }
        }
        self.disk
            .borrow_mut()
            .flush()
            .map_err(|fault| fault.to_string())?;
        self.front.interleave();
        for (made, groups) in made.iter().zip(&drained) {
            made.volume.dirty().drained(groups);
        }
        self.front.commit_ended(number, dropped);
        Ok(())
    }
}

/// Nothing in flight, everything committed: then the journal has what the maps have, and every cluster has one owner.
fn check_idle(made: &[Made], space: &Space, total: u64, others: u64) -> Result<(), String> {
    let mut owned = BTreeSet::new();
    let mut leaves = 0;
    for made in made {
        if !made.volume.is_clean() {
            return Err("a volume is not clean after a commit with nothing in flight".to_owned());
        }
        let mut allocated = 0;
        for (lcn, (entry, committed)) in made.volume.map().iter().zip(&made.committed).enumerate() {
            if entry != *committed {
                return Err(format!(
                    "entry {lcn} is {entry:?}, and {committed:?} was committed"
                ));
            }
            let pcn: Pcn = entry.pcn();
            if pcn.is_none() {
                continue;
            }
            allocated += 1;
            if space.is_free(pcn) || !owned.insert(pcn) {
                return Err(format!(
                    "cluster {pcn} of entry {lcn} is free, or has two owners"
                ));
            }
        }
        if made.volume.allocated_clusters() != allocated {
            let counted = made.volume.allocated_clusters();
            return Err(format!(
                "{allocated} clusters are allocated, and {counted} counted"
            ));
        }
        leaves += u64::from(!made.volume.leaf_cluster(Lcn::new(0)).is_none());
    }
    let free = space.free_clusters();
    let owned = owned.len() as u64;
    if free + owned + leaves + others != total {
        return Err(format!(
            "space is lost: {free} free, {owned} owned, {leaves} of map pages, {others} of others, of {total}"
        ));
    }
    Ok(())
}
