//! From a read request to runs: which bytes of which disk answer it, and what is zero.
//!
//! Layers are walked per block, top first; what is physically adjacent is joined, also over cluster
//! borders. Nothing is allocated and nothing waits: this runs on a reactor, for every request.

use std::fmt;
use std::sync::Arc;

use crate::map::LayerMap;
use crate::replica::{self, Excluded, Replica, ReplicaSet, Replicas};
use crate::units::{BLOCK_BYTES, BLOCKS_PER_CLUSTER, ByteOffset, CLUSTER_BYTES, Lcn, SECTOR_BYTES};

/// The longest request.
pub const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// The most runs that a request can need: each of its blocks lies elsewhere, and a request that does
/// not start on a block touches one block more than its length has.
pub const RUNS_MAX: usize = 257;

const _: () = assert!(RUNS_MAX as u64 == REQUEST_BYTES_MAX as u64 / BLOCK_BYTES + 1);

/// A disk's place in the registered-file table of every reactor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct DiskIndex(pub u16);

impl DiskIndex {
    /// Wraps the bare number.
    #[inline]
    pub const fn new(value: u16) -> Self {
        Self(value)
    }

    /// The bare number.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for DiskIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the bytes of a run come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunSource {
    /// From a disk.
    Disk {
        /// Which.
        disk: DiskIndex,
        /// The first byte.
        at: ByteOffset,
    },
    /// From nowhere: they are zero.
    Zero,
}

/// A part of a request that one I/O, or one fill with zeros, answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where it starts, in bytes from the request's start.
    pub request_offset: u32,
    /// Its length, a multiple of 512.
    pub len_bytes: u32,
    /// Where its bytes come from.
    pub source: RunSource,
}

/// The longest I/O that adjacent parts of a request are joined to: what every disk of the node takes undivided, see
/// [`DiskFile::undivided_bytes_max`](crate::engine::DiskFile::undivided_bytes_max). Parts are not divided: none is longer than a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinedMax(u32);

impl JoinedMax {
    /// Any length.
    pub const ANY: Self = Self(u32::MAX);

    /// No longer than what one disk more takes undivided, either; `None`: it does not say.
    #[must_use]
    pub fn and(self, undivided_bytes_max: Option<u64>) -> Self {
        let most = undivided_bytes_max.map_or(u32::MAX, |most| most.try_into().unwrap_or(u32::MAX));
        Self(self.0.min(most))
    }

    /// Whether `more` may be joined to what is so long already.
    #[inline]
    pub(crate) fn allows(self, len_bytes: u32, more: u32) -> bool {
        // Neither is longer than a request.
        len_bytes + more <= self.0
    }
}

/// The runs of one request, in its order and without gaps. Room for [`RUNS_MAX`], made once and reused.
#[derive(Clone, Debug)]
pub struct RunList {
    runs: [Run; RUNS_MAX],
    len: usize,
    joined_max: JoinedMax,
}

impl Default for RunList {
    fn default() -> Self {
        Self::new()
    }
}

impl RunList {
    /// An empty list.
    pub const fn new() -> Self {
        let run = Run {
            request_offset: 0,
            len_bytes: 0,
            source: RunSource::Zero,
        };
        Self {
            runs: [run; RUNS_MAX],
            len: 0,
            joined_max: JoinedMax::ANY,
        }
    }

    /// Joins no more than this from now on.
    pub fn join_at_most(&mut self, joined_max: JoinedMax) {
        self.joined_max = joined_max;
    }

    /// Forgets all runs.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The runs.
    #[inline]
    pub fn as_slice(&self) -> &[Run] {
        &self.runs[..self.len]
    }

    /// This run alone.
    #[inline]
    fn set(&mut self, run: Run) {
        self.runs[0] = run;
        self.len = 1;
    }

    /// Adds what follows the last run, joined with it if the source goes on there.
    #[inline]
    fn push(&mut self, request_offset: u32, len_bytes: u32, source: RunSource) {
        if let Some(last) = self.runs[..self.len].last_mut()
            && follows(last, source)
            && self.joined_max.allows(last.len_bytes, len_bytes)
        {
            last.len_bytes += len_bytes;
            return;
        }
        // In bounds: each push ends a block or the request, see RUNS_MAX.
        self.runs[self.len] = Run {
            request_offset,
            len_bytes,
            source,
        };
        self.len += 1;
    }
}

/// Whether `source` is where the run's own source goes on.
#[inline]
fn follows(run: &Run, source: RunSource) -> bool {
    match (run.source, source) {
        (RunSource::Zero, RunSource::Zero) => true,
        (
            RunSource::Disk { disk, at },
            RunSource::Disk {
                disk: next_disk,
                at: next,
            },
        ) => disk == next_disk && at.plus(run.len_bytes.into()) == next,
        _ => false,
    }
}

/// A request that cannot be planned; the device answers it with an I/O error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not in whole sectors.
    #[error("read of {len_bytes} bytes at {at}: not in whole sectors of {SECTOR_BYTES}")]
    Misaligned {
        /// Its first byte.
        at: ByteOffset,
        /// Its length.
        len_bytes: u32,
    },
    /// Longer than a [`RunList`] has room for.
    #[error("read of {len_bytes} bytes at {at}: longer than {REQUEST_BYTES_MAX}")]
    TooLong {
        /// Its first byte.
        at: ByteOffset,
        /// Its length.
        len_bytes: u32,
    },
    /// Past the device's end.
    #[error("read of {len_bytes} bytes at {at}: the device ends at {device_bytes}")]
    PastEnd {
        /// Its first byte.
        at: ByteOffset,
        /// Its length.
        len_bytes: u32,
        /// The device's length.
        device_bytes: u64,
    },
    /// Held by a layer of which no replica can be read: damaged there, or failed this very request.
    #[error("the block at {at} cannot be read from any replica")]
    Unreadable {
        /// The first byte that cannot.
        at: ByteOffset,
    },
}

/// One layer of an object: what it holds, and on which disk.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its map; of several replicas, the nearest one's.
    pub map: Arc<LayerMap>,
    /// Its disk's place in the registered-file table of every reactor; of several replicas, the nearest one's.
    pub disk: DiskIndex,
    /// All of its replicas, where there may be several, or damage. What is written (a volume's own layer) has none.
    replicas: Option<Replicas>,
}

impl Layer {
    /// A layer that one disk has.
    pub fn new(map: Arc<LayerMap>, disk: DiskIndex) -> Self {
        Self {
            map,
            disk,
            replicas: None,
        }
    }

    /// A layer that each replica of the set can answer; `nearest` is the number of the one that is read first. `None` if there is no
    /// such replica.
    pub fn of_replicas(set: Arc<ReplicaSet>, nearest: usize) -> Option<Self> {
        let Replica { map, disk } = set.iter().nth(nearest)?.clone();
        Some(Self {
            map,
            disk,
            replicas: Replicas::new(set, nearest),
        })
    }

    /// Its replicas, if it was made of some.
    pub fn replicas(&self) -> Option<&Replicas> {
        self.replicas.as_ref()
    }

    /// Every disk that it may read.
    pub fn disks(&self) -> impl Iterator<Item = DiskIndex> {
        let others = self
            .replicas
            .iter()
            .flat_map(|replicas| replicas.set().iter());
        let others = others.map(|replica| replica.disk);
        std::iter::once(self.disk).chain(others.filter(|disk| *disk != self.disk))
    }

    /// What it says of a block, and for how many blocks from it on; 0: the block is held, and no replica of it can be read.
    #[inline]
    fn answer(&self, lcn: Lcn, block: u32, excluded: &Excluded) -> replica::Answer {
        if let Some(replicas) = &self.replicas
            && !(replicas.is_plain() && excluded.is_empty())
        {
            return replicas.answer(lcn, block, excluded);
        }
        replica::Answer {
            entry: self.map.get(lcn),
            disk: self.disk,
            blocks: BLOCKS_PER_CLUSTER,
        }
    }
}

/// The layers of an object that is served: an image has one; a clone has its own above its image's.
#[derive(Clone, Debug)]
pub struct LayerStack {
    /// Top first.
    pub layers: Vec<Layer>,
    /// The object's exact length.
    pub size_bytes: u64,
}

impl LayerStack {
    /// The device's length: the object's, rounded up to a sector.
    #[inline]
    pub fn device_bytes(&self) -> u64 {
        self.size_bytes.saturating_add(SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES
    }

    /// Brings what a plan from byte `at` on looks at first towards the CPU.
    #[inline]
    pub fn prefetch(&self, at: u64) {
        let lcn = Lcn::new(((at / CLUSTER_BYTES) & 0xffff_ffff) as u32);
        for layer in &self.layers {
            layer.map.prefetch(lcn);
        }
    }

    /// Plans a read of the device. Bytes between the object's end and the device's are read as the
    /// last block's padding, which is zero. `out` is cleared first, and empty on an error.
    ///
    /// # Errors
    /// If the request is not in whole sectors, too long, past the device's end, or in a block that no replica can answer.
    #[inline]
    pub fn plan_read(
        &self,
        at: ByteOffset,
        len_bytes: u32,
        out: &mut RunList,
    ) -> Result<(), PlanError> {
        if let Some(run) = self.one_run(at, len_bytes) {
            out.set(run);
            return Ok(());
        }
        self.plan_read_without(&Excluded::NONE, at, len_bytes, out)
    }

    /// The way of most reads: blocks of one cluster, all of them held by one layer, on the disk that it is read from first. `None`: any other
    /// case, bad requests among them. It says what the walk would say, which takes all cases, in a third of its instructions.
    #[inline]
    fn one_run(&self, at: ByteOffset, len_bytes: u32) -> Option<Run> {
        let in_cluster = at.get() % CLUSTER_BYTES;
        let end = at.get().checked_add(len_bytes.into())?;
        if len_bytes == 0
            || in_cluster + u64::from(len_bytes) > CLUSTER_BYTES
            || end > self.device_bytes()
            || !(at.get() | u64::from(len_bytes)).is_multiple_of(SECTOR_BYTES)
        {
            return None;
        }
        let lcn = Lcn::new(u32::try_from(at.get() / CLUSTER_BYTES).ok()?);
        // Both are below 32: the request ends in this cluster.
        let first = ((in_cluster / BLOCK_BYTES) & 0x1f) as u32;
        let last = (((in_cluster + u64::from(len_bytes) - 1) / BLOCK_BYTES) & 0x1f) as u32;
        let wanted = u32::MAX << first & u32::MAX >> (31 - last);
        for layer in &self.layers {
            if layer
                .replicas
                .as_ref()
                .is_some_and(|replicas| !replicas.is_plain())
            {
                return None;
            }
            let entry = layer.map.get(lcn);
            let held = entry.mask().get() & wanted;
            if held == 0 {
                continue;
            }
            if held != wanted || entry.pcn().is_none() {
                return None;
            }
            let source = RunSource::Disk {
                disk: layer.disk,
                at: entry.pcn().offset().plus(in_cluster),
            };
            return Some(Run {
                request_offset: 0,
                len_bytes,
                source,
            });
        }
        None
    }

    /// As [`Self::plan_read`], from replicas that are not excluded. Layers that only one disk has are read from it all the same.
    ///
    /// # Errors
    /// As [`Self::plan_read`].
    #[inline]
    pub fn plan_read_without(
        &self,
        excluded: &Excluded,
        at: ByteOffset,
        len_bytes: u32,
        out: &mut RunList,
    ) -> Result<(), PlanError> {
        out.clear();
        if !(at.get() | u64::from(len_bytes)).is_multiple_of(SECTOR_BYTES) {
            return Err(PlanError::Misaligned { at, len_bytes });
        }
        if len_bytes > REQUEST_BYTES_MAX {
            return Err(PlanError::TooLong { at, len_bytes });
        }
        self.plan_up_to(self.device_bytes(), excluded, at, len_bytes, out)
    }

    /// As [`Self::plan_read_without`], of the whole blocks that a request lies in: `at` and `len_bytes` are multiples of 4096, there may be one
    /// block more than the longest request has, and the last one may reach beyond the device's end, where its padding is.
    ///
    /// # Errors
    /// As [`Self::plan_read`].
    #[inline(never)]
    pub fn plan_blocks_without(
        &self,
        excluded: &Excluded,
        at: ByteOffset,
        len_bytes: u32,
        out: &mut RunList,
    ) -> Result<(), PlanError> {
        out.clear();
        if !(at.get() | u64::from(len_bytes)).is_multiple_of(BLOCK_BYTES) {
            return Err(PlanError::Misaligned { at, len_bytes });
        }
        if u64::from(len_bytes) > u64::from(REQUEST_BYTES_MAX) + BLOCK_BYTES {
            return Err(PlanError::TooLong { at, len_bytes });
        }
        let blocks_end = self.device_bytes().div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
        self.plan_up_to(blocks_end, excluded, at, len_bytes, out)
    }

    // Always: the steady path has it without a call, whoever else calls it.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "measured: a call costs a read of 150 ns a tenth"
    )]
    fn plan_up_to(
        &self,
        device_bytes: u64,
        excluded: &Excluded,
        at: ByteOffset,
        len_bytes: u32,
        out: &mut RunList,
    ) -> Result<(), PlanError> {
        let past_end = PlanError::PastEnd {
            at,
            len_bytes,
            device_bytes,
        };
        let end = at.get().checked_add(len_bytes.into()).ok_or(past_end)?;
        if end > device_bytes || u32::try_from(end / CLUSTER_BYTES).is_err() {
            return Err(past_end);
        }
        let mut position = at.get();
        while position < end {
            let Some((source, source_bytes)) = Self::source_in(&self.layers, excluded, position)
            else {
                out.clear();
                return Err(PlanError::Unreadable {
                    at: ByteOffset::new(position),
                });
            };
            let len_bytes = source_bytes.min(end - position);
            // Both fit: neither is longer than the request.
            let request_offset = ((position - at.get()) & 0xffff_ffff) as u32;
            out.push(request_offset, (len_bytes & 0xffff_ffff) as u32, source);
            position += len_bytes;
        }
        Ok(())
    }

    /// What the layers below the first say of the block at `position`, a multiple of 4096: where a copy-up reads. `None` if no replica can
    /// answer it.
    pub fn source_below(&self, excluded: &Excluded, position: u64) -> Option<RunSource> {
        let below = self.layers.get(1..).unwrap_or(&[]);
        Self::source_in(below, excluded, position).map(|(source, _)| source)
    }

    /// The layer that holds the block at `position`.
    pub fn holder(&self, position: u64) -> Option<&Layer> {
        let lcn = Lcn::new(((position / CLUSTER_BYTES) & 0xffff_ffff) as u32);
        let block = ((position % CLUSTER_BYTES / BLOCK_BYTES) & 0x1f) as u32;
        let mut layers = self.layers.iter();
        layers.find(|layer| layer.map.get(lcn).mask().contains(block))
    }

    /// Whether one of the layers may be read from another disk where this one fails.
    pub fn has_alternatives(&self, disk: DiskIndex) -> bool {
        self.layers.iter().any(|layer| {
            let set = layer.replicas.as_ref().map(Replicas::set);
            set.is_some_and(|set| set.len() > 1 && set.on_disk(disk).is_some())
        })
    }

    /// Where the bytes from `position` on come from, and for how many bytes that is so: at most to the
    /// cluster's end. An upper layer that does not hold the first block ends the run where it holds one.
    #[inline]
    fn source_in(layers: &[Layer], excluded: &Excluded, position: u64) -> Option<(RunSource, u64)> {
        let lcn = Lcn::new(((position / CLUSTER_BYTES) & 0xffff_ffff) as u32);
        let in_cluster = position % CLUSTER_BYTES;
        let block = ((in_cluster / BLOCK_BYTES) & 0x1f) as u32;
        let in_block = in_cluster % BLOCK_BYTES;
        let mut blocks = BLOCKS_PER_CLUSTER - block;
        for layer in layers {
            let answer = layer.answer(lcn, block, excluded);
            let entry = answer.entry;
            let held = entry.mask().get() >> block;
            if held & 1 == 0 {
                blocks = blocks.min(held.trailing_zeros());
                continue;
            }
            if answer.blocks == 0 {
                return None;
            }
            blocks = blocks.min(held.trailing_ones()).min(answer.blocks);
            let source = if entry.pcn().is_none() {
                RunSource::Zero
            } else {
                RunSource::Disk {
                    disk: answer.disk,
                    at: entry.pcn().offset().plus(in_cluster),
                }
            };
            return Some((source, u64::from(blocks) * BLOCK_BYTES - in_block));
        }
        Some((RunSource::Zero, u64::from(blocks) * BLOCK_BYTES - in_block))
    }
}

#[cfg(test)]
mod tests;
