//! Bad blocks, from another replica: read there with their checksums checked, written in place, flushed, and read again.

use std::sync::Arc;

use bedplate_datapath::store::{BlockRepair, CHECKED_BLOCKS_MAX, CheckedBlock};
use bedplate_datapath::units::{BLOCK_BYTES, PAGE_BYTES};
use bedplate_datapath::verify::BadBlock;

use super::damage::joined;
use super::proof::prove;
use super::tell::block_of;
use crate::api::ApiError;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::daemon::object::Located;

/// Puts bad blocks of a replica right; answers with those that are good now. What other replicas have bad is told of on the way.
pub async fn repair(node: &Arc<Node>, target: &Located, bad: &[BadBlock]) -> Vec<u64> {
    let mut left: Vec<u64> = bad.iter().map(block_of).collect();
    let mut good = Vec::new();
    for source in sources(node, target) {
        for range in joined(left.clone()) {
            let mut first = range.start;
            while first < range.end {
                let count = (range.end - first).min(CHECKED_BLOCKS_MAX as u64);
                match piece(node, &source, target, first, count).await {
                    Ok(repaired) => good.extend(repaired),
                    Err(error) => {
                        tracing::warn!(
                            image = target.object.name,
                            disk = target.disk_path,
                            source = source.disk_path,
                            "cannot repair blocks: {error}"
                        );
                    }
                }
                first += count;
            }
        }
        left.retain(|block| !good.contains(block));
        if left.is_empty() {
            break;
        }
    }
    good
}

/// Other replicas of the same image that can be read.
pub fn sources(node: &Node, target: &Located) -> Vec<Located> {
    let same = |other: &Located| {
        let (one, two) = (&target.object, &other.object);
        one.size_bytes == two.size_bytes && one.sha256 == two.sha256 && one.sha512 == two.sha512
    };
    node.copies_of(target.object.uuid)
        .into_iter()
        .filter(|other| {
            other.disk != target.disk
                && same(other)
                && other.disk_trouble.is_none()
                && other.object.state.is_ready()
        })
        .collect()
}

/// Repairs up to 1 MiB.
async fn piece(
    node: &Arc<Node>,
    source: &Located,
    target: &Located,
    first: u64,
    count: u64,
) -> Result<Vec<u64>, ApiError> {
    let uuid = target.object.uuid;
    let from = node.actor(source.disk)?;
    let (bytes, blocks) = from
        .ask(move |store| {
            let len = usize::try_from(count * BLOCK_BYTES).unwrap_or(usize::MAX);
            let mut bytes = vec![0; len];
            let blocks = store.read_checked(uuid, first..first + count, &mut bytes)?;
            Ok((bytes, blocks))
        })
        .await?
        .map_err(|error| errors::of_store(&from.name(), Some(&source.object.name), &error))?;
    let also_bad = prove(&from, blocks.iter().filter_map(CheckedBlock::bad).collect()).await?;
    node.blocks_are_bad(source, &also_bad);
    let mut repaired = Vec::new();
    for run in good_runs(first, &blocks) {
        let start = usize::try_from(run.start - first).unwrap_or(usize::MAX) * PAGE_BYTES;
        let end = usize::try_from(run.end - first).unwrap_or(usize::MAX) * PAGE_BYTES;
        let Some(part) = bytes.get(start..end) else {
            continue;
        };
        let (part, begins) = (part.to_vec(), run.start);
        let to = node.actor(target.disk)?;
        let outcome = to
            .ask(move |store| store.repair_blocks(uuid, begins, &part))
            .await?
            .map_err(|error| errors::of_store(&to.name(), Some(&target.object.name), &error))?;
        repaired.extend(good_of(run, &outcome));
    }
    Ok(repaired)
}

/// The blocks from `first` on that the source has as they were imported.
fn good_runs(first: u64, blocks: &[CheckedBlock]) -> Vec<std::ops::Range<u64>> {
    joined(
        (first..)
            .zip(blocks)
            .filter(|(_, block)| matches!(block, CheckedBlock::Good { .. }))
            .map(|(block, _)| block)
            .collect(),
    )
}

fn good_of(run: std::ops::Range<u64>, outcome: &BlockRepair) -> Vec<u64> {
    let still: Vec<u64> = outcome
        .refused
        .iter()
        .chain(&outcome.still_bad)
        .map(block_of)
        .collect();
    // What is not stored here is passed over, and was not bad.
    run.filter(|block| !still.contains(block)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bedplate_datapath::units::ByteOffset;
    use bedplate_datapath::verify::BlockContent;

    fn bad(block: u64) -> BadBlock {
        BadBlock {
            object_offset: ByteOffset::new(block * BLOCK_BYTES),
            disk_offset: ByteOffset::new(0),
            expected_crc: 1,
            actual: BlockContent::Crc(2),
        }
    }

    #[test]
    fn only_what_the_source_has_as_it_was_imported_is_written() {
        let good = CheckedBlock::Good { crc: 1 };
        let blocks = [
            good,
            good,
            CheckedBlock::Bad(bad(12)),
            CheckedBlock::Hole,
            good,
            CheckedBlock::Unchecked,
        ];
        assert_eq!(good_runs(10, &blocks), [10..12, 14..15]);
    }

    #[test]
    fn what_was_refused_or_stays_bad_is_not_repaired() {
        let outcome = BlockRepair {
            repaired: 2,
            refused: vec![bad(11)],
            still_bad: vec![bad(13)],
        };
        assert_eq!(good_of(10..14, &outcome), [10, 12]);
    }
}
