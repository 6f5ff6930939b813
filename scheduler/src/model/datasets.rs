//! Datasets that tasks produce and DAGs wait for: their names, and the expression of a DAG that runs when they were
//! updated. Pure.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// What names a dataset: a URI such as `s3://lake/clean/pins`, or a plain name. Nothing is read from it; two texts name
/// the same dataset when they are equal.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct DatasetName(String);

impl DatasetName {
    /// The most bytes it may have.
    pub const LONGEST: usize = 512;

    /// The name, or `None` when the text is empty, too long, or has white space, control characters or braces in it. A
    /// brace would look like a template, and a name is none.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let is_good = !text.is_empty()
            && text.len() <= Self::LONGEST
            && !text.chars().any(|character| {
                character.is_whitespace()
                    || character.is_control()
                    || matches!(character, '{' | '}')
            });
        is_good.then_some(Self(text))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Which datasets must have been updated for a DAG to run. It is stored as a file writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DatasetExpression {
    /// This one.
    Dataset(DatasetName),
    /// Each of these.
    All {
        /// Never empty.
        all: Vec<Self>,
    },
    /// At least one of these.
    Any {
        /// Never empty.
        any: Vec<Self>,
    },
}

impl DatasetExpression {
    /// The datasets in it, each once.
    pub fn names(&self) -> BTreeSet<&DatasetName> {
        let mut names = BTreeSet::new();
        self.collect(&mut names);
        names
    }

    fn collect<'a>(&'a self, names: &mut BTreeSet<&'a DatasetName>) {
        match self {
            Self::Dataset(name) => {
                names.insert(name);
            }
            Self::All { all: parts } | Self::Any { any: parts } => {
                parts.iter().for_each(|part| part.collect(names));
            }
        }
    }

    /// Says whether the set is complete, given for which datasets an event waits.
    pub fn is_satisfied(&self, waits: &impl Fn(&DatasetName) -> bool) -> bool {
        match self {
            Self::Dataset(name) => waits(name),
            Self::All { all } => all.iter().all(|part| part.is_satisfied(waits)),
            Self::Any { any } => any.iter().any(|part| part.is_satisfied(waits)),
        }
    }

    /// The set in words, such as `a and (b or c)`.
    pub fn describe(&self) -> String {
        self.words(Place::Outermost)
    }

    fn words(&self, place: Place) -> String {
        let (parts, word) = match self {
            Self::Dataset(name) => return name.to_string(),
            Self::All { all } => (all, " and "),
            Self::Any { any } => (any, " or "),
        };
        let words: Vec<String> = parts.iter().map(|part| part.words(Place::Inside)).collect();
        match (place, words.as_slice()) {
            (_, [only]) => only.clone(),
            (Place::Outermost, _) => words.join(word),
            (Place::Inside, _) => format!("({})", words.join(word)),
        }
    }
}

#[derive(Clone, Copy)]
enum Place {
    Outermost,
    Inside,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expression(json: serde_json::Value) -> DatasetExpression {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_name_is_anything_that_can_be_written_in_one_word() {
        for good in [
            "pins",
            "s3://lake/clean/pins/",
            "kafka://pins?x=1#y",
            "größe",
        ] {
            assert!(DatasetName::new(good).is_some(), "{good}");
        }
        let long = "x".repeat(DatasetName::LONGEST + 1);
        for bad in ["", "a b", "a\nb", "{{ ds }}", "a\0b", &long] {
            assert!(DatasetName::new(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_set_is_complete_as_its_words_say() {
        let nested = expression(serde_json::json!({ "all": ["a", { "any": ["b", "c"] }] }));
        assert_eq!(nested.describe(), "a and (b or c)");
        let waits = |names: &'static [&'static str]| {
            nested.is_satisfied(&|name: &DatasetName| names.contains(&name.as_str()))
        };
        for complete in [&["a", "b"] as &[&str], &["a", "c"], &["a", "b", "c"]] {
            assert!(waits(complete), "{complete:?}");
        }
        for incomplete in [&[] as &[&str], &["a"], &["b", "c"]] {
            assert!(!waits(incomplete), "{incomplete:?}");
        }
        let names: Vec<_> = nested
            .names()
            .into_iter()
            .map(DatasetName::as_str)
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn it_is_stored_as_a_file_writes_it() {
        let json = serde_json::json!({ "any": ["a", { "all": ["b", "c"] }] });
        let read = expression(json.clone());
        assert_eq!(read.describe(), "a or (b and c)");
        assert_eq!(serde_json::to_value(read).unwrap(), json);
        assert_eq!(expression(serde_json::json!("a")).describe(), "a");
        assert_eq!(
            expression(serde_json::json!({ "all": [{ "any": ["a"] }, "b"] })).describe(),
            "a and b"
        );
    }
}
