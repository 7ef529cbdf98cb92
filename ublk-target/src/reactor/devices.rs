//! Queues come to a reactor and go. Off the request path: here it may allocate.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use bedplate_datapath::plan::LayerStack;
use bedplate_datapath::units::DevId;

use super::command::{NewQueue, NewQueues, Reply};
use super::park::Standing;
use super::requests::Slot;
use super::writes::Writes;
use super::{CACHED_CLUSTERS_MAX, Reactor, TAGS_MAX};
use crate::backing::{Backing, RecordedChecksums};
use crate::queue::{CommandFile, Descriptors, TagAddress};
use crate::stats::QueueStats;

/// Buffer index of a tag that has no place in the buffer table: no table is that long, so the kernel delivers the request
/// marked as lacking a buffer, and it is copied.
pub(super) const NO_BUFFER: u16 = u16::MAX;

/// A hardware queue that this reactor serves.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Served {
    pub(super) dev_id: DevId,
    /// Its number in the device.
    pub(super) queue: u16,
    depth: u16,
    /// `/dev/ublkcN`, for copies.
    pub(super) device: Arc<File>,
    commands: CommandFile,
    /// First slot of the reactor that is this queue's.
    first_slot: u32,
    buffers: Buffers,
    /// The same for reads; [`Buffers::Copied`] where they are compared with checksums.
    read_buffers: Buffers,
    pub(super) descriptors: Descriptors,
    pub(super) stats: Arc<QueueStats>,
    pub(super) stack: Arc<LayerStack>,
    /// Some layer may be read from another disk than its first.
    pub(super) has_replicas: bool,
    /// Reads of an image are compared with its checksums. Decided when the queue comes.
    pub(super) is_checked: bool,
    /// Of a device that can be written.
    pub(super) writes: Option<Writes>,
    /// Of a device that compares what it reads of an image: who has the checksums.
    pub(super) checksums: Option<Arc<dyn RecordedChecksums>>,
    /// Tags whose FETCH the kernel has.
    pub(super) fetching: u32,
    /// Tags whose request we have.
    pub(super) working: u32,
    /// The kernel takes its tags back.
    pub(super) closing: bool,
    /// It answered a command with this errno.
    pub(super) refused: Option<i32>,
    pub(super) standing: Standing,
    /// Its device is being taken away: no request waits for a disk.
    pub(super) is_ending: bool,
}

/// How requests of a queue get their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Buffers {
    /// Copied; the device was added without auto buffer registration.
    Copied,
    /// Copied, though the device was added with it: this kernel registers no pages of requests.
    NoTable,
    /// Registered by the kernel, from this slot of the buffer table on.
    Registered(u16),
    /// The same, with slots that other queues have too. Whose request comes while the other's is in the slot is delivered without a buffer
    /// (`UBLK_AUTO_BUF_REG_FALLBACK`), and is copied.
    Shared(u16),
}

impl Buffers {
    fn registered(self, tag: u16) -> Option<u16> {
        match self {
            Self::Registered(first) | Self::Shared(first) => Some(first + tag),
            Self::Copied | Self::NoTable => None,
        }
    }

    /// Those of reads.
    fn of_reads(self, backing: &Backing) -> Self {
        if backing.checksums.is_some() {
            Self::Copied
        } else {
            self
        }
    }
}

/// What this reactor has of a device.
pub(super) struct Device {
    /// Slot of `/dev/ublkcN` in the file table.
    file: u32,
    /// Numbers of its queues in the reactor.
    queues: Vec<u32>,
    /// Told when nothing is left.
    forgotten: Vec<Reply<()>>,
}

/// Whether a layer has several replicas.
fn has_replicas(stack: &LayerStack) -> bool {
    let mut sets = stack.layers.iter().filter_map(|layer| layer.replicas());
    sets.any(|replicas| replicas.set().len() > 1)
}

impl Served {
    pub(super) fn registered_buffer(&self, tag: u16) -> Option<u16> {
        self.buffers.registered(tag)
    }

    /// The same for a read: none where it is compared with checksums first.
    pub(super) fn read_buffer(&self, tag: u16) -> Option<u16> {
        self.read_buffers.registered(tag)
    }

    pub(super) fn address(&self, tag: u16) -> TagAddress {
        let buffer = match self.buffers {
            Buffers::Copied => None,
            Buffers::NoTable => Some(NO_BUFFER),
            Buffers::Registered(first) | Buffers::Shared(first) => Some(first + tag),
        };
        TagAddress {
            commands: self.commands,
            queue: self.queue,
            tag,
            buffer,
        }
    }
}

impl Reactor {
    /// Takes queues over: FETCHes of all their tags are on their way when this returns.
    pub(super) fn serve(&mut self, new: NewQueues, reply: Reply<io::Result<()>>) {
        let dev_id = new.dev_id;
        match self.admit(new) {
            Ok(first_slots) => {
                for (first, depth) in first_slots {
                    for slot in first..first + u32::from(depth) {
                        self.fetch(slot);
                    }
                }
                self.starting.push((dev_id, reply));
            }
            Err(error) => {
                // The one who asked may be gone.
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Gives a device's queues their places; all of them, or none.
    fn admit(&mut self, new: NewQueues) -> io::Result<Vec<(u32, u16)>> {
        let depth = u32::from(new.depth);
        let mut ranges = Vec::with_capacity(new.queues.len());
        for _ in &new.queues {
            match self.tags.take(depth) {
                Some(first) => ranges.push(first),
                None => break,
            }
        }
        let file = if ranges.len() == new.queues.len() {
            self.free_device_files.pop()
        } else {
            None
        };
        let installed = file
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENFILE))
            .and_then(|file| {
                self.ring
                    .install_file(file, new.device.as_fd())
                    .map(|()| file)
            });
        let file = match installed {
            Ok(file) => file,
            Err(error) => {
                for first in ranges {
                    self.tags.give(first, depth);
                }
                self.free_device_files.extend(file);
                return Err(error);
            }
        };
        let commands = if self.commands_by_table {
            CommandFile::Slot(file)
        } else {
            CommandFile::Descriptor(new.device.as_raw_fd())
        };
        let device = Device {
            file,
            queues: Vec::with_capacity(ranges.len()),
            forgotten: Vec::new(),
        };
        self.devices.insert(new.dev_id, device);
        let mut placed = Vec::with_capacity(ranges.len());
        for (new_queue, first_slot) in new.queues.into_iter().zip(ranges) {
            let NewQueue {
                queue,
                descriptors,
                stats,
            } = new_queue;
            let buffers = self.place_buffers(new.auto_buffers, depth);
            self.place(Served {
                dev_id: new.dev_id,
                queue,
                depth: new.depth,
                device: Arc::clone(&new.device),
                commands,
                first_slot,
                buffers,
                read_buffers: buffers.of_reads(&new.backing),
                is_checked: new.backing.checksums.is_some(),
                checksums: new.backing.checksums.clone(),
                descriptors,
                stats,
                has_replicas: has_replicas(&new.backing.stack),
                stack: Arc::clone(&new.backing.stack),
                writes: new
                    .backing
                    .writable
                    .as_ref()
                    .map(|writable| Writes::new(writable, new.depth)),
                fetching: 0,
                working: 0,
                closing: false,
                refused: None,
                standing: Standing::default(),
                is_ending: false,
            });
            placed.push((first_slot, new.depth));
        }
        Ok(placed)
    }

    fn place_buffers(&mut self, wanted: bool, depth: u32) -> Buffers {
        if !wanted {
            return Buffers::Copied;
        }
        let slot = |first: u32| u16::try_from(first).ok();
        if let Some(first) = self.buffers.take(depth).and_then(slot) {
            return Buffers::Registered(first);
        }
        // A table holds the tags of 256 queues of depth 64. Most of a thousand devices are idle, so two requests seldom meet in a slot.
        // Each next queue shares the next slots, so that no slot has many more than others.
        let last = self.buffer_slots.saturating_sub(depth);
        if self.buffer_slots < depth {
            return Buffers::NoTable;
        }
        if self.next_shared > last {
            self.next_shared = 0;
        }
        let first = self.next_shared;
        self.next_shared += depth;
        slot(first).map_or(Buffers::NoTable, Buffers::Shared)
    }

    fn place(&mut self, served: Served) {
        let queue = self.free_queues.pop().unwrap_or_else(|| {
            self.queues.push(None);
            // TAGS_MAX bounds the number of queues.
            u32::try_from(self.queues.len() - 1).unwrap_or(u32::MAX)
        });
        let number = queue as usize;
        if let Some(device) = self.devices.get_mut(&served.dev_id) {
            device.queues.push(queue);
        }
        let end = served.first_slot + u32::from(served.depth);
        self.note_maps(&served.stack);
        self.make_room(end);
        for (tag, slot) in (0..served.depth).zip(served.first_slot..) {
            self.slots[slot as usize] = Slot::new(queue, tag);
        }
        self.queues[number] = Some(served);
    }

    /// A device is served from these maps.
    pub(super) fn note_maps(&mut self, stack: &LayerStack) {
        let mut layers = stack.layers.iter();
        self.foresees |= layers.any(|layer| layer.map.len() > CACHED_CLUSTERS_MAX);
    }

    /// Room for slots below `end`.
    pub(super) fn make_room(&mut self, end: u32) {
        debug_assert!(end <= TAGS_MAX, "ranges are handed out below the limit");
        if self.slots.len() < end as usize {
            self.slots.resize(end as usize, Slot::new(0, 0));
            self.executor.reserve_requests(end);
            self.stopwatch.make_room(self.slots.len());
            for waiting in &mut self.waiting {
                waiting.reserve(self.slots.len() - waiting.len());
            }
            self.blocked.reserve(self.slots.len() - self.blocked.len());
            self.for_disk
                .reserve(self.slots.len() - self.for_disk.len());
        }
    }

    /// Takes longer layers, and a longer volume, for a device's queues. Whether its reads are compared with checksums stays as it is. Reads in flight have their plans; see [`Writes::grow`] for writes.
    pub(super) fn resize(&mut self, dev_id: DevId, backing: &Backing) {
        let Some(device) = self.devices.get(&dev_id) else {
            return;
        };
        for number in &device.queues {
            let Some(Some(queue)) = self.queues.get_mut(*number as usize) else {
                continue;
            };
            queue.has_replicas = has_replicas(&backing.stack);
            queue.stack = Arc::clone(&backing.stack);
            queue.checksums.clone_from(&backing.checksums);
            if let (Some(writes), Some(writable)) = (&mut queue.writes, &backing.writable) {
                writes.grow(writable);
            }
        }
        self.note_maps(&backing.stack);
    }

    /// Answers when nothing is left of a device; the kernel must have been told to stop it.
    pub(super) fn forget(&mut self, dev_id: DevId, reply: Reply<()>) {
        match self.devices.get_mut(&dev_id) {
            Some(device) => device.forgotten.push(reply),
            None => {
                // The one who asked may be gone.
                let _ = reply.send(());
            }
        }
    }

    /// The errno with which the kernel refused a command of this device, if it did.
    pub(super) fn refused(&self, dev_id: DevId) -> Option<i32> {
        let Some(device) = self.devices.get(&dev_id) else {
            // Every tag came back, and the device is released already.
            return Some(libc::ENODEV);
        };
        let mut queues = device.queues.iter();
        queues.find_map(|number| self.queues.get(*number as usize)?.as_ref()?.refused)
    }

    /// Lets go of a queue when the kernel has taken all its tags back, and of the device with its last queue: this is the fence
    /// of recovery, `/dev/ublkcN` leaves the ring only when no operation of the device is in it.
    pub(super) fn release_if_done(&mut self, number: u32) {
        let Some(place) = self.queues.get_mut(number as usize) else {
            return;
        };
        if !place
            .as_ref()
            .is_some_and(|queue| queue.closing && queue.fetching == 0 && queue.working == 0)
        {
            return;
        }
        let Some(queue) = place.take() else { return };
        self.free_queues.push(number);
        let depth = u32::from(queue.depth);
        self.tags.give(queue.first_slot, depth);
        if let Buffers::Registered(first) = queue.buffers {
            self.buffers.give(u32::from(first), depth);
        }
        let Some(device) = self.devices.get_mut(&queue.dev_id) else {
            return;
        };
        device.queues.retain(|left| *left != number);
        if !device.queues.is_empty() {
            return;
        }
        let Some(device) = self.devices.remove(&queue.dev_id) else {
            return;
        };
        if let Err(error) = self.ring.clear_file(device.file) {
            tracing::error!(dev_id = %queue.dev_id, %error, "cannot let go of /dev/ublkcN");
        }
        self.free_device_files.push(device.file);
        // The last one here that holds it open, by descriptor and by mapping.
        drop(queue);
        for reply in device.forgotten {
            // The one who asked may be gone.
            let _ = reply.send(());
        }
    }
}
