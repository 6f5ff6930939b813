//! What the pages and the API show of streams. Who reads it is given to the web role: it knows no streaming worker.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

/// Reads what the streaming workers keep.
#[async_trait]
pub trait Streams: Send + Sync {
    /// All streams, by name.
    ///
    /// # Errors
    /// Says why they cannot be read.
    async fn streams(&self) -> Result<Vec<Stream>, String>;
}

/// A stream: a topic that workers clean into a live table and count in windows.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Stream {
    /// Its name.
    #[schema(example = "pins")]
    pub stream: String,
    /// Its topic.
    pub topic: String,
    /// The dataset that cleans it.
    pub dataset: String,
    /// Its table of posts in the schema `live`; null where it keeps windows alone.
    pub table: Option<String>,
    /// `starting`, `running`, `waiting`, `failed`, `stopped` or `lost`.
    #[schema(example = "running")]
    pub state: String,
    /// What is wrong.
    pub problem: Option<String>,
    /// Events committed in the last second.
    pub events_per_second: f64,
    /// How many offsets it is behind; null while the end of a partition is not known.
    pub lag: Option<i64>,
    /// The event time that it has passed.
    pub watermark: Option<DateTime<Utc>>,
    /// When the last batch was committed.
    pub last_commit: Option<DateTime<Utc>>,
    /// Events committed since it began.
    pub events: i64,
    /// Of them, kept as dead letters.
    pub dead_letters: i64,
    /// Of them, behind the watermark.
    pub late: i64,
    /// Of them, left out of a window because they came too late.
    pub dropped: i64,
    /// Its workers, who spoke last first.
    pub workers: Vec<StreamWorker>,
    /// Its partitions, by number.
    pub partitions: Vec<StreamPartition>,
    /// Its newest windows of event time.
    pub windows: Vec<StreamWindow>,
    /// What its windows over the last events hold.
    pub top: Vec<StreamTop>,
    /// Its newest dead letters, without their bytes.
    pub newest_dead_letters: Vec<StreamDeadLetter>,
}

/// A worker of a stream.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StreamWorker {
    /// Its name.
    pub worker: String,
    /// As the stream's.
    pub state: String,
    /// What is wrong.
    pub problem: Option<String>,
    /// The partitions that it reads.
    pub partitions: Vec<i32>,
    /// Events committed in the last second.
    pub events_per_second: f64,
    /// When it last spoke.
    pub updated_at: DateTime<Utc>,
}

/// A partition of a stream.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StreamPartition {
    /// Its number.
    pub partition: i32,
    /// The worker that took it last.
    pub worker: String,
    /// Raised whenever a worker takes it.
    pub generation: i64,
    /// The next offset to read.
    pub next_offset: i64,
    /// How many offsets it is behind.
    pub lag: Option<i64>,
    /// The event time that it has passed.
    pub watermark: Option<DateTime<Utc>>,
    /// Since when it has nothing to read.
    pub idle_since: Option<DateTime<Utc>>,
    /// Events committed.
    pub events: i64,
    /// Of them, dead letters.
    pub dead_letters: i64,
    /// Of them, late.
    pub late: i64,
}

/// One group of a window of event time.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StreamWindow {
    /// The window's name.
    pub window: String,
    /// Its first instant.
    pub start: DateTime<Utc>,
    /// The first instant behind it.
    pub end: DateTime<Utc>,
    /// The group; empty where the column is null, and where the window has none.
    pub group: String,
    /// How many events.
    pub events: i64,
    /// Its part of the window's events.
    pub share: Option<f64>,
    /// Of the events, late.
    pub late: i64,
    /// The mean of the followed column.
    pub mean: Option<f64>,
    /// Its maximum.
    pub maximum: Option<i64>,
    /// The part of the window's messages that could not become a row; null where the window has groups.
    pub error_rate: Option<f64>,
    /// Whether the watermark has passed its end.
    pub is_final: bool,
}

/// One group of a window over the last events.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StreamTop {
    /// The window's name.
    pub window: String,
    /// Its place; ties share one.
    pub place: i64,
    /// The group.
    pub group: String,
    /// How many of the last events.
    pub events: i64,
    /// Its part of them.
    pub share: f64,
}

/// A message that could not become a row.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StreamDeadLetter {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The time of the message.
    pub at: Option<DateTime<Utc>>,
    /// The rule that it broke.
    pub rule: String,
    /// What was expected and what was found.
    pub detail: String,
}
