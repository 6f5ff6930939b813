//! What cleaning answers: a row, or the rule that a message broke.

use serde::{Deserialize, Serialize};

/// A clean row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// One value per column of the dataset, in its order.
    pub values: Vec<Cell>,
    /// The rules that changed a value, for the counts; [`Dataset::rule_name`](super::Dataset::rule_name) names them.
    pub fired: Vec<Fired>,
}

/// One value of a clean row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// Text without NUL.
    Text(String),
    /// An integer.
    Integer(i64),
    /// A float, never infinite and never NaN.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// A moment: microseconds since 1970, UTC.
    Timestamp(i64),
    /// A list of texts.
    TextList(Vec<String>),
    /// A JSON object as text.
    Json(String),
}

/// A float is never NaN (JSON cannot say it), so every cell equals itself.
impl Eq for Cell {}

/// A rule that changed the value of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fired {
    /// What happened.
    pub kind: FiredKind,
    /// The column's position.
    pub column: u16,
}

/// What a rule did to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FiredKind {
    /// A placeholder became null.
    Placeholder,
    /// Empty text became null.
    Empty,
    /// An optional field was not in the message and became null.
    Missing,
    /// Fields that the contract does not know were kept in `extra`.
    Extra,
    /// An expectation of severity `warn` did not hold; `column` is the place of the expectation in the file.
    Expectation,
}

impl FiredKind {
    /// The word in rule names.
    pub fn word(self) -> &'static str {
        match self {
            Self::Placeholder => "placeholder",
            Self::Empty => "empty",
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Expectation => "expectation",
        }
    }
}

/// Why a message is not a clean row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// How far the message came.
    pub stage: Stage,
    /// The rule it broke, such as `missing_field:title`. The number of different rules is bounded by the dataset file.
    pub rule: String,
    /// What was expected and what was found, shortened.
    pub detail: String,
    /// The column it is about, where there is one.
    pub field: Option<String>,
}

/// How far a rejected message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It cannot be read or has the wrong shape: it is dead-lettered.
    Unreadable,
    /// It is a row, but breaks the contract: it is quarantined.
    Contract,
}

impl Stage {
    /// The word in dead-letter sets.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Contract => "contract",
        }
    }
}
