//! FLUSH and FUA: the committer is asked, and its answer ends the request. Also for space, which a commit brings.
//!
//! The committer answers from any thread, as a command to the reactor. A request that waits pins nothing: a commit may wait for a
//! grace period, so a grace period must never wait for a commit.

use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::channel::Sender;
use nix::sys::eventfd::EventFd;

use super::Reactor;
use super::command::Command;
use super::requests::{SpaceWait, State};
use crate::backing::Committed;

/// The way back of a commit's answer.
pub(crate) struct CommitReply {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    slot: u32,
    question: u64,
    purpose: Purpose,
}

/// What a commit was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To answer the slot's request.
    Request,
    /// To free space for it. The request may have found some meanwhile.
    Space,
}

impl CommitReply {
    /// `None`: the committer is gone.
    pub(crate) fn send(self, outcome: Option<Result<(), i32>>) {
        // Fails when the reactor has ended, and then the request is the next server's.
        let _ = self.commands.send(Command::Committed {
            slot: self.slot,
            question: self.question,
            purpose: self.purpose,
            outcome,
        });
        // Fails only when the counter is full, and then the reactor is awake.
        let _ = self.wake.write(1);
    }
}

impl Reactor {
    /// Begins a flush. Where nothing can be written, nothing is missing on the disk.
    pub(super) fn begin_flush(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        slot.len_bytes = 0;
        self.ask_for_commit(number);
    }

    /// Asks for the commit that the request waits for; the answer ends it.
    pub(super) fn ask_for_commit(&mut self, number: u32) {
        self.slots[number as usize].state = State::Committing;
        if !self.ask(number, Purpose::Request) {
            self.commit(number, 0);
        }
    }

    /// Asks once for a commit, which frees what was dropped; and once more only if more was dropped since.
    pub(super) fn ask_for_space(&mut self, number: u32) {
        let has_dropped = || {
            let writes = self
                .queues
                .get(self.slots[number as usize].queue as usize)
                .and_then(|queue| queue.as_ref()?.writes.as_ref());
            writes.is_some_and(|writes| writes.volume.space().has_dropped())
        };
        let asks = match self.slots[number as usize].space {
            SpaceWait::NotAsked => true,
            SpaceWait::Committed => has_dropped(),
            SpaceWait::Asked | SpaceWait::Failed(_) => false,
        };
        if asks {
            self.slots[number as usize].space = SpaceWait::Asked;
            self.ask(number, Purpose::Space);
        }
    }

    /// False if there is nobody to ask.
    fn ask(&mut self, number: u32, purpose: Purpose) -> bool {
        self.questions += 1;
        self.slots[number as usize].question = self.questions;
        let reply = CommitReply {
            commands: self.own_commands.clone(),
            wake: Arc::clone(&self.wake),
            slot: number,
            question: self.questions,
            purpose,
        };
        match self
            .queue_of(number)
            .and_then(|queue| queue.writes.as_ref())
        {
            Some(writes) => {
                writes.committer.commit(Committed::to_reactor(reply));
                true
            }
            None => false,
        }
    }

    /// The committer answers.
    pub(super) fn committed(
        &mut self,
        number: u32,
        question: u64,
        purpose: Purpose,
        outcome: Option<Result<(), i32>>,
    ) {
        // The request that asked for space may have found some, and the slot be a later one's, of a device on another disk.
        let Some(slot) = self
            .slots
            .get_mut(number as usize)
            .filter(|slot| slot.question == question)
        else {
            debug_assert_eq!(
                purpose,
                Purpose::Space,
                "a request that waits for a commit does nothing else"
            );
            return;
        };
        match purpose {
            Purpose::Space => slot.space = slot.space.answered(outcome),
            Purpose::Request if slot.state == State::Committing => match outcome {
                Some(Ok(())) => {
                    let answer = slot.success();
                    self.commit(number, answer);
                }
                // The committer went before us. The next server's commit answers.
                None if self.leaving.is_some() => self.hold(number),
                other => {
                    let errno = other.and_then(Result::err).unwrap_or(libc::EIO);
                    let disk = self.own_disk(number);
                    if self.waits_for_disk(number, errno, disk) {
                        return;
                    }
                    if let Some(queue) = self.queue_of(number) {
                        tracing::error!(dev_id = %queue.dev_id, errno, "a flush failed");
                    }
                    self.commit(number, -errno);
                }
            },
            Purpose::Request => {
                debug_assert!(false, "a request that waits for a commit does nothing else");
            }
        }
    }
}

/// What is to be done after a grace period: when the last reactor drops it.
pub(crate) struct AfterGrace(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl AfterGrace {
    pub(crate) fn new(then: Box<dyn FnOnce() + Send>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(then))))
    }
}

impl Drop for AfterGrace {
    fn drop(&mut self) {
        let then = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(then) = then.take() {
            then();
        }
    }
}
