//! A writable volume over the image of the fixture, whose map lies in a file: it outlives a killed server, as a live file does.
//!
//! What a commit does here is the least that a device can tell: the disk is flushed, and dropped clusters come back after a grace period.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bedplate_datapath::alloc::Allocator;
use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::live::SharedWords;
use bedplate_datapath::plan::{Layer, LayerStack};
use bedplate_datapath::units::{CLUSTER_BYTES, Epoch, Pcn, SlotIndex};
use bedplate_datapath::volume::dirty::DirtyBits;
use bedplate_datapath::volume::space::Gate;
use bedplate_datapath::volume::{
    ClusterLocks, DiskShared, Space, Volume, VolumeParts, clusters_of, leaf_groups_of,
};
use bedplate_ublk_target::{Backing, Committed, Committer, DeviceSpec, Target, Writable};
use memmap2::MmapRaw;
use uuid::Uuid;

use crate::fixture::{Bench, DISK_CLUSTERS, disks, spec};

/// Neither whole blocks nor whole clusters, and longer than the image.
pub const VOLUME_BYTES: u64 = 100 * CLUSTER_BYTES + 7 * 4096 + 3 * 512;
/// As far as it grows.
pub const VOLUME_BYTES_MAX: u64 = 140 * CLUSTER_BYTES;
/// What a disk of the tests has.
const DISK_BYTES: u64 = 128 << 20;

/// The words of a volume, in a file.
pub struct LiveWords {
    all: SharedWords,
}

// Small numbers, on any machine.
#[expect(clippy::cast_possible_truncation)]
const ENTRIES: usize = clusters_of(VOLUME_BYTES_MAX) as usize;
#[expect(clippy::cast_possible_truncation)]
const DIRTY: usize = DirtyBits::words_of(clusters_of(VOLUME_BYTES_MAX)) as usize;
#[expect(clippy::cast_possible_truncation)]
const LEAVES: usize = leaf_groups_of(VOLUME_BYTES_MAX) as usize;

impl LiveWords {
    fn path() -> PathBuf {
        std::env::temp_dir().join("bedplate-kernel-live")
    }

    /// Of a volume that nothing was written to.
    pub fn fresh() -> Result<Self, Box<dyn Error>> {
        let _ = std::fs::remove_file(Self::path());
        Self::open()
    }

    /// As the last server left them.
    pub fn open() -> Result<Self, Box<dyn Error>> {
        let len = ENTRIES + DIRTY + LEAVES;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(Self::path())?;
        file.set_len(len as u64 * 8)?;
        let map = MmapRaw::map_raw(&file)?;
        #[expect(clippy::cast_ptr_alignment)]
        let first = NonNull::new(map.as_mut_ptr().cast::<AtomicU64>()).ok_or("mapped at 0")?;
        // SAFETY: the mapping is page aligned, as long as that, used as atomics only, and kept with the words.
        let all = unsafe { SharedWords::new(first, len, Arc::new(map)) };
        Ok(Self { all })
    }

    fn part(&self, from: usize, len: usize) -> Result<SharedWords, Box<dyn Error>> {
        let first = NonNull::from(self.all.get(from).ok_or("no such word")?);
        // SAFETY: a part of words that are kept with it.
        Ok(unsafe { SharedWords::new(first, len, Arc::new(self.all.clone())) })
    }

    fn parts(&self, size_bytes: u64, disk: &DiskShared) -> Result<VolumeParts, Box<dyn Error>> {
        Ok(VolumeParts {
            uuid: Uuid::from_u128(0x51),
            slot: SlotIndex::new(3),
            epoch: Epoch::new(1),
            size_bytes,
            entries: self
                .part(0, ENTRIES)?
                .first(usize::try_from(clusters_of(size_bytes))?),
            dirty: self.part(ENTRIES, DIRTY)?,
            leaves: self.part(ENTRIES + DIRTY, LEAVES)?,
            disk: disk.clone(),
        })
    }
}

/// A volume, its disk's space, and who commits it.
pub struct VolumeBench {
    pub target: Arc<Target>,
    pub volume: Arc<Volume>,
    pub committer: Arc<Syncer>,
    pub backing: Backing,
    words: LiveWords,
    disk: DiskShared,
}

impl VolumeBench {
    /// A volume on the bench's first disk, with at most `clusters_max` clusters for it.
    pub fn new(
        bench: &Bench<()>,
        target: Arc<Target>,
        words: LiveWords,
        clusters_max: u32,
    ) -> Result<Self, Box<dyn Error>> {
        let path = disks()?.first().ok_or("no disk")?.clone();
        let length = OpenOptions::new().write(true).open(&path)?;
        if length.metadata()?.is_file() && length.metadata()?.len() < DISK_BYTES {
            length.set_len(DISK_BYTES)?;
        }
        // Rebuilt from the map, as after every start.
        let mut allocator = Allocator::new(&Geometry::of_disk(DISK_BYTES)?);
        let entries = words.part(0, ENTRIES)?;
        let leaves = words.part(ENTRIES + DIRTY, LEAVES)?;
        let used: Vec<Pcn> = entries
            .iter()
            .map(|word| word.load(Ordering::Acquire) & 0x7fff_ffff)
            .chain(leaves.iter().map(|word| word.load(Ordering::Acquire)))
            .filter(|pcn| *pcn != 0)
            .map(|pcn| u32::try_from(pcn).map(Pcn::new))
            .collect::<Result<_, _>>()?;
        let allocated = used.len() as u64;
        let end = DISK_CLUSTERS + clusters_max;
        for number in 0..u32::try_from(DISK_BYTES / CLUSTER_BYTES)? {
            let pcn = Pcn::new(number);
            let is_foreign = number < DISK_CLUSTERS || number >= end;
            if allocator.is_free(pcn) && (is_foreign || used.contains(&pcn)) {
                allocator.mark(pcn)?;
            }
        }
        let disk = DiskShared {
            space: Arc::new(Space::new(allocator, Gate::Open)),
            locks: Arc::new(ClusterLocks::default()),
        };
        let volume = Arc::new(Volume::new(words.parts(VOLUME_BYTES, &disk)?, allocated));
        let committer = Syncer::start(&path, Arc::clone(&disk.space), Arc::downgrade(&target))?;
        let backing = backing_of(&bench.stack, bench, &volume, &committer);
        Ok(Self {
            target,
            volume,
            committer,
            backing,
            words,
            disk,
        })
    }

    /// The volume, longer.
    pub fn grown(&self, bench: &Bench<()>, size_bytes: u64) -> Result<Backing, Box<dyn Error>> {
        let parts = self.words.parts(size_bytes, &self.disk)?;
        let volume = Arc::new(self.volume.grown(parts));
        Ok(backing_of(&bench.stack, bench, &volume, &self.committer))
    }

    /// The target alone, to end it.
    pub fn into_target(self) -> Result<Target, Box<dyn Error>> {
        let Self {
            mut target,
            committer,
            ..
        } = self;
        // It goes on: flushes in flight are answered while the target leaves.
        drop(committer);
        loop {
            match Arc::try_unwrap(target) {
                Ok(alone) => return Ok(alone),
                // The committer has it for a moment.
                Err(shared) => target = shared,
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

fn backing_of(
    below: &LayerStack,
    bench: &Bench<()>,
    volume: &Arc<Volume>,
    committer: &Arc<Syncer>,
) -> Backing {
    let own = Layer::new(Arc::clone(volume.map()), bench.indexes[0]);
    let stack = LayerStack {
        layers: std::iter::once(own)
            .chain(below.layers.iter().cloned())
            .collect(),
        size_bytes: volume.size_bytes(),
    };
    Backing {
        stack: Arc::new(stack),
        checksums: None,
        writable: Some(Writable {
            volume: Arc::clone(volume),
            committer: Arc::clone(committer) as Arc<dyn Committer>,
        }),
    }
}

pub fn writable_spec(number: u32) -> DeviceSpec {
    DeviceSpec {
        read_only: false,
        ..spec(number)
    }
}

/// A committer that flushes the disk, gives dropped clusters back, and counts.
pub struct Syncer {
    asked: Mutex<Sender<Committed>>,
    pub commits: Arc<AtomicU64>,
    /// Answers wait while it is set.
    pub is_held: Arc<AtomicBool>,
    /// Answers all that follows with this errno.
    pub fails: Arc<OnceLock<i32>>,
}

impl Syncer {
    fn start(
        disk: &Path,
        space: Arc<Space>,
        target: Weak<Target>,
    ) -> Result<Arc<Self>, Box<dyn Error>> {
        let file = File::open(disk)?;
        let (asked, asks) = channel();
        let commits = Arc::new(AtomicU64::new(0));
        let syncer = Self {
            asked: Mutex::new(asked),
            commits: Arc::clone(&commits),
            is_held: Arc::default(),
            fails: Arc::default(),
        };
        let (is_held, fails) = (Arc::clone(&syncer.is_held), Arc::clone(&syncer.fails));
        std::thread::spawn(move || {
            commit_all(&asks, &file, &space, &target, &commits, &is_held, &fails);
        });
        Ok(Arc::new(syncer))
    }
}

fn commit_all(
    asks: &Receiver<Committed>,
    file: &File,
    space: &Arc<Space>,
    target: &Weak<Target>,
    commits: &AtomicU64,
    is_held: &AtomicBool,
    fails: &OnceLock<i32>,
) {
    while let Ok(first) = asks.recv() {
        // Those who asked meanwhile share it.
        let all: Vec<Committed> = std::iter::once(first).chain(asks.try_iter()).collect();
        while is_held.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let dropped = space.take_dropped();
        let outcome = match fails.get() {
            Some(errno) => Err(*errno),
            None => file
                .sync_data()
                .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)),
        };
        commits.fetch_add(1, Ordering::SeqCst);
        for committed in all {
            committed.done(outcome);
        }
        if let Some(target) = target.upgrade() {
            let space = Arc::clone(space);
            target.after_grace(Box::new(move || space.release(dropped)));
        }
    }
}

impl Committer for Syncer {
    fn commit(&self, done: Committed) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // Without its thread it is dropped, unanswered.
        let _ = asked.send(done);
    }
}
