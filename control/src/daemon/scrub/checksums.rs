//! Pages of block checksums that are lost on one disk, from another replica, which has recorded the same. A page that can be read is never
//! changed: see `bedplate_datapath::store`'s `restore_checksums`.

use std::sync::Arc;

use bedplate_datapath::store::ChecksumsRestored;

use super::repair::sources;
use crate::api::ApiError;
use crate::daemon::errors;
use crate::daemon::node::Node;
use crate::daemon::object::Located;

/// Has a lost page of checksums of a replica written again; whether it is there now.
pub async fn restore(node: &Arc<Node>, target: &Located, leaf: u32) -> bool {
    for source in sources(node, target) {
        match from(node, &source, target, leaf).await {
            Ok(true) => {
                tracing::warn!(
                    image = target.object.name,
                    disk = target.disk_path,
                    source = source.disk_path,
                    page = leaf,
                    "a lost page of checksums was written again from another replica"
                );
                return true;
            }
            Ok(false) => {}
            Err(error) => {
                // It may take no more changes.
                node.refresh_disk(target.disk);
                tracing::warn!(
                    image = target.object.name,
                    disk = target.disk_path,
                    source = source.disk_path,
                    page = leaf,
                    "cannot restore a page of checksums: {error}"
                );
            }
        }
    }
    false
}

async fn from(
    node: &Arc<Node>,
    source: &Located,
    target: &Located,
    leaf: u32,
) -> Result<bool, ApiError> {
    let uuid = target.object.uuid;
    let from = node.actor(source.disk)?;
    let recorded = from
        .ask(move |store| store.recorded_checksums(uuid, leaf))
        .await?
        .map_err(|error| errors::of_store(&from.name(), Some(&source.object.name), &error))?;
    // Lost there, too.
    let Some(recorded) = recorded else {
        return Ok(false);
    };
    let to = node.actor(target.disk)?;
    let restored = to
        .change(move |store| store.restore_checksums(uuid, &recorded))
        .await?
        .map_err(|error| errors::of_store(&to.name(), Some(&target.object.name), &error))?;
    Ok(restored == ChecksumsRestored::Written)
}
