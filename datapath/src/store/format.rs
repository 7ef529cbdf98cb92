//! Making a disk a Bedplate disk.

use uuid::Uuid;

use super::error::FormatError;
use super::latch::LatchedDisk;
use super::superblocks;
use crate::format::PairCopy;
use crate::format::geometry::Geometry;
use crate::format::peers::Peers;
use crate::format::root::CheckpointRoot;
use crate::format::superblock::Superblock;
use crate::medium::Medium;
use crate::units::{BLOCK_BYTES, ByteOffset, Seq};

/// What a new disk is to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatParams {
    /// The disk's identity. Never one that was used before: pages of a former format are told apart by it.
    pub disk_uuid: Uuid,
    /// SHA-256 of the device's WWID or serial, zero where it has none.
    pub hardware_id_hash: [u8; 32],
    /// For people.
    pub created_unix_s: u64,
}

/// Formats a disk. Everything on it is lost, whatever it was: the caller has looked for foreign signatures.
///
/// # Errors
/// If the disk is too small or too large, and nothing was written; or if it failed, and what is there then is not a Bedplate
/// disk (or still the former one, if not even the first step was done).
pub fn format<M: Medium>(medium: &mut M, params: &FormatParams) -> Result<Geometry, FormatError> {
    let geometry = Geometry::of_disk(medium.len_bytes())?;
    let io = |doing| move |fault| FormatError::Io { doing, fault };

    // 1. The superblock copies of a former format go first, and durably. Were they left while the table is zeroed, a crash would
    //    leave a disk that opens as good and has lost its objects.
    for at in geometry.superblock_offsets() {
        medium
            .write_zeroes(at, BLOCK_BYTES)
            .map_err(io("removing a former superblock copy"))?;
    }
    medium
        .flush()
        .map_err(io("removing the former superblock copies"))?;

    // 2. Everything that a superblock points at, durable before the first copy of it is written: a disk must not open with a
    //    table of whatever was there before. (The flush after the first copy would do as well, since one copy is no disk yet; but
    //    that is the superblock's business, and should not carry this.)
    //    Around the zones nothing may stay that names another owner: a GPT has a second header at the end of the device, some
    //    RAID formats have their only one there, and their tools would "repair" the disk from it.
    let zones_end = geometry.end_pcn().offset();
    let tail_bytes = medium.len_bytes() / BLOCK_BYTES * BLOCK_BYTES - zones_end.get();
    medium
        .write_zeroes(ByteOffset::new(0), geometry.table_offset().get())
        .map_err(io("zeroing what precedes the object table"))?;
    medium
        .write_zeroes(zones_end, tail_bytes)
        .map_err(io("zeroing what follows the clusters"))?;
    medium
        .write_zeroes(geometry.table_offset(), geometry.table_bytes())
        .map_err(io("zeroing the object table"))?;
    let root = CheckpointRoot {
        seq: Seq::new(1),
        tail_offset: geometry.journal().offset,
        tail_seq: Seq::new(1),
        session: 0,
    };
    for copy in PairCopy::BOTH {
        let page = root.encode(params.disk_uuid, copy);
        medium
            .write(geometry.root_offset(copy), &page)
            .map_err(io("writing a checkpoint root"))?;
    }
    medium.flush().map_err(io("writing table and roots"))?;

    // 3. The superblock. With the second durable copy the disk is a Bedplate disk.
    let superblock = Superblock {
        disk_uuid: params.disk_uuid,
        generation: Seq::new(1),
        clean: true,
        incompat: 0,
        ro_compat: 0,
        compat: 0,
        hardware_id_hash: params.hardware_id_hash,
        geometry,
        session: 0,
        boot_id: Uuid::nil(),
        created_unix_s: params.created_unix_s,
        owner_node_hash: [0; 32],
        peers: Peers::default(),
    };
    superblocks::write(&mut LatchedDisk::new(medium), &superblock)
        .map_err(io("writing a superblock copy"))?;
    Ok(geometry)
}
