//! `wait_for_file`: waits until a file or an object is there, by its name or by a pattern.

use async_trait::async_trait;
use glob::{MatchOptions, Pattern};
use serde_json::{Map, Value, json};

use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem,
    given::Given,
    s3::{Location, ObjectStore},
    sensor::{self, Seen},
};

/// More names are counted but not listed in the output.
const MOST_LISTED: usize = 1_000;
/// `*` stays within one folder; `**` does not.
const MATCHING: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

const FIELDS: &[Field] = &[
    Field {
        name: "path",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "An absolute path on the worker, or `s3://bucket/key`; `*`, `?`, `[…]` and `**` match several",
    },
    Field {
        name: "at_least",
        field_type: FieldType::Integer,
        presence: Presence::Optional { default: "1" },
        doc: "How many files there must be",
    },
    sensor::POKE_INTERVAL,
    sensor::TIMEOUT,
    sensor::SOFT_FAIL,
];

/// The kind `wait_for_file`.
#[derive(Debug, Clone)]
pub struct WaitForFile {
    store: ObjectStore,
}

impl WaitForFile {
    /// One that looks for `s3://` paths in this store.
    pub fn new(store: ObjectStore) -> Self {
        Self { store }
    }

    async fn look(&self, with: &Map<String, Value>) -> Result<Seen, Failure> {
        let given = Given::new(with);
        let path = given.required_text("path")?;
        let at_least = given.count("at_least")?.unwrap_or(1).max(1);
        let at_least = usize::try_from(at_least).unwrap_or(usize::MAX);
        let mut found = if path.starts_with("s3://") {
            self.objects(&path).await?
        } else {
            files(path.clone()).await?
        };
        let count = found.len();
        if count < at_least {
            return Ok(Seen::NotYet(match (count, at_least) {
                (_, 1) => format!("`{path}` is not there"),
                (count, _) => format!("{count} of {at_least} files match `{path}`"),
            }));
        }
        found.truncate(MOST_LISTED);
        Ok(Seen::There(json!({ "files": found, "count": count })))
    }

    async fn objects(&self, path: &str) -> Result<Vec<String>, Failure> {
        let wanted: Location = path.parse()?;
        let pattern = pattern(&wanted.key)?;
        let prefix = Location::new(&wanted.bucket, before_wildcard(&wanted.key));
        let keys = self.store.list(&prefix).await?;
        Ok(keys
            .into_iter()
            .filter(|key| pattern.matches_with(key, MATCHING))
            .map(|key| Location::new(&wanted.bucket, key).to_string())
            .collect())
    }
}

/// Files on this machine; directories do not count.
async fn files(path: String) -> Result<Vec<String>, Failure> {
    pattern(&path)?;
    tokio::task::spawn_blocking(move || {
        glob::glob_with(&path, MATCHING)
            .map(|entries| {
                entries
                    // What may not be read may not be waited for either: it is not there yet.
                    .filter_map(Result::ok)
                    .filter(|found| found.is_file())
                    .map(|found| found.display().to_string())
                    .collect()
            })
            .map_err(|error| not_a_pattern(&path, &error))
    })
    .await
    .map_err(|error| Failure::retryable(format!("the files could not be listed: {error}")))?
}

fn pattern(text: &str) -> Result<Pattern, Failure> {
    Pattern::new(text).map_err(|error| not_a_pattern(text, &error))
}

fn not_a_pattern(text: &str, error: &glob::PatternError) -> Failure {
    Failure::permanent(format!("`{text}` is no pattern: {}", error.msg)).with_hint(
        "a `[` that is meant as one is written `[[]`, and `**` stands alone between two `/`",
    )
}

fn before_wildcard(key: &str) -> &str {
    &key[..key.find(['*', '?', '[']).unwrap_or(key.len())]
}

#[async_trait]
impl Kind for WaitForFile {
    fn name(&self) -> &'static str {
        "wait_for_file"
    }

    fn summary(&self) -> &'static str {
        "Waits until a file or an S3 object is there, without holding a worker"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        Outputs::Known(&[
            ("files", "What matches, sorted; the first 1000"),
            ("count", "How many match"),
        ])
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = sensor::check(with);
        let Some(path) = with.get("path").and_then(Value::as_str) else {
            return problems;
        };
        if path.contains("{{") || path.contains("{%") {
            return problems;
        }
        let failure = match path.strip_prefix("s3://") {
            Some(_) => path.parse::<Location>().err().map(Failure::from),
            None if !path.starts_with('/') => {
                Some(Failure::permanent("`path` is not absolute").with_hint(
                    "the worker's own directory is nobody's business: write `/data/in/file.csv`",
                ))
            }
            None => None,
        };
        if let Some(failure) = failure.or_else(|| pattern(path).err()) {
            problems.push(Problem {
                field: Some("path".to_owned()),
                message: failure.message,
                hint: failure.hint,
            });
        }
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        // The look knows nothing of a cancel, and nobody has to be told of one.
        let look = async {
            tokio::select! {
                biased;
                () = context.cancel.cancelled() => Err(Failure::permanent("it was stopped")),
                seen = self.look(&with) => seen,
            }
        };
        sensor::look(context, &with, look).await
    }
}
