//! A change of a disk that is under way: opening, closing, formatting. One at a time, and none that is forgotten.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entry::DiskEntry;
use super::online::entry_of;
use crate::api::DiskState;
use crate::daemon::node::Node;

/// The entry of a path says that it is being changed until this ends or is dropped, also by a task that panicked or was aborted. Must not
/// be dropped by who has the disks locked; see [`Self::end`].
#[must_use]
pub struct InChange {
    node: Arc<Node>,
    path: PathBuf,
    has_ended: bool,
}

impl InChange {
    /// Marks the entry of `path`, which is made if there is none. The caller has seen that nobody else is at it.
    pub fn begin(node: &Arc<Node>, disks: &mut Vec<DiskEntry>, path: &Path) -> Self {
        entry_of(disks, path).in_change = true;
        Self {
            node: Arc::clone(node),
            path: path.to_owned(),
            has_ended: false,
        }
    }

    /// Ends it while the disks are locked; answers with the entry.
    pub fn end(mut self, disks: &mut [DiskEntry]) -> Option<&mut DiskEntry> {
        self.has_ended = true;
        let entry = disks.iter_mut().find(|entry| entry.path == self.path)?;
        entry.in_change = false;
        Some(entry)
    }
}

impl Drop for InChange {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let mut disks = self.node.disks();
        if let Some(entry) = disks.iter_mut().find(|entry| entry.path == self.path) {
            entry.in_change = false;
            if entry.state.get() == DiskState::Opening {
                entry.set_state(DiskState::Absent, None, "its opening did not end");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::daemon::serving::Serving;

    #[test]
    fn a_change_that_is_dropped_has_ended_and_one_that_ended_says_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            state_dir: folder.path().to_owned(),
            ..Config::default()
        };
        let serving = Serving::new(&config.ublk);
        let node = Node::new(config, uuid::Uuid::new_v4(), serving);
        let path = Path::new("/dev/none");
        let is_in_change = || node.disks().iter().any(|entry| entry.in_change);
        let dropped = InChange::begin(&node, &mut node.disks(), path);
        assert!(is_in_change());
        drop(dropped);
        assert!(!is_in_change());
        let ended = InChange::begin(&node, &mut node.disks(), path);
        assert!(ended.end(&mut node.disks()).is_some());
        assert!(!is_in_change());
    }
}
