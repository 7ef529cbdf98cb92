//! `verify_reads`: gives devices the recorded checksums of the image that they read, a leaf at a time, from any replica that has it. Devices
//! compare; what does not match is told of like a read that failed (`replica/failover`).

use std::sync::{Arc, Weak};
use std::time::Duration;

use bedplate_datapath::store::Object;
use bedplate_ublk_target::{ChecksumsAnswer, RecordedChecksums};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::Noun;
use crate::daemon::node::Node;

/// How long a disk may take, before another one is asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Who has the checksums of what the device of an object reads of an image, if they are to be compared. Called from within the runtime.
pub fn checksums_for(node: &Arc<Node>, object: &Object) -> Option<Arc<dyn RecordedChecksums>> {
    let image = match Noun::of(object) {
        Noun::Image => Some(object.uuid),
        Noun::Volume => object.parent,
    };
    let image = image.filter(|_| node.config.verify_reads)?;
    Some(Arc::new(OfImage {
        image,
        node: Arc::downgrade(node),
        runtime: Handle::current(),
    }))
}

struct OfImage {
    image: Uuid,
    /// Devices live as long as the node, and must not keep it.
    node: Weak<Node>,
    runtime: Handle,
}

impl RecordedChecksums for OfImage {
    fn image(&self) -> Uuid {
        self.image
    }

    fn ask(&self, leaf: u32, answer: ChecksumsAnswer) {
        let (image, node) = (self.image, Weak::clone(&self.node));
        self.runtime.spawn(async move {
            let crcs = match node.upgrade() {
                Some(node) => find(&node, image, leaf).await,
                None => None,
            };
            answer.give(crcs);
        });
    }
}

/// From the first replica that has them.
async fn find(node: &Arc<Node>, image: Uuid, leaf: u32) -> Option<Arc<[u32]>> {
    for copy in node.copies_of(image) {
        if copy.disk_trouble.is_some() || !copy.object.state.is_ready() {
            continue;
        }
        let Ok(actor) = node.actor(copy.disk) else {
            continue;
        };
        let asked = actor.ask(move |store| store.recorded_checksums(image, leaf));
        match tokio::time::timeout(ANSWER_WITHIN, asked).await {
            Ok(Ok(Ok(Some(recorded)))) => return Some(recorded.crcs().into()),
            Ok(Ok(Ok(None))) => {}
            Ok(Ok(Err(error))) => {
                tracing::warn!(
                    image = copy.object.name,
                    disk = copy.disk_path,
                    leaf,
                    "cannot read checksums: {error}"
                );
            }
            Ok(Err(error)) => tracing::debug!("cannot ask for checksums: {error}"),
            Err(_late) => {
                tracing::warn!(
                    image = copy.object.name,
                    disk = copy.disk_path,
                    leaf,
                    "it does not answer with checksums"
                );
            }
        }
    }
    None
}
