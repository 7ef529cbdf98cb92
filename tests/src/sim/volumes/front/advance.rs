//! A request goes on: a decision of its own, or one of its I/Os.

use bedplate_datapath::plan::RunSource;
use bedplate_datapath::units::ByteOffset;
use bedplate_datapath::volume::write::{Blocked, WriteIo, WriteKind, WriteStep};

use super::{Break, CLUSTER_SECTORS, ENOSPC, Front, SEGMENTS_MAX};
use crate::sim::disk::{EIO, ESHUTDOWN};
use crate::sim::volumes::oracle::Which;
use crate::sim::volumes::request::{Request, Server, State, What};
use crate::sim::volumes::word::SECTOR;

impl Front {
    /// Makes a request go on. False when it was answered.
    pub(super) fn advance(&mut self, request: &mut Request) -> bool {
        let Some(serving) = self.serving.get(request.volume).and_then(Option::as_ref) else {
            // Its device waits for the next process.
            return true;
        };
        let which = serving.which;
        // As on a reactor: after a resize the next step of every request is the larger volume's. A discard to the end of the smaller one would
        // otherwise drop what was written behind it meanwhile.
        let server = if serving.others.is_empty() {
            serving.server.clone()
        } else if let Some(server) = &request.server {
            server.clone()
        } else {
            let nth = usize::try_from(self.rng.below(1 + serving.others.len() as u64)).unwrap_or(0);
            let server = if nth == 0 {
                &serving.server
            } else {
                &serving.others[nth - 1]
            };
            request.server = Some(server.clone());
            server.clone()
        };
        match request.state {
            State::New => self.begin(request, which, &server),
            State::Blocked => {
                request.serial = self.next_serial;
                self.next_serial += 1;
                self.step(request, which, &server)
            }
            State::Ready => self.step(request, which, &server),
            State::Io => {
                self.one_io(request, which);
                if request.what == What::Read {
                    return request.errno.is_none() && !request.runs.is_empty();
                }
                if request.ios.is_empty() {
                    request
                        .op
                        .io_ended(request.errno.take().map_or(Ok(()), Err));
                    request.state = State::Ready;
                }
                true
            }
            State::Late => {
                self.one_io(request, which);
                if request.ios.is_empty() {
                    self.oracle.acknowledge(request.write, false);
                }
                !request.ios.is_empty()
            }
            State::Commit(number) => {
                if self.breaks == Break::AcknowledgeBeforeCommit || number <= self.commits_ended {
                    self.durable(request, which);
                    return false;
                }
                if self.commits_fail {
                    self.refuse(request, EIO);
                    return false;
                }
                self.wants_commit = true;
                true
            }
        }
    }

    pub(super) fn begin(&mut self, request: &mut Request, which: Which, server: &Server) -> bool {
        let at = ByteOffset::new((request.first * SECTOR) as u64);
        let len_bytes = (request.sectors * SECTOR) as u64;
        match request.what {
            What::Flush => {
                request.state = State::Commit(self.commits_begun + 1);
                true
            }
            What::Read => {
                let len_bytes = u32::try_from(len_bytes).expect("a request");
                if let Err(error) = server.stack.plan_read(at, len_bytes, &mut self.run_list) {
                    self.violation = Some(format!("a read was not planned: {error}"));
                    return false;
                }
                request.runs.extend_from_slice(self.run_list.as_slice());
                if self.traces {
                    println!(
                        "    read of volume {}, {} + {}: {:?}",
                        request.volume, request.first, request.sectors, request.runs
                    );
                }
                request.state = State::Io;
                true
            }
            What::Write { .. } | What::Zero { .. } => {
                let kind = match request.what {
                    What::Zero { keep } => WriteKind::Zero { keep },
                    _ => WriteKind::Data,
                };
                request.op.begin(kind, at, len_bytes);
                self.step(request, which, server)
            }
        }
    }

    pub(super) fn step(&mut self, request: &mut Request, which: Which, server: &Server) -> bool {
        request.state = State::Ready;
        let mut list = std::mem::take(&mut self.list);
        let step = request.op.step(&server.stack, &server.volume, &mut list);
        if self.traces {
            println!(
                "    write {} of volume {}, {:?} {} + {}: {step:?} {:?}",
                request.write.0,
                request.volume,
                request.what,
                request.first,
                request.sectors,
                list.as_slice()
            );
        }
        request.ios.clear();
        request.ios.extend_from_slice(list.as_slice());
        self.list = list;
        match step {
            WriteStep::Io => {
                if self.breaks == Break::ClaimWithoutZeroes
                    && matches!(request.what, What::Write { .. })
                {
                    let cluster = CLUSTER_SECTORS * SECTOR;
                    request
                        .ios
                        .retain(|io| !matches!(io, WriteIo::Zeroes { len_bytes, .. } if *len_bytes as usize == cluster));
                }
                if self.breaks == Break::PublishBeforeData && is_last_phase(request) {
                    return self.publish_first(request, which, server);
                }
                request.state = State::Io;
                if request.ios.is_empty() {
                    request.op.io_ended(Ok(()));
                    request.state = State::Ready;
                }
                true
            }
            WriteStep::Blocked(why) => {
                self.wants_commit |= why == Blocked::Space;
                // It holds nothing, and nobody's grace waits for it. Were it otherwise, one that waits for space would wait for itself.
                request.state = State::Blocked;
                true
            }
            WriteStep::Done if request.what == (What::Write { fua: true }) => {
                request.state = State::Commit(self.commits_begun + 1);
                true
            }
            WriteStep::Done => {
                self.oracle.acknowledge(request.write, false);
                false
            }
            WriteStep::Failed(errno) => {
                let full = self
                    .space
                    .as_ref()
                    .is_none_or(|space| space.free_clusters() <= SEGMENTS_MAX);
                if !(self.faulty || errno == ENOSPC && full) {
                    self.violation = Some(format!(
                        "{:?} of volume {} failed with errno {errno}, {} clusters free",
                        request.what,
                        request.volume,
                        self.space.as_ref().map_or(0, |space| space.free_clusters())
                    ));
                }
                self.refuse(request, errno);
                false
            }
        }
    }

    /// Lets a request publish, and carries its I/O out afterwards.
    pub(super) fn publish_first(
        &mut self,
        request: &mut Request,
        which: Which,
        server: &Server,
    ) -> bool {
        let late = std::mem::take(&mut request.ios);
        request.op.io_ended(Ok(()));
        let mut list = std::mem::take(&mut self.list);
        let step = request.op.step(&server.stack, &server.volume, &mut list);
        request.ios = late;
        if step == WriteStep::Done {
            self.list = list;
            request.state = State::Late;
            return true;
        }
        // Planned again: nothing was published too early.
        while !request.ios.is_empty() && !self.has_stopped() {
            self.one_io(request, which);
        }
        request.ios.clear();
        request.ios.extend_from_slice(list.as_slice());
        self.list = list;
        request.state = if request.ios.is_empty() {
            State::Ready
        } else {
            State::Io
        };
        true
    }

    pub(super) fn durable(&mut self, request: &Request, which: Which) {
        match request.what {
            What::Flush => self.oracle.flushed(which, request.since),
            _ => self.oracle.acknowledge(request.write, true),
        }
    }

    pub(super) fn refuse(&mut self, request: &Request, _errno: i32) {
        self.counts.refused += 1;
        if matches!(request.what, What::Write { .. } | What::Zero { .. }) {
            self.oracle.failed(request.write);
        }
    }

    /// Carries out one I/O of a request.
    pub(super) fn one_io(&mut self, request: &mut Request, which: Which) {
        if request.what == What::Read {
            self.one_run(request, which);
            return;
        }
        let at = usize::try_from(self.rng.below(request.ios.len() as u64)).expect("an I/O");
        let io = request.ios.swap_remove(at);
        let result = self.carry_out(io, request, which);
        if let Err(errno) = result {
            request.errno = Some(errno);
            if errno == ESHUTDOWN {
                // It was in flight when the machine stopped: it may still land, see `stop`.
                request.ios.push(io);
            }
        }
    }

    pub(super) fn carry_out(
        &mut self,
        io: WriteIo,
        request: &mut Request,
        which: Which,
    ) -> Result<(), i32> {
        let mut disk = self.disk.borrow_mut();
        let outcome = match io {
            WriteIo::FromRequest {
                request_offset,
                len_bytes,
                at,
            } => {
                let first = request.first + request_offset as usize / SECTOR;
                let sectors = first..first + len_bytes as usize / SECTOR;
                self.buffer.clear();
                self.buffer.extend(
                    sectors.map(|sector| self.oracle.word(which, sector, request.write).bits()),
                );
                disk.write_words(at, &self.buffer)
            }
            WriteIo::Zeroes { len_bytes, at } => disk.zero_sectors(at, u64::from(len_bytes)),
            WriteIo::FromScratch {
                scratch_offset,
                len_bytes,
                at,
            } => disk.write_sectors(
                at,
                &request.scratch[scratch_offset as usize..][..len_bytes as usize],
            ),
            WriteIo::ToScratch {
                scratch_offset,
                len_bytes,
                source,
            } => {
                let into = &mut request.scratch[scratch_offset as usize..][..len_bytes as usize];
                match source {
                    RunSource::Zero => into.fill(0),
                    RunSource::Disk { at, .. } => disk.read_sectors(at, into),
                }
                Ok(())
            }
        };
        outcome.map_err(|fault| fault.errno)
    }
}

fn is_last_phase(request: &Request) -> bool {
    request
        .ios
        .iter()
        .any(|io| matches!(io, WriteIo::FromRequest { .. }))
}
