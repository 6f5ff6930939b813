//! What the store answers to people: read models for pages, the API and the command line.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{
    DagId, InstanceId, Params, RunId, RunKind, RunState, SleepReason, TaskId, TaskState,
    TryOutcome, VersionId, WorkerId,
};

/// One DAG as lists show it.
#[derive(Debug, Clone, Serialize)]
pub struct DagRow {
    /// The DAG.
    pub dag_id: DagId,
    /// The file it was last read from.
    pub file: String,
    /// The version new runs get.
    pub version_id: VersionId,
    /// One sentence for people.
    pub description: String,
    /// The schedule in the words of the file; `None` is only by hand.
    pub schedule: Option<String>,
    /// No scheduled runs while paused.
    pub paused: bool,
    /// False once its file is gone.
    pub present: bool,
    /// The logical date of the next scheduled run.
    pub next_logical_date: Option<DateTime<Utc>>,
    /// When that run is made.
    pub next_fire_at: Option<DateTime<Utc>>,
    /// Its newest run.
    pub last_run: Option<RunSummary>,
    /// How many runs are queued or running.
    pub open_runs: i64,
}

/// The little of a run that a list of DAGs shows.
#[derive(Debug, Clone, Serialize)]
pub struct RunSummary {
    /// The run.
    pub run_id: RunId,
    /// Its state.
    pub state: RunState,
    /// Its logical date.
    pub logical_date: DateTime<Utc>,
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct RunRow {
    /// The run.
    pub run_id: RunId,
    /// Its DAG.
    pub dag_id: DagId,
    /// The version it is pinned to.
    pub version_id: VersionId,
    /// Why it exists.
    pub kind: RunKind,
    /// Its state.
    pub state: RunState,
    /// Its logical date.
    pub logical_date: DateTime<Utc>,
    /// Start of its data interval, inclusive.
    pub data_interval_start: DateTime<Utc>,
    /// End of its data interval, exclusive.
    pub data_interval_end: DateTime<Utc>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its first tasks could run.
    pub started_at: Option<DateTime<Utc>>,
    /// When it became final.
    pub finished_at: Option<DateTime<Utc>>,
    /// Who or what asked for it.
    pub triggered_by: String,
    /// Its params, defaults filled in.
    pub params: Params,
}

/// Which runs to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Only of this DAG.
    pub dag_id: Option<DagId>,
    /// Only in one of these states; empty is any.
    pub states: Vec<RunState>,
    /// Only runs before this one (for the next page).
    pub before: Option<RunId>,
    /// At most so many, 1 to 500.
    pub limit: i64,
}

/// One task instance.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceRow {
    /// The task instance.
    pub instance_id: InstanceId,
    /// Its run.
    pub run_id: RunId,
    /// Its task.
    pub task_id: TaskId,
    /// The task's place in the version's topological order.
    pub ordinal: i32,
    /// -1 for a task that is not mapped.
    pub map_index: i32,
    /// The kind of task.
    pub kind: String,
    /// Its state.
    pub state: TaskState,
    /// Why it sleeps, when it does.
    pub sleep_reason: Option<SleepReason>,
    /// What it waits for in words, when it sleeps.
    pub sleep_note: Option<String>,
    /// When it wakes, when it sleeps.
    pub wake_at: Option<DateTime<Utc>>,
    /// Tries begun.
    pub tries: i32,
    /// How many may begin before a failure is final.
    pub tries_allowed: i32,
    /// When it could first be claimed.
    pub queued_at: Option<DateTime<Utc>>,
    /// When its newest try began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it became final.
    pub finished_at: Option<DateTime<Utc>>,
    /// What the newest ended try said, when it did not succeed.
    pub reason: Option<String>,
    /// The worker that has it, while it runs.
    pub worker: Option<String>,
}

/// One ended execution of a try.
#[derive(Debug, Clone, Serialize)]
pub struct TryRow {
    /// 1 for the first try.
    pub try_number: i32,
    /// The claim it ran under.
    pub epoch: i32,
    /// The worker it ran on.
    pub worker: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// How it ended; `None` when it went to sleep.
    pub outcome: Option<TryOutcome>,
    /// What it said.
    pub reason: Option<String>,
    /// The next step it named.
    pub hint: Option<String>,
    /// The exit code of its child process.
    pub exit_code: Option<i32>,
}

/// A place in a task instance's log; lines after it are the next ones to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPosition {
    /// The claim.
    pub epoch: i32,
    /// The line within it; lines count from 1.
    pub line: i32,
}

/// One line of a task's log.
#[derive(Debug, Clone, Serialize)]
pub struct LogRow {
    /// Where it stands.
    #[serde(flatten)]
    pub position: LogPosition,
    /// The try it belongs to.
    pub try_number: i32,
    /// When it was written, by the worker's clock.
    pub at: DateTime<Utc>,
    /// `stdout`, `stderr` or `task`.
    pub stream: String,
    /// The text.
    pub message: String,
}

/// A DAG file with errors; the last good version of its DAG goes on running.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileErrorRow {
    /// The file, relative to the DAG folder.
    pub file: String,
    /// What `pinwheel dags check` prints, without colour.
    pub report: String,
    /// How many errors.
    pub error_count: i32,
}

/// A worker process.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerRow {
    /// Its lease.
    pub worker_id: WorkerId,
    /// Host name and process id.
    pub name: String,
    /// Its version of Pinwheel.
    pub version: String,
    /// The queues it serves.
    pub queues: Vec<String>,
    /// How many tasks it runs at once.
    pub slots: i32,
    /// How many it runs now.
    pub running: i32,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When its lease ends unless it renews it.
    pub lease_until: DateTime<Utc>,
}

/// What the first page shows.
#[derive(Debug, Clone, Serialize)]
pub struct Home {
    /// Files with errors.
    pub file_errors: Vec<FileErrorRow>,
    /// Runs that failed in the last 24 hours and have not been cleared, newest first, at most 20.
    pub failed_runs: Vec<RunRow>,
    /// Queued and running runs, newest first, at most 20.
    pub open_runs: Vec<RunRow>,
    /// The newest final runs, at most 20.
    pub recent_runs: Vec<RunRow>,
    /// Scheduled runs that come next, at most 10.
    pub next_runs: Vec<DagRow>,
    /// Live workers.
    pub workers: Vec<WorkerRow>,
}

/// A run to make.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Of which DAG.
    pub dag_id: DagId,
    /// Why.
    pub kind: RunKind,
    /// Its logical date; `None` is now.
    pub logical_date: Option<DateTime<Utc>>,
    /// Params as given; checked against the current version and completed with its defaults.
    pub params: Params,
    /// Who asks, for people.
    pub triggered_by: String,
}

/// What to clear: the chosen task instances go back to `waiting` and run again.
#[derive(Debug, Clone)]
pub struct ClearRequest {
    /// In which run.
    pub run_id: RunId,
    /// Which tasks.
    pub selection: ClearSelection,
    /// What goes with them.
    pub scope: ClearScope,
    /// Who asks, for people.
    pub actor: String,
}

/// Which tasks a clear begins with.
#[derive(Debug, Clone)]
pub enum ClearSelection {
    /// Every task of the run.
    WholeRun,
    /// Those that failed, were cancelled or could not run because of a failure above.
    Failed,
    /// These.
    Tasks(Vec<TaskId>),
}

/// What goes along with the tasks a clear begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClearScope {
    /// Nothing else.
    Only,
    /// Everything downstream of them.
    WithDownstream,
}

/// What a clear did.
#[derive(Debug, Clone, Serialize)]
pub struct Cleared {
    /// The tasks that will run again, in topological order.
    pub tasks: Vec<TaskId>,
}

/// A task's output as stored.
pub type Output = Value;
