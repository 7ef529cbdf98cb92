//! What a device serves: layers to read, and for a writable one, its volume and who makes its writes durable.
//!
//! How a commit is made is not known here: it is asked for, and answered, by whichever thread.

use std::fmt;
use std::sync::Arc;

use bedplate_datapath::plan::LayerStack;
use bedplate_datapath::volume::Volume;
use uuid::Uuid;

use crate::reactor::{ChecksumsReply, CommitReply};

/// What a device serves.
#[derive(Clone)]
pub struct Backing {
    /// What it reads. Of a writable one the first layer is the volume's own map and disk.
    pub stack: Arc<LayerStack>,
    /// For a device that can be written.
    pub writable: Option<Writable>,
    /// For a device that compares what it reads of an image with the image's checksums before anybody gets it, who has these. Its reads
    /// are copied, whatever the kernel can do.
    pub checksums: Option<Arc<dyn RecordedChecksums>>,
}

/// The recorded checksums of one image.
pub trait RecordedChecksums: Send + Sync {
    /// The image. Its checksums never change.
    fn image(&self) -> Uuid;

    /// Asks for the CRC32C of the 992 blocks of 4096 bytes from block `leaf * 992` on, as they are read, and does not wait: this is called by
    /// reactors.
    fn ask(&self, leaf: u32, answer: ChecksumsAnswer);
}

/// Where checksums go. Dropped without any, it says that nobody has them, and what was read is not given to anybody.
#[must_use = "a read waits for the answer"]
pub struct ChecksumsAnswer(Option<ChecksumsReply>);

impl ChecksumsAnswer {
    pub(crate) fn to_reactor(reply: ChecksumsReply) -> Self {
        Self(Some(reply))
    }

    /// Answers, from any thread. `None`: they cannot be had.
    pub fn give(mut self, crcs: Option<Arc<[u32]>>) {
        if let Some(reply) = self.0.take() {
            reply.send(crcs);
        }
    }
}

impl Drop for ChecksumsAnswer {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply.send(None);
        }
    }
}

impl fmt::Debug for ChecksumsAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChecksumsAnswer").finish_non_exhaustive()
    }
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backing")
            .field("stack", &self.stack)
            .field("writable", &self.writable)
            .field("compares", &self.checksums.is_some())
            .finish()
    }
}

/// What a writable device needs beside its layers.
#[derive(Clone)]
pub struct Writable {
    /// The volume that its writes change.
    pub volume: Arc<Volume>,
    /// Who makes them durable.
    pub committer: Arc<dyn Committer>,
}

/// Makes durable what was acknowledged: the disk's commit.
pub trait Committer: Send + Sync {
    /// Asks for a commit, and does not wait: this is called by reactors. `done` is answered when a commit that began after this call
    /// has ended. Flushes that ask while one runs may share the next.
    fn commit(&self, done: Committed);
}

/// Where the answer to a commit goes. Dropped without one, it answers `EIO`.
#[must_use = "a flush waits for the answer"]
pub struct Committed(Option<To>);

enum To {
    Reactor(CommitReply),
    Function(Box<dyn FnOnce(Result<(), i32>) + Send>),
}

impl From<Arc<LayerStack>> for Backing {
    /// A read-only one.
    fn from(stack: Arc<LayerStack>) -> Self {
        Self {
            stack,
            writable: None,
            checksums: None,
        }
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable")
            .field("volume", &self.volume.uuid())
            .finish_non_exhaustive()
    }
}

impl Committed {
    pub(crate) fn to_reactor(reply: CommitReply) -> Self {
        Self(Some(To::Reactor(reply)))
    }

    /// Answers by calling `then`: for commits that no request asks for.
    pub fn calling(then: impl FnOnce(Result<(), i32>) + Send + 'static) -> Self {
        Self(Some(To::Function(Box::new(then))))
    }

    /// Answers: all that was acknowledged when the commit was asked for is durable, or a (positive) errno. From any thread.
    pub fn done(mut self, outcome: Result<(), i32>) {
        match self.0.take() {
            Some(To::Reactor(reply)) => reply.send(Some(outcome)),
            Some(To::Function(then)) => then(outcome),
            None => {}
        }
    }
}

impl Drop for Committed {
    fn drop(&mut self) {
        match self.0.take() {
            Some(To::Reactor(reply)) => reply.send(None),
            Some(To::Function(then)) => then(Err(libc::EIO)),
            None => {}
        }
    }
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committed").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_commit_is_answered_once_and_with_an_error_if_nobody_answers() {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let committed = || {
            let answers = Arc::clone(&answers);
            Committed::calling(move |outcome| answers.lock().expect("a lock").push(outcome))
        };
        committed().done(Ok(()));
        committed().done(Err(libc::ENOSPC));
        drop(committed());
        assert_eq!(
            *answers.lock().expect("a lock"),
            [Ok(()), Err(libc::ENOSPC), Err(libc::EIO)]
        );
    }
}
