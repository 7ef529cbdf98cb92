//! The engine under the loops: a ring with one disk, and an executor on it.

use std::io;
use std::os::fd::AsFd;

use bedplate_datapath::engine::DiskFile;
use bedplate_datapath::engine::executor::{Executor, FileSlots};
use bedplate_datapath::engine::ring::{Ring, RingConfig};

use crate::buffers::{DEPTH, TAG};

/// A ring that has `disk` as the disk with index 0, and an executor for [`DEPTH`] requests.
pub(crate) fn over(disk: &DiskFile) -> io::Result<(Ring, Executor)> {
    let ring = Ring::new(&RingConfig {
        submissions: 64,
        completions: 128,
        file_slots: 2,
        buffer_slots: 0,
    })?;
    ring.install_file(1, disk.as_fd())?;
    let files = FileSlots {
        zero: 0,
        first_disk: 1,
    };
    let mut executor = Executor::new(files, TAG);
    executor.reserve_requests(DEPTH);
    Ok((ring, executor))
}
