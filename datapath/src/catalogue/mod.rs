//! The images of all open disks as one: a pure function of what each disk says. No I/O, no clock; any subset of the disks, in any order.
//!
//! The steps that come out bring the disks into agreement; applied, whatever part of them, and merged again, they come to an end. Rules and
//! reasons are in `docs/replicas.md`.

mod deleted;
mod images;
mod steps;

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::format::peers::PEERS_MAX;
use crate::medium::Medium;
use crate::store::{Damage, Description, Grave, Object, Store};

pub use steps::{Applied, apply, delete_steps};

/// What one open disk says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSays {
    /// The disk.
    pub disk: Uuid,
    /// Its session.
    pub session: u64,
    /// The sessions that it has noted, its own and those of others.
    pub peers: Vec<(Uuid, u64)>,
    /// Whether it takes changes: no steps are made for one that does not.
    pub is_writable: bool,
    /// Every object on it.
    pub objects: Vec<Object>,
    /// Every grave on it.
    pub graves: Vec<Grave>,
}

impl DiskSays {
    /// Whether it has a slot of which it is not known what it holds: the disk may have a copy, or a grave, that it does not tell of.
    pub fn has_lost_slot(&self) -> bool {
        use crate::store::ReplicaState::Failed;
        self.objects.iter().any(|object| {
            matches!(
                object.state,
                Failed(Damage::SlotLost { .. } | Damage::SlotConflict { .. })
            )
        })
    }
}

/// What all disks together say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// By UUID.
    pub images: Vec<CatalogueImage>,
    /// Images that were deleted, and of which some disk was not told yet, by UUID.
    pub deleted: Vec<Grave>,
    /// What brings the disks into agreement. In this order; where one fails, the later ones for the same image are left out.
    pub steps: Vec<MergeStep>,
    /// What an operator should know.
    pub conflicts: Vec<Conflict>,
    /// Disks that are older than another disk knows them: old copies that were put back. Nothing on them is believed, and nothing on them
    /// is changed.
    pub stale: Vec<StaleDisk>,
}

/// An image, over all disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueImage {
    /// The image.
    pub uuid: Uuid,
    /// What it is: of the best replica, whose `state`, `slot` and so on are its own.
    pub object: Object,
    /// The description that holds.
    pub description: Description,
    /// One for each disk that has, or shall have, a copy, by disk.
    pub replicas: Vec<CatalogueReplica>,
}

/// One replica of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueReplica {
    /// The disk.
    pub disk: Uuid,
    /// The replica, where it is there.
    pub replica_uuid: Option<Uuid>,
    /// Its state.
    pub state: CatalogueState,
}

/// How a replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogueState {
    /// There, and its metadata checked out.
    Ready,
    /// There, being made.
    Building {
        /// Bytes that are copied durably.
        done_bytes: u64,
    },
    /// There, and its metadata is bad.
    Failed(Damage),
    /// Its disk is there, and has none: to be made.
    Pending,
    /// Its disk is there and has none that can be read; but a slot of it cannot be read, and may be this one: neither made anew nor taken
    /// off the names.
    Hidden,
    /// Its disk is not there.
    Unknown,
    /// Its disk is an old copy of itself.
    Stale,
    /// There, and another image than the others under the same UUID: neither served nor touched.
    Foreign,
}

/// A change of one disk. Each is one or two calls of its store: see [`apply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeStep {
    /// [`Store::note_peers`]
    NotePeers {
        /// Whom to tell.
        disk: Uuid,
        /// Sessions, its own or of others.
        sessions: Vec<(Uuid, u64)>,
    },
    /// [`Store::bury`]: makes a grave, or changes whom it has still to tell. A copy of the image on the disk goes with it.
    Bury {
        /// The disk.
        disk: Uuid,
        /// The grave.
        grave: Grave,
    },
    /// [`Store::remove_replica`]
    RemoveReplica {
        /// The disk.
        disk: Uuid,
        /// The image.
        uuid: Uuid,
        /// Why.
        why: RemoveWhy,
    },
    /// [`Store::unbury`]: every disk was told.
    Unbury {
        /// The disk.
        disk: Uuid,
        /// The image.
        uuid: Uuid,
    },
    /// [`Store::set_description`]
    SetDescription {
        /// The disk.
        disk: Uuid,
        /// The image.
        uuid: Uuid,
        /// The description.
        description: Description,
    },
}

/// Why a replica goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveWhy {
    /// Its image was deleted while the disk was away.
    Deleted,
}

/// What an operator should know, and machinery leaves alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Conflict {
    /// Two copies have descriptions of the same generation that differ: their disks were used apart. That of the greater replica UUID
    /// holds.
    Descriptions {
        /// The image.
        uuid: Uuid,
        /// The generation.
        generation: u64,
        /// The disk whose description holds.
        holds: Uuid,
        /// The other one.
        other: Uuid,
    },
    /// A copy is another image (name, length or hashes) than the others under the same UUID.
    Identity {
        /// The image.
        uuid: Uuid,
        /// The disk with the odd one.
        disk: Uuid,
    },
    /// Two images, or an image and a volume, have the same name: their disks were used apart.
    Name {
        /// The name.
        name: String,
        /// The objects.
        uuids: Vec<Uuid>,
    },
    /// A volume is on two disks: one of them is a copy of the other.
    Volume {
        /// The volume.
        uuid: Uuid,
        /// The disks.
        disks: Vec<Uuid>,
    },
    /// An image was deleted, and a clone of it turned up with its disk. Copies are kept until the clone is deleted.
    CloneOfDeleted {
        /// The image.
        uuid: Uuid,
        /// The clone.
        volume: Uuid,
        /// The clone's disk.
        disk: Uuid,
    },
    /// No open disk has the image of a volume.
    NoBase {
        /// The volume.
        volume: Uuid,
        /// Its disk.
        disk: Uuid,
        /// The image.
        image: Uuid,
    },
    /// More disks have copies than a description can name.
    TooManyCopies {
        /// The image.
        uuid: Uuid,
    },
}

/// An old copy of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleDisk {
    /// The disk.
    pub disk: Uuid,
    /// The last session that it has noted of itself; 0 for none.
    pub session: u64,
    /// A later one, as another disk knows.
    pub known_session: u64,
    /// That other disk.
    pub known_by: Uuid,
}

impl<M: Medium> Store<M> {
    /// What this disk says, for [`merge`].
    pub fn says(&self) -> DiskSays {
        DiskSays {
            disk: self.disk_uuid(),
            session: self.session(),
            peers: self.peers().iter().collect(),
            is_writable: self.is_latched().is_none() && !self.is_read_only(),
            objects: self.objects().cloned().collect(),
            graves: self.graves().cloned().collect(),
        }
    }
}

/// What the open disks say together, and what brings them into agreement.
pub fn merge(disks: &[DiskSays]) -> Catalogue {
    let by_disk: BTreeMap<Uuid, &DiskSays> = disks.iter().map(|says| (says.disk, says)).collect();
    let mut catalogue = Catalogue {
        stale: stale(&by_disk),
        ..Catalogue::default()
    };
    let believed: BTreeMap<Uuid, &DiskSays> = by_disk
        .iter()
        .filter(|(disk, _)| catalogue.stale.iter().all(|stale| stale.disk != **disk))
        .map(|(disk, says)| (*disk, *says))
        .collect();
    note_peers(&believed, &mut catalogue);
    deleted::merge(&believed, &mut catalogue);
    images::merge(&by_disk, &believed, &mut catalogue);
    catalogue
}

/// Disks that have been further than they are: another disk knows a session of theirs that they have not noted of themselves.
///
/// A disk notes its session durably before any other is told, so that this cannot come of a crash; and opening an old copy, however
/// often, does not hide it, since what counts is not the session but what was noted.
fn stale(by_disk: &BTreeMap<Uuid, &DiskSays>) -> Vec<StaleDisk> {
    let knows = |says: &DiskSays| -> Option<StaleDisk> {
        let noted = noted(says, says.disk);
        by_disk
            .values()
            .filter(|other| other.disk != says.disk)
            .map(|other| (self::noted(other, says.disk), other.disk))
            .filter(|(known, _)| *known > noted)
            .max()
            .map(|(known_session, known_by)| StaleDisk {
                disk: says.disk,
                session: noted,
                known_session,
                known_by,
            })
    };
    by_disk.values().filter_map(|says| knows(says)).collect()
}

/// The session of `disk` that `says` has noted.
fn noted(says: &DiskSays, disk: Uuid) -> u64 {
    let mut peers = says.peers.iter();
    peers
        .find(|(peer, _)| *peer == disk)
        .map_or(0, |(_, session)| *session)
}

/// Disks that are open together tell each other how far they are, and what they know of those that are not here: whoever has told a late
/// disk of a deletion knows its session then, and so does everybody who meets him.
fn note_peers(believed: &BTreeMap<Uuid, &DiskSays>, catalogue: &mut Catalogue) {
    if believed.len() < 2 {
        return;
    }
    let mut known: BTreeMap<Uuid, u64> = BTreeMap::new();
    for (disk, session) in believed.values().flat_map(|says| &says.peers) {
        let known = known.entry(*disk).or_default();
        *known = (*known).max(*session);
    }
    for says in believed.values().filter(|says| says.is_writable) {
        let mut sessions = Vec::new();
        if noted(says, says.disk) < says.session {
            sessions.push((says.disk, says.session));
        }
        // Of more disks than there is room for, none is asked for again and again.
        let itself = usize::from(noted(says, says.disk) == 0);
        let mut room = PEERS_MAX.saturating_sub(says.peers.len() + itself);
        for (disk, session) in &known {
            let is_new = noted(says, *disk) == 0;
            if *disk == says.disk || *session <= noted(says, *disk) || (is_new && room == 0) {
                continue;
            }
            room -= usize::from(is_new);
            sessions.push((*disk, *session));
        }
        if !sessions.is_empty() {
            catalogue.steps.push(MergeStep::NotePeers {
                disk: says.disk,
                sessions,
            });
        }
    }
}
