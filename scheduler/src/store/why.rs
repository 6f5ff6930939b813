//! Why a task instance is where it is: everything that keeps it there, seen at one moment, in a sentence with numbers.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use pinwheel_tasks::FailureClass;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::{Error, Store, claim::task_at, people::unknown_task, settle};
use crate::model::{
    Dag, DagId, InstanceId, RunId, RunState, SleepReason, Task, TaskId, TaskState, TriggerRule,
    TryOutcome, VersionId, flow,
    retry::{self, Decision, Failed, Tries},
    trigger_rule::{self, Upstream, Verdict},
};

/// So many tasks or runs a sentence names; of more it says how many.
const MOST_NAMED: usize = 5;

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Why {
    /// The run.
    pub run_id: RunId,
    /// The task.
    pub task_id: TaskId,
    /// -1 for a task that is not mapped.
    pub map_index: i32,
    /// Its state.
    pub state: TaskState,
    /// Everything below in one sentence.
    pub sentence: String,
    /// What keeps it there: all of it, what must be done about first coming first.
    pub because: Vec<Because>,
    /// The next step for a person, where there is one.
    pub hint: Option<String>,
}

/// A task instance in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Its run.
    pub run_id: RunId,
    /// Its task.
    pub task_id: TaskId,
    /// -1 for a task that is not mapped.
    pub map_index: i32,
    /// Its state.
    pub state: TaskState,
}

/// One thing that keeps a task instance where it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "because", rename_all = "snake_case")]
pub enum Because {
    /// Its run is queued, and its DAG is paused.
    DagIsPaused {
        /// The DAG.
        dag_id: DagId,
    },
    /// Its run is queued, and others of its DAG are running.
    MaxActiveRuns {
        /// The DAG.
        dag_id: DagId,
        /// How many may.
        max_active_runs: i32,
        /// Which are, the first 20.
        running: Vec<RunId>,
        /// Queued runs that start before.
        before: i64,
    },
    /// Its run is about to start.
    RunIsAboutToStart,
    /// Upstream tasks are not final.
    Upstream {
        /// All of them.
        total: usize,
        /// Those that are not.
        pending: Vec<Place>,
    },
    /// The same task of the run before has not succeeded.
    PreviousRun {
        /// That run.
        run_id: RunId,
        /// Its logical date.
        logical_date: DateTime<Utc>,
        /// The state of the task there.
        state: TaskState,
    },
    /// No scheduler is alive, and one is needed.
    NoScheduler,
    /// No worker is alive.
    NoWorker,
    /// No living worker serves its queue.
    QueueIsUnserved {
        /// The queue.
        queue: String,
        /// Workers that serve others.
        workers: i64,
    },
    /// Its pool has too few free slots.
    PoolIsFull {
        /// The pool.
        pool: String,
        /// How many it has.
        slots: i32,
        /// How many are free; below zero after the pool was made smaller.
        free: i64,
        /// How many it takes.
        takes: i32,
    },
    /// As many tasks of its run are running as may.
    MaxActiveTasks {
        /// How many may.
        max_active_tasks: i32,
        /// Which are, the first 20.
        running: Vec<Holder>,
    },
    /// As many items of its task are running as may.
    MaxActiveItems {
        /// How many may.
        max_active_items: i32,
        /// How many are; at most 20 are counted.
        running: usize,
    },
    /// As many tasks with its concurrency key are running as may.
    ConcurrencyKey {
        /// The key.
        key: String,
        /// How many may.
        limit: i32,
        /// Which are, the first 20.
        held_by: Vec<Holder>,
    },
    /// The workers of its queue have no free slot.
    WorkersAreBusy {
        /// The queue.
        queue: String,
        /// How many workers serve it.
        workers: i64,
        /// How many tasks they run at once, all together.
        slots: i64,
        /// How many they run.
        busy: i64,
    },
    /// Others of its pool and queue are claimed first.
    OthersAreFirst {
        /// How many.
        ahead: i64,
        /// The pool.
        pool: String,
        /// The queue.
        queue: String,
    },
    /// Nothing keeps it any more.
    IsAboutToRun,
    /// It sleeps.
    Sleeps {
        /// What for.
        reason: SleepReason,
        /// Until then.
        until: Option<DateTime<Utc>>,
        /// In words.
        note: String,
        /// The try that comes next, and how many may begin.
        tries: (i32, i32),
    },
    /// Its trigger rule decided.
    TriggerRule {
        /// The rule.
        rule: TriggerRule,
        /// What it found.
        reason: String,
        /// The upstream tasks that decided it.
        upstream: Vec<Place>,
    },
    /// It decided itself that there is nothing to do.
    ItsOwnDecision {
        /// Why.
        reason: String,
    },
    /// A person, or the clock, decided.
    WasDecided {
        /// What and by whom.
        reason: String,
    },
    /// Its last try failed.
    Failed {
        /// Which.
        try_number: i32,
        /// How many could begin.
        tries_allowed: i32,
        /// What it said.
        reason: String,
        /// Why it was not tried again.
        not_again: Option<String>,
    },
    /// Its run was cancelled.
    WasCancelled {
        /// By whom, as far as it is known.
        by: Option<String>,
    },
    /// It runs.
    Runs {
        /// On which worker.
        worker: Option<String>,
        /// Since when.
        since: Option<DateTime<Utc>>,
    },
    /// It did its work.
    Succeeded,
    /// Its task is not in the version that its run has moved to.
    IsRemoved,
}

/// Who holds what somebody else waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Its run.
    pub run_id: RunId,
    /// Its task.
    pub task_id: TaskId,
}

struct Row {
    instance_id: InstanceId,
    ordinal: i32,
    state: TaskState,
    sleep_reason: Option<SleepReason>,
    tries: i32,
    tries_allowed: i32,
    lost: i32,
    pending: i32,
    ok: i32,
    failed: i32,
    upstream_failed: i32,
    skipped: i32,
    started_at: Option<DateTime<Utc>>,
    reason: Option<String>,
    dag_id: DagId,
    run_state: RunState,
    run_reason: Option<String>,
    wake_at: Option<DateTime<Utc>>,
    sleep_note: Option<String>,
    worker: Option<String>,
    last_outcome: Option<TryOutcome>,
    last_reason: Option<String>,
    last_hint: Option<String>,
    last_class: Option<String>,
    last_exit_code: Option<i32>,
    last_try: Option<i32>,
    cancelled_by: Option<String>,
    now: DateTime<Utc>,
}

impl Store {
    /// Says why a task instance is where it is. Everything is read at one moment.
    ///
    /// # Errors
    /// The run, the task or its item is unknown, or Postgres is away.
    pub async fn why(&self, run_id: RunId, task_id: &TaskId, map_index: i32) -> Result<Why, Error> {
        let mut snapshot = self.people.begin().await?;
        sqlx::query_file!("src/store/queries/begin_snapshot.sql")
            .execute(&mut *snapshot)
            .await?;
        let answer = self.why_at(&mut snapshot, run_id, task_id, map_index).await;
        snapshot.rollback().await?;
        answer
    }

    /// Says why the first task instance of an open run that neither runs nor is over is where it is; `None` when all of them
    /// run, wait for those, or are over.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn why_stuck(&self, run_id: RunId) -> Result<Option<Why>, Error> {
        let mut snapshot = self.people.begin().await?;
        sqlx::query_file!("src/store/queries/begin_snapshot.sql")
            .execute(&mut *snapshot)
            .await?;
        let stuck = sqlx::query_file!("src/store/queries/read_stuck_instance.sql", run_id.0)
            .fetch_optional(&mut *snapshot)
            .await?;
        let answer = match stuck {
            Some(stuck) => self
                .why_at(&mut snapshot, run_id, &stuck.task_id, stuck.map_index)
                .await
                .map(Some),
            None => Ok(None),
        };
        snapshot.rollback().await?;
        answer
    }

    async fn why_at(
        &self,
        connection: &mut PgConnection,
        run_id: RunId,
        task_id: &TaskId,
        map_index: i32,
    ) -> Result<Why, Error> {
        let run = sqlx::query_file!("src/store/queries/read_why_version.sql", run_id.0)
            .fetch_optional(&mut *connection)
            .await?
            .ok_or(Error::UnknownRun { run_id })?;
        let dag = self.definition_by(connection, run.version_id).await?;
        let (ordinal, is_removed) = match dag.task(task_id.as_str()) {
            Some((ordinal, _)) => (i32::try_from(ordinal).unwrap_or(i32::MAX), false),
            None => {
                let removed = sqlx::query_file_scalar!(
                    "src/store/queries/read_why_removed.sql",
                    run_id.0,
                    task_id.as_str(),
                    map_index
                )
                .fetch_optional(&mut *connection)
                .await?
                .ok_or_else(|| unknown_task(&dag, task_id.as_str()))?;
                (removed, true)
            }
        };
        let row = sqlx::query_file_as!(
            Row,
            "src/store/queries/read_why_instance.sql",
            run_id.0,
            ordinal,
            map_index
        )
        .fetch_optional(&mut *connection)
        .await?
        .ok_or_else(|| Error::UnknownInstance {
            run_id,
            task_id: task_id.to_string(),
            map_index,
        })?;
        let mut because = if is_removed {
            vec![Because::IsRemoved]
        } else {
            reasons(connection, run_id, &dag, &row).await?
        };
        let waits_for_a_scheduler = because.iter().any(|one| {
            let is_due = |until: Option<DateTime<Utc>>| until.is_some_and(|until| until <= row.now);
            *one == Because::RunIsAboutToStart
                || matches!(one, Because::Sleeps { until, .. } if is_due(*until))
        });
        if waits_for_a_scheduler {
            let schedulers = sqlx::query_file_scalar!("src/store/queries/count_schedulers.sql")
                .fetch_one(connection)
                .await?;
            if schedulers == 0 {
                because.insert(0, Because::NoScheduler);
            }
        }
        let hint = because.iter().find_map(Because::hint).or_else(|| {
            row.last_hint
                .clone()
                .filter(|_| row.state == TaskState::Failed)
        });
        let sentence = because
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        Ok(Why {
            run_id,
            task_id: task_id.clone(),
            map_index,
            state: row.state,
            sentence,
            because,
            hint,
        })
    }
}

async fn reasons(
    connection: &mut PgConnection,
    run_id: RunId,
    dag: &Dag,
    row: &Row,
) -> Result<Vec<Because>, Error> {
    if let (true, Some(reason)) = (row.state.is_final(), &row.reason) {
        return Ok(vec![Because::WasDecided {
            reason: reason.clone(),
        }]);
    }
    Ok(match row.state {
        TaskState::Waiting => match row.run_state {
            RunState::Queued => run_reasons(connection, run_id, row).await?,
            RunState::Running | RunState::Success | RunState::Failed | RunState::Cancelled => {
                waiting_reasons(connection, run_id, dag, row).await?
            }
        },
        TaskState::Queued => queued_reasons(connection, row).await?,
        TaskState::Running => vec![Because::Runs {
            worker: row.worker.clone(),
            since: row.started_at,
        }],
        TaskState::Sleeping => {
            let reason = row.sleep_reason.unwrap_or(SleepReason::Deferred);
            let next = i32::from(reason == SleepReason::Retry);
            vec![Because::Sleeps {
                reason,
                until: row.wake_at,
                note: row.sleep_note.clone().unwrap_or_default(),
                tries: (row.tries + next, row.tries_allowed),
            }]
        }
        TaskState::Success => vec![Because::Succeeded],
        TaskState::Failed => vec![failed_reason(dag, row)],
        TaskState::Skipped | TaskState::UpstreamFailed => {
            vec![verdict_reason(connection, run_id, dag, row).await?]
        }
        TaskState::Cancelled => vec![Because::WasCancelled {
            by: row.cancelled_by.clone(),
        }],
    })
}

async fn run_reasons(
    connection: &mut PgConnection,
    run_id: RunId,
    row: &Row,
) -> Result<Vec<Because>, Error> {
    let run = sqlx::query_file!(
        "src/store/queries/read_why_run.sql",
        row.dag_id.as_str(),
        run_id.0
    )
    .fetch_one(connection)
    .await?;
    let mut because = Vec::new();
    if run.paused {
        because.push(Because::DagIsPaused {
            dag_id: row.dag_id.clone(),
        });
    }
    if run.running_count >= i64::from(run.max_active_runs) {
        because.push(Because::MaxActiveRuns {
            dag_id: row.dag_id.clone(),
            max_active_runs: run.max_active_runs,
            running: run.running,
            before: run.before,
        });
    }
    if because.is_empty() {
        because.push(Because::RunIsAboutToStart);
    }
    Ok(because)
}

async fn waiting_reasons(
    connection: &mut PgConnection,
    run_id: RunId,
    dag: &Dag,
    row: &Row,
) -> Result<Vec<Because>, Error> {
    let pending = upstream_places(connection, run_id, dag, row.ordinal, |state| {
        !state.is_final()
    })
    .await?;
    if pending.is_empty() {
        let task = task_at(dag, row.ordinal);
        if task.flow.depends_on_previous
            && let Some(before) = previous_run(connection, run_id, task).await?
        {
            return Ok(vec![before]);
        }
        return Ok(vec![Because::IsAboutToRun]);
    }
    let all = row.pending + row.ok + row.failed + row.upstream_failed + row.skipped;
    Ok(vec![Because::Upstream {
        // A mapped task counts once for each item.
        total: usize::try_from(all).unwrap_or_default(),
        pending,
    }])
}

/// The same task in the run before, where it has not gone well.
async fn previous_run(
    connection: &mut PgConnection,
    run_id: RunId,
    task: &Task,
) -> Result<Option<Because>, Error> {
    let before = sqlx::query_file!(
        "src/store/queries/read_why_previous.sql",
        run_id.0,
        task.id.as_str()
    )
    .fetch_optional(connection)
    .await?;
    Ok(before.map(|before| Because::PreviousRun {
        run_id: before.run_id,
        logical_date: before.logical_date,
        state: before.state,
    }))
}

async fn upstream_places(
    connection: &mut PgConnection,
    run_id: RunId,
    dag: &Dag,
    ordinal: i32,
    chosen: impl Fn(TaskState) -> bool,
) -> Result<Vec<Place>, Error> {
    let upstream: Vec<i32> = task_at(dag, ordinal)
        .upstream
        .iter()
        .map(|above| i32::try_from(*above).unwrap_or(i32::MAX))
        .collect();
    let rows = sqlx::query_file!(
        "src/store/queries/read_why_upstream.sql",
        run_id.0,
        &upstream
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .filter(|row| chosen(row.state))
        .map(|row| Place {
            run_id,
            task_id: task_at(dag, row.ordinal).id.clone(),
            map_index: row.map_index,
            state: row.state,
        })
        .collect())
}

async fn queued_reasons(connection: &mut PgConnection, row: &Row) -> Result<Vec<Because>, Error> {
    let found = sqlx::query_file!("src/store/queries/read_why_queued.sql", row.instance_id.0)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(ready) = found else {
        // A claim is on its way, or `db check` finds it.
        return Ok(vec![Because::IsAboutToRun]);
    };
    let mut because = Vec::new();
    if ready.workers == 0 {
        because.push(Because::NoWorker);
    } else if ready.serving == 0 {
        because.push(Because::QueueIsUnserved {
            queue: ready.queue.clone(),
            workers: ready.workers,
        });
    }
    if !ready.gates.is_empty() {
        because.extend(gate_reasons(connection, &ready.gates).await?);
    }
    let mut is_first = true;
    if let Some(slots) = ready.pool_slots {
        let takes = ready.slots.min(slots);
        let free = i64::from(slots) - ready.pool_used;
        if free < i64::from(takes) {
            is_first = false;
            because.push(Because::PoolIsFull {
                pool: ready.pool.clone(),
                slots,
                free,
                takes,
            });
        }
    }
    if ready.serving > 0 && ready.busy >= ready.serving_slots {
        because.push(Because::WorkersAreBusy {
            queue: ready.queue.clone(),
            workers: ready.serving,
            slots: ready.serving_slots,
            busy: ready.busy,
        });
    }
    if ready.ahead > 0 && (!is_first || because.is_empty() || ready.busy >= ready.serving_slots) {
        because.push(Because::OthersAreFirst {
            ahead: ready.ahead,
            pool: ready.pool,
            queue: ready.queue,
        });
    }
    if because.is_empty() {
        because.push(Because::IsAboutToRun);
    }
    Ok(because)
}

async fn gate_reasons(
    connection: &mut PgConnection,
    gates: &[String],
) -> Result<Vec<Because>, Error> {
    let rows = sqlx::query_file!("src/store/queries/read_why_gates.sql", gates)
        .fetch_all(connection)
        .await?;
    let mut because = Vec::new();
    for gate in gates {
        let mut slots = None;
        let holders: Vec<Holder> = rows
            .iter()
            .filter(|row| row.gate == *gate)
            .map(|row| {
                slots = Some(row.slots);
                Holder {
                    run_id: row.run_id,
                    task_id: row.task_id.clone(),
                }
            })
            .collect();
        let Some(limit) = slots else {
            continue;
        };
        because.push(match gate.strip_prefix("key:") {
            Some(key) => Because::ConcurrencyKey {
                key: key.to_owned(),
                limit,
                held_by: holders,
            },
            None if gate.starts_with("map:") => Because::MaxActiveItems {
                max_active_items: limit,
                running: holders.len(),
            },
            None => Because::MaxActiveTasks {
                max_active_tasks: limit,
                running: holders,
            },
        });
    }
    Ok(because)
}

fn failed_reason(dag: &Dag, row: &Row) -> Because {
    let class = row
        .last_class
        .as_ref()
        .and_then(|class| serde_json::from_value(Value::String(class.clone())).ok());
    let number = |number: i32| u32::try_from(number).unwrap_or(0);
    let not_again = class.and_then(|class: FailureClass| {
        let decision = retry::decide(
            task_at(dag, row.ordinal),
            Failed {
                class,
                exit_code: row.last_exit_code,
            },
            Tries {
                instance_id: row.instance_id,
                begun: number(row.tries),
                allowed: number(row.tries_allowed),
                lost: number(row.lost),
            },
        );
        match decision {
            Decision::Fail { reason } => Some(reason),
            // The rules were others when it failed.
            Decision::Retry { .. } | Decision::Again => None,
        }
    });
    Because::Failed {
        try_number: row.last_try.unwrap_or(row.tries),
        tries_allowed: row.tries_allowed,
        reason: row.last_reason.clone().unwrap_or_default(),
        not_again,
    }
}

async fn verdict_reason(
    connection: &mut PgConnection,
    run_id: RunId,
    dag: &Dag,
    row: &Row,
) -> Result<Because, Error> {
    let task = task_at(dag, row.ordinal);
    let retries = i32::try_from(task.retries).unwrap_or(i32::MAX);
    let has_run = row.tries > row.tries_allowed.saturating_sub(retries.saturating_add(1));
    if row.state == TaskState::Skipped && has_run && row.last_outcome == Some(TryOutcome::Skipped) {
        return Ok(Because::ItsOwnDecision {
            reason: row.last_reason.clone().unwrap_or_default(),
        });
    }
    if let (true, Some(reason)) = (row.state == TaskState::Skipped, &row.run_reason) {
        return Ok(Because::WasDecided {
            reason: format!("its run was ended: {reason}"),
        });
    }
    let count = |number: i32| u32::try_from(number).unwrap_or(0);
    let upstream = Upstream {
        total: count(row.pending + row.ok + row.failed + row.upstream_failed + row.skipped),
        pending: count(row.pending),
        ok: count(row.ok),
        failed: count(row.failed),
        upstream_failed: count(row.upstream_failed),
        skipped: count(row.skipped),
    };
    let ordinal = super::people::index(row.ordinal);
    let seen = dag.looks_at(ordinal);
    let sights = settle::sights_of(connection, run_id, &seen).await?;
    let reason = match flow::decide(dag, ordinal, &upstream, &sights) {
        Verdict::Skip { reason } | Verdict::UpstreamFailed { reason } => reason,
        // What is above has changed since, such as by a clear of it alone.
        Verdict::Wait { .. } | Verdict::Run { .. } => {
            "what is upstream has changed since".to_owned()
        }
    };
    if !dag.counts_alone(task) {
        let own = trigger_rule::decide(task.trigger_rule, &upstream);
        if own.reason() != reason {
            return Ok(Because::WasDecided { reason });
        }
    }
    // A rule that wants failures is not met by successes, and the other way round.
    let mut decided = upstream_places(connection, run_id, dag, row.ordinal, |state| {
        matches!(
            state,
            TaskState::Failed
                | TaskState::UpstreamFailed
                | TaskState::Skipped
                | TaskState::Cancelled
        )
    })
    .await?;
    if decided.is_empty() {
        decided =
            upstream_places(connection, run_id, dag, row.ordinal, TaskState::is_final).await?;
    }
    Ok(Because::TriggerRule {
        rule: task.trigger_rule,
        reason,
        upstream: decided,
    })
}

impl Because {
    fn hint(&self) -> Option<String> {
        match self {
            Self::DagIsPaused { dag_id } => {
                Some(format!("`pinwheel dags unpause {dag_id}` lets it go on"))
            }
            Self::MaxActiveRuns { .. } => Some(
                "it starts by itself; `max_active_runs` in the DAG file says how many may"
                    .to_owned(),
            ),
            Self::NoScheduler => Some("start `pinwheel scheduler`".to_owned()),
            Self::NoWorker => Some("start `pinwheel worker`".to_owned()),
            Self::QueueIsUnserved { queue, .. } => Some(format!(
                "start a worker with `[worker] queues = [\"{queue}\"]`"
            )),
            Self::PoolIsFull { pool, .. } => Some(format!(
                "it goes on by itself; `pinwheel pools set {pool} --slots N` makes room at once"
            )),
            Self::WorkersAreBusy { .. } => {
                Some("it goes on by itself; another worker makes room at once".to_owned())
            }
            Self::RunIsAboutToStart
            | Self::Upstream { .. }
            | Self::PreviousRun { .. }
            | Self::MaxActiveTasks { .. }
            | Self::MaxActiveItems { .. }
            | Self::ConcurrencyKey { .. }
            | Self::OthersAreFirst { .. }
            | Self::IsAboutToRun
            | Self::Sleeps { .. }
            | Self::TriggerRule { .. }
            | Self::ItsOwnDecision { .. }
            | Self::WasDecided { .. }
            | Self::Failed { .. }
            | Self::WasCancelled { .. }
            | Self::Runs { .. }
            | Self::Succeeded
            | Self::IsRemoved => None,
        }
    }
}

impl fmt::Display for Because {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DagIsPaused { dag_id } => {
                write!(out, "its run has not started: its DAG `{dag_id}` is paused")
            }
            Self::MaxActiveRuns {
                dag_id,
                max_active_runs,
                running,
                before,
            } => {
                write!(
                    out,
                    "its run has not started: its DAG `{dag_id}` has max_active_runs = {max_active_runs} and {}",
                    runs_are(running)
                )?;
                match before {
                    0 => Ok(()),
                    1 => out.write_str(", and 1 queued run starts before it"),
                    more => write!(out, ", and {more} queued runs start before it"),
                }
            }
            Self::RunIsAboutToStart => out.write_str("its run is about to start"),
            Self::Upstream { total, pending } => {
                let mut waiting: Vec<&TaskId> = pending.iter().map(|one| &one.task_id).collect();
                waiting.dedup();
                write!(
                    out,
                    "waiting for {} of {total} upstream {}: {}",
                    waiting.len(),
                    noun(*total, "task", "tasks"),
                    places(pending)
                )
            }
            Self::PreviousRun {
                run_id,
                logical_date,
                state,
            } => write!(
                out,
                "run {run_id} ({}) of this task has not succeeded: it is {}",
                instant(*logical_date),
                state.label()
            ),
            Self::NoScheduler => out.write_str("no scheduler is alive"),
            Self::NoWorker => out.write_str("no worker is alive"),
            Self::QueueIsUnserved { queue, workers } => write!(
                out,
                "no worker serves queue `{queue}` ({workers} {} others)",
                noun(usize::try_from(*workers).unwrap_or(2), "worker serves", "workers serve")
            ),
            Self::PoolIsFull {
                pool,
                slots,
                free,
                takes,
            } => {
                write!(
                    out,
                    "pool `{pool}` has {} of {slots} slots free",
                    (*free).max(0)
                )?;
                if *takes > 1 {
                    write!(out, ", and it takes {takes}")?;
                }
                if *free < 0 {
                    write!(out, " ({} more than it has are in use)", -free)?;
                }
                Ok(())
            }
            Self::MaxActiveItems {
                max_active_items,
                running,
            } => write!(
                out,
                "its task has max_active_items = {max_active_items}, and {running} items are running"
            ),
            Self::MaxActiveTasks {
                max_active_tasks,
                running,
            } => write!(
                out,
                "its DAG has max_active_tasks = {max_active_tasks}, and of its run {} running",
                of_run(running)
            ),
            Self::ConcurrencyKey {
                key,
                limit,
                held_by,
            } => write!(
                out,
                "it is behind the concurrency key `{key}` (limit {limit}), held by {}",
                holders(held_by)
            ),
            Self::WorkersAreBusy {
                queue,
                workers,
                slots,
                busy,
            } => write!(
                out,
                "{busy} of {slots} slots of the {} of queue `{queue}` are busy",
                match workers {
                    1 => "1 worker".to_owned(),
                    many => format!("{many} workers"),
                }
            ),
            Self::OthersAreFirst { ahead, pool, queue } => write!(
                out,
                "{ahead} {} of pool `{pool}` and queue `{queue}` {} first",
                noun(usize::try_from(*ahead).unwrap_or(2), "task", "tasks"),
                noun(usize::try_from(*ahead).unwrap_or(2), "comes", "come"),
            ),
            Self::IsAboutToRun => out.write_str("nothing keeps it: it is about to run"),
            Self::Sleeps {
                reason,
                until,
                note,
                tries: (next, allowed),
            } => {
                write!(out, "it sleeps ({})", reason.label())?;
                if let Some(until) = until {
                    write!(out, " until {}", instant(*until))?;
                }
                match reason {
                    SleepReason::Retry => {
                        write!(out, ", then try {next} of {allowed} begins; the last one failed: {note}")
                    }
                    SleepReason::Deferred | SleepReason::Rescheduled => {
                        write!(out, " because {note}")
                    }
                }
            }
            Self::TriggerRule {
                rule,
                reason,
                upstream,
            } => {
                write!(out, "the trigger rule `{rule}` was not met: {reason}")?;
                if upstream.is_empty() {
                    return Ok(());
                }
                write!(out, ": {}", places(upstream))
            }
            Self::ItsOwnDecision { reason } => write!(out, "it found nothing to do: {reason}"),
            Self::WasDecided { reason } => out.write_str(reason),
            Self::Failed {
                try_number,
                tries_allowed,
                reason,
                not_again,
            } => {
                write!(out, "try {try_number} of {tries_allowed} failed: {reason}")?;
                match not_again {
                    Some(why) => write!(out, "; it is not tried again: {why}"),
                    None => Ok(()),
                }
            }
            Self::WasCancelled { by: Some(by) } => write!(out, "its run was cancelled by {by}"),
            Self::WasCancelled { by: None } => out.write_str("its run was cancelled"),
            Self::Runs { worker, since } => {
                out.write_str("it runs")?;
                if let Some(worker) = worker {
                    write!(out, " on `{worker}`")?;
                }
                match since {
                    Some(since) => write!(out, " since {}", instant(*since)),
                    None => Ok(()),
                }
            }
            Self::Succeeded => out.write_str("it succeeded"),
            Self::IsRemoved => out.write_str(
                "its task is not in the version that its run has moved to; what became of it stays as it is",
            ),
        }
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn noun(number: usize, one: &'static str, many: &'static str) -> &'static str {
    if number == 1 { one } else { many }
}

/// The first few of many.
fn few(mut words: Vec<String>) -> String {
    let more = words.len().saturating_sub(MOST_NAMED);
    words.truncate(MOST_NAMED);
    if more > 0 {
        words.push(format!("{more} more"));
    }
    words.join(", ")
}

fn places(places: &[Place]) -> String {
    few(places
        .iter()
        .map(|place| {
            let item = if place.map_index < 0 {
                String::new()
            } else {
                format!("[{}]", place.map_index)
            };
            format!("{}{item} ({})", place.task_id, place.state.label())
        })
        .collect())
}

fn holders(holders: &[Holder]) -> String {
    few(holders
        .iter()
        .map(|holder| format!("run {} task {}", holder.run_id, holder.task_id))
        .collect())
}

fn of_run(holders: &[Holder]) -> String {
    let names = few(holders
        .iter()
        .map(|holder| holder.task_id.to_string())
        .collect());
    format!("{names} {}", noun(holders.len(), "is", "are"))
}

fn runs_are(runs: &[RunId]) -> String {
    let names = few(runs.iter().map(ToString::to_string).collect());
    format!(
        "{} {names} {} running",
        noun(runs.len(), "run", "runs"),
        noun(runs.len(), "is", "are")
    )
}
