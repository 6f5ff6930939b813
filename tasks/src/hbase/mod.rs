//! `hbase_put`: the rows of a cleaned partition into a table of HBase, over its REST gateway.
//!
//! Batches go over several connections at once and may be repeated any number of times: a cell carries the timestamp that the row's
//! message has in Kafka, so writing it again changes nothing, and an older partition never hides a newer one. A try succeeds only
//! when the gateway has acknowledged every row; otherwise it says which rows are not known to be stored.

mod cells;
mod gateway;

use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use polars::prelude::{Column, PolarsResult, polars_err};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use self::{
    cells::CellSet,
    gateway::{Address, Gateway, Table},
};
use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem, blocking,
    cleaned::{self, Cleaned, Slice},
    duration,
    given::Given,
    lake,
    s3::{Location, ObjectStore},
};

const TABLE: &str = "pinterest_table";
const ROW_KEY: &str = "unique_id";
const FAMILY: &str = "cf";
/// What the pipeline has always had there: the column and where its value comes from.
const COLUMNS: [(&str, &str); 10] = [
    ("category", "category"),
    ("title", "title"),
    ("followers_count", "follower_count"),
    ("index", "index"),
    ("tag_list", "tag_list"),
    ("description", "description"),
    ("downloaded", "downloaded"),
    ("is_image_or_video", "is_image_or_video"),
    ("image_src", "image_src"),
    ("save_location", "save_location"),
];
const SEPARATOR: &str = ",";
const CONNECTIONS: u64 = 4;
const MOST_CONNECTIONS: u64 = 64;
const BATCH_ROWS: u64 = 500;
const MOST_BATCH_ROWS: u64 = 10_000;
/// A batch ends early at this size, however few rows it has.
const BATCH_BYTES: usize = 2 * 1024 * 1024;
const REQUEST_TIMEOUT: &str = "15s";
const PATIENCE: &str = "2m";
/// How many rows are written between two lines of the log.
const ROWS_PER_LINE: u64 = 100_000;
/// A failure names so many places, and counts the others.
const PLACES_NAMED: usize = 5;

const fn optional(
    name: &'static str,
    field_type: FieldType,
    default: &'static str,
    doc: &'static str,
) -> Field {
    Field {
        name,
        field_type,
        presence: Presence::Optional { default },
        doc,
    }
}

const FIELDS: &[Field] = &[
    Field {
        name: "from",
        field_type: FieldType::Text,
        presence: Presence::Required,
        doc: "The `s3://` address of a cleaned partition: the `manifest` output of a `clean` task",
    },
    optional(
        "connection",
        FieldType::Text,
        "this or `url`",
        "The REST gateway by the name of a connection of type `hbase`, `http` or `https`",
    ),
    optional(
        "url",
        FieldType::Text,
        "this or `connection`",
        "The REST gateway, as `http://host:8080`; may be a template",
    ),
    optional(
        "table",
        FieldType::Text,
        "\"pinterest_table\"",
        "The table, also as `namespace:table`; it is created if it is missing",
    ),
    optional(
        "row_key",
        FieldType::Text,
        "\"unique_id\"",
        "The column of the dataset whose value is the row's key",
    ),
    optional(
        "family",
        FieldType::Text,
        "\"cf\"",
        "The column family of columns that name none",
    ),
    optional(
        "columns",
        FieldType::TextTable,
        "the ten columns of the pin table",
        "HBase's columns and the dataset's columns that they come from, such as `{ followers_count = \"follower_count\" }`; `\"family:name\"` names another family",
    ),
    optional(
        "null_as",
        FieldType::Text,
        "no cell",
        "The text that is written where a value is null; without it no cell is, and an older value stays",
    ),
    optional(
        "separator",
        FieldType::Text,
        "\",\"",
        "What stands between the items of a list",
    ),
    optional(
        "timestamps",
        FieldType::Text,
        "\"message\"",
        "`message`: cells carry the time of the Kafka message, the latest wins; `server`: the time of writing",
    ),
    optional(
        "connections",
        FieldType::Integer,
        "4",
        "How many requests are under way at once, at most 64",
    ),
    optional(
        "batch_rows",
        FieldType::Integer,
        "500",
        "How many rows one request writes, at most 10000 and about 2 MiB",
    ),
    optional(
        "request_timeout",
        FieldType::Duration,
        "\"15s\"",
        "The longest one request may take before it is sent again",
    ),
    optional(
        "patience",
        FieldType::Duration,
        "\"2m\"",
        "How long a gateway or master that is away is waited for",
    ),
];

const OUTPUTS: Outputs = Outputs::Known(&[
    ("table", "the table"),
    ("created", "whether the table was created"),
    ("rows", "rows that HBase has acknowledged"),
    ("cells", "their cells"),
    (
        "empty",
        "rows without any value to write, which HBase cannot hold",
    ),
    ("requests", "requests that wrote rows"),
    ("repeated", "requests that had to be sent again"),
    ("rows_per_s", "rows written per second"),
]);

/// Writes a cleaned partition into HBase.
pub struct HbasePut {
    store: ObjectStore,
}

impl HbasePut {
    /// The kind, for the store that holds the cleaned partitions.
    pub fn new(store: ObjectStore) -> Self {
        Self { store }
    }
}

/// Where the cells' timestamps come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timestamps {
    Message,
    Server,
}

/// What goes where.
#[derive(Debug, Clone)]
struct Mapping {
    table: String,
    row_key: String,
    /// HBase's `family:qualifier`, and the dataset's column.
    columns: Vec<(String, String)>,
    null_as: Option<String>,
    separator: String,
    timestamps: Timestamps,
    batch_rows: usize,
}

/// Rows that go in one request.
struct Batch {
    part: String,
    first_row: usize,
    rows: usize,
    first_key: String,
    cells: u64,
    body: Bytes,
}

/// What a reader hands over: a batch, or rows that have nothing to write.
enum Read {
    Batch(Batch),
    Empty(u64),
}

/// What has been acknowledged.
#[derive(Debug, Default)]
struct Stored {
    rows: u64,
    cells: u64,
    empty: u64,
    requests: u64,
}

/// Why a try did not store everything, and where.
struct Lost {
    failure: Failure,
    places: Vec<String>,
}

impl Mapping {
    fn read(given: Given<'_>) -> Result<Self, Failure> {
        let mapping = Self::unchecked(given)?;
        match mapping.problems().into_iter().next() {
            None => Ok(mapping),
            Some(problem) => Err(Failure {
                hint: problem.hint,
                ..Failure::permanent(problem.message)
            }),
        }
    }

    fn unchecked(given: Given<'_>) -> Result<Self, Failure> {
        let text = |field: &str, default: &str| {
            Ok::<_, Failure>(given.text(field)?.unwrap_or_else(|| default.to_owned()))
        };
        let table = text("table", TABLE)?;
        let family = text("family", FAMILY)?;
        let mut columns = given.text_table("columns")?;
        if columns.is_empty() {
            columns = COLUMNS
                .map(|(name, source)| (name.to_owned(), source.to_owned()))
                .to_vec();
        }
        for (name, _) in &mut columns {
            if !name.contains(':') {
                *name = format!("{family}:{name}");
            }
        }
        Ok(Self {
            table,
            row_key: text("row_key", ROW_KEY)?,
            columns,
            null_as: given.text("null_as")?,
            separator: text("separator", SEPARATOR)?,
            timestamps: timestamps(&text("timestamps", "message")?)
                .map_err(|(message, hint)| Failure::permanent(message).with_hint(hint))?,
            batch_rows: within(given, "batch_rows", BATCH_ROWS, MOST_BATCH_ROWS)?,
        })
    }

    /// What is wrong with its names.
    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let is_name = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        };
        let (namespace, name) = self
            .table
            .split_once(':')
            .unwrap_or(("default", &self.table));
        if !is_name(namespace) || !is_name(name) || name.starts_with(['-', '.']) {
            problems.push(Problem {
                field: Some("table".to_owned()),
                message: format!(
                    "`{}` is no name of an HBase table",
                    self.table.escape_debug()
                ),
                hint: Some(
                    "letters, digits, `_`, `-` and `.`, and a namespace before `:`".to_owned(),
                ),
            });
        }
        for (column, _) in &self.columns {
            let (family, qualifier) = column.split_once(':').unwrap_or((column, ""));
            if !is_name(family) || qualifier.is_empty() {
                problems.push(Problem {
                    field: Some("columns".to_owned()),
                    message: format!("`{}` is no column of HBase", column.escape_debug()),
                    hint: Some("write `name`, or `\"family:name\"`; a family is letters, digits, `_`, `-` and `.`".to_owned()),
                });
            }
        }
        problems
    }

    fn families(&self) -> Vec<&str> {
        let mut families: Vec<&str> = self
            .columns
            .iter()
            .map(|(column, _)| {
                column
                    .split_once(':')
                    .map_or(column.as_str(), |(family, _)| family)
            })
            .collect();
        families.sort_unstable();
        families.dedup();
        families
    }

    /// The dataset's columns that are needed, once each.
    fn sources(&self) -> Vec<String> {
        let mut sources = vec![self.row_key.clone()];
        if self.timestamps == Timestamps::Message {
            sources.push(lake::TIMESTAMP.to_owned());
        }
        sources.extend(self.columns.iter().map(|(_, source)| source.clone()));
        sources.sort_unstable();
        sources.dedup();
        sources
    }

    /// Turns rows into requests.
    fn encode(&self, slice: &Slice) -> PolarsResult<Vec<Read>> {
        let keys = slice.rows.column(&self.row_key)?;
        let columns: Vec<(&[u8], &Column)> = self
            .columns
            .iter()
            .map(|(name, source)| Ok((name.as_bytes(), slice.rows.column(source)?)))
            .collect::<PolarsResult<_>>()?;
        let timestamps = match self.timestamps {
            Timestamps::Message => {
                let column = slice.rows.column(lake::TIMESTAMP)?;
                Some(column.cast(&polars::prelude::DataType::Int64)?)
            }
            Timestamps::Server => None,
        };
        let timestamps = timestamps.as_ref().map(|column| column.i64()).transpose()?;
        let mut read = Vec::new();
        let (mut set, mut cells, mut rows, mut empty) = (CellSet::default(), 0, 0, 0);
        let mut began = (0, String::new());
        for row in 0..slice.rows.height() {
            let key = self.text(keys, row)?.filter(|key| !key.is_empty()).ok_or_else(|| {
                polars_err!(ComputeError: "row {} has no `{}`, which is the row's key", slice.first_row + row + 1, self.row_key)
            })?;
            // HBase knows no time before 1970.
            let timestamp = timestamps
                .and_then(|column| column.get(row))
                .and_then(|milliseconds| u64::try_from(milliseconds).ok());
            set.begin(key.as_bytes());
            let mut own = 0;
            for (name, column) in &columns {
                let text = self.text(column, row)?;
                if let Some(text) = text.as_deref().or(self.null_as.as_deref()) {
                    set.cell(name, timestamp, text.as_bytes());
                    own += 1;
                }
            }
            if !set.end() {
                empty += 1;
                continue;
            }
            if rows == 0 {
                began = (slice.first_row + row, key);
            }
            (rows, cells) = (rows + 1, cells + own);
            if rows == self.batch_rows || set.len() >= BATCH_BYTES {
                read.push(Read::Batch(batch(
                    slice,
                    std::mem::take(&mut began),
                    rows,
                    cells,
                    &mut set,
                )));
                (rows, cells) = (0, 0);
            }
        }
        if rows > 0 {
            read.push(Read::Batch(batch(slice, began, rows, cells, &mut set)));
        }
        if empty > 0 {
            read.push(Read::Empty(empty));
        }
        Ok(read)
    }

    fn text(&self, column: &Column, row: usize) -> PolarsResult<Option<String>> {
        Ok(cleaned::value(column, row)?.map(|value| match value {
            cleaned::Value::One(text) => text.into_owned(),
            cleaned::Value::Many(items) => {
                let items: Vec<&str> = items.iter().flatten().map(String::as_str).collect();
                items.join(&self.separator)
            }
        }))
    }
}

fn batch(
    slice: &Slice,
    (first_row, first_key): (usize, String),
    rows: usize,
    cells: u64,
    set: &mut CellSet,
) -> Batch {
    Batch {
        part: slice.part.clone(),
        first_row,
        rows,
        first_key,
        cells,
        body: set.take(),
    }
}

impl Batch {
    fn place(&self) -> String {
        format!(
            "{} rows from row {} (`{}`) of `{}`",
            self.rows,
            self.first_row + 1,
            self.first_key.escape_debug(),
            self.part
        )
    }
}

/// Reads the partition and hands over batch after batch, until nobody takes them any more.
async fn read(
    cleaned: &Cleaned,
    mapping: &Mapping,
    batches: mpsc::Sender<Read>,
) -> Result<(), Failure> {
    let sources = mapping.sources();
    for part in &cleaned.partition.parts {
        let mut reader = cleaned.part(part, &sources).await?;
        while let Some(slice) = reader.next().await? {
            let (mapping, address) = (mapping.clone(), slice.part.clone());
            let encoded = blocking::run(move || mapping.encode(&slice)).await?;
            let encoded = encoded.map_err(|error| {
                Failure::permanent(format!("`{address}` cannot be written to HBase: {error}"))
                    .with_hint("check `row_key` and `columns`")
            })?;
            for one in encoded {
                if batches.send(one).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Writes what it is handed, `connections` requests at once. After the first failure nothing new is begun; what is under way is
/// waited for, so that the counts are right.
async fn write(
    context: &Context,
    gateway: &Gateway,
    table: &str,
    connections: usize,
    mut batches: mpsc::Receiver<Read>,
    stored: &mut Stored,
) -> Result<(), Lost> {
    let mut under_way = FuturesUnordered::new();
    let mut lost: Option<Lost> = None;
    let mut is_open = true;
    let began = Instant::now();
    while is_open || !under_way.is_empty() {
        tokio::select! {
            biased;
            Some((batch, written)) = under_way.next(), if !under_way.is_empty() => {
                let batch: Batch = batch;
                match written {
                    Ok(()) => {
                        let lines = stored.rows / ROWS_PER_LINE;
                        stored.rows += batch.rows as u64;
                        stored.cells += batch.cells;
                        stored.requests += 1;
                        if stored.rows / ROWS_PER_LINE > lines {
                            let line = format!("{} rows written, {} a second", stored.rows, per_second(stored.rows, began));
                            context.log.say(line).await;
                        }
                    }
                    Err(failure) => {
                        let place = batch.place();
                        lost.get_or_insert(Lost { failure, places: Vec::new() }).places.push(place);
                        is_open = false;
                    }
                }
            }
            read = batches.recv(), if is_open && under_way.len() < connections => match read {
                Some(Read::Batch(batch)) => under_way.push(async move {
                    let written = gateway.put(context, table, &batch.body).await;
                    (batch, written)
                }),
                Some(Read::Empty(rows)) => stored.empty += rows,
                None => is_open = false,
            },
        }
    }
    lost.map_or(Ok(()), Err)
}

fn per_second(rows: u64, began: Instant) -> u64 {
    let milliseconds = began.elapsed().as_millis().max(1);
    u64::try_from(u128::from(rows) * 1000 / milliseconds).unwrap_or(u64::MAX)
}

/// The failure of a try that has stored a part.
fn incomplete(lost: Lost, stored: &Stored, wanted: u64, table: &str) -> Failure {
    let Lost {
        failure,
        mut places,
    } = lost;
    let others = places.len().saturating_sub(PLACES_NAMED);
    places.truncate(PLACES_NAMED);
    let mut named = places.join(", ");
    if others > 0 {
        named.push_str(&format!(" and {others} more requests"));
    }
    let never_sent = if named.is_empty() {
        String::new()
    } else {
        format!("; not acknowledged are {named}, and what follows them")
    };
    Failure {
        message: format!(
            "{} of {wanted} rows are stored in table `{table}`{never_sent}: {}",
            stored.rows, failure.message
        ),
        ..failure
    }
}

fn timestamps(word: &str) -> Result<Timestamps, (String, &'static str)> {
    match word.trim() {
        "message" => Ok(Timestamps::Message),
        "server" => Ok(Timestamps::Server),
        other => Err((
            format!("`timestamps` is `{}`", other.escape_debug()),
            "write `timestamps = \"message\"` or `\"server\"`",
        )),
    }
}

fn within(given: Given<'_>, field: &str, default: u64, most: u64) -> Result<usize, Failure> {
    let count = given.count(field)?.unwrap_or(default);
    if (1..=most).contains(&count) {
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    } else {
        Err(Failure::permanent(format!(
            "`{field}` is {count}, expected 1 to {most}"
        )))
    }
}

fn patience_of(given: Given<'_>, field: &str, default: &str) -> Result<Duration, Failure> {
    match given.duration(field)? {
        Some(duration) => Ok(duration),
        None => duration::parse(default).map_err(|error| Failure::permanent(error.message)),
    }
}

/// Whether a value stands in the file as it will be.
fn is_written(value: &Value) -> bool {
    !value.as_str().is_some_and(|text| text.contains("{{"))
}

#[async_trait]
impl Kind for HbasePut {
    fn name(&self) -> &'static str {
        "hbase_put"
    }

    fn summary(&self) -> &'static str {
        "Writes the rows of a cleaned partition into a table of HBase, over its REST gateway"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        OUTPUTS
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |field: Option<&str>, message: &str, hint: &str| {
            problems.push(Problem {
                field: field.map(str::to_owned),
                message: message.to_owned(),
                hint: Some(hint.to_owned()),
            });
        };
        match (with.contains_key("connection"), with.contains_key("url")) {
            (false, false) => report(
                None,
                "neither `connection` nor `url` is given",
                "write `connection = \"hbase\"`, and `pinwheel connections set hbase …` once",
            ),
            (true, true) => report(
                Some("url"),
                "both `connection` and `url` are given",
                "remove one of them",
            ),
            (true, false) | (false, true) => {}
        }
        let written = |field: &str| {
            with.get(field)
                .filter(|value| is_written(value))
                .and_then(Value::as_str)
        };
        if let Some(Err(error)) = written("from").map(str::parse::<Location>) {
            report(Some("from"), &error.to_string(), error.hint());
        }
        if let Some(url) = written("url")
            && let Err(failure) = Address::parse(url)
        {
            report(
                Some("url"),
                &failure.message,
                &failure.hint.unwrap_or_default(),
            );
        }
        if let Some(Err((message, hint))) = written("timestamps").map(timestamps) {
            report(Some("timestamps"), &message, hint);
        }
        for (field, most) in [
            ("connections", MOST_CONNECTIONS),
            ("batch_rows", MOST_BATCH_ROWS),
        ] {
            if let Some(Value::Number(_)) = with.get(field)
                && let Err(failure) = within(Given::new(with), field, 1, most)
            {
                report(
                    Some(field),
                    &failure.message,
                    "leave it out for the default",
                );
            }
        }
        // What is still a template is judged when it is rendered.
        let known: Map<String, Value> = with
            .iter()
            .filter(|(field, value)| {
                matches!(field.as_str(), "table" | "family" | "columns") && is_written(value)
            })
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect();
        if let Ok(mapping) = Mapping::unchecked(Given::new(&known)) {
            problems.extend(mapping.problems());
        }
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let given = Given::new(&with);
        let from: Location = given.required_text("from")?.trim().parse()?;
        let mapping = Mapping::read(given)?;
        let connections = within(given, "connections", CONNECTIONS, MOST_CONNECTIONS)?;
        let address = match given.text("connection")? {
            Some(id) => {
                let id = id.trim();
                Address::of_connection(id, &context.connections.get(id).await?)?
            }
            None => Address::parse(&given.required_text("url")?)?,
        };
        let gateway = Gateway::new(
            address,
            patience_of(given, "request_timeout", REQUEST_TIMEOUT)?,
            patience_of(given, "patience", PATIENCE)?,
        )?;
        let cleaned = Cleaned::open(&self.store, &from).await?;
        cleaned.check_columns("row_key", [mapping.row_key.as_str()])?;
        cleaned.check_columns(
            "columns",
            mapping.columns.iter().map(|(_, source)| source.as_str()),
        )?;
        let wanted = cleaned.rows();

        let table = mapping.table.as_str();
        let found = gateway
            .ensure_table(context, table, &mapping.families())
            .await?;
        let created = found == Table::Created;
        let line = format!(
            "writing {wanted} rows of dataset `{}`, partition `{}`, into {}table `{table}` at {}",
            cleaned.partition.dataset,
            cleaned.partition.partition,
            if created { "the new " } else { "" },
            gateway.called()
        );
        context.log.say(line).await;

        let began = Instant::now();
        let mut stored = Stored::default();
        // As many requests are ready as are under way, and no more of the partition is in memory.
        let (sender, receiver) = mpsc::channel(connections);
        let (reading, writing) = tokio::join!(
            read(&cleaned, &mapping, sender),
            write(context, &gateway, table, connections, receiver, &mut stored),
        );
        let ended = match (writing, reading) {
            (Err(lost), _) => Err(lost),
            (Ok(()), Err(failure)) => Err(Lost {
                failure,
                places: Vec::new(),
            }),
            (Ok(()), Ok(())) => Ok(()),
        };
        ended.map_err(|lost| incomplete(lost, &stored, wanted, table))?;
        if stored.rows + stored.empty != wanted {
            return Err(Failure::permanent(format!(
                "{} rows were written and {} had nothing to write, where the manifest says {wanted}",
                stored.rows, stored.empty
            )));
        }
        let rows_per_s = per_second(stored.rows, began);
        let line = format!(
            "{} rows stored in table `{table}`, {rows_per_s} a second; {} had nothing to write, {} requests were repeated",
            stored.rows,
            stored.empty,
            gateway.repeated()
        );
        context.log.say(line).await;
        Ok(Outcome::Success {
            output: json!({
                "table": table,
                "created": created,
                "rows": stored.rows,
                "cells": stored.cells,
                "empty": stored.empty,
                "requests": stored.requests,
                "repeated": gateway.repeated(),
                "rows_per_s": rows_per_s,
            }),
        })
    }
}
