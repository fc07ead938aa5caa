//! Data on stdout: tables for people, JSON lines for programs.

use std::io::Write;

use serde::Serialize;

/// Form of the data on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// One snake_case object per line; units are suffixes of the names.
    Json,
}

/// Writes one line to stdout. A reader that went away (`| head`) is no error.
pub(crate) fn line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _reader_gone = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.write_all(b"\n"));
    let _reader_gone = stdout.flush();
}

/// Writes `value` as one line of JSON.
pub(crate) fn json(value: &impl Serialize) {
    // Plain structs of numbers and strings serialise; a NaN becomes null.
    line(&serde_json::to_string(value).unwrap_or_default());
}

/// Writes rows below a header, columns as wide as their widest cell; numbers align right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    for text in table_lines(header, rows) {
        line(&text);
    }
}

fn table_lines(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = header.iter().map(ToString::to_string).collect();
    let cell_width = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i)).chain(head.get(i));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(cell_width).collect();
    let numeric = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit());
    let right: Vec<bool> = (0..head.len())
        .map(|i| {
            rows.iter()
                .filter_map(|row| row.get(i))
                .all(|cell| numeric(cell))
        })
        .collect();
    let render = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(widths.iter().zip(&right))
            .map(|(cell, (&width, &right))| {
                if right {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    std::iter::once(&head).chain(rows).map(render).collect()
}

/// Bytes for people: `12.3 MB` (powers of 1000).
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A whole number with thousands apart: `1 234 567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let (head, tail) = digits.split_at(first);
    let groups = tail
        .as_bytes()
        .chunks(3)
        .map(|chunk| String::from_utf8_lossy(chunk).into_owned());
    let parts = (!head.is_empty())
        .then(|| head.to_owned())
        .into_iter()
        .chain(groups);
    parts.collect::<Vec<_>>().join(" ")
}

/// A duration for people: `42s`, `3m 20s`, `2h 05m`.
pub(crate) fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        _ => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_numbers_stand_right() {
        let rows = vec![
            vec!["a".to_owned(), "5".to_owned()],
            vec!["long".into(), "123".into()],
        ];
        let lines = table_lines(&["name", "rows"], &rows);
        assert_eq!(lines, ["name  rows", "a        5", "long   123"]);
    }

    #[test]
    fn quantities_read_as_people_write_them() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(12_345_678), "12.3 MB");
        assert_eq!(count(0), "0");
        assert_eq!(count(24_000), "24 000");
        assert_eq!(count(123_456), "123 456");
        assert_eq!(duration(59.6), "1m 00s");
        assert_eq!(duration(7500.0), "2h 05m");
    }
}
