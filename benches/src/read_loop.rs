//! Random 4 KiB reads at a fixed depth, in the two ways that are compared: through plan and [`Executor`], as a reactor does it,
//! and with nothing but `io_uring`. Same ring flags, same registered file, same kind of buffers, same sequence of places.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use bedplate_datapath::engine::DiskFile;
use bedplate_datapath::engine::executor::{Begun, Executor, RequestBuffer, RequestIndex};
use bedplate_datapath::engine::ring::Ring;
use bedplate_datapath::plan::{LayerStack, RunList};
use bedplate_datapath::units::{BLOCK_BYTES, ByteOffset};
use io_uring::squeue::{self, SubmissionQueue};
use io_uring::{IoUring, opcode, types};

use crate::buffers::{BLOCK, Buffers};
use crate::engine;
use crate::random::Random;

pub use crate::buffers::DEPTH;

const _: () = assert!(BLOCK as u64 == BLOCK_BYTES);

/// Reads through plan and executor.
pub struct EngineLoop {
    ring: Ring,
    executor: Executor,
    buffers: Buffers,
    runs: RunList,
    stack: LayerStack,
}

impl EngineLoop {
    /// Reads of `stack`, of which every layer is on `disk`.
    ///
    /// # Errors
    /// If the kernel gives no ring.
    pub fn new(disk: &DiskFile, stack: LayerStack) -> io::Result<Self> {
        let (ring, executor) = engine::over(disk)?;
        Ok(Self {
            ring,
            executor,
            buffers: Buffers::new(),
            runs: RunList::new(),
            stack,
        })
    }

    /// Reads of `stack` from now on.
    pub fn serve(&mut self, stack: LayerStack) {
        self.stack = stack;
    }

    /// Does `reads` random reads.
    ///
    /// # Panics
    /// If one of them fails.
    pub fn run(&mut self, random: &mut Random, reads: u32) {
        let mut begun = 0;
        let mut ended = 0;
        while begun < reads.min(DEPTH) {
            self.begin(random, begun);
            begun += 1;
        }
        while ended < reads {
            self.ring.submit_and_wait().expect("submit");
            while let Some(completion) = self.ring.next_completion() {
                let Some(done) = self.executor.complete(&mut self.ring, completion) else {
                    continue;
                };
                assert_eq!(done.outcome, Ok(()));
                ended += 1;
                if begun < reads {
                    self.begin(random, done.request.0);
                    begun += 1;
                }
            }
        }
    }

    fn begin(&mut self, random: &mut Random, read: u32) {
        let block = random.below(self.stack.size_bytes / BLOCK_BYTES);
        let at = ByteOffset::new(block * BLOCK_BYTES);
        self.stack
            .plan_read(at, BLOCK, &mut self.runs)
            .expect("plan");
        let buffer = RequestBuffer::Memory(self.buffers.of(read));
        // SAFETY: the buffer is as long as the request and is never freed. Nothing but this read uses it before the read has
        // ended: `run` gives a read's number again only then.
        let begun = unsafe {
            self.executor.begin_read(
                &mut self.ring,
                RequestIndex(read),
                buffer,
                self.runs.as_slice(),
            )
        };
        assert_eq!(begun, Begun::InFlight);
    }
}

/// Reads and writes with bare `io_uring`: the least that a program can do.
pub struct RawLoop {
    ring: IoUring,
    buffers: Buffers,
    blocks: u64,
}

impl RawLoop {
    /// Reads of the first `len_bytes` of `disk`.
    ///
    /// # Errors
    /// If the kernel gives no ring.
    pub fn new(disk: &DiskFile, len_bytes: u64) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(128)
            .build(64)?;
        ring.submitter()
            .register_files(&[disk.as_fd().as_raw_fd()])?;
        Ok(Self {
            ring,
            buffers: Buffers::new(),
            blocks: len_bytes / BLOCK_BYTES,
        })
    }

    /// Does `reads` random reads.
    ///
    /// # Panics
    /// If one of them fails.
    pub fn run(&mut self, random: &mut Random, reads: u32) {
        self.run_with(random, reads, |buffer, at| {
            opcode::Read::new(types::Fixed(0), buffer, BLOCK)
                .offset(at)
                .build()
        });
    }

    /// Does `writes` random writes.
    ///
    /// # Panics
    /// If one of them fails.
    pub fn write(&mut self, random: &mut Random, writes: u32) {
        self.run_with(random, writes, |buffer, at| {
            opcode::Write::new(types::Fixed(0), buffer, BLOCK)
                .offset(at)
                .build()
        });
    }

    fn run_with(
        &mut self,
        random: &mut Random,
        reads: u32,
        entry: impl Fn(*mut u8, u64) -> squeue::Entry,
    ) {
        let (submitter, mut submissions, mut completions) = self.ring.split();
        let (blocks, buffers) = (self.blocks, &self.buffers);
        let mut begin = |submissions: &mut SubmissionQueue<'_>, read: u32| {
            let at = random.below(blocks) * BLOCK_BYTES;
            let entry = entry(buffers.of(read), at).user_data(read.into());
            // SAFETY: as in `EngineLoop::begin`.
            unsafe { submissions.push(&entry) }.expect("the queue is longer than the depth");
        };
        let mut begun = 0;
        let mut ended = 0;
        while begun < reads.min(DEPTH) {
            begin(&mut submissions, begun);
            begun += 1;
        }
        while ended < reads {
            submissions.sync();
            submitter.submit_and_wait(1).expect("submit");
            completions.sync();
            for completion in completions.by_ref() {
                assert_eq!(completion.result(), i32::try_from(BLOCK).unwrap_or(0));
                ended += 1;
                if begun < reads {
                    let read = u32::try_from(completion.user_data()).unwrap_or(0);
                    begin(&mut submissions, read);
                    begun += 1;
                }
            }
        }
    }
}
