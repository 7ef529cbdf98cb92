//! Buffers of one size, a fixed number for each reactor, taken and given by number: for data that must be copied, and for the blocks
//! that writes copy up.

use bedplate_datapath::engine::executor::RequestBuffer;
use bedplate_datapath::engine::ring::Ring;
use memmap2::{Advice, MmapMut, MmapOptions};

/// Largest request of a device, and so the size of a buffer for its data.
pub(crate) const COPY_BYTES: usize = 1 << 20;

/// A buffer for a request's data: a block longer, since a request that is read in whole blocks may begin and end within one.
pub(crate) const COPY_BUFFER_BYTES: usize = COPY_BYTES + 4096;

/// Anonymous memory cut into buffers. Untouched pages cost nothing; the last buffer given back is the next one taken, so that
/// a light load stays in few of them.
pub(crate) struct BufferPool {
    memory: MmapMut,
    buffer_bytes: usize,
    free: Vec<u16>,
    /// The first bytes of each buffer that are in the ring's buffer table too, at the buffer's number; 0: none are.
    pinned_bytes: usize,
}

/// As much of each buffer is pinned: what most requests need. So a reactor pins 1 MiB for 64 buffers.
const PINNED_BYTES: usize = 16 << 10;

impl BufferPool {
    /// `buffer_bytes` a multiple of a page: then every buffer is aligned for any disk's DMA.
    pub(crate) fn new(buffers: u16, buffer_bytes: usize) -> std::io::Result<Self> {
        let memory = MmapOptions::new()
            .len(usize::from(buffers) * buffer_bytes)
            .map_anon()?;
        // Buffers are more than a MiB apart, and little of each is used: huge pages would make all of them resident with the first touch. A kernel
        // that has none refuses the advice.
        let _ = memory.advise(Advice::NoHugePage);
        Ok(Self {
            memory,
            buffer_bytes,
            free: (0..buffers).rev().collect(),
            pinned_bytes: 0,
        })
    }

    /// Puts the beginning of each buffer into the ring's buffer table, whose first slots are theirs: I/O of short requests finds its pages
    /// there (docs/performance.md, "On 6.12"). Once, before any buffer is taken.
    ///
    /// # Errors
    /// What the kernel has against it, `ENOMEM` where locked memory is short; then nothing is pinned, and requests do without.
    pub(crate) fn pin(&mut self, ring: &Ring) -> std::io::Result<()> {
        for buffer in self.free.clone() {
            let start = self.start(buffer);
            // SAFETY: the memory lives as long as the pool, which is dropped or leaked after the last I/O; the table's reference keeps the pages
            // beyond that. Nobody moves bytes there but I/O of the request that has the buffer.
            let pinned = unsafe { ring.install_buffer(buffer.into(), start, PINNED_BYTES) };
            if pinned.is_err() {
                self.unpin(ring);
                return pinned;
            }
        }
        self.pinned_bytes = PINNED_BYTES;
        Ok(())
    }

    /// Empties the slots of all buffers, also of those that were not filled.
    fn unpin(&self, ring: &Ring) {
        for buffer in &self.free {
            // A slot beyond the table's end has nothing to be let go of.
            // SAFETY: no memory is named.
            let _ = unsafe { ring.install_buffer((*buffer).into(), std::ptr::null_mut(), 0) };
        }
    }

    /// Where I/O finds a request's data, `len_bytes` long, in `buffer`.
    #[inline]
    pub(crate) fn request_buffer(&mut self, buffer: u16, len_bytes: usize) -> RequestBuffer {
        let start = self.start(buffer);
        if len_bytes <= self.pinned_bytes {
            RequestBuffer::Pinned {
                start,
                index: buffer,
            }
        } else {
            RequestBuffer::Memory(start)
        }
    }

    pub(crate) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    pub(crate) fn give(&mut self, buffer: u16) {
        self.free.push(buffer);
    }

    /// First byte of `buffer`. The memory lives as long as the pool.
    pub(crate) fn start(&mut self, buffer: u16) -> *mut u8 {
        self.memory
            .as_mut_ptr()
            .wrapping_add(usize::from(buffer) * self.buffer_bytes)
    }

    /// All of `buffer`, of which no I/O is in flight; nothing for a number that was never handed out.
    pub(crate) fn bytes(&mut self, buffer: u16) -> &mut [u8] {
        let start = usize::from(buffer) * self.buffer_bytes;
        let bytes = self.memory.get_mut(start..start + self.buffer_bytes);
        bytes.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use bedplate_datapath::engine::executor::{
        Begun, Executor, FileSlots, RequestIndex, WriteBuffers,
    };
    use bedplate_datapath::engine::ring::RingConfig;
    use bedplate_datapath::plan::{DiskIndex, Run, RunSource};
    use bedplate_datapath::units::ByteOffset;
    use bedplate_datapath::volume::write::WriteIo;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    const REQUEST: RequestIndex = RequestIndex(0);
    const DISK: DiskIndex = DiskIndex::new(0);

    fn ring(buffers: u32) -> Option<Ring> {
        let made = Ring::new(&RingConfig {
            submissions: 8,
            completions: 16,
            file_slots: 1,
            buffer_slots: buffers,
        });
        made.map_err(|error| println!("skipped: no ring here: {error}"))
            .ok()
    }

    fn end(executor: &mut Executor, ring: &mut Ring) {
        loop {
            ring.submit_and_wait().expect("a ring");
            while let Some(completion) = ring.next_completion() {
                if let Some(ended) = executor.complete(ring, completion) {
                    assert_eq!(ended.outcome, Ok(()));
                    return;
                }
            }
        }
    }

    #[test]
    fn short_requests_find_their_pages_pinned() {
        let Some(ring) = ring(3) else { return };
        let mut pool = BufferPool::new(3, COPY_BUFFER_BYTES).expect("memory");
        let is_pinned = |pool: &mut BufferPool, buffer, len| match pool.request_buffer(buffer, len)
        {
            RequestBuffer::Pinned { start, index } => {
                assert_eq!((start, index), (pool.start(buffer), buffer));
                true
            }
            RequestBuffer::Memory(start) => {
                assert_eq!(start, pool.start(buffer));
                false
            }
            RequestBuffer::Registered(_) => unreachable!(),
        };
        assert!(!is_pinned(&mut pool, 1, 4096));
        pool.pin(&ring).expect("locked memory");
        for buffer in 0..3 {
            assert!(is_pinned(&mut pool, buffer, 512));
            assert!(is_pinned(&mut pool, buffer, PINNED_BYTES));
            assert!(!is_pinned(&mut pool, buffer, PINNED_BYTES + 512));
        }
    }

    /// Where huge pages are always on, the first touch of each would bring a MiB.
    #[test]
    fn what_nobody_uses_of_a_buffer_takes_no_memory() {
        let Some(ring) = ring(64) else { return };
        let mut pool = BufferPool::new(64, COPY_BUFFER_BYTES).expect("memory");
        let flags = flags_of(pool.start(0));
        assert!(flags.is_empty() || flags.contains("nh"), "{flags}");
        pool.pin(&ring).expect("locked memory");
    }

    /// `VmFlags` of the mapping that begins at `start`, proc_pid_smaps(5); nothing where the kernel has no huge pages to be advised about.
    fn flags_of(start: *mut u8) -> String {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return String::new();
        }
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("readable");
        let mut lines = smaps.lines();
        let is_it = |line: &&str| {
            let range = line
                .split_once(' ')
                .and_then(|(range, _)| range.split_once('-'));
            let within = |(from, to): (&str, &str)| {
                let [from, to] = [from, to].map(|at| usize::from_str_radix(at, 16));
                from.is_ok_and(|from| from <= start.addr()) && to.is_ok_and(|to| start.addr() < to)
            };
            range.is_some_and(within)
        };
        lines.find(is_it).expect("mapped");
        let flags = lines.find_map(|line| line.strip_prefix("VmFlags:"));
        flags.expect("flags").to_owned()
    }

    #[test]
    fn a_pool_that_cannot_be_pinned_goes_without() {
        let Some(ring) = ring(2) else { return };
        let mut pool = BufferPool::new(3, COPY_BUFFER_BYTES).expect("memory");
        assert!(pool.pin(&ring).is_err());
        assert!(matches!(
            pool.request_buffer(0, 4096),
            RequestBuffer::Memory(_)
        ));
    }

    #[test]
    fn pinned_buffers_are_read_and_written_where_requests_say() {
        let file = memfd_create("disk", MFdFlags::MFD_CLOEXEC).expect("a file");
        let file = std::fs::File::from(file);
        let bytes = (0..16384u32).map(|n| (n / 512 + 1).to_le_bytes()[0]);
        file.write_all_at(&bytes.collect::<Vec<u8>>(), 0)
            .expect("written");
        let Some(mut ring) = ring(4) else { return };
        ring.install_file(0, file.as_fd()).expect("a place");
        let files = FileSlots {
            zero: 0,
            first_disk: 0,
        };
        let mut executor = Executor::new(files, 1 << 32);
        executor.reserve_requests(1);
        let mut pool = BufferPool::new(4, COPY_BUFFER_BYTES).expect("memory");
        pool.pin(&ring).expect("locked memory");
        // Not the first one: its number and its place in the table must agree.
        let buffer = [pool.take(), pool.take()][1].expect("a buffer");
        pool.bytes(buffer).fill(0xee);

        let run = |request_offset, source| Run {
            request_offset,
            len_bytes: 4096,
            source,
        };
        let at = |at| RunSource::Disk {
            disk: DISK,
            at: ByteOffset::new(at),
        };
        let runs = [
            run(0, at(8192)),
            run(4096, RunSource::Zero),
            run(8192, at(4096)),
        ];
        let data = pool.request_buffer(buffer, 12288);
        assert!(matches!(data, RequestBuffer::Pinned { .. }));
        // SAFETY: the buffer is ours, is longer than the runs, and is left alone until they have ended.
        let begun = unsafe { executor.begin_read(&mut ring, REQUEST, data, &runs) };
        assert_eq!(begun, Begun::InFlight);
        end(&mut executor, &mut ring);
        let got = pool.bytes(buffer);
        assert_eq!((got[0], got[4095]), (17, 24));
        assert!(got[4096..8192].iter().all(|byte| *byte == 0));
        assert_eq!((got[8192], got[12287], got[12288]), (9, 16, 0xee));

        got[..4096].fill(0x55);
        got[4096..8192].fill(0x66);
        let ios = [WriteIo::FromRequest {
            request_offset: 4096,
            len_bytes: 4096,
            at: ByteOffset::new(0),
        }];
        let buffers = WriteBuffers {
            data: pool.request_buffer(buffer, 8192),
            scratch: std::ptr::null_mut(),
        };
        // SAFETY: as above.
        let begun = unsafe { executor.begin_write(&mut ring, REQUEST, DISK, buffers, &ios) };
        assert_eq!(begun, Begun::InFlight);
        end(&mut executor, &mut ring);
        let mut now = [0; 4608];
        file.read_exact_at(&mut now, 0).expect("read");
        assert!(now[..4096].iter().all(|byte| *byte == 0x66));
        assert_eq!(now[4096], 9);
    }
}
