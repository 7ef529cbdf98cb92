//! Data of requests whose pages are not in the ring's buffer table: pread and pwrite of `/dev/ublkcN` (`ublk_user_copy`,
//! drivers/block/ublk_drv.c), between the request's pages and a buffer of ours.
//!
//! By plain system calls, and not by the ring. Either way the bytes are copied at once, in this thread; the call takes fewer instructions
//! than an entry of the ring and its completion, and its request goes on in the same turn (docs/performance.md).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Reactor;
use crate::sys;

/// How often in a row a copy may be interrupted.
const RETRIES_MAX: u32 = 64;

impl Reactor {
    /// Copies what was read into the request's pages, and ends the request.
    pub(super) fn copy_in(&mut self, number: u32) {
        let skipped = self.skipped_bytes(number) as usize;
        let slot = self.slots[number as usize];
        let copied = self.with_copy(number, skipped, |device, bytes, position| {
            move_all(bytes.len(), |done| {
                device.write_at(&bytes[done..], position + done as u64)
            })
        });
        match copied {
            Ok(()) => self.finish(number, slot.success()),
            Err(error) => self.copy_failed(number, false, &error),
        }
    }

    /// Copies the data of a write to its buffer, and goes on with it.
    pub(super) fn copy_out(&mut self, number: u32) {
        let copied = self.with_copy(number, 0, |device, bytes, position| {
            move_all(bytes.len(), |done| {
                device.read_at(&mut bytes[done..], position + done as u64)
            })
        });
        match copied {
            Ok(()) => self.drive(number),
            Err(error) => self.copy_failed(number, true, &error),
        }
    }

    /// Hands out the device of a request, the request's bytes in its buffer, which begin after `skipped` ones, and where they are in the device.
    fn with_copy(
        &mut self,
        number: u32,
        skipped: usize,
        copy: impl FnOnce(&File, &mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let slot = self.slots[number as usize];
        let (Some(Some(queue)), Some(buffer)) =
            (self.queues.get(slot.queue as usize), slot.copy_buffer)
        else {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        };
        let bytes = self
            .pool
            .bytes(buffer)
            .get_mut(skipped..skipped + slot.len_bytes as usize);
        let bytes = bytes.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        copy(
            &queue.device,
            bytes,
            sys::copy_position(queue.queue, slot.tag),
        )
    }

    fn copy_failed(&mut self, number: u32, is_write: bool, error: &io::Error) {
        if let Some(queue) = self.queue_of(number) {
            tracing::error!(dev_id = %queue.dev_id, is_write, %error, "a copy by way of /dev/ublkcN failed");
        }
        self.finish(number, -error.raw_os_error().unwrap_or(libc::EIO));
    }
}

/// Moves `len` bytes, by calls that are told how many are done and answer how many they moved.
fn move_all(len: usize, mut some: impl FnMut(usize) -> io::Result<usize>) -> io::Result<()> {
    let (mut done, mut retries) = (0, 0);
    while done < len {
        match some(done) {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::EIO)),
            Ok(moved) => (done, retries) = (done + moved, 0),
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
                    && retries < RETRIES_MAX =>
            {
                retries += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(errno: i32) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn a_copy_goes_on_where_it_stopped_and_is_tried_again_when_interrupted() {
        let mut told = Vec::new();
        let mut answers = [Ok(512), error(libc::EINTR), Ok(3072), Ok(512)].into_iter();
        let moved = move_all(4096, |done| {
            told.push(done);
            answers.next().unwrap()
        });
        assert!(moved.is_ok());
        assert_eq!(told, [0, 512, 512, 3584]);
    }

    #[test]
    fn a_copy_that_does_not_move_ends_in_an_error() {
        let errno = |answer: fn() -> io::Result<usize>| {
            move_all(4096, |_| answer()).unwrap_err().raw_os_error()
        };
        assert_eq!(errno(|| Ok(0)), Some(libc::EIO));
        assert_eq!(errno(|| error(libc::EFAULT)), Some(libc::EFAULT));
        assert_eq!(errno(|| error(libc::EAGAIN)), Some(libc::EAGAIN));
    }
}
