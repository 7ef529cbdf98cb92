//! Compares two ways of doing the same by turns, so that what disturbs the machine disturbs both.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// What one turn took.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Time on the clock.
    pub wall: Duration,
    /// CPU time of this thread, in the kernel and in our code.
    pub cpu: Duration,
}

/// Runs `work` and takes both times.
pub fn timed(work: impl FnOnce()) -> Turn {
    let (wall, cpu) = (
        now(ClockId::CLOCK_MONOTONIC),
        now(ClockId::CLOCK_THREAD_CPUTIME_ID),
    );
    work();
    Turn {
        wall: now(ClockId::CLOCK_MONOTONIC).saturating_sub(wall),
        cpu: now(ClockId::CLOCK_THREAD_CPUTIME_ID).saturating_sub(cpu),
    }
}

fn now(clock: ClockId) -> Duration {
    // Both clocks exist on every Linux.
    clock_gettime(clock).map(Duration::from).unwrap_or_default()
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    /// Speed of ours over that of the yardstick: above 1 is faster. The median of the rounds.
    pub speed_ratio: f64,
    /// The same at the first and at the third quartile of the rounds.
    pub quartiles: (f64, f64),
    /// CPU time of ours above that of the yardstick, for one operation. The median of the rounds.
    pub extra_cpu_ns: f64,
    /// Operations of the yardstick a second, over all rounds.
    pub yardstick_per_s: f64,
}

/// Lets both run by turns: ours, yardstick, yardstick, ours. Each turn does `operations` operations.
pub fn compare(
    rounds: usize,
    operations: u32,
    mut ours: impl FnMut() -> Turn,
    mut yardstick: impl FnMut() -> Turn,
) -> Comparison {
    let mut ratios = Vec::with_capacity(rounds);
    let mut extra = Vec::with_capacity(rounds);
    let mut yardstick_wall = Duration::ZERO;
    for _ in 0..rounds {
        let (ours_1, yardstick_1) = (ours(), yardstick());
        let (yardstick_2, ours_2) = (yardstick(), ours());
        let wall = yardstick_1.wall + yardstick_2.wall;
        ratios.push(wall.as_secs_f64() / (ours_1.wall + ours_2.wall).as_secs_f64());
        let extra_s = (ours_1.cpu + ours_2.cpu).as_secs_f64()
            - (yardstick_1.cpu + yardstick_2.cpu).as_secs_f64();
        extra.push(extra_s * 1e9 / (2.0 * f64::from(operations)));
        yardstick_wall += wall;
    }
    ratios.sort_by(f64::total_cmp);
    extra.sort_by(f64::total_cmp);
    let at = |sorted: &[f64], quarter: usize| {
        sorted
            .get(sorted.len() * quarter / 4)
            .copied()
            .unwrap_or(f64::NAN)
    };
    let turns = u32::try_from(2 * rounds).unwrap_or(u32::MAX);
    Comparison {
        speed_ratio: at(&ratios, 2),
        quartiles: (at(&ratios, 1), at(&ratios, 3)),
        extra_cpu_ns: at(&extra, 2),
        yardstick_per_s: f64::from(operations) * f64::from(turns) / yardstick_wall.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_time_is_twice_the_speed() {
        let turn = |ms| Turn {
            wall: Duration::from_millis(ms),
            cpu: Duration::from_millis(ms),
        };
        let comparison = compare(3, 1000, || turn(10), || turn(20));
        assert!((comparison.speed_ratio - 2.0).abs() < 1e-9);
        assert!((comparison.extra_cpu_ns + 10_000.0).abs() < 1e-3);
        assert!((comparison.yardstick_per_s - 50_000.0).abs() < 1e-3);
    }
}
