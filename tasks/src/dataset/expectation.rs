//! What a dataset expects of its rows beyond their types, and what a row that does not keep it means.

use regex::Regex;

use super::cleaning::Value;

/// A condition on one column.
#[derive(Debug)]
pub(super) struct Expectation {
    pub(super) name: String,
    pub(super) column: usize,
    pub(super) severity: Severity,
    pub(super) conditions: Vec<Condition>,
}

/// What becomes of a row that breaks an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// The row stays and is counted.
    Warn,
    /// The row is quarantined.
    Quarantine,
    /// The row is quarantined, and the batch that holds it fails. A stream has no batch to fail: there it is quarantined.
    Fail,
}

/// A value for which all conditions hold is as expected; null is, unless it is refused.
#[derive(Debug)]
pub(super) enum Condition {
    NotNull,
    Least(Bound),
    Most(Bound),
    /// Characters of a text, or elements of a list.
    LeastLength(usize),
    MostLength(usize),
    OneOf(Vec<String>),
    /// The whole text.
    Matches(Regex),
}

/// A bound, in the type of its column, and as the file writes it.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) value: Ordered,
    pub(super) written: String,
}

#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(super) enum Ordered {
    Integer(i64),
    Float(f64),
    Timestamp(i64),
}

impl Expectation {
    /// The name of the rule in counts and dead letters.
    pub(super) fn rule(&self) -> String {
        format!("expectation:{}", self.name)
    }

    /// What is expected, for people.
    pub(super) fn words(&self, column: &str) -> String {
        let conditions: Vec<String> = self.conditions.iter().map(Condition::words).collect();
        format!("`{column}` to be {}", conditions.join(" and "))
    }

    pub(super) fn holds(&self, value: &Value<'_>) -> bool {
        self.conditions
            .iter()
            .all(|condition| condition.holds(value))
    }
}

impl Condition {
    fn words(&self) -> String {
        match self {
            Self::NotNull => "a value".to_owned(),
            Self::Least(bound) => format!("at least {}", bound.written),
            Self::Most(bound) => format!("at most {}", bound.written),
            Self::LeastLength(least) => format!("at least {least} long"),
            Self::MostLength(most) => format!("at most {most} long"),
            Self::OneOf(values) => format!("one of {}", values.join(", ")),
            Self::Matches(pattern) => format!("like `{pattern}`"),
        }
    }

    fn holds(&self, value: &Value<'_>) -> bool {
        if *value == Value::Null {
            return !matches!(self, Self::NotNull);
        }
        match self {
            Self::NotNull => true,
            Self::Least(bound) => ordered(value).is_none_or(|value| value >= bound.value),
            Self::Most(bound) => ordered(value).is_none_or(|value| value <= bound.value),
            Self::LeastLength(least) => length(value).is_none_or(|length| length >= *least),
            Self::MostLength(most) => length(value).is_none_or(|length| length <= *most),
            Self::OneOf(values) => {
                text(value).is_none_or(|text| values.iter().any(|value| value == text))
            }
            Self::Matches(pattern) => text(value).is_none_or(|text| pattern.is_match(text)),
        }
    }
}

// The definition is checked: a value of another type than its condition's does not occur.

fn ordered(value: &Value<'_>) -> Option<Ordered> {
    match value {
        Value::Integer(value) => Some(Ordered::Integer(*value)),
        Value::Float(value) => Some(Ordered::Float(*value)),
        Value::Timestamp(micros) => Some(Ordered::Timestamp(*micros)),
        Value::Null | Value::Text(_) | Value::Boolean(_) | Value::Tags(_) | Value::Json(_) => None,
    }
}

fn length(value: &Value<'_>) -> Option<usize> {
    match value {
        Value::Text(text) => Some(text.chars().count()),
        Value::Tags(tags) => Some(tags.iter().count()),
        Value::Null
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Timestamp(_)
        | Value::Json(_) => None,
    }
}

fn text<'v>(value: &'v Value<'_>) -> Option<&'v str> {
    match value {
        Value::Text(text) => Some(text),
        Value::Null
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Timestamp(_)
        | Value::Tags(_)
        | Value::Json(_) => None,
    }
}
