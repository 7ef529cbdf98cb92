//! What the daemon does with images and volumes: devices, jobs at work, states with their history. Not on any disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use uuid::Uuid;

use crate::api::{ApiError, Attachment, AttachmentState, Image, JobState, ReplicaState};
use crate::daemon::history::Tracked;
use crate::daemon::import::StreamPart;
use crate::daemon::jobs::JobRef;
use crate::error_kind::ErrorKind;

/// All images and volumes of the node.
#[derive(Debug, Default)]
pub struct ObjectTable {
    runtimes: HashMap<Uuid, Runtime>,
    replicas: HashMap<Uuid, Tracked<ReplicaState>>,
    imports: BTreeMap<String, Importing>,
    /// Names of volumes that are being made.
    taken: HashSet<String>,
}

/// One image or volume.
#[derive(Debug)]
pub struct Runtime {
    /// State of its device.
    pub attachment: Tracked<AttachmentState>,
    /// Number of its device, while there is one.
    pub device: Option<u32>,
    /// One change of its device or of its existence at a time.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    /// One change of its description at a time.
    pub describing: Arc<tokio::sync::Mutex<()>>,
    /// The job that reads it.
    pub job: Option<JobRef>,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            attachment: Tracked::new("attachment", AttachmentState::Detached),
            device: None,
            turn: Arc::default(),
            describing: Arc::default(),
            job: None,
        }
    }
}

/// An image on its way in: its name is taken, but it does not exist.
#[derive(Debug, Clone)]
pub struct Importing {
    /// The image to be.
    pub uuid: Uuid,
    /// The disk that it goes to.
    pub disk: Uuid,
    /// The job that makes it.
    pub job: JobRef,
    /// Where it comes from.
    pub source: String,
    /// Replicas wanted.
    pub copies: u32,
    /// Where the client's bytes go, until somebody sends them.
    pub content: Option<mpsc::Sender<StreamPart>>,
}

impl ObjectTable {
    /// What is done with an object; made on first use.
    pub fn of(&mut self, object: Uuid) -> &mut Runtime {
        self.runtimes.entry(object).or_default()
    }

    /// What is done with an object, if anything ever was.
    pub fn get(&self, object: Uuid) -> Option<&Runtime> {
        self.runtimes.get(&object)
    }

    /// State of a replica; made on first use.
    pub fn replica(&mut self, replica: Uuid) -> &mut Tracked<ReplicaState> {
        self.replicas
            .entry(replica)
            .or_insert_with(|| Tracked::new("replica", ReplicaState::Pending))
    }

    /// State of a replica, if it was ever told.
    pub fn replica_state(&self, replica: Uuid) -> Option<&Tracked<ReplicaState>> {
        self.replicas.get(&replica)
    }

    /// Forgets an object that was deleted.
    pub fn forget(&mut self, object: Uuid) {
        self.runtimes.remove(&object);
    }

    /// Forgets a replica that is gone.
    pub fn forget_replica(&mut self, replica: Uuid) {
        self.replicas.remove(&replica);
    }

    /// Takes `name` for an import.
    ///
    /// # Errors
    /// `Exists` when another import has it, or a volume that is being made.
    pub fn begin_import(&mut self, name: &str, importing: Importing) -> Result<(), ApiError> {
        self.require_not_taken(name)?;
        self.imports.insert(name.to_owned(), importing);
        Ok(())
    }

    /// Takes `name` for a volume.
    ///
    /// # Errors
    /// As [`Self::begin_import`].
    pub fn take_name(&mut self, name: &str) -> Result<(), ApiError> {
        self.require_not_taken(name)?;
        self.taken.insert(name.to_owned());
        Ok(())
    }

    /// The volume is there, or is not to be.
    pub fn give_name(&mut self, name: &str) {
        self.taken.remove(name);
    }

    fn require_not_taken(&self, name: &str) -> Result<(), ApiError> {
        if self.taken.contains(name) {
            let message = format!("a volume named {name} is being made");
            return Err(ApiError::new(ErrorKind::Exists, message)
                .object(name)
                .remedy("choose another name"));
        }
        if let Some(other) = self.imports.get(name) {
            let message = format!(
                "an image named {name} is being imported (job {})",
                other.job.id()
            );
            return Err(ApiError::new(ErrorKind::Exists, message)
                .object(name)
                .remedy("wait for that job, cancel it, or choose another name"));
        }
        Ok(())
    }

    /// The import of `name` ended.
    pub fn end_import(&mut self, name: &str) {
        self.imports.remove(name);
    }

    /// The import that is at work on `name`.
    pub fn import_of(&self, name: &str) -> Option<&Importing> {
        self.imports.get(name)
    }

    /// The way in for the bytes of the import that `job` is; whoever takes it sends them.
    pub fn take_content(&mut self, job: u64) -> Option<mpsc::Sender<StreamPart>> {
        self.imports
            .values_mut()
            .find(|import| import.job.id() == job)?
            .content
            .take()
    }

    /// Imports at work, by name.
    pub fn imports(&self) -> impl Iterator<Item = (&String, &Importing)> {
        self.imports.iter()
    }

    /// Objects that are being brought up. One that says why is not: it waits for a disk.
    pub fn recovering(&self) -> impl Iterator<Item = Uuid> + '_ {
        let recovering = self.runtimes.iter().filter(|(_, runtime)| {
            let attachment = &runtime.attachment;
            attachment.get() == AttachmentState::Recovering && attachment.why().is_none()
        });
        recovering.map(|(uuid, _)| *uuid)
    }

    /// Every object that has a device now: its UUID and the device's number.
    pub fn devices(&self) -> impl Iterator<Item = (Uuid, u32)> + '_ {
        self.runtimes
            .iter()
            .filter_map(|(uuid, runtime)| Some((*uuid, runtime.device?)))
    }
}

impl Importing {
    /// As the API shows an image that is not there yet.
    pub fn view(&self, name: &str) -> Image {
        let job = self.job.view();
        let percent = job
            .progress
            .total_bytes
            .filter(|total| *total > 0)
            .map(|total| {
                let percent = u128::from(job.progress.done_bytes) * 100 / u128::from(total);
                u8::try_from(percent.min(100)).unwrap_or(100)
            });
        Image {
            name: name.to_owned(),
            uuid: self.uuid,
            state: if job.state == JobState::Pending {
                ReplicaState::Pending
            } else {
                ReplicaState::InProgress
            },
            percent,
            why: None,
            degraded: false,
            degraded_why: None,
            size_bytes: job.progress.total_bytes,
            stored_bytes: None,
            copies_wanted: self.copies,
            copies_ready: 0,
            sha256: None,
            sha512: None,
            source: self.source.clone(),
            created_unix_ms: job.created_unix_ms,
            attachment: Attachment {
                state: AttachmentState::Detached,
                why: None,
                wanted: false,
                dev_id: None,
                device: None,
            },
            job: Some(job.id),
        }
    }
}
