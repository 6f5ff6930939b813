//! A stream definition bound to its dataset: which columns the table has, which of them the windows read, and the
//! SQL statements that depend on that. Every name in them is a checked identifier between quotes; values are bound.

use std::{sync::Arc, time::Duration};

use pinwheel_tasks::dataset::{ColumnType, Dataset};

use super::{
    definition::{EventTime, Keep, Late, Span, StreamDefinition, is_identifier},
    rows::{self, oid},
};

/// The columns that the worker adds to those of the dataset.
pub(super) const OWN_COLUMNS: [&str; 4] = [
    "kafka_partition",
    "kafka_offset",
    "kafka_timestamp",
    "updated_at",
];

/// Everything about a stream that does not change while it runs.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) definition: StreamDefinition,
    pub(super) dataset: Arc<Dataset>,
    pub(super) windows: Vec<Window>,
    /// The column that says when an event happened; `None` is the time of the message.
    pub(super) event_time: Option<usize>,
    pub(super) posts: Option<Posts>,
}

/// The table of posts, and what is asked of it.
#[derive(Debug)]
pub(super) struct Posts {
    pub(super) table: String,
    pub(super) create_table: String,
    pub(super) add_columns: Vec<String>,
    pub(super) upsert: String,
    /// Which of an array of keys the table has.
    pub(super) find_keys: String,
    /// Takes rows as `rows` encodes them.
    pub(super) copy: String,
    /// The columns of such a row, with Postgres' numbers of their types.
    pub(super) types: Vec<(String, u32)>,
}

/// A window with its columns resolved.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) name: String,
    pub(super) span: WindowSpan,
    pub(super) by: Option<usize>,
    pub(super) follow: Option<usize>,
    pub(super) late: Late,
    pub(super) keep: Keep,
}

/// What a window spans, as the fold counts it.
#[derive(Clone, Copy, Debug)]
pub(super) enum WindowSpan {
    /// Panes as long as the slide; a window is the sum of those in its length.
    Panes { slide_ms: i64, length_ms: i64 },
    /// The last so many events.
    Last(usize),
}

impl WindowSpan {
    fn new(span: Span) -> Self {
        let ms = |length: Duration| {
            i64::try_from(length.as_millis()).expect("a window is at most seven days")
        };
        match span {
            Span::Time { every, slide } => Self::Panes {
                slide_ms: ms(slide),
                length_ms: ms(every),
            },
            Span::Last(last) => Self::Last(usize::try_from(last).unwrap_or(usize::MAX)),
        }
    }
}

impl Plan {
    /// Binds a stream to its dataset, or says what does not fit.
    pub(super) fn new(definition: StreamDefinition, dataset: Arc<Dataset>) -> Result<Self, String> {
        for column in dataset.columns() {
            if !is_identifier(&column.name) || OWN_COLUMNS.contains(&column.name.as_str()) {
                return Err(format!(
                    "column `{}` of dataset `{}` cannot be a column of a live table",
                    column.name,
                    dataset.id()
                ));
            }
        }
        let column =
            |window: &str, key: &str, name: &str, wanted: ColumnType, words: &str| match dataset
                .position(name)
            {
                Some(position) if dataset.columns()[position].column_type == wanted => Ok(position),
                Some(_) => Err(format!(
                    "`windows.{window}.{key}`: column `{name}` of dataset `{}` is not {words}",
                    dataset.id()
                )),
                None => Err(format!(
                    "`windows.{window}.{key}`: dataset `{}` has no column `{name}`",
                    dataset.id()
                )),
            };
        let mut windows = Vec::with_capacity(definition.windows.len());
        for window in &definition.windows {
            let follow = match &window.follow {
                None => None,
                Some(name) => Some(column(
                    &window.name,
                    "follow",
                    name,
                    ColumnType::Integer,
                    "an integer",
                )?),
            };
            let by = match &window.by {
                None => None,
                Some(name) => Some(column(&window.name, "by", name, ColumnType::Text, "text")?),
            };
            windows.push(Window {
                name: window.name.clone(),
                span: WindowSpan::new(window.span),
                by,
                follow,
                late: window.late,
                keep: window.keep,
            });
        }
        let event_time = match &definition.event_time {
            EventTime::Kafka => None,
            EventTime::Column(name) => Some(time_column(&dataset, name)?),
        };
        let posts = definition.posts.as_deref().map(|table| Posts {
            table: table.to_owned(),
            create_table: create_table(table, &dataset),
            add_columns: add_columns(table, &dataset),
            upsert: upsert_posts(table, &dataset),
            find_keys: find_keys(table, &dataset),
            copy: copy_posts(table, &dataset),
            types: types(&dataset),
        });
        Ok(Self {
            definition,
            dataset,
            windows,
            event_time,
            posts,
        })
    }
}

fn time_column(dataset: &Dataset, name: &str) -> Result<usize, String> {
    let Some(position) = dataset.position(name) else {
        return Err(format!(
            "`stream.event_time`: dataset `{}` has no column `{name}`",
            dataset.id()
        ));
    };
    match dataset.columns()[position].column_type {
        ColumnType::Integer | ColumnType::Text | ColumnType::Timestamp => Ok(position),
        ColumnType::Float | ColumnType::Boolean | ColumnType::TextList | ColumnType::Json => {
            Err(format!(
                "`stream.event_time`: column `{name}` of dataset `{}` holds no times",
                dataset.id()
            ))
        }
    }
}

fn sql_type(column_type: ColumnType) -> &'static str {
    match column_type {
        ColumnType::Text => "text",
        ColumnType::Integer => "bigint",
        ColumnType::Float => "double precision",
        ColumnType::Boolean => "boolean",
        ColumnType::Timestamp => "timestamptz",
        ColumnType::TextList => "text[]",
        ColumnType::Json => "jsonb",
    }
}

/// The type in which a column travels: a list of lists cannot be unnested row by row, so lists go as array literals.
fn carried_type(column_type: ColumnType) -> &'static str {
    match column_type {
        ColumnType::TextList | ColumnType::Json | ColumnType::Text => "text",
        ColumnType::Integer => "bigint",
        ColumnType::Float => "double precision",
        ColumnType::Boolean => "boolean",
        ColumnType::Timestamp => "timestamptz",
    }
}

fn create_table(table: &str, dataset: &Dataset) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (position, column) in dataset.columns().iter().enumerate() {
        // Only the key is declared not null: the contract is enforced by cleaning, and may be loosened later.
        let key = if position == dataset.key() {
            format!(" constraint \"{table}_pkey\" primary key")
        } else {
            String::new()
        };
        lines.push(format!(
            "    \"{}\" {}{key}",
            column.name,
            sql_type(column.column_type)
        ));
    }
    lines.push("    \"kafka_partition\" integer not null".to_owned());
    lines.push("    \"kafka_offset\" bigint not null".to_owned());
    lines.push("    \"kafka_timestamp\" timestamptz".to_owned());
    lines.push("    \"updated_at\" timestamptz not null default now()".to_owned());
    format!(
        "create table if not exists \"{table}\" (\n{}\n) with (fillfactor = 80)",
        lines.join(",\n")
    )
}

/// One statement per column but the key, for tables that were made by an earlier version of the dataset.
fn add_columns(table: &str, dataset: &Dataset) -> Vec<String> {
    let columns = dataset
        .columns()
        .iter()
        .enumerate()
        .filter(|(position, _)| *position != dataset.key());
    columns
        .map(|(_, column)| {
            format!(
                "alter table \"{table}\" add column if not exists \"{}\" {}",
                column.name,
                sql_type(column.column_type)
            )
        })
        .collect()
}

/// The columns of an encoded row: the dataset's, and where the row came from.
fn types(dataset: &Dataset) -> Vec<(String, u32)> {
    let own = [oid::INTEGER, oid::BIGINT, oid::TIMESTAMPTZ];
    let columns = dataset.columns().iter();
    columns
        .map(|column| (column.name.clone(), rows::oid_of(column.column_type)))
        .chain(OWN_COLUMNS.iter().map(|&name| name.to_owned()).zip(own))
        .collect()
}

/// Reads which keys are there. Takes no lock.
fn find_keys(table: &str, dataset: &Dataset) -> String {
    let key = &dataset.columns()[dataset.key()];
    format!(
        "select \"{name}\" from \"{table}\" where \"{name}\" = any($1::{carried}[])",
        name = key.name,
        carried = carried_type(key.column_type)
    )
}

/// Copies posts whose keys are new. Locks nothing that is there; fails by the primary key where one is.
fn copy_posts(table: &str, dataset: &Dataset) -> String {
    let names: Vec<String> = types(dataset)
        .into_iter()
        .map(|(name, _)| format!("\"{name}\""))
        .collect();
    format!(
        "copy \"{table}\" ({}) from stdin with (format binary)",
        names.join(", ")
    )
}

/// Upserts posts by key; the latest wins: within a partition by offset, and where a key moved to another partition
/// (the topic got more of them) by the time of the message. Locks the rows it touches, in the order of the keys.
fn upsert_posts(table: &str, dataset: &Dataset) -> String {
    let columns = dataset.columns();
    let key = &columns[dataset.key()].name;
    let own = &OWN_COLUMNS[..3];
    let names: Vec<String> = columns
        .iter()
        .map(|column| column.name.as_str())
        .chain(own.iter().copied())
        .map(|name| format!("\"{name}\""))
        .collect();
    let carried = columns
        .iter()
        .map(|column| carried_type(column.column_type))
        .chain(["integer", "bigint", "timestamptz"]);
    let arrays: Vec<String> = carried
        .enumerate()
        .map(|(position, carried)| format!("${}::{carried}[]", position + 1))
        .collect();
    let read: Vec<String> = columns
        .iter()
        .map(|column| match column.column_type {
            ColumnType::TextList | ColumnType::Json => format!(
                "posted.\"{}\"::{}",
                column.name,
                sql_type(column.column_type)
            ),
            ColumnType::Text
            | ColumnType::Integer
            | ColumnType::Boolean
            | ColumnType::Float
            | ColumnType::Timestamp => {
                format!("posted.\"{}\"", column.name)
            }
        })
        .chain(own.iter().map(|name| format!("posted.\"{name}\"")))
        .collect();
    let set: Vec<String> = names
        .iter()
        .filter(|name| **name != format!("\"{key}\""))
        .map(|name| format!("{name} = excluded.{name}"))
        .collect();
    format!(
        "insert into \"{table}\" as kept ({names})\n\
         select {read}\n\
         from unnest({arrays}) as posted({names})\n\
         order by posted.\"{key}\"\n\
         on conflict (\"{key}\") do update set {set}, \"updated_at\" = now()\n\
         where (kept.kafka_partition = excluded.kafka_partition and kept.kafka_offset < excluded.kafka_offset)\n\
         or (kept.kafka_partition <> excluded.kafka_partition\n\
         and (coalesce(kept.kafka_timestamp, '-infinity'), kept.kafka_partition)\n\
         < (coalesce(excluded.kafka_timestamp, '-infinity'), excluded.kafka_partition))",
        names = names.join(", "),
        read = read.join(", "),
        arrays = arrays.join(", "),
        set = set.join(", "),
    )
}
