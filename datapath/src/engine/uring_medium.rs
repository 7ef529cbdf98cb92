//! [`Medium`] on a real disk: large requests are cut into pieces that are in flight together, through aligned buffers.
//!
//! Waits are `io_uring_enter`s, which a fatal signal ends: a thread in `pread` on a hung disk could not be killed, and would keep
//! the claim, and with it the next daemon, from the disk. Nothing here retries what failed, except to go on after a short or an
//! interrupted transfer.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::{opcode, squeue, types};

use super::bounce_ring::{BounceRing, SLOT_BYTES, SLOTS, Slot};
use super::disk_file::DiskFile;
use crate::medium::{IoFault, IoOp, Medium};
use crate::units::{BLOCK_BYTES, ByteOffset};

/// Largest range of one `fallocate`, so that a wait for a slow one stays bounded.
const ZERO_RANGE_BYTES_MAX: u64 = 1 << 30;
/// How often in a row a piece may be answered without progress.
const NO_PROGRESS_MAX: u32 = 64;

/// A disk as the store sees it, on a ring of its own.
///
/// Dropping it waits for I/O in flight, and then lets go of the claim (unless a duplicate of the descriptor exists).
pub struct UringMedium {
    // Declared, and so dropped, before the disk: its I/O ends before the descriptor is closed.
    ring: BounceRing,
    disk: DiskFile,
    /// Until the disk says that it cannot.
    can_zero_range: bool,
}

/// What a transfer moves.
enum Data<'a> {
    Into(&'a mut [u8]),
    From(&'a [u8]),
    /// `RWF_DSYNC`: for a device, forced unit access.
    Durable(&'a [u8]),
    Zeroes(u64),
}

/// A part of a transfer that is in flight.
#[derive(Clone, Copy)]
struct Piece {
    /// Its first byte, from the start of the transfer.
    start: usize,
    len: usize,
    /// Bytes at its start that have been moved.
    done: usize,
    no_progress: u32,
}

impl UringMedium {
    /// Takes the disk over.
    ///
    /// # Errors
    /// When the kernel gives no io_uring (`kernel.io_uring_disabled`, no descriptors, no memory).
    pub fn new(disk: DiskFile) -> io::Result<Self> {
        Ok(Self {
            ring: BounceRing::new()?,
            disk,
            can_zero_range: true,
        })
    }

    /// The disk below.
    pub fn disk(&self) -> &DiskFile {
        &self.disk
    }

    /// Gives the disk, and the claim, back.
    pub fn into_disk(self) -> DiskFile {
        self.disk
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.disk.as_fd().as_raw_fd())
    }

    fn check_range(&self, op: IoOp, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        let inside = at
            .get()
            .checked_add(len_bytes)
            .is_some_and(|end| end <= self.disk.len_bytes());
        if inside && at.get().is_multiple_of(BLOCK_BYTES) && len_bytes.is_multiple_of(BLOCK_BYTES) {
            Ok(())
        } else {
            Err(IoFault {
                op,
                at,
                len_bytes,
                errno: libc::EINVAL,
            })
        }
    }

    /// Moves all of `data`, several pieces at a time. After the first error nothing new is started, and what is in flight is
    /// waited for.
    fn transfer(&mut self, op: IoOp, at: ByteOffset, mut data: Data<'_>) -> Result<(), IoFault> {
        let fault_at = |start: usize, len: usize, errno: i32| IoFault {
            op,
            at: at.plus(start as u64),
            len_bytes: len as u64,
            errno,
        };
        let total = data.len();
        let mut pieces: [Option<Piece>; SLOTS] = [None; SLOTS];
        let mut next = 0;
        let mut fault = None;
        loop {
            for slot in Slot::all() {
                if fault.is_some() || next == total || pieces[slot.index()].is_some() {
                    continue;
                }
                let len = SLOT_BYTES.min(total - next);
                let piece = Piece {
                    start: next,
                    len,
                    done: 0,
                    no_progress: 0,
                };
                match &data {
                    Data::Into(_) => {}
                    Data::From(bytes) | Data::Durable(bytes) => {
                        self.ring.fill(slot, &bytes[next..next + len]);
                    }
                    Data::Zeroes(_) => self.ring.fill_zeroes(slot, len),
                }
                match self.start(slot, op, &data, at, piece) {
                    Ok(()) => pieces[slot.index()] = Some(piece),
                    Err(errno) => fault = Some(fault_at(next, len, errno)),
                }
                next += len;
            }
            if self.ring.is_idle() {
                return fault.map_or(Ok(()), Err);
            }
            let completions = self
                .ring
                .wait()
                .map_err(|errno| fault_at(0, total, errno))?;
            for (slot, result) in completions.into_iter().flatten() {
                let Some(mut piece) = pieces[slot.index()].take() else {
                    continue;
                };
                match self.advance(&mut piece, result) {
                    Ok(()) if piece.done == piece.len => {
                        if let Data::Into(bytes) = &mut data {
                            self.ring
                                .copy_out(slot, &mut bytes[piece.start..piece.start + piece.len]);
                        }
                    }
                    Ok(()) if fault.is_some() => {}
                    Ok(()) => match self.start(slot, op, &data, at, piece) {
                        Ok(()) => pieces[slot.index()] = Some(piece),
                        Err(errno) => {
                            fault = Some(fault_at(
                                piece.start + piece.done,
                                piece.len - piece.done,
                                errno,
                            ));
                        }
                    },
                    Err(errno) => {
                        fault.get_or_insert(fault_at(
                            piece.start + piece.done,
                            piece.len - piece.done,
                            errno,
                        ));
                    }
                }
            }
        }
    }

    /// Queues what is left of a piece.
    fn start(
        &mut self,
        slot: Slot,
        op: IoOp,
        data: &Data<'_>,
        at: ByteOffset,
        piece: Piece,
    ) -> Result<(), i32> {
        let buffer = self.ring.buffer(slot).wrapping_add(piece.done);
        let len = u32::try_from(piece.len - piece.done).map_err(|_| libc::EINVAL)?;
        let offset = at.plus((piece.start + piece.done) as u64).get();
        let entry = if op == IoOp::Read {
            opcode::Read::new(self.fd(), buffer, len)
                .offset(offset)
                .build()
        } else {
            let flags = match data {
                Data::Durable(_) => libc::RWF_DSYNC,
                _ => 0,
            };
            opcode::Write::new(self.fd(), buffer.cast_const(), len)
                .offset(offset)
                .rw_flags(flags)
                .build()
        };
        // SAFETY: the entry names bytes `done..len` of a piece that is at most SLOT_BYTES long, in this slot's buffer; the
        // descriptor is the disk's, which is open as long as `self`.
        unsafe { self.ring.start(slot, entry) }
    }

    /// Takes note of a completion. Direct I/O goes on from a whole logical block only, so a part of one is moved again.
    fn advance(&self, piece: &mut Piece, result: i32) -> Result<(), i32> {
        let moved = match usize::try_from(result) {
            // The range was checked against the disk's length: this disk has become shorter.
            Ok(0) => return Err(libc::EIO),
            Ok(bytes) => bytes.min(piece.len - piece.done),
            Err(_) if result == -libc::EINTR || result == -libc::EAGAIN => 0,
            Err(_) => return Err(-result),
        };
        let block = self.disk.logical_block_bytes() as usize;
        let progress = if piece.done + moved == piece.len {
            moved
        } else {
            moved / block * block
        };
        piece.done += progress;
        piece.no_progress = if progress == 0 {
            piece.no_progress + 1
        } else {
            0
        };
        if piece.no_progress > NO_PROGRESS_MAX {
            Err(libc::EIO)
        } else {
            Ok(())
        }
    }

    /// Carries out one request without a buffer.
    fn run(&mut self, entry: squeue::Entry) -> Result<(), i32> {
        // SAFETY: the entry names no memory; the descriptor is the disk's, which is open as long as `self`.
        unsafe { self.ring.start(Slot::FIRST, entry)? };
        let completions = self.ring.wait()?;
        match completions.into_iter().flatten().next() {
            Some((_, result)) if result >= 0 => Ok(()),
            Some((_, result)) => Err(-result),
            None => Err(libc::EIO),
        }
    }
}

impl Medium for UringMedium {
    fn len_bytes(&self) -> u64 {
        self.disk.len_bytes()
    }

    fn read(&mut self, at: ByteOffset, into: &mut [u8]) -> Result<(), IoFault> {
        self.check_range(IoOp::Read, at, into.len() as u64)?;
        self.transfer(IoOp::Read, at, Data::Into(into))
    }

    fn write(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.check_range(IoOp::Write, at, from.len() as u64)?;
        self.transfer(IoOp::Write, at, Data::From(from))
    }

    fn write_durable(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.check_range(IoOp::Write, at, from.len() as u64)?;
        self.transfer(IoOp::Write, at, Data::Durable(from))
    }

    /// `FALLOC_FL_ZERO_RANGE`, which devices and file systems do without moving bytes where they can; else zeros are written.
    fn write_zeroes(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        let op = IoOp::WriteZeroes;
        self.check_range(op, at, len_bytes)?;
        let mut done = 0;
        while done < len_bytes && self.can_zero_range {
            let chunk = ZERO_RANGE_BYTES_MAX.min(len_bytes - done);
            let at = at.plus(done);
            // KEEP_SIZE: a disk that is a file must not grow. ZERO_RANGE keeps its blocks allocated, where a hole could
            // not be filled again on a full file system.
            let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
            let entry = opcode::Fallocate::new(self.fd(), chunk)
                .offset(at.get())
                .mode(mode)
                .build();
            match self.run(entry) {
                Ok(()) => done += chunk,
                Err(libc::EOPNOTSUPP) => self.can_zero_range = false,
                Err(errno) => {
                    return Err(IoFault {
                        op,
                        at,
                        len_bytes: chunk,
                        errno,
                    });
                }
            }
        }
        if done == len_bytes {
            return Ok(());
        }
        self.transfer(op, at.plus(done), Data::Zeroes(len_bytes - done))
    }

    /// `fdatasync`, always: for a device whose cache is write-through the kernel sends nothing to it, and it knows the cache's
    /// mode now, where [`DiskFile::write_cache`] knows what it was. A failed one is never repeated.
    fn flush(&mut self) -> Result<(), IoFault> {
        let entry = opcode::Fsync::new(self.fd())
            .flags(types::FsyncFlags::DATASYNC)
            .build();
        self.run(entry).map_err(|errno| IoFault {
            op: IoOp::Flush,
            at: ByteOffset::new(0),
            len_bytes: 0,
            errno,
        })
    }
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Data::Into(bytes) => bytes.len(),
            Data::From(bytes) | Data::Durable(bytes) => bytes.len(),
            // 64-bit only: a disk's length fits an usize.
            Data::Zeroes(len_bytes) => usize::try_from(*len_bytes).unwrap_or(usize::MAX),
        }
    }
}

impl fmt::Debug for UringMedium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringMedium")
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}
