//! What must hold on every kernel, in each mode of moving data.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bedplate_datapath::units::DevId;
use bedplate_ublk_target::DataMode::{self, UserCopy, ZeroCopy};
use bedplate_ublk_target::{DeviceState, Opener, Target, TargetConfig, TargetError};

use crate::Outcome;
use crate::edges;
use crate::fixture::{Bench, FIRST_DEVICE, Image, bench, config, disks, seed, spec};
use crate::long;
use crate::many;
use crate::reader::{Aligned, Readers, check, check_all, open_direct, random_read};
use crate::replicas;
use crate::server::Server;
use crate::writes;

type Scenario = (&'static str, &'static [DataMode], fn(DataMode) -> Outcome);

pub const SCENARIOS: &[Scenario] = &[
    (
        "every_byte_reads_back",
        &[ZeroCopy, UserCopy],
        every_byte_reads_back,
    ),
    (
        "long_reads_are_divided_by_us",
        &[ZeroCopy, UserCopy],
        long::long_reads_are_divided_by_us,
    ),
    (
        "more_requests_than_buffers_are_answered_in_time",
        &[UserCopy],
        more_requests_than_buffers,
    ),
    (
        "writes_are_refused",
        &[ZeroCopy, UserCopy],
        writes_are_refused,
    ),
    (
        "a_device_attached_again_serves_again",
        &[ZeroCopy, UserCopy],
        attach_detach_attach,
    ),
    (
        "reader_survives_kill_9",
        &[ZeroCopy, UserCopy],
        reader_survives_kill_9,
    ),
    (
        "reader_survives_quiesce",
        &[ZeroCopy, UserCopy],
        reader_survives_quiesce,
    ),
    (
        "a_device_keeps_the_mode_that_it_was_added_with",
        &[ZeroCopy],
        recovered_mode_is_kept,
    ),
    (
        "recovery_waits_for_a_live_server_only_so_long",
        &[UserCopy],
        live_server_is_not_robbed,
    ),
    (
        "a_quiesced_device_is_removed_without_a_daemon",
        &[ZeroCopy, UserCopy],
        removed_without_a_daemon,
    ),
    (
        "threads_do_not_grow_with_devices",
        &[ZeroCopy, UserCopy],
        threads_do_not_grow,
    ),
    ("a_taken_number_says_by_whom", &[UserCopy], taken_number),
    (
        "detach_while_open_is_refused",
        &[UserCopy],
        detach_while_open,
    ),
    (
        "an_idle_target_costs_nothing",
        &[UserCopy],
        idle_costs_nothing,
    ),
    (
        "a_half_made_device_is_made_anew",
        &[UserCopy],
        edges::half_made_device_is_made_anew,
    ),
    (
        "a_full_buffer_table_is_copied_around",
        &[ZeroCopy],
        edges::full_buffer_table_is_copied_around,
    ),
    (
        "many_devices_come_and_come_back",
        &[ZeroCopy, UserCopy],
        many::many_devices_come_and_come_back,
    ),
    (
        "a_failed_replica_is_nobodys_error",
        &[ZeroCopy, UserCopy],
        replicas::a_failed_replica_is_nobodys_error,
    ),
    (
        "what_is_written_reads_back",
        &[ZeroCopy, UserCopy],
        writes::what_is_written_reads_back,
    ),
    (
        "few_buffers_serve_many_writers",
        &[UserCopy],
        writes::few_buffers_serve_many_writers,
    ),
    (
        "writes_beyond_the_buffer_table_are_copied",
        &[ZeroCopy],
        writes::writes_beyond_the_buffer_table_are_copied,
    ),
    (
        "acked_writes_survive_kill_9",
        &[ZeroCopy, UserCopy],
        writes::acked_writes_survive_kill_9,
    ),
    (
        "writers_survive_quiesce",
        &[ZeroCopy, UserCopy],
        writes::writers_survive_quiesce,
    ),
    (
        "a_full_disk_is_enospc_until_something_is_dropped",
        &[ZeroCopy, UserCopy],
        writes::full_disk_is_enospc_until_something_is_dropped,
    ),
    (
        "a_flush_waits_for_its_commit",
        &[UserCopy],
        writes::a_flush_waits_for_its_commit,
    ),
    (
        "grace_periods_end_under_load",
        &[ZeroCopy, UserCopy],
        writes::grace_periods_end_under_load,
    ),
    (
        "a_device_grows_under_its_writers",
        &[ZeroCopy, UserCopy],
        writes::a_device_grows_under_its_writers,
    ),
    (
        "recovery_finishes_a_resize",
        &[UserCopy],
        writes::recovery_finishes_a_resize,
    ),
];

pub fn ensure(holds: bool, what: impl Into<String>) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(what.into().into())
    }
}

pub fn block_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{number}"))
}

pub fn image() -> Result<Arc<Image>, Box<dyn std::error::Error>> {
    Ok(Arc::new(Image::of(seed(), u16::try_from(disks()?.len())?)))
}

fn every_byte_reads_back(mode: DataMode) -> Outcome {
    let Bench {
        target,
        image,
        stack,
        ..
    } = bench(config(mode))?;
    let spec = spec(FIRST_DEVICE);
    let attached = target.attach(&spec, stack)?;
    ensure(
        attached.data_mode == mode,
        "not the mode that was asked for",
    )?;
    let file = open_direct(&attached.path)?;
    let sectors: u64 = std::fs::read_to_string(format!("/sys/block/ublkb{FIRST_DEVICE}/size"))?
        .trim()
        .parse()?;
    ensure(
        sectors * 512 == image.device_bytes(),
        format!("the device has {sectors} sectors"),
    )?;
    for step in [1 << 20, 4096 * 3 + 512] {
        check_all(&file, &image, step)?;
    }
    let mut buffer = Aligned::new(1 << 20);
    for round in 0..500 {
        let (at, len) = random_read(&image, seed() << 20 | round, 512);
        check(&file, &image, at, len, &mut buffer)?;
    }
    let readers = Readers::start(&attached.path, &Arc::new(image), 8)?;
    readers.wait_for(500)?;
    readers.finish()?;
    drop(file);
    ensure(
        target
            .beats(Duration::from_secs(5))
            .iter()
            .all(|beat| beat.alive),
        "a reactor does not beat",
    )?;
    target.detach(spec.dev_id)?;
    ensure(!attached.path.exists(), "the node is still there")?;
    Ok(target.quiesce_all()?)
}

fn more_requests_than_buffers(mode: DataMode) -> Outcome {
    let Bench {
        target,
        image,
        stack,
        ..
    } = bench(TargetConfig {
        copy_buffers: 2,
        reactors: 1,
        ..config(mode)
    })?;
    let spec = spec(FIRST_DEVICE);
    let attached = target.attach(&spec, stack)?;
    let readers = Readers::start(&attached.path, &Arc::new(image), 24)?;
    readers.wait_for(1000)?;
    readers.finish()?;
    target.detach(spec.dev_id)?;
    Ok(target.quiesce_all()?)
}

fn writes_are_refused(mode: DataMode) -> Outcome {
    let Bench {
        target,
        image,
        stack,
        ..
    } = bench(config(mode))?;
    let mut spec = spec(FIRST_DEVICE);
    let path = target.attach(&spec, Arc::clone(&stack))?.path;
    let read_only: u32 = std::fs::read_to_string(format!("/sys/block/ublkb{FIRST_DEVICE}/ro"))?
        .trim()
        .parse()?;
    ensure(
        read_only == 1,
        "the block layer does not know that it is read-only",
    )?;
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    let mut buffer = Aligned::new(4096);
    if let Ok(file) = opened {
        ensure(
            file.write_at(buffer.bytes(4096), 0).is_err(),
            "the block layer let a write through",
        )?;
    }
    target.detach(spec.dev_id)?;
    // And where the block layer lets them through, we do not.
    spec.read_only = false;
    target.attach(&spec, stack)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)?;
    ensure(
        file.write_at(buffer.bytes(4096), 0).is_err(),
        "a write was answered with success",
    )?;
    check_all(&file, &image, 1 << 20)?;
    file.sync_all()?;
    drop(file);
    target.detach(spec.dev_id)?;
    Ok(target.quiesce_all()?)
}

fn attach_detach_attach(mode: DataMode) -> Outcome {
    let Bench {
        target,
        image,
        stack,
        indexes,
    } = bench(config(mode))?;
    let spec = spec(FIRST_DEVICE);
    for _ in 0..5 {
        let path = target.attach(&spec, Arc::clone(&stack))?.path;
        ensure(
            matches!(
                target.attach(&spec, Arc::clone(&stack)),
                Err(TargetError::Busy { .. })
            ),
            "attached twice",
        )?;
        ensure(
            target.remove_disk(indexes[0]).is_err(),
            "a disk was taken away under a device",
        )?;
        check(
            &open_direct(&path)?,
            &image,
            512,
            4096,
            &mut Aligned::new(4096),
        )?;
        target.detach(spec.dev_id)?;
        ensure(
            matches!(
                target.detach(spec.dev_id),
                Err(TargetError::NotFound { .. })
            ),
            "detached twice",
        )?;
    }
    for index in indexes {
        target.remove_disk(index)?;
    }
    Ok(target.quiesce_all()?)
}

fn reader_survives_kill_9(mode: DataMode) -> Outcome {
    let image = image()?;
    let mut server = Server::start("attach", FIRST_DEVICE, mode, 2)?;
    let readers = Readers::start(&block_path(FIRST_DEVICE), &image, 8)?;
    for round in 0..6 {
        readers.wait_for(50)?;
        let killed = Instant::now();
        server.kill()?;
        // Fewer and more reactors than the device has queues.
        server = Server::start("recover", FIRST_DEVICE, mode, 1 + round % 3)?;
        readers.wait_for(1)?;
        println!(
            "  round {round}: answers again {} ms after the kill",
            killed.elapsed().as_millis()
        );
    }
    readers.wait_for(50)?;
    let reads = readers.finish()?;
    println!("  {reads} reads, no error");
    server.quiesce()?;
    Ok(Target::remove_device(DevId::new(FIRST_DEVICE))?)
}

fn reader_survives_quiesce(mode: DataMode) -> Outcome {
    let image = image()?;
    let mut server = Server::start("attach", FIRST_DEVICE, mode, 2)?;
    let readers = Readers::start(&block_path(FIRST_DEVICE), &image, 8)?;
    for round in 0..4 {
        readers.wait_for(50)?;
        let asked = Instant::now();
        server.quiesce()?;
        let left = asked.elapsed();
        server = Server::start("recover", FIRST_DEVICE, mode, 2)?;
        readers.wait_for(1)?;
        println!(
            "  round {round}: left after {} ms, answers again after {} ms",
            left.as_millis(),
            asked.elapsed().as_millis()
        );
    }
    readers.finish()?;
    server.kill()?;
    Ok(Target::remove_device(DevId::new(FIRST_DEVICE))?)
}

fn recovered_mode_is_kept(_: DataMode) -> Outcome {
    for (added, now) in [(ZeroCopy, UserCopy), (UserCopy, ZeroCopy)] {
        let image = image()?;
        let server = Server::start("attach", FIRST_DEVICE, added, 2)?;
        server.kill()?;
        let Bench { target, stack, .. } = bench(config(now))?;
        let attached = target.recover(&spec(FIRST_DEVICE), stack)?;
        ensure(
            attached.data_mode == added,
            format!("{:?}, added as {added:?}", attached.data_mode),
        )?;
        check_all(&open_direct(&attached.path)?, &image, 1 << 20)?;
        target.detach(attached.dev_id)?;
        target.quiesce_all()?;
    }
    Ok(())
}

fn live_server_is_not_robbed(mode: DataMode) -> Outcome {
    let server = Server::start("attach", FIRST_DEVICE, mode, 1)?;
    // Without disks: the server has claimed them.
    let target = Target::start(TargetConfig {
        recovery_patience: Duration::from_millis(200),
        ..config(mode)
    })?;
    let image = image()?;
    let empty = bedplate_datapath::plan::LayerStack {
        layers: Vec::new(),
        size_bytes: image.device_bytes(),
    };
    match target.recover(&spec(FIRST_DEVICE), Arc::new(empty)) {
        Err(TargetError::DeviceTaken { by }) => {
            ensure(
                by.server_pid == i32::try_from(server.pid()).ok(),
                format!("taken by {by}"),
            )?;
        }
        other => return Err(format!("recovered a live device: {other:?}").into()),
    }
    check_all(&open_direct(&block_path(FIRST_DEVICE))?, &image, 1 << 20)?;
    target.quiesce_all()?;
    server.kill()?;
    Ok(Target::remove_device(DevId::new(FIRST_DEVICE))?)
}

fn removed_without_a_daemon(mode: DataMode) -> Outcome {
    let image = image()?;
    let server = Server::start("attach", FIRST_DEVICE, mode, 2)?;
    let readers = Readers::start(&block_path(FIRST_DEVICE), &image, 4)?;
    readers.wait_for(20)?;
    server.kill()?;
    let dev_id = DevId::new(FIRST_DEVICE);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !Target::kernel_devices()?
        .iter()
        .any(|d| d.dev_id == dev_id && d.state == DeviceState::Quiesced)
    {
        ensure(Instant::now() < deadline, "not quiesced")?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Target::remove_device(dev_id)?;
    ensure(
        readers.finish().is_err(),
        "readers of a removed device saw no error",
    )?;
    ensure(
        !block_path(FIRST_DEVICE).exists(),
        "the node is still there",
    )?;
    ensure(
        matches!(
            Target::remove_device(dev_id),
            Err(TargetError::NotFound { .. })
        ),
        "removed twice",
    )
}

fn threads_do_not_grow(mode: DataMode) -> Outcome {
    let threads = || std::fs::read_dir("/proc/self/task").map(Iterator::count);
    let config = TargetConfig {
        queues: 1,
        queue_depth: 16,
        ..config(mode)
    };
    let Bench {
        target,
        image,
        stack,
        ..
    } = bench(config)?;
    let most = 50;
    let attach = |number| target.attach(&spec(number), Arc::clone(&stack));
    // With the first: the kernel keeps one worker for the control commands of this thread.
    attach(FIRST_DEVICE)?;
    let before = threads()?;
    for number in FIRST_DEVICE + 1..FIRST_DEVICE + most {
        attach(number)?;
    }
    let mut buffer = Aligned::new(65536);
    for number in FIRST_DEVICE..FIRST_DEVICE + most {
        check(
            &open_direct(&block_path(number))?,
            &image,
            65536,
            65536,
            &mut buffer,
        )?;
    }
    // More workers of io_uring's own end after 5 idle seconds.
    let deadline = Instant::now() + Duration::from_secs(15);
    while threads()? > before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure(
        threads()? <= before,
        format!(
            "{before} threads before, {} with {most} devices",
            threads()?
        ),
    )?;
    for number in FIRST_DEVICE..FIRST_DEVICE + most {
        target.detach(DevId::new(number))?;
    }
    Ok(target.quiesce_all()?)
}

fn taken_number(mode: DataMode) -> Outcome {
    let server = Server::start("attach", FIRST_DEVICE, mode, 1)?;
    let target = Target::start(config(mode))?;
    let empty = Arc::new(bedplate_datapath::plan::LayerStack {
        layers: Vec::new(),
        size_bytes: 1 << 20,
    });
    let mut stranger = spec(FIRST_DEVICE);
    stranger.owner = spec(FIRST_DEVICE + 1).owner;
    let attempts = [
        target.attach(&stranger, Arc::clone(&empty)),
        target.recover(&stranger, Arc::clone(&empty)),
    ];
    for attempt in attempts {
        match attempt {
            Err(TargetError::DeviceTaken { by }) => {
                ensure(
                    by.owner == Some(spec(FIRST_DEVICE).owner),
                    "whose it is, is not said",
                )?;
                ensure(
                    by.server_pid == i32::try_from(server.pid()).ok(),
                    format!("taken by {by}"),
                )?;
                ensure(by.server_name.is_some(), "its server has no name")?;
            }
            other => return Err(format!("a taken number was given: {other:?}").into()),
        }
    }
    server.kill()?;
    Target::remove_device(DevId::new(FIRST_DEVICE))?;
    Ok(target.quiesce_all()?)
}

fn detach_while_open(mode: DataMode) -> Outcome {
    let Bench {
        target,
        image,
        stack,
        ..
    } = bench(config(mode))?;
    let spec = spec(FIRST_DEVICE);
    let path = target.attach(&spec, stack)?.path;
    let file = open_direct(&path)?;
    match target.detach(spec.dev_id) {
        Err(TargetError::Busy { by, .. }) => {
            let us = i32::try_from(std::process::id())?;
            ensure(
                by.iter()
                    .any(|opener| matches!(opener, Opener::Process { pid, .. } if *pid == us)),
                format!("open by {by:?}"),
            )?;
        }
        other => return Err(format!("detached under an open file: {other:?}").into()),
    }
    check_all(&file, &image, 1 << 20)?;
    drop(file);
    target.detach(spec.dev_id)?;
    Ok(target.quiesce_all()?)
}

fn idle_costs_nothing(mode: DataMode) -> Outcome {
    let Bench { target, stack, .. } = bench(config(mode))?;
    let spec = spec(FIRST_DEVICE);
    target.attach(&spec, stack)?;
    std::thread::sleep(Duration::from_secs(1));
    let before = cpu_ticks()?;
    std::thread::sleep(Duration::from_secs(3));
    let spent = cpu_ticks()? - before;
    // 100 ticks a second: one tick in three seconds is noise of the accounting.
    ensure(spent <= 1, format!("{spent} ticks in 3 idle seconds"))?;
    target.detach(spec.dev_id)?;
    Ok(target.quiesce_all()?)
}

/// User and system time of this process, in ticks of 10 ms (proc(5), fields 14 and 15).
fn cpu_ticks() -> Result<u64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().ok_or("no stat")?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut next = || {
        fields
            .next()
            .and_then(|field| field.parse::<u64>().ok())
            .ok_or("no stat")
    };
    Ok(next()? + next()?)
}
