//! What is done when a reactor finds a copy failing or late: it is avoided by then. Here it is looked at, and taken back when it answers.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bedplate_datapath::plan::DiskIndex;
use bedplate_datapath::store::CheckedBlock;
use bedplate_datapath::units::{BLOCK_BYTES, PAGE_BYTES};
use bedplate_ublk_target::{DiskInDoubt, ReadFailed, ReadLate, ReplicaEvents};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::daemon::away::went;
use crate::daemon::node::Node;
use crate::daemon::scrub::prove;

/// Answers in a row after which a disk is read from again.
const HITS: u32 = 2;
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Time between two looks: first, and at most.
const LOOK_FIRST: Duration = Duration::from_millis(500);
const LOOK_MOST: Duration = Duration::from_secs(30);
/// Most blocks that are looked at for one failed read.
const BLOCKS_MAX: u64 = 256;
/// Events that wait to be looked at; more of the same are no news.
const EVENTS_WAITING: usize = 256;

enum Event {
    Failed(ReadFailed),
    Late(ReadLate),
}

/// Takes what reactors tell. Never waits.
struct Ears {
    events: mpsc::Sender<Event>,
    /// One for each device and reactor at most, until word was given: it must not be lost.
    doubts: mpsc::UnboundedSender<DiskInDoubt>,
}

impl ReplicaEvents for Ears {
    fn read_failed(&self, event: ReadFailed) {
        // When more come than can be looked at, the copy is avoided all the same.
        let _ = self.events.try_send(Event::Failed(event));
    }

    fn read_late(&self, event: ReadLate) {
        let _ = self.events.try_send(Event::Late(event));
    }

    fn disk_in_doubt(&self, event: DiskInDoubt) -> bool {
        self.doubts.send(event).is_ok()
    }
}

/// Listens to the reactors, and looks after what they tell, until the daemon goes down.
pub fn listen(node: &Arc<Node>) {
    let (ears, mut events) = mpsc::channel(EVENTS_WAITING);
    let (doubts, mut in_doubt) = mpsc::unbounded_channel();
    node.serving.listen(Arc::new(Ears {
        events: ears,
        doubts,
    }));
    let node = Arc::clone(node);
    let of_doubts = Arc::clone(&node);
    tokio::spawn(async move {
        while let Some(event) = in_doubt.recv().await {
            tokio::spawn(went::in_doubt(Arc::clone(&of_doubts), event));
        }
    });
    tokio::spawn(async move {
        let looked_at = Arc::new(Mutex::new(HashSet::new()));
        loop {
            let event = tokio::select! {
                () = node.stopped() => return,
                event = events.recv() => event,
            };
            match event {
                Some(event) => take(&node, &looked_at, &event),
                None => return,
            }
        }
    });
}

type LookedAt = Arc<Mutex<HashSet<DiskIndex>>>;

fn take(node: &Arc<Node>, looked_at: &LookedAt, event: &Event) {
    let index = match event {
        Event::Failed(failed) => failed.disk,
        Event::Late(late) => late.disk,
    };
    let Some(disk) = node.replicas.sets.disk_at(index) else {
        return;
    };
    if let Event::Failed(failed) = event {
        let (node, failed) = (Arc::clone(node), *failed);
        tokio::spawn(async move { look_at_blocks(&node, disk, failed).await });
    }
    let is_news = looked_at
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(index);
    if !is_news {
        return;
    }
    let name = node.disk_name(disk);
    match event {
        Event::Failed(failed) => tracing::warn!(
            disk = name,
            offset = failed.disk_at.get(),
            errno = failed.errno,
            "a read failed; images are read from other disks, where there are any"
        ),
        Event::Late(late) => tracing::warn!(
            disk = name,
            waited_ms = late.waited.as_millis(),
            "a read is late; images are read from other disks, where there are any"
        ),
    }
    let (node, looked_at) = (Arc::clone(node), Arc::clone(looked_at));
    tokio::spawn(async move {
        until_it_answers(&node, disk).await;
        looked_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&index);
        readmit(&node, disk, index);
    });
}

/// Looks again and again, ever less often.
async fn until_it_answers(node: &Arc<Node>, disk: Uuid) {
    let mut pause = LOOK_FIRST;
    let mut hits = 0;
    while hits < HITS {
        tokio::select! {
            () = node.stopped() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if answers(node, disk).await {
            hits += 1;
        } else {
            hits = 0;
            pause = (pause * 2).min(LOOK_MOST);
        }
    }
}

async fn answers(node: &Node, disk: Uuid) -> bool {
    let Some(actor) = node.online_actor(disk) else {
        return false;
    };
    matches!(
        tokio::time::timeout(ANSWER_WITHIN, actor.read_superblock()).await,
        Ok(Ok(()))
    )
}

fn readmit(node: &Node, disk: Uuid, index: DiskIndex) {
    if node.is_stopping() {
        return;
    }
    let mut images = 0;
    for (_, set, number) in node.replicas.sets.on_disk(index) {
        images += u32::from(set.readmit(number));
    }
    tracing::info!(
        disk = node.disk_name(disk),
        images,
        "answers again; images are read from it"
    );
}

/// A read that failed may be a block that is bad for good: then it is damage, and must not be tried by each reader again.
async fn look_at_blocks(node: &Arc<Node>, disk: Uuid, failed: ReadFailed) {
    let Some(image) = image_read_by(node, failed.dev_id.get()) else {
        return;
    };
    let Some(actor) = node.online_actor(disk) else {
        return;
    };
    let first = failed.device_at.get() / BLOCK_BYTES;
    let end = (failed.device_at.get() + u64::from(failed.len_bytes)).div_ceil(BLOCK_BYTES);
    let blocks = first..end.min(first + BLOCKS_MAX);
    let found = actor
        .ask(move |store| {
            let count = usize::try_from(blocks.end - blocks.start).unwrap_or_default();
            let mut bytes = vec![0; count * PAGE_BYTES];
            store.read_checked(image, blocks, &mut bytes)
        })
        .await;
    let Ok(Ok(found)) = found else { return };
    let bad = found.iter().filter_map(CheckedBlock::bad).collect();
    // Otherwise it goes: that is told elsewhere.
    if let Ok(bad) = prove(&actor, bad).await {
        node.found_bad(image, disk, &bad);
    }
}

/// The image that the device with this number reads.
fn image_read_by(node: &Node, number: u32) -> Option<Uuid> {
    let object = node
        .runtimes()
        .devices()
        .find(|(_, device)| *device == number)
        .map(|(object, _)| object)?;
    let found = node
        .objects_where(|_, known| known.uuid == object)
        .into_iter()
        .next()?;
    match found.noun() {
        crate::daemon::object::Noun::Image => Some(object),
        crate::daemon::object::Noun::Volume => found.object.parent,
    }
}
