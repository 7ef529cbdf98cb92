//! Crashes, and coming back from them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

use bedplate_datapath::live::{HeapLive, LiveFiles, LiveName, LiveSection};
use bedplate_datapath::store::{Foreknowledge, LeftDisk, SessionStart, Store, StoreErrorKind};
use bedplate_datapath::volume::Volume;
use uuid::Uuid;

use super::{Halt, Known, Node, Tamper};
use crate::sim::disk::{Crash, EIO, ESHUTDOWN, Phase};
use crate::sim::volumes::hooked::{Died, HookedDisk};

impl Node {
    /// The machine stops, and comes back as far as the next open.
    pub fn crash(&mut self, crash: Crash) {
        if self.traces {
            println!("  operation {}: {crash:?}", self.disk.borrow().operations());
        }
        self.store = None;
        self.left = None;
        self.is_interrupted = false;
        for known in &mut self.known {
            known.flushed = false;
        }
        self.ballast.clear();
        self.leaky = false;
        let mut front = self.front.borrow_mut();
        front.violation = None;
        self.disk.borrow_mut().clear_faults();
        // What was in flight lands, or not, before the power is gone or the claim is free.
        self.disk.borrow_mut().crash(Crash::Process);
        let keeps_requests = crash == Crash::Process;
        front.stop(keeps_requests);
        // A failure outlives processes: it is in the live state until an open has begun a session.
        self.has_failed |= front.faulty;
        if self.has_failed {
            // A write or flush that failed makes live state unbelievable.
            self.may_lose = true;
            if self.broken.tamper == Tamper::ForgetFailure {
                forget_failure(&mut self.live);
            }
        } else {
            // The code went on after its process was dead, and took that for a failure of the disk.
            forget_failure(&mut self.live);
        }
        if crash != Crash::Process {
            self.disk.borrow_mut().crash(crash);
            self.live.clear();
            self.has_failed = false;
            self.boot += 1;
            self.powerless = true;
        } else if self.broken.tamper == Tamper::ForgetDraining {
            forget_draining(&mut self.live);
        }
    }

    /// The disk alone goes, and comes back without its cache: another `diskseq`, the same boot. Where the process was not in the middle of a
    /// change, it lives on, and knows what was flushed.
    pub fn disk_goes(&mut self, seed: u64) {
        let left = self.leave_disk();
        self.crash(Crash::Process);
        if let Some((left, volumes)) = left {
            let is_flushed = |known: &Known| {
                let volume = volumes.iter().find(|volume| volume.uuid() == known.uuid);
                volume.is_some_and(|volume| !volume.has_unflushed())
            };
            let believes_all = self.broken.tamper == Tamper::BelieveAllFlushed;
            for known in &mut self.known {
                known.flushed = believes_all || is_flushed(known);
            }
            let flushed = self.known.iter().filter(|known| known.flushed);
            let flushed = flushed.map(|known| known.uuid).collect();
            self.left = Some(LeftDisk { flushed, ..left });
            self.left_behind += 1;
        }
        self.disk_comes_back(seed);
    }

    pub(super) fn leave_disk(&self) -> Option<(LeftDisk, Vec<Arc<Volume>>)> {
        let store = self.store.as_ref()?;
        if self.is_interrupted || self.known.iter().any(|known| known.lost) {
            return None;
        }
        let volumes = store.objects();
        let volumes = volumes.filter_map(|object| store.volume_of(object.uuid).ok());
        let left = LeftDisk {
            disk: store.disk_uuid(),
            session: store.session(),
            flushed: Vec::new(),
        };
        Some((left, volumes.collect()))
    }

    pub(super) fn disk_comes_back(&mut self, seed: u64) {
        self.front.borrow_mut().stop(false);
        self.disk.borrow_mut().crash(Crash::Power { seed });
        self.diskseq += 1;
        self.powerless = true;
        self.may_lose = true;
    }

    /// Somebody removes live files while no process runs.
    pub fn lose_live_files(&mut self) {
        if self.traces {
            println!("  live files are lost");
        }
        self.may_lose = true;
        let names = self.live.list().unwrap_or_default();
        let Some(name) =
            names.get(usize::try_from(self.rng.below(names.len().max(1) as u64)).unwrap_or(0))
        else {
            return;
        };
        if self.rng.percent(40) {
            self.live.clear();
        } else {
            let removed = self.live.remove(*name);
            debug_assert!(removed.is_ok(), "memory");
        }
    }

    /// Opens the disk and compares what is there with what may be there; then serves what is wanted.
    ///
    /// # Errors
    /// The machine stops, a fault, or a promise is broken.
    pub fn open(&mut self) -> Result<(), Halt> {
        self.phase(Phase::Open);
        let start = SessionStart {
            boot_id: Uuid::from_u128(self.boot),
            diskseq: Some(self.diskseq),
        };
        let medium = HookedDisk {
            disk: Rc::clone(&self.disk),
            front: Rc::clone(&self.front),
        };
        let live = Box::new(self.live.clone());
        let known = Foreknowledge {
            keeps_cache: false,
            left: self.left.clone().into_iter().collect(),
        };
        let open = || Store::open_knowing(medium, &start, live, &known);
        let opened = match catch_unwind(AssertUnwindSafe(open)) {
            Ok(opened) => opened,
            Err(panic) if panic.is::<Died>() => return Err(Halt::Stopped),
            Err(panic) => resume_unwind(panic),
        };
        self.phase(Phase::Other);
        let (store, report) = match opened {
            Ok(opened) => opened,
            Err(error) if self.disk.borrow().has_crashed() && error.errno() == Some(ESHUTDOWN) => {
                return Err(Halt::Stopped);
            }
            Err(error) if self.front.borrow().faulty && error.errno() == Some(EIO) => {
                return Err(Halt::Latched);
            }
            Err(error) => return Err(Halt::Violation(format!("open: {error}"))),
        };
        if self.traces {
            println!("  {report:?}");
        }
        if let Some(lost) = report.lost.first()
            && !self.may_lose
            && !self.known.iter().any(|known| known.lost)
        {
            return Err(Halt::Violation(format!("held for no reason: {lost:?}")));
        }
        self.adopted += report.adopted.len() as u64;
        self.front.borrow_mut().space = Some(Arc::clone(store.disk_space()));
        self.settled = report.adopted.is_empty();
        self.store = Some(store);
        self.compare()?;
        self.check_owners(None)?;
        self.check_content()?;
        self.accept_losses()?;
        self.powerless = false;
        self.may_lose = false;
        self.has_failed = false;
        self.left = None;
        for known in &mut self.known {
            known.flushed = false;
        }
        for volume in self.volumes() {
            if self.known[volume].wanted == [true] {
                let uuid = self.known[volume].uuid;
                self.phase(Phase::Attach);
                let result = self.call(|store| store.prepare_attach(uuid))?;
                self.phase(Phase::Other);
                if let Err(error) = result {
                    return Err(self.judge("attach after an open", &error));
                }
                self.serve(volume)?;
            }
        }
        self.look_for_violation()
    }

    /// Volumes that are held: refused, until the loss is accepted; then what was flushed is there.
    pub(super) fn accept_losses(&mut self) -> Result<(), Halt> {
        for volume in self.volumes() {
            if !self.known[volume].lost {
                continue;
            }
            self.losses += 1;
            let (uuid, which) = (self.known[volume].uuid, self.known[volume].which);
            self.front.borrow_mut().fail_all_of(volume);
            match self.call(|store| store.prepare_attach(uuid))? {
                Err(error) if error.kind() == StoreErrorKind::LossNotAccepted => {}
                Err(error) => return Err(self.judge("attaching a held volume", &error)),
                Ok(()) => return Err(Halt::Violation("a held volume was attached".to_owned())),
            }
            if let Err(error) = self.call(|store| store.accept_loss(uuid))? {
                return Err(self.judge("accepting a loss", &error));
            }
            self.known[volume].lost = false;
            // What is shown from now on is durable only after this.
            let prepared = self.call(|store| store.prepare_attach(uuid))?;
            if let Err(error) = prepared {
                return Err(self.judge("attaching after a loss", &error));
            }
            self.commit()?;
            self.read_back(uuid, which, true, true)?;
            self.known[volume].doubtful = false;
        }
        Ok(())
    }
}

/// What a recovery that does not look at draining marks would see.
/// Word 10 of the disk's live header: see `store/live_state.rs`.
fn forget_failure(live: &mut HeapLive) {
    if live.list().unwrap_or_default().contains(&LiveName::Disk)
        && let Ok(words) = live.map(LiveName::Disk, LiveSection::Header, 512)
    {
        words[10].store(0, std::sync::atomic::Ordering::SeqCst);
    }
}

fn forget_draining(live: &mut HeapLive) {
    for name in live.list().unwrap_or_default() {
        if !matches!(name, LiveName::Volume(_)) {
            continue;
        }
        // However long it is: volumes here have one pair of words.
        if let Ok(words) = live.map(name, LiveSection::Dirty, 2) {
            words[1].store(0, std::sync::atomic::Ordering::SeqCst);
        }
    }
}
