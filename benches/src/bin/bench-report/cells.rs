//! All figures, by cell, device and round.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::figures::Spread;
use crate::fio::Measured;

/// What was asked of the devices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// `read`, `overwrite`, `touch` or `touch-fsync`.
    pub kind: String,
    /// `4k`, `128k`, `1m`.
    pub size: String,
    pub depth: u32,
    pub queues: u32,
}

impl Cell {
    /// In words.
    pub fn title(&self) -> String {
        let what = match self.kind.as_str() {
            "read" => "random read",
            "overwrite" => "random overwrite",
            "touch" => "first touch, random write",
            "touch-fsync" => "first touch and fsync, 8 writers",
            other => other,
        };
        let size = self.size.replace('k', " KiB").replace('m', " MiB");
        let queues = if self.queues == 1 { "queue" } else { "queues" };
        format!(
            "{what}, {size}, depth {}, {} {queues}",
            self.depth, self.queues
        )
    }

    /// The order in which cells are shown: what bounds are about first.
    fn rank(&self) -> (u32, u32, bool, bool, u32) {
        let kind = match self.kind.as_str() {
            "read" => 0,
            "overwrite" => 1,
            "touch" => 2,
            _ => 3,
        };
        let size = match self.size.as_str() {
            "4k" => 0,
            "128k" => 1,
            _ => 2,
        };
        (
            self.queues,
            size,
            self.depth != 32 && kind != 3 && size == 0,
            kind > 1,
            kind * 1000 + self.depth,
        )
    }
}

type Rounds = BTreeMap<u32, Measured>;

/// The results of a run.
pub struct Cells(BTreeMap<Cell, BTreeMap<String, Rounds>>);

/// The order in which devices are shown.
const NAMES: [&str; 12] = [
    "bare",
    "loop",
    "rublk-copy",
    "rublk-zc",
    "dm-snapshot",
    "dm-thin",
    "qcow2-nbd",
    "qcow2-ublk-no-base",
    "bedplate-image",
    "bedplate-clone-unwritten",
    "bedplate-clone",
    "",
];

impl Cells {
    pub fn of(all: Vec<Measured>) -> Self {
        let mut cells = BTreeMap::new();
        for one in all {
            let names: &mut BTreeMap<String, Rounds> = cells.entry(one.cell.clone()).or_default();
            names
                .entry(one.name.clone())
                .or_default()
                .insert(one.round, one);
        }
        Self(cells)
    }

    /// What ratios are taken to: the bare loop target, with zero copy where the kernel has it.
    pub fn reference(&self) -> &'static str {
        let zero_copy = self.0.values().any(|names| names.contains_key("rublk-zc"));
        if zero_copy { "rublk-zc" } else { "rublk-copy" }
    }

    /// In the order in which they are shown.
    pub fn cells(&self) -> Vec<&Cell> {
        let mut cells: Vec<_> = self.0.keys().collect();
        cells.sort_by_key(|cell| cell.rank());
        cells
    }

    /// Devices of a cell, in order.
    pub fn names(&self, cell: &Cell) -> Vec<&str> {
        let all: BTreeSet<&str> = self
            .0
            .get(cell)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .map(String::as_str)
            .collect();
        NAMES
            .into_iter()
            .filter(|name| all.contains(name))
            .collect()
    }

    /// One figure of a device over the rounds.
    pub fn spread(
        &self,
        cell: &Cell,
        name: &str,
        figure: impl Fn(&Measured) -> f64,
    ) -> Option<Spread> {
        let rounds = self.0.get(cell)?.get(name)?;
        Spread::of(rounds.values().map(figure).collect())
    }

    /// Speed of one device in one cell over that of another: the ratio of each round, since a machine drifts from one to the next.
    pub fn ratio(&self, ours: (&Cell, &str), theirs: (&Cell, &str)) -> Option<Spread> {
        let ours = self.0.get(ours.0)?.get(ours.1)?;
        let theirs = self.0.get(theirs.0)?.get(theirs.1)?;
        let pairs = ours
            .iter()
            .filter_map(|(round, one)| Some(one.iops / theirs.get(round)?.iops));
        Spread::of(pairs.collect())
    }

    /// Everything, each round included.
    pub fn to_json(&self) -> Value {
        let spread = |spread: Option<Spread>| {
            spread.map(|s| json!({"median": s.median, "quartiles": [s.low, s.high]}))
        };
        let cells = self.cells().into_iter().map(|cell| {
            let devices: Vec<Value> = self
                .names(cell)
                .into_iter()
                .map(|name| {
                    let rounds: Vec<f64> = self.0[cell][name].values().map(|one| one.iops).collect();
                    json!({
                        "name": name,
                        "iops": spread(self.spread(cell, name, |one| one.iops)),
                        "p99_us": spread(self.spread(cell, name, |one| one.p99_us)),
                        "cpu_us_per_io": spread(self.spread(cell, name, |one| one.cpu_us)),
                        "to_reference": spread(self.ratio((cell, name), (cell, self.reference()))),
                        "iops_by_round": rounds,
                    })
                })
                .collect();
            json!({"kind": cell.kind, "size": cell.size, "depth": cell.depth, "queues": cell.queues, "devices": devices})
        });
        Value::Array(cells.collect())
    }
}
