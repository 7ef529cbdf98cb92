//! The store on a simulated disk without crashes: what it does with images, and with metadata that went bad.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use bedplate_datapath::store::{FormatParams, PreviousSession, SessionStart, Store, format};
use bedplate_datapath::units::DevId;
use bedplate_tests::sim::content::content;
use bedplate_tests::sim::disk::SimDisk;
use bedplate_tests::sim::node;
use uuid::Uuid;

const DISK_BYTES: u64 = 64 << 20;
const BOOT: SessionStart = SessionStart {
    boot_id: Uuid::from_u128(77),
};

fn formatted() -> SimDisk {
    let mut disk = SimDisk::new(DISK_BYTES, 1);
    let params = FormatParams {
        disk_uuid: Uuid::from_u128(1),
        hardware_id_hash: [7; 32],
        created_unix_s: 1,
    };
    format(&mut disk, &params).unwrap();
    disk
}

fn open(disk: &mut SimDisk) -> (Store<&mut SimDisk>, bedplate_datapath::store::OpenReport) {
    Store::open(disk, &BOOT).unwrap()
}

#[test]
fn every_content_survives_import_and_reopening() {
    let mut disk = formatted();
    for number in 0..80 {
        let uuid = Uuid::from_u128(1000 + number as u128);
        let content = content(number);
        let (mut store, report) = open(&mut disk);
        assert_eq!(
            report.previous,
            if number == 0 {
                PreviousSession::First
            } else {
                PreviousSession::Clean
            }
        );
        assert_eq!((report.repairs.len(), report.held.len()), (0, 0));
        let free = store.free_clusters();
        assert_eq!(free, store.total_clusters());
        node::import(&mut store, "an-image", uuid, &content).unwrap();
        assert_eq!(store.free_clusters(), free - content.clusters_on_disk());
        store.set_attachment(uuid, DevId::new(5), true).unwrap();
        store.close().unwrap();

        let (mut store, report) = open(&mut disk);
        assert_eq!(
            (report.previous, report.repairs.len()),
            (PreviousSession::Clean, 0)
        );
        let object = store.object(uuid).unwrap().clone();
        assert_eq!(object.name, "an-image");
        assert_eq!(
            (object.size_bytes, object.sha256, object.sha512),
            (content.size_bytes, content.sha256, content.sha512)
        );
        assert_eq!(
            (object.dev_id, object.want_attached),
            (Some(DevId::new(5)), true)
        );
        assert_eq!(
            object.stored_clusters + object.tree_clusters,
            content.clusters_on_disk()
        );
        assert_eq!(store.free_clusters(), free - content.clusters_on_disk());
        let bytes = node::read_image(&mut store, uuid, object.size_bytes).unwrap();
        assert!(bytes == node::expected_bytes(&content), "content {number}");
        assert!(node::verify(&mut store, uuid).unwrap().is_good());
        store.set_attachment(uuid, DevId::new(5), false).unwrap();
        store.delete(uuid).unwrap();
        assert_eq!(store.free_clusters(), free);
        store.close().unwrap();
    }
}
