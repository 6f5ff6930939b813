//! Saying how something ended: a person marks it, or its time is over. What runs is stopped first.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::{
    Error, Store,
    people::{audit, delete_waits, index, lock_run, named},
    settle::{Counters, Step},
    time_limits::limit_runs,
};
use crate::model::{Dag, InstanceId, RunId, RunState, TaskId, TaskState, TryOutcome, VersionId};

/// What a person says.
#[derive(Debug, Clone)]
pub struct MarkRequest {
    /// In which run.
    pub run_id: RunId,
    /// Of what.
    pub selection: MarkSelection,
    /// How it ended.
    pub marked: MarkedAs,
    /// Who says so.
    pub actor: String,
}

/// What is marked.
#[derive(Debug, Clone)]
pub enum MarkSelection {
    /// The run itself. As success: every task is. As failed: what runs or sleeps failed, what has not begun is skipped, and
    /// what is final stays.
    WholeRun,
    /// These tasks, with every item where they are mapped. What could not run because of a failure above, or failed itself,
    /// downstream of them, is decided anew.
    Tasks(Vec<TaskId>),
    /// One item of a mapped task; the same holds downstream.
    Item {
        /// The task.
        task: TaskId,
        /// The place of the item in the list.
        map_index: i32,
    },
}

/// How something ended, as a person says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkedAs {
    /// Well.
    Success,
    /// Not.
    Failed,
}

impl MarkedAs {
    /// The state of a task instance.
    pub fn state(self) -> TaskState {
        match self {
            Self::Success => TaskState::Success,
            Self::Failed => TaskState::Failed,
        }
    }
}

/// What a mark did.
#[derive(Debug, Clone, Serialize)]
pub struct Marked {
    /// The tasks whose state it changed, in topological order.
    pub tasks: Vec<TaskId>,
    /// How many executions it stopped.
    pub stopped: i64,
    /// The tasks downstream that are decided anew, in topological order.
    pub decided_anew: Vec<TaskId>,
    /// The run's state now.
    pub run_state: RunState,
}

impl Store {
    /// Marks task instances, or a whole run, as a person says. Running ones are final at once; their workers hear of it by
    /// the bell, at the latest with their next heartbeat, and stop their processes. What follows downstream follows in the
    /// same transaction.
    ///
    /// # Errors
    /// The run or a task is unknown, the run has not begun, nothing is left to mark, or Postgres is away.
    pub async fn mark(&self, request: MarkRequest) -> Result<Marked, Error> {
        let mut transaction = self.engine.begin().await?;
        match self.mark_by(&mut transaction, &request).await {
            Ok(marked) => {
                transaction.commit().await?;
                Ok(marked)
            }
            Err(error) => {
                // Dropping it would roll back later, and keep the run locked until then.
                transaction.rollback().await?;
                Err(error)
            }
        }
    }

    async fn mark_by(
        &self,
        connection: &mut PgConnection,
        request: &MarkRequest,
    ) -> Result<Marked, Error> {
        let run_id = request.run_id;
        let run = lock_run(connection, run_id)
            .await?
            .ok_or(Error::UnknownRun { run_id })?;
        if run.state == RunState::Queued {
            return Err(Error::RunIsQueued { run_id });
        }
        let dag = self.definition_by(connection, run.version_id).await?;
        let state = request.marked.state();
        let reason = format!("marked {state} by {}", request.actor);
        let mut step = Step::default();
        step.knows(run_id, run.version_id);
        sqlx::query_file!("src/store/queries/allow_clearing.sql")
            .fetch_one(&mut *connection)
            .await?;
        let mut chosen: BTreeSet<usize> = BTreeSet::new();
        let (ended, stopped) = match &request.selection {
            MarkSelection::WholeRun if request.marked == MarkedAs::Failed => {
                if run.state == RunState::Failed {
                    return Err(Error::NothingToMark { run_id });
                }
                let fail_what_began = |state| match state {
                    TaskState::Running | TaskState::Sleeping => TaskState::Failed,
                    TaskState::Waiting | TaskState::Queued => TaskState::Skipped,
                    TaskState::Success
                    | TaskState::Failed
                    | TaskState::Skipped
                    | TaskState::UpstreamFailed
                    | TaskState::Cancelled => state,
                };
                end_unfinished(connection, run_id, fail_what_began, &reason, &mut step).await?
            }
            MarkSelection::WholeRun => {
                chosen.extend(0..dag.tasks.len());
                end_chosen(
                    connection,
                    run_id,
                    &chosen,
                    None,
                    (state, &reason),
                    &mut step,
                )
                .await?
            }
            MarkSelection::Tasks(tasks) => {
                for task_id in tasks {
                    chosen.extend(named(&dag, task_id.as_str())?);
                }
                end_chosen(
                    connection,
                    run_id,
                    &chosen,
                    None,
                    (state, &reason),
                    &mut step,
                )
                .await?
            }
            MarkSelection::Item { task, map_index } => {
                chosen.extend(named(&dag, task.as_str())?);
                let there = sqlx::query_file!("src/store/queries/read_states.sql", run_id.0)
                    .fetch_all(&mut *connection)
                    .await?;
                if !there
                    .iter()
                    .any(|row| chosen.contains(&index(row.ordinal)) && row.map_index == *map_index)
                {
                    return Err(Error::UnknownInstance {
                        run_id,
                        task_id: task.to_string(),
                        map_index: *map_index,
                    });
                }
                let item = Some(*map_index);
                end_chosen(
                    connection,
                    run_id,
                    &chosen,
                    item,
                    (state, &reason),
                    &mut step,
                )
                .await?
            }
        };
        let fails_run = matches!(request.selection, MarkSelection::WholeRun)
            && request.marked == MarkedAs::Failed;
        if ended.is_empty() && !fails_run {
            return Err(Error::NothingToMark { run_id });
        }
        let decided_anew = match &request.selection {
            MarkSelection::WholeRun => BTreeSet::new(),
            MarkSelection::Tasks(_) | MarkSelection::Item { .. } => {
                decide_anew(connection, (run_id, run.version_id), &dag, &ended, &chosen).await?
            }
        };
        let name = |ordinal: &usize| dag.tasks[*ordinal].id.clone();
        let tasks: Vec<TaskId> = ended.iter().map(name).collect();
        let decided_anew: Vec<TaskId> = decided_anew.iter().map(name).collect();
        let detail = json!({ "tasks": &tasks, "decided_anew": &decided_anew, "stopped": stopped });
        let action = match request.marked {
            MarkedAs::Success => "mark success",
            MarkedAs::Failed => "mark failed",
        };
        audit(
            connection,
            &request.actor,
            action,
            &run.dag_id,
            Some(run_id),
            &detail,
        )
        .await?;
        sqlx::query_file!("src/store/queries/recount_instances.sql", run_id.0)
            .execute(&mut *connection)
            .await?;
        if fails_run {
            end_run(connection, run_id, RunState::Failed, &reason).await?;
            step.closed.push((run_id, RunState::Failed));
            self.start_runs(connection, &BTreeSet::from([run.dag_id]), &mut step)
                .await?;
        } else {
            sqlx::query_file!("src/store/queries/reopen_run.sql", run_id.0)
                .execute(&mut *connection)
                .await?;
            if let (true, Some(timeout)) = (run.state.is_final(), dag.timeout) {
                limit_runs(connection, &[(run_id, timeout)], &mut step).await?;
            }
            let waiting =
                sqlx::query_file_as!(Counters, "src/store/queries/read_waiting.sql", run_id.0)
                    .fetch_all(&mut *connection)
                    .await?;
            let finals = self.promote(connection, &waiting, &mut step).await?;
            self.cascade(connection, finals, &mut step).await?;
            step.may_close(run_id);
        }
        if dag.tasks.iter().any(|task| task.flow.depends_on_previous) {
            step.has_moved(run_id);
        }
        self.finish(connection, &mut step).await?;
        let run_state =
            sqlx::query_file_scalar!("src/store/queries/read_state_of_run.sql", run_id.0)
                .fetch_one(connection)
                .await?;
        Ok(Marked {
            tasks,
            stopped,
            decided_anew,
            run_state,
        })
    }
}

/// Ends the task instances at these ordinals that are not in `state`, of mapped ones this `item` alone if there is one;
/// returns the ordinals that changed, and how many executions were stopped.
async fn end_chosen(
    connection: &mut PgConnection,
    run_id: RunId,
    chosen: &BTreeSet<usize>,
    item: Option<i32>,
    (state, reason): (TaskState, &str),
    step: &mut Step,
) -> Result<(BTreeSet<usize>, i64), Error> {
    let next = |(ordinal, map_index): Place, now: TaskState| {
        if chosen.contains(&ordinal) && item.is_none_or(|item| item == map_index) {
            state
        } else {
            now
        }
    };
    end_where(connection, run_id, next, reason, step).await
}

/// Ends every task instance of a run that is not final, each in the state that `next` says.
pub(super) async fn end_unfinished(
    connection: &mut PgConnection,
    run_id: RunId,
    next: impl Fn(TaskState) -> TaskState,
    reason: &str,
    step: &mut Step,
) -> Result<(BTreeSet<usize>, i64), Error> {
    let next = |_, now: TaskState| if now.is_final() { now } else { next(now) };
    let ended = end_where(connection, run_id, next, reason, step).await?;
    sqlx::query_file!("src/store/queries/recount_instances.sql", run_id.0)
        .execute(connection)
        .await?;
    Ok(ended)
}

/// A task by its ordinal, and the item of it; an item is -1 where there are none.
type Place = (usize, i32);

/// Brings the task instances of a locked run into the states that `next` says, by place and present state.
async fn end_where(
    connection: &mut PgConnection,
    run_id: RunId,
    next: impl Fn(Place, TaskState) -> TaskState,
    reason: &str,
    step: &mut Step,
) -> Result<(BTreeSet<usize>, i64), Error> {
    let before = sqlx::query_file!("src/store/queries/read_states.sql", run_id.0)
        .fetch_all(&mut *connection)
        .await?;
    let concerned: Vec<i64> = before
        .iter()
        .filter(|row| next((index(row.ordinal), row.map_index), row.state) != row.state)
        .map(|row| row.instance_id.0)
        .collect();
    lock_around(connection, run_id, &concerned).await?;
    delete_waits(connection, &concerned).await?;
    // A claim may have taken some until their ready rows were locked.
    let now = sqlx::query_file!("src/store/queries/read_states.sql", run_id.0)
        .fetch_all(&mut *connection)
        .await?;
    let concerned: BTreeSet<i64> = concerned.into_iter().collect();
    let changing: Vec<_> = now
        .iter()
        .filter(|row| concerned.contains(&row.instance_id.0))
        .map(|row| (row, next((index(row.ordinal), row.map_index), row.state)))
        .filter(|(row, next)| row.state != *next)
        .collect();
    let ids: Vec<i64> = changing.iter().map(|(row, _)| row.instance_id.0).collect();
    let states: Vec<TaskState> = changing.iter().map(|(_, next)| *next).collect();
    let running = changing
        .iter()
        .filter(|(row, _)| row.state == TaskState::Running)
        .count();
    let ended = end_instances(
        connection,
        &ids,
        &states,
        &vec![reason.to_owned(); ids.len()],
        step,
    )
    .await?;
    let ordinals = changing
        .iter()
        .filter(|(row, _)| ended.contains(&row.instance_id))
        .map(|(row, _)| index(row.ordinal))
        .collect();
    Ok((ordinals, i64::try_from(running).unwrap_or(i64::MAX)))
}

/// Locks the DAG of a locked run, and the gates that these task instances have to do with: in that order, before anything
/// is taken out of `ready`.
pub(super) async fn lock_around(
    connection: &mut PgConnection,
    run_id: RunId,
    instances: &[i64],
) -> Result<(), Error> {
    sqlx::query_file_scalar!("src/store/queries/lock_dags_of_runs.sql", &[run_id.0][..])
        .fetch_all(&mut *connection)
        .await?;
    sqlx::query_file_scalar!("src/store/queries/lock_gates_around.sql", instances)
        .fetch_all(connection)
        .await?;
    Ok(())
}

/// Ends task instances that are in nobody's queue any more. A late result of one that ran is refused, as after a cancel.
pub(super) async fn end_instances(
    connection: &mut PgConnection,
    instances: &[i64],
    states: &[TaskState],
    reasons: &[String],
    step: &mut Step,
) -> Result<Vec<InstanceId>, Error> {
    let ended = sqlx::query_file!(
        "src/store/queries/end_instances.sql",
        instances,
        states as &[TaskState],
        reasons,
        TryOutcome::Cancelled as _,
        "cancelled"
    )
    .fetch_one(connection)
    .await?;
    step.leave_gates(ended.gates);
    if ended.stopped > 0 {
        step.took_away();
    }
    Ok(ended.ended)
}

/// Ends a run whatever its tasks say.
pub(super) async fn end_run(
    connection: &mut PgConnection,
    run_id: RunId,
    state: RunState,
    reason: &str,
) -> Result<(), Error> {
    sqlx::query_file!(
        "src/store/queries/end_run_as.sql",
        run_id.0,
        state as _,
        reason
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes back what failed, or could not run, downstream of what a mark changed, but for what it chose; as in Airflow, what was skipped or succeeded
/// stays. Returns its ordinals.
async fn decide_anew(
    connection: &mut PgConnection,
    (run_id, version_id): (RunId, VersionId),
    dag: &Dag,
    changed: &BTreeSet<usize>,
    chosen: &BTreeSet<usize>,
) -> Result<BTreeSet<usize>, Error> {
    let mut below: BTreeSet<usize> = BTreeSet::new();
    // Ordinals are a topological order, so one pass reaches everything below.
    for ordinal in 0..dag.tasks.len() {
        if changed.contains(&ordinal) || below.contains(&ordinal) {
            below.extend(&dag.tasks[ordinal].downstream);
        }
    }
    let states = sqlx::query_file!("src/store/queries/read_states.sql", run_id.0)
        .fetch_all(&mut *connection)
        .await?;
    let back: Vec<_> = states
        .iter()
        .filter(|row| {
            matches!(row.state, TaskState::Failed | TaskState::UpstreamFailed)
                && below.contains(&index(row.ordinal))
                && !chosen.contains(&index(row.ordinal))
        })
        .collect();
    let ids: Vec<i64> = back.iter().map(|row| row.instance_id.0).collect();
    let versions = vec![version_id.0; ids.len()];
    let ordinals: Vec<i32> = back.iter().map(|row| row.ordinal).collect();
    if !ids.is_empty() {
        sqlx::query_file!(
            "src/store/queries/clear_instances.sql",
            &ids,
            &versions,
            &ordinals
        )
        .execute(connection)
        .await?;
    }
    Ok(back.iter().map(|row| index(row.ordinal)).collect())
}
