//! Everything that knows ublk: block devices `/dev/ublkbN` whose requests are answered here.
//!
//! In the order of a device's life:
//!
//! ```text
//! support        what the kernel can do
//! backing        what a device serves, and who makes its writes durable
//! target         the reactors, the disks, the devices: what a daemon holds
//!   attach       ADD_DEV, SET_PARAMS, FETCH, START_DEV
//!   recovery     START_USER_RECOVERY, FETCH, END_USER_RECOVERY
//!   resize       UPDATE_SIZE; and other replicas below
//!   replica_events   who is told of reads that fail or are late
//!   detach       STOP_DEV, DEL_DEV; and leaving devices to the next process
//! reactor        one thread, one ring, the queues of many devices
//!   requests     a request's way: fetched, begun, answered
//!   reads        planned, read, copied
//!   writes       copied, driven step by step, zeroed, discarded
//!   commits      flushes and FUA: asked of the committer, answered later
//!   checks       what was read of an image compared with its checksums, where that is wanted
//!   grace        when has all that was in flight ended?
//! queue          the protocol of one hardware queue
//! stats          what devices have done, counted by their reactors
//! park           requests wait for a disk that has gone
//! swap           a disk that was unplugged takes its old place
//! ctrl           control commands
//! sys            encodings that libublk's bindings lack
//! ```

mod attach;
mod backing;
mod buffer_pool;
mod ctrl;
mod detach;
mod error;
mod kernel_device;
mod openers;
mod owner;
mod params;
mod park;
mod queue;
mod ranges;
mod reactor;
mod recovery;
mod replica_events;
mod resize;
mod stats;
mod support;
mod swap;
mod sys;
mod target;

pub use attach::{Attached, DeviceSpec};
pub use backing::{Backing, ChecksumsAnswer, Committed, Committer, RecordedChecksums, Writable};
pub use detach::Removed;
pub use error::TargetError;
pub use kernel_device::{DeviceState, KernelDevice};
pub use openers::Opener;
pub use owner::OwnerTag;
#[cfg(feature = "rig")]
pub use reactor::rig;
pub use replica_events::{DiskInDoubt, ReadFailed, ReadLate, ReplicaEvents};
pub use stats::{DeviceStats, LATENCY_BUCKETS, OperationKind, OperationStats, latency_below};
pub use support::{DataMode, KernelSupport};
pub use sys::Features;
pub use target::{Beat, Target, TargetConfig};
