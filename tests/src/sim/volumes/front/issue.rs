//! New requests: which, and where.

use super::{CLUSTER_SECTORS, Front, REQUEST_SECTORS_MAX};
use crate::sim::volumes::oracle::Moment;
use crate::sim::volumes::request::{Request, What};

impl Front {
    /// Issues a request.
    pub fn issue(&mut self, volume: usize, what: What, first: usize, sectors: usize) {
        let Some(serving) = self.serving.get(volume).and_then(Option::as_ref) else {
            return;
        };
        let which = serving.which;
        let mut request = self.idle.pop().unwrap_or_else(Request::idle);
        request.orphan();
        request.serial = self.next_serial;
        self.next_serial += 1;
        (request.volume, request.what, request.first, request.sectors) =
            (volume, what, first, sectors);
        request.since = self.oracle.tick();
        let floor = self.looking_since();
        request.write = match what {
            What::Write { .. } => self.oracle.issue(which, first, sectors, false, floor),
            What::Zero { .. } => self.oracle.issue(which, first, sectors, true, floor),
            What::Read | What::Flush => crate::sim::volumes::word::WriteId::BASE,
        };
        self.requests.push(request);
    }

    pub(super) fn looking_since(&self) -> Moment {
        let reads = self
            .requests
            .iter()
            .filter(|request| request.what == What::Read);
        reads
            .map(|request| request.since)
            .min()
            .unwrap_or(Moment::MAX)
    }

    pub(super) fn issue_any(&mut self) {
        let open: Vec<usize> = (0..self.serving.len())
            .filter(|at| {
                self.serving[*at]
                    .as_ref()
                    .is_some_and(|serving| !serving.closing)
            })
            .collect();
        let Some(&volume) =
            open.get(usize::try_from(self.rng.below(open.len().max(1) as u64)).unwrap_or(0))
        else {
            return;
        };
        self.to_issue -= 1;
        let sectors = self.serving[volume]
            .as_ref()
            .map_or(1, |serving| serving.sectors);
        let what = match self.rng.below(100) {
            0..50 => What::Write {
                fua: self.rng.percent(6),
            },
            50..68 => What::Zero {
                keep: self.rng.percent(30),
            },
            68..90 => What::Read,
            _ => What::Flush,
        };
        let (first, count) = self.any_range(sectors, what);
        self.issue(volume, what, first, count);
    }

    /// Small mostly, large now and then; aligned to blocks or clusters as guests do, or not at all. Crowded, so that requests meet.
    pub(super) fn any_range(&mut self, sectors: usize, what: What) -> (usize, usize) {
        let rng = &mut self.rng;
        let mut below = |bound: usize| {
            usize::try_from(rng.below(bound.max(1) as u64)).expect("a number of sectors")
        };
        let is_zero = matches!(what, What::Zero { .. });
        let long = match below(100) {
            0..30 => 8,
            30..55 => 1 + below(16),
            55..78 => 8 * (1 + below(8)),
            78..90 => CLUSTER_SECTORS,
            90..95 => 1 + below(2 * CLUSTER_SECTORS),
            _ => {
                1 + below(if is_zero {
                    sectors
                } else {
                    REQUEST_SECTORS_MAX
                })
            }
        };
        let long = if is_zero && below(100) < 45 {
            CLUSTER_SECTORS * (1 + below(3))
        } else {
            long
        };
        let long = long.min(sectors).min(if is_zero {
            sectors
        } else {
            REQUEST_SECTORS_MAX
        });
        // Half of all requests go to a corner of the volume.
        let area = if below(2) == 0 {
            sectors.min(3 * CLUSTER_SECTORS)
        } else {
            sectors
        };
        let first = below(area).min(sectors - long);
        let align = match below(100) {
            0..25 => 1,
            25..65 => 8,
            _ => CLUSTER_SECTORS.min(if long >= 64 { CLUSTER_SECTORS } else { 8 }),
        };
        (first / align * align, long)
    }
}
