//! Random 4 KiB writes to a clone at a fixed depth, through `WriteOp` and [`Executor`], as a reactor does it: overwrites where the clone
//! has the block, first touches where only its image has it.

use std::io;
use std::sync::Arc;

use bedplate_datapath::alloc::Allocator;
use bedplate_datapath::engine::DiskFile;
use bedplate_datapath::engine::executor::{
    Begun, Executor, RequestBuffer, RequestIndex, WriteBuffers,
};
use bedplate_datapath::engine::ring::Ring;
use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::map::{LayerMap, MapEntry};
use bedplate_datapath::plan::{DiskIndex, Layer, LayerStack};
use bedplate_datapath::units::{BLOCK_BYTES, BlockMask, ByteOffset, CLUSTER_BYTES};
use bedplate_datapath::volume::space::Gate;
use bedplate_datapath::volume::write::{WriteIoList, WriteKind, WriteOp, WriteStep};
use bedplate_datapath::volume::{ClusterLocks, DiskShared, Space, Volume};
use uuid::Uuid;

use crate::buffers::{BLOCK, Buffers, DEPTH};
use crate::engine;
use crate::random::Random;

/// A clone of a fully mapped image, both on one disk, in memory only: no store, no commits.
pub struct ImageClone {
    geometry: Geometry,
    image: Arc<LayerMap>,
    image_clusters: Vec<bedplate_datapath::alloc::Extent>,
    size_bytes: u64,
    volume: Arc<Volume>,
    stack: LayerStack,
}

impl ImageClone {
    /// Of an image of so many clusters that lie in random order; nothing was written to it.
    ///
    /// # Errors
    /// If the disk is too small for both.
    pub fn new(disk_bytes: u64, clusters: u32, random: &mut Random) -> io::Result<Self> {
        let geometry = Geometry::of_disk(disk_bytes).map_err(io::Error::other)?;
        let mut allocator = Allocator::new(&geometry);
        let mut image_clusters = Vec::new();
        let mut pcns = Vec::new();
        while pcns.len() < clusters as usize {
            let extent = allocator
                .allocate(1)
                .ok_or_else(|| io::Error::other("the disk is too small"))?;
            image_clusters.push(extent);
            pcns.extend(extent.clusters());
        }
        let order = random.permutation(clusters);
        let entries = order
            .into_iter()
            .map(|at| MapEntry::new(pcns[at as usize], BlockMask::ALL).bits())
            .collect();
        let image = Arc::new(LayerMap::from_entries(entries));
        let size_bytes = u64::from(clusters) * CLUSTER_BYTES;
        let (volume, stack) = unwritten(allocator, &image, size_bytes);
        Ok(Self {
            geometry,
            image,
            image_clusters,
            size_bytes,
            volume,
            stack,
        })
    }

    /// A new clone in its place, to which nothing was written.
    pub fn renew(&mut self) {
        let mut allocator = Allocator::new(&self.geometry);
        for extent in &self.image_clusters {
            for pcn in extent.clusters() {
                allocator.mark(pcn).expect("it was free the first time");
            }
        }
        (self.volume, self.stack) = unwritten(allocator, &self.image, self.size_bytes);
    }

    /// Its blocks.
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.size_bytes / BLOCK_BYTES).unwrap_or(u32::MAX)
    }

    /// What reads see.
    pub fn stack(&self) -> LayerStack {
        self.stack.clone()
    }
}

fn unwritten(
    allocator: Allocator,
    image: &Arc<LayerMap>,
    size_bytes: u64,
) -> (Arc<Volume>, LayerStack) {
    let shared = DiskShared {
        space: Arc::new(Space::new(allocator, Gate::Open)),
        locks: Arc::new(ClusterLocks::default()),
    };
    let volume = Arc::new(Volume::in_memory(Uuid::from_u128(1), size_bytes, shared));
    let disk = DiskIndex::new(0);
    let layers = [volume.map(), image]
        .map(|map| Layer::new(Arc::clone(map), disk))
        .to_vec();
    (volume, LayerStack { layers, size_bytes })
}

/// Writes to a [`ImageClone`].
pub struct WriteLoop {
    ring: Ring,
    executor: Executor,
    buffers: Buffers,
    ops: Vec<WriteOp>,
    ios: WriteIoList,
    begun: u32,
    ended: u32,
}

impl WriteLoop {
    /// Over `disk`.
    ///
    /// # Errors
    /// If the kernel gives no ring.
    pub fn new(disk: &DiskFile) -> io::Result<Self> {
        let (ring, executor) = engine::over(disk)?;
        Ok(Self {
            ring,
            executor,
            buffers: Buffers::new(),
            ops: (0..DEPTH).map(|_| WriteOp::new()).collect(),
            ios: WriteIoList::new(),
            begun: 0,
            ended: 0,
        })
    }

    /// Writes `writes` blocks, which `next` names.
    ///
    /// # Panics
    /// If one of them fails.
    pub fn run(&mut self, clone: &ImageClone, writes: u32, mut next: impl FnMut() -> u32) {
        (self.begun, self.ended) = (0, 0);
        while self.begun < writes.min(DEPTH) {
            self.begin(clone, self.begun, next());
        }
        while self.ended < writes {
            self.ring.submit_and_wait().expect("submit");
            while let Some(completion) = self.ring.next_completion() {
                let Some(done) = self.executor.complete(&mut self.ring, completion) else {
                    continue;
                };
                let number = done.request.0;
                self.ops[number as usize].io_ended(done.outcome);
                if self.drive(clone, number) && self.begun < writes {
                    self.begin(clone, number, next());
                }
            }
        }
    }

    fn begin(&mut self, clone: &ImageClone, number: u32, block: u32) {
        let at = ByteOffset::new(u64::from(block) * BLOCK_BYTES);
        self.ops[number as usize].begin(WriteKind::Data, at, BLOCK_BYTES);
        self.begun += 1;
        let ended = self.drive(clone, number);
        assert!(!ended, "a write needs I/O");
    }

    /// Goes on with a write; true if it has ended.
    fn drive(&mut self, clone: &ImageClone, number: u32) -> bool {
        loop {
            let op = &mut self.ops[number as usize];
            match op.step(&clone.stack, &clone.volume, &mut self.ios) {
                WriteStep::Io => {}
                WriteStep::Done => {
                    self.ended += 1;
                    return true;
                }
                // Whole blocks take locks that they share.
                other => panic!("{other:?}"),
            }
            let buffers = WriteBuffers {
                data: RequestBuffer::Memory(self.buffers.of(number)),
                scratch: std::ptr::null_mut(),
            };
            // SAFETY: the buffer is as long as the request and never freed; nothing but this write uses it until it has ended. Whole
            // blocks need no scratch.
            let begun = unsafe {
                self.executor.begin_write(
                    &mut self.ring,
                    RequestIndex(number),
                    DiskIndex::new(0),
                    buffers,
                    self.ios.as_slice(),
                )
            };
            match begun {
                Begun::InFlight => return false,
                Begun::Done => self.ops[number as usize].io_ended(Ok(())),
                Begun::Full => panic!("more operations than room"),
            }
        }
    }
}

const _: () = assert!(BLOCK as u64 == BLOCK_BYTES);
