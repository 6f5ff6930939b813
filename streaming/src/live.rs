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

/// One stream, as its workers last wrote it, with where its partitions stand.
#[derive(Clone, Debug)]
pub struct StreamRow {
    /// The stream.
    pub stream: String,
    /// Its topic.
    pub topic: String,
    /// The dataset that cleans it.
    pub dataset: String,
    /// Its table of posts in the schema `live`; `None` where it keeps windows alone.
    pub table_name: Option<String>,
    /// `starting`, `running`, `waiting`, `failed`, `stopped` or `lost`: of the worker that does most, or else spoke last.
    pub state: String,
    /// What is wrong, for people.
    pub problem: Option<String>,
    /// Events committed in the second before the last write, by all workers.
    pub events_per_second: f64,
    /// Its workers, who spoke last first.
    pub workers: Vec<WorkerRow>,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionRow>,
    /// When the last batch was committed.
    pub last_commit: Option<DateTime<Utc>>,
    /// When a worker last spoke.
    pub updated_at: DateTime<Utc>,
    /// Events committed since the stream began.
    pub events: i64,
    /// Of them, kept as dead letters.
    pub dead_letters: i64,
    /// Of them, behind the watermark.
    pub late: i64,
    /// Of them, left out of a window because they came too late.
    pub dropped: i64,
    /// The event time that every partition has passed that is not idle.
    pub watermark: Option<DateTime<Utc>>,
}

impl StreamRow {
    /// How many offsets the stream is behind; `None` while the end of a partition is not known.
    pub fn lag(&self) -> Option<i64> {
        self.partitions.iter().map(|partition| partition.lag).sum()
    }
}

/// One worker of a stream, as it last wrote.
#[derive(Clone, Debug, FromRow)]
pub struct WorkerRow {
    /// The stream.
    pub stream: String,
    /// The worker's name.
    pub owner: String,
    /// The topic.
    pub topic: String,
    /// The dataset.
    pub dataset: String,
    /// The table of posts.
    pub table_name: Option<String>,
    /// `starting`, `running`, `waiting`, `failed` or `stopped`.
    pub state: String,
    /// What is wrong, for people.
    pub problem: Option<String>,
    /// Events committed in the second before the write.
    pub events_per_second: f64,
    /// The partitions that it reads, by number.
    pub partitions: Json<Vec<PartitionStatus>>,
    /// When its last batch was committed.
    pub last_commit: Option<DateTime<Utc>>,
    /// When this was written.
    pub updated_at: DateTime<Utc>,
    /// Whether it has said nothing for a minute though it should.
    pub is_lost: bool,
}

impl WorkerRow {
    /// Its state, or `lost`.
    pub fn state(&self) -> &str {
        if self.is_lost { "lost" } else { &self.state }
    }

    /// How much its word counts for the stream's state.
    fn rank(&self) -> u8 {
        match self.state() {
            "running" => 3,
            "waiting" => 2,
            "starting" => 1,
            _ => 0,
        }
    }
}

/// Where one partition of a stream stands.
#[derive(Clone, Debug)]
pub struct PartitionRow {
    /// The partition.
    pub partition: i32,
    /// The next offset; everything before it is committed.
    pub next_offset: i64,
    /// Raised whenever a worker takes the partition.
    pub generation: i64,
    /// The worker that took it last.
    pub owner: String,
    /// The event time it has passed.
    pub watermark: Option<DateTime<Utc>>,
    /// Since when it has nothing to read.
    pub idle_since: Option<DateTime<Utc>>,
    /// How many offsets it is behind, as its worker last wrote.
    pub lag: Option<i64>,
    /// Events committed.
    pub events: i64,
    /// Of them, kept as dead letters.
    pub dead_letters: i64,
    /// Of them, behind the watermark.
    pub late: i64,
    /// Of them, left out of a window.
    pub dropped: i64,
}

#[derive(FromRow)]
struct StoredPartition {
    stream: String,
    topic: String,
    partition: i32,
    next_offset: i64,
    generation: i64,
    owner: String,
    watermark: Option<DateTime<Utc>>,
    idle_since: Option<DateTime<Utc>>,
    events: i64,
    dead_letters: i64,
    late: i64,
    dropped: i64,
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

/// One window of event time and one of its groups.
#[derive(Clone, Debug, FromRow)]
pub struct WindowRow {
    /// The window's name.
    pub window_name: String,
    /// Its first instant.
    pub window_start: DateTime<Utc>,
    /// The first instant behind it.
    pub window_end: DateTime<Utc>,
    /// The group; empty where the column is null, and where the window has none.
    pub group_key: String,
    /// How many events.
    pub events: i64,
    /// Messages that could not become a row, where the window has no groups.
    pub dead: i64,
    /// Of the events, late.
    pub late: i64,
    /// How many events have the followed column.
    pub followed: i64,
    /// Its sum, as decimal text because it may pass 64 bits.
    pub followed_sum: String,
    /// Its maximum.
    pub followed_max: Option<i64>,
    /// Its mean.
    pub followed_mean: Option<f64>,
    /// The group's part of the window's events.
    pub share: Option<f64>,
    /// The part of the window's messages that could not become a row.
    pub error_rate: Option<f64>,
    /// Whether the watermark has passed its end: only late events change it.
    pub is_final: bool,
}

/// One group of a window over the last events.
#[derive(Clone, Debug, FromRow)]
pub struct TopRow {
    /// The window's name.
    pub window_name: String,
    /// The group; empty where the column is null.
    pub group_key: String,
    /// How many of the last events.
    pub events: i64,
    /// Its part of them.
    pub share: f64,
    /// Its place; ties share one.
    pub place: i64,
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
    let exists: bool = sqlx::query_scalar("select to_regclass('live.window_recent') is not null")
        .fetch_one(pool)
        .await?;
    if !exists {
        return Ok(Vec::new());
    }
    let workers: Vec<WorkerRow> = sqlx::query_as(include_str!("queries/read_workers.sql"))
        .fetch_all(pool)
        .await?;
    let stored: Vec<StoredPartition> = sqlx::query_as(include_str!("queries/read_partitions.sql"))
        .fetch_all(pool)
        .await?;
    let mut streams: BTreeMap<String, Vec<WorkerRow>> = BTreeMap::new();
    for worker in workers {
        streams
            .entry(worker.stream.clone())
            .or_default()
            .push(worker);
    }
    Ok(streams
        .into_values()
        .filter_map(|workers| stream(workers, &stored))
        .collect())
}

/// Puts together what the workers of one stream say, who spoke last first, and where its partitions stand.
fn stream(workers: Vec<WorkerRow>, stored: &[StoredPartition]) -> Option<StreamRow> {
    let newest = workers.first()?;
    let mut speaker = newest;
    for worker in &workers {
        if worker.rank() > speaker.rank() {
            speaker = worker;
        }
    }
    let partitions: Vec<PartitionRow> = stored
        .iter()
        .filter(|stands| stands.stream == newest.stream && stands.topic == newest.topic)
        .map(|stands| PartitionRow {
            partition: stands.partition,
            next_offset: stands.next_offset,
            generation: stands.generation,
            owner: stands.owner.clone(),
            watermark: stands.watermark,
            idle_since: stands.idle_since,
            lag: workers
                .iter()
                .flat_map(|worker| worker.partitions.iter())
                .filter(|said| said.partition == stands.partition)
                .max_by_key(|said| said.generation)
                .and_then(|said| said.end_offset)
                .map(|end| (end - stands.next_offset).max(0)),
            events: stands.events,
            dead_letters: stands.dead_letters,
            late: stands.late,
            dropped: stands.dropped,
        })
        .collect();
    let passed = |partition: &&PartitionRow| partition.idle_since.is_none();
    let sum = |count: fn(&PartitionRow) -> i64| partitions.iter().map(count).sum();
    Some(StreamRow {
        stream: newest.stream.clone(),
        topic: newest.topic.clone(),
        dataset: newest.dataset.clone(),
        table_name: newest.table_name.clone(),
        state: speaker.state().to_owned(),
        problem: speaker.problem.clone(),
        events_per_second: workers
            .iter()
            .filter(|worker| worker.state() == "running")
            .map(|worker| worker.events_per_second)
            .sum(),
        last_commit: workers.iter().filter_map(|worker| worker.last_commit).max(),
        updated_at: newest.updated_at,
        events: sum(|partition| partition.events),
        dead_letters: sum(|partition| partition.dead_letters),
        late: sum(|partition| partition.late),
        dropped: sum(|partition| partition.dropped),
        // As the view `stream_watermark` has it.
        watermark: partitions
            .iter()
            .filter(passed)
            .filter_map(|partition| partition.watermark)
            .min()
            .or_else(|| {
                partitions
                    .iter()
                    .filter_map(|partition| partition.watermark)
                    .max()
            }),
        partitions,
        workers,
    })
}

/// All streams with the rows of their tables, by name. Counts the rows, so it is for people and tests, not for a loop.
///
/// # Errors
///
/// When Postgres is away or refuses.
pub async fn summary(pool: &PgPool) -> Result<Vec<Summary>, sqlx::Error> {
    let mut summaries = Vec::new();
    for stream in streams(pool).await? {
        let rows = match &stream.table_name {
            None => 0,
            Some(table) => rows(pool, table).await?,
        };
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

/// The newest windows of a stream, `each` of every name: newest first, and within one by the number of events.
///
/// # Errors
///
/// When Postgres is away or refuses.
pub async fn windows(
    pool: &PgPool,
    stream: &str,
    each: i32,
) -> Result<Vec<WindowRow>, sqlx::Error> {
    sqlx::query_as(include_str!("queries/read_windows.sql"))
        .bind(stream)
        .bind(each)
        .fetch_all(pool)
        .await
}

/// The groups of a stream's last events, the most frequent first.
///
/// # Errors
///
/// When Postgres is away or refuses.
pub async fn top(pool: &PgPool, stream: &str, limit: i64) -> Result<Vec<TopRow>, sqlx::Error> {
    sqlx::query_as(include_str!("queries/read_top.sql"))
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
