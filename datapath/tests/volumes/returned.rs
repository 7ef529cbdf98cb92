//! The disk goes away under its volume, and comes back: `bedplate_datapath::store`'s `returned.rs`.

use bedplate_datapath::store::{
    Foreknowledge, LeftDisk, PreviousSession, SessionStart, Store, StoreErrorKind,
};
use bedplate_datapath::volume::write::WriteKind;

use super::node::{Node, VOLUME, start};

/// How a disk that went away comes back.
#[derive(Clone, Copy)]
struct Return {
    /// The process that had it open is the one that opens it again.
    same_process: bool,
    /// Sessions of others meanwhile,
    others: u32,
    /// which end in order.
    in_order: bool,
}

impl Node {
    fn keeping(keeps_cache: bool) -> Self {
        let node = Self::with_volume(8 << 20);
        let Self { disk, live, store } = node;
        drop(store.abandon());
        let known = Foreknowledge {
            keeps_cache,
            left: Vec::new(),
        };
        let opened =
            Store::open_knowing(disk.clone(), &start(1), Box::new(live.clone()), &known).unwrap();
        let (mut store, _) = opened;
        store.settle().unwrap();
        Self { disk, live, store }
    }

    /// The disk goes, with or without what it has in its cache (the test's business), and is back as another device.
    fn unplugged(self, how: Return) -> (Self, bedplate_datapath::store::OpenReport) {
        let Self { disk, live, store } = self;
        let flushed = !store.volume_of(VOLUME).unwrap().has_unflushed();
        let left = LeftDisk {
            disk: store.disk_uuid(),
            session: store.session(),
            flushed: if flushed { vec![VOLUME] } else { Vec::new() },
        };
        drop(store.abandon());
        for boot in 0..how.others {
            let elsewhere = start(100 + u128::from(boot));
            let (other, _) = Store::open(disk.clone(), &elsewhere).unwrap();
            if how.in_order {
                other.close().unwrap();
            } else {
                drop(other.abandon());
            }
        }
        let known = Foreknowledge {
            keeps_cache: false,
            left: if how.same_process {
                vec![left]
            } else {
                Vec::new()
            },
        };
        let back = SessionStart {
            diskseq: Some(2),
            ..start(1)
        };
        let (store, report) =
            Store::open_knowing(disk.clone(), &back, Box::new(live.clone()), &known).unwrap();
        (Self { disk, live, store }, report)
    }
}

const RETURN: Return = Return {
    same_process: true,
    others: 0,
    in_order: true,
};

#[test]
fn only_what_a_flush_covers_is_flushed_overwrites_too() {
    let mut node = Node::with_volume(8 << 20);
    let unflushed = |node: &Node| node.store.volume_of(VOLUME).unwrap().has_unflushed();
    assert!(!unflushed(&node));
    for _ in 0..2 {
        // The second time it leaves no record.
        node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
        assert!(unflushed(&node));
        let _ = node.store.commit().unwrap();
        assert!(!unflushed(&node));
    }
    node.write(WriteKind::Zero { keep: false }, 0, &vec![0; 131_072])
        .unwrap();
    assert!(unflushed(&node));
    let _ = node.store.commit().unwrap();
    // The next process does not know what the one before had flushed.
    let (mut node, _) = node.crash(1);
    assert!(unflushed(&node));
    node.store.settle().unwrap();
    assert!(!unflushed(&node));
}

#[test]
fn a_disk_that_comes_back_without_its_cache_goes_on_only_if_all_was_flushed() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
    let _ = node.store.commit().unwrap();
    let (mut node, report) = node.unplugged(RETURN);
    assert_eq!((report.adopted, report.lost), (vec![], vec![]));
    assert!(node.read(0, 4096).iter().all(|byte| *byte == 1));
    // It is live: what it writes from now on survives the process.
    node.write(WriteKind::Data, 4096, &[2; 4096]).unwrap();
    let start = SessionStart {
        diskseq: Some(2),
        ..start(1)
    };
    let Node { disk, live, store } = node;
    drop(store.abandon());
    let (store, report) = Store::open_live(disk.clone(), &start, Box::new(live.clone())).unwrap();
    assert_eq!(report.adopted, [VOLUME]);
    let mut node = Node { disk, live, store };
    assert!(node.read(4096, 4096).iter().all(|byte| *byte == 2));
    node.store.settle().unwrap();

    // An overwrite alone, of which no map knows.
    node.write(WriteKind::Data, 0, &[3; 4096]).unwrap();
    let (node, report) = node.unplugged(RETURN);
    assert_eq!(report.lost.len(), 1, "{report:?}");
    assert!(node.store.object(VOLUME).unwrap().loss_not_accepted);
}

#[test]
fn a_disk_that_keeps_its_cache_goes_on_with_everything_whoever_opens_it() {
    for same_process in [true, false] {
        let mut node = Node::keeping(true);
        node.write(WriteKind::Data, 1 << 20, &[5; 4096]).unwrap();
        let how = Return {
            same_process,
            ..RETURN
        };
        let (mut node, report) = node.unplugged(how);
        assert_eq!((report.adopted, report.lost), (vec![VOLUME], vec![]));
        node.store.settle().unwrap();
        assert!(node.read(1 << 20, 4096).iter().all(|byte| *byte == 5));
        // From now on it does not keep its cache: the next time is another matter.
        node.write(WriteKind::Data, 1 << 20, &[6; 4096]).unwrap();
        let Node { disk, live, store } = node;
        drop(store.abandon());
        let third = SessionStart {
            diskseq: Some(3),
            ..start(1)
        };
        let (_, report) = Store::open_live(disk, &third, Box::new(live)).unwrap();
        assert_eq!(report.lost.len(), 1, "{report:?}");
    }
}

#[test]
fn another_process_that_finds_the_disk_back_knows_nothing_of_flushes() {
    let mut node = Node::with_volume(8 << 20);
    node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
    let _ = node.store.commit().unwrap();
    let how = Return {
        same_process: false,
        ..RETURN
    };
    let (_, report) = node.unplugged(how);
    assert_eq!(report.lost.len(), 1, "{report:?}");
}

#[test]
fn a_disk_that_somebody_else_used_meanwhile_is_not_gone_on_with() {
    for (keeps_cache, same_process) in [(true, true), (false, true), (true, false), (false, false)]
    {
        for others in [1, 2] {
            for in_order in [true, false] {
                let node = Node::keeping(keeps_cache);
                let how = Return {
                    same_process,
                    others,
                    in_order,
                };
                let (_, report) = node.unplugged(how);
                assert!(report.adopted.is_empty());
                assert_eq!(report.lost.len(), 1, "{report:?}");
                assert!(report.lost[0].why.contains("somebody else"), "{report:?}");
            }
        }
    }
}

#[test]
fn a_failure_is_forgiven_only_if_the_disk_had_gone_and_kept_its_cache() {
    for (keeps_cache, has_gone, goes_on) in [
        (true, true, true),
        (true, false, false),
        (false, true, false),
    ] {
        let mut node = Node::keeping(keeps_cache);
        node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
        node.disk.fail_flushes(true);
        node.store.commit().unwrap_err();
        node.disk.fail_flushes(false);
        assert!(node.store.volume_of(VOLUME).unwrap().has_unflushed());
        if has_gone {
            node.store.has_gone();
        }
        let (node, report) = node.unplugged(RETURN);
        assert_eq!(report.lost.is_empty(), goes_on, "{report:?}");
        if goes_on {
            assert_eq!(report.adopted, [VOLUME]);
            assert!(node.read(0, 4096).iter().all(|byte| *byte == 1));
            // And the next process believes what this one says.
            let Node { disk, live, store } = node;
            drop(store.abandon());
            let again = SessionStart {
                diskseq: Some(2),
                ..start(1)
            };
            let (_, report) = Store::open_live(disk, &again, Box::new(live)).unwrap();
            assert_eq!(report.adopted, [VOLUME], "{report:?}");
        }
    }
}

/// A device mapper device is gone with what is below it, and answers again when that is mapped anew: as the same device.
#[test]
fn a_disk_that_had_gone_is_told_nothing_more_though_it_answers_and_nothing_failed() {
    for (keeps_cache, flushed) in [(true, false), (false, false), (false, true)] {
        let mut node = Node::keeping(keeps_cache);
        node.write(WriteKind::Data, 0, &[1; 4096]).unwrap();
        let _ = node.store.commit().unwrap();
        if !flushed {
            // An overwrite, of which no record is to be written.
            node.write(WriteKind::Data, 0, &[2; 4096]).unwrap();
        }
        node.store.has_gone();
        for _ in 0..2 {
            let refused = node.store.commit().err().map(|error| error.kind());
            assert_eq!(refused, Some(StoreErrorKind::ReadOnlyLatched));
        }
        let Node { disk, live, store } = node;
        assert!(store.close().is_err());
        // The next process, of the same boot: it finds the same device.
        let (store, report) =
            Store::open_live(disk.clone(), &start(1), Box::new(live.clone())).unwrap();
        assert_ne!(report.previous, PreviousSession::Clean);
        // Which of its writes were flushed, that one does not know.
        assert_eq!(report.lost.is_empty(), keeps_cache, "{report:?}");
        drop(store);
    }
}

#[test]
fn without_live_state_the_process_that_left_the_disk_still_knows_the_session() {
    let node = Node::with_volume(8 << 20);
    node.live.clear();
    let how = Return {
        others: 1,
        ..RETURN
    };
    let (_, report) = node.unplugged(how);
    assert_eq!(report.lost.len(), 1, "{report:?}");
}

/// The daemon that opens it anew has begun a session by then, of which it alone knows, and its write that failed is no word of the disk.
#[test]
fn a_disk_that_goes_again_at_any_write_of_its_opening_is_no_other_ones_and_has_not_failed() {
    for keeps_cache in [true, false] {
        for writes in 0.. {
            let mut node = Node::keeping(keeps_cache);
            node.write(WriteKind::Data, 1 << 20, &[5; 4096]).unwrap();
            if !keeps_cache {
                let _ = node.store.commit().unwrap();
            }
            let Node { disk, live, store } = node;
            let flushed = !store.volume_of(VOLUME).unwrap().has_unflushed();
            let known = Foreknowledge {
                keeps_cache,
                left: vec![LeftDisk {
                    disk: store.disk_uuid(),
                    session: store.session(),
                    flushed: if flushed { vec![VOLUME] } else { Vec::new() },
                }],
            };
            drop(store.abandon());
            let open = |diskseq| {
                let back = SessionStart {
                    diskseq: Some(diskseq),
                    ..start(1)
                };
                let files = Box::new(live.clone());
                Store::open_watched(disk.clone(), &back, files, &known, &|| true)
            };
            disk.goes_after(writes);
            if open(2).is_ok() {
                // Four superblock copies at least.
                assert!(writes > 4, "{writes}");
                break;
            }
            disk.goes_after(u32::MAX);
            let (store, report) = open(3).unwrap();
            assert_eq!(report.lost, [], "{keeps_cache}, {writes}");
            let mut node = Node { disk, live, store };
            if keeps_cache {
                assert_eq!(report.adopted, [VOLUME], "{writes}");
                node.store.settle().unwrap();
            }
            assert!(node.read(1 << 20, 4096).iter().all(|byte| *byte == 5));
        }
    }
}

/// A write that fails on a disk that is there is another matter.
#[test]
fn a_disk_that_fails_while_it_is_opened_anew_is_not_believed() {
    let node = Node::keeping(true);
    let Node { disk, live, store } = node;
    let known = Foreknowledge {
        keeps_cache: true,
        left: vec![LeftDisk {
            disk: store.disk_uuid(),
            session: store.session(),
            flushed: Vec::new(),
        }],
    };
    drop(store.abandon());
    let open = || {
        let files = Box::new(live.clone());
        Store::open_watched(disk.clone(), &start(1), files, &known, &|| false)
    };
    let mut writes = 0;
    let lost = loop {
        disk.goes_after(writes);
        assert!(open().is_err(), "the last write is one of the session");
        disk.goes_after(u32::MAX);
        let (store, report) = open().unwrap();
        if !report.lost.is_empty() {
            break report.lost;
        }
        drop(store.abandon());
        writes += 1;
    };
    assert!(lost[0].why.contains("failed"), "{lost:?}");
}
