//! A volume whose metadata the disk does not give for a while: what was acknowledged is back with it, or it is held.

use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::store::{NewVolume, Store, StoreErrorKind};
use bedplate_datapath::units::{BlockMask, DevId, Lcn};
use bedplate_datapath::volume::write::WriteKind;
use uuid::Uuid;

use super::node::{DISK_BYTES, Node, VOLUME, start};

const OTHER: Uuid = Uuid::from_u128(0x71);

/// Every page of the volume's map directory, both copies. A second time takes it back.
fn flip_directories(node: &Node, of: Uuid) {
    let geometry = Geometry::of_disk(DISK_BYTES as u64).unwrap();
    let slot = node.store.object(of).unwrap().slot;
    let first = geometry.first_pcn().offset().get();
    let mut flipped = 0;
    for at in (first..DISK_BYTES as u64).step_by(4096) {
        let mut page = node.disk.get(at, 4096);
        let is_its = u32::from_le_bytes(page[48..52].try_into().unwrap()) == slot.get();
        if page.starts_with(b"BPDIR") && is_its {
            page[200] ^= 1;
            node.disk.put(at, &page);
            flipped += 1;
        }
    }
    assert!(flipped > 0, "no directory of slot {slot}");
}

/// Ends the session in order and opens the disk again.
fn reopen(node: Node, boot: u128) -> Node {
    let Node { disk, live, store } = node;
    store.close().unwrap();
    let opened = Store::open_live(disk.clone(), &start(boot), Box::new(live.clone()));
    let (store, _) = opened.unwrap();
    Node { disk, live, store }
}

/// Two volumes that are attached; the other one was written to and committed, and its pages know nothing of it.
fn node_with_two() -> Node {
    let mut node = Node::with_volume(32 << 20);
    node.store
        .create_volume(NewVolume {
            name: "other".to_owned(),
            object_uuid: OTHER,
            size_bytes: 8 << 20,
            parent: None,
            created_unix_s: 1,
        })
        .unwrap();
    node.store.prepare_attach(OTHER).unwrap();
    node.store
        .set_attachment(OTHER, DevId::new(1), true)
        .unwrap();
    node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
    node.store.checkpoint().unwrap();
    node.write_to(OTHER, WriteKind::Data, 0, &[7; 4096])
        .unwrap();
    let _ = node.store.commit().unwrap();
    node
}

/// The other volume alone fills the journal: 16 MiB of ring, at least 4 KiB a batch. Nothing can be allocated meanwhile.
fn lap_the_ring(node: &mut Node) {
    let volume = node.store.volume_of(VOLUME).unwrap();
    for block in 0..5_000 {
        let lcn = Lcn::new(8 + block / 32);
        assert!(volume.tombstone(lcn, BlockMask::new(1 << (block % 32))));
        let _ = node.store.commit().unwrap();
    }
}

fn assert_held(node: &mut Node) {
    assert!(node.store.object(OTHER).unwrap().state.is_ready());
    let error = node.store.prepare_attach(OTHER).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::LossNotAccepted);
    node.store.accept_loss(OTHER).unwrap();
    node.store.prepare_attach(OTHER).unwrap();
}

#[test]
fn a_volume_that_could_not_be_read_for_a_while_has_all_that_was_flushed() {
    let node = node_with_two();
    flip_directories(&node, OTHER);
    let (mut node, report) = node.crash(2);
    assert_eq!((report.held.len(), report.lost), (1, vec![]));
    node.write(WriteKind::Data, 0, &[2; 4096]).unwrap();
    let _ = node.store.commit().unwrap();
    flip_directories(&node, OTHER);
    let node = reopen(node, 2);
    assert!(!node.store.object(OTHER).unwrap().loss_not_accepted);
    assert!(node.read_of(OTHER, 0, 4096).iter().all(|byte| *byte == 7));
}

#[test]
fn a_volume_whose_records_a_full_ring_passes_over_is_held_once_it_can_be_read() {
    let node = node_with_two();
    flip_directories(&node, OTHER);
    let (mut node, report) = node.crash(2);
    assert_eq!((report.held.len(), report.lost), (1, vec![]));
    lap_the_ring(&mut node);
    flip_directories(&node, OTHER);
    let mut node = reopen(node, 2);
    assert!(!node.store.object(VOLUME).unwrap().loss_not_accepted);
    assert_held(&mut node);
}

#[test]
fn a_volume_of_which_the_journal_has_nothing_is_not_held_by_a_full_ring() {
    let mut node = node_with_two();
    node.store.checkpoint().unwrap();
    flip_directories(&node, OTHER);
    let (mut node, _) = node.crash(2);
    lap_the_ring(&mut node);
    flip_directories(&node, OTHER);
    let node = reopen(node, 2);
    assert!(!node.store.object(OTHER).unwrap().loss_not_accepted);
    assert!(node.read_of(OTHER, 0, 4096).iter().all(|byte| *byte == 7));
}

#[test]
fn a_volume_that_could_not_be_read_after_a_kill_is_held_once_it_can_be() {
    let mut node = node_with_two();
    node.write_to(OTHER, WriteKind::Data, 8192, &[8; 4096])
        .unwrap();
    flip_directories(&node, OTHER);
    let (mut node, report) = node.crash(1);
    assert_eq!(report.held.len(), 1);
    assert_eq!(report.lost.len(), 1, "{report:?}");
    node.store.settle().unwrap();
    flip_directories(&node, OTHER);
    let mut node = reopen(node, 1);
    assert!(!node.store.object(VOLUME).unwrap().loss_not_accepted);
    assert_held(&mut node);
}
