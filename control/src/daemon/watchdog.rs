//! The watchdog: systemd is told that all is well only while every reactor answers and every disk's thread lives.
//!
//! A hung daemon hangs the clients of its devices; one that systemd ends and starts again does not.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use super::blocking::blocking;
use super::node::Node;

/// Tells systemd something; without systemd nobody listens.
pub fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}

/// Tells systemd how the daemon stands, in words.
pub fn tell_status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Beats as often as systemd asks for, until the daemon goes down.
pub async fn keep_beating(node: Arc<Node>) {
    let Some(timeout) = sd_notify::watchdog_enabled() else {
        return;
    };
    // systemd's advice is half the time; a third leaves room for one ping that was late.
    let interval = timeout / 3;
    let mut beat = tokio::time::interval(interval);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        if all_well(&node, interval).await {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

async fn all_well(node: &Arc<Node>, patience: Duration) -> bool {
    let stopping = node.is_stopping();
    let dead = node
        .disks()
        .iter()
        .find_map(|entry| entry.actor.clone().filter(|actor| !actor.is_alive()));
    if let Some(disk) = dead
        && !stopping
    {
        tracing::error!(
            disk = disk.name(),
            "the thread of this disk ended: the watchdog does not beat"
        );
        return false;
    }
    let serving = Arc::clone(node);
    let alive = blocking(move || serving.serving.all_alive(patience))
        .await
        .unwrap_or(false);
    if !alive {
        tracing::error!("a reactor does not answer: the watchdog does not beat");
    }
    alive
}
