//! What the store answers to people: read models for pages, the API and the command line.

use std::{collections::BTreeMap, num::NonZeroU32};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{
    Dag, DagId, DatasetName, InstanceId, Params, PoolName, RunId, RunKind, RunState, SleepReason,
    TaskId, TaskState, TryOutcome, VersionId, WorkerId,
    schedule::{Occurrence, Past, Planned},
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
    /// The last tick about which the schedule has decided.
    pub last_tick: Option<DateTime<Utc>>,
    /// When the present schedule was first seen; earlier ticks are not made up for.
    pub schedule_since: DateTime<Utc>,
    /// Its newest run.
    pub last_run: Option<RunSummary>,
    /// How many runs are queued or running.
    pub open_runs: i64,
}

impl DagRow {
    /// The runs that the schedule will make after `from` while somebody watches, by the DAG's present definition; none when
    /// its file is gone.
    pub fn upcoming(
        &self,
        dag: &Dag,
        from: DateTime<Utc>,
        count: usize,
    ) -> Vec<(Planned, Occurrence)> {
        // Whoever asks about the past wants to know the ticks, not what has become of them.
        let past = Past {
            last_tick: self.last_tick.filter(|last| *last <= from),
            since: self.schedule_since.min(from),
            watched_since: from,
        };
        dag.timetable()
            .filter(|_| self.present)
            .map(|timetable| timetable.upcoming(&past, from, count))
            .unwrap_or_default()
    }
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
    /// Why it is in its state, where its tasks do not say so: it was marked, took too long, or was overtaken.
    pub reason: Option<String>,
    /// Its params, defaults filled in.
    pub params: Params,
}

/// Ticks, one after the other, that made no run because of `overlap = "skip"`.
#[derive(Debug, Clone, Serialize)]
pub struct SkippedTicks {
    /// The first of them.
    pub first_tick: DateTime<Utc>,
    /// The last of them.
    pub last_tick: DateTime<Utc>,
    /// How many they are.
    pub ticks: i64,
    /// How many runs were queued or running when the last one came due.
    pub open_runs: i32,
    /// How many may.
    pub max_active_runs: i32,
    /// When the last one came due.
    pub skipped_at: DateTime<Utc>,
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
    /// What the item of a mapped task is called.
    pub item_name: Option<String>,
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

/// A DAG file with errors; the last good version of its DAG, if there is one, goes on running.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileErrorRow {
    /// The file, relative to the DAG folder.
    pub file: String,
    /// What `pinwheel dags check` prints, without colour.
    pub report: String,
    /// How many errors.
    pub error_count: i32,
}

/// A process of the engine.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerRow {
    /// Its lease.
    pub worker_id: WorkerId,
    /// Host name and process id.
    pub name: String,
    /// Its version of Pinwheel.
    pub version: String,
    /// Whether it lives, as far as its lease tells.
    pub state: WorkerState,
    /// It runs the scheduler's loops.
    pub is_scheduler: bool,
    /// The queues it serves, if it runs tasks.
    pub queues: Vec<String>,
    /// What its settings say about it.
    pub labels: BTreeMap<String, String>,
    /// How many tasks it runs at once; 0 for a scheduler alone.
    pub slots: i32,
    /// How many it ran at its last heartbeat.
    pub running: i32,
    /// What its last heartbeat said of its load.
    pub load: Load,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// Its last heartbeat.
    pub seen_at: DateTime<Utc>,
    /// When its lease ends unless it renews it.
    pub lease_until: DateTime<Utc>,
    /// When it was asked to stop; it claims nothing since.
    pub stopping_at: Option<DateTime<Utc>>,
    /// When its lease ended.
    pub ended_at: Option<DateTime<Utc>>,
}

impl WorkerRow {
    /// Whether it runs tasks; a scheduler alone does not.
    pub fn works(&self) -> bool {
        self.slots > 0
    }
}

/// How a process of the engine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum WorkerState {
    /// It renews its lease.
    Alive,
    /// It was asked to stop: it claims nothing more, and what it runs may end.
    Stopping,
    /// Its lease ended without a word: its tasks run elsewhere, or will as soon as a scheduler sees it.
    Lost,
    /// It ended in good order.
    Ended,
}

impl WorkerState {
    /// Every state, in the order in which a process goes through them.
    pub const ALL: [Self; 4] = [Self::Alive, Self::Stopping, Self::Lost, Self::Ended];

    /// The state in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Stopping => "stopping",
            Self::Lost => "lost",
            Self::Ended => "ended",
        }
    }
}

/// What a process measured of itself and its machine. `None` where the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Load {
    /// The machine's load average of one minute.
    pub load_average: Option<f32>,
    /// The process's resident memory.
    pub memory_bytes: Option<i64>,
    /// How many cores the process has used since its heartbeat before; 0.5 is half of one.
    pub cpu_cores: Option<f32>,
}

/// Which processes to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerScope {
    /// Those that live, and those that were lost or ended in the last hour.
    Recent,
    /// All there ever were, the newest 500 of them.
    All,
}

/// An execution that runs now.
#[derive(Debug, Clone, Serialize)]
pub struct ExecutionRow {
    /// The worker that has it.
    pub worker_id: WorkerId,
    /// The task instance.
    pub instance_id: InstanceId,
    /// Its DAG.
    pub dag_id: DagId,
    /// Its run.
    pub run_id: RunId,
    /// Its task.
    pub task_id: TaskId,
    /// -1 for a task that is not mapped.
    pub map_index: i32,
    /// Tries begun, this one included.
    pub tries: i32,
    /// How many may begin before a failure is final.
    pub tries_allowed: i32,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// The pool whose slots it takes.
    pub pool: String,
    /// The queue it came from.
    pub queue: String,
}

/// A queue in which tasks wait though no worker serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnservedQueue {
    /// The queue.
    pub queue: String,
    /// How many tasks wait.
    pub ready: i64,
}

/// A pool, and how it is used now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolRow {
    /// The pool.
    pub pool: PoolName,
    /// How many slots it has; `None` is no limit.
    pub slots: Option<i32>,
    /// What it is for.
    pub description: String,
    /// How many slots the tasks take that run in it. May be more than it has, after it was made smaller.
    pub used: i64,
    /// How many tasks run in it.
    pub running: i64,
    /// How many tasks wait in it and could run.
    pub ready: i64,
    /// How many tasks of current versions name it.
    pub tasks: i64,
    /// The DAGs of these tasks.
    pub dags: Vec<DagId>,
}

/// How many slots a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolSize {
    /// No limit but the workers' own slots.
    Unlimited,
    /// So many. A task that takes more slots than the pool has takes all of it.
    Slots(NonZeroU32),
}

impl PoolSize {
    /// A limit, or `None` when the number cannot be one: it must be 1 to 2,147,483,647.
    pub fn limit(slots: i64) -> Option<Self> {
        i32::try_from(slots)
            .ok()
            .and_then(|slots| NonZeroU32::new(u32::try_from(slots).ok()?))
            .map(Self::Slots)
    }

    pub(super) fn slots(self) -> Option<i32> {
        match self {
            Self::Unlimited => None,
            Self::Slots(slots) => Some(i32::try_from(slots.get()).unwrap_or(i32::MAX)),
        }
    }
}

/// What a pool is for, on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PoolDescription(String);

impl PoolDescription {
    /// The most characters it may have.
    pub const LONGEST: usize = 200;

    /// The text without blanks around it, or `None` when it is longer than [`Self::LONGEST`] characters or holds control
    /// characters.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = text.chars().count() <= Self::LONGEST && !text.chars().any(char::is_control);
        fits.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What to make of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolChange {
    /// How many slots it has from now on.
    pub size: PoolSize,
    /// What it is for; `None` leaves it as it is.
    pub description: Option<PoolDescription>,
}

/// What setting a pool did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolSet {
    /// There was no pool of that name.
    Created,
    /// There was one.
    Changed,
}

/// What `/metrics` tells of the whole installation.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    /// Pools with a limit: name, slots, slots in use.
    pub pools: Vec<(String, i32, i64)>,
    /// How many tasks could be claimed now, by queue.
    pub ready: Vec<(String, i64)>,
    /// How many processes there are in each state; lost and ended ones of the last hour.
    pub workers: Vec<(WorkerState, usize)>,
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
    /// Workers that take work.
    pub workers: Vec<WorkerRow>,
    /// Queues in which tasks wait for a worker that nobody has started.
    pub unserved: Vec<UnservedQueue>,
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
    /// By which version of the DAG they run.
    pub version: ClearVersion,
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
    /// These; the name of a group stands for its tasks.
    Tasks(Vec<TaskId>),
    /// One item of a mapped task.
    Item {
        /// The task.
        task: TaskId,
        /// The place of the item in the list.
        map_index: i32,
    },
}

/// What goes along with the tasks a clear begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClearScope {
    /// Nothing else.
    Only,
    /// Everything upstream of them.
    WithUpstream,
    /// Everything downstream of them.
    WithDownstream,
    /// Everything upstream and downstream of them.
    WithBoth,
}

impl ClearScope {
    /// The scope that reaches so far.
    pub fn reaching(upstream: bool, downstream: bool) -> Self {
        match (upstream, downstream) {
            (false, false) => Self::Only,
            (true, false) => Self::WithUpstream,
            (false, true) => Self::WithDownstream,
            (true, true) => Self::WithBoth,
        }
    }
}

/// By which version of its DAG a run goes on after a clear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClearVersion {
    /// The one that it is pinned to.
    #[default]
    Same,
    /// The DAG's current one. The run moves to it: its tasks are matched by id, new ones are added, and what it has of
    /// tasks that are gone stays as it is.
    Latest,
}

/// What a clear did, or would do.
#[derive(Debug, Clone, Serialize)]
pub struct Cleared {
    /// The tasks that will run again, in topological order.
    pub tasks: Vec<TaskId>,
    /// The same with the states they are taken back from, one for each item of a mapped task.
    pub instances: Vec<ClearedInstance>,
    /// How the run moves to another version; `None` when it stays.
    pub moved: Option<Moved>,
}

/// A task instance that a clear takes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClearedInstance {
    /// Its task.
    pub task_id: TaskId,
    /// -1 for a task that is not mapped.
    pub map_index: i32,
    /// The state it is taken back from.
    pub state: TaskState,
    /// Tries begun so far.
    pub tries: i32,
}

/// How a run moves from one version of its DAG to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// From this version.
    pub from: VersionId,
    /// To this one.
    pub to: VersionId,
    /// Tasks that the run gets; they run when what is above them is done.
    pub added: Vec<TaskId>,
    /// Tasks that the new version does not have. What became of them stays as it is, and nothing waits for them.
    pub removed: Vec<TaskId>,
}

/// A task's output as stored.
pub type Output = Value;

/// What an event of a dataset carries besides its instant: a small table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DatasetExtra(pub(super) serde_json::Map<String, Value>);

/// What a push came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PushedDatasetEvent {
    /// The event.
    pub event_id: i64,
    /// The runs that it made, by completing their sets.
    pub runs: Vec<RunId>,
}

/// A dataset that a DAG names.
#[derive(Debug, Clone, Serialize)]
pub struct DatasetRow {
    /// The dataset.
    pub dataset: DatasetName,
    /// The tasks that update it.
    pub producers: Vec<DatasetProducer>,
    /// The DAGs that wait for it.
    pub consumers: Vec<DagId>,
    /// Its newest event.
    pub last_event: Option<DatasetEventRow>,
}

/// A task with a dataset among its outlets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatasetProducer {
    /// Its DAG.
    pub dag_id: DagId,
    /// The task.
    pub task_id: TaskId,
}

/// One update of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatasetEventRow {
    /// The event; later ones of one dataset have larger numbers.
    pub event_id: i64,
    /// The dataset.
    pub dataset: DatasetName,
    /// When it was.
    pub at: DateTime<Utc>,
    /// The DAG whose task it was; `None` when it was pushed.
    pub dag_id: Option<DagId>,
    /// The run.
    pub run_id: Option<RunId>,
    /// The task.
    pub task_id: Option<TaskId>,
    /// Who pushed it, if it was no task.
    pub pushed_by: Option<String>,
    /// The task's output, or what was pushed.
    pub extra: Value,
    /// The runs it has made, alone or with others.
    pub runs: Vec<RunId>,
}

/// What a DAG waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatasetSetRow {
    /// The DAG.
    pub dag_id: DagId,
    /// While it is paused, events wait and make no run.
    pub paused: bool,
    /// The set in words.
    pub words: String,
    /// Its datasets, by name.
    pub members: Vec<DatasetMember>,
}

/// A dataset of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatasetMember {
    /// The dataset.
    pub dataset: DatasetName,
    /// How many events wait for the DAG's next run.
    pub events: i64,
    /// When the newest of them was.
    pub last_at: Option<DateTime<Utc>>,
}
