//! Makes a disk with one volume of which every cluster is mapped, by writing metadata alone: what a node opens at boot after years of use.
//!
//! `mapped-disk FILE VOLUME_BYTES clean|crashed`: FILE becomes a Bedplate disk with room for the volume, and stays sparse. Clusters are taken,
//! claimed and published as writes do it, out of order, and committed through the journal and its checkpoints; only what would have been
//! written into them is not. `crashed` ends as a power cut does, with a journal that is as full as it gets.

use std::error::Error;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use bedplate_datapath::engine::{DiskFile, UringMedium};
use bedplate_datapath::format::geometry::JOURNAL_BYTES_MAX;
use bedplate_datapath::map::MapEntry;
use bedplate_datapath::store::{FormatParams, NewVolume, SessionStart, Store, format};
use bedplate_datapath::units::{BlockMask, CLUSTER_BYTES, Lcn};
use bedplate_datapath::volume::Volume;
use uuid::Uuid;

/// Entries between two commits. They are published in an order that makes each cluster far from the one before.
const PART: u32 = 1 << 16;
/// Odd, so that it leads to every entry of a part.
const STRIDE: u32 = 40_503;
/// Bytes of a record in the journal.
const RECORD_BYTES: u64 = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || {
        arguments
            .next()
            .ok_or("mapped-disk FILE VOLUME_BYTES clean|crashed")
    };
    let (file, size_bytes, end) = (PathBuf::from(next()?), next()?.parse::<u64>()?, next()?);
    let mut store = new_store(&file, size_bytes)?;
    let uuid = Uuid::new_v4();
    store.create_volume(NewVolume {
        name: "full".to_owned(),
        object_uuid: uuid,
        size_bytes,
        parent: None,
        created_unix_s: 0,
    })?;
    store.prepare_attach(uuid)?;
    let volume = store.volume_of(uuid)?;
    let clusters = u32::try_from(size_bytes.div_ceil(CLUSTER_BYTES))?;
    // The ring is full just before a checkpoint: one made early leaves that many records behind it.
    let after_checkpoint = u32::try_from(JOURNAL_BYTES_MAX / RECORD_BYTES * 9 / 10)?;
    let last_checkpoint = clusters.saturating_sub(after_checkpoint) / PART * PART;
    for first in (0..clusters).step_by(PART as usize) {
        if first == last_checkpoint {
            store.checkpoint()?;
        }
        map_part(&volume, first, clusters)?;
        // Nothing was dropped: no cluster comes back.
        let _ = store.commit()?;
    }
    drop(volume);
    match end.as_str() {
        "clean" => drop(store.close()?),
        "crashed" => drop(store.abandon()),
        _ => return Err("the end is clean or crashed".into()),
    }
    Ok(())
}

/// A new disk with room for a volume that is full, and its metadata.
fn new_store(file: &Path, size_bytes: u64) -> Result<Store<UringMedium>, Box<dyn Error>> {
    let made = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(file)?;
    made.set_len(size_bytes + size_bytes / 256 + 4 * JOURNAL_BYTES_MAX)?;
    let mut medium = UringMedium::new(DiskFile::claim(file)?)?;
    let params = FormatParams {
        disk_uuid: Uuid::new_v4(),
        hardware_id_hash: [0; 32],
        created_unix_s: 0,
    };
    format(&mut medium, &params)?;
    let start = SessionStart {
        boot_id: Uuid::new_v4(),
        diskseq: None,
    };
    Ok(Store::open(medium, &start)?.0)
}

/// Maps the entries of a part, or those of them that there are.
fn map_part(volume: &Volume, first: u32, clusters: u32) -> Result<(), Box<dyn Error>> {
    for nth in 0..PART {
        let lcn = Lcn::new(first + nth.wrapping_mul(STRIDE) % PART);
        if lcn.get() >= clusters {
            continue;
        }
        let no_room = |why| format!("no cluster for {lcn:?}: {why:?}");
        volume.ensure_leaf(lcn).map_err(no_room)?;
        let taken = volume.space().take(1).map_err(no_room)?;
        let empty = MapEntry::EMPTY;
        if !volume.claim(lcn, empty, taken.pcn) || !volume.publish(lcn, taken.pcn, BlockMask::ALL) {
            return Err(format!("{lcn:?} was mapped before").into());
        }
    }
    Ok(())
}
