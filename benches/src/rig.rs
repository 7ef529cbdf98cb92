//! A file or a block device to read and write, and what lies on it: an image of random order, and a clone of it.

use std::io;
use std::path::Path;

use bedplate_datapath::engine::{DiskFile, UringMedium};
use bedplate_datapath::medium::Medium;
use bedplate_datapath::units::{ByteOffset, CLUSTER_BYTES};

use crate::random::Random;
use crate::read_loop::{EngineLoop, RawLoop};
use crate::write_loop::{ImageClone, WriteLoop};

/// Length of what is read and written: an image, room for a clone of it, and a disk's zones.
pub const DISK_BYTES: u64 = 256 << 20;
/// Clusters of the image.
pub const IMAGE_CLUSTERS: u32 = 768;

/// The loops over one disk.
pub struct Rig {
    /// What is on it.
    pub clone: ImageClone,
    /// Reads of the unwritten clone: each goes through its layer to the image.
    pub reads: EngineLoop,
    /// Writes to the clone.
    pub writes: WriteLoop,
    /// The same disk without us.
    pub raw: RawLoop,
}

impl Rig {
    /// Over the first [`DISK_BYTES`] of `path`, which are overwritten. A file grows to that length.
    ///
    /// # Errors
    /// What the disk or the kernel says.
    pub fn new(path: &Path) -> io::Result<Self> {
        let disk = DiskFile::claim(path).map_err(io::Error::other)?;
        let mut medium = UringMedium::new(disk).map_err(io::Error::other)?;
        let mut random = Random::seeded(4);
        let filling = random.bytes(131_072);
        // Reads of holes would not get to the disk, nor would first writes be like others.
        for cluster in 0..DISK_BYTES / CLUSTER_BYTES {
            medium
                .write(ByteOffset::new(cluster * CLUSTER_BYTES), &filling)
                .map_err(io::Error::other)?;
        }
        medium.flush().map_err(io::Error::other)?;
        let disk = medium.into_disk();
        let clone = ImageClone::new(DISK_BYTES, IMAGE_CLUSTERS, &mut random)?;
        Ok(Self {
            reads: EngineLoop::new(&disk, clone.stack())?,
            writes: WriteLoop::new(&disk)?,
            // As much as the others touch: caches must not tell them apart.
            raw: RawLoop::new(&disk, u64::from(IMAGE_CLUSTERS) * CLUSTER_BYTES)?,
            clone,
        })
    }

    /// Writes all of the clone, so that whatever comes next is an overwrite.
    pub fn write_all(&mut self) {
        let mut block = 0;
        self.writes.run(&self.clone, self.clone.blocks(), || {
            block += 1;
            block - 1
        });
    }
}
