//! The rows of a report as plain values: what its charts and pages are drawn from, whether it was just written or is read again.

use polars::prelude::{DataFrame, PolarsResult};
use serde_json::{Map, Value, json};

use crate::query::value_of;

/// The answer to a report's question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The columns in their order.
    pub columns: Vec<AnswerColumn>,
    /// The rows, a value for each column.
    pub rows: Vec<Vec<Value>>,
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerColumn {
    /// The name.
    pub name: String,
    /// The type in the words of Polars.
    pub data_type: String,
    /// Whether it holds numbers.
    pub is_numeric: bool,
}

impl Answer {
    /// The rows of a query.
    ///
    /// # Errors
    /// Polars cannot read a column, which is a bug.
    pub fn of(rows: &DataFrame) -> PolarsResult<Self> {
        let columns = rows
            .columns()
            .iter()
            .map(|column| AnswerColumn {
                name: column.name().to_string(),
                data_type: column.dtype().to_string(),
                is_numeric: column.dtype().is_primitive_numeric(),
            })
            .collect();
        let rows = (0..rows.height())
            .map(|index| {
                rows.columns()
                    .iter()
                    .map(|column| Ok(value_of(&column.get(index)?)))
                    .collect()
            })
            .collect::<PolarsResult<_>>()?;
        Ok(Self { columns, rows })
    }

    /// The columns and rows as they stand in a report's JSON.
    pub(super) fn to_json(&self) -> (Value, Value) {
        let columns = self.columns.iter().map(|column| {
            json!({ "name": column.name, "type": column.data_type, "numeric": column.is_numeric })
        });
        let names = || self.columns.iter().map(|column| column.name.clone());
        let rows = self
            .rows
            .iter()
            .map(|row| Value::Object(names().zip(row.iter().cloned()).collect()));
        (columns.collect(), rows.collect())
    }

    /// Reads what [`Self::to_json`] wrote; `None` when it is something else.
    pub(super) fn from_json(report: &Map<String, Value>) -> Option<Self> {
        let columns: Vec<AnswerColumn> = report
            .get("columns")?
            .as_array()?
            .iter()
            .map(|column| {
                let data_type = column.get("type")?.as_str()?.to_owned();
                Some(AnswerColumn {
                    name: column.get("name")?.as_str()?.to_owned(),
                    // Reports of the first version do not say it; there the type does.
                    is_numeric: column
                        .get("numeric")
                        .and_then(Value::as_bool)
                        .unwrap_or_else(|| data_type.starts_with(['i', 'u', 'f'])),
                    data_type,
                })
            })
            .collect::<Option<_>>()?;
        let rows = report
            .get("rows")?
            .as_array()?
            .iter()
            .map(|row| {
                let value = |column: &AnswerColumn| row.get(&column.name).cloned();
                columns.iter().map(value).collect::<Option<_>>()
            })
            .collect::<Option<_>>()?;
        Some(Self { columns, rows })
    }

    /// The place of a column.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

/// A value as plain text; null is empty, a list is JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A value of a column of numbers as people read it: digits in groups of three.
pub fn grouped(value: &Value) -> String {
    let number = plain(value);
    let (sign, digits) = number
        .strip_prefix('-')
        .map_or(("", number.as_str()), |digits| ("-", digits));
    let (whole, fraction) = digits
        .split_once('.')
        .map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    if !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return number;
    }
    let mut text = sign.to_owned();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    match fraction {
        Some("0") | None => text,
        Some(fraction) => format!("{text}.{fraction}"),
    }
}
