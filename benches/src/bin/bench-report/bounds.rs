//! The bounds that Bedplate must hold, and whether it did.

use serde_json::{Value, json};

use crate::cells::{Cell, Cells};
use crate::figures::Spread;

/// What a bound allows for the spread of a good machine.
const TOLERANCE: f64 = 0.03;

/// One bound.
pub struct Verdict {
    pub what: String,
    pub bound: f64,
    /// Nothing where the run did not measure it.
    pub ratio: Option<Spread>,
}

impl Verdict {
    pub fn holds(&self) -> Option<bool> {
        self.ratio
            .map(|ratio| ratio.median >= self.bound * (1.0 - TOLERANCE))
    }

    /// In a word or two.
    pub fn word(&self) -> &'static str {
        let limit = self.bound * (1.0 - TOLERANCE);
        match (self.holds(), self.ratio) {
            (Some(true), Some(ratio)) if ratio.low < limit => {
                "holds, a quarter of the rounds does not"
            }
            (Some(true), _) => "holds",
            (Some(false), Some(ratio)) if ratio.high >= limit => {
                "MISSED, a quarter of the rounds holds"
            }
            (Some(false), _) => "MISSED",
            (None, _) => "not measured",
        }
    }

    pub fn to_json(&self) -> Value {
        json!({
            "what": self.what,
            "bound": self.bound,
            "tolerance": TOLERANCE,
            "ratio": self.ratio.map(|ratio| json!({"median": ratio.median, "quartiles": [ratio.low, ratio.high]})),
            "holds": self.holds(),
        })
    }
}

fn cell(kind: &str, depth: u32) -> Cell {
    Cell {
        kind: kind.to_owned(),
        size: "4k".to_owned(),
        depth,
        queues: 1,
    }
}

/// All bounds.
pub fn judge(cells: &Cells) -> Vec<Verdict> {
    let reference = cells.reference();
    let read = cell("read", 32);
    let overwrite = cell("overwrite", 32);
    let touch = cell("touch", 32);
    let touch_fsync = cell("touch-fsync", 1);
    let clone = "bedplate-clone";
    let row = |what: &str, bound, ours: (&Cell, &str), theirs: (&Cell, &str)| Verdict {
        what: format!(
            "{what} / {}",
            if theirs.1 == clone {
                "its overwrite"
            } else {
                theirs.1
            }
        ),
        bound,
        ratio: cells.ratio(ours, theirs),
    };
    vec![
        row(
            "image, read",
            1.0,
            (&read, "bedplate-image"),
            (&read, reference),
        ),
        row(
            "mapped clone, read",
            1.0,
            (&read, clone),
            (&read, reference),
        ),
        row(
            "clone, overwrite",
            1.0,
            (&overwrite, clone),
            (&overwrite, reference),
        ),
        row(
            "clone, first touch",
            0.9,
            (&touch, clone),
            (&overwrite, clone),
        ),
        row(
            "clone, first touch",
            1.5,
            (&touch, clone),
            (&touch, "dm-snapshot"),
        ),
        row(
            "clone, first touch",
            5.0,
            (&touch, clone),
            (&touch, "qcow2-nbd"),
        ),
        row(
            "first touch and fsync, 8 writers",
            2.0,
            (&touch_fsync, clone),
            (&touch_fsync, "qcow2-nbd"),
        ),
    ]
}
