//! Disk I/O on io_uring. Everything that opens, reads or writes a real disk is here; nothing here knows a format.

mod bounce_ring;
mod claim_error;
mod disk_facts;
mod disk_file;
pub mod executor;
mod holder;
mod live_dir;
mod operation;
pub mod ring;
pub(crate) mod sysfs;
mod uring_medium;

pub use claim_error::ClaimError;
pub use disk_facts::{DiskIdentity, WriteCache};
pub use disk_file::DiskFile;
pub(crate) use holder::mount_points;
pub use live_dir::LiveDir;
pub use uring_medium::UringMedium;
