//! What a clean row of a topic is: the contract of a dataset, and the cleaning of one message by it.
//!
//! A dataset is a TOML file under `dags/datasets/`. This module reads such files and cleans messages, one at a time, by pure
//! functions. It never does I/O apart from [`Catalog::load`], and it never decides what happens to a rejected message: the batch
//! (`clean`) and the streaming worker both call [`Dataset::clean`], so there is one meaning of clean.

mod catalog;
mod cleaning;
mod definition;
mod diagnostic;
mod expectation;
mod message;
mod row;
mod timestamp;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use expectation::{Expectation, Severity};
use regex::RegexSet;
use serde::{Deserialize, Serialize};

pub use catalog::{Catalog, CatalogError};
#[cfg(feature = "polars")]
pub(crate) use cleaning::{BorrowedRow, Value};
pub use diagnostic::{Error, Problem};
pub use row::{Cell, Fired, FiredKind, Rejected, Row, Stage};

/// The contract of one topic: which columns a clean row has, and how a message becomes one.
#[derive(Debug)]
pub struct Dataset {
    id: String,
    description: String,
    topic: String,
    key: usize,
    columns: Vec<Column>,
    fields: Vec<FieldRule>,
    derived: Vec<DerivedRule>,
    expectations: Vec<Expectation>,
    tolerance: Tolerance,
    max_message_bytes: usize,
    sha256: String,
}

impl Dataset {
    /// Reads a dataset file. `file` is only shown in errors.
    ///
    /// # Errors
    /// Everything that is wrong with the file, at once.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        definition::parse(file, text)
    }

    /// The name under which reports and queries find the dataset.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// One sentence for people.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The topic its messages come from unless a task or stream says otherwise.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The columns of a clean row, in order; the last one is always `extra`.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The position of a column.
    pub fn position(&self, column: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|candidate| candidate.name == column)
    }

    /// The position of the key column, which is never null.
    pub fn key(&self) -> usize {
        self.key
    }

    /// Whether the key is a UUID, which fits into 16 bytes.
    #[cfg(feature = "polars")]
    pub(crate) fn key_is_uuid(&self) -> bool {
        matches!(
            self.fields.get(self.key),
            Some(FieldRule {
                field_type: FieldType::Uuid,
                ..
            })
        )
    }

    /// How many rejected messages a batch may hold.
    pub fn tolerance(&self) -> Tolerance {
        self.tolerance
    }

    /// SHA-256 of the file in hexadecimal: which version of the contract cleaned a row.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Cleans one message. `None` is a message without a value (a tombstone).
    ///
    /// # Errors
    /// The first rule the message broke. Problems of shape are reported before breaches of the contract.
    pub fn clean(&self, message: Option<&[u8]>) -> Result<Row, Rejected> {
        cleaning::clean(self, message).map(cleaning::BorrowedRow::into_row)
    }

    /// Cleans one message without copying what needs no change; apart from that the same as [`Self::clean`].
    #[cfg(feature = "polars")]
    pub(crate) fn clean_borrowed<'m>(
        &'m self,
        message: Option<&'m [u8]>,
    ) -> Result<BorrowedRow<'m>, Rejected> {
        cleaning::clean(self, message)
    }

    /// Whether a batch that holds a message rejected by this rule is broken as a whole (an expectation of severity `fail`).
    pub fn fails_batch(&self, rule: &str) -> bool {
        self.expectations
            .iter()
            .any(|expectation| expectation.severity == Severity::Fail && expectation.rule() == rule)
    }

    /// The name of a rule that changed a value, such as `placeholder:title`.
    pub fn rule_name(&self, fired: Fired) -> String {
        if fired.kind == FiredKind::Expectation {
            return self
                .expectations
                .get(usize::from(fired.column))
                .map_or_else(|| "expectation:?".to_owned(), Expectation::rule);
        }
        let column = self
            .columns
            .get(usize::from(fired.column))
            .map_or("?", |column| column.name.as_str());
        match fired.kind {
            FiredKind::Extra | FiredKind::Expectation => fired.kind.word().to_owned(),
            FiredKind::Placeholder | FiredKind::Empty | FiredKind::Missing => {
                format!("{}:{column}", fired.kind.word())
            }
        }
    }
}

/// One column of a clean row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The name.
    pub name: String,
    /// The type.
    pub column_type: ColumnType,
    /// Whether it may be null.
    pub nullable: bool,
    /// One sentence for people; may be empty.
    pub description: String,
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// UTF-8 text without NUL.
    Text,
    /// A 64-bit signed integer.
    Integer,
    /// A 64-bit float, never infinite.
    Float,
    /// True or false.
    Boolean,
    /// A moment in UTC, in microseconds.
    Timestamp,
    /// A list of texts.
    TextList,
    /// A JSON object as text.
    Json,
}

/// How many rejected (dead-lettered or quarantined) messages a batch may hold before it counts as broken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// The largest share of rejected messages, from 0 to 1.
    pub max_share: f64,
    /// So many rejected messages are tolerated whatever their share: a tiny batch says nothing.
    pub tolerated: u64,
}

impl Tolerance {
    /// Whether `rejected` of `total` messages are more than the dataset tolerates.
    pub fn is_exceeded(self, rejected: u64, total: u64) -> bool {
        rejected > self.tolerated && rejected as f64 > self.max_share * total as f64
    }
}

/// How one field of the message becomes one column.
#[derive(Debug)]
struct FieldRule {
    source: String,
    field_type: FieldType,
    presence: Presence,
    nulls: Nulls,
    placeholders: Placeholders,
    strip_prefix: Option<String>,
}

/// What a field holds, and how it is parsed.
#[derive(Debug)]
enum FieldType {
    Text,
    Integer,
    Float,
    Boolean,
    Timestamp {
        formats: Vec<timestamp::Format>,
    },
    Count,
    Tags {
        separator: String,
    },
    Enum {
        values: Vec<String>,
        aliases: BTreeMap<String, usize>,
    },
    Url,
    Uuid,
}

impl FieldType {
    fn column_type(&self) -> ColumnType {
        match self {
            Self::Text | Self::Enum { .. } | Self::Url | Self::Uuid => ColumnType::Text,
            Self::Integer | Self::Count => ColumnType::Integer,
            Self::Float => ColumnType::Float,
            Self::Boolean => ColumnType::Boolean,
            Self::Timestamp { .. } => ColumnType::Timestamp,
            Self::Tags { .. } => ColumnType::TextList,
        }
    }
}

/// Whether a message may leave a field out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
    /// The message is a row, but breaks the contract.
    Quarantined,
}

/// Whether a value may be null once placeholders are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nulls {
    Allowed,
    Refused,
}

/// The texts that stand for "missing".
#[derive(Debug, Default)]
struct Placeholders {
    exact: Vec<String>,
    prefixes: Vec<String>,
    patterns: Option<RegexSet>,
}

impl Placeholders {
    fn matches(&self, text: &str) -> bool {
        self.exact.iter().any(|placeholder| placeholder == text)
            || self
                .prefixes
                .iter()
                .any(|prefix| text.starts_with(prefix.as_str()))
            || self
                .patterns
                .as_ref()
                .is_some_and(|patterns| patterns.is_match(text))
    }
}

/// A column computed from another one.
#[derive(Debug)]
struct DerivedRule {
    from: usize,
    function: Function,
}

/// What a derived column computes; null stays null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    /// Number of characters of a text, or of elements of a list.
    Length,
    /// The host of an address, in lower case.
    Host,
    /// The text in lower case.
    Lowercase,
    /// The year of a moment, in UTC.
    Year,
}

impl Function {
    fn column_type(self) -> ColumnType {
        match self {
            Self::Length | Self::Year => ColumnType::Integer,
            Self::Host | Self::Lowercase => ColumnType::Text,
        }
    }
}
