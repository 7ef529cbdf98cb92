//! How long bytes take at a rate: of what goes on beside guests. Pure.

use std::time::Duration;

/// How long to wait after `bytes` were read in `took`, so that no more than `bytes_per_s` are read on average. Time that was lost is not
/// made up for: a disk that was slow is not read faster afterwards.
pub fn wait_after(bytes: u64, took: Duration, bytes_per_s: u64) -> Duration {
    at_rate(bytes, bytes_per_s).saturating_sub(took)
}

/// What `bytes` take at `bytes_per_s`.
pub fn at_rate(bytes: u64, bytes_per_s: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_as_long_as_its_bytes_may() {
        let ms = Duration::from_millis;
        assert_eq!(wait_after(1 << 20, ms(0), 10 << 20), ms(100));
        assert_eq!(wait_after(1 << 20, ms(30), 10 << 20), ms(70));
        assert_eq!(wait_after(1 << 20, ms(500), 10 << 20), ms(0));
        // Holes cost nothing.
        assert_eq!(wait_after(0, ms(0), 1), ms(0));
    }
}
