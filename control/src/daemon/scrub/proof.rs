//! What was found to be bad is bad only if the disk that said so stays. One that is unplugged gives an error for everything before it is gone,
//! which says nothing of what is on it; believed, it would be shown Damaged, and not read, when it is back.

use bedplate_datapath::verify::{BadBlock, BlockContent};

use crate::api::ApiError;
use crate::daemon::disk::actor::DiskActor;

/// Blocks that are bad. Made by [`prove`] alone: nobody can be told of others.
#[derive(Debug)]
pub struct ProvenBad(Vec<BadBlock>);

impl ProvenBad {
    /// The blocks.
    pub fn blocks(&self) -> &[BadBlock] {
        &self.0
    }
}

/// Blocks that `disk` has just said are bad. Where it gave errors in place of bytes, this takes the time that a disk takes to go.
///
/// # Errors
/// `DiskOffline`: it goes, and nothing is known of them.
pub async fn prove(disk: &DiskActor, bad: Vec<BadBlock>) -> Result<ProvenBad, ApiError> {
    let is_unreadable = |block: &BadBlock| matches!(block.actual, BlockContent::Unreadable(_));
    if bad.iter().any(is_unreadable) {
        require_stays(disk).await?;
    }
    Ok(ProvenBad(bad))
}

/// Of a disk that just gave an error.
///
/// # Errors
/// `DiskOffline`: it goes.
pub async fn require_stays(disk: &DiskActor) -> Result<(), ApiError> {
    if disk.goes().await {
        return Err(disk.offline());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bedplate_datapath::medium::{IoFault, IoOp};
    use bedplate_datapath::units::ByteOffset;

    use super::*;
    use crate::daemon::test_node::TestNode;
    use crate::error_kind::ErrorKind;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_error_proves_a_block_bad_on_a_disk_that_stays_and_other_bytes_do_on_any() {
        let node = TestNode::new();
        let uuid = node.make_disk("disk").await;
        let disk = node.actor(uuid).unwrap();
        let bad = |actual| BadBlock {
            object_offset: ByteOffset::new(0),
            disk_offset: ByteOffset::new(0),
            expected_crc: 1,
            actual,
        };
        let other_bytes = bad(BlockContent::Crc(2));
        let unreadable = bad(BlockContent::Unreadable(IoFault {
            op: IoOp::Read,
            at: ByteOffset::new(0),
            len_bytes: 4096,
            errno: libc::EIO,
        }));
        let both = vec![other_bytes, unreadable];
        let proven = prove(&disk, both.clone()).await.unwrap();
        assert_eq!(proven.blocks(), both);
        disk.presence.pretend_gone();
        let error = prove(&disk, both).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::DiskOffline);
        let proven = prove(&disk, vec![other_bytes]).await.unwrap();
        assert_eq!(proven.blocks(), [other_bytes]);
    }
}
