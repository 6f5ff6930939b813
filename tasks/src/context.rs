//! What a running task may see and touch.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Connections, Orchestrator};

/// Everything one try gets to know. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Who runs.
    pub instance: Arc<Instance>,
    /// The task's own log; every line is kept and shown live.
    pub log: Log,
    /// Fires when the try must stop: time-out, cancel, lost lease, shutdown.
    pub cancel: CancellationToken,
    /// State that outlives the try.
    pub durable: Arc<dyn Durable>,
    /// The orchestrator's time and runs of other DAGs.
    pub orchestrator: Arc<dyn Orchestrator>,
    /// The connections that a `with` table may name.
    pub connections: Arc<dyn Connections>,
    /// What the last [`Outcome::Sleep`](crate::Outcome::Sleep) of this try left; `None` on its first execution.
    pub resume: Option<Value>,
}

/// The task instance a try belongs to.
#[derive(Debug, Clone, Serialize)]
pub struct Instance {
    /// The DAG.
    pub dag_id: String,
    /// The run's number.
    pub run_id: i64,
    /// The task.
    pub task_id: String,
    /// The task instance's number.
    pub instance_id: i64,
    /// 1 for the first try.
    pub try_number: i32,
    /// The run's logical date.
    pub logical_date: DateTime<Utc>,
    /// Start of the run's data interval, inclusive.
    pub data_interval_start: DateTime<Utc>,
    /// End of the run's data interval, exclusive.
    pub data_interval_end: DateTime<Utc>,
    /// The run's params, defaults filled in.
    pub params: Map<String, Value>,
}

impl Instance {
    /// The moment from which the run may run: when its data interval has ended, and not before its logical date.
    pub fn run_after(&self) -> DateTime<Utc> {
        self.data_interval_end.max(self.logical_date)
    }
}

/// Which stream a log line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// A child's standard output.
    Stdout,
    /// A child's standard error.
    Stderr,
    /// Pinwheel itself: what the kind says about its work.
    Task,
}

/// Where a task writes its log. Lines are kept in order; a full buffer slows the writer down and loses nothing.
#[derive(Debug, Clone)]
pub struct Log {
    lines: mpsc::Sender<(DateTime<Utc>, LogStream, String)>,
}

impl Log {
    /// A log and the receiver that stores its lines. `capacity` lines are buffered.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<(DateTime<Utc>, LogStream, String)>) {
        let (lines, receiver) = mpsc::channel(capacity);
        (Self { lines }, receiver)
    }

    /// Writes one line of the kind's own words.
    pub async fn say(&self, line: impl Into<String>) {
        self.line(LogStream::Task, line).await;
    }

    /// Writes one line. A line that comes after the try was given up is dropped.
    pub async fn line(&self, stream: LogStream, line: impl Into<String>) {
        let _given_up = self.lines.send((Utc::now(), stream, line.into())).await;
    }
}

/// State that outlives a try, kept by the orchestrator under the try's fence: a try whose lease was lost gets
/// [`DurableError::Fenced`] and changes nothing.
#[async_trait]
pub trait Durable: Send + Sync {
    /// Stores `value` under `name` for this task instance unless something is stored there already, and returns
    /// what is stored. It survives retries and clears: this is how a plan is frozen before anything is read.
    async fn freeze(&self, name: &str, value: Value) -> Result<Value, DurableError>;

    /// What [`Durable::freeze`] stored under `name`.
    async fn frozen(&self, name: &str) -> Result<Option<Value>, DurableError>;

    /// All positions of a cursor by partition, such as the next offset of every partition of a landed topic.
    async fn cursor(&self, cursor: &str) -> Result<BTreeMap<i32, CursorPosition>, DurableError>;

    /// Moves a cursor in one transaction, all partitions or none. A move applies when the cursor stands at its
    /// `from` (a partition without a row stands at the `from` of its first move). A cursor that `plan` has moved
    /// already is left alone and the call succeeds, so a retry whose first answer was lost is harmless.
    async fn advance(
        &self,
        cursor: &str,
        plan: &str,
        moves: &[CursorMove],
    ) -> Result<(), DurableError>;
}

/// Where a cursor stands in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorPosition {
    /// The next position to read.
    pub next: i64,
    /// The plan that moved it there.
    pub moved_by: String,
}

/// One step of a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorMove {
    /// The partition.
    pub partition: i32,
    /// Where the cursor must stand.
    pub from: i64,
    /// Where it stands afterwards.
    pub to: i64,
}

/// Why durable state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// This try no longer owns its task instance; stop, somebody else goes on.
    #[error("this try lost its lease; another worker owns the task now")]
    Fenced,
    /// A cursor stands somewhere else than the plan assumes: another run moved it.
    #[error(
        "cursor `{cursor}` of partition {partition} stands at {found}, the plan starts at {expected}"
    )]
    CursorMoved {
        /// The cursor's name.
        cursor: String,
        /// The partition.
        partition: i32,
        /// What the plan assumes.
        expected: i64,
        /// What is stored.
        found: i64,
    },
    /// The store cannot be reached; the try may be repeated.
    #[error("the orchestrator's store did not answer: {0}")]
    Unavailable(String),
}
