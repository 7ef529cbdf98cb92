//! What the devices that read one image share: its replicas, which blocks of them are damaged.

use std::sync::{Arc, PoisonError};

use bedplate_datapath::plan::{Layer, LayerStack};
use bedplate_datapath::replica::{Replica, ReplicaSet};
use bedplate_datapath::store::Object;
use uuid::Uuid;

use super::Noun;
use crate::daemon::node::Node;

impl Node {
    /// The replicas of an image as devices read them; none while nobody does.
    pub fn replica_set(&self, image: Uuid) -> Option<Arc<ReplicaSet>> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.get(&image).cloned()
    }

    /// Makes the layer of an image in `stack` one that all devices share, with what is known to be damaged. `object` is the image or a clone
    /// of it, on `disk`.
    pub fn share_replicas(&self, object: &Object, disk: Uuid, mut stack: LayerStack) -> LayerStack {
        let image = match Noun::of(object) {
            Noun::Image => object.uuid,
            Noun::Volume => match object.parent {
                Some(parent) => parent,
                None => return stack,
            },
        };
        let Some(layer) = stack.layers.last_mut() else {
            return stack;
        };
        let replica_uuid = self
            .objects_of(Noun::Image)
            .into_iter()
            .find(|found| found.object.uuid == image && found.disk == disk)
            .map(|found| found.object.replica_uuid);
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let same = sets.get(&image).filter(|set| {
            set.on_disk(layer.disk).is_some_and(|number| {
                let mut replicas = set.iter().skip(number);
                replicas
                    .next()
                    .is_some_and(|replica| Arc::ptr_eq(&replica.map, &layer.map))
            })
        });
        let set = if let Some(set) = same {
            Arc::clone(set)
        } else {
            let replica = Replica {
                map: Arc::clone(&layer.map),
                disk: layer.disk,
            };
            let Some(set) = ReplicaSet::new(vec![replica]) else {
                return stack;
            };
            let damaged = replica_uuid.map(|uuid| self.damage().ranges(uuid));
            for range in damaged.into_iter().flatten() {
                set.mark_damaged(0, range);
            }
            sets.insert(image, Arc::clone(&set));
            set
        };
        let nearest = set.on_disk(layer.disk).unwrap_or_default();
        if let Some(shared) = Layer::of_replicas(set, nearest) {
            *layer = shared;
        }
        stack
    }
}
