//! The supervisor: looks at what there is, plans, and carries out, until the daemon goes down.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::plan::{self, Action, Blocked, Plan, Situation};
use super::{describe, drain, leave, rebuild, sets, settle, situation, stale, unwanted};
use crate::api::ApiError;
use crate::daemon::node::Node;

/// Least time between two looks: many changes come together.
const PAUSE: Duration = Duration::from_millis(100);
/// Most time between two looks: room on a disk, for one, changes without a word.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Sees to it that each image has the copies that it is to have.
pub async fn keep_going(node: Arc<Node>) {
    let mut changes = node.watch_changes();
    drain::resume(&node);
    loop {
        changes.mark_unchanged();
        stale::cut_off(&node).await;
        unwanted::take_down(&node).await;
        settle(&node).await;
        sets::refresh_all(&node).await;
        let situation = situation::now(&node, None);
        let planned = plan::plan(&situation);
        note_blocked(&node, &planned);
        carry_out(&node, planned, &situation);
        let until = plan::next_look(&situation)
            .map_or(LOOK_EVERY, |at| at.saturating_sub(situation.now))
            .clamp(PAUSE, LOOK_EVERY);
        tokio::select! {
            () = node.stopped() => return,
            () = node.replicas.woken.notified() => {}
            _ = changes.changed() => {}
            () = tokio::time::sleep(until) => {}
        }
        tokio::select! {
            () = node.stopped() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Begins what is planned, one thing at a time for an image: what comes of it changes the next plan.
fn carry_out(node: &Arc<Node>, planned: Plan, situation: &Situation) {
    let mut by_image: HashMap<Uuid, Vec<Action>> = HashMap::new();
    for action in planned.actions {
        by_image.entry(image_of(action)).or_default().push(action);
    }
    let order = situation.images.iter().map(|image| image.uuid);
    for image in order {
        let Some(actions) = by_image.remove(&image) else {
            continue;
        };
        if node.is_stopping() {
            continue;
        }
        let Some(at_work) = AtWork::begin(node, image) else {
            continue;
        };
        let node = Arc::clone(node);
        tokio::spawn(async move {
            let _at_work = at_work;
            for action in actions {
                if let Err(error) = one(&node, action).await {
                    failed(&node, action, &error);
                    break;
                }
            }
        });
    }
}

/// An image of which a copy or a name is being changed, or which is being deleted: one at a time.
pub struct AtWork {
    node: Arc<Node>,
    image: Uuid,
}

impl AtWork {
    /// None while another one is at it.
    fn begin(node: &Arc<Node>, image: Uuid) -> Option<Self> {
        let is_first = node.replicas.state().at_work.insert(image);
        is_first.then(|| Self {
            node: Arc::clone(node),
            image,
        })
    }

    /// The same, once all others are done.
    pub async fn wait(node: &Arc<Node>, image: Uuid) -> Self {
        loop {
            // Before it is tried, so that no end is missed.
            let ended = node.replicas.work_ended.notified();
            if let Some(at_work) = Self::begin(node, image) {
                return at_work;
            }
            ended.await;
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.node.replicas.state().at_work.remove(&self.image);
        self.node.replicas.work_ended.notify_waiters();
        self.node.replicas.wake();
    }
}

const fn image_of(action: Action) -> Uuid {
    match action {
        Action::Name { image, .. }
        | Action::Build { image, .. }
        | Action::Remove { image, .. }
        | Action::Unname { image, .. } => image,
    }
}

async fn one(node: &Arc<Node>, action: Action) -> Result<(), ApiError> {
    match action {
        Action::Name { image, disk } => {
            describe(node, image, |description| {
                description.member_disks.push(disk);
            })
            .await?;
            tracing::info!(%image, disk = node.disk_name(disk), "is to get a copy");
            rebuild::start(node, image, disk);
            Ok(())
        }
        Action::Build { image, disk } => {
            rebuild::start(node, image, disk);
            Ok(())
        }
        Action::Remove { image, disk, why } => leave::remove(node, image, disk, why).await,
        Action::Unname { image, disk } => {
            super::stop_all_of(node, image, Some(disk)).await;
            leave::unname(node, image, disk).await
        }
    }
}

fn failed(node: &Node, action: Action, error: &ApiError) {
    tracing::warn!("{action:?}: {error}");
    let (image, disk) = match action {
        Action::Name { image, disk }
        | Action::Build { image, disk }
        | Action::Remove { image, disk, .. }
        | Action::Unname { image, disk } => (image, disk),
    };
    rebuild::note_failure(node, image, disk, &error.message);
}

fn note_blocked(node: &Arc<Node>, planned: &Plan) {
    let mut now: HashMap<Uuid, String> = HashMap::new();
    for (image, why) in &planned.blocked {
        now.insert(*image, words(node, *image, *why));
    }
    let mut state = node.replicas.state();
    if state.blocked != now {
        for (image, why) in &now {
            if state.blocked.get(image) != Some(why) {
                tracing::info!(%image, "{why}");
            }
        }
        state.blocked = now;
        drop(state);
        node.notify();
    }
}

/// Why an image does not get what it wants, as people read it.
fn words(node: &Node, image: Uuid, why: Blocked) -> String {
    match why {
        Blocked::Late(disk) => format!(
            "the disk {} is only late: nothing is begun before its grace time is over",
            node.disk_name(disk)
        ),
        Blocked::NoSource => "no copy is Ready, so that none can be made".to_owned(),
        Blocked::NoPlace { missing } => {
            let copies = if missing == 1 { "copy" } else { "copies" };
            format!("no disk has room for {missing} more {copies}, each on its own disk")
        }
        Blocked::BackingOff(until) => {
            let wait = until.saturating_sub(node.replicas.now()).as_secs() + 1;
            let why = node
                .replicas
                .state()
                .backoff
                .of(image)
                .into_iter()
                .find(|(_, at)| *at == until)
                .map(|(disk, _)| disk);
            let why = why.and_then(|disk| node.replicas.failure_of(image, disk));
            // Rounded, so that it is not news all the time.
            let wait = wait.next_multiple_of(10);
            format!(
                "a copy failed, and is tried again within {wait} s{}",
                why.map_or(String::new(), |why| format!(": {why}"))
            )
        }
    }
}

/// Notes what stands in the way now, without doing anything about it.
pub fn look(node: &Arc<Node>) {
    let situation = situation::now(node, None);
    note_blocked(node, &plan::plan(&situation));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::object::{Noun, delete};
    use crate::daemon::test_node::{Busy, TestNode, a_while, until};

    #[tokio::test]
    async fn an_image_that_is_deleted_while_a_copy_is_decided_leaves_no_copy() {
        let node = TestNode::new();
        let first = node.make_disk("first").await;
        let (image, _) = node.import_image("a").await;
        let disk = node.make_disk("other").await;

        // The disk with the image hears of the new member, then that it is deleted, and what it answers comes in between.
        let before = Busy::keep(&node, first).await;
        let planned = Plan {
            actions: vec![Action::Name { image, disk }],
            blocked: Vec::new(),
        };
        carry_out(&node, planned, &situation::now(&node, None));
        a_while().await;
        let between = Busy::keep(&node, first).await;
        let deleting = Arc::clone(&node);
        let deleted = tokio::spawn(async move { delete(&deleting, Noun::Image, "a").await });
        a_while().await;
        before.go_on();
        until("the copy is begun", || {
            node.copies_of(image).iter().any(|copy| copy.disk == disk)
        })
        .await;
        between.go_on();
        deleted.await.unwrap().unwrap();
        until("the job has ended", || {
            node.replicas.any_rebuild_of(image).is_none()
        })
        .await;
        settle(&node).await;
        let left: Vec<String> = node
            .disks()
            .iter()
            .flat_map(|entry| entry.contents_now().objects.clone())
            .map(|object| object.name)
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
