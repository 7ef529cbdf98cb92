//! Disks whose every byte is known, and images on them whose every byte follows.

use std::error::Error;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bedplate_datapath::engine::DiskFile;
use bedplate_datapath::map::{LayerMap, MapEntry};
use bedplate_datapath::plan::{DiskIndex, Layer, LayerStack};
use bedplate_datapath::units::{
    BLOCK_BYTES, BLOCKS_PER_CLUSTER, BlockMask, CLUSTER_BYTES, DevId, Pcn,
};
use bedplate_ublk_target::{DataMode, DeviceSpec, OwnerTag, Target, TargetConfig};
use uuid::Uuid;

/// What is used of each disk.
pub const DISK_CLUSTERS: u32 = 256;
/// Not a whole number of sectors, blocks or clusters.
const IMAGE_BYTES: u64 = 96 * CLUSTER_BYTES + 7 * BLOCK_BYTES + 3 * 512 + 77;
/// Device numbers that scenarios use; what they leave behind is removed.
pub const FIRST_DEVICE: u32 = 700;
const DEVICES: u32 = 100;

pub fn seed() -> u64 {
    std::env::var("BEDPLATE_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

/// SplitMix64: small, and the same everywhere.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `bytes` with what disk `disk` holds from `at` on; both in whole words of 8 bytes.
pub fn disk_bytes(disk: u16, at: u64, bytes: &mut [u8]) {
    for (word, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        let position = at + word as u64 * 8;
        chunk.copy_from_slice(&mix(position ^ u64::from(disk) << 56).to_le_bytes());
    }
}

/// Paths of the disks, each with its pattern written once a process tree.
pub fn disks() -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let paths: Vec<PathBuf> = match std::env::var("BEDPLATE_TEST_DISKS") {
        Ok(list) => list.split(',').map(PathBuf::from).collect(),
        Err(_) => (0..2)
            .map(|n| std::env::temp_dir().join(format!("bedplate-kernel-disk-{n}")))
            .collect(),
    };
    for (disk, path) in (0_u16..).zip(&paths) {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut cluster = vec![0; usize::try_from(CLUSTER_BYTES)?];
        let mut last = cluster.clone();
        // Written before, by an earlier scenario?
        let end = u64::from(DISK_CLUSTERS - 1) * CLUSTER_BYTES;
        disk_bytes(disk, end, &mut cluster);
        if file.read_exact_at(&mut last, end).is_ok() && last == cluster {
            continue;
        }
        for number in 0..DISK_CLUSTERS {
            let at = u64::from(number) * CLUSTER_BYTES;
            disk_bytes(disk, at, &mut cluster);
            file.write_all_at(&cluster, at)?;
        }
        file.sync_all()?;
    }
    Ok(paths)
}

/// An image: layers, top first, and what its device is expected to hold.
pub struct Image {
    layers: Vec<(u16, Vec<MapEntry>)>,
    size_bytes: u64,
}

impl Image {
    /// Two layers over two disks (or one): full, partly held, tombstoned and empty clusters, neighbours and strangers.
    pub fn of(seed: u64, disks: u16) -> Self {
        let clusters = usize::try_from(IMAGE_BYTES.div_ceil(CLUSTER_BYTES)).expect("a small image");
        let layer = |number: u64| {
            let disk = u16::try_from(number % u64::from(disks)).expect("a remainder");
            let mut entries = Vec::with_capacity(clusters);
            let mut previous = 1;
            for lcn in 0..clusters {
                let random = mix(seed ^ number << 40 ^ lcn as u64);
                let pcn = if random.is_multiple_of(4) && previous + 1 < DISK_CLUSTERS {
                    previous + 1
                } else {
                    1 + u32::try_from(random >> 33).expect("31 bits") % (DISK_CLUSTERS - 1)
                };
                previous = pcn;
                let mask = u32::try_from(mix(random) >> 32).expect("32 bits");
                let (pcn, mask) = match random >> 2 & 7 {
                    0 | 1 => (0, 0),
                    2 => (0, mask),
                    3 | 4 => (pcn, u32::MAX),
                    5 => (pcn, 1 << (mask % 32)),
                    _ => (pcn, mask),
                };
                entries.push(MapEntry::new(Pcn::new(pcn), BlockMask::new(mask)));
            }
            (disk, entries)
        };
        Self {
            layers: vec![layer(0), layer(1)],
            size_bytes: IMAGE_BYTES,
        }
    }

    pub fn stack(&self, disks: &[DiskIndex]) -> Arc<LayerStack> {
        let layers = self.layers.iter().map(|(disk, entries)| {
            let entries = entries.iter().map(|entry| entry.bits()).collect();
            Layer::new(
                Arc::new(LayerMap::from_entries(entries)),
                disks[usize::from(*disk)],
            )
        });
        Arc::new(LayerStack {
            layers: layers.collect(),
            size_bytes: self.size_bytes,
        })
    }

    /// What its maps cover: to the end of the last cluster.
    pub fn mapped_bytes(&self) -> u64 {
        self.size_bytes.next_multiple_of(CLUSTER_BYTES)
    }

    pub fn device_bytes(&self) -> u64 {
        self.size_bytes.next_multiple_of(512)
    }

    /// What the device holds from `at` on, block by block, by the words of the format and not by the planner.
    pub fn expect(&self, at: u64, bytes: &mut [u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let position = at + done as u64;
            let in_block = position % BLOCK_BYTES;
            let len = usize::try_from(BLOCK_BYTES - in_block)
                .expect("a block")
                .min(bytes.len() - done);
            let to = &mut bytes[done..done + len];
            let lcn = usize::try_from(position / CLUSTER_BYTES).expect("a small image");
            let block = u32::try_from(position % CLUSTER_BYTES / BLOCK_BYTES).expect("a block");
            assert!(block < BLOCKS_PER_CLUSTER);
            let holder = self
                .layers
                .iter()
                .find(|(_, entries)| entries[lcn].mask().contains(block));
            match holder {
                Some((disk, entries)) if !entries[lcn].pcn().is_none() => {
                    let from = entries[lcn].pcn().offset().get()
                        + u64::from(block) * BLOCK_BYTES
                        + in_block;
                    disk_bytes(*disk, from, to);
                }
                _ => to.fill(0),
            }
            done += len;
        }
    }
}

/// A target with the test's disks, and an image on them.
pub struct Bench<T = Target> {
    pub target: T,
    pub image: Image,
    pub stack: Arc<LayerStack>,
    pub indexes: Vec<DiskIndex>,
}

impl Bench {
    /// The target apart from the rest.
    pub fn split(self) -> (Bench<()>, Target) {
        let rest = Bench {
            target: (),
            image: self.image,
            stack: self.stack,
            indexes: self.indexes,
        };
        (rest, self.target)
    }
}

pub fn config(mode: DataMode) -> TargetConfig {
    TargetConfig {
        reactors: 2,
        queues: 2,
        queue_depth: 32,
        data_mode: Some(mode),
        ..TargetConfig::default()
    }
}

pub fn bench(config: TargetConfig) -> Result<Bench, Box<dyn Error>> {
    let paths = disks()?;
    let target = Target::start(config)?;
    let mut indexes = Vec::new();
    for path in &paths {
        // Waits for a killed server's claim.
        let disk = claim(path)?;
        indexes.push(target.add_disk(&disk)?);
    }
    let image = Image::of(seed(), u16::try_from(paths.len())?);
    let stack = image.stack(&indexes);
    Ok(Bench {
        target,
        image,
        stack,
        indexes,
    })
}

fn claim(path: &std::path::Path) -> Result<DiskFile, Box<dyn Error>> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        match DiskFile::claim(path) {
            Ok(disk) => return Ok(disk),
            Err(error) if std::time::Instant::now() > deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(2)),
        }
    }
}

pub fn spec(number: u32) -> DeviceSpec {
    let owner = OwnerTag::of(Uuid::from_u128(u128::from(number)));
    DeviceSpec {
        dev_id: DevId::new(number),
        owner,
        read_only: true,
        dma_alignment: 1,
    }
}

/// Removes devices that a failed scenario left.
pub fn remove_leftovers() {
    let left = Target::kernel_devices().unwrap_or_default();
    if !left.is_empty() {
        // The kernel may still be about to notice that the scenario's target is gone.
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    for device in left {
        if (FIRST_DEVICE..FIRST_DEVICE + DEVICES).contains(&device.dev_id.get()) {
            println!("left behind: {device}");
            if let Err(error) = Target::remove_device(device.dev_id) {
                println!("cannot remove device {}: {error}", device.dev_id);
            }
        }
    }
}
