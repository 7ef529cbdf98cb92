//! Everything that the metrics tell, as of one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use bedplate_ublk_target::DeviceStats;
use uuid::Uuid;

use super::counters::OfDisk;
use crate::api::{ImageDetail, Status};
use crate::daemon::node::Node;

/// Everything at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Disks, images, volumes, jobs, problems.
    pub status: Status,
    /// Images with their replicas.
    pub images: Vec<ImageDetail>,
    /// Blocks that are known to be damaged, by replica.
    pub damaged_blocks: BTreeMap<Uuid, u64>,
    /// What was counted, by disk.
    pub disks: BTreeMap<Uuid, OfDisk>,
    /// Devices that came back by themselves.
    pub devices_recovered: u64,
    /// Passes of the scrub.
    pub scrub_passes: u64,
    /// What devices have done.
    pub devices: Vec<OfDevice>,
}

/// What the device of an image or a volume has done.
#[derive(Debug)]
pub struct OfDevice {
    /// `image` or `volume`.
    pub noun: &'static str,
    /// Its name.
    pub name: String,
    /// Number of its device.
    pub number: u32,
    /// Counters.
    pub stats: DeviceStats,
}

impl Snapshot {
    /// Looks at everything.
    pub fn take(node: &Arc<Node>) -> Self {
        let status = node.status();
        let images = status
            .images
            .iter()
            .filter_map(|image| node.image_detail(&image.uuid.to_string()).ok())
            .collect();
        let (devices_recovered, scrub_passes) = node.metrics.totals();
        Self {
            images,
            damaged_blocks: node.damage().blocks_by_replica(),
            disks: node.metrics.by_disk(),
            devices_recovered,
            scrub_passes,
            devices: devices(node, &status),
            status,
        }
    }
}

fn devices(node: &Node, status: &Status) -> Vec<OfDevice> {
    let Some(target) = node.serving.started() else {
        return Vec::new();
    };
    let mut stats = target.stats();
    let images = status
        .images
        .iter()
        .map(|image| ("image", &image.name, image.uuid));
    let volumes = status
        .volumes
        .iter()
        .map(|volume| ("volume", &volume.name, volume.uuid));
    let numbers: BTreeMap<Uuid, u32> = node.runtimes().devices().collect();
    images
        .chain(volumes)
        .filter_map(|(noun, name, uuid)| {
            let number = *numbers.get(&uuid)?;
            let stats = stats.remove(&bedplate_datapath::units::DevId::new(number))?;
            Some(OfDevice {
                noun,
                name: name.clone(),
                number,
                stats,
            })
        })
        .collect()
}
