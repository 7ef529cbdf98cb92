//! A random schedule: one seed decides volumes, requests, commits, crashes, faults and losses. It ends with a power loss, a recovery and a full
//! read-back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::node::{Broken, Halt, Node, Ring};
use crate::sim::disk::{Crash, Fault};
use crate::sim::rng::mix;

const CLUSTER_SECTORS: u64 = 256;
const VOLUMES_MAX: usize = 5;
/// A schedule has no fewer operations.
const OPERATIONS_MIN: u64 = 204;

/// One schedule of so many begins with a ring that is nearly full. Few, since each of their recoveries has a whole ring to replay.
const SCHEDULES_PER_FULL_RING: u64 = 256;

/// What schedules did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests answered, and operations of the node.
    pub operations: u64,
    /// Crashes, of both kinds.
    pub crashes: u64,
    /// Recoveries that were checked.
    pub recoveries: u64,
    /// Sessions that ended with an I/O error of the disk.
    pub latched: u64,
    /// Volumes that were held since acknowledged writes may have been missing.
    pub losses: u64,
    /// Live maps that were taken over.
    pub adopted: u64,
    /// Disks that went alone, and whose process lived on.
    pub left_behind: u64,
    /// Requests that were refused: no space, or an I/O error.
    pub refused: u64,
    /// Process crashes with a disk that had failed.
    pub crashes_of_latched: u64,
    /// Crashes in the middle of a recovery, or of the commit that ends it.
    pub recoveries_crashed: u64,
    /// Checkpoints in the middle of a commit, since the ring was full.
    pub full_rings: u64,
    /// Images that were deleted.
    pub images_deleted: u64,
    /// Images that were not, for their clones.
    pub images_kept: u64,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.crashes += other.crashes;
        self.recoveries += other.recoveries;
        self.latched += other.latched;
        self.losses += other.losses;
        self.adopted += other.adopted;
        self.left_behind += other.left_behind;
        self.refused += other.refused;
        self.crashes_of_latched += other.crashes_of_latched;
        self.recoveries_crashed += other.recoveries_crashed;
        self.full_rings += other.full_rings;
        self.images_deleted += other.images_deleted;
        self.images_kept += other.images_kept;
    }
}

/// Runs the schedule of `seed`.
///
/// # Errors
/// The violation that the oracle found, or the panic.
pub fn run(node: &mut Node, seed: u64, broken: Broken) -> Result<Tally, String> {
    let ring = if mix(seed ^ 0xf111).is_multiple_of(SCHEDULES_PER_FULL_RING) {
        Ring::NearlyFull
    } else {
        Ring::Empty
    };
    run_with(node, seed, ring, broken)
}

/// Runs the schedule of `seed` on a disk with this ring.
///
/// # Errors
/// As [`run`].
pub fn run_with(node: &mut Node, seed: u64, ring: Ring, broken: Broken) -> Result<Tally, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| whole(node, seed, ring, broken)));
    match outcome {
        Ok(result) => result,
        Err(panic) => {
            // What it was in the middle of is not to be trusted.
            *node = Node::default();
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panic: {}", text.unwrap_or("of unknown kind")))
        }
    }
}

fn whole(node: &mut Node, seed: u64, ring: Ring, broken: Broken) -> Result<Tally, String> {
    let mut tally = Tally::default();
    node.reset(seed, ring, broken)?;
    let sessions = any_sessions(node);
    for session in 0..sessions {
        let last = session + 1 == sessions;
        let end = run_session(node, session == 0, 170 / sessions);
        let crash = match end {
            Err(Halt::Violation(why)) => return Err(why),
            Ok(()) | Err(Halt::Stopped) => any_crash(node, last),
            Err(Halt::Latched) => {
                tally.latched += 1;
                if node.rng.percent(50) {
                    tally.crashes_of_latched += 1;
                    Some(Crash::Process)
                } else {
                    Some(Crash::Power {
                        seed: node.rng.next_u64(),
                    })
                }
            }
        };
        tally.crashes += 1;
        stop(node, crash);
        recover(node, &mut tally)?;
    }
    // What crashes kept from being done.
    let done = node.front.borrow().counts.answered + node.operations;
    let missing = OPERATIONS_MIN.saturating_sub(done);
    match session_of(node, missing).and_then(|()| node.check_idle()) {
        Err(Halt::Violation(why)) => return Err(format!("at the end: {why}")),
        Err(halt) => return Err(format!("at the end: {halt:?}")),
        Ok(()) => {}
    }
    let seed = node.rng.next_u64();
    node.crash(Crash::Power { seed });
    tally.crashes += 1;
    recover(node, &mut tally)?;
    let counts = node.front.borrow().counts;
    tally.operations += counts.answered + node.operations;
    tally.refused += counts.refused;
    tally.losses += node.losses;
    tally.adopted += node.adopted;
    tally.left_behind += node.left_behind;
    tally.full_rings += node.disk.borrow().full_rings();
    tally.images_deleted += node.images_deleted;
    tally.images_kept += node.images_kept;
    Ok(tally)
}

/// One to three. Mostly few: recoveries are most of what a schedule costs, and another seed finds more than another session.
fn any_sessions(node: &mut Node) -> u64 {
    match node.rng.below(10) {
        0..5 => 1,
        5..8 => 2,
        _ => 3,
    }
}

fn any_crash(node: &mut Node, last: bool) -> Option<Crash> {
    match node.rng.below(100) {
        0..50 => Some(Crash::Process),
        50..95 => Some(Crash::Power {
            seed: node.rng.next_u64(),
        }),
        _ if last => Some(Crash::Process),
        _ => None,
    }
}

/// No crash: the disk alone goes, and comes back.
fn stop(node: &mut Node, crash: Option<Crash>) {
    if let Some(crash) = crash {
        node.crash(crash);
        if crash == Crash::Process && node.rng.percent(6) {
            node.lose_live_files();
        }
    } else {
        let seed = node.rng.next_u64();
        node.disk_goes(seed);
    }
}

fn recover(node: &mut Node, tally: &mut Tally) -> Result<(), String> {
    {
        let mut front = node.front.borrow_mut();
        (front.faulty, front.unsure) = (false, false);
    }
    for attempt in 0.. {
        let is_disturbed = attempt < 4 && node.rng.percent(if attempt == 0 { 25 } else { 50 });
        if is_disturbed {
            let steps = node.rng.below(24);
            let mut disk = node.disk.borrow_mut();
            let now = disk.operations();
            disk.crash_at(now + steps);
        }
        // The commit that covers what the former process had not committed belongs to it.
        let end = node
            .open()
            .and_then(|()| if is_disturbed { node.commit() } else { Ok(()) });
        match end {
            Ok(()) => {
                tally.recoveries += 1;
                node.disk.borrow_mut().crash_at_nothing();
                return Ok(());
            }
            Err(Halt::Violation(why)) => return Err(format!("in a recovery: {why}")),
            Err(Halt::Latched) => {
                return Err("a recovery met a fault that nobody injected".to_owned());
            }
            Err(Halt::Stopped) => {
                tally.crashes += 1;
                tally.recoveries_crashed += 1;
                let crash = if node.rng.percent(50) {
                    Crash::Process
                } else {
                    Crash::Power {
                        seed: node.rng.next_u64(),
                    }
                };
                node.crash(crash);
            }
        }
    }
    Ok(())
}

fn run_session(node: &mut Node, first: bool, requests: u64) -> Result<(), Halt> {
    if first {
        let sectors = any_size(node);
        let made = node.create(true, sectors)?;
        let sectors = any_size(node);
        let other = node.create(false, sectors)?;
        for volume in made.into_iter().chain(other) {
            node.attach(volume)?;
        }
    }
    let depth = 1 + usize::try_from(node.rng.below(12)).unwrap_or(0);
    {
        let mut front = node.front.borrow_mut();
        front.depth = depth;
    }
    let stops_within = requests * 3;
    match node.rng.below(10) {
        0..4 => {
            let steps = stops_within / 2 + node.rng.below(stops_within);
            node.front.borrow_mut().steps_left = Some(steps);
        }
        4..6 => {
            let operations = node.rng.below(stops_within);
            let mut disk = node.disk.borrow_mut();
            let now = disk.operations();
            disk.crash_at(now + operations);
        }
        6 => {
            let fault = if node.rng.percent(50) {
                Fault::Error
            } else {
                Fault::Short
            };
            let operation = node.rng.below(stops_within);
            let mut disk = node.disk.borrow_mut();
            let now = disk.operations();
            disk.inject(now + operation, fault);
            drop(disk);
            let mut front = node.front.borrow_mut();
            (front.faulty, front.unsure) = (true, true);
        }
        _ => {}
    }
    // Little space: freed clusters are soon somebody else's.
    if node.rng.percent(40) {
        let left = 4 + node.rng.below(30);
        node.take_space(left)?;
    }
    session_of(node, requests)
}

/// Requests and operations, until so many requests were issued.
fn session_of(node: &mut Node, requests: u64) -> Result<(), Halt> {
    node.front.borrow_mut().to_issue = requests;
    while node.front.borrow().to_issue > 0 {
        if node
            .volumes()
            .iter()
            .all(|volume| !node.is_attached(*volume))
        {
            if let Some(volume) = node.volumes().first() {
                node.attach(*volume)?;
            } else {
                node.give_space()?;
                let sectors = any_size(node);
                node.create(true, sectors)?;
            }
        }
        let steps = node.rng.below(25);
        node.ticks(steps)?;
        let wanted = node.front.borrow().wants_commit;
        match node.rng.below(100) {
            0..30 if wanted => node.commit()?,
            30..38 => node.commit()?,
            38..41 => node.checkpoint()?,
            41..49 => operation(node)?,
            _ => {}
        }
    }
    Ok(())
}

fn any_size(node: &mut Node) -> usize {
    let sectors = 5 * CLUSTER_SECTORS + node.rng.below(12 * CLUSTER_SECTORS);
    usize::try_from(sectors).unwrap_or(1)
}

fn operation(node: &mut Node) -> Result<(), Halt> {
    let volumes = node.volumes();
    let volume = volumes
        .get(usize::try_from(node.rng.below(volumes.len().max(1) as u64)).unwrap_or(0))
        .copied();
    match (node.rng.below(100), volume) {
        (0..25, _) if volumes.len() < VOLUMES_MAX => {
            let (clone, sectors) = (node.rng.percent(60), any_size(node));
            if let Some(volume) = node.create(clone, sectors)? {
                node.attach(volume)?;
            }
            Ok(())
        }
        (25..45, Some(volume)) if node.is_attached(volume) => node.detach(volume),
        (25..60, Some(volume)) if !node.is_attached(volume) => {
            if node.rng.percent(50) {
                node.attach(volume)
            } else {
                node.delete(volume)
            }
        }
        (60..75, Some(volume)) => {
            let more = node.rng.below(2 * CLUSTER_SECTORS);
            let sectors = node.sectors_of(volume) + usize::try_from(more).unwrap_or(0);
            node.resize(volume, sectors)
        }
        (75..85, _) => {
            let left = node.rng.below(20);
            node.take_space(left)
        }
        (85..96, _) => node.give_space(),
        (96..100, _) => node.delete_image(),
        _ => Ok(()),
    }
}
