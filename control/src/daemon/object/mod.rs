//! What images and volumes share: where they are, their devices, their end.
//!
//! ```text
//! runtime    what the daemon does with an object; nothing of it is on a disk
//! names      one name, one object, over all disks and both nouns
//! attach     a device is asked for, or not wanted any more
//!   bring_up the device is made, or taken over
//!   backing  what it reads and writes
//!     checked_reads   who has the checksums of what it reads, where they are compared
//! recover    devices come back by themselves
//! wait       until an object can be used
//! delete     its end
//! ```

pub mod attach;
pub mod backing;
pub mod bring_up;
mod checked_reads;
mod delete;
pub mod names;
pub mod recover;
pub mod runtime;
pub mod wait;

pub use delete::{delete, require_no_job};

use bedplate_datapath::catalogue::{Catalogue, CatalogueState, Conflict};
use bedplate_datapath::store::{Object, ObjectKind};
use uuid::Uuid;

use crate::api::{ApiError, DiskState};
use crate::daemon::disk::entry::DiskEntry;
use crate::daemon::node::Node;
use crate::daemon::replica::stale::is_stale;
use crate::daemon::replica::{image_of, state_of};
use crate::error_kind::ErrorKind;

/// What a user calls an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noun {
    /// Immutable, imported.
    Image,
    /// Writable.
    Volume,
}

impl Noun {
    /// What this object is called.
    pub const fn of(object: &Object) -> Self {
        match object.kind {
            ObjectKind::Volume => Self::Volume,
            // What cannot be told apart, a lost slot for instance, is listed and deleted with the images.
            ObjectKind::ImageReplica | ObjectKind::Snapshot | ObjectKind::Grave => Self::Image,
        }
    }

    /// `a` or `an`.
    pub const fn article(self) -> &'static str {
        match self {
            Self::Image => "an",
            Self::Volume => "a",
        }
    }

    /// The word, as in commands.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Volume => "volume",
        }
    }
}

impl std::fmt::Display for Noun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// An object and the disk it is on.
#[derive(Debug, Clone)]
pub struct Located {
    /// The disk.
    pub disk: Uuid,
    /// Where the disk was seen last.
    pub disk_path: String,
    /// Why the disk is of no use now, where it is not.
    pub disk_trouble: Option<String>,
    /// Why it is not to be used at all, where it is not: its disk is an old copy of itself, for instance.
    pub refused: Option<String>,
    /// Clusters that are its own now.
    pub allocated_clusters: u64,
    /// The object; of an image with the description that holds over all its copies.
    pub object: Object,
}

impl Located {
    /// What it is called.
    pub const fn noun(&self) -> Noun {
        Noun::of(&self.object)
    }
}

/// Why what lies on a disk cannot be used, where it cannot.
pub fn disk_trouble(entry: &DiskEntry) -> Option<String> {
    if entry.actor.is_some() && entry.state.get() == DiskState::Online {
        return None;
    }
    let why = entry
        .state
        .why()
        .map_or(String::new(), |why| format!(": {why}"));
    Some(format!(
        "its disk {} is {:?}{why}",
        entry.name(),
        entry.state.get()
    ))
}

/// Sees an object as all disks together do; false for what is not there any more, though its disk has it.
fn see(catalogue: &Catalogue, found: &mut Located) -> bool {
    if is_stale(catalogue, found.disk) {
        refuse(found, "its disk is an old copy of itself");
    }
    if found.noun() == Noun::Volume {
        return true;
    }
    let uuid = found.object.uuid;
    let Some(image) = image_of(catalogue, uuid) else {
        return !is_deleted(catalogue, uuid);
    };
    if state_of(catalogue, uuid, found.disk) == Some(&CatalogueState::Foreign) {
        refuse(found, "it is another image than the other disks have");
    }
    let description = &image.description;
    let object = &mut found.object;
    object.generation = description.generation;
    object.wanted_copies = description.wanted_copies;
    object.dev_id = description.dev_id;
    object.want_attached = description.want_attached;
    object.member_disks.clone_from(&description.member_disks);
    true
}

/// Whether an image is gone. One that a clone still stands on is not, though somebody deleted it while the clone's disk was away.
fn is_deleted(catalogue: &Catalogue, image: Uuid) -> bool {
    let has_grave = catalogue
        .deleted
        .iter()
        .any(|grave| grave.object_uuid == image);
    let has_clone = catalogue.conflicts.iter().any(
        |conflict| matches!(conflict, Conflict::CloneOfDeleted { uuid, .. } if *uuid == image),
    );
    has_grave && !has_clone
}

fn refuse(found: &mut Located, why: &str) {
    found.disk_trouble = Some(why.to_owned());
    found.refused = Some(why.to_owned());
}

impl Node {
    /// Every object on every known disk; a copy of an image is one.
    pub fn objects(&self) -> Vec<Located> {
        self.objects_where(|_, _| true)
    }

    /// Those of them that `which` takes, by disk and object as that disk has it: the others are not copied.
    pub fn objects_where(&self, which: impl Fn(Uuid, &Object) -> bool) -> Vec<Located> {
        let disks = self.disks();
        let open = disks
            .iter()
            .filter_map(|entry| entry.actor.as_ref().map(|actor| actor.contents()))
            .collect();
        let catalogue = self.catalogue_of(open);
        let mut all = Vec::new();
        for entry in disks.iter() {
            let Some(disk) = entry.uuid else { continue };
            let trouble = disk_trouble(entry);
            let contents = entry.contents_now();
            let disk_path = entry.name();
            for object in contents.objects.iter().filter(|object| which(disk, object)) {
                let mut found = Located {
                    disk,
                    disk_path: disk_path.clone(),
                    disk_trouble: trouble.clone(),
                    refused: None,
                    allocated_clusters: contents.allocated_clusters(object),
                    object: object.clone(),
                };
                if see(&catalogue, &mut found) {
                    all.push(found);
                }
            }
        }
        all
    }

    /// The objects of one kind.
    pub fn objects_of(&self, noun: Noun) -> Vec<Located> {
        self.objects_where(|_, object| Noun::of(object) == noun)
    }

    /// The object that `name` means: a name or a UUID.
    ///
    /// # Errors
    /// `NotFound`; `NotReady` for an image on its way in; `Held` when two on different disks have that name.
    pub fn find(&self, noun: Noun, name: &str) -> Result<Located, ApiError> {
        let wanted = name.parse::<Uuid>().ok();
        let mut found =
            self.objects_where(|_, object| object.name == name || Some(object.uuid) == wanted);
        let other_noun = found.iter().map(Located::noun).find(|other| *other != noun);
        found.retain(|found| found.noun() == noun);
        found.sort_by_key(|found| {
            (
                found.disk_trouble.is_some(),
                !found.object.state.is_ready(),
                found.object.uuid,
            )
        });
        let Some(first) = found.first() else {
            return Err(match self.import_job(name) {
                Some(job) if noun == Noun::Image => being_imported(name, job),
                _ => not_found(noun, name, other_noun),
            });
        };
        if let Some(other) = found
            .iter()
            .find(|other| other.object.uuid != first.object.uuid)
        {
            let message = format!(
                "two {noun}s are named {name}: {} on {} and {} on {}",
                first.object.uuid, first.disk_path, other.object.uuid, other.disk_path
            );
            return Err(ApiError::new(ErrorKind::Held, message)
                .object(name)
                .remedy("name the one that you mean by its UUID"));
        }
        Ok(first.clone())
    }

    /// The same object again, after a wait. Whatever others are called.
    ///
    /// # Errors
    /// `NotFound` when it was deleted meanwhile.
    pub fn find_again(&self, found: &Located) -> Result<Located, ApiError> {
        let (noun, uuid) = (found.noun(), found.object.uuid);
        self.objects_where(|_, now| Noun::of(now) == noun && now.uuid == uuid)
            .into_iter()
            .min_by_key(|now| (now.disk_trouble.is_some(), !now.object.state.is_ready()))
            .ok_or_else(|| not_found(noun, &found.object.name, None))
    }

    /// Every copy of an image.
    pub fn copies_of(&self, image: Uuid) -> Vec<Located> {
        self.objects_where(|_, object| Noun::of(object) == Noun::Image && object.uuid == image)
    }

    fn import_job(&self, name: &str) -> Option<u64> {
        self.runtimes()
            .import_of(name)
            .map(|import| import.job.id())
    }
}

fn not_found(noun: Noun, name: &str, other: Option<Noun>) -> ApiError {
    let error = ApiError::new(
        ErrorKind::NotFound,
        format!("there is no {noun} named {name}"),
    )
    .object(name);
    match other {
        Some(other) => error.remedy(format!(
            "there is {} {other} of that name: `bedplate {other} show {name}`",
            other.article()
        )),
        None => error.remedy(format!(
            "`bedplate {noun} list` shows the {noun}s; those of a disk that was never seen are not in it"
        )),
    }
}

fn being_imported(name: &str, job: u64) -> ApiError {
    ApiError::new(
        ErrorKind::NotReady,
        format!("the image {name} is still being imported (job {job})"),
    )
    .object(name)
    .remedy(format!("wait for it: `bedplate job wait {job}`"))
}
