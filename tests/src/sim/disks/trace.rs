//! Short traces over several disks, crashed at every write and flush of every disk.

use super::node::{Node, Op, Stop};
use crate::sim::disk::{Crash, Sabotage};
use crate::sim::rng::mix;

/// How much was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Writes and flushes of the trace, over all disks.
    pub operations: u64,
    /// Crashes.
    pub crashes: u64,
}

fn whole(node: &mut Node, ops: &[Op]) -> Result<(), String> {
    match node.session(ops, false) {
        Ok(()) => Ok(()),
        Err(Stop::Crash) => Err("a disk stopped by itself".to_owned()),
        Err(Stop::Broken(why)) => Err(why),
    }
}

/// Crashes `trace` at each operation of each of `disks` disks: the machine by process crash and by power loss, and the one disk alone. After
/// each, the disks come back (all of them; all but one at first), everything is checked, and `after` must work.
///
/// # Errors
/// The first broken promise, and where to crash to see it.
pub fn crash_everywhere(
    disks: usize,
    before: &[Op],
    trace: &[Op],
    after: &[Op],
    sabotage: Option<Sabotage>,
) -> Result<Tried, String> {
    let mut ready = Node::new(disks)?;
    whole(&mut ready, before)?;
    ready.sabotage(sabotage);
    let mut end = ready.clone();
    whole(&mut end, trace)?;
    let mut tried = Tried::default();
    for victim in 0..disks {
        let (first, last) = (
            ready.disks[victim].operations(),
            end.disks[victim].operations(),
        );
        tried.operations += last - first;
        for point in first..=last {
            let say = |how: &str, why: String| {
                format!("{trace:?}, {how} at operation {point} of disk {victim}: {why}")
            };
            let mut crashed = ready.clone();
            crashed.disks[victim].crash_at(point);
            match crashed.session(trace, false) {
                Ok(()) | Err(Stop::Crash) => {}
                Err(Stop::Broken(why)) => return Err(say("before a crash", why)),
            }
            // A broken rule shows with few of the outcomes only.
            let outcomes = if sabotage.is_some() { 5 } else { 2 };
            let power = (0..outcomes).map(|nth| Crash::Power {
                seed: mix(point * 64 + victim as u64 * 8 + nth),
            });
            for crash in std::iter::once(Crash::Process).chain(power) {
                // One disk comes late, in turn; none at all for the last.
                for late in 0..=disks {
                    tried.crashes += 1;
                    let mut node = crashed.clone();
                    node.crash(crash);
                    if late < disks {
                        node.is_there[late] = false;
                        whole(&mut node, &[])
                            .map_err(|why| say(&format!("{crash:?}, {late} late,"), why))?;
                        node.is_there[late] = true;
                    }
                    whole(&mut node, after)
                        .map_err(|why| say(&format!("{crash:?}, {late} late and back,"), why))?;
                }
            }
            let mut alone = ready.clone();
            alone.disks[victim].crash_at(point);
            tried.crashes += 1;
            match alone.session(trace, true) {
                Ok(()) | Err(Stop::Crash) => {}
                Err(Stop::Broken(why)) => return Err(say("one disk alone", why)),
            }
            alone.disks[victim].crash_at_nothing();
            whole(&mut alone, after).map_err(|why| say("one disk alone, back,", why))?;
        }
    }
    Ok(tried)
}
