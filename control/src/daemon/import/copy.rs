//! The import itself, on a thread with a tokio-uring runtime: chunk by chunk from the source to the hashers and to the disk.

use std::sync::Arc;

use bedplate_datapath::import::{
    ClusterVerdict, ImportPlanError, ImportPlanner, SealedImage, verdict,
};
use bedplate_datapath::store::{ImportTicket, NewImage};
use bedplate_datapath::units::{BlockMask, CLUSTER_BYTES, Lcn, Pcn};
use uuid::Uuid;

use super::buffer::{AlignedBuf, CHUNK_BYTES, SharedPart};
use super::chunk::Chunk;
use super::file_reader::FileReader;
use super::hasher::{HashPiece, Hashers, Sums};
use super::stream_reader::StreamReader;
use super::writer::Writer;
use crate::api::{ApiError, ImportFormat, JobPhase};
use crate::daemon::disk::actor::DiskActor;
use crate::daemon::errors;
use crate::daemon::image::catalog::hex;
use crate::daemon::jobs::{JobRef, cancelled};
use crate::error_kind::ErrorKind;
use crate::source_format;

const CLUSTER: usize = 128 * 1024;
const _: () = assert!(CLUSTER as u64 == CLUSTER_BYTES && CHUNK_BYTES.is_multiple_of(CLUSTER));

/// Where the bytes come from.
pub enum Reader {
    /// A file that the daemon reads.
    File(FileReader),
    /// A client that sends them.
    Stream(StreamReader),
}

/// What is to be imported, where to, and what it must turn out to be.
pub struct Plan {
    /// The job that this is.
    pub job: JobRef,
    /// The disk.
    pub disk: Arc<DiskActor>,
    /// The image.
    pub image: NewImage,
    /// Whether other formats than raw are refused.
    pub format: ImportFormat,
    /// Checksums that the content must have.
    pub expected: ExpectedSums,
    /// Writes in flight at once.
    pub writes_in_flight: usize,
}

/// Checksums that the content must have, where the user gave them.
#[derive(Debug, Clone, Default)]
pub struct ExpectedSums {
    /// SHA-256.
    pub sha256: Option<[u8; 32]>,
    /// SHA-512.
    pub sha512: Option<[u8; 64]>,
}

/// Imports: when this answers, the image is durable and exists, or nothing of it is left and its space is free.
///
/// # Errors
/// Why it does not exist.
pub async fn run(plan: Plan, reader: Reader) -> Result<Uuid, ApiError> {
    let name = plan.image.name.clone();
    let disk = Arc::clone(&plan.disk);
    let of_store = |error| errors::of_store(&disk.name(), Some(&name), &error);

    let claim = disk.claim()?;
    let hashers = Hashers::start()
        .map_err(|error| errors::of_io("cannot start a thread to hash the image", &error))?;
    let image = plan.image.clone();
    let ticket = disk
        .ask(move |store| store.begin_import(image))
        .await?
        .map_err(of_store)?;
    let mut copy = Copy {
        planner: Some(ImportPlanner::new(ticket.owner(), plan.image.size_bytes)),
        writer: Writer::new(claim, disk.name(), plan.writes_in_flight),
        hashers: Some(hashers),
        ticket: Some(ticket),
        plan,
        done_bytes: 0,
    };
    let copied = copy.all(reader).await;
    // Whatever happened: as long as a write is in flight its space is nobody else's.
    let drained = copy.writer.drain().await;
    let Some(ticket) = copy.ticket.take() else {
        return copied.and_then(|_| Err(errors::internal("an import lost its ticket")));
    };
    match copied.and_then(|sealed| drained.map(|()| sealed)) {
        Ok(sealed) => disk
            .change(move |store| store.seal(ticket, sealed))
            .await?
            .map_err(of_store),
        Err(error) => {
            disk.change(move |store| store.abort(ticket)).await?;
            Err(error)
        }
    }
}

struct Copy {
    plan: Plan,
    /// Lent to the disk's thread for each allocation; lost only with the disk.
    ticket: Option<ImportTicket>,
    planner: Option<ImportPlanner>,
    writer: Writer,
    hashers: Option<Hashers>,
    done_bytes: u64,
}

/// A cluster of a chunk that is to be stored.
struct Wanted {
    lcn: Lcn,
    mask: BlockMask,
    /// Where in the chunk's buffer.
    start: usize,
}

impl Copy {
    async fn all(&mut self, mut reader: Reader) -> Result<SealedImage, ApiError> {
        let job = self.plan.job.clone();
        job.progress(JobPhase::Copying, 0, self.plan.image.size_bytes);
        loop {
            let chunk = tokio::select! {
                biased;
                () = job.cancelled() => return Err(cancelled(&self.plan.image.name)),
                chunk = reader.next() => chunk?,
            };
            let Some(chunk) = chunk else { break };
            self.take(chunk).await?;
        }
        self.require_whole()?;
        job.progress(JobPhase::Sealing, self.done_bytes, Some(self.done_bytes));
        let sums = self.sums().await?;
        self.require_expected(&sums)?;
        self.seal_input(&sums).await
    }

    async fn take(&mut self, chunk: Chunk) -> Result<(), ApiError> {
        let len_bytes = chunk.len_bytes();
        let piece = match &chunk {
            Chunk::Data { buf, len_bytes, .. } => HashPiece::Data(Arc::clone(buf), *len_bytes),
            Chunk::Hole { len_bytes } => HashPiece::Zeros(*len_bytes),
        };
        if let Chunk::Data {
            at: 0,
            buf,
            len_bytes,
        } = &chunk
            && self.plan.format == ImportFormat::Auto
            && let Some(other) = source_format::looks_like(&buf.bytes()[..*len_bytes])
        {
            return Err(other.refusal(&self.plan.image.name, &self.plan.image.source));
        }
        let fed = match &self.hashers {
            Some(hashers) => hashers.feed(piece).await,
            None => false,
        };
        if !fed {
            return Err(errors::internal("a thread that hashes the image ended"));
        }
        if let Chunk::Data { at, buf, len_bytes } = chunk {
            self.store(at, &buf, len_bytes).await?;
        }
        self.done_bytes += len_bytes;
        self.plan.job.progress(
            JobPhase::Copying,
            self.done_bytes,
            self.plan.image.size_bytes,
        );
        Ok(())
    }

    /// Stores what is not zero of a chunk: places for all of its clusters, then one write for each run of neighbours.
    async fn store(
        &mut self,
        at: u64,
        buf: &Arc<AlignedBuf>,
        len_bytes: usize,
    ) -> Result<(), ApiError> {
        let mut wanted = Vec::with_capacity(CHUNK_BYTES / CLUSTER);
        for start in (0..len_bytes).step_by(CLUSTER) {
            if let ClusterVerdict::Store { mask } = verdict(&buf.bytes()[start..start + CLUSTER]) {
                let number = (at + start as u64) / CLUSTER_BYTES;
                let lcn = u32::try_from(number).map_err(|_| self.too_large())?;
                wanted.push(Wanted {
                    lcn: Lcn::new(lcn),
                    mask,
                    start,
                });
            }
        }
        let places = self.allocate(wanted.len()).await?;
        let mut run: Option<(Pcn, usize, usize)> = None;
        for (cluster, pcn) in wanted.iter().zip(places) {
            let bytes = &buf.bytes()[cluster.start..cluster.start + CLUSTER];
            let told = self
                .planner()?
                .stored(cluster.lcn, pcn, cluster.mask, bytes);
            told.map_err(|error| self.plan_error(error))?;
            match &mut run {
                Some((first, start, len))
                    if *start + *len == cluster.start
                        && u64::from(first.get()) + (*len / CLUSTER) as u64
                            == u64::from(pcn.get()) =>
                {
                    *len += CLUSTER;
                }
                _ => {
                    self.write_run(run.take(), buf).await?;
                    run = Some((pcn, cluster.start, CLUSTER));
                }
            }
        }
        self.write_run(run, buf).await?;
        self.write_checksums().await
    }

    async fn write_run(
        &mut self,
        run: Option<(Pcn, usize, usize)>,
        buf: &Arc<AlignedBuf>,
    ) -> Result<(), ApiError> {
        let Some((pcn, start, len)) = run else {
            return Ok(());
        };
        self.writer
            .write(
                pcn.offset().get(),
                SharedPart::new(Arc::clone(buf), start, len),
            )
            .await
    }

    async fn write_checksums(&mut self) -> Result<(), ApiError> {
        while self.planner()?.needs_cluster() {
            for pcn in self.allocate(1).await? {
                let Some(write) = self.planner()?.place(pcn) else {
                    continue;
                };
                let mut buf = AlignedBuf::zeroed();
                buf.bytes_mut()[..write.bytes.len()].copy_from_slice(&write.bytes);
                let part = SharedPart::new(Arc::new(buf), 0, write.bytes.len());
                self.writer.write(write.at.get(), part).await?;
            }
        }
        Ok(())
    }

    async fn allocate(&mut self, count: usize) -> Result<Vec<Pcn>, ApiError> {
        let mut places = Vec::with_capacity(count);
        while places.len() < count {
            let Some(mut ticket) = self.ticket.take() else {
                return Err(errors::internal("an import lost its ticket"));
            };
            let missing = u32::try_from(count - places.len()).unwrap_or(u32::MAX);
            let (ticket, extent) = self
                .plan
                .disk
                .ask(move |store| {
                    let extent = store.allocate(&mut ticket, missing);
                    (ticket, extent)
                })
                .await?;
            self.ticket = Some(ticket);
            let extent = extent.map_err(|error| {
                errors::of_store(&self.plan.disk.name(), Some(&self.plan.image.name), &error)
            })?;
            places.extend(extent.clusters());
        }
        Ok(places)
    }

    /// A stream whose length was told must have it.
    fn require_whole(&self) -> Result<(), ApiError> {
        match self.plan.image.size_bytes {
            Some(told) if told != self.done_bytes => {
                let kind = if self.done_bytes < told {
                    ErrorKind::SourceLost
                } else {
                    ErrorKind::BadSize
                };
                Err(ApiError::new(
                    kind,
                    format!("{told} bytes were announced, and {} came", self.done_bytes),
                )
                .object(self.plan.image.name.clone())
                .remedy("send it again from the start; nothing of it was kept"))
            }
            _ => Ok(()),
        }
    }

    async fn sums(&mut self) -> Result<Sums, ApiError> {
        let sums = match self.hashers.take() {
            Some(hashers) => hashers.finish().await,
            None => None,
        };
        sums.ok_or_else(|| errors::internal("a thread that hashes the image ended"))
    }

    fn require_expected(&self, sums: &Sums) -> Result<(), ApiError> {
        let ExpectedSums { sha256, sha512 } = &self.plan.expected;
        let wrong = |what: &str, expected: &[u8], actual: &[u8]| {
            let (expected, actual) = (hex(expected), hex(actual));
            let message = format!(
                "the content is not what was expected: {what} expected {expected}, actual {actual}"
            );
            Err(ApiError::new(ErrorKind::ChecksumMismatch, message)
                .object(self.plan.image.name.clone())
                .remedy("get the source again, or check the checksum that was given; nothing of it was kept"))
        };
        if let Some(expected) = sha256.filter(|expected| *expected != sums.sha256) {
            return wrong("SHA-256", &expected, &sums.sha256);
        }
        if let Some(expected) = sha512.filter(|expected| *expected != sums.sha512) {
            return wrong("SHA-512", &expected, &sums.sha512);
        }
        Ok(())
    }

    async fn seal_input(&mut self, sums: &Sums) -> Result<SealedImage, ApiError> {
        self.planner()?.finish();
        self.write_checksums().await?;
        let planner = self
            .planner
            .take()
            .ok_or_else(|| errors::internal("an import lost its plan"))?;
        planner
            .seal_input(self.done_bytes, sums.sha256, sums.sha512)
            .map_err(|error| self.plan_error(error))
    }

    fn planner(&mut self) -> Result<&mut ImportPlanner, ApiError> {
        self.planner
            .as_mut()
            .ok_or_else(|| errors::internal("an import lost its plan"))
    }

    fn plan_error(&self, error: ImportPlanError) -> ApiError {
        match error {
            ImportPlanError::TooLarge { .. } => self.too_large(),
            other => errors::internal(&other.to_string()).object(self.plan.image.name.clone()),
        }
    }

    fn too_large(&self) -> ApiError {
        ApiError::new(
            ErrorKind::BadSize,
            "the image is larger than an image can be (16 TiB)",
        )
        .object(self.plan.image.name.clone())
        .remedy("split it")
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Chunk>, ApiError> {
        match self {
            Self::File(reader) => reader.next().await,
            Self::Stream(reader) => reader.next().await,
        }
    }
}
