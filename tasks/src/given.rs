//! Reads a rendered `with` table. A template keeps the type of its value, so what a file has promised is looked at once
//! more when a try starts.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::{Failure, duration};

/// A rendered `with` table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    with: &'a Map<String, Value>,
}

impl<'a> Given<'a> {
    pub(crate) fn new(with: &'a Map<String, Value>) -> Self {
        Self { with }
    }

    /// The value of a key; `null`, which a template may give, is as good as none.
    pub(crate) fn value(self, field: &str) -> Option<&'a Value> {
        self.with.get(field).filter(|value| !value.is_null())
    }

    /// A text; a number or a truth value is written out.
    pub(crate) fn text(self, field: &str) -> Result<Option<String>, Failure> {
        self.value(field)
            .map(|value| plain(value).ok_or_else(|| wrong(field, "a text", value)))
            .transpose()
    }

    /// A text that must be there and say something.
    pub(crate) fn required_text(self, field: &str) -> Result<String, Failure> {
        self.text(field)?
            .filter(|text| !text.trim().is_empty())
            .ok_or_else(|| Failure::permanent(format!("`{field}` is empty")))
    }

    pub(crate) fn duration(self, field: &str) -> Result<Option<Duration>, Failure> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        duration::parse(&text).map(Some).map_err(|error| {
            Failure::permanent(format!("`{field}`: {}", error.message)).with_hint(error.hint)
        })
    }

    pub(crate) fn instant(self, field: &str) -> Result<Option<DateTime<Utc>>, Failure> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        DateTime::parse_from_rfc3339(text.trim())
            .map(|instant| Some(instant.to_utc()))
            .map_err(|_| {
                Failure::permanent(format!("`{field}` is no instant: `{text}`"))
                    .with_hint("write it as `2026-01-31T02:00:00Z`")
            })
    }

    /// A whole number that is not negative.
    pub(crate) fn count(self, field: &str) -> Result<Option<u64>, Failure> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.trim().parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
        .map(Some)
        .ok_or_else(|| wrong(field, "a whole number from 0", value))
    }

    /// `true` or `false`; not given is `false`.
    pub(crate) fn is_set(self, field: &str) -> Result<bool, Failure> {
        let Some(value) = self.value(field) else {
            return Ok(false);
        };
        match value {
            Value::Bool(truth) => Some(*truth),
            Value::String(text) => text.trim().parse().ok(),
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        }
        .ok_or_else(|| wrong(field, "`true` or `false`", value))
    }

    /// A list of texts; one text is a list of one.
    pub(crate) fn texts(self, field: &str) -> Result<Option<Vec<String>>, Failure> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        match value {
            Value::Array(items) => items
                .iter()
                .map(|item| plain(item).ok_or_else(|| wrong(&format!("{field}[]"), "a text", item)))
                .collect::<Result<_, _>>()
                .map(Some),
            one => plain(one)
                .map(|text| Some(vec![text]))
                .ok_or_else(|| wrong(field, "a list of texts", one)),
        }
    }

    /// A table; not given is an empty one.
    pub(crate) fn table(self, field: &str) -> Result<Map<String, Value>, Failure> {
        match self.value(field) {
            None => Ok(Map::new()),
            Some(Value::Object(table)) => Ok(table.clone()),
            Some(other) => Err(wrong(field, "a table", other)),
        }
    }

    /// A table of texts.
    pub(crate) fn text_table(self, field: &str) -> Result<Vec<(String, String)>, Failure> {
        self.table(field)?
            .into_iter()
            .map(|(name, value)| {
                let text = plain(&value)
                    .ok_or_else(|| wrong(&format!("{field}.{name}"), "a text", &value))?;
                Ok((name, text))
            })
            .collect()
    }
}

/// A value that is no list and no table, as text.
pub(crate) fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn wrong(field: &str, expected: &str, found: &Value) -> Failure {
    let found = match found {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    };
    Failure::permanent(format!("`{field}` must be {expected}, found {found}"))
}
