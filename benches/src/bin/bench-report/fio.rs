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
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let cell = one_cell(&path).map_err(|why| format!("{}: {why}", path.display()))?;
            all.extend(cell);
        }
    }
    Ok(all)
}

/// `ROUND.KIND.SIZE.DEPTH.QUEUES.json`: a job a device. Beside it `ROUND....QUEUES.DEVICE.cpu`.
fn one_cell(path: &Path) -> Result<Vec<Measured>, Box<dyn Error>> {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let stem = stem.ok_or("not a name of a result")?;
    let mut parts = stem.split('.');
    let mut part = || parts.next().ok_or("not a name of a result");
    let round = part()?.parse()?;
    let cell = Cell {
        kind: part()?.to_owned(),
        size: part()?.to_owned(),
        depth: part()?.parse()?,
        queues: part()?.parse()?,
    };
    let direction = if cell.kind == "read" { "read" } else { "write" };
    let text = fs::read_to_string(path)?;
    // fio may say something before its JSON.
    let start = text.find('{').ok_or("no JSON")?;
    let json: Value = serde_json::from_str(text.get(start..).unwrap_or(""))?;
    let jobs = json.pointer("/jobs").and_then(Value::as_array);
    let mut all = Vec::new();
    for job in jobs.ok_or("no jobs in it")? {
        let name = job.get("jobname").and_then(Value::as_str);
        let name = name.ok_or("a job without a name")?.to_owned();
        let job = job.get(direction).ok_or("no such direction")?;
        let number = |pointer: &str| {
            let number = job.pointer(pointer).and_then(Value::as_f64);
            number.ok_or_else(|| format!("{name}: no {pointer}"))
        };
        let ticks = busy_ticks(&path.with_file_name(format!("{stem}.{name}.cpu")));
        all.push(Measured {
            round,
            cell: cell.clone(),
            iops: number("/iops")?,
            p99_us: number("/clat_ns/percentile/99.000000")? / 1000.0,
            cpu_us: ticks.unwrap_or(f64::NAN) * TICK_US / number("/total_ios")?,
            name,
        });
    }
    Ok(all)
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
