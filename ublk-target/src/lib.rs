//! Everything that knows ublk: block devices `/dev/ublkbN` whose requests are answered here.
//!
//! In the order of a device's life:
//!
//! ```text
//! support        what the kernel can do
//! target         the reactors, the disks, the devices: what a daemon holds
//!   attach       ADD_DEV, SET_PARAMS, FETCH, START_DEV
//!   recovery     START_USER_RECOVERY, FETCH, END_USER_RECOVERY
//!   detach       STOP_DEV, DEL_DEV; and leaving devices to the next process
//! reactor        one thread, one ring, the queues of many devices
//!   requests     a request's way: fetched, planned, read, committed
//! queue          the protocol of one hardware queue
//! ctrl           control commands
//! sys            encodings that libublk's bindings lack
//! ```

mod attach;
mod copy_pool;
mod ctrl;
mod detach;
mod error;
mod kernel_device;
mod openers;
mod owner;
mod params;
mod queue;
mod ranges;
mod reactor;
mod recovery;
mod support;
mod sys;
mod target;

pub use attach::{Attached, DeviceSpec};
pub use detach::Removed;
pub use error::TargetError;
pub use kernel_device::{DeviceState, KernelDevice};
pub use openers::Opener;
pub use owner::OwnerTag;
pub use support::{DataMode, KernelSupport};
pub use sys::Features;
pub use target::{Beat, Target, TargetConfig};
