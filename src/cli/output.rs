//! Printing: text and tables for people, JSON for programs, on standard output and nothing else there.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::failure::{Failure, Result};

/// Prints text and a line end. A reader that has gone (`| head`) ends the program quietly.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    match writeln!(output, "{text}").and_then(|()| output.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::failed("cannot write to standard output").because(error)),
    }
}

/// Prints one JSON value.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    text(&serde_json::to_string_pretty(value).expect("what we print has only text keys"))
}

/// Lays rows out in columns below a heading.
pub(crate) fn columns<const N: usize>(
    heading: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(heading.map(str::to_uppercase));
    for row in rows {
        table.add_row(row);
    }
    // The preset leaves a blank at the start and the end of every line.
    let lines: Vec<_> = table
        .lines()
        .map(|line| {
            line.strip_prefix(' ')
                .unwrap_or(&line)
                .trim_end()
                .to_owned()
        })
        .collect();
    lines.join("\n")
}

/// A name that the data chose, on one line: it steers no terminal.
pub(crate) fn name(text: &str) -> String {
    pinwheel_web::plain(text).replace(['\n', '\t'], " ")
}

/// An instant for people: UTC to the second.
pub(crate) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// An instant for people, or a dash.
pub(crate) fn maybe_time(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| "-".to_owned(), time)
}

/// How long something took or has taken, finer the shorter it is.
pub(crate) fn took(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> String {
    let Some(from) = from else {
        return "-".to_owned();
    };
    let milliseconds = (to.unwrap_or_else(Utc::now) - from)
        .num_milliseconds()
        .max(0);
    let seconds = milliseconds / 1000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The word of a unit-like enum as its serialised form has it.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn columns_are_aligned_without_blanks_at_the_ends() {
        let table = columns(
            ["id", "state"],
            [
                ["a".to_owned(), "success".to_owned()],
                ["bcd".to_owned(), "failed".to_owned()],
            ],
        );
        assert_eq!(table, "ID   STATE\na    success\nbcd  failed");
    }

    #[test]
    fn a_name_steers_no_terminal() {
        assert_eq!(name("a\u{1b}[2Jb\nc\td\u{7}\u{202e}"), "ab c d\u{fffd}");
    }

    #[test]
    fn durations_are_short_and_exact_enough() {
        let from = DateTime::UNIX_EPOCH;
        let took = |milliseconds| {
            took(
                Some(from),
                Some(from + TimeDelta::milliseconds(milliseconds)),
            )
        };
        assert_eq!(
            [took(25), took(2_500), took(61_000), took(3_720_000)],
            ["25 ms", "2.5 s", "1m 01s", "1h 02m"]
        );
    }
}
