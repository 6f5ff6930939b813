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
    /// The table in the schema `live` that posts are upserted into; `None` keeps windows alone.
    pub posts: Option<String>,
    /// Where messages go that cannot become a row.
    pub dead_letters: DeadLetterSink,
    /// What to do when offsets are gone before they were read.
    pub on_gap: OnGap,
    /// When an event happened.
    pub event_time: EventTime,
    /// How far behind the newest event of a partition its watermark is.
    pub lateness: Duration,
    /// A partition that has nothing to read for so long holds no watermark back.
    pub idle: Duration,
    /// How several workers share the partitions.
    pub group_protocol: GroupProtocol,
    /// How many workers a process runs for the stream, each with partitions of its own.
    pub workers: u32,
    /// When a micro-batch is written.
    pub batch: BatchLimits,
    /// The windows, by name.
    pub windows: Vec<WindowDefinition>,
}

/// Where messages go that cannot become a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetterSink {
    /// The table `live.dead_letter`, in the transaction of the batch: each exactly once.
    Table(Keep),
    /// A topic, before the transaction of the batch: each at least once, with its place in the headers.
    Topic(String),
}

impl Default for DeadLetterSink {
    fn default() -> Self {
        Self::Table(Keep::default())
    }
}

/// How long something is kept before it is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// For so long.
    For(Duration),
    /// Until somebody deletes it by hand.
    #[default]
    Forever,
}

/// When an event happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EventTime {
    /// The time of the Kafka message.
    #[default]
    Kafka,
    /// A column of the dataset: milliseconds since 1970 or a time as text. Where it is null, the time of the message.
    Column(String),
}

/// How several workers of one stream share the partitions of its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupProtocol {
    /// A consumer group with Kafka's classic protocol, which every broker speaks.
    #[default]
    Classic,
    /// A consumer group with the protocol of KIP-848, from Kafka 4.0 on.
    Consumer,
    /// No group: a worker takes all partitions, and an earlier one stops.
    None,
}

/// When a micro-batch is handed to Postgres: whatever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// With so many messages.
    pub messages: usize,
    /// With so many bytes of keys and values.
    pub bytes: usize,
    /// So long after its first message.
    pub time: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            messages: 5_000,
            bytes: 16 * 1024 * 1024,
            time: Duration::from_millis(100),
        }
    }
}

/// A window: counts of events, by a column if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowDefinition {
    /// Its name.
    pub name: String,
    /// What it spans.
    pub span: Span,
    /// The text column that events are grouped by; without one all messages are counted together, the dead ones too.
    pub by: Option<String>,
    /// The integer column whose count, sum and maximum are kept.
    pub follow: Option<String>,
    /// What becomes of an event that comes after its window has closed.
    pub late: Late,
    /// How long a window is kept after its end, by the watermark; always for ever where it spans the last events.
    pub keep: Keep,
}

/// What a window spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// A length of event time; a window begins at every multiple of `slide` since 1970. A tumbling window's slide is its length.
    Time {
        /// The length.
        every: Duration,
        /// From one window to the next; divides the length.
        slide: Duration,
    },
    /// The last so many events.
    Last(u32),
}

/// What becomes of an event that comes after its window has closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Late {
    /// It is counted all the same, and counted as late, for as long as the window is kept.
    #[default]
    Count,
    /// It is left out once the watermark has passed the window's end and the allowed lateness.
    Drop(Duration),
    /// It is left out as well, and kept as a dead letter.
    DeadLetter(Duration),
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
    sinks: SinksTable,
    #[serde(default)]
    batch: BatchTable,
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
    #[serde(default)]
    on_gap: OnGap,
    event_time: Option<String>,
    lateness: Option<String>,
    idle: Option<String>,
    #[serde(default)]
    group_protocol: GroupProtocol,
    workers: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SinksTable {
    posts: Option<PostsTable>,
    dead_letters: Option<DeadLettersTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostsTable {
    table: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadLettersTable {
    topic: Option<String>,
    keep: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchTable {
    messages: Option<usize>,
    bytes: Option<usize>,
    time: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowTable {
    every: Option<String>,
    slide: Option<String>,
    last: Option<u32>,
    by: Option<String>,
    follow: Option<String>,
    late: Option<LateWord>,
    allowed_lateness: Option<String>,
    keep: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LateWord {
    Count,
    Drop,
    DeadLetter,
}

/// Makes the errors of one file.
struct Values<'f> {
    file: &'f str,
}

impl Values<'_> {
    fn invalid(&self, key: &str, found: &str, expected: impl Into<String>) -> DefinitionError {
        DefinitionError::Value {
            file: self.file.to_owned(),
            key: key.to_owned(),
            found: found.to_owned(),
            expected: expected.into(),
        }
    }

    fn name(&self, key: &str, value: String) -> Result<String, DefinitionError> {
        if is_identifier(&value) {
            return Ok(value);
        }
        let expected = "lower-case letters, digits and `_`, at most 63, not a digit first";
        Err(self.invalid(key, &value, expected))
    }

    fn topic(&self, key: &str, value: String) -> Result<String, DefinitionError> {
        let fits = (1..=249).contains(&value.len())
            && !matches!(value.as_str(), "." | "..")
            && value
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if fits {
            return Ok(value);
        }
        let expected = "the name of a Kafka topic: letters, digits, `.`, `_` and `-`";
        Err(self.invalid(key, &value, expected))
    }

    fn duration(&self, key: &str, text: &str) -> Result<Duration, DefinitionError> {
        pinwheel_tasks::duration::parse(text)
            .map_err(|error| self.invalid(key, text, format!("a duration: {}", error.hint)))
    }

    fn keep(&self, key: &str, text: Option<&str>) -> Result<Keep, DefinitionError> {
        match text {
            None => Ok(Keep::default()),
            Some("forever") => Ok(Keep::Forever),
            Some(text) => match pinwheel_tasks::duration::parse(text) {
                Ok(time) if !time.is_zero() => Ok(Keep::For(time)),
                Ok(_) | Err(_) => {
                    Err(self.invalid(key, text, "a duration such as `30d`, or `forever`"))
                }
            },
        }
    }

    fn dead_letters(
        &self,
        topic: &str,
        table: DeadLettersTable,
    ) -> Result<DeadLetterSink, DefinitionError> {
        match (table.topic, table.keep) {
            (None, keep) => {
                let keep = self.keep("sinks.dead_letters.keep", keep.as_deref())?;
                Ok(DeadLetterSink::Table(keep))
            }
            (Some(_), Some(keep)) => {
                let expected = "no such key beside `topic`: the broker keeps what is on a topic";
                Err(self.invalid("sinks.dead_letters.keep", &keep, expected))
            }
            (Some(own), None) if own == topic => {
                let expected = "another topic than the stream's own";
                Err(self.invalid("sinks.dead_letters.topic", topic, expected))
            }
            (Some(other), None) => {
                let other = self.topic("sinks.dead_letters.topic", other)?;
                Ok(DeadLetterSink::Topic(other))
            }
        }
    }

    /// Windows begin at whole multiples of seconds since 1970.
    fn window_length(&self, key: &str, text: &str) -> Result<Duration, DefinitionError> {
        let length = self.duration(key, text)?;
        if (Duration::from_secs(1)..=Duration::from_secs(7 * 86_400)).contains(&length)
            && length.subsec_nanos() == 0
        {
            return Ok(length);
        }
        Err(self.invalid(key, text, "whole seconds, from 1s to 7d"))
    }

    fn batch(&self, table: BatchTable) -> Result<BatchLimits, DefinitionError> {
        let default = BatchLimits::default();
        let limits = BatchLimits {
            messages: table.messages.unwrap_or(default.messages),
            bytes: table.bytes.unwrap_or(default.bytes),
            time: match table.time.as_deref() {
                None => default.time,
                Some(text) => self.duration("batch.time", text)?,
            },
        };
        if !(1..=1_000_000).contains(&limits.messages) {
            let found = limits.messages.to_string();
            return Err(self.invalid("batch.messages", &found, "1 to 1000000"));
        }
        if !(1..=1024 * 1024 * 1024).contains(&limits.bytes) {
            let found = limits.bytes.to_string();
            return Err(self.invalid("batch.bytes", &found, "1 to 1073741824"));
        }
        if limits.time > Duration::from_secs(60) {
            let found = pinwheel_tasks::duration::text(limits.time);
            return Err(self.invalid("batch.time", &found, "at most 1m"));
        }
        Ok(limits)
    }

    fn window(
        &self,
        name: String,
        table: WindowTable,
    ) -> Result<WindowDefinition, DefinitionError> {
        let name = self.name("windows", name)?;
        let key = |part: &str| format!("windows.{name}.{part}");
        let span = match (&table.every, table.last) {
            (Some(every), None) => self.time_span(&name, every, table.slide.as_deref())?,
            (None, Some(last)) => {
                if !(1..=MOST_LAST).contains(&last) {
                    let expected = format!("1 to {MOST_LAST}");
                    return Err(self.invalid(&key("last"), &last.to_string(), expected));
                }
                for (part, value) in [("slide", &table.slide), ("follow", &table.follow)] {
                    if let Some(value) = value {
                        let expected = "nothing: a window over the last events has none";
                        return Err(self.invalid(&key(part), value, expected));
                    }
                }
                if table.by.is_none() {
                    let expected = "a column, because the window has `last`";
                    return Err(self.invalid(&key("by"), "", expected));
                }
                Span::Last(last)
            }
            (None, None) | (Some(_), Some(_)) => {
                let found = table.every.as_deref().unwrap_or_default();
                let expected = "a length, or `last` with a number of events instead";
                return Err(self.invalid(&key("every"), found, expected));
            }
        };
        let allowed = match (table.allowed_lateness.as_deref(), table.late, span) {
            (Some(text), Some(LateWord::Drop | LateWord::DeadLetter), Span::Time { .. }) => {
                self.duration(&key("allowed_lateness"), text)?
            }
            (Some(text), _, _) => {
                let expected = "no such key, unless `late` is \"drop\" or \"dead_letter\"";
                return Err(self.invalid(&key("allowed_lateness"), text, expected));
            }
            (None, _, _) => Duration::ZERO,
        };
        let late = match (table.late, span) {
            (None | Some(LateWord::Count), _) => Late::Count,
            (Some(LateWord::Drop), Span::Time { .. }) => Late::Drop(allowed),
            (Some(LateWord::DeadLetter), Span::Time { .. }) => Late::DeadLetter(allowed),
            (Some(LateWord::Drop | LateWord::DeadLetter), Span::Last(_)) => {
                let expected = "no such key: no event is late for the last ones";
                return Err(self.invalid(&key("late"), "", expected));
            }
        };
        let keep = match (table.keep.as_deref(), span) {
            (text, Span::Time { .. }) => self.keep(&key("keep"), text)?,
            (Some(text), Span::Last(_)) => {
                let expected = "no such key: the last events are always kept";
                return Err(self.invalid(&key("keep"), text, expected));
            }
            (None, Span::Last(_)) => Keep::Forever,
        };
        if let (Keep::For(kept), Some(text)) = (keep, &table.allowed_lateness)
            && kept < allowed
        {
            let found = pinwheel_tasks::duration::text(kept);
            let expected = format!("at least the window's `allowed_lateness` of `{text}`");
            return Err(self.invalid(&key("keep"), &found, expected));
        }
        Ok(WindowDefinition {
            name,
            keep,
            span,
            by: table.by,
            follow: table.follow,
            late,
        })
    }

    fn time_span(
        &self,
        window: &str,
        every_text: &str,
        slide: Option<&str>,
    ) -> Result<Span, DefinitionError> {
        let every = self.window_length(&format!("windows.{window}.every"), every_text)?;
        let Some(text) = slide else {
            return Ok(Span::Time {
                every,
                slide: every,
            });
        };
        let key = format!("windows.{window}.slide");
        let slide = self.window_length(&key, text)?;
        if slide > every
            || every.as_secs() % slide.as_secs() != 0
            || every.as_secs() / slide.as_secs() > MOST_PANES
        {
            let expected = format!(
                "a part of `{every_text}` that it is a whole multiple of, at most {MOST_PANES} times"
            );
            return Err(self.invalid(&key, text, expected));
        }
        Ok(Span::Time { every, slide })
    }
}

/// The events that a window of the last ones may hold: they are kept by name.
const MOST_LAST: u32 = 100_000;
/// How many workers of a stream a process may run.
const MOST_WORKERS: u32 = 64;
/// How many windows an event may be in.
const MOST_PANES: u64 = 1_440;

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
        let File {
            stream,
            sinks,
            batch,
            windows,
        } = read;
        let values = Values { file };
        let topic = values.topic("stream.topic", stream.topic)?;
        let posts = match sinks.posts {
            None => None,
            Some(PostsTable { table }) => Some(values.name("sinks.posts.table", table)?),
        };
        if let Some(table) = posts.as_ref().filter(|table| is_reserved(table)) {
            let expected = "a name that the worker does not use for itself";
            return Err(values.invalid("sinks.posts.table", table, expected));
        }
        let dead_letters = match sinks.dead_letters {
            None => DeadLetterSink::default(),
            Some(table) => values.dead_letters(&topic, table)?,
        };
        if posts.is_none() && windows.is_empty() {
            let expected = "a table, or `windows`: a stream must keep something";
            return Err(values.invalid("sinks.posts.table", "", expected));
        }
        let event_time = match stream.event_time.as_deref() {
            None | Some("kafka") => EventTime::Kafka,
            Some(column) => EventTime::Column(column.to_owned()),
        };
        let workers = stream.workers.unwrap_or(1);
        let most = match stream.group_protocol {
            GroupProtocol::Classic | GroupProtocol::Consumer => MOST_WORKERS,
            // Without a group one worker takes all.
            GroupProtocol::None => 1,
        };
        if !(1..=most).contains(&workers) {
            let expected = format!("1 to {most}");
            return Err(values.invalid("stream.workers", &workers.to_string(), expected));
        }
        let duration = |key: &str, text: Option<&str>, default| {
            text.map_or(Ok(default), |text| values.duration(key, text))
        };
        Ok(Self {
            id: values.name("stream.id", stream.id)?,
            description: stream.description,
            topic,
            dataset: stream.dataset,
            posts,
            dead_letters,
            on_gap: stream.on_gap,
            event_time,
            lateness: duration(
                "stream.lateness",
                stream.lateness.as_deref(),
                Duration::ZERO,
            )?,
            idle: duration(
                "stream.idle",
                stream.idle.as_deref(),
                Duration::from_secs(30),
            )?,
            group_protocol: stream.group_protocol,
            workers,
            batch: values.batch(batch)?,
            windows: windows
                .into_iter()
                .map(|(name, table)| values.window(name, table))
                .collect::<Result<_, _>>()?,
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
                } else if let (Some(table), true) = (&stream.posts, other.posts == stream.posts) {
                    format!("the table `{table}`")
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

/// Whether a name in the schema `live` is the worker's own.
fn is_reserved(table: &str) -> bool {
    const TABLES: [&str; 10] = [
        "stream_offset",
        "stream_window",
        "stream_watermark",
        "window_count",
        "window_result",
        "window_recent",
        "window_top",
        "dead_letter",
        "stream_gap",
        "stream_status",
    ];
    TABLES.contains(&table) || table == "_sqlx_migrations"
}

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

    fn refused(text: &str) -> DefinitionError {
        StreamDefinition::parse("pins.toml", text).expect_err("not valid")
    }

    #[test]
    fn the_shipped_stream_is_valid() {
        let stream = StreamDefinition::parse("pins.toml", SHIPPED).expect("valid");
        assert_eq!(
            (
                stream.id.as_str(),
                stream.topic.as_str(),
                stream.posts.as_deref()
            ),
            ("pins", "pins", Some("pins"))
        );
        assert_eq!(stream.on_gap, OnGap::Fail);
        assert_eq!(stream.event_time, EventTime::Kafka);
        assert_eq!(stream.group_protocol, GroupProtocol::Classic);
        let spans: BTreeMap<_, _> = stream
            .windows
            .iter()
            .map(|window| (window.name.as_str(), window.span))
            .collect();
        let minutes = |every: u64, slide: u64| Span::Time {
            every: Duration::from_secs(60 * every),
            slide: Duration::from_secs(60 * slide),
        };
        assert_eq!(
            spans,
            BTreeMap::from([
                ("error_rate", minutes(2, 1)),
                ("followers_per_category", minutes(30, 30)),
                ("media_shares", minutes(1, 1)),
                ("posts_per_category", minutes(1, 1)),
                ("top_categories", Span::Last(1000)),
            ])
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place() {
        let error = refused(&SHIPPED.replace("on_gap", "on_gab")).to_string();
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
            ("every = \"1m\"", "every = \"1m\"\nlast = 5"),
            ("slide = \"1m\"", "slide = \"50s\""),
            ("slide = \"1m\"", "slide = \"3m\""),
            ("last = 1000", "last = 0"),
            ("last = 1000", "last = 5\nlate = \"drop\""),
            (
                "every = \"30m\"",
                "every = \"30m\"\nallowed_lateness = \"1m\"",
            ),
            ("every = \"30m\"", "every = \"30m\"\nkeep = \"0s\""),
            ("every = \"30m\"", "every = \"30m\"\nkeep = \"always\""),
            (
                "every = \"30m\"",
                "every = \"30m\"\nlate = \"drop\"\nallowed_lateness = \"2h\"\nkeep = \"1h\"",
            ),
            ("last = 1000", "last = 5\nkeep = \"1d\""),
            (
                "[sinks.posts]",
                "[sinks.dead_letters]\ntopic = \"dead\"\nkeep = \"1d\"\n[sinks.posts]",
            ),
            ("[windows.posts_per_category]", "[windows.\"a b\"]"),
            (
                "[sinks.posts]",
                "[sinks.dead_letters]\ntopic = \"pins\"\n[sinks.posts]",
            ),
            ("[sinks.posts]", "[batch]\nmessages = 0\n[sinks.posts]"),
            (
                "group_protocol = \"classic\"",
                "group_protocol = \"none\"\nworkers = 2",
            ),
        ] {
            assert!(SHIPPED.contains(from), "{from}");
            let refused = StreamDefinition::parse("pins.toml", &SHIPPED.replace(from, to));
            assert!(
                matches!(refused, Err(DefinitionError::Value { .. })),
                "{to}: {refused:?}"
            );
        }
    }

    #[test]
    fn every_key_of_the_guide_is_read() {
        let guide = include_str!("../../../docs/STREAMING.md");
        let (_, rest) = guide
            .split_once("```toml\n[stream]")
            .expect("the guide has an example");
        let (rest, _) = rest.split_once("```").expect("the example ends");
        let example = format!("[stream]{rest}");
        let stream = StreamDefinition::parse("example.toml", &example).expect("valid");
        assert_eq!(
            stream.dead_letters,
            DeadLetterSink::Topic("clicks-dead".to_owned())
        );
        assert_eq!(
            stream.event_time,
            EventTime::Column("clicked_at".to_owned())
        );
        assert_eq!(
            (stream.group_protocol, stream.workers),
            (GroupProtocol::Consumer, 2)
        );
        assert_eq!(
            stream.batch,
            BatchLimits {
                messages: 2_000,
                bytes: 8_388_608,
                time: Duration::from_millis(50)
            }
        );
        assert_eq!(
            stream.windows[0].late,
            Late::DeadLetter(Duration::from_secs(600))
        );
        assert_eq!(
            stream.windows[0].keep,
            Keep::For(Duration::from_secs(90 * 86_400))
        );
    }

    #[test]
    fn windows_and_dead_letters_are_kept_for_ever_unless_the_file_says_otherwise() {
        let days = |days: u64| Keep::For(Duration::from_secs(days * 86_400));
        let stream = StreamDefinition::parse("pins.toml", SHIPPED).expect("valid");
        assert_eq!(stream.dead_letters, DeadLetterSink::Table(Keep::Forever));
        for window in &stream.windows {
            assert_eq!(window.keep, Keep::Forever, "{}", window.name);
        }
        let text = SHIPPED
            .replace("every = \"30m\"", "every = \"30m\"\nkeep = \"90d\"")
            .replace(
                "[sinks.posts]",
                "[sinks.dead_letters]\nkeep = \"7d\"\n[sinks.posts]",
            );
        let stream = StreamDefinition::parse("pins.toml", &text).expect("valid");
        assert_eq!(stream.dead_letters, DeadLetterSink::Table(days(7)));
        assert!(
            stream
                .windows
                .iter()
                .any(|window| window.name == "followers_per_category" && window.keep == days(90))
        );
    }

    #[test]
    fn a_stream_that_keeps_nothing_is_refused() {
        let text = "[stream]\nid = \"a\"\ntopic = \"a\"\ndataset = \"a\"\n";
        assert!(refused(text).to_string().contains("must keep something"));
    }
}
