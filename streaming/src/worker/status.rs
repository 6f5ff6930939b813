//! What a stream's worker says of itself: for metrics, the pages and whoever asks in the same process.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What a worker is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not yet reading.
    #[default]
    Starting,
    /// Reading and committing.
    Running,
    /// Something cannot be reached, or the topic does not exist; it goes on by itself.
    Waiting,
    /// Stopped because somebody must decide.
    Failed,
    /// Stopped because it was asked to.
    Stopped,
}

impl State {
    /// The word that is stored and shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// Where one partition stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: i32,
    /// The generation under which this worker owns it.
    pub generation: i64,
    /// The next offset to read; everything before it is committed.
    pub next_offset: i64,
    /// The end of the partition (its last stable offset) as last seen.
    pub end_offset: Option<i64>,
    /// How many offsets it is behind.
    pub lag: Option<i64>,
    /// The event time it has passed.
    pub watermark: Option<DateTime<Utc>>,
}

/// A snapshot of a worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// What is wrong, for people.
    pub problem: Option<String>,
    /// The partitions it owns, by number.
    pub partitions: Vec<PartitionStatus>,
    /// Events committed since the worker started.
    pub events: u64,
    /// Of them, kept as dead letters.
    pub dead_letters: u64,
    /// Of them, behind the watermark.
    pub late: u64,
    /// Of them, left out of a window because they came too late.
    pub dropped: u64,
    /// Events committed in the last second.
    pub events_per_second: f64,
    /// When the last batch was committed.
    pub last_commit: Option<DateTime<Utc>>,
}

impl Status {
    /// How many offsets the worker is behind over all partitions; `None` while the end of one is not known.
    pub fn lag(&self) -> Option<i64> {
        self.partitions.iter().map(|partition| partition.lag).sum()
    }

    /// The event time that every partition with events has passed.
    pub fn watermark(&self) -> Option<DateTime<Utc>> {
        self.partitions
            .iter()
            .filter_map(|partition| partition.watermark)
            .min()
    }

    pub(super) fn partitions_json(&self) -> serde_json::Value {
        serde_json::to_value(&self.partitions).expect("plain numbers and times are JSON")
    }
}
