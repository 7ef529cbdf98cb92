//! The life of the daemon: what it does first, what it does until it is asked to end, and what it leaves behind.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::{Args, Command};
use super::disk::{self, discovery, health};
use super::http::{self, socket};
use super::node::{Node, boot_id};
use super::object::recover;
use super::serving::Serving;
use super::{device_files, log, process, remove_devices, replica, run_lock, scrub, watchdog};
use crate::config::Config;

/// How long jobs may take to end when the daemon goes down: their writes in flight are waited for.
const JOBS_END_WITHIN: Duration = Duration::from_secs(8);
/// How long answers on their way may take then.
const ANSWERS_END_WITHIN: Duration = Duration::from_secs(2);
/// How long disks may take to be closed then; one that hangs is simply not marked clean.
const DISKS_CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// How long the recovery of devices holds up the word that the daemon is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Exit code of settings that cannot be used, as of any other misuse.
const EXIT_USAGE: u8 = 2;

/// Does what the command line asks for.
pub fn main(args: &Args) -> ExitCode {
    let config = match args.settings() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("bedplated: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if args.check_config {
        println!("the settings are good");
        return ExitCode::SUCCESS;
    }
    if let Some(Command::UdevName { device }) = &args.command {
        return match device_files::name_of(&config.run_dir, device) {
            Some(name) => {
                println!("{name}");
                ExitCode::SUCCESS
            }
            None => ExitCode::FAILURE,
        };
    }
    if let Err(error) = log::start(&config.log) {
        eprintln!(
            "bedplated: the log filter {:?} is wrong: {error}",
            config.log
        );
        return ExitCode::from(EXIT_USAGE);
    }
    if let Some(Command::RemoveDevices { timeout }) = &args.command {
        let gone = remove_devices::command(&config.socket_path(), Duration::from_secs(*timeout));
        return if gone {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    // Before anything else: two daemons must not even look at the same disks.
    let _lock = run_lock::take(&config.run_dir)?;
    process::prepare(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("control")
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(live(config));
    // Calls that block on a hung disk must not keep the process from ending.
    runtime.shutdown_background();
    outcome
}

async fn live(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let mut ends = Ends::catch()?;
    let listener = socket::listen(&config.socket_path(), &config.socket_group)?;
    let node = Node::new(config.clone(), boot_id()?, Serving::new(&config.ublk));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        socket = %config.socket_path().display(),
        "bedplated starts"
    );
    let api = {
        let stopped = Arc::clone(&node);
        let serve = axum::serve(listener, http::router(Arc::clone(&node)))
            .with_graceful_shutdown(async move { stopped.stopped().await });
        tokio::spawn(async move { serve.await })
    };
    if let Some(address) = config.metrics_listen {
        tokio::spawn(http::metrics::serve(Arc::clone(&node), address));
    }
    tokio::spawn(watchdog::keep_beating(Arc::clone(&node)));

    let started = {
        let node = Arc::clone(&node);
        tokio::spawn(async move { come_back(&node).await })
    };
    tokio::select! {
        () = ends.next() => {}
        _ = started => ends.next().await,
    }
    tracing::info!("bedplated ends");
    watchdog::tell(&[NotifyState::Stopping]);
    leave(&node).await;
    if tokio::time::timeout(ANSWERS_END_WITHIN, api).await.is_err() {
        tracing::debug!("clients that still wait for an answer are left");
    }
    if let Err(error) = std::fs::remove_file(config.socket_path()) {
        tracing::debug!(%error, "cannot remove the socket");
    }
    Ok(())
}

/// Finds the disks, brings their devices back, says that the daemon is ready, and starts what goes on for ever.
async fn come_back(node: &Arc<Node>) {
    watchdog::tell_status("looking for disks");
    replica::failover::listen(node);
    let target = Arc::clone(node);
    let support = super::blocking::blocking(move || target.serving.target().map(drop)).await;
    if let Err(error) = support.and_then(|started| started) {
        node.set_problem("ublk", Some(error));
    }
    // A task of its own: what is late is not waited for, but it goes on.
    let recovery = {
        let node = Arc::clone(node);
        tokio::spawn(async move {
            discovery::at_start(&node).await;
            watchdog::tell_status("bringing devices back");
            recover::settled(&node).await;
        })
    };
    match tokio::time::timeout(READY_WITHIN, recovery).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "bringing devices back ended unexpectedly"),
        Err(_late) => tracing::warn!("some devices are still being brought back"),
    }
    let status = format!(
        "{} disks online, {} images, {} volumes",
        node.disks_online(),
        node.image_list().len(),
        node.volume_list().len()
    );
    tracing::info!("ready: {status}");
    watchdog::tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    tokio::spawn(discovery::keep_listening(Arc::clone(node)));
    tokio::spawn(discovery::keep_looking(Arc::clone(node)));
    tokio::spawn(health::keep_watching(Arc::clone(node)));
    tokio::spawn(recover::keep_trying(Arc::clone(node)));
    tokio::spawn(scrub::keep_scrubbing(Arc::clone(node)));
    tokio::spawn(replica::run::keep_going(Arc::clone(node)));
}

/// Ends everything in the order in which it depends on each other: jobs, devices, disks.
async fn leave(node: &Arc<Node>) {
    node.stop();
    node.jobs.cancel_all();
    if tokio::time::timeout(JOBS_END_WITHIN, node.jobs.all_ended())
        .await
        .is_err()
    {
        tracing::warn!("some jobs do not end; nothing of them is kept");
    }
    // Devices stay, quiesced, for the next process; their requests wait in the kernel.
    let serving = Arc::clone(node);
    let all_ended = super::blocking::blocking(move || serving.serving.leave()).await;
    if !matches!(all_ended, Ok(true)) {
        // A reactor may still acknowledge a write. A disk that was closed now would be marked clean without it, and the next process
        // would not believe the live state that has it. This one ends as in a crash: its disks stay open until the very end, so
        // that no thread of theirs closes one when the last who knows it lets go.
        tracing::warn!("not all reactors have ended: the disks are not marked clean");
        std::mem::forget(Arc::clone(node));
        return;
    }
    if tokio::time::timeout(DISKS_CLOSE_WITHIN, disk::close_all(node))
        .await
        .is_err()
    {
        tracing::warn!("some disks do not answer; they are not marked clean");
    }
}

/// The signals that end the daemon.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
