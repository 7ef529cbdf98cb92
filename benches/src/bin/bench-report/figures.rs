//! Median and quartiles.

/// Of some rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    /// Of these figures; nothing of none.
    pub fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.retain(|figure| figure.is_finite());
        figures.sort_by(f64::total_cmp);
        Some(Self {
            low: quantile(&figures, 1)?,
            median: quantile(&figures, 2)?,
            high: quantile(&figures, 3)?,
        })
    }
}

/// `quarters` quarters of the way through sorted figures, between two of them by proportion.
fn quantile(sorted: &[f64], quarters: usize) -> Option<f64> {
    let steps = sorted.len().checked_sub(1)? * quarters;
    let (below, rest) = (*sorted.get(steps / 4)?, steps % 4);
    let above = sorted.get(steps / 4 + 1).copied().unwrap_or(below);
    #[expect(clippy::cast_precision_loss, reason = "0 to 3")]
    Some(below + (above - below) * rest as f64 / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_figures() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]).expect("there are some");
        assert_eq!((spread.low, spread.median, spread.high), (1.75, 2.5, 3.25));
    }

    #[test]
    fn one_figure_has_no_spread() {
        let spread = Spread::of(vec![7.0, f64::NAN]).expect("there is one");
        assert_eq!((spread.low, spread.median, spread.high), (7.0, 7.0, 7.0));
        assert_eq!(Spread::of(vec![]), None);
    }
}
