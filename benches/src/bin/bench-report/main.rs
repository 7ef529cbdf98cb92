//! What `make bench` measured, as a table, JSON and a plot.
//!
//! `bench-report RAW OUT`: RAW holds fio's results, a file a cell, device and round (`tests/vm/bench-guest`); OUT gets `bench.json`,
//! `bench.svg` and `bench.txt`, which is also printed.

mod bounds;
mod cells;
mod figures;
mod fio;
mod plot;
mod table;

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let (Some(raw), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("bench-report RAW OUT".into());
    };
    let facts = fio::facts(&raw)?;
    let cells = cells::Cells::of(fio::results(&raw)?);
    let verdicts = bounds::judge(&cells);
    let text = table::of(&facts, &cells, &verdicts);
    print!("{text}");
    fs::write(out.join("bench.txt"), &text)?;
    fs::write(out.join("bench.svg"), plot::of(&facts, &cells))?;
    let all = json!({
        "facts": facts,
        "reference": cells.reference(),
        "cells": cells.to_json(),
        "bounds": verdicts.iter().map(bounds::Verdict::to_json).collect::<Vec<_>>(),
    });
    fs::write(out.join("bench.json"), serde_json::to_string_pretty(&all)?)?;
    println!("\n{}: bench.txt, bench.json, bench.svg", out.display());
    Ok(())
}
