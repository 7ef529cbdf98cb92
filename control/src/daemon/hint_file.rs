//! Hints that outlive the daemon: a JSON file in the state directory. Never a state: losing it loses time.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Where hints are kept, and what they tell.
#[derive(Debug)]
pub struct HintFile {
    file: PathBuf,
    /// In messages: "where disks were seen".
    what: &'static str,
}

impl HintFile {
    /// The file `name` in `state_dir`.
    pub fn new(state_dir: &Path, name: &str, what: &'static str) -> Self {
        Self {
            file: state_dir.join(name),
            what,
        }
    }

    /// Reads it. One that is absent or damaged has no hints.
    pub fn load<T: DeserializeOwned + Default>(&self) -> T {
        let (file, what) = (self.file.display(), self.what);
        match std::fs::read(&self.file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%file, %error, "forgetting {what}: the file is damaged");
                T::default()
            }),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!(%file, %error, "cannot read {what}");
                }
                T::default()
            }
        }
    }

    /// Writes it anew, durably. A failure is told and does no harm.
    pub fn save(&self, hints: &impl Serialize) {
        if let Err(error) = self.write(hints) {
            let (file, what) = (self.file.display(), self.what);
            tracing::warn!(%file, %error, "cannot note {what}");
        }
    }

    fn write(&self, hints: &impl Serialize) -> std::io::Result<()> {
        let folder = self.file.parent().unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(folder)?;
        let text = serde_json::to_vec_pretty(hints)?;
        let fresh = self.file.with_extension("json.new");
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.file)?;
        std::fs::File::open(folder)?.sync_all()
    }
}
