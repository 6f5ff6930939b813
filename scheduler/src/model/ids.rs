//! Identifiers as types, so that a run's number cannot be passed where a task's is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number_id!(
    /// The number of a run.
    RunId
);
number_id!(
    /// The number of a task instance: one task of one run.
    InstanceId
);
number_id!(
    /// The number of an immutable version of a DAG.
    VersionId
);
number_id!(
    /// The number of a message to people.
    MessageId
);
number_id!(
    /// The number of one worker process's lease.
    WorkerId
);
number_id!(
    /// The number of a backfill.
    BackfillId
);

/// Says whether `text` may name a DAG, a task, a pool or a param: 1 to 128 characters of `A-Z a-z 0-9 _ . -`, not
/// starting with `.` or `-`, so that it is safe in a path, a URL and an argument list.
pub fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    let first_is_good = characters
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric() || first == '_');
    first_is_good
        && text.len() <= 128
        && characters.all(|character| {
            character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-')
        })
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id, or `None` when [`is_name`] refuses the text.
            pub fn new(text: impl Into<String>) -> Option<Self> {
                let text = text.into();
                is_name(&text).then_some(Self(text))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

name_id!(
    /// The id of a DAG.
    DagId
);
name_id!(
    /// The id of a task within its DAG.
    TaskId
);
name_id!(
    /// The name of a pool.
    PoolName
);
name_id!(
    /// The id of a connection.
    ConnectionId
);
name_id!(
    /// The name of a variable.
    VariableName
);
