//! Stream files: which topic is cleaned by which dataset into which table, and the windows that are kept.

use std::{collections::BTreeMap, fs, io, path::Path, time::Duration};

use serde::Deserialize;

/// A stream: one file under `dags/streams/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamDefinition {
    /// Its name, by which its offsets are kept. Another name starts at the beginning of the topic.
    pub id: String,
    /// One sentence for people.
    pub description: String,
    /// The topic.
    pub topic: String,
    /// The id of the dataset that cleans it.
    pub dataset: String,
    /// The table in the schema `live`.
    pub table: String,
    /// What to do when offsets are gone before they were read.
    pub on_gap: OnGap,
    /// How far behind the newest event the watermark is.
    pub lateness: Duration,
    /// The windows, by name.
    pub windows: Vec<WindowDefinition>,
}

/// A tumbling window over event time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowDefinition {
    /// Its name.
    pub name: String,
    /// Its length.
    pub every: Duration,
    /// The text column that events are grouped by.
    pub by: String,
    /// The integer column whose count, sum and maximum are kept.
    pub follow: Option<String>,
}

/// What to do when the broker has deleted offsets that were not read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnGap {
    /// Stop with an error that says which offsets are gone.
    #[default]
    Fail,
    /// Record the gap in `live.stream_gap` and go on behind it.
    Skip,
}

/// What is wrong with a stream file.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// It cannot be read.
    #[error("cannot read `{file}`: {source}")]
    Io {
        /// The file or folder.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not the TOML of a stream. The message shows the place.
    #[error("`{file}` is no stream file: {message}")]
    Format {
        /// The file.
        file: String,
        /// The place and what was expected.
        message: String,
    },
    /// A value is not valid.
    #[error("`{file}`: `{key}` is `{found}`, expected {expected}")]
    Value {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// Two files define the same stream, or write to the same table.
    #[error("`{file}`: {what} is taken by `{other}` already")]
    Duplicate {
        /// The later file.
        file: String,
        /// What they share.
        what: String,
        /// The earlier file.
        other: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    stream: StreamTable,
    #[serde(default)]
    windows: BTreeMap<String, WindowTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamTable {
    id: String,
    #[serde(default)]
    description: String,
    topic: String,
    dataset: String,
    table: Option<String>,
    #[serde(default)]
    on_gap: OnGap,
    lateness: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowTable {
    every: String,
    by: String,
    follow: Option<String>,
}

impl StreamDefinition {
    /// Reads a stream file. `file` is only shown in errors.
    ///
    /// # Errors
    ///
    /// When it is not the TOML of a stream, has an unknown key or a value that is not valid.
    pub fn parse(file: &str, text: &str) -> Result<Self, DefinitionError> {
        let read: File = toml::from_str(text).map_err(|error| DefinitionError::Format {
            file: file.to_owned(),
            message: error.to_string().trim().to_owned(),
        })?;
        let File { stream, windows } = read;
        let invalid = |key: &str, found: &str, expected: &str| DefinitionError::Value {
            file: file.to_owned(),
            key: key.to_owned(),
            found: found.to_owned(),
            expected: expected.to_owned(),
        };
        let name = |key: &str, value: String| {
            if is_identifier(&value) {
                Ok(value)
            } else {
                Err(invalid(
                    key,
                    &value,
                    "lower-case letters, digits and `_`, at most 63, not a digit first",
                ))
            }
        };
        let duration = |key: &str, text: &str| {
            pinwheel_tasks::duration::parse(text)
                .map_err(|error| invalid(key, text, &format!("a duration: {}", error.hint)))
        };
        let topic_fits = (1..=249).contains(&stream.topic.len())
            && !matches!(stream.topic.as_str(), "." | "..")
            && stream
                .topic
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if !topic_fits {
            return Err(invalid(
                "stream.topic",
                &stream.topic,
                "the name of a Kafka topic: letters, digits, `.`, `_` and `-`",
            ));
        }
        let table = name(
            "stream.table",
            stream.table.unwrap_or_else(|| stream.id.clone()),
        )?;
        if RESERVED_TABLES.contains(&table.as_str()) {
            return Err(invalid(
                "stream.table",
                &table,
                "a name that the worker does not use for itself",
            ));
        }
        let windows = windows
            .into_iter()
            .map(|(window, table)| {
                let window = name("windows", window)?;
                let key = format!("windows.{window}.every");
                let every = duration(&key, &table.every)?;
                // Windows begin at whole multiples of their length since 1970.
                if !(Duration::from_secs(1)..=Duration::from_secs(7 * 86_400)).contains(&every)
                    || every.subsec_millis() != 0
                {
                    return Err(invalid(&key, &table.every, "whole seconds, from 1s to 7d"));
                }
                Ok(WindowDefinition {
                    name: window,
                    every,
                    by: table.by,
                    follow: table.follow,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            id: name("stream.id", stream.id)?,
            description: stream.description,
            topic: stream.topic,
            dataset: stream.dataset,
            table,
            on_gap: stream.on_gap,
            lateness: stream
                .lateness
                .as_deref()
                .map_or(Ok(Duration::ZERO), |text| duration("stream.lateness", text))?,
            windows,
        })
    }

    /// Reads every `*.toml` of a folder, in the order of the names. A folder that does not exist holds no streams.
    ///
    /// # Errors
    ///
    /// The first file that cannot be read, is not valid, or shares its id or table with another.
    pub fn load_folder(folder: &Path) -> Result<Vec<Self>, DefinitionError> {
        let failed = |path: &Path, source| DefinitionError::Io {
            file: path.display().to_string(),
            source,
        };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(folder, error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| failed(folder, error))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                files.push(path);
            }
        }
        files.sort();
        let mut streams: Vec<Self> = Vec::new();
        let mut origins: Vec<String> = Vec::new();
        for path in files {
            let file = path.display().to_string();
            let text = fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
            let stream = Self::parse(&file, &text)?;
            for (other, origin) in streams.iter().zip(&origins) {
                let shared = if other.id == stream.id {
                    format!("the stream `{}`", stream.id)
                } else if other.table == stream.table {
                    format!("the table `{}`", stream.table)
                } else {
                    continue;
                };
                return Err(DefinitionError::Duplicate {
                    file,
                    what: shared,
                    other: origin.clone(),
                });
            }
            streams.push(stream);
            origins.push(file);
        }
        Ok(streams)
    }
}

const RESERVED_TABLES: [&str; 6] = [
    "stream_offset",
    "window_count",
    "dead_letter",
    "stream_gap",
    "stream_status",
    "_sqlx_migrations",
];

/// Whether a text may be used as an identifier in SQL, between quotes.
pub(crate) fn is_identifier(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && !text.starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../dags/streams/pins.toml");

    #[test]
    fn the_shipped_stream_is_valid() {
        let stream = StreamDefinition::parse("pins.toml", SHIPPED).expect("valid");
        assert_eq!(
            (
                stream.id.as_str(),
                stream.topic.as_str(),
                stream.table.as_str()
            ),
            ("pins", "pins", "pins")
        );
        assert_eq!(stream.on_gap, OnGap::Fail);
        assert_eq!(stream.windows[0].every, Duration::from_secs(60));
        assert_eq!(stream.windows[0].follow.as_deref(), Some("follower_count"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place() {
        let error = StreamDefinition::parse("pins.toml", &SHIPPED.replace("on_gap", "on_gab"))
            .expect_err("unknown key")
            .to_string();
        assert!(
            error.contains("on_gab") && error.contains("line "),
            "{error}"
        );
    }

    #[test]
    fn values_that_would_reach_sql_or_kafka_are_checked() {
        for (from, to) in [
            ("table = \"pins\"", "table = \"pins\\\"; drop table x\""),
            ("table = \"pins\"", "table = \"stream_offset\""),
            ("topic = \"pins\"", "topic = \"a b\""),
            ("every = \"1m\"", "every = \"0s\""),
            ("every = \"1m\"", "every = \"soon\""),
            ("[windows.posts_per_category]", "[windows.\"a b\"]"),
        ] {
            assert!(SHIPPED.contains(from));
            let refused = StreamDefinition::parse("pins.toml", &SHIPPED.replace(from, to));
            assert!(
                matches!(refused, Err(DefinitionError::Value { .. })),
                "{to}: {refused:?}"
            );
        }
    }
}
