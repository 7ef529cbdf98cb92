//! `UringMedium` on a regular file, and on a loop device where this machine gives one.
#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails is the failure of its test"
)]

mod engine_common;

use bedplate_datapath::engine::{DiskFile, UringMedium};
use bedplate_datapath::medium::{IoOp, Medium};
use bedplate_datapath::units::ByteOffset;
use engine_common::{Bytes, LoopDevice, MIB, disk_file};

/// Larger than all buffers of the ring together, and no multiple of one.
const LARGE_BYTES: usize = 9 * MIB + 12 * 4096;

fn at(byte: u64) -> ByteOffset {
    ByteOffset::new(byte)
}

fn writes_come_back(medium: &mut UringMedium, seed: u64) {
    let mut random = Bytes::seeded(seed);
    let written = random.take(LARGE_BYTES);
    medium.write(at(8192), &written).unwrap();
    medium.flush().unwrap();
    let mut read = vec![0; LARGE_BYTES];
    medium.read(at(8192), &mut read).unwrap();
    assert!(read == written, "seed {seed}: large transfer");

    // The caller's memory may lie anywhere: direct I/O must not see it.
    for misalignment in [1, 3, 511, 4095] {
        let source = random.take(misalignment + 3 * 4096);
        medium.write(at(4096 * 7), &source[misalignment..]).unwrap();
        let mut target = vec![0xAA; misalignment + 3 * 4096 + 1];
        medium
            .read(
                at(4096 * 7),
                &mut target[misalignment..misalignment + 3 * 4096],
            )
            .unwrap();
        assert_eq!(
            target[misalignment..misalignment + 3 * 4096],
            source[misalignment..]
        );
        assert!(
            target[..misalignment].iter().all(|&byte| byte == 0xAA),
            "bytes before were touched"
        );
        assert_eq!(target.last(), Some(&0xAA), "the byte after was touched");
    }

    medium.write(at(8192), &written).unwrap();
    let zeroed = 5 * 4096..2 * MIB;
    medium
        .write_zeroes(at(8192 + zeroed.start as u64), zeroed.len() as u64)
        .unwrap();
    let mut expected = written;
    expected[zeroed].fill(0);
    medium.read(at(8192), &mut read).unwrap();
    assert!(read == expected, "seed {seed}: zeroed range");
}

fn a_range_outside_is_refused(medium: &mut UringMedium) {
    let end = medium.len_bytes();
    let mut block = [0; 4096];
    for bad in [end, end - 1, 1, u64::MAX - 4095] {
        let fault = medium.read(at(bad), &mut block).unwrap_err();
        assert_eq!(
            (fault.op, fault.at.get(), fault.errno),
            (IoOp::Read, bad, libc::EINVAL)
        );
    }
    assert!(medium.write(at(0), &block[..512]).is_err(), "half a block");
    assert!(medium.write_zeroes(at(end - 4096), 8192).is_err());
    medium.read(at(end - 4096), &mut block).unwrap();
    medium.read(at(end), &mut []).unwrap();
}

#[test]
fn a_file_holds_what_was_written_whatever_the_buffers_alignment() {
    let file = disk_file(16 * MIB);
    let mut medium = UringMedium::new(DiskFile::claim(file.path()).unwrap()).unwrap();
    writes_come_back(&mut medium, 1);
    a_range_outside_is_refused(&mut medium);
    assert_eq!(
        file.as_file().metadata().unwrap().len(),
        16 * MIB as u64,
        "the file must not grow"
    );
}

#[test]
fn a_loop_device_holds_what_was_written_whatever_the_buffers_alignment() {
    let file = disk_file(16 * MIB);
    let Some(device) = LoopDevice::over(file.path()) else {
        return;
    };
    let disk = DiskFile::claim(device.path()).unwrap();
    assert!(disk.is_block_device());
    assert_eq!(disk.len_bytes(), 16 * MIB as u64);
    let mut medium = UringMedium::new(disk).unwrap();
    writes_come_back(&mut medium, 2);
    a_range_outside_is_refused(&mut medium);
}

#[test]
fn a_disk_that_became_shorter_is_a_fault_with_its_offset_and_not_zeros() {
    let file = disk_file(4 * MIB);
    let mut medium = UringMedium::new(DiskFile::claim(file.path()).unwrap()).unwrap();
    file.as_file().set_len(MIB as u64).unwrap();
    let mut into = vec![0; 2 * MIB];
    let fault = medium.read(at(0), &mut into).unwrap_err();
    assert_eq!(fault.errno, libc::EIO);
    assert!(fault.at.get() >= MIB as u64, "{fault}");
    // The ring has recovered: what is there can still be read.
    medium.read(at(0), &mut into[..MIB]).unwrap();
}

#[test]
fn a_disk_opened_for_reading_cannot_be_written() {
    let file = disk_file(4 * MIB);
    let mut medium = UringMedium::new(DiskFile::open_read_only(file.path()).unwrap()).unwrap();
    let fault = medium.write(at(4096), &[1; 4096]).unwrap_err();
    assert_eq!(
        (fault.op, fault.at.get(), fault.errno),
        (IoOp::Write, 4096, libc::EBADF)
    );
    assert_eq!(
        medium.write_zeroes(at(0), 4096).unwrap_err().errno,
        libc::EBADF
    );
}

#[test]
fn the_medium_may_be_opened_on_one_thread_and_used_on_another() {
    let file = disk_file(4 * MIB);
    let mut medium = UringMedium::new(DiskFile::claim(file.path()).unwrap()).unwrap();
    medium.write(at(0), &[7; 4096]).unwrap();
    let read = std::thread::spawn(move || {
        let mut block = [0; 4096];
        medium.read(at(0), &mut block).map(|()| block)
    });
    assert_eq!(read.join().unwrap().unwrap(), [7; 4096]);
}
