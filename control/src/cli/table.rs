//! Tables without borders: columns padded to their widest cell, two spaces between.

use super::output::Paint;

/// How a cell is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Not at all.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// On its way, or worth a look.
    Fair,
    /// Wrong.
    Bad,
}

/// Text and its colour.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A coloured cell.
    pub fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }

    /// Its text, without colour.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    title: &'static str,
    right: bool,
    optional: bool,
}

/// Text, aligned left.
pub const fn left(title: &'static str) -> Column {
    Column {
        title,
        right: false,
        optional: false,
    }
}

/// Numbers and sizes, aligned right.
pub const fn right(title: &'static str) -> Column {
    Column {
        title,
        right: true,
        optional: false,
    }
}

/// Text that is left out when no row has any.
pub const fn optional(title: &'static str) -> Column {
    Column {
        title,
        right: false,
        optional: true,
    }
}

/// Rows under titles; an empty table is an empty string.
pub fn table(columns: &[Column], rows: &[Vec<Cell>], paint: Paint) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let shown: Vec<usize> = (0..columns.len())
        .filter(|&i| {
            !columns[i].optional
                || rows
                    .iter()
                    .any(|row| row.get(i).is_some_and(|c| !c.text.is_empty()))
        })
        .collect();
    let titles: Vec<Cell> = columns.iter().map(|column| column.title.into()).collect();
    let all = || std::iter::once(&titles).chain(rows);
    let widths: Vec<usize> = shown
        .iter()
        .map(|&i| {
            all()
                .filter_map(|row| row.get(i))
                .map(|cell| cell.text.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (&i, &width) in shown.iter().zip(&widths) {
            let Some(cell) = row.get(i) else { continue };
            let pad = " ".repeat(width - cell.text.chars().count());
            let painted = match cell.tone {
                Tone::Plain => cell.text.clone(),
                Tone::Good => paint.good(&cell.text),
                Tone::Fair => paint.fair(&cell.text),
                Tone::Bad => paint.bad(&cell.text),
            };
            if !line.is_empty() {
                line.push_str("  ");
            }
            if columns[i].right {
                line.push_str(&pad);
                line.push_str(&painted);
            } else {
                line.push_str(&painted);
                line.push_str(&pad);
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Lines of a label and a value, the values one under the other; those without a value are left out.
pub fn facts(lines: &[(&str, Option<String>)]) -> String {
    let width = lines
        .iter()
        .filter(|(_, v)| v.is_some())
        .map(|(label, _)| label.len())
        .max()
        .unwrap_or(0);
    lines
        .iter()
        .filter_map(|(label, value)| Some(format!("{label:width$}  {}\n", value.as_ref()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_empty_optional_columns_are_gone() {
        let columns = [left("NAME"), right("SIZE"), optional("NOTE")];
        let rows = [
            vec!["a".into(), "10 GiB".into(), "".into()],
            vec!["longer".into(), "1 B".into(), "".into()],
        ];
        assert_eq!(
            table(&columns, &rows, Paint(false)),
            "NAME      SIZE\na       10 GiB\nlonger     1 B\n"
        );
    }

    #[test]
    fn colour_does_not_shift_columns() {
        let rows = [
            vec![Cell::new("Ready", Tone::Good), "x".into()],
            vec!["Unknown".into(), "y".into()],
        ];
        let text = table(&[left("STATE"), left("N")], &rows, Paint(true));
        assert_eq!(text, "STATE    N\n\x1b[32mReady\x1b[0m    x\nUnknown  y\n");
    }

    #[test]
    fn nothing_prints_nothing() {
        assert_eq!(table(&[left("NAME")], &[], Paint(false)), "");
    }
}
