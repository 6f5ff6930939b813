//! Reads `[[expectations]]` of a dataset file.

use std::ops::Range;

use regex::Regex;
use toml::{Spanned, de::DeValue};

use super::{Reader, Table, nearest};
use crate::dataset::{
    Column, ColumnType,
    expectation::{Bound, Condition, Expectation, Ordered, Severity},
    timestamp::{DEFAULT_FORMATS, Format},
};

const KEYS: &[&str] = &[
    "name",
    "column",
    "severity",
    "not_null",
    "min",
    "max",
    "min_length",
    "max_length",
    "one_of",
    "matches",
];
const CONDITIONS: &[&str] = &[
    "not_null",
    "min",
    "max",
    "min_length",
    "max_length",
    "one_of",
    "matches",
];
const SEVERITIES: &[&str] = &["warn", "quarantine", "fail"];

impl Reader<'_> {
    pub(super) fn expectations(
        &mut self,
        root: &Table<'_>,
        columns: &[Column],
    ) -> Vec<Expectation> {
        let mut expectations: Vec<Expectation> = Vec::new();
        let Some(entry) = root.get("expectations") else {
            return expectations;
        };
        for (table, span) in self.tables(entry, "expectations") {
            let Some(expectation) = self.expectation(table, &span, columns) else {
                continue;
            };
            if expectations
                .iter()
                .any(|other| other.name == expectation.name)
            {
                self.problem(
                    span,
                    format!(
                        "the name `{}` is taken by another expectation",
                        expectation.name
                    ),
                    None,
                );
            }
            expectations.push(expectation);
        }
        expectations
    }

    fn expectation(
        &mut self,
        table: &Table<'_>,
        span: &Range<usize>,
        columns: &[Column],
    ) -> Option<Expectation> {
        let owner = "an expectation";
        self.refuse_unknown_keys(table, KEYS, owner);
        let name = self.required_text(table, "name", span, owner);
        if let (Some(name), Some(entry)) = (&name, table.get("name")) {
            self.check_identifier(name, entry.span());
        }
        let severity = self.severity(table, span, owner);
        let column = self.required_text(table, "column", span, owner)?;
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let Some(position) = names.iter().position(|candidate| *candidate == column) else {
            let hint = nearest(&column, &names);
            self.problem(
                table.get("column").map_or(0..0, Spanned::span),
                format!("an expectation is about `{column}`, which is no column"),
                hint,
            );
            return None;
        };
        let mut conditions = Vec::new();
        for key in CONDITIONS {
            if table.contains_key(*key) {
                conditions.extend(self.condition(table, key, &columns[position]));
            }
        }
        if !CONDITIONS.iter().any(|key| table.contains_key(*key)) {
            self.problem(
                span.clone(),
                "an expectation without a condition",
                Some(format!("add one of {}", CONDITIONS.join(", "))),
            );
        }
        Some(Expectation {
            name: name?,
            column: position,
            severity: severity?,
            conditions,
        })
    }

    fn severity(
        &mut self,
        table: &Table<'_>,
        span: &Range<usize>,
        owner: &str,
    ) -> Option<Severity> {
        let word = self.required_text(table, "severity", span, owner)?;
        match word.as_str() {
            "warn" => Some(Severity::Warn),
            "quarantine" => Some(Severity::Quarantine),
            "fail" => Some(Severity::Fail),
            other => {
                let hint = nearest(other, SEVERITIES)
                    .or_else(|| Some(format!("the severities are {}", SEVERITIES.join(", "))));
                self.problem(
                    table.get("severity").map_or(0..0, Spanned::span),
                    format!("unknown severity `{other}`"),
                    hint,
                );
                None
            }
        }
    }

    fn condition(&mut self, table: &Table<'_>, key: &str, column: &Column) -> Option<Condition> {
        let entry = table.get(key)?;
        let (fits, types) = match key {
            "min" | "max" => (
                matches!(
                    column.column_type,
                    ColumnType::Integer | ColumnType::Float | ColumnType::Timestamp
                ),
                "numbers and timestamps",
            ),
            "min_length" | "max_length" => (
                matches!(column.column_type, ColumnType::Text | ColumnType::TextList),
                "texts and lists",
            ),
            "one_of" | "matches" => (column.column_type == ColumnType::Text, "texts"),
            _ => (true, "all columns"),
        };
        if !fits {
            self.problem(
                entry.span(),
                format!("`{key}` is for {types}, which `{}` is not", column.name),
                None,
            );
            return None;
        }
        match key {
            "not_null" => match self.boolean(table, key)? {
                true => Some(Condition::NotNull),
                false => {
                    self.problem(entry.span(), "`not_null` can only be true", None);
                    None
                }
            },
            "min" => self
                .bound(entry, key, column.column_type)
                .map(Condition::Least),
            "max" => self
                .bound(entry, key, column.column_type)
                .map(Condition::Most),
            "min_length" => self
                .whole_number(table, key, 0)?
                .map(Condition::LeastLength),
            "max_length" => self.whole_number(table, key, 0)?.map(Condition::MostLength),
            "one_of" => {
                let values = self.texts(entry, key)?;
                Some(Condition::OneOf(
                    values.into_iter().map(|(value, _)| value).collect(),
                ))
            }
            _ => {
                let pattern = self.optional_text(table, key)?;
                match Regex::new(&format!("^(?:{pattern})$")) {
                    Ok(pattern) => Some(Condition::Matches(pattern)),
                    Err(error) => {
                        let words = error.to_string();
                        let reason = words.lines().last().unwrap_or_default();
                        let reason = reason.trim_start_matches("error: ");
                        self.problem(
                            entry.span(),
                            format!("`{pattern}` is no regular expression: {reason}"),
                            None,
                        );
                        None
                    }
                }
            }
        }
    }

    fn bound(
        &mut self,
        entry: &Spanned<DeValue<'_>>,
        key: &str,
        column_type: ColumnType,
    ) -> Option<Bound> {
        let (value, written) = match (entry.get_ref(), column_type) {
            (DeValue::Integer(number), ColumnType::Integer) => (
                i64::from_str_radix(number.as_str(), number.radix())
                    .ok()
                    .map(Ordered::Integer),
                number.as_str().to_owned(),
            ),
            (DeValue::Integer(number), ColumnType::Float) => (
                number.as_str().parse().ok().map(Ordered::Float),
                number.as_str().to_owned(),
            ),
            (DeValue::Float(number), ColumnType::Float) => (
                number.as_str().parse().ok().map(Ordered::Float),
                number.as_str().to_owned(),
            ),
            (DeValue::Datetime(moment), ColumnType::Timestamp) => {
                let written = moment.to_string();
                (micros(&written).map(Ordered::Timestamp), written)
            }
            _ => (None, String::new()),
        };
        let Some(value) = value else {
            let wanted = match column_type {
                ColumnType::Float => "a number",
                ColumnType::Timestamp => "a date, or a date and time",
                ColumnType::Integer
                | ColumnType::Text
                | ColumnType::Boolean
                | ColumnType::TextList
                | ColumnType::Json => "an integer",
            };
            self.expected(entry, key, wanted);
            return None;
        };
        Some(Bound { value, written })
    }
}

/// A TOML date, or date and time; what has no zone is UTC.
fn micros(written: &str) -> Option<i64> {
    DEFAULT_FORMATS
        .iter()
        .chain(&["%Y-%m-%d"])
        .filter_map(|format| Format::parse(format).ok())
        .find_map(|format| format.read(written))
}
