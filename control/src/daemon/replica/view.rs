//! What the open disks say together: merged once for each change of what they hold.

use std::sync::{Arc, Mutex, PoisonError};

use bedplate_datapath::catalogue::{Catalogue, CatalogueImage, CatalogueState, merge};
use uuid::Uuid;

use crate::daemon::disk::actor::Contents;
use crate::daemon::node::Node;

/// The last merge, and what it was made of.
#[derive(Default)]
pub struct View(Mutex<Merged>);

#[derive(Default)]
struct Merged {
    of: Vec<Arc<Contents>>,
    catalogue: Arc<Catalogue>,
}

impl Node {
    /// What the open disks say together.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        let open: Vec<Arc<Contents>> = self
            .disks()
            .iter()
            .filter_map(|entry| entry.actor.as_ref().map(|actor| actor.contents()))
            .collect();
        self.catalogue_of(open)
    }

    /// The same, of what the open disks hold: for those who have the disks locked.
    pub fn catalogue_of(&self, open: Vec<Arc<Contents>>) -> Arc<Catalogue> {
        let mut merged = self
            .replicas
            .view
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let same = merged.of.len() == open.len()
            && merged
                .of
                .iter()
                .zip(&open)
                .all(|(known, now)| Arc::ptr_eq(known, now));
        if !same {
            let says: Vec<_> = open
                .iter()
                .filter_map(|contents| contents.says.clone())
                .collect();
            *merged = Merged {
                of: open,
                catalogue: Arc::new(merge(&says)),
            };
        }
        Arc::clone(&merged.catalogue)
    }
}

/// An image of a catalogue.
pub fn image_of(catalogue: &Catalogue, uuid: Uuid) -> Option<&CatalogueImage> {
    let at = catalogue
        .images
        .binary_search_by_key(&uuid, |image| image.uuid)
        .ok()?;
    catalogue.images.get(at)
}

/// How the catalogue sees the copy of an image on a disk.
pub fn state_of(catalogue: &Catalogue, image: Uuid, disk: Uuid) -> Option<&CatalogueState> {
    image_of(catalogue, image)?
        .replicas
        .iter()
        .find(|replica| replica.disk == disk)
        .map(|replica| &replica.state)
}
