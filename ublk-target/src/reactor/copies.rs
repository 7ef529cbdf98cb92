//! Data of requests whose pages are not in the ring's buffer table: pread and pwrite of `/dev/ublkcN` (`ublk_user_copy`,
//! drivers/block/ublk_drv.c), between the request's pages and a buffer of ours.
//!
//! A copy that stops short goes on where it stopped; one that moves nothing is an error (std's `write_all_at` and `read_exact_at`).
//!
//! By plain system calls, and not by the ring. Either way the bytes are copied at once, in this thread; the call takes fewer instructions
//! than an entry of the ring and its completion, and its request goes on in the same turn (docs/performance.md).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Reactor;
use crate::sys;

impl Reactor {
    /// Copies what was read into the request's pages, and ends the request.
    pub(super) fn copy_in(&mut self, number: u32) {
        let skipped = self.skipped_bytes(number) as usize;
        let slot = self.slots[number as usize];
        let copied = self.with_copy(number, skipped, |device, bytes, position| {
            device.write_all_at(bytes, position)
        });
        match copied {
            Ok(()) => self.finish(number, slot.success()),
            Err(error) => self.copy_failed(number, false, &error),
        }
    }

    /// Copies the data of a write to its buffer, and goes on with it.
    pub(super) fn copy_out(&mut self, number: u32) {
        let copied = self.with_copy(number, 0, |device, bytes, position| {
            device.read_exact_at(bytes, position)
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
