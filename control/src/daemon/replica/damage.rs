//! Which blocks of which replicas are known to be bad, as the supervisor and the sets ask for it: see `scrub/damage`, which knows.

use std::ops::Range;

use uuid::Uuid;

use crate::daemon::node::Node;
use crate::daemon::scrub::ProvenBad;

impl Node {
    /// Whether something of a replica is known to be bad.
    pub fn is_damaged(&self, replica: Uuid) -> bool {
        self.damage().of(replica).is_some()
    }

    /// Blocks of a replica that are known to be bad: numbers of the image's blocks.
    pub fn damaged_blocks(&self, replica: Uuid) -> Vec<Range<u64>> {
        self.damage().ranges(replica)
    }

    /// Blocks of the copy of an image on a disk were found to be bad: nobody reads them there any more.
    pub fn found_bad(&self, image: Uuid, disk: Uuid, bad: &ProvenBad) {
        let copies = self.copies_of(image);
        if let Some(copy) = copies.iter().find(|copy| copy.disk == disk) {
            self.blocks_are_bad(copy, bad);
        }
    }
}
