//! When each replica was read last, and which were damaged: `scrub.json` in the state directory. A hint for what to read first, never a
//! state. Losing it loses time.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The remembered replicas.
#[derive(Debug)]
pub struct ScrubMemory {
    file: PathBuf,
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
        let file = state_dir.join("scrub.json");
        let replicas = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "forgetting when images were read: the file is damaged");
                BTreeMap::new()
            }),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!(file = %file.display(), %error, "cannot read when images were read");
                }
                BTreeMap::new()
            }
        };
        Self { file, replicas }
    }

    /// What is remembered of a replica.
    pub fn of(&self, replica: Uuid) -> Option<Remembered> {
        self.replicas.get(&replica).copied()
    }

    /// Remembers it.
    pub fn note(&mut self, replica: Uuid, what: Remembered) {
        if self.replicas.insert(replica, what) != Some(what) {
            self.save();
        }
    }

    /// Forgets a replica that is no more.
    pub fn forget(&mut self, replica: Uuid) {
        if self.replicas.remove(&replica).is_some() {
            self.save();
        }
    }

    fn save(&self) {
        if let Err(error) = self.write() {
            tracing::warn!(file = %self.file.display(), %error, "cannot note when images were read");
        }
    }

    fn write(&self) -> std::io::Result<()> {
        let folder = self.file.parent().unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(folder)?;
        let text = serde_json::to_vec_pretty(&self.replicas)?;
        let fresh = self.file.with_extension("json.new");
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(&text)?;
        // A hint: a power cut may leave the old one, or an empty one, and both are fine.
        std::fs::rename(&fresh, &self.file)
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
        ScrubMemory::load(folder.path()).note(replica, what);
        let mut again = ScrubMemory::load(folder.path());
        assert_eq!(again.of(replica), Some(what));
        again.forget(replica);
        assert_eq!(ScrubMemory::load(folder.path()).of(replica), None);
        std::fs::write(folder.path().join("scrub.json"), b"{ torn").unwrap();
        assert_eq!(ScrubMemory::load(folder.path()).of(replica), None);
    }
}
