//! The raw results: fio's JSON, and the first line of `/proc/stat` before and after.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::cells::Cell;

/// One device in one cell and one round.
pub struct Measured {
    pub round: u32,
    pub cell: Cell,
    pub name: String,
    pub iops: f64,
    pub p99_us: f64,
    /// Time of all processors, client included, for one request.
    pub cpu_us: f64,
}

/// A tick of `/proc/stat`: USER_HZ is 100 on every architecture that we run on.
const TICK_US: f64 = 10_000.0;

/// Kernel, rounds and the like, as the scenario noted them.
pub fn facts(raw: &Path) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let text = fs::read_to_string(raw.join("facts"))?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

/// All results in the folder.
pub fn results(raw: &Path) -> Result<Vec<Measured>, Box<dyn Error>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(raw)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if let Some(name) = name.strip_suffix(".json") {
            let measured = one(&path, name).map_err(|why| format!("{}: {why}", path.display()))?;
            all.push(measured);
        }
    }
    Ok(all)
}

/// `ROUND.KIND.SIZE.DEPTH.QUEUES.NAME`
fn one(path: &Path, name: &str) -> Result<Measured, Box<dyn Error>> {
    let mut parts = name.splitn(6, '.');
    let mut part = || parts.next().ok_or("not a name of a result");
    let round = part()?.parse()?;
    let cell = Cell {
        kind: part()?.to_owned(),
        size: part()?.to_owned(),
        depth: part()?.parse()?,
        queues: part()?.parse()?,
    };
    let name = part()?.to_owned();
    let text = fs::read_to_string(path)?;
    // fio may say something before its JSON.
    let json: Value =
        serde_json::from_str(text.get(text.find('{').ok_or("no JSON")?..).unwrap_or(""))?;
    let direction = if cell.kind == "read" { "read" } else { "write" };
    let job = json
        .pointer(&format!("/jobs/0/{direction}"))
        .ok_or("no job in it")?;
    let number = |pointer: &str| {
        job.pointer(pointer)
            .and_then(Value::as_f64)
            .ok_or_else(|| format!("no {pointer}"))
    };
    let ios = number("/total_ios")?;
    Ok(Measured {
        round,
        cell,
        name,
        iops: number("/iops")?,
        p99_us: number("/clat_ns/percentile/99.000000")? / 1000.0,
        cpu_us: busy_ticks(&path.with_extension("cpu")).unwrap_or(f64::NAN) * TICK_US / ios,
    })
}

/// Ticks between two lines `cpu user nice system idle iowait irq softirq ...` in which a processor was not idle.
fn busy_ticks(path: &Path) -> Option<f64> {
    let text = fs::read_to_string(path).ok()?;
    let busy = |line: &str| -> Option<f64> {
        let ticks: Vec<f64> = line
            .split_ascii_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|field| field.parse().ok())
            .collect();
        Some(ticks.iter().sum::<f64>() - ticks.get(3)? - ticks.get(4)?)
    };
    let mut lines = text.lines();
    let (before, after) = (busy(lines.next()?)?, busy(lines.next()?)?);
    Some(after - before)
}
