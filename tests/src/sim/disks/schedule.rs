//! Random sessions over several disks: one seed is one schedule.

use super::node::{Break, Node, Op, Stop};
use super::truth::Truth;
use crate::sim::disk::{Crash, Sabotage, SimDisk};
use crate::sim::rng::Rng;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Sessions.
    pub sessions: u64,
    /// Of these, those that a crash of the machine ended.
    pub crashes: u64,
    /// Disks lost, and disks of which an old copy was put back.
    pub swaps: u64,
    /// Runs that ended early, since two copies of a disk have lived on.
    pub forks: u64,
}

const DISKS: usize = 3;

fn op(rng: &mut Rng, next_image: &mut usize) -> Op {
    let disk = usize::try_from(rng.below(DISKS as u64)).unwrap_or(0);
    let recent = usize::try_from(rng.below(3)).unwrap_or(0) + 1;
    let image = next_image.saturating_sub(recent);
    match rng.below(12) {
        0..3 => {
            *next_image += 1;
            Op::Import(
                *next_image - 1,
                disk,
                1 + u32::try_from(rng.below(3)).unwrap_or(0),
            )
        }
        3..7 => {
            let pause = rng
                .percent(30)
                .then(|| usize::try_from(rng.below(2)).unwrap_or(0) + 1);
            Op::Copy(image, disk, pause)
        }
        7 => Op::GiveUp(image, disk),
        8 => Op::Remove(image, disk),
        9 | 10 => Op::Delete(image),
        _ => Op::Describe(image, 1 + u32::try_from(rng.below(3)).unwrap_or(0)),
    }
}

/// An old copy of a disk, with what was true of it.
struct Old {
    nth: usize,
    disk: SimDisk,
    uuid: uuid::Uuid,
    truth: super::truth::DiskTruth,
}

fn copy_of(node: &Node, nth: usize) -> Old {
    let uuid = node.uuids[nth];
    Old {
        nth,
        disk: node.disks[nth].clone(),
        uuid,
        truth: node.truth.disks.get(&uuid).cloned().unwrap_or_default(),
    }
}

fn swap_in(node: &mut Node, truth: &mut Truth, old: Old) -> Old {
    let now = Old {
        nth: old.nth,
        disk: std::mem::replace(&mut node.disks[old.nth], old.disk),
        uuid: node.uuids[old.nth],
        truth: truth.disks.remove(&node.uuids[old.nth]).unwrap_or_default(),
    };
    node.uuids[old.nth] = old.uuid;
    truth.disks.insert(old.uuid, old.truth);
    now
}

/// Runs the schedule of a seed.
///
/// # Errors
/// The first broken promise.
pub fn run(seed: u64, broken: Break, sabotage: Option<Sabotage>) -> Result<Done, String> {
    let mut rng = Rng::new(seed);
    let mut node = Node::new(DISKS)?;
    node.broken = broken;
    let mut next_image = 0;
    let mut done = Done::default();
    let mut old: Option<Old> = None;
    let trouble = |node: &mut Node, rng: &mut Rng, ops: &[Op], done: &mut Done| {
        let crashes = rng.percent(40);
        let tolerant = rng.percent(40);
        let victim = usize::try_from(rng.below(DISKS as u64)).unwrap_or(0);
        if crashes {
            let within = 1 << (3 + rng.below(6));
            let at = node.disks[victim].operations() + rng.below(within);
            node.disks[victim].crash_at(at);
        }
        done.sessions += 1;
        let result = node.session(ops, tolerant);
        match result {
            Ok(()) => {
                node.disks.iter_mut().for_each(SimDisk::crash_at_nothing);
                Ok(())
            }
            Err(Stop::Crash) => {
                done.crashes += 1;
                let crash = if rng.percent(40) {
                    Crash::Process
                } else {
                    Crash::Power {
                        seed: rng.next_u64(),
                    }
                };
                node.crash(crash);
                Ok(())
            }
            Err(Stop::Broken(why)) => Err(why),
        }
    };
    node.sabotage(sabotage);
    for round in 0..24 {
        // Who is there: late disks are left out.
        for nth in 0..DISKS {
            node.is_there[nth] = rng.percent(75);
        }
        let ops: Vec<Op> = (0..rng.below(6))
            .map(|_| op(&mut rng, &mut next_image))
            .collect();
        trouble(&mut node, &mut rng, &ops, &mut done)
            .map_err(|why| format!("seed {seed}, round {round}, {ops:?}: {why}"))?;
        let nth = usize::try_from(rng.below(DISKS as u64)).unwrap_or(0);
        match rng.below(10) {
            0 => {
                node.format(nth, seed ^ (round << 8) ^ 0xf0)?;
                done.swaps += 1;
                if old.as_ref().is_some_and(|old| old.nth == nth) {
                    old = None;
                }
            }
            1 | 2 => old = Some(copy_of(&node, nth)),
            3 | 4 => {
                if let Some(copy) = old.take() {
                    done.swaps += 1;
                    let (nth, uuid) = (copy.nth, copy.uuid);
                    let was = copy.truth.moment;
                    let mut truth = std::mem::take(&mut node.truth);
                    let now = swap_in(&mut node, &mut truth, copy);
                    node.truth = truth;
                    // Where nobody knows better, the old copy is the disk from now on, and what it has forgotten is lost.
                    let is_known = node.truth.stale(&node.uuids).contains(&uuid);
                    let ops = [op(&mut rng, &mut next_image)];
                    node.is_there.fill(true);
                    trouble(&mut node, &mut rng, &ops, &mut done).map_err(|why| {
                        format!("seed {seed}, round {round}, an old disk {nth}, {ops:?}: {why}")
                    })?;
                    if !is_known {
                        continue;
                    }
                    let moment = node.truth.disks.get(&uuid).map_or(0, |truth| truth.moment);
                    if moment != was {
                        // Whoever knew stopped in that session, and the old copy has met another disk: there are two of it now, with
                        // a history of their own, and that cannot be told for sure. See docs/replicas.md.
                        done.forks += 1;
                        return Ok(done);
                    }
                    // The right one again.
                    let mut truth = std::mem::take(&mut node.truth);
                    drop(swap_in(&mut node, &mut truth, now));
                    node.truth = truth;
                }
            }
            _ => {}
        }
    }
    node.is_there.fill(true);
    match node.session(&[], false) {
        Ok(()) => Ok(done),
        Err(stop) => Err(format!("seed {seed}, at the end: {stop:?}")),
    }
}
