//! Rows as people and programs read them: an aligned table, CSV, JSON.

use polars::prelude::*;
use serde_json::{Map, Number, Value};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An aligned table for a terminal; long values are cut.
    Table,
    /// RFC 4180 with a header; lists are JSON.
    Csv(Formulas),
    /// A JSON array with one object a line.
    Json,
}

/// What CSV does with texts that a spreadsheet would run as a formula (`=`, `+`, `-`, `@` first).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formulas {
    /// Texts are written as they are: for programs.
    AsTheyAre,
    /// Such texts get an apostrophe before them: for files that people open.
    Disarmed,
}

/// A terminal shows at most so many characters of a value.
const WIDEST: usize = 60;

/// Writes rows. The text ends with a line break.
///
/// # Errors
/// Polars cannot read a column, which is a bug.
pub fn render(rows: &DataFrame, format: Format) -> PolarsResult<String> {
    match format {
        Format::Table => table(rows),
        Format::Csv(formulas) => csv(rows, formulas),
        Format::Json => json(rows),
    }
}

/// The rows as JSON objects, columns in their order.
///
/// # Errors
/// Polars cannot read a column, which is a bug.
pub fn row_objects(rows: &DataFrame) -> PolarsResult<Vec<Map<String, Value>>> {
    (0..rows.height())
        .map(|index| {
            rows.columns()
                .iter()
                .map(|column| Ok((column.name().to_string(), value_of(&column.get(index)?))))
                .collect::<PolarsResult<_>>()
        })
        .collect()
}

/// A value as JSON. Numbers that JSON does not have (infinite, not a number) are null.
pub fn value_of(value: &AnyValue<'_>) -> Value {
    match value {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(flag) => Value::Bool(*flag),
        AnyValue::String(text) => Value::String((*text).to_owned()),
        AnyValue::StringOwned(text) => Value::String(text.to_string()),
        AnyValue::UInt8(number) => Value::from(*number),
        AnyValue::UInt16(number) => Value::from(*number),
        AnyValue::UInt32(number) => Value::from(*number),
        AnyValue::UInt64(number) => Value::from(*number),
        AnyValue::Int8(number) => Value::from(*number),
        AnyValue::Int16(number) => Value::from(*number),
        AnyValue::Int32(number) => Value::from(*number),
        AnyValue::Int64(number) => Value::from(*number),
        AnyValue::Float32(number) => {
            Number::from_f64(f64::from(*number)).map_or(Value::Null, Value::Number)
        }
        AnyValue::Float64(number) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        AnyValue::List(series) => {
            Value::Array(series.iter().map(|element| value_of(&element)).collect())
        }
        other => Value::String(other.to_string()),
    }
}

/// A value as plain text; null is empty, a list is JSON.
pub fn text_of(value: &AnyValue<'_>) -> String {
    match value_of(value) {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn json(rows: &DataFrame) -> PolarsResult<String> {
    let objects = row_objects(rows)?;
    if objects.is_empty() {
        return Ok("[]\n".to_owned());
    }
    let lines: Vec<String> = objects
        .into_iter()
        .map(|object| format!("  {}", Value::Object(object)))
        .collect();
    Ok(format!("[\n{}\n]\n", lines.join(",\n")))
}

fn csv(rows: &DataFrame, formulas: Formulas) -> PolarsResult<String> {
    let mut text = String::new();
    let header = rows
        .columns()
        .iter()
        .map(|column| csv_field(column.name(), formulas));
    text.push_str(&header.collect::<Vec<_>>().join(","));
    text.push_str("\r\n");
    for index in 0..rows.height() {
        for (position, column) in rows.columns().iter().enumerate() {
            if position > 0 {
                text.push(',');
            }
            let value = column.get(index)?;
            let field = text_of(&value);
            let is_text = matches!(value, AnyValue::String(_) | AnyValue::StringOwned(_));
            // Null is nothing, empty text is "".
            match (is_text, field.is_empty()) {
                (true, true) => text.push_str("\"\""),
                (true, false) => text.push_str(&csv_field(&field, formulas)),
                (false, _) => text.push_str(&csv_field(&field, Formulas::AsTheyAre)),
            }
        }
        text.push_str("\r\n");
    }
    Ok(text)
}

fn csv_field(text: &str, formulas: Formulas) -> String {
    let armed =
        formulas == Formulas::Disarmed && text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if armed {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

fn table(rows: &DataFrame) -> PolarsResult<String> {
    let columns: Vec<(bool, Vec<String>)> = rows
        .columns()
        .iter()
        .map(|column| {
            let mut cells = vec![shown(column.name())];
            for index in 0..rows.height() {
                let value = column.get(index)?;
                cells.push(if matches!(value, AnyValue::Null) {
                    "null".to_owned()
                } else {
                    shown(&text_of(&value))
                });
            }
            Ok((column.dtype().is_primitive_numeric(), cells))
        })
        .collect::<PolarsResult<_>>()?;
    let widths: Vec<usize> = columns
        .iter()
        .map(|(_, cells)| {
            cells
                .iter()
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for line in 0..=rows.height() {
        let cells = columns
            .iter()
            .zip(&widths)
            .map(|((is_number, cells), width)| {
                let cell = &cells[line];
                if *is_number {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
        if line == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
            text.push_str(&rules.join("  "));
            text.push('\n');
        }
    }
    let noun = if rows.height() == 1 { "row" } else { "rows" };
    text.push_str(&format!("({} {noun})\n", rows.height()));
    Ok(text)
}

/// One line without control characters: a value must not steer the terminal.
fn shown(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(WIDEST)
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect();
    if text.chars().nth(WIDEST).is_some() {
        short.pop();
        short.push('…');
    }
    short
}
