//! What people do to runs and DAGs: cancel, clear, pause.

mod travel;

use std::{collections::BTreeSet, sync::Arc};

use serde_json::json;
use sqlx::{Connection, PgConnection};

use super::{
    ClearRequest, ClearScope, ClearSelection, ClearVersion, Cleared, ClearedInstance, Error,
    Paused, Store, alerts,
    settle::{Counters, Step},
    time_limits::limit_runs,
};
use crate::model::{Dag, DagId, InstanceId, RunId, RunState, TaskState, VersionId};
use travel::Travel;

/// A run under its lock.
pub(super) struct LockedRun {
    pub(super) dag_id: DagId,
    pub(super) version_id: VersionId,
    pub(super) state: RunState,
}

/// Locks a run, and its DAG first while it is queued: whoever starts runs holds the DAG and then takes queued ones. A
/// run that has begun is locked before its DAG, as whoever closes it does.
pub(super) async fn lock_run(
    connection: &mut PgConnection,
    run_id: RunId,
) -> Result<Option<LockedRun>, Error> {
    let lock = async |connection: &mut PgConnection| {
        sqlx::query_file_as!(LockedRun, "src/store/queries/lock_run.sql", run_id.0)
            .fetch_optional(connection)
            .await
    };
    loop {
        let state = sqlx::query_file_scalar!("src/store/queries/read_state_of_run.sql", run_id.0)
            .fetch_optional(&mut *connection)
            .await?;
        if state != Some(RunState::Queued) {
            return Ok(lock(connection).await?);
        }
        let mut attempt = connection.begin().await?;
        sqlx::query_file_scalar!("src/store/queries/lock_dags_of_runs.sql", &[run_id.0][..])
            .fetch_all(&mut *attempt)
            .await?;
        match lock(&mut attempt).await? {
            Some(run) if run.state == RunState::Queued => {
                attempt.commit().await?;
                return Ok(Some(run));
            }
            // It has begun meanwhile: the lock of the DAG is let go, and it never comes back to the queue.
            Some(_) | None => attempt.rollback().await?,
        }
    }
}

impl Store {
    /// Ends a queued or running run at once. Tasks that run are final at once as well; their workers hear of it by
    /// the bell, at the latest with their next heartbeat, and stop their processes.
    ///
    /// # Errors
    /// The run is unknown or final, or Postgres is away.
    pub async fn cancel_run(&self, run_id: RunId, actor: &str) -> Result<RunState, Error> {
        let mut transaction = self.engine.begin().await?;
        let run = lock_run(&mut transaction, run_id)
            .await?
            .ok_or(Error::UnknownRun { run_id })?;
        if run.state.is_final() {
            transaction.rollback().await?;
            return Err(Error::RunIsFinal {
                run_id,
                state: run.state,
            });
        }
        let instances: Vec<i64> = sqlx::query_file!("src/store/queries/read_states.sql", run_id.0)
            .fetch_all(&mut *transaction)
            .await?
            .into_iter()
            .map(|instance| instance.instance_id.0)
            .collect();
        sqlx::query_file_scalar!("src/store/queries/lock_dags_of_runs.sql", &[run_id.0][..])
            .fetch_all(&mut *transaction)
            .await?;
        sqlx::query_file_scalar!("src/store/queries/lock_gates_around.sql", &instances)
            .fetch_all(&mut *transaction)
            .await?;
        delete_waits(&mut transaction, &instances).await?;
        let stopped =
            sqlx::query_file_scalar!("src/store/queries/cancel_instances.sql", run_id.0, actor)
                .fetch_one(&mut *transaction)
                .await?;
        let gates = sqlx::query_file_scalar!("src/store/queries/leave_gates_of_run.sql", run_id.0)
            .fetch_all(&mut *transaction)
            .await?;
        sqlx::query_file!("src/store/queries/recount_instances.sql", run_id.0)
            .execute(&mut *transaction)
            .await?;
        sqlx::query_file!("src/store/queries/end_run.sql", run_id.0)
            .execute(&mut *transaction)
            .await?;
        let dag = self.definition_by(&mut transaction, run.version_id).await?;
        if !dag.alerts.deadlines.is_empty() {
            let cancelled = [run_id.0];
            alerts::end_deadlines(&mut transaction, &cancelled, &cancelled).await?;
        }
        let detail = json!({ "stopped": stopped });
        audit(
            &mut transaction,
            actor,
            "cancel",
            &run.dag_id,
            Some(run_id),
            &detail,
        )
        .await?;
        let mut step = Step::default();
        step.leave_gates(gates);
        if dag.tasks.iter().any(|task| task.flow.depends_on_previous) {
            // One that never started is nobody's run before.
            step.has_moved(run_id);
        }
        self.start_runs(&mut transaction, &BTreeSet::from([run.dag_id]), &mut step)
            .await?;
        self.finish(&mut transaction, &mut step).await?;
        transaction.commit().await?;
        Ok(RunState::Cancelled)
    }

    /// Takes final task instances back, so that they run again with as many tries as fresh ones. Old tries, outputs and
    /// logs stay. What was chosen must be final (a task that is queued, running or asleep is refused; one that waits will
    /// run anyway); what only comes along upstream or downstream and is in somebody's hands is left alone. A final run goes
    /// on running, beyond `max_active_runs` if need be. By the latest version, the run moves to it first.
    ///
    /// # Errors
    /// The run or a task is unknown, a chosen task is active, nothing is left to clear, a run that moves has an active task
    /// or params that do not fit, or Postgres is away.
    pub async fn clear(&self, request: ClearRequest) -> Result<Cleared, Error> {
        let run_id = request.run_id;
        let mut transaction = self.engine.begin().await?;
        let plan = match self.plan_clear(&mut transaction, &request).await {
            Ok(plan) => plan,
            Err(error) => {
                // Dropping it would roll back later, and keep the run locked until then.
                transaction.rollback().await?;
                return Err(error);
            }
        };
        let ClearPlan {
            run,
            dag,
            version_id,
            cleared,
            collapsed,
            travel,
        } = &plan;
        sqlx::query_file!("src/store/queries/allow_clearing.sql")
            .fetch_one(&mut *transaction)
            .await?;
        if let Some(travel) = travel {
            travel.carry_out(&mut transaction, run_id).await?;
        }
        let ids: Vec<i64> = cleared
            .iter()
            .map(|instance| instance.instance_id.0)
            .collect();
        let versions: Vec<i64> = vec![version_id.0; cleared.len()];
        let ordinals: Vec<i32> = cleared.iter().map(|instance| instance.ordinal).collect();
        sqlx::query_file!(
            "src/store/queries/clear_instances.sql",
            &ids,
            &versions,
            &ordinals
        )
        .execute(&mut *transaction)
        .await?;
        if !collapsed.is_empty() {
            sqlx::query_file!("src/store/queries/collapse_items.sql", run_id.0, collapsed)
                .execute(&mut *transaction)
                .await?;
        }
        sqlx::query_file!("src/store/queries/recount_instances.sql", run_id.0)
            .execute(&mut *transaction)
            .await?;
        sqlx::query_file!("src/store/queries/reopen_run.sql", run_id.0)
            .execute(&mut *transaction)
            .await?;

        let answer = plan.answer();
        let detail = json!({ "tasks": &answer.tasks, "moved": &answer.moved });
        audit(
            &mut transaction,
            &request.actor,
            "clear",
            &run.dag_id,
            Some(run_id),
            &detail,
        )
        .await?;
        let mut step = Step::default();
        if travel.is_some() {
            // The run after may have waited for a task that is gone.
            step.has_moved(run_id);
        }
        if dag.timeout.is_none() {
            sqlx::query_file!("src/store/queries/delete_run_limit.sql", run_id.0)
                .execute(&mut *transaction)
                .await?;
        }
        if run.state == RunState::Queued {
            self.note_nudges(&mut transaction, &mut step).await?;
        } else {
            step.knows(run_id, *version_id);
            if let (true, Some(timeout)) = (run.state.is_final(), dag.timeout) {
                limit_runs(&mut transaction, &[(run_id, timeout)], &mut step).await?;
            }
            let waiting =
                sqlx::query_file_as!(Counters, "src/store/queries/read_waiting.sql", run_id.0)
                    .fetch_all(&mut *transaction)
                    .await?;
            let finals = self.promote(&mut transaction, &waiting, &mut step).await?;
            self.cascade(&mut transaction, finals, &mut step).await?;
            self.finish(&mut transaction, &mut step).await?;
        }
        transaction.commit().await?;
        Ok(answer)
    }

    /// What [`Store::clear`] would do now. Changes nothing.
    ///
    /// # Errors
    /// As there.
    pub async fn preview_clear(&self, request: &ClearRequest) -> Result<Cleared, Error> {
        let mut transaction = self.engine.begin().await?;
        let plan = self.plan_clear(&mut transaction, request).await;
        transaction.rollback().await?;
        Ok(plan?.answer())
    }

    async fn plan_clear(
        &self,
        connection: &mut PgConnection,
        request: &ClearRequest,
    ) -> Result<ClearPlan, Error> {
        let run_id = request.run_id;
        let run = lock_run(connection, run_id)
            .await?
            .ok_or(Error::UnknownRun { run_id })?;
        let mut instances =
            sqlx::query_file_as!(Found, "src/store/queries/read_states.sql", run_id.0)
                .fetch_all(&mut *connection)
                .await?;
        let travel = match request.version {
            ClearVersion::Same => None,
            ClearVersion::Latest => {
                self.plan_travel(connection, run_id, &run, &instances, None)
                    .await?
            }
        };
        let version_id = travel.as_ref().map_or(run.version_id, |travel| travel.to);
        let dag = self.definition_by(connection, version_id).await?;
        if let Some(travel) = &travel {
            travel.place_all(&mut instances);
        }
        if let ClearSelection::Item { task, map_index } = &request.selection {
            let ordinals = named(&dag, task.as_str())?;
            let is_it =
                |one: &Found| ordinals.contains(&index(one.ordinal)) && one.map_index == *map_index;
            if !instances.iter().any(is_it) {
                return Err(Error::UnknownInstance {
                    run_id: request.run_id,
                    task_id: task.to_string(),
                    map_index: *map_index,
                });
            }
        }
        let chosen = choose(&dag, &instances, &request.selection, request.scope)?;
        let collapsed = lists_made_anew(&dag, &instances, &chosen)?;
        let cleared: Vec<_> = instances
            .into_iter()
            .filter(|instance| {
                instance.state.is_final()
                    && chosen.contains(&(index(instance.ordinal), instance.map_index))
            })
            .collect();
        let gets_tasks = travel
            .as_ref()
            .is_some_and(|travel| !travel.added.is_empty());
        if cleared.is_empty() && !gets_tasks {
            return Err(Error::NothingToClear { run_id });
        }
        Ok(ClearPlan {
            run,
            dag,
            version_id,
            cleared,
            collapsed,
            travel,
        })
    }

    /// Pauses a DAG, or lets it go on. A paused DAG gets no scheduled run and its queued runs do not start; running
    /// ones go on. Ticks that passed while it was paused are made up for as `catchup` says.
    ///
    /// # Errors
    /// The DAG is unknown, or Postgres is away.
    pub async fn set_paused(&self, dag: &DagId, paused: Paused, actor: &str) -> Result<(), Error> {
        let mut transaction = self.engine.begin().await?;
        let changed = sqlx::query_file!(
            "src/store/queries/set_paused.sql",
            dag.as_str(),
            paused == Paused::Paused
        )
        .execute(&mut *transaction)
        .await?;
        if changed.rows_affected() == 0 {
            transaction.rollback().await?;
            return Err(self.unknown_dag(dag.clone()).await?);
        }
        sqlx::query_file!(
            "src/store/queries/restart_silence.sql",
            dag.as_str(),
            paused == Paused::Paused
        )
        .execute(&mut *transaction)
        .await?;
        let action = match paused {
            Paused::Paused => "pause",
            Paused::Active => "unpause",
        };
        audit(&mut transaction, actor, action, dag, None, &json!({})).await?;
        let mut step = Step::default();
        let dags = BTreeSet::from([dag.clone()]);
        // What waited while it was paused makes one run; while it is paused this finds nothing.
        self.fire(&mut transaction, &dags, &mut step).await?;
        self.start_runs(&mut transaction, &dags, &mut step).await?;
        self.finish(&mut transaction, &mut step).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Takes task instances of a locked run out of everything that makes them run: what wakes, then what may be claimed.
pub(super) async fn delete_waits(
    connection: &mut PgConnection,
    instances: &[i64],
) -> Result<(), Error> {
    sqlx::query_file!("src/store/queries/delete_sleepers_of.sql", instances)
        .execute(&mut *connection)
        .await?;
    sqlx::query_file!("src/store/queries/delete_ready_of.sql", instances)
        .execute(&mut *connection)
        .await?;
    sqlx::query_file!("src/store/queries/delete_parked_of.sql", instances)
        .execute(connection)
        .await?;
    Ok(())
}

/// A task instance under its run's lock.
pub(super) struct Found {
    pub(super) instance_id: InstanceId,
    pub(super) ordinal: i32,
    pub(super) map_index: i32,
    pub(super) tries: i32,
    pub(super) state: TaskState,
}

/// What a clear will do.
struct ClearPlan {
    run: LockedRun,
    /// By which the run goes on.
    dag: Arc<Dag>,
    version_id: VersionId,
    /// What is taken back, with the places it has in `dag`.
    cleared: Vec<Found>,
    /// Places of mapped tasks whose list is made anew.
    collapsed: Vec<i32>,
    travel: Option<Travel>,
}

impl ClearPlan {
    fn answer(&self) -> Cleared {
        let name = |ordinal: i32| self.dag.tasks[index(ordinal)].id.clone();
        let added = self.travel.iter().flat_map(|travel| travel.added.iter());
        let ordinals: BTreeSet<i32> = self
            .cleared
            .iter()
            .map(|instance| instance.ordinal)
            .chain(added.copied())
            .collect();
        let mut instances: Vec<&Found> = self.cleared.iter().collect();
        instances.sort_by_key(|instance| (instance.ordinal, instance.map_index));
        Cleared {
            tasks: ordinals.into_iter().map(name).collect(),
            instances: instances
                .into_iter()
                .map(|instance| ClearedInstance {
                    task_id: name(instance.ordinal),
                    map_index: instance.map_index,
                    state: instance.state,
                    tries: instance.tries,
                })
                .collect(),
            moved: self.travel.as_ref().map(Travel::answer),
        }
    }
}

pub(super) fn index(ordinal: i32) -> usize {
    usize::try_from(ordinal).expect("ordinals are indices into the version's tasks")
}

/// What a clear is about: task instances, by ordinal and place in the list of a mapped task.
fn choose(
    dag: &Dag,
    instances: &[Found],
    selection: &ClearSelection,
    scope: ClearScope,
) -> Result<BTreeSet<(usize, i32)>, Error> {
    let place = |instance: &Found| (index(instance.ordinal), instance.map_index);
    let of = |wanted: &dyn Fn(&Found) -> bool| -> BTreeSet<(usize, i32)> {
        instances
            .iter()
            .filter(|instance| wanted(instance))
            .map(place)
            .collect()
    };
    let chosen = match selection {
        ClearSelection::WholeRun => of(&|_| true),
        ClearSelection::Failed => of(&|instance| match instance.state {
            TaskState::Failed | TaskState::UpstreamFailed | TaskState::Cancelled => true,
            TaskState::Waiting
            | TaskState::Queued
            | TaskState::Running
            | TaskState::Sleeping
            | TaskState::Success
            | TaskState::Skipped => false,
        }),
        ClearSelection::Tasks(tasks) => {
            let mut ordinals = BTreeSet::new();
            for task_id in tasks {
                ordinals.extend(named(dag, task_id.as_str())?);
            }
            of(&|instance| ordinals.contains(&index(instance.ordinal)))
        }
        ClearSelection::Item { task, map_index } => {
            let ordinals = named(dag, task.as_str())?;
            of(&|instance| {
                ordinals.contains(&index(instance.ordinal)) && instance.map_index == *map_index
            })
        }
    };
    for instance in instances
        .iter()
        .filter(|instance| chosen.contains(&place(instance)))
    {
        match instance.state {
            state @ (TaskState::Queued | TaskState::Running | TaskState::Sleeping) => {
                return Err(Error::TaskIsActive {
                    task_id: dag.tasks[index(instance.ordinal)].id.to_string(),
                    state,
                });
            }
            TaskState::Waiting
            | TaskState::Success
            | TaskState::Failed
            | TaskState::Skipped
            | TaskState::UpstreamFailed
            | TaskState::Cancelled => {}
        }
    }
    let begins: BTreeSet<usize> = chosen.iter().map(|(ordinal, _)| *ordinal).collect();
    let reached = match scope {
        ClearScope::Only => begins.clone(),
        ClearScope::WithUpstream => above(dag, begins.clone()),
        ClearScope::WithDownstream => below(dag, begins.clone()),
        // Not what is beside: what is downstream of something upstream alone.
        ClearScope::WithBoth => &above(dag, begins.clone()) | &below(dag, begins.clone()),
    };
    // What is prepared for a task was taken away after it.
    let reached = dag.with_setups_and_teardowns(reached);
    Ok(instances
        .iter()
        .map(place)
        .filter(|place| {
            chosen.contains(place) || reached.contains(&place.0) && !begins.contains(&place.0)
        })
        .collect())
}

/// The mapped tasks among what was chosen whose list is made anew: something above them runs again and may give another one,
/// or they are mapped no more. What is in somebody's hands would have its place taken, so nothing of these may be.
fn lists_made_anew(
    dag: &Dag,
    instances: &[Found],
    chosen: &BTreeSet<(usize, i32)>,
) -> Result<Vec<i32>, Error> {
    let is_chosen = |one: &&Found| chosen.contains(&(index(one.ordinal), one.map_index));
    let runs_again: BTreeSet<usize> = instances
        .iter()
        .filter(|one| !one.state.is_final() || is_chosen(one))
        .map(|one| index(one.ordinal))
        .collect();
    let kept: BTreeSet<i32> = instances
        .iter()
        .filter(|one| !is_chosen(one))
        .map(|one| one.ordinal)
        .collect();
    let has_items: BTreeSet<i32> = instances
        .iter()
        .filter(is_chosen)
        .filter(|one| one.map_index >= 0)
        .map(|one| one.ordinal)
        .collect();
    let mut anew = Vec::new();
    for ordinal in has_items.difference(&kept).copied() {
        let task = &dag.tasks[index(ordinal)];
        let is_anew = task.flow.foreach.is_none()
            || task.upstream.iter().any(|above| runs_again.contains(above));
        if !is_anew {
            continue;
        }
        let of_task = || instances.iter().filter(|one| one.ordinal == ordinal);
        let is_active = |one: &&Found| !one.state.is_final() && one.state != TaskState::Waiting;
        if of_task().all(|one| is_active(&one)) {
            // As any other task that comes along and runs: it is left alone.
            continue;
        }
        if let Some(active) = of_task().find(is_active) {
            return Err(Error::TaskIsActive {
                task_id: task.id.to_string(),
                state: active.state,
            });
        }
        anew.push(ordinal);
    }
    Ok(anew)
}

/// The tasks that a name stands for: one, or those of a group.
pub(super) fn named(dag: &Dag, name: &str) -> Result<BTreeSet<usize>, Error> {
    if let Some((ordinal, _)) = dag.task(name) {
        return Ok(BTreeSet::from([ordinal]));
    }
    let group: BTreeSet<usize> = dag
        .tasks
        .iter()
        .enumerate()
        .filter(|(_, task)| task.is_in(name))
        .map(|(ordinal, _)| ordinal)
        .collect();
    if group.is_empty() {
        return Err(unknown_task(dag, name));
    }
    Ok(group)
}

/// Ordinals are a topological order, so one pass reaches everything below.
fn below(dag: &Dag, mut chosen: BTreeSet<usize>) -> BTreeSet<usize> {
    for ordinal in 0..dag.tasks.len() {
        if chosen.contains(&ordinal) {
            chosen.extend(&dag.tasks[ordinal].downstream);
        }
    }
    chosen
}

fn above(dag: &Dag, mut chosen: BTreeSet<usize>) -> BTreeSet<usize> {
    for ordinal in (0..dag.tasks.len()).rev() {
        if chosen.contains(&ordinal) {
            chosen.extend(&dag.tasks[ordinal].upstream);
        }
    }
    chosen
}

pub(super) fn unknown_task(dag: &Dag, task_id: &str) -> Error {
    let nearest = dag
        .tasks
        .iter()
        .map(|task| {
            (
                strsim::jaro_winkler(task.id.as_str(), task_id),
                task.id.to_string(),
            )
        })
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, id)| id);
    Error::UnknownTask {
        dag_id: dag.id.clone(),
        task_id: task_id.to_owned(),
        nearest,
    }
}

/// Notes who did what, for people. What is about no DAG gives none.
pub(super) async fn audit<'a>(
    connection: &mut PgConnection,
    actor: &str,
    action: &str,
    dag_id: impl Into<Option<&'a DagId>>,
    run_id: Option<RunId>,
    detail: &serde_json::Value,
) -> Result<(), Error> {
    sqlx::query_file!(
        "src/store/queries/insert_audit.sql",
        actor,
        action,
        dag_id.into().map(DagId::as_str),
        run_id.map(|run_id| run_id.0),
        detail
    )
    .execute(connection)
    .await?;
    Ok(())
}
