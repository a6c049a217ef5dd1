//! Rows as aligned columns, with colours where somebody looks.

use std::io::IsTerminal as _;

use crate::admin::State;

/// A row of a table.
pub(super) trait Row {
    /// The names of the columns; `wide` has more.
    fn header(wide: bool) -> Vec<&'static str>;

    /// A cell for each column.
    fn cells(&self, wide: bool) -> Vec<String>;

    /// What colours the row.
    fn state(&self) -> Option<State> {
        None
    }
}

/// Whether standard output wants colours (<https://no-color.org>).
pub(super) fn has_colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The table. Numbers are not aligned to the right: they stand in the last columns.
pub(super) fn text<R: Row>(rows: &[R], wide: bool, colours: bool) -> String {
    let header: Vec<String> = R::header(wide).into_iter().map(str::to_owned).collect();
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells(wide)).collect();
    let width = |column: usize| {
        let of = |cells: &Vec<String>| cells.get(column).map_or(0, |cell| cell.chars().count());
        std::iter::once(&header).chain(&cells).map(of).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut out = paint(&line(&header), if colours { "1" } else { "" });
    for (row, cells) in rows.iter().zip(&cells) {
        let colour = match row.state() {
            Some(State::Warn) if colours => "33",
            Some(State::Fail) if colours => "31",
            _ => "",
        };
        out.push('\n');
        out.push_str(&paint(&line(cells), colour));
    }
    out.push('\n');
    out
}

fn paint(line: &str, colour: &str) -> String {
    if colour.is_empty() { line.to_owned() } else { format!("\x1b[{colour}m{line}\x1b[0m") }
}

/// The first of a list, and how many more there are; all of them where there is room.
pub(super) fn list(items: &[String], wide: bool) -> String {
    const SHOWN: usize = 3;
    match items.len() {
        0 => "-".to_owned(),
        n if wide || n <= SHOWN => items.join(","),
        n => format!("{} + {} more", items[..SHOWN].join(","), n - SHOWN),
    }
}

/// A cell that is never empty, so that `awk` counts columns right.
pub(super) fn cell(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two(&'static str, &'static str, State);

    impl Row for Two {
        fn header(_: bool) -> Vec<&'static str> {
            vec!["NAME", "VALUE"]
        }

        fn cells(&self, _: bool) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_owned()]
        }

        fn state(&self) -> Option<State> {
            Some(self.2)
        }
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_blanks_at_the_end() {
        let rows = [Two("a", "1", State::Ok), Two("longer", "", State::Fail)];
        assert_eq!(text(&rows, false, false), "NAME    VALUE\na       1\nlonger\n");
        assert!(text(&rows, false, true).contains("\x1b[31mlonger\x1b[0m"));
        assert_eq!(text::<Two>(&[], false, false), "NAME  VALUE\n");
    }

    #[test]
    fn long_lists_are_cut() {
        let items: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        assert_eq!(list(&items, false), "a,b,c + 2 more");
        assert_eq!(list(&items, true), "a,b,c,d,e");
        assert_eq!(list(&[], false), "-");
    }
}
