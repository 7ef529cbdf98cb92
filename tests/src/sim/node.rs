//! What a node does with a disk, as the daemon does it: import, read, verify. The disk may crash under every step.

use std::sync::Arc;

use bedplate_datapath::import::{ClusterVerdict, ImportPlanner, verdict};
use bedplate_datapath::medium::Medium;
use bedplate_datapath::plan::{
    DiskIndex, Layer, LayerStack, REQUEST_BYTES_MAX, RunList, RunSource,
};
use bedplate_datapath::store::{ImportTicket, NewImage, Store, StoreError};
use bedplate_datapath::units::{BLOCK_BYTES, ByteOffset, CLUSTER_BYTES, Lcn};
use bedplate_datapath::verify::{StepOutcome, VerifyReport, VerifyRun};
use uuid::Uuid;

use super::content::Content;

/// Why an operation of a node did not end well.
#[derive(Debug)]
pub enum NodeError {
    /// The store said no.
    Store(StoreError),
    /// The disk failed under the bytes of an import, or a read.
    Disk(bedplate_datapath::medium::IoFault),
}

impl From<StoreError> for NodeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl std::fmt::Display for NodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Disk(fault) => fault.fmt(f),
        }
    }
}

/// Describes an image for [`Store::begin_import`].
pub fn new_image(name: &str, uuid: Uuid, content: &Content) -> NewImage {
    NewImage {
        name: name.to_owned(),
        size_bytes: Some(content.size_bytes),
        source: "/images/of/the/simulator".to_owned(),
        wanted_copies: 1,
        created_unix_s: 1,
        object_uuid: uuid,
        replica_uuid: Uuid::from_u128(!uuid.as_u128()),
    }
}

/// Writes an import's bytes and checksums. What it returns is to be sealed.
///
/// # Errors
/// The store's, or the disk's. The ticket is still to be aborted.
pub fn write_image<M: Medium>(
    store: &mut Store<M>,
    ticket: &mut ImportTicket,
    content: &Content,
) -> Result<bedplate_datapath::import::SealedImage, NodeError> {
    let mut planner = ImportPlanner::new(ticket.owner(), Some(content.size_bytes));
    let cluster = usize::try_from(CLUSTER_BYTES).expect("128 KiB");
    for (lcn, bytes) in (0..).zip(content.bytes.chunks(cluster)) {
        let ClusterVerdict::Store { mask } = verdict(bytes) else {
            continue;
        };
        let pcn = store.allocate(ticket, 1)?.pcn;
        store
            .medium_mut()
            .write(pcn.offset(), bytes)
            .map_err(NodeError::Disk)?;
        planner
            .stored(Lcn::new(lcn), pcn, mask, bytes)
            .expect("clusters are told in order");
        write_checksums(store, ticket, &mut planner)?;
    }
    planner.finish();
    write_checksums(store, ticket, &mut planner)?;
    Ok(planner
        .seal_input(content.size_bytes, content.sha256, content.sha512)
        .expect("everything is placed"))
}

fn write_checksums<M: Medium>(
    store: &mut Store<M>,
    ticket: &mut ImportTicket,
    planner: &mut ImportPlanner,
) -> Result<(), NodeError> {
    while planner.needs_cluster() {
        let pcn = store.allocate(ticket, 1)?.pcn;
        if let Some(write) = planner.place(pcn) {
            store
                .medium_mut()
                .write(write.at, &write.bytes)
                .map_err(NodeError::Disk)?;
        }
    }
    Ok(())
}

/// Imports an image; gives everything back if that fails.
///
/// # Errors
/// The store's, or the disk's.
pub fn import<M: Medium>(
    store: &mut Store<M>,
    name: &str,
    uuid: Uuid,
    content: &Content,
) -> Result<(), NodeError> {
    let mut ticket = store.begin_import(new_image(name, uuid, content))?;
    match write_image(store, &mut ticket, content) {
        Ok(sealed) => Ok(store.seal(ticket, sealed).map(drop)?),
        Err(error) => {
            store.abort(ticket);
            Err(error)
        }
    }
}

/// Reads an image as its device would, request by request.
///
/// # Errors
/// The store's, or the disk's.
pub fn read_image<M: Medium>(
    store: &mut Store<M>,
    uuid: Uuid,
    size_bytes: u64,
) -> Result<Vec<u8>, NodeError> {
    let disk = DiskIndex::new(0);
    let stack = LayerStack {
        layers: vec![Layer::new(store.map_of(uuid)?, disk)],
        size_bytes,
    };
    let mut bytes = vec![0xee; usize::try_from(stack.device_bytes()).expect("images are small")];
    let mut runs = RunList::new();
    let mut block_buffer = Vec::new();
    let mut at = 0;
    for request in bytes.chunks_mut(REQUEST_BYTES_MAX as usize) {
        let len = u32::try_from(request.len()).expect("a request");
        stack
            .plan_read(ByteOffset::new(at), len, &mut runs)
            .expect("a request inside the device, in whole sectors");
        at += u64::from(len);
        for run in runs.as_slice() {
            let into = &mut request[run.request_offset as usize..][..run.len_bytes as usize];
            match run.source {
                RunSource::Zero => into.fill(0),
                RunSource::Disk { at, .. } => read_sectors(store, at, into, &mut block_buffer)?,
            }
        }
    }
    Ok(bytes)
}

/// Reads whole sectors; the medium reads whole blocks.
fn read_sectors<M: Medium>(
    store: &mut Store<M>,
    at: ByteOffset,
    into: &mut [u8],
    buffer: &mut Vec<u8>,
) -> Result<(), NodeError> {
    let first = at.get() - at.get() % BLOCK_BYTES;
    let skip = usize::try_from(at.get() - first).expect("less than a block");
    let block = usize::try_from(BLOCK_BYTES).expect("4096");
    buffer.resize((skip + into.len()).next_multiple_of(block), 0);
    store
        .medium_mut()
        .read(ByteOffset::new(first), buffer)
        .map_err(NodeError::Disk)?;
    into.copy_from_slice(&buffer[skip..skip + into.len()]);
    Ok(())
}

/// Verifies an image to the end.
///
/// # Errors
/// The store's.
pub fn verify<M: Medium>(store: &mut Store<M>, uuid: Uuid) -> Result<VerifyReport, StoreError> {
    let mut run = VerifyRun::new(store, uuid)?;
    while run.step(store)? == StepOutcome::More {}
    Ok(run.finish())
}

/// What a reader of `content` must see: its bytes, and zeros up to the next sector.
pub fn expected_bytes(content: &Arc<Content>) -> &[u8] {
    let device_bytes = content.size_bytes.next_multiple_of(512);
    &content.bytes[..usize::try_from(device_bytes).expect("contents are small")]
}
