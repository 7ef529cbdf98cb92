//! When each replica was read last, and which were damaged: `scrub.json` in the state directory. A hint for what to read first, never a
//! state. Losing it loses time.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::daemon::hint_file::{HintFile, Unsaved};

/// The remembered replicas.
#[derive(Debug)]
pub struct ScrubMemory {
    file: HintFile,
    replicas: BTreeMap<Uuid, Remembered>,
}

/// What is remembered of one replica.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// When all of it was read last, in seconds since 1970.
    pub read_unix_s: u64,
    /// It was damaged then.
    pub is_damaged: bool,
}

impl ScrubMemory {
    /// Reads the file in `state_dir`. One that is absent or damaged is an empty memory.
    pub fn load(state_dir: &Path) -> Self {
        let file = HintFile::new(state_dir, "scrub.json", "when images were read");
        let replicas = file.load();
        Self { file, replicas }
    }

    /// What is remembered of a replica.
    pub fn of(&self, replica: Uuid) -> Option<Remembered> {
        self.replicas.get(&replica).copied()
    }

    /// Remembers it.
    pub fn note(&mut self, replica: Uuid, what: Remembered) -> Option<Unsaved> {
        (self.replicas.insert(replica, what) != Some(what)).then(|| self.unsaved())
    }

    /// Forgets a replica that is no more.
    pub fn forget(&mut self, replica: Uuid) -> Option<Unsaved> {
        let is_news = self.replicas.remove(&replica).is_some();
        is_news.then(|| self.unsaved())
    }

    fn unsaved(&mut self) -> Unsaved {
        self.file.unsaved(&self.replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_known_after_a_restart_and_a_damaged_file_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let replica = Uuid::new_v4();
        let what = Remembered {
            read_unix_s: 7,
            is_damaged: true,
        };
        let noted = ScrubMemory::load(folder.path()).note(replica, what);
        noted.unwrap().save();
        let mut again = ScrubMemory::load(folder.path());
        assert_eq!(again.of(replica), Some(what));
        again.forget(replica).unwrap().save();
        assert_eq!(ScrubMemory::load(folder.path()).of(replica), None);
        std::fs::write(folder.path().join("scrub.json"), b"{ torn").unwrap();
        assert_eq!(ScrubMemory::load(folder.path()).of(replica), None);
    }
}
