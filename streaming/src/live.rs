//! What the live view holds, for pages, the demo and tests. Reads only.
//!
//! Every name is qualified with the schema, so any pool on the database will do.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use pinwheel_tasks::{KafkaSettings, kafka as client};
use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use sqlx::{AssertSqlSafe, FromRow, PgPool, types::Json};

use crate::{
    kafka::{self, Quiet},
    worker::{self, PartitionStatus},
};

/// One stream, as its worker last wrote it.
#[derive(Clone, Debug, FromRow)]
pub struct StreamRow {
    /// The stream.
    pub stream: String,
    /// Its topic.
    pub topic: String,
    /// The dataset that cleans it.
    pub dataset: String,
    /// Its table in the schema `live`.
    pub table_name: String,
    /// The worker that owns it.
    pub owner: String,
    /// `starting`, `running`, `waiting`, `failed` or `stopped`.
    pub state: String,
    /// What is wrong, for people.
    pub problem: Option<String>,
    /// Events committed in the second before the last write.
    pub events_per_second: f64,
    /// The partitions, by number.
    pub partitions: Json<Vec<PartitionStatus>>,
    /// When the last batch was committed.
    pub last_commit: Option<DateTime<Utc>>,
    /// When this was written.
    pub updated_at: DateTime<Utc>,
    /// Events committed since the stream began.
    pub events: i64,
    /// Of them, kept as dead letters.
    pub dead_letters: i64,
    /// Of them, behind the watermark.
    pub late: i64,
    /// The event time that every partition with events has passed.
    pub watermark: Option<DateTime<Utc>>,
}

/// One stream with the rows of its table.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The stream.
    pub stream: StreamRow,
    /// How many rows its table has.
    pub rows: i64,
}

/// One message that could not become a row.
#[derive(Clone, Debug, FromRow)]
pub struct DeadLetterRow {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The time of the message.
    pub event_at: Option<DateTime<Utc>>,
    /// `unreadable` or `contract`.
    pub stage: String,
    /// The rule it broke.
    pub rule: String,
    /// The column it is about, where there is one.
    pub field: Option<String>,
    /// What was expected and what was found.
    pub detail: String,
    /// The raw value; `None` when the message had none.
    pub raw: Option<Vec<u8>>,
}

/// One window of one group.
#[derive(Clone, Debug, FromRow)]
pub struct WindowRow {
    /// The window's name.
    pub window_name: String,
    /// Its first instant.
    pub window_start: DateTime<Utc>,
    /// The first instant behind it.
    pub window_end: DateTime<Utc>,
    /// The group; empty where the column is null.
    pub group_key: String,
    /// How many events.
    pub events: i64,
    /// Of them, late.
    pub late: i64,
    /// How many events have the followed column.
    pub followed: i64,
    /// Its sum, as decimal text because it may pass 64 bits.
    pub followed_sum: String,
    /// Its maximum.
    pub followed_max: Option<i64>,
}

/// Makes the schema `live` and its tables, for `db migrate`. The pool's search path must be `live`: [`connect`] has it.
///
/// # Errors
///
/// When Postgres is away or refuses.
pub async fn migrate(pool: &PgPool) -> Result<(), sqlx::Error> {
    worker::migrate(pool).await
}

/// Opens a pool whose search path is the schema `live`. Connects when it is first used.
///
/// # Errors
///
/// When the address is not valid.
pub fn connect(database_url: &str) -> Result<PgPool, sqlx::Error> {
    worker::pool(database_url)
}

/// All streams that ever ran on this database, by name; none when no worker has made the schema yet.
///
/// # Errors
///
/// When Postgres is away or refuses.
pub async fn streams(pool: &PgPool) -> Result<Vec<StreamRow>, sqlx::Error> {
    let exists: bool = sqlx::query_scalar("select to_regclass('live.stream_status') is not null")
        .fetch_one(pool)
        .await?;
    if !exists {
        return Ok(Vec::new());
    }
    sqlx::query_as(include_str!("queries/read_streams.sql"))
        .fetch_all(pool)
        .await
}

/// All streams with the rows of their tables, by name. Counts the rows, so it is for people and tests, not for a loop.
///
/// # Errors
///
/// When Postgres is away or refuses.
pub async fn summary(pool: &PgPool) -> Result<Vec<Summary>, sqlx::Error> {
    let mut summaries = Vec::new();
    for stream in streams(pool).await? {
        let rows = rows(pool, &stream.table_name).await?;
        summaries.push(Summary { stream, rows });
    }
    Ok(summaries)
}

/// How many rows a live table has; 0 when it does not exist.
///
/// # Errors
///
/// When Postgres is away or refuses.
pub async fn rows(pool: &PgPool, table: &str) -> Result<i64, sqlx::Error> {
    if !worker::is_identifier(table) {
        return Ok(0);
    }
    let exists: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(format!("live.\"{table}\""))
        .fetch_one(pool)
        .await?;
    if !exists {
        return Ok(0);
    }
    sqlx::query_scalar(AssertSqlSafe(format!(
        "select count(*) from live.\"{table}\""
    )))
    .fetch_one(pool)
    .await
}

/// The dead letters of a stream, newest first.
///
/// # Errors
///
/// When Postgres is away or refuses.
pub async fn dead_letters(
    pool: &PgPool,
    stream: &str,
    limit: i64,
) -> Result<Vec<DeadLetterRow>, sqlx::Error> {
    sqlx::query_as(include_str!("queries/read_dead_letters.sql"))
        .bind(stream)
        .bind(limit)
        .fetch_all(pool)
        .await
}

/// The windows of a stream, newest first, and within one by the number of events.
///
/// # Errors
///
/// When Postgres is away or refuses.
pub async fn windows(
    pool: &PgPool,
    stream: &str,
    limit: i64,
) -> Result<Vec<WindowRow>, sqlx::Error> {
    sqlx::query_as(include_str!("queries/read_windows.sql"))
        .bind(stream)
        .bind(limit)
        .fetch_all(pool)
        .await
}

/// Whether a stream has committed everything before the given ends of its partitions; see [`end_offsets`].
///
/// # Errors
///
/// When Postgres is away or refuses.
pub async fn is_caught_up(
    pool: &PgPool,
    stream: &str,
    topic: &str,
    ends: &BTreeMap<i32, i64>,
) -> Result<bool, sqlx::Error> {
    let exists: bool = sqlx::query_scalar("select to_regclass('live.stream_offset') is not null")
        .fetch_one(pool)
        .await?;
    if !exists {
        return Ok(ends.values().all(|end| *end == 0));
    }
    let stands: Vec<(i32, i64)> = sqlx::query_as(include_str!("queries/read_next_offsets.sql"))
        .bind(stream)
        .bind(topic)
        .fetch_all(pool)
        .await?;
    let stands: BTreeMap<i32, i64> = stands.into_iter().collect();
    Ok(ends
        .iter()
        .all(|(partition, end)| *end == 0 || stands.get(partition).is_some_and(|next| next >= end)))
}

/// What a stream has committed of a topic: the next offset of every partition.
///
/// # Errors
///
/// When Postgres is away or refuses, or no worker has made the schema yet.
pub async fn committed(
    pool: &PgPool,
    stream: &str,
    topic: &str,
) -> Result<BTreeMap<i32, i64>, sqlx::Error> {
    let stands: Vec<(i32, i64)> = sqlx::query_as(include_str!("queries/read_next_offsets.sql"))
        .bind(stream)
        .bind(topic)
        .fetch_all(pool)
        .await?;
    Ok(stands.into_iter().collect())
}

/// When the rows of a live table were produced: partition, offset, and the time of the message.
///
/// # Errors
///
/// When Postgres is away or refuses, or there is no such table.
pub async fn produced(
    pool: &PgPool,
    table: &str,
) -> Result<Vec<(i32, i64, DateTime<Utc>)>, sqlx::Error> {
    if !worker::is_identifier(table) {
        return Ok(Vec::new());
    }
    let rows = format!(
        "select kafka_partition, kafka_offset, kafka_timestamp from live.\"{table}\" where kafka_timestamp is not null"
    );
    sqlx::query_as(AssertSqlSafe(rows)).fetch_all(pool).await
}

/// The end of every partition of a topic; none when there is no such topic.
///
/// # Errors
///
/// When the broker does not answer within `patience` or refuses.
pub async fn end_offsets(
    settings: &KafkaSettings,
    topic: &str,
    patience: Duration,
) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let config = client::client(settings);
    let topic = topic.to_owned();
    kafka::blocking(move || {
        let consumer: BaseConsumer<Quiet> = config.create_with_context(Quiet::default())?;
        let mut ends = BTreeMap::new();
        for partition in client::partitions(&consumer, &topic, patience)?.unwrap_or_default() {
            ends.insert(
                partition,
                consumer.fetch_watermarks(&topic, partition, patience)?.1,
            );
        }
        Ok(ends)
    })
    .await
}
