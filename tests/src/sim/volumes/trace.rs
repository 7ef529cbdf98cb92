//! Short traces, crashed at every write and flush: a script of a node's operations and requests, run once to count, then once for each place to
//! stop, with each kind of crash, and with a second crash at each write and flush of the recovery.

use super::node::{Broken, Halt, Node, Ring};
use super::request::What;
use crate::sim::disk::Crash;
use crate::sim::rng::mix;

/// A step of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A volume is made and attached: a clone or not, its sectors. Volumes are numbered in this order.
    Make(bool, usize),
    /// A request, and all that it needs: volume, what, first sector, sectors.
    Ask(usize, What, usize, usize),
    /// A request that is under way together with what comes next.
    Begin(usize, What, usize, usize),
    /// A commit.
    Commit,
    /// A checkpoint.
    Checkpoint,
    /// A volume grows.
    Resize(usize, usize),
    /// A volume is detached.
    Detach(usize),
    /// It is attached again.
    Attach(usize),
    /// It is deleted.
    Delete(usize),
    /// So many clusters stay free.
    TakeSpace(u64),
    /// The image is deleted, or not if it has clones.
    DeleteImage,
    /// Commits of single changes: volume, how many.
    Commits(usize, usize),
    /// The machine stops here: what has begun has made no step.
    Stop,
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    /// Places in the script.
    pub places: u64,
    /// Recoveries.
    pub recoveries: u64,
}

/// Kinds of crash that each place is tried with: of a power loss several outcomes.
fn crashes() -> Vec<Crash> {
    let powers = (0..6).map(|seed| Crash::Power { seed });
    std::iter::once(Crash::Process).chain(powers).collect()
}

/// The crash in the middle of a recovery.
#[derive(Clone, Copy, Debug)]
enum Second {
    None,
    Process,
    /// Each place has its own two outcomes.
    Power(u64),
}

impl Second {
    /// With a ring to replay that is nearly full, a second crash at each place takes too long.
    fn of(ring: Ring) -> &'static [Self] {
        const ALL: [Second; 4] = [
            Second::None,
            Second::Process,
            Second::Power(1),
            Second::Power(2),
        ];
        match ring {
            Ring::Empty => &ALL,
            Ring::NearlyFull => &ALL[..1],
        }
    }

    fn crash(self, seed: u64, at: u64, place: u64) -> Option<Crash> {
        match self {
            Self::None => None,
            Self::Process => Some(Crash::Process),
            Self::Power(nth) => Some(Crash::Power {
                seed: mix(mix(mix(seed) ^ at) ^ place) ^ nth,
            }),
        }
    }
}

/// Runs `before` undisturbed, and stops everywhere in `script`.
///
/// # Errors
/// The violation, and where.
pub fn crash_everywhere(
    node: &mut Node,
    seed: u64,
    ring: Ring,
    before: &[Step],
    script: &[Step],
    broken: Broken,
) -> Result<Tried, String> {
    let mut tried = Tried::default();
    let (from, until) = match run(node, seed, ring, before, script, None, broken) {
        // Stopped: the script itself ends so.
        (Ok(()) | Err(Halt::Stopped), from) => (from, node.disk.borrow().operations()),
        (Err(halt), _) => return Err(format!("without a crash: {halt:?}")),
    };
    // One more: after the last.
    for at in from..=until {
        tried.places += 1;
        for first in crashes() {
            for second in Second::of(ring) {
                let mut place = 0;
                loop {
                    let name = format!(
                        "seed {seed}, operation {at} of {from}..{until}, {first:?}, then {second:?} at {place}"
                    );
                    if let (Err(Halt::Violation(why)), _) =
                        run(node, seed, ring, before, script, Some(at), broken)
                    {
                        return Err(format!("{name}: {why}"));
                    }
                    let started = node.disk.borrow().operations();
                    node.crash(first);
                    let second = second.crash(seed, at, place);
                    if let Some(second) = second {
                        node.disk.borrow_mut().crash_at(started + place);
                        match settle(node) {
                            Err(Halt::Stopped) => node.crash(second),
                            // Nothing is left to stop at.
                            Ok(()) => {
                                node.disk.borrow_mut().crash_at_nothing();
                                break;
                            }
                            Err(halt) => return Err(format!("{name}: first recovery: {halt:?}")),
                        }
                    }
                    tried.recoveries += 1;
                    finish(node).map_err(|halt| format!("{name}: {halt:?}"))?;
                    if second.is_none() {
                        break;
                    }
                    place += 1;
                }
            }
        }
    }
    Ok(tried)
}

/// Recovers, and makes the commit that covers what the former process had not committed.
fn settle(node: &mut Node) -> Result<(), Halt> {
    node.open()?;
    node.commit()
}

/// Recovers, ends what the kernel has kept, and looks at everything once more after a power loss.
fn finish(node: &mut Node) -> Result<(), Halt> {
    settle(node)?;
    node.check_idle()?;
    node.crash(Crash::Power { seed: 5 });
    node.open()
}

fn run(
    node: &mut Node,
    seed: u64,
    ring: Ring,
    before: &[Step],
    script: &[Step],
    stop_at: Option<u64>,
    broken: Broken,
) -> (Result<(), Halt>, u64) {
    if let Err(why) = node.reset(seed, ring, broken) {
        return (Err(Halt::Violation(why)), 0);
    }
    let mut volumes = Vec::new();
    for step in before {
        if let Err(halt) = do_step(node, &mut volumes, *step) {
            return (Err(halt), 0);
        }
    }
    let from = node.disk.borrow().operations();
    if let Some(at) = stop_at {
        node.disk.borrow_mut().crash_at(at);
    }
    for step in script {
        if let Err(halt) = do_step(node, &mut volumes, *step) {
            return (Err(halt), from);
        }
    }
    let drained = node.drain(None);
    (drained, from)
}

fn do_step(node: &mut Node, volumes: &mut Vec<usize>, step: Step) -> Result<(), Halt> {
    match step {
        Step::Make(is_clone, sectors) => {
            let made = node.create(is_clone, sectors)?;
            let volume =
                made.ok_or_else(|| Halt::Violation("no space for a new volume".to_owned()))?;
            volumes.push(volume);
            node.attach(volume)
        }
        Step::Ask(volume, what, first, sectors) => {
            node.front
                .borrow_mut()
                .issue(volumes[volume], what, first, sectors);
            node.drain(None)
        }
        Step::Begin(volume, what, first, sectors) => {
            node.front
                .borrow_mut()
                .issue(volumes[volume], what, first, sectors);
            Ok(())
        }
        Step::Commit => node.commit(),
        Step::Checkpoint => node.checkpoint(),
        Step::Resize(volume, sectors) => node.resize(volumes[volume], sectors),
        Step::Detach(volume) => node.detach(volumes[volume]),
        Step::Attach(volume) => node.attach(volumes[volume]),
        Step::Delete(volume) => node.delete(volumes[volume]),
        Step::TakeSpace(left) => node.take_space(left),
        Step::DeleteImage => node.delete_image(),
        Step::Commits(volume, count) => {
            for nth in 0..count {
                // Another block each time: one new bit of the map, and one record.
                let what = What::Write { fua: true };
                let mut front = node.front.borrow_mut();
                front.issue(volumes[volume], what, 8 * nth, 8);
                drop(front);
                node.drain(None)?;
            }
            Ok(())
        }
        Step::Stop => {
            node.disk.borrow_mut().stop();
            Err(Halt::Stopped)
        }
    }
}
