//! Where disks were seen, which ones were removed, and which are to be emptied: `disks.json` in the state directory. A hint only.
//!
//! Losing it loses time, the wish that a removed disk stays away, and the wish that a disk is drained.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::hint_file::{HintFile, Unsaved};

/// The remembered disks.
#[derive(Debug)]
pub struct SeenPaths {
    file: HintFile,
    disks: Remembered,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Remembered {
    seen: BTreeMap<Uuid, PathBuf>,
    #[serde(default)]
    removed: BTreeSet<Uuid>,
    #[serde(default)]
    draining: BTreeSet<Uuid>,
}

impl SeenPaths {
    /// Reads the file in `state_dir`. One that is absent or damaged is an empty memory.
    pub fn load(state_dir: &Path) -> Self {
        let file = HintFile::new(state_dir, "disks.json", "where disks were seen");
        let disks = file.load();
        Self { file, disks }
    }

    /// Every remembered disk and its path.
    pub fn iter(&self) -> impl Iterator<Item = (&Uuid, &PathBuf)> {
        self.disks.seen.iter()
    }

    /// Whether somebody removed this disk and has not added it again.
    pub fn is_removed(&self, disk: Uuid) -> bool {
        self.disks.removed.contains(&disk)
    }

    /// Remembers that `disk` is in use, at `path`.
    pub fn remember(&mut self, disk: Uuid, path: &Path) -> Option<Unsaved> {
        let known = self
            .disks
            .seen
            .get(&disk)
            .is_some_and(|known| known == path);
        let was_removed = self.disks.removed.remove(&disk);
        if known && !was_removed {
            return None;
        }
        self.disks.seen.insert(disk, path.to_owned());
        Some(self.unsaved())
    }

    /// Forgets the path of `disk`, and remembers that it is not wanted.
    pub fn remove(&mut self, disk: Uuid) -> Option<Unsaved> {
        let was_seen = self.disks.seen.remove(&disk).is_some();
        let was_in_use = self.disks.removed.insert(disk);
        let was_draining = self.disks.draining.remove(&disk);
        (was_seen || was_in_use || was_draining).then(|| self.unsaved())
    }

    /// Whether an operator wants `disk` empty.
    pub fn is_draining(&self, disk: Uuid) -> bool {
        self.disks.draining.contains(&disk)
    }

    /// Disks that an operator wants empty.
    pub fn draining(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.disks.draining.iter().copied()
    }

    /// Notes whether an operator wants `disk` empty: also after a restart.
    pub fn set_draining(&mut self, disk: Uuid, draining: bool) -> Option<Unsaved> {
        let is_news = if draining {
            self.disks.draining.insert(disk)
        } else {
            self.disks.draining.remove(&disk)
        };
        is_news.then(|| self.unsaved())
    }

    fn unsaved(&mut self) -> Unsaved {
        self.file.unsaved(&self.disks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_known_after_a_restart_and_a_damaged_file_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, gone) = (Uuid::new_v4(), Uuid::new_v4());
        let mut seen = SeenPaths::load(folder.path());
        let save = |unsaved: Option<Unsaved>| unsaved.unwrap().save();
        save(seen.remember(kept, Path::new("/dev/one")));
        save(seen.remember(gone, Path::new("/dev/two")));
        save(seen.remove(gone));
        let mut again = SeenPaths::load(folder.path());
        assert_eq!(
            again.iter().collect::<Vec<_>>(),
            [(&kept, &PathBuf::from("/dev/one"))]
        );
        assert!(again.is_removed(gone));
        save(again.set_draining(kept, true));
        assert!(again.set_draining(kept, true).is_none());
        assert!(SeenPaths::load(folder.path()).is_draining(kept));
        save(again.set_draining(kept, false));
        assert!(!SeenPaths::load(folder.path()).is_draining(kept));
        save(again.remember(gone, Path::new("/dev/two")));
        assert!(!SeenPaths::load(folder.path()).is_removed(gone));
        std::fs::write(folder.path().join("disks.json"), b"{ torn").unwrap();
        assert_eq!(SeenPaths::load(folder.path()).iter().count(), 0);
    }
}
