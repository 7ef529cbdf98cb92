//! What must hold of writable devices, on every kernel, in each mode of moving data.

use std::error::Error;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bedplate_datapath::units::{CLUSTER_BYTES, DevId};
use bedplate_ublk_target::{DataMode, Target, TargetConfig, TargetError};

use crate::Outcome;
use crate::fixture::{Bench, FIRST_DEVICE, bench, config, seed, spec};
use crate::reader::{Aligned, open_direct};
use crate::scenarios::{block_path, ensure, image};
use crate::server::Server;
use crate::volume::{LiveWords, VOLUME_BYTES, VOLUME_BYTES_MAX, VolumeBench, writable_spec};
use crate::writer::{
    Change, Writers, change, compare, compare_all, contents, discard, open_to_write, random_changes,
};

/// More clusters than the volume has.
pub const PLENTY: u32 = 300;
const DEVICE: DevId = DevId::new(FIRST_DEVICE);

/// The bench without its target, and a volume on it.
fn volume_bench(
    config: TargetConfig,
    words: LiveWords,
    clusters_max: u32,
) -> Result<(Bench<()>, VolumeBench), Box<dyn Error>> {
    let (bench, target) = bench(config)?.split();
    let volume = VolumeBench::new(&bench, Arc::new(target), words, clusters_max)?;
    Ok((bench, volume))
}

fn attach(volume: &VolumeBench) -> Result<PathBuf, Box<dyn Error>> {
    let backing = volume.backing.clone();
    let attached = volume
        .target
        .attach(&writable_spec(FIRST_DEVICE), backing)?;
    Ok(attached.path)
}

fn end(volume: VolumeBench) -> Outcome {
    volume.target.detach(DEVICE)?;
    Ok(volume.into_target()?.quiesce_all()?)
}

pub fn what_is_written_reads_back(mode: DataMode) -> Outcome {
    let (bench, volume) = volume_bench(config(mode), LiveWords::fresh()?, PLENTY)?;
    let path = attach(&volume)?;
    let file = open_to_write(&path)?;
    let mut expected = contents(&bench.image);
    compare_all(&file, &expected)?;
    random_changes(&file, &mut expected, seed(), 400)?;
    compare_all(&file, &expected)?;
    let before = volume.committer.commits.load(Ordering::SeqCst);
    let mut buffer = Aligned::new(4096);
    change(&file, Change::Flush, 0, &mut [], 0, &mut buffer)?;
    let flushed = volume.committer.commits.load(Ordering::SeqCst);
    ensure(flushed > before, "a flush asked for no commit")?;
    let part = &mut expected[..4096];
    change(&file, Change::WriteFua, 0, part, 7, &mut buffer)?;
    let durable = volume.committer.commits.load(Ordering::SeqCst);
    ensure(durable > flushed, "a FUA write asked for no commit")?;
    drop(file);
    let writers = Writers::start(&path, &expected, seed(), 6)?;
    writers.wait_for(1500)?;
    let expected = writers.finish()?;
    compare_all(&open_direct(&path)?, &expected)?;
    // All of it discarded: nothing of the base shows, and all clusters come back.
    let file = open_to_write(&path)?;
    discard(&file, 0, VOLUME_BYTES)?;
    compare_all(&file, &vec![0; expected.len()])?;
    file.sync_all()?;
    ensure(
        volume.volume.allocated_clusters() == 0,
        format!("{} clusters left", volume.volume.allocated_clusters()),
    )?;
    drop(file);
    end(volume)
}

/// Fewer buffers than requests, on one reactor, and every queue shares the volume with the others.
pub fn few_buffers_serve_many_writers(mode: DataMode) -> Outcome {
    let config = TargetConfig {
        copy_buffers: 2,
        reactors: 1,
        ..config(mode)
    };
    let (bench, volume) = volume_bench(config, LiveWords::fresh()?, PLENTY)?;
    let path = attach(&volume)?;
    let writers = Writers::start(&path, &contents(&bench.image), seed() + 1, 16)?;
    writers.wait_for(1000)?;
    compare_all(&open_direct(&path)?, &writers.finish()?)?;
    end(volume)
}

/// Two devices of 8,192 tags fill one reactor's buffer table: the third one's data is copied, though it was added for zero copy.
pub fn writes_beyond_the_buffer_table_are_copied(mode: DataMode) -> Outcome {
    let config = TargetConfig {
        reactors: 1,
        queues: 2,
        queue_depth: 4096,
        ..config(mode)
    };
    let (bench, volume) = volume_bench(config, LiveWords::fresh()?, PLENTY)?;
    let others = FIRST_DEVICE + 1..FIRST_DEVICE + 3;
    for number in others.clone() {
        volume
            .target
            .attach(&spec(number), Arc::clone(&bench.stack))?;
    }
    let path = attach(&volume)?;
    let file = open_to_write(&path)?;
    let mut expected = contents(&bench.image);
    random_changes(&file, &mut expected, seed() + 7, 100)?;
    compare_all(&file, &expected)?;
    drop(file);
    for number in others {
        volume.target.detach(DevId::new(number))?;
    }
    end(volume)
}

/// Writers keep their file; every change that was answered is there, flushed or not.
pub fn acked_writes_survive_kill_9(mode: DataMode) -> Outcome {
    drop(LiveWords::fresh()?);
    let image = image()?;
    let mut server = Server::start("attach-volume", FIRST_DEVICE, mode, 2)?;
    let path = block_path(FIRST_DEVICE);
    let writers = Writers::start(&path, &contents(&image), seed() + 2, 4)?;
    for _ in 0..5 {
        writers.wait_for(60)?;
        server.kill()?;
        server = Server::start("recover-volume", FIRST_DEVICE, mode, 2)?;
    }
    writers.wait_for(60)?;
    let expected = writers.finish()?;
    server.kill()?;
    let server = Server::start("recover-volume", FIRST_DEVICE, mode, 1)?;
    compare_all(&open_direct(&path)?, &expected)?;
    server.kill()?;
    Ok(Target::remove_device(DEVICE)?)
}

/// As above, and the server leaves in order.
pub fn writers_survive_quiesce(mode: DataMode) -> Outcome {
    drop(LiveWords::fresh()?);
    let image = image()?;
    let mut server = Server::start("attach-volume", FIRST_DEVICE, mode, 2)?;
    let path = block_path(FIRST_DEVICE);
    let writers = Writers::start(&path, &contents(&image), seed() + 3, 6)?;
    for _ in 0..3 {
        writers.wait_for(60)?;
        server.quiesce()?;
        server = Server::start("recover-volume", FIRST_DEVICE, mode, 2)?;
    }
    writers.wait_for(60)?;
    compare_all(&open_direct(&path)?, &writers.finish()?)?;
    server.kill()?;
    Ok(Target::remove_device(DEVICE)?)
}

/// A full disk is ENOSPC; while dropped clusters are on their way, a write waits for the commit that frees them.
pub fn full_disk_is_enospc_until_something_is_dropped(mode: DataMode) -> Outcome {
    // One of them for map pages.
    let (bench, volume) = volume_bench(config(mode), LiveWords::fresh()?, 17)?;
    let path = attach(&volume)?;
    let file = open_to_write(&path)?;
    let mut expected = contents(&bench.image);
    let mut buffer = Aligned::new(4096);
    let mut written = 0_usize;
    let cluster = usize::try_from(CLUSTER_BYTES)?;
    let refused = loop {
        let at = written * cluster;
        let part = &mut expected[at..at + 4096];
        match change(&file, Change::Write, at as u64, part, 9, &mut buffer) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        ensure(written < 100, "the disk is never full")?;
    };
    ensure(
        refused.raw_os_error() == Some(libc::ENOSPC) && written == 16,
        format!("after {written} clusters: {refused}"),
    )?;
    compare_all(&file, &expected)?;
    for round in 0..20 {
        let dropped = (round % written) * cluster;
        let gone = &mut expected[dropped..dropped + cluster];
        change(&file, Change::Discard, dropped as u64, gone, 0, &mut buffer)?;
        // At once: its commit is still to come.
        let part = &mut expected[dropped + 8192..dropped + 8192 + 4096];
        let at = (dropped + 8192) as u64;
        change(&file, Change::Write, at, part, 11, &mut buffer)
            .map_err(|error| format!("round {round}: {error}"))?;
    }
    compare_all(&file, &expected)?;
    drop(file);
    end(volume)
}

/// A flush is answered when its commit is, not before, and with its errno.
pub fn a_flush_waits_for_its_commit(mode: DataMode) -> Outcome {
    let (bench, volume) = volume_bench(config(mode), LiveWords::fresh()?, PLENTY)?;
    let path = attach(&volume)?;
    let mut expected = contents(&bench.image);
    volume.committer.is_held.store(true, Ordering::SeqCst);
    let file = Arc::new(open_to_write(&path)?);
    let flusher = {
        let file = Arc::clone(&file);
        std::thread::spawn(move || file.sync_data())
    };
    // Others go on meanwhile.
    let mut buffer = Aligned::new(4096);
    for round in 0..50 {
        let at = round * 4096 * 7;
        let part = &mut expected[at..at + 4096];
        change(
            &file,
            Change::Write,
            at as u64,
            part,
            round as u64,
            &mut buffer,
        )?;
    }
    // And a grace period does not wait for it.
    wait_for_grace(&volume.target, 1)?;
    ensure(
        !flusher.is_finished(),
        "a flush was answered before its commit",
    )?;
    volume.committer.is_held.store(false, Ordering::SeqCst);
    flusher.join().map_err(|_| "panicked")??;
    compare_all(&file, &expected)?;
    let _ = volume.committer.fails.set(libc::EIO);
    ensure(
        file.sync_data().is_err(),
        "a failed commit was answered with success",
    )?;
    let durable = change(
        &file,
        Change::WriteFua,
        0,
        &mut expected[..4096],
        1,
        &mut buffer,
    );
    ensure(durable.is_err(), "a FUA write was answered with success")?;
    drop(file);
    end(volume)
}

fn wait_for_grace(target: &Target, periods: u64) -> Outcome {
    let ended = Arc::new(AtomicU64::new(0));
    for _ in 0..periods {
        let ended = Arc::clone(&ended);
        target.after_grace(Box::new(move || {
            ended.fetch_add(1, Ordering::SeqCst);
        }));
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while ended.load(Ordering::SeqCst) < periods {
        ensure(Instant::now() < deadline, "a grace period does not end")?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

pub fn grace_periods_end_under_load(mode: DataMode) -> Outcome {
    let (bench, volume) = volume_bench(config(mode), LiveWords::fresh()?, PLENTY)?;
    wait_for_grace(&volume.target, 3)?;
    let path = attach(&volume)?;
    let writers = Writers::start(&path, &contents(&bench.image), seed() + 4, 6)?;
    for _ in 0..30 {
        wait_for_grace(&volume.target, 5)?;
        writers.wait_for(5)?;
    }
    compare_all(&open_direct(&path)?, &writers.finish()?)?;
    end(volume)
}

/// A device grows under its writers, or the kernel's inability is said, and nothing changed.
pub fn a_device_grows_under_its_writers(mode: DataMode) -> Outcome {
    let (bench, volume) = volume_bench(config(mode), LiveWords::fresh()?, PLENTY)?;
    let path = attach(&volume)?;
    let writers = Writers::start(&path, &contents(&bench.image), seed() + 5, 4)?;
    writers.wait_for(50)?;
    let grown = volume.grown(&bench, VOLUME_BYTES_MAX)?;
    let outcome = volume.target.resize(DEVICE, grown);
    writers.wait_for(50)?;
    let expected = writers.finish()?;
    let file = open_to_write(&path)?;
    compare_all(&file, &expected)?;
    if !volume.target.can_resize() {
        ensure(
            matches!(outcome, Err(TargetError::KernelTooOld { .. })),
            "resized by a kernel that cannot",
        )?;
        drop(file);
        return end(volume);
    }
    outcome?;
    ensure(
        sectors()? * 512 == VOLUME_BYTES_MAX,
        format!("{} sectors after the resize", sectors()?),
    )?;
    let mut expected = expected;
    expected.resize(usize::try_from(VOLUME_BYTES_MAX)?, 0);
    compare_all(&file, &expected)?;
    random_changes(&file, &mut expected, seed() + 6, 100)?;
    compare_all(&file, &expected)?;
    let shorter = volume.target.resize(DEVICE, volume.backing.clone());
    ensure(
        matches!(shorter, Err(TargetError::Mismatch { .. })),
        "a device was made shorter",
    )?;
    drop(file);
    end(volume)
}

/// The volume grew, and its server died before the device did: recovery gives the device its length, where the kernel can.
pub fn recovery_finishes_a_resize(mode: DataMode) -> Outcome {
    let image = image()?;
    drop(LiveWords::fresh()?);
    let server = Server::start("attach-volume", FIRST_DEVICE, mode, 2)?;
    server.kill()?;
    let (bench, volume) = volume_bench(config(mode), LiveWords::open()?, PLENTY)?;
    let grown = volume.grown(&bench, VOLUME_BYTES_MAX)?;
    let path = volume
        .target
        .recover(&writable_spec(FIRST_DEVICE), grown)?
        .path;
    let wanted = if volume.target.can_resize() {
        VOLUME_BYTES_MAX
    } else {
        VOLUME_BYTES
    };
    ensure(
        sectors()? * 512 == wanted,
        format!("{} sectors", sectors()?),
    )?;
    let file = open_to_write(&path)?;
    let mut buffer = Aligned::new(1 << 20);
    compare(&file, 0, &contents(&image)[..1 << 20], &mut buffer)?;
    let last = wanted - 512;
    file.write_all_at(&buffer.bytes(512)[..], last)?;
    drop(file);
    end(volume)
}

fn sectors() -> Result<u64, Box<dyn Error>> {
    Ok(
        std::fs::read_to_string(format!("/sys/block/ublkb{FIRST_DEVICE}/size"))?
            .trim()
            .parse()?,
    )
}
