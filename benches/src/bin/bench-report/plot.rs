//! The plot: a panel a cell, a bar a device, whiskers from quartile to quartile. Written by hand: it is rectangles and text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cells::{Cell, Cells};
use crate::figures::Spread;

const PANEL_WIDTH: f64 = 560.0;
const LABEL_WIDTH: f64 = 175.0;
const VALUE_WIDTH: f64 = 130.0;
const BAR_STEP: f64 = 19.0;
const BAR_HEIGHT: f64 = 13.0;
const TITLE_HEIGHT: f64 = 30.0;
const TOP: f64 = 58.0;
const MARGIN: f64 = 16.0;

/// The whole picture, two columns of panels.
pub fn of(facts: &BTreeMap<String, String>, cells: &Cells) -> String {
    let mut panels = String::new();
    let mut bottoms = [TOP, TOP];
    for cell in cells.cells() {
        let column = usize::from(bottoms[1] < bottoms[0]);
        let left = if column == 0 {
            MARGIN
        } else {
            MARGIN * 2.0 + PANEL_WIDTH
        };
        bottoms[column] = panel(&mut panels, cells, cell, left, bottoms[column]);
    }
    let (width, height) = (
        PANEL_WIDTH * 2.0 + MARGIN * 3.0,
        bottoms[0].max(bottoms[1]) + MARGIN,
    );
    let fact = |name: &str| facts.get(name).map_or("?", String::as_str);
    let machine = match fact("machine") {
        emulated if emulated.starts_with("emulated") => {
            format!("{emulated}: only ratios mean anything")
        }
        other => other.to_owned(),
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"26\" font-size=\"16\" font-weight=\"bold\">Thousands of requests a second, and the ratio to {}</text>\n\
         <text x=\"{MARGIN}\" y=\"44\" fill=\"#666\">Linux {}, {} CPUs, {machine}; medians of {} rounds, whiskers: quartiles</text>\n{panels}</svg>\n",
        cells.reference(),
        fact("kernel"),
        fact("cpus"),
        fact("rounds"),
    )
}

/// One cell; answers where the next panel may begin.
fn panel(svg: &mut String, cells: &Cells, cell: &Cell, left: f64, top: f64) -> f64 {
    let bars: Vec<(&str, Spread)> = cells
        .names(cell)
        .into_iter()
        .filter_map(|name| Some((name, cells.spread(cell, name, |one| one.iops / 1000.0)?)))
        .collect();
    let longest = bars.iter().map(|(_, bar)| bar.high).fold(0.0, f64::max);
    let scale = (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH) / longest;
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{}</text>",
        top + 18.0,
        cell.title()
    );
    let mut y = top + TITLE_HEIGHT;
    for (name, bar) in bars {
        let colour = if name.starts_with("bedplate") {
            "#1f6fb4"
        } else if name == cells.reference() {
            "#8a8a8a"
        } else {
            "#c4c4c4"
        };
        let start = left + LABEL_WIDTH;
        let end = start + bar.median * scale;
        let middle = y + BAR_HEIGHT / 2.0;
        let baseline = y + BAR_HEIGHT - 2.0;
        let ratio = cells
            .ratio((cell, name), (cell, cells.reference()))
            .map_or_else(String::new, |ratio| format!(" ({:.2})", ratio.median));
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{start:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>\
             <path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"#222\"/>\
             <text x=\"{:.1}\" y=\"{baseline:.1}\">{:.1}{ratio}</text>",
            start - 6.0,
            end - start,
            start + bar.low * scale,
            start + bar.high * scale,
            start + bar.high * scale + 6.0,
            bar.median,
        );
        y += BAR_STEP;
    }
    y + 8.0
}
