//! What the API answers. These shapes are a promise; the store's rows are not.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use pinwheel_scheduler::{
    model::{
        Dag as ModelDag, RunKind as ModelRunKind, RunState as ModelRunState,
        TaskState as ModelTaskState, TryOutcome,
        schedule::{Occurrence, Planned},
    },
    secrets::{ShownConnection, ShownVariable, Source as StoredSource},
    store::{
        self, ChannelRow, DagRow, DeadlineRow, ExecutionRow, InstanceRow, LogRow, MessageRow,
        MessageState as StoreMessageState, PoolRow, RunRow, TryRow, UnservedQueue as UnservedRow,
        WorkerRow, WorkerState as StoreWorkerState,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::datasets::DatasetSet;

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunState {
    Queued,
    Running,
    Success,
    Failed,
    Cancelled,
}

impl From<ModelRunState> for RunState {
    fn from(state: ModelRunState) -> Self {
        match state {
            ModelRunState::Queued => Self::Queued,
            ModelRunState::Running => Self::Running,
            ModelRunState::Success => Self::Success,
            ModelRunState::Failed => Self::Failed,
            ModelRunState::Cancelled => Self::Cancelled,
        }
    }
}

impl From<RunState> for ModelRunState {
    fn from(state: RunState) -> Self {
        match state {
            RunState::Queued => Self::Queued,
            RunState::Running => Self::Running,
            RunState::Success => Self::Success,
            RunState::Failed => Self::Failed,
            RunState::Cancelled => Self::Cancelled,
        }
    }
}

/// Why a run exists.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunKind {
    Scheduled,
    Manual,
    Backfill,
    Dataset,
}

impl From<ModelRunKind> for RunKind {
    fn from(kind: ModelRunKind) -> Self {
        match kind {
            ModelRunKind::Scheduled => Self::Scheduled,
            ModelRunKind::Manual => Self::Manual,
            ModelRunKind::Backfill => Self::Backfill,
            ModelRunKind::Dataset => Self::Dataset,
        }
    }
}

/// The state of a task of a run.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TaskState {
    Waiting,
    Queued,
    Running,
    Sleeping,
    Success,
    Failed,
    Skipped,
    UpstreamFailed,
    Cancelled,
}

impl From<ModelTaskState> for TaskState {
    fn from(state: ModelTaskState) -> Self {
        match state {
            ModelTaskState::Waiting => Self::Waiting,
            ModelTaskState::Queued => Self::Queued,
            ModelTaskState::Running => Self::Running,
            ModelTaskState::Sleeping => Self::Sleeping,
            ModelTaskState::Success => Self::Success,
            ModelTaskState::Failed => Self::Failed,
            ModelTaskState::Skipped => Self::Skipped,
            ModelTaskState::UpstreamFailed => Self::UpstreamFailed,
            ModelTaskState::Cancelled => Self::Cancelled,
        }
    }
}

/// A DAG.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Dag {
    #[schema(example = "pinterest_daily")]
    dag_id: String,
    /// Its file, relative to the DAG folder.
    file: String,
    /// The version that new runs get.
    version: i64,
    description: String,
    /// The schedule as the file says it; null is only by hand.
    schedule: Option<String>,
    paused: bool,
    /// False once its file is gone.
    present: bool,
    next_logical_date: Option<DateTime<Utc>>,
    next_fire_at: Option<DateTime<Utc>>,
    last_run: Option<LastRun>,
    /// How many runs are queued or running.
    open_runs: i64,
}

/// The newest run of a DAG.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LastRun {
    run_id: i64,
    state: RunState,
    logical_date: DateTime<Utc>,
}

impl From<DagRow> for Dag {
    fn from(row: DagRow) -> Self {
        Self {
            dag_id: row.dag_id.to_string(),
            file: row.file,
            version: row.version_id.0,
            description: row.description,
            schedule: row.schedule,
            paused: row.paused,
            present: row.present,
            next_logical_date: row.next_logical_date,
            next_fire_at: row.next_fire_at,
            last_run: row.last_run.map(|run| LastRun {
                run_id: run.run_id.0,
                state: run.state.into(),
                logical_date: run.logical_date,
            }),
            open_runs: row.open_runs,
        }
    }
}

/// What a DAG's file says around its schedule.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Timing {
    /// No scheduled logical date before this.
    start: Option<DateTime<Utc>>,
    /// No scheduled logical date after this.
    end: Option<DateTime<Utc>>,
    /// What becomes of ticks that passed unwatched: `none`, `latest` or `all`.
    #[schema(example = "none")]
    catchup: String,
    /// Ticks that passed unwatched longer ago are not made up for.
    catchup_window_seconds: Option<u64>,
    /// Runs are made later by up to so much.
    jitter_seconds: Option<u64>,
    /// What becomes of a tick while `max_active_runs` runs are open: `queue`, `skip` or `latest`.
    #[schema(example = "queue")]
    overlap: String,
}

impl From<&ModelDag> for Timing {
    fn from(dag: &ModelDag) -> Self {
        Self {
            start: dag.start,
            end: dag.end,
            catchup: dag.catchup.as_str().to_owned(),
            catchup_window_seconds: dag.catchup_window.map(|window| window.as_secs()),
            jitter_seconds: dag.jitter.map(|jitter| jitter.as_secs()),
            overlap: dag.overlap.as_str().to_owned(),
        }
    }
}

/// A run that the schedule will make.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NextRun {
    /// The start of the data interval.
    logical_date: DateTime<Utc>,
    /// Inclusive.
    data_interval_start: DateTime<Utc>,
    /// Exclusive: the tick that closes it.
    data_interval_end: DateTime<Utc>,
    /// When the run is made: at the tick, or with jitter a little later.
    fires_at: DateTime<Utc>,
    /// The tick on the clock of the schedule's zone.
    #[schema(example = "2026-03-29T02:00:00+01:00")]
    local: String,
    /// What a change of that clock does to the tick, in words.
    #[schema(example = "01:30 does not exist on this day, runs at 02:00")]
    clock_change: Option<String>,
}

impl From<(Planned, Occurrence)> for NextRun {
    fn from((planned, tick): (Planned, Occurrence)) -> Self {
        Self {
            logical_date: planned.interval.logical_date(),
            data_interval_start: planned.interval.start,
            data_interval_end: planned.interval.end,
            fires_at: planned.fires_at,
            local: tick.local.to_rfc3339(),
            clock_change: tick.mark.map(|mark| mark.to_string()),
        }
    }
}

/// The runs that the schedule will make, soonest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NextRuns {
    /// The schedule in words; null is only by hand.
    pub(crate) schedule_words: Option<String>,
    /// Whether the DAG is paused: then they are not made.
    pub(crate) paused: bool,
    pub(crate) next_runs: Vec<NextRun>,
}

/// Ticks, one after the other, that made no run because of `overlap = "skip"`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SkippedTicks {
    first_tick: DateTime<Utc>,
    last_tick: DateTime<Utc>,
    /// How many they are.
    ticks: i64,
    /// How many runs were queued or running when the last one came due.
    open_runs: i32,
    max_active_runs: i32,
    skipped_at: DateTime<Utc>,
}

impl From<store::SkippedTicks> for SkippedTicks {
    fn from(row: store::SkippedTicks) -> Self {
        Self {
            first_tick: row.first_tick,
            last_tick: row.last_tick,
            ticks: row.ticks,
            open_runs: row.open_runs,
            max_active_runs: row.max_active_runs,
            skipped_at: row.skipped_at,
        }
    }
}

/// A DAG with its definition.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DagDetail {
    #[serde(flatten)]
    pub(crate) dag: Dag,
    /// The schedule in words.
    pub(crate) schedule_words: Option<String>,
    pub(crate) timing: Timing,
    /// The next five runs by the schedule.
    pub(crate) next_runs: Vec<NextRun>,
    /// The newest ticks that made no run because of `overlap = "skip"`, newest first.
    pub(crate) skipped_ticks: Vec<SkippedTicks>,
    pub(crate) max_active_runs: u32,
    /// The params a run takes, by name.
    #[schema(value_type = Object)]
    pub(crate) params: Value,
    /// What it waits for, if a set of datasets makes it run.
    pub(crate) datasets: Option<DatasetSet>,
    /// In topological order.
    pub(crate) tasks: Vec<DagTask>,
}

/// A task of a DAG.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DagTask {
    pub(crate) task_id: String,
    pub(crate) kind: String,
    /// The tasks directly above it.
    pub(crate) after: Vec<String>,
    pub(crate) trigger_rule: String,
    pub(crate) retries: u32,
    pub(crate) pool: String,
    pub(crate) queue: String,
    /// The datasets it updates when it succeeds.
    pub(crate) outlets: Vec<String>,
    /// The kind's own table as the file has it.
    #[schema(value_type = Object)]
    pub(crate) with: Map<String, Value>,
}

/// DAGs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Dags {
    pub(crate) dags: Vec<Dag>,
    /// Files with errors; the last good version of their DAG goes on.
    pub(crate) file_errors: Vec<FileError>,
}

/// A DAG file with errors.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileError {
    pub(crate) file: String,
    /// What `pinwheel dags check` prints.
    pub(crate) report: String,
    pub(crate) errors: i32,
}

/// A run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Run {
    run_id: i64,
    dag_id: String,
    /// The version it is pinned to.
    version: i64,
    kind: RunKind,
    state: RunState,
    logical_date: DateTime<Utc>,
    /// Inclusive.
    data_interval_start: DateTime<Utc>,
    /// Exclusive.
    data_interval_end: DateTime<Utc>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    triggered_by: String,
    /// Why it is in its state, where its tasks do not say so: it was marked, took too long, or was overtaken.
    reason: Option<String>,
    /// Defaults filled in.
    #[schema(value_type = Object)]
    params: Map<String, Value>,
}

impl From<RunRow> for Run {
    fn from(row: RunRow) -> Self {
        Self {
            run_id: row.run_id.0,
            dag_id: row.dag_id.to_string(),
            version: row.version_id.0,
            kind: row.kind.into(),
            state: row.state.into(),
            logical_date: row.logical_date,
            data_interval_start: row.data_interval_start,
            data_interval_end: row.data_interval_end,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            triggered_by: row.triggered_by,
            reason: row.reason,
            params: row.params,
        }
    }
}

/// Runs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Runs {
    pub(crate) runs: Vec<Run>,
    /// Give it as `before` to get the next page; null on the last.
    pub(crate) next_before: Option<i64>,
}

/// A task of a run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Task {
    run_id: i64,
    task_id: String,
    /// -1 for a task that is not mapped.
    map_index: i32,
    /// What the item of a mapped task is called.
    item_name: Option<String>,
    kind: String,
    state: TaskState,
    /// What it waits for, when it sleeps.
    sleep_note: Option<String>,
    wake_at: Option<DateTime<Utc>>,
    /// Tries begun.
    tries: i32,
    /// How many may begin before a failure is final.
    tries_allowed: i32,
    queued_at: Option<DateTime<Utc>>,
    /// When its newest try began.
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    /// What its newest ended try said, when it did not succeed.
    reason: Option<String>,
    /// The worker that has it, while it runs.
    worker: Option<String>,
}

impl From<InstanceRow> for Task {
    fn from(row: InstanceRow) -> Self {
        Self {
            run_id: row.run_id.0,
            task_id: row.task_id.to_string(),
            map_index: row.map_index,
            item_name: row.item_name,
            kind: row.kind,
            state: row.state.into(),
            sleep_note: row.sleep_note,
            wake_at: row.wake_at,
            tries: row.tries,
            tries_allowed: row.tries_allowed,
            queued_at: row.queued_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            reason: row.reason,
            worker: row.worker,
        }
    }
}

/// The tasks of a run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tasks {
    pub(crate) tasks: Vec<Task>,
}

/// A task of a run with its ended tries.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TaskDetail {
    #[serde(flatten)]
    pub(crate) task: Task,
    /// Oldest first.
    pub(crate) executions: Vec<Execution>,
}

/// One ended execution of a try. A try that slept has several.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Execution {
    #[serde(rename = "try")]
    try_number: i32,
    worker: String,
    started_at: DateTime<Utc>,
    finished_at: DateTime<Utc>,
    /// `success`, `failed`, `skipped`, `cancelled`, `lost`, `timeout` or `slept`.
    outcome: &'static str,
    reason: Option<String>,
    hint: Option<String>,
    exit_code: Option<i32>,
}

impl From<TryRow> for Execution {
    fn from(row: TryRow) -> Self {
        Self {
            try_number: row.try_number,
            worker: row.worker,
            started_at: row.started_at,
            finished_at: row.finished_at,
            outcome: match row.outcome {
                None => "slept",
                Some(TryOutcome::Success) => "success",
                Some(TryOutcome::Failed) => "failed",
                Some(TryOutcome::Skipped) => "skipped",
                Some(TryOutcome::Cancelled) => "cancelled",
                Some(TryOutcome::Lost) => "lost",
                Some(TryOutcome::Timeout) => "timeout",
            },
            reason: row.reason,
            hint: row.hint,
            exit_code: row.exit_code,
        }
    }
}

/// Lines of a log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Log {
    pub(crate) lines: Vec<LogLine>,
    /// Give it as `after` to get the lines that follow.
    pub(crate) next_after: String,
}

/// One line of a log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LogLine {
    #[serde(rename = "try")]
    try_number: i32,
    at: DateTime<Utc>,
    /// `stdout`, `stderr` or `task` (Pinwheel's own words).
    stream: String,
    message: String,
}

impl From<LogRow> for LogLine {
    fn from(row: LogRow) -> Self {
        Self {
            try_number: row.try_number,
            at: row.at,
            stream: row.stream,
            message: row.message,
        }
    }
}

/// What was cleared, or would be.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cleared {
    pub(crate) run_id: i64,
    /// The tasks that run again, in topological order.
    pub(crate) tasks: Vec<String>,
    /// The same with the states they are taken back from, one for each item of a mapped task.
    instances: Vec<ClearedTask>,
    /// How the run moves to another version; null when it stays.
    moved: Option<Moved>,
}

/// A task that is taken back.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClearedTask {
    task_id: String,
    /// -1 for a task that is not mapped.
    map_index: i32,
    /// The state it is taken back from.
    state: TaskState,
    /// Tries begun so far.
    tries: i32,
}

/// How a run moves to another version of its DAG.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Moved {
    from: i64,
    to: i64,
    /// Tasks that the run gets.
    added: Vec<String>,
    /// Tasks that the new version does not have; what became of them stays as it is.
    removed: Vec<String>,
}

fn names(tasks: &[pinwheel_scheduler::model::TaskId]) -> Vec<String> {
    tasks.iter().map(ToString::to_string).collect()
}

impl
    From<(
        pinwheel_scheduler::model::RunId,
        pinwheel_scheduler::store::Cleared,
    )> for Cleared
{
    fn from(
        (run, cleared): (
            pinwheel_scheduler::model::RunId,
            pinwheel_scheduler::store::Cleared,
        ),
    ) -> Self {
        Self {
            run_id: run.0,
            tasks: names(&cleared.tasks),
            instances: cleared
                .instances
                .into_iter()
                .map(|instance| ClearedTask {
                    task_id: instance.task_id.to_string(),
                    map_index: instance.map_index,
                    state: instance.state.into(),
                    tries: instance.tries,
                })
                .collect(),
            moved: cleared.moved.map(|moved| Moved {
                from: moved.from.0,
                to: moved.to.0,
                added: names(&moved.added),
                removed: names(&moved.removed),
            }),
        }
    }
}

/// What was marked.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Marked {
    pub(crate) run_id: i64,
    /// The run's state now.
    run_state: RunState,
    /// The tasks whose state was changed, in topological order.
    tasks: Vec<String>,
    /// How many executions were stopped.
    stopped: i64,
    /// The tasks downstream that are decided anew.
    decided_anew: Vec<String>,
}

impl
    From<(
        pinwheel_scheduler::model::RunId,
        pinwheel_scheduler::store::Marked,
    )> for Marked
{
    fn from(
        (run, marked): (
            pinwheel_scheduler::model::RunId,
            pinwheel_scheduler::store::Marked,
        ),
    ) -> Self {
        Self {
            run_id: run.0,
            run_state: marked.run_state.into(),
            tasks: names(&marked.tasks),
            stopped: marked.stopped,
            decided_anew: names(&marked.decided_anew),
        }
    }
}

/// Why a task is where it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Why {
    run_id: i64,
    task_id: String,
    map_index: i32,
    state: TaskState,
    /// All of it in one sentence.
    #[schema(example = "pool `cpu` has 0 of 4 slots free")]
    sentence: String,
    /// The same in parts: each has a word `because` and its numbers.
    #[schema(value_type = Vec<Object>)]
    because: Vec<pinwheel_scheduler::store::Because>,
    /// The next step, where there is one.
    hint: Option<String>,
}

impl From<pinwheel_scheduler::store::Why> for Why {
    fn from(why: pinwheel_scheduler::store::Why) -> Self {
        Self {
            run_id: why.run_id.0,
            task_id: why.task_id.to_string(),
            map_index: why.map_index,
            state: why.state.into(),
            sentence: why.sentence,
            because: why.because,
            hint: why.hint,
        }
    }
}

/// The notes of a run and its tasks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Notes {
    pub(crate) notes: Vec<Note>,
}

/// A note.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Note {
    /// Null for the run itself.
    task_id: Option<String>,
    map_index: Option<i32>,
    note: String,
    written_by: String,
    written_at: DateTime<Utc>,
}

impl From<pinwheel_scheduler::store::NoteRow> for Note {
    fn from(row: pinwheel_scheduler::store::NoteRow) -> Self {
        Self {
            task_id: row.task_id.map(|task_id| task_id.to_string()),
            map_index: row.map_index,
            note: row.note,
            written_by: row.written_by,
            written_at: row.written_at,
        }
    }
}

/// A pool.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pool {
    #[schema(example = "cpu")]
    pool: String,
    /// Null is no limit.
    slots: Option<i32>,
    description: String,
    /// How many slots its running tasks take; more than it has after it was made smaller.
    used: i64,
    /// How many tasks run in it.
    running: i64,
    /// How many tasks wait in it and could run.
    ready: i64,
    /// How many tasks of current DAG versions name it.
    tasks: i64,
    /// The DAGs of these tasks.
    dags: Vec<String>,
}

impl From<PoolRow> for Pool {
    fn from(row: PoolRow) -> Self {
        Self {
            pool: row.pool.to_string(),
            slots: row.slots,
            description: row.description,
            used: row.used,
            running: row.running,
            ready: row.ready,
            tasks: row.tasks,
            dags: row.dags.iter().map(ToString::to_string).collect(),
        }
    }
}

/// All pools.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pools {
    pub(crate) pools: Vec<Pool>,
}

/// Where a connection or a variable comes from.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    Database,
    /// The environment of the process that answers.
    Environment,
    /// The same, and there is one of that name in the database, which it hides.
    EnvironmentOverDatabase,
}

impl From<StoredSource> for Source {
    fn from(source: StoredSource) -> Self {
        match source {
            StoredSource::Database => Self::Database,
            StoredSource::Environment => Self::Environment,
            StoredSource::EnvironmentOverDatabase => Self::EnvironmentOverDatabase,
        }
    }
}

/// A connection, without its secrets.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Connection {
    #[schema(example = "warehouse")]
    connection_id: String,
    #[serde(rename = "type")]
    #[schema(example = "postgres")]
    connection_type: String,
    host: Option<String>,
    port: Option<u16>,
    login: Option<String>,
    /// Whether it has a password, which is never shown.
    has_password: bool,
    schema: Option<String>,
    /// The names in `extra`; its values are never shown.
    extra: Vec<String>,
    description: String,
    source: Source,
    updated_at: Option<DateTime<Utc>>,
    /// Why it cannot be read here, such as a key that this process does not have.
    problem: Option<String>,
}

impl From<ShownConnection> for Connection {
    fn from(shown: ShownConnection) -> Self {
        Self {
            connection_id: shown.connection_id,
            connection_type: shown.connection_type,
            host: shown.host,
            port: shown.port,
            login: shown.login,
            has_password: shown.has_password,
            schema: shown.schema,
            extra: shown.extra,
            description: shown.description,
            source: shown.source.into(),
            updated_at: shown.updated_at,
            problem: shown.problem,
        }
    }
}

/// All connections.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Connections {
    pub(crate) connections: Vec<Connection>,
}

/// What a test of a connection found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConnectionTested {
    pub(crate) ok: bool,
    /// What answered, or why it does not work.
    pub(crate) message: String,
}

/// A variable.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Variable {
    #[schema(example = "region")]
    name: String,
    /// Text or any JSON. Null for a secret, which is never shown.
    value: Option<Value>,
    secret: bool,
    description: String,
    source: Source,
    updated_at: Option<DateTime<Utc>>,
    /// Why it cannot be read here.
    problem: Option<String>,
}

impl From<ShownVariable> for Variable {
    fn from(shown: ShownVariable) -> Self {
        Self {
            name: shown.name,
            value: shown.value,
            secret: shown.secret,
            description: shown.description,
            source: shown.source.into(),
            updated_at: shown.updated_at,
            problem: shown.problem,
        }
    }
}

/// All variables.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Variables {
    pub(crate) variables: Vec<Variable>,
}

/// How a process of the engine does.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerState {
    /// It renews its lease.
    Alive,
    /// It was asked to stop and claims nothing more.
    Stopping,
    /// Its lease ended without a word: its tasks run elsewhere.
    Lost,
    /// It ended in good order.
    Ended,
}

impl From<StoreWorkerState> for WorkerState {
    fn from(state: StoreWorkerState) -> Self {
        match state {
            StoreWorkerState::Alive => Self::Alive,
            StoreWorkerState::Stopping => Self::Stopping,
            StoreWorkerState::Lost => Self::Lost,
            StoreWorkerState::Ended => Self::Ended,
        }
    }
}

/// What a process of the engine does.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerRole {
    Scheduler,
    Worker,
}

/// A process of the engine: a worker, a scheduler, or both.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Worker {
    worker_id: i64,
    #[schema(example = "host-1-4711")]
    name: String,
    version: String,
    state: WorkerState,
    roles: Vec<WorkerRole>,
    /// The queues it serves.
    queues: Vec<String>,
    /// From its settings.
    labels: BTreeMap<String, String>,
    /// How many tasks it runs at once; 0 for a scheduler alone.
    slots: i32,
    /// How many it ran at its last heartbeat.
    running: i32,
    /// The load average of its machine over one minute; null where the system does not tell, as the next two.
    load_average: Option<f32>,
    /// Its resident memory.
    memory_bytes: Option<i64>,
    /// How many cores it has used since the heartbeat before.
    cpu_cores: Option<f32>,
    started_at: DateTime<Utc>,
    /// Its last heartbeat.
    seen_at: DateTime<Utc>,
    /// When its lease ends unless it renews it.
    lease_until: DateTime<Utc>,
    /// When it was asked to stop.
    stopping_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
}

impl From<WorkerRow> for Worker {
    fn from(row: WorkerRow) -> Self {
        let mut roles = Vec::new();
        if row.is_scheduler {
            roles.push(WorkerRole::Scheduler);
        }
        if row.works() {
            roles.push(WorkerRole::Worker);
        }
        Self {
            worker_id: row.worker_id.0,
            name: row.name,
            version: row.version,
            state: row.state.into(),
            roles,
            queues: row.queues,
            labels: row.labels,
            slots: row.slots,
            running: row.running,
            load_average: row.load.load_average,
            memory_bytes: row.load.memory_bytes,
            cpu_cores: row.load.cpu_cores,
            started_at: row.started_at,
            seen_at: row.seen_at,
            lease_until: row.lease_until,
            stopping_at: row.stopping_at,
            ended_at: row.ended_at,
        }
    }
}

/// A queue in which tasks wait though no worker serves it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UnservedQueue {
    queue: String,
    /// How many tasks wait.
    ready: i64,
}

impl From<UnservedRow> for UnservedQueue {
    fn from(row: UnservedRow) -> Self {
        Self {
            queue: row.queue,
            ready: row.ready,
        }
    }
}

/// Processes of the engine, those that live first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Workers {
    pub(crate) workers: Vec<Worker>,
    pub(crate) unserved_queues: Vec<UnservedQueue>,
}

/// A process of the engine with what it runs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkerDetail {
    #[serde(flatten)]
    pub(crate) worker: Worker,
    /// Longest first.
    pub(crate) executions: Vec<RunningTask>,
}

/// A task that runs now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RunningTask {
    dag_id: String,
    run_id: i64,
    task_id: String,
    /// -1 for a task that is not mapped.
    map_index: i32,
    #[serde(rename = "try")]
    try_number: i32,
    started_at: Option<DateTime<Utc>>,
    pool: String,
    queue: String,
}

impl From<ExecutionRow> for RunningTask {
    fn from(row: ExecutionRow) -> Self {
        Self {
            dag_id: row.dag_id.to_string(),
            run_id: row.run_id.0,
            task_id: row.task_id.to_string(),
            map_index: row.map_index,
            try_number: row.tries,
            started_at: row.started_at,
            pool: row.pool,
            queue: row.queue,
        }
    }
}

/// Channels and messages.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Notifications {
    pub(crate) channels: Vec<Channel>,
    /// Newest first.
    pub(crate) messages: Vec<Message>,
    /// Give it as `before` for the next page; null on the last.
    pub(crate) next_before: Option<i64>,
}

/// Where messages can go to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Channel {
    channel: String,
    /// `webhook`, `slack` or `email`; null when a DAG file names it and no scheduler has it in its settings.
    kind: Option<String>,
    /// Where it leads, without anything secret.
    target: String,
    /// Whether the last delivery failed.
    failing: bool,
    last_error: Option<String>,
    delivered_at: Option<DateTime<Utc>>,
    failed_at: Option<DateTime<Utc>>,
    /// Messages on their way to it.
    waiting: i64,
}

impl From<ChannelRow> for Channel {
    fn from(row: ChannelRow) -> Self {
        Self {
            channel: row.channel,
            kind: row.kind,
            target: row.target,
            failing: row.failing,
            last_error: row.last_error,
            delivered_at: row.delivered_at,
            failed_at: row.failed_at,
            waiting: row.waiting,
        }
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MessageState {
    Waiting,
    Failing,
    Delivered,
    GivenUp,
}

impl From<StoreMessageState> for MessageState {
    fn from(state: StoreMessageState) -> Self {
        match state {
            StoreMessageState::Waiting => Self::Waiting,
            StoreMessageState::Failing => Self::Failing,
            StoreMessageState::Delivered => Self::Delivered,
            StoreMessageState::GivenUp => Self::GivenUp,
        }
    }
}

/// A message to people.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Message {
    message: i64,
    dag_id: String,
    /// `failure`, `retry`, `success`, `deadline` or `recovery`.
    #[schema(example = "failure")]
    event: String,
    channel: String,
    state: MessageState,
    /// For how many notifications it stands.
    count: i32,
    /// The run of the first of them; null when it is about the DAG.
    run_id: Option<i64>,
    /// What is known of the first of them.
    #[schema(value_type = Object)]
    detail: Value,
    made_at: DateTime<Utc>,
    /// When it is tried next; null when it is over.
    next_at: Option<DateTime<Utc>>,
    attempts: i32,
    delivered_at: Option<DateTime<Utc>>,
    given_up_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
}

impl From<MessageRow> for Message {
    fn from(row: MessageRow) -> Self {
        Self {
            message: row.message_id.0,
            state: row.state().into(),
            dag_id: row.dag_id.to_string(),
            event: row.event.to_string(),
            channel: row.channel,
            count: row.count,
            run_id: row.run_id.map(|run| run.0),
            detail: row.detail,
            made_at: row.made_at,
            next_at: row.next_at,
            attempts: row.attempts,
            delivered_at: row.delivered_at,
            given_up_at: row.given_up_at,
            last_error: row.last_error,
        }
    }
}

/// The deadlines of a run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Deadlines {
    pub(crate) deadlines: Vec<Deadline>,
}

/// A deadline of a run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Deadline {
    name: String,
    /// The task that must be done by then; null is the run.
    task_id: Option<String>,
    due_at: DateTime<Utc>,
    /// `pending`, `met`, `missed` or `cancelled`.
    #[schema(example = "missed")]
    state: String,
    /// When that was known.
    settled_at: Option<DateTime<Utc>>,
}

impl From<DeadlineRow> for Deadline {
    fn from(row: DeadlineRow) -> Self {
        Self {
            name: row.name,
            task_id: row.task_id.map(|task| task.to_string()),
            due_at: row.due_at,
            state: row.state,
            settled_at: row.settled_at,
        }
    }
}
