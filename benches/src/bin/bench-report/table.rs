//! The table that is printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::bounds::Verdict;
use crate::cells::Cells;
use crate::figures::Spread;

/// Everything as text. Writing to a `String` does not fail.
pub fn of(facts: &BTreeMap<String, String>, cells: &Cells, verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    let fact = |name: &str| facts.get(name).map_or("?", String::as_str);
    let reference = cells.reference();
    let _ = writeln!(
        text,
        "Linux {}, {} CPUs, {}; medians of {} rounds of {} ms, quartiles in brackets; ratio: to {reference}, round by round",
        fact("kernel"),
        fact("cpus"),
        fact("machine"),
        fact("rounds"),
        fact("cell_ms"),
    );
    for cell in cells.cells() {
        let _ = writeln!(text, "\n{}", cell.title());
        let _ = writeln!(
            text,
            "  {:<26}{:>10} {:>19}{:>8} {:>15}{:>10}{:>9}",
            "", "IOPS", "", "ratio", "", "p99 us", "CPU us"
        );
        for name in cells.names(cell) {
            let iops = cells.spread(cell, name, |one| one.iops);
            let ratio = cells.ratio((cell, name), (cell, reference));
            let p99 = cells.spread(cell, name, |one| one.p99_us);
            let cpu = cells.spread(cell, name, |one| one.cpu_us);
            let _ = writeln!(
                text,
                "  {name:<26}{:>10} {:>19}{:>8} {:>15}{:>10}{:>9}",
                median(iops, 0),
                quartiles(iops, 0),
                median(ratio, 2),
                quartiles(ratio, 2),
                median(p99, 0),
                median(cpu, 1),
            );
        }
    }
    let _ = writeln!(text, "\nBounds, with 3 % tolerance");
    for verdict in verdicts {
        let _ = writeln!(
            text,
            "  {:<52} >= {:<4} {:>6} {:>15}  {}",
            verdict.what,
            verdict.bound,
            median(verdict.ratio, 2),
            quartiles(verdict.ratio, 2),
            verdict.word(),
        );
    }
    text
}

fn median(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(|| "-".to_owned(), |s| format!("{:.digits$}", s.median))
}

fn quartiles(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(String::new, |s| {
        format!("[{:.digits$} {:.digits$}]", s.low, s.high)
    })
}
