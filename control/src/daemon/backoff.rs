//! How long to wait before something is tried again: longer after each failure, and never in step with others. Pure; who asks brings the
//! randomness.

use std::time::Duration;

/// Between two tries.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub most: Duration,
}

impl Backoff {
    /// How long to wait after so many failures in a row; a quarter less or more, as `random` has it.
    pub fn wait(&self, failures: u32, random: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let wait = self.first.saturating_mul(1 << doublings).min(self.most);
        let three_quarters = wait / 4 * 3;
        three_quarters + (wait / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// Something that others do not have: good enough to keep tries apart.
pub fn random() -> u32 {
    uuid::Uuid::new_v4().as_fields().0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_limit_and_stays_within_a_quarter() {
        let backoff = Backoff {
            first: Duration::from_secs(4),
            most: Duration::from_secs(60),
        };
        let seconds = |failures, random| backoff.wait(failures, random).as_secs_f64();
        for (failures, nominal) in [
            (0, 4.0),
            (1, 4.0),
            (2, 8.0),
            (3, 16.0),
            (5, 60.0),
            (u32::MAX, 60.0),
        ] {
            assert!((seconds(failures, 0) - nominal * 0.75).abs() < 1e-6);
            assert!((seconds(failures, u32::MAX) - nominal * 1.25).abs() < 1e-6);
        }
        assert!(seconds(3, 1 << 31) > 15.9 && seconds(3, 1 << 31) < 16.1);
    }
}
