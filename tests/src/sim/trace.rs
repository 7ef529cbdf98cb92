//! Short traces for exhaustive crashing: steps on a disk that was made ready before, run up to a crash point, recovered and checked.

use std::sync::Arc;

use bedplate_datapath::store::{FormatParams, OpenErrorKind, SessionStart, Store, format};
use bedplate_datapath::units::DevId;
use uuid::Uuid;

use super::content::{Content, content};
use super::disk::{Crash, ESHUTDOWN, Phase, Sabotage, SimDisk};
use super::model::Model;
use super::node;
use super::rng::mix;
use super::schedule::DISK_BYTES;

/// One operation of a trace. Images go by a number that is their UUID.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Format with the disk UUID.
    Format(u128),
    /// Import under a name.
    Import(u128, &'static str),
    /// Import, all but the seal, and abort.
    Abort(u128),
    /// Delete.
    Delete(u128),
    /// Note the attachment under device number 3.
    Attach(u128, bool),
    /// Close and open again.
    Reopen,
}

/// A disk, and what may be on it.
#[derive(Clone, Debug)]
pub struct Node {
    /// The disk.
    pub disk: SimDisk,
    /// What may be on it.
    pub model: Model,
    /// What was on it before a format that is on its way.
    former: Option<Model>,
    /// Formatted, as far as was acknowledged.
    is_formatted: bool,
    boot: u128,
}

impl Node {
    /// A disk full of poison.
    pub fn new(len_bytes: u64) -> Self {
        let model = Model::new(Uuid::nil());
        Self {
            disk: SimDisk::new(len_bytes, 0xdead),
            model,
            former: None,
            is_formatted: false,
            boot: 1,
        }
    }

    fn start(&self) -> SessionStart {
        SessionStart {
            boot_id: Uuid::from_u128(self.boot),
            diskseq: None,
        }
    }

    /// Carries out steps until they are done or the disk crashes. Ends without closing the disk.
    ///
    /// # Errors
    /// A step that fails without a crash.
    pub fn run(&mut self, steps: &[Step]) -> Result<(), String> {
        let steps = match steps {
            [Step::Format(uuid), rest @ ..] => {
                if self.format(Uuid::from_u128(*uuid))? {
                    return Ok(());
                }
                rest
            }
            all => all,
        };
        for part in steps.split(|step| matches!(step, Step::Reopen)) {
            if part.is_empty() {
                continue;
            }
            let start = self.start();
            self.disk.enter(Phase::Open);
            let mut store = match Store::open(&mut self.disk, &start) {
                Ok((store, _)) => store,
                Err(error) if error.kind() == OpenErrorKind::Io => return Ok(()),
                Err(error) => return Err(format!("open: {error}")),
            };
            store.medium_mut().enter(Phase::Other);
            let mut result = Ok(());
            for step in part {
                result = one(&mut store, &mut self.model, *step);
                if result.is_err() {
                    break;
                }
            }
            let closed =
                result.and_then(|()| store.close().map(drop).map_err(|error| error.to_string()));
            match closed {
                Ok(()) => {}
                Err(_) if self.disk.has_crashed() => return Ok(()),
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }

    /// Whether the disk crashed in it.
    fn format(&mut self, uuid: Uuid) -> Result<bool, String> {
        self.former = self.is_formatted.then(|| self.model.clone());
        self.is_formatted = false;
        self.model = Model::new(uuid);
        let params = FormatParams {
            disk_uuid: uuid,
            hardware_id_hash: [0; 32],
            created_unix_s: 1,
        };
        match format(&mut self.disk, &params) {
            Ok(_) => {
                self.former = None;
                self.is_formatted = true;
                Ok(false)
            }
            Err(_) if self.disk.has_crashed() => Ok(true),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Stops the machine, and starts it.
    pub fn crash(&mut self, crash: Crash) {
        self.disk.crash(crash);
        self.boot += u128::from(crash != Crash::Process);
    }

    /// Opens the disk and compares all of it with what may be there. True if it crashed on the way.
    ///
    /// # Errors
    /// A broken promise.
    pub fn recover(&mut self) -> Result<bool, String> {
        let start = self.start();
        self.disk.enter(Phase::Open);
        match Store::open(&mut self.disk, &start) {
            Ok((mut store, _)) => {
                let former = self
                    .former
                    .as_mut()
                    .filter(|former| former.disk_uuid() == store.disk_uuid());
                former
                    .unwrap_or(&mut self.model)
                    .check(&mut store, 0, true)?;
                Ok(false)
            }
            Err(error) if error.errno() == Some(ESHUTDOWN) => Ok(true),
            Err(error) => match error.kind() {
                OpenErrorKind::NotBedplate | OpenErrorKind::SuperblockLost
                    if !self.is_formatted =>
                {
                    Ok(false)
                }
                _ => Err(error.to_string()),
            },
        }
    }
}

impl Node {
    fn recover_whole(&mut self) -> Result<(), String> {
        if self.recover()? {
            Err("the recovery crashed by itself".to_owned())
        } else {
            Ok(())
        }
    }
}

fn one(store: &mut Store<&mut SimDisk>, model: &mut Model, step: Step) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    match step {
        Step::Import(number, name) => {
            let (uuid, content) = (Uuid::from_u128(number), content_of(number));
            model.importing(uuid, name, &content);
            node::import(store, name, uuid, &content).map_err(|error| text(&error))?;
            model.imported(uuid);
        }
        Step::Abort(number) => {
            let (uuid, content) = (Uuid::from_u128(number), content_of(number));
            let mut ticket = store
                .begin_import(node::new_image("aborted", uuid, &content))
                .map_err(|error| text(&error))?;
            let written = node::write_image(store, &mut ticket, &content);
            store.abort(ticket);
            written.map_err(|error| text(&error))?;
        }
        Step::Delete(number) => {
            let uuid = Uuid::from_u128(number);
            model.deleting(uuid);
            store.delete(uuid).map_err(|error| text(&error))?;
            model.gone(uuid);
        }
        Step::Attach(number, wanted) => {
            let uuid = Uuid::from_u128(number);
            model.attaching(uuid, (Some(DevId::new(3)), wanted));
            store
                .set_attachment(uuid, DevId::new(3), wanted)
                .map_err(|error| text(&error))?;
            model.attached(uuid);
        }
        Step::Format(_) | Step::Reopen => return Err("only between sessions".to_owned()),
    }
    Ok(())
}

/// Small contents with several clusters and with none, by the image's number.
fn content_of(number: u128) -> Arc<Content> {
    content(usize::try_from(number % 64).unwrap_or(0) + 16)
}

/// How much was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Writes and flushes of the trace.
    pub operations: u64,
    /// Crashes in it.
    pub crashes: u64,
    /// Crashes in a recovery after one.
    pub second_crashes: u64,
}

/// Process crash, and power losses: among their outcomes are all lost, all there, and sectors at random.
fn crashes(point: u64) -> impl Iterator<Item = Crash> {
    let power = (0..5).map(move |nth| Crash::Power {
        seed: mix(point * 8 + nth),
    });
    std::iter::once(Crash::Process).chain(power)
}

fn second_crashes(first: u64, second: u64) -> impl Iterator<Item = Crash> {
    let power = (0..3).map(move |nth| Crash::Power {
        seed: mix((first << 32) + second * 4 + nth),
    });
    std::iter::once(Crash::Process).chain(power)
}

/// Crashes `trace` at each of its operations, on a disk on which `before` was done, and each recovery at each of its own. With
/// `sabotage`, a rule is broken in all of it but `before`.
///
/// # Errors
/// The first broken promise, and where to crash to see it.
pub fn crash_everywhere(
    before: &[Step],
    trace: &[Step],
    sabotage: Option<Sabotage>,
) -> Result<Tried, String> {
    let mut ready = Node::new(DISK_BYTES);
    if !before.is_empty() {
        ready.run(before)?;
    }
    ready.disk.sabotage(sabotage);
    let first = ready.disk.operations();
    let mut whole = ready.clone();
    whole.run(trace)?;
    let end = whole.disk.operations();
    let mut tried = Tried {
        operations: end - first,
        ..Tried::default()
    };
    // One more than there are operations: the crash after the last.
    for point in first..=end {
        let mut crashed = ready.clone();
        crashed.disk.crash_at(point);
        crashed
            .run(trace)
            .map_err(|why| format!("{trace:?}, operation {point}: {why}"))?;
        for crash in crashes(point) {
            tried.crashes += 1;
            let mut node = crashed.clone();
            node.crash(crash);
            let mut recovering = node.clone();
            recovering
                .recover_whole()
                .map_err(|why| format!("{trace:?}, {crash:?} at operation {point}: {why}"))?;
            for second in node.disk.operations()..recovering.disk.operations() {
                for again in second_crashes(point, second) {
                    tried.second_crashes += 1;
                    let mut node = node.clone();
                    node.disk.crash_at(second);
                    node.recover()
                        .and_then(|_| {
                            node.crash(again);
                            node.recover_whole()
                        })
                        .map_err(|why| {
                            format!("{trace:?}, {crash:?} at operation {point}, {again:?} at {second} of the recovery: {why}")
                        })?;
                }
            }
        }
    }
    Ok(tried)
}
