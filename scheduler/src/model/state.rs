//! States of runs and task instances, and the one table of transitions between them.

use serde::{Deserialize, Serialize};

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "run_state", rename_all = "snake_case")]
pub enum RunState {
    /// Made, and waiting for `max_active_runs`.
    Queued,
    /// Its tasks may run.
    Running,
    /// Final: every task is final and none failed (but those with `allow_failure`).
    Success,
    /// Final: a task failed.
    Failed,
    /// Final: a person ended it.
    Cancelled,
}

/// Why a run exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "run_kind", rename_all = "snake_case")]
pub enum RunKind {
    /// The schedule made it.
    Scheduled,
    /// A person or a program asked for it.
    Manual,
    /// A backfill made it.
    Backfill,
    /// A dataset event made it.
    Dataset,
}

/// The state of a task instance. There is no NULL state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "task_state", rename_all = "snake_case")]
pub enum TaskState {
    /// Upstream tasks are not final.
    Waiting,
    /// May be claimed now.
    Queued,
    /// Owned by one worker's lease.
    Running,
    /// Due at `wake_at`.
    Sleeping,
    /// Final.
    Success,
    /// Final.
    Failed,
    /// Final: its rule, its own decision or a branch left it out.
    Skipped,
    /// Final: its rule cannot be met because of a failure above.
    UpstreamFailed,
    /// Final: a person ended its run.
    Cancelled,
}

/// Why a task instance sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "sleep_reason", rename_all = "snake_case")]
pub enum SleepReason {
    /// Shown as *up for retry*.
    Retry,
    /// Shown as *deferred*: the task waits for something by the clock.
    Deferred,
    /// Shown as *rescheduled*: a sensor looks again later.
    Rescheduled,
}

/// How one execution of a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "try_outcome", rename_all = "snake_case")]
pub enum TryOutcome {
    /// It did its work.
    Success,
    /// It failed.
    Failed,
    /// It decided that there is nothing to do.
    Skipped,
    /// Its run was cancelled.
    Cancelled,
    /// Its worker's lease ended first.
    Lost,
    /// It ran longer than its `timeout`.
    Timeout,
}
