//! The rows of a settling transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::{
    Counters, Ended, Ending, Final, Step,
    next::{Next, class_name},
};
use crate::{
    model::{
        Dag, DagId, InstanceId, RunId, RunState, SleepReason, TaskState, TryOutcome, VersionId,
    },
    store::{
        Appetite, Error, Execution, LogLine,
        claim::{ClaimRow, task_at},
        gates::Gates,
        log,
        text::storable,
    },
};

/// What the settling statement says about one row.
pub(super) enum Written {
    /// The execution was still owned and is settled.
    Settled(InstanceId),
    /// A task instance downstream, with its counters as they are now: its rule is still to be decided.
    Counted(Counters),
    /// A task instance downstream that runs because everything above succeeded; it may be claimed.
    Promoted,
    /// The same, and it is the worker's already.
    Started(Box<ClaimRow>),
    /// A run that has become final.
    Closed(RunId, DagId, RunState),
    /// A gate that a settled execution has left.
    Left(String),
}

struct Row {
    what: String,
    instance_id: Option<InstanceId>,
    run_id: Option<RunId>,
    ordinal: Option<i32>,
    state: Option<TaskState>,
    pending: Option<i32>,
    ok: Option<i32>,
    failed: Option<i32>,
    upstream_failed: Option<i32>,
    skipped: Option<i32>,
    epoch: Option<i32>,
    tries: Option<i32>,
    tries_allowed: Option<i32>,
    lost: Option<i32>,
    version_id: Option<VersionId>,
    dag_id: Option<DagId>,
    run_state: Option<RunState>,
    logical_date: Option<DateTime<Utc>>,
    data_interval_start: Option<DateTime<Utc>>,
    data_interval_end: Option<DateTime<Utc>>,
    params: Option<Value>,
    gate: Option<String>,
}

impl Row {
    fn read(self) -> Option<Written> {
        match self.what.as_str() {
            "settled" => Some(Written::Settled(self.instance_id?)),
            "counted" => Some(Written::Counted(Counters {
                instance_id: self.instance_id,
                run_id: self.run_id?,
                ordinal: self.ordinal?,
                state: self.state?,
                pending: self.pending?,
                ok: self.ok?,
                failed: self.failed?,
                upstream_failed: self.upstream_failed?,
                skipped: self.skipped?,
            })),
            "promoted" => Some(Written::Promoted),
            "started" => Some(Written::Started(Box::new(ClaimRow {
                instance_id: self.instance_id,
                run_id: self.run_id,
                ordinal: self.ordinal,
                epoch: self.epoch,
                tries: self.tries,
                tries_allowed: self.tries_allowed,
                lost: self.lost,
                dag_id: self.dag_id,
                version_id: self.version_id,
                logical_date: self.logical_date,
                data_interval_start: self.data_interval_start,
                data_interval_end: self.data_interval_end,
                params: self.params,
                ..ClaimRow::default()
            }))),
            "closed" => Some(Written::Closed(self.run_id?, self.dag_id?, self.run_state?)),
            "left" => Some(Written::Left(self.gate?)),
            _unknown => None,
        }
    }
}

/// Writes how the executions at `group` ended, and what follows from it for counters and runs.
pub(super) async fn outcomes(
    connection: &mut PgConnection,
    batch: &[Ended],
    next: &[Next],
    group: &[usize],
    appetite: Appetite<'_>,
    fails_run: impl Fn(&Execution) -> bool,
) -> Result<Vec<Written>, Error> {
    let batch = || group.iter().map(|position| &batch[*position]);
    let next = || group.iter().map(|position| &next[*position]);
    let executions = || batch().map(|ended| &ended.execution);
    let histories = || next().map(|next| next.history.as_ref());
    let text = |text: &Option<String>| text.as_deref().map(|text| storable(text).into_owned());
    let runs: BTreeSet<i64> = executions().map(|execution| execution.run_id.0).collect();
    let runs: Vec<i64> = runs.into_iter().collect();
    let instances: Vec<i64> = executions()
        .map(|execution| execution.instance_id.0)
        .collect();
    let epochs: Vec<i32> = executions().map(|execution| execution.epoch).collect();
    let workers: Vec<i64> = executions()
        .map(|execution| execution.worker_id.0)
        .collect();
    let states: Vec<TaskState> = next().map(|next| next.state).collect();
    let sleeps: Vec<Option<SleepReason>> = next()
        .map(|next| next.sleep.as_ref().map(|(reason, _, _)| *reason))
        .collect();
    let tries: Vec<i32> = next().map(|next| next.tries).collect();
    let lost: Vec<i32> = next().map(|next| next.lost).collect();
    let outcomes: Vec<Option<TryOutcome>> = histories().map(|history| history?.outcome).collect();
    let reasons: Vec<Option<String>> = histories().map(|history| text(&history?.reason)).collect();
    let hints: Vec<Option<String>> = histories().map(|history| text(&history?.hint)).collect();
    let classes: Vec<Option<&str>> = histories()
        .map(|history| history?.failure_class.map(class_name))
        .collect();
    let exit_codes: Vec<Option<i32>> = histories().map(|history| history?.exit_code).collect();
    let outputs: Vec<Option<Value>> = next()
        .map(|next| {
            next.output
                .clone()
                .filter(|output| output.as_object().is_none_or(|output| !output.is_empty()))
        })
        .collect();
    let try_numbers: Vec<i32> = executions().map(|execution| execution.tries).collect();
    let recorded: Vec<bool> = histories().map(|history| history.is_some()).collect();
    let fails_run: Vec<bool> = executions()
        .zip(next())
        .map(|(execution, next)| next.state == TaskState::Failed && fails_run(execution))
        .collect();
    let ago = |instant: Instant| instant.elapsed().as_secs_f64();
    let began_ago: Vec<Option<f64>> = batch()
        .map(|ended| ended.span.map(|span| ago(span.began)))
        .collect();
    let ended_ago: Vec<f64> = batch()
        .map(|ended| ended.span.map_or(0.0, |span| ago(span.ended)))
        .collect();
    let versions: Vec<i64> = executions()
        .map(|execution| execution.version_id.0)
        .collect();
    let rows = sqlx::query_file_as!(
        Row,
        "src/store/queries/settle_instances.sql",
        &runs,
        &instances,
        &epochs,
        &workers,
        &states as &[TaskState],
        &sleeps as &[Option<SleepReason>],
        &tries,
        &lost,
        &outcomes as &[Option<TryOutcome>],
        &reasons as &[Option<String>],
        &hints as &[Option<String>],
        &classes as &[Option<&str>],
        &exit_codes as &[Option<i32>],
        &outputs as &[Option<Value>],
        &try_numbers,
        &recorded,
        &fails_run,
        &began_ago as &[Option<f64>],
        &ended_ago,
        &versions,
        appetite.worker_id.0,
        i32::try_from(appetite.slots).unwrap_or(i32::MAX),
        appetite.queues,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().filter_map(Row::read).collect())
}

/// Subtracts final task instances from their runs; returns those that have become final.
pub(super) async fn count_down(
    connection: &mut PgConnection,
    finished: &BTreeMap<RunId, (i32, i32)>,
) -> Result<Vec<(RunId, DagId, RunState)>, Error> {
    let runs: Vec<i64> = finished.keys().map(|run_id| run_id.0).collect();
    let counts: Vec<i32> = finished.values().map(|(finished, _)| *finished).collect();
    let failures: Vec<i32> = finished.values().map(|(_, failures)| *failures).collect();
    let rows = sqlx::query_file!(
        "src/store/queries/count_down_runs.sql",
        &runs,
        &counts,
        &failures
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .filter(|run| run.state.is_final())
        .map(|run| (run.run_id, run.dag_id, run.state))
        .collect())
}

/// Writes log lines and rendered templates, also of refused executions: they say what happened.
pub(super) async fn attachments(
    connection: &mut PgConnection,
    batch: &[Ended],
) -> Result<(), Error> {
    let lines: Vec<&LogLine> = batch.iter().flat_map(|ended| &ended.lines).collect();
    log::insert_lines(connection, &lines).await?;
    let rendered: Vec<_> = batch
        .iter()
        .filter_map(|ended| {
            Some((
                ended.execution.instance_id,
                ended.execution.tries,
                ended.rendered.as_ref()?,
            ))
        })
        .collect();
    log::upsert_rendered(connection, &rendered).await
}

pub(super) async fn sleepers<'a>(
    connection: &mut PgConnection,
    accepted: impl Iterator<Item = (&'a Ended, &'a Next)>,
) -> Result<(), Error> {
    let mut instances = Vec::new();
    let mut runs = Vec::new();
    let mut wake_after = Vec::new();
    let mut reasons = Vec::new();
    let mut resumes: Vec<Option<Value>> = Vec::new();
    for (ended, next) in accepted {
        if let Some((_, after, reason)) = &next.sleep {
            instances.push(ended.execution.instance_id.0);
            runs.push(ended.execution.run_id.0);
            wake_after.push(after.as_secs_f64());
            reasons.push(storable(reason).into_owned());
            resumes.push(next.resume.clone());
        }
    }
    if !instances.is_empty() {
        sqlx::query_file!(
            "src/store/queries/sleep_instances.sql",
            &instances,
            &runs,
            &wake_after,
            &reasons,
            &resumes as &[Option<Value>],
        )
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// A try that went on after a sleep and has now ended leaves nothing to resume.
pub(super) async fn forget_resumes<'a>(
    connection: &mut PgConnection,
    accepted: impl Iterator<Item = (&'a Ended, &'a Next)>,
) -> Result<(), Error> {
    let over: Vec<i64> = accepted
        .filter(|(ended, next)| {
            ended.execution.continues
                && match next.state {
                    TaskState::Queued => false,
                    TaskState::Sleeping => next.resume.is_none(),
                    TaskState::Waiting
                    | TaskState::Running
                    | TaskState::Success
                    | TaskState::Failed
                    | TaskState::Skipped
                    | TaskState::UpstreamFailed
                    | TaskState::Cancelled => true,
                }
        })
        .map(|(ended, _)| ended.execution.instance_id.0)
        .collect();
    if !over.is_empty() {
        sqlx::query_file!("src/store/queries/delete_resumes.sql", &over)
            .execute(connection)
            .await?;
    }
    Ok(())
}

pub(super) async fn requeue<'a>(
    connection: &mut PgConnection,
    accepted: impl Iterator<Item = (&'a Ended, &'a Next)>,
    step: &mut Step,
) -> Result<(), Error> {
    let again: Vec<&Execution> = accepted
        .filter(|(ended, next)| {
            next.state == TaskState::Queued && !matches!(ended.ending, Ending::Expanded { .. })
        })
        .map(|(ended, _)| &ended.execution)
        .collect();
    if again.is_empty() {
        return Ok(());
    }
    step.made_ready += again.len();
    let instances: Vec<i64> = again
        .iter()
        .map(|execution| execution.instance_id.0)
        .collect();
    let runs: Vec<i64> = again.iter().map(|execution| execution.run_id.0).collect();
    let versions: Vec<i64> = again
        .iter()
        .map(|execution| execution.version_id.0)
        .collect();
    let ordinals: Vec<i32> = again.iter().map(|execution| execution.ordinal).collect();
    sqlx::query_file!(
        "src/store/queries/insert_ready.sql",
        &instances,
        &runs,
        &versions,
        &ordinals
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn count_outcomes(
    connection: &mut PgConnection,
    finals: &[Final],
) -> Result<Vec<Counters>, Error> {
    let (runs, versions, ordinals, states) = columns(finals);
    Ok(sqlx::query_file_as!(
        Counters,
        "src/store/queries/count_outcomes.sql",
        &runs,
        &versions,
        &ordinals,
        &states as &[TaskState]
    )
    .fetch_all(connection)
    .await?)
}

/// Writes the states that trigger rules decided on, and says how many became claimable. The definitions are known: a verdict was made from each.
pub(super) async fn promotions(
    connection: &mut PgConnection,
    promoted: &[Final],
    gates: &[Gates],
    definition: impl Fn(VersionId) -> Option<Arc<Dag>>,
) -> Result<usize, Error> {
    if promoted.is_empty() {
        return Ok(0);
    }
    let mut runs = Vec::with_capacity(promoted.len());
    let mut ordinals = Vec::with_capacity(promoted.len());
    let mut states = Vec::with_capacity(promoted.len());
    let mut pools = Vec::with_capacity(promoted.len());
    let mut queues = Vec::with_capacity(promoted.len());
    let mut priorities = Vec::with_capacity(promoted.len());
    let mut slots = Vec::with_capacity(promoted.len());
    let mut queue_timeouts = Vec::with_capacity(promoted.len());
    let mut last: Option<(VersionId, Arc<Dag>)> = None;
    for row in promoted {
        let dag = match &last {
            Some((version, dag)) if *version == row.version_id => Arc::clone(dag),
            Some(_) | None => definition(row.version_id).ok_or(Error::UnknownVersion {
                version_id: row.version_id,
            })?,
        };
        let task = task_at(&dag, row.ordinal);
        runs.push(row.run_id.0);
        ordinals.push(row.ordinal);
        states.push(row.state);
        pools.push(task.pool.clone());
        queues.push(task.queue.clone());
        priorities.push(task.priority);
        slots.push(i32::try_from(task.slots).unwrap_or(i32::MAX));
        queue_timeouts.push(task.queue_timeout.map(|timeout| timeout.as_secs_f64()));
        last = Some((row.version_id, dag));
    }
    let run_gates: Vec<Option<String>> = gates.iter().map(|gates| gates.of_run.clone()).collect();
    let key_gates: Vec<Option<String>> = gates.iter().map(|gates| gates.of_key.clone()).collect();
    let made = sqlx::query_file!(
        "src/store/queries/promote_instances.sql",
        &runs,
        &ordinals,
        &states as &[TaskState],
        &pools,
        &queues,
        &priorities,
        &slots,
        &run_gates as &[Option<String>],
        &key_gates as &[Option<String>],
        &queue_timeouts as &[Option<f64>],
    )
    .execute(connection)
    .await?;
    Ok(usize::try_from(made.rows_affected()).unwrap_or(usize::MAX))
}

fn columns(rows: &[Final]) -> (Vec<i64>, Vec<i64>, Vec<i32>, Vec<TaskState>) {
    (
        rows.iter().map(|row| row.run_id.0).collect(),
        rows.iter().map(|row| row.version_id.0).collect(),
        rows.iter().map(|row| row.ordinal).collect(),
        rows.iter().map(|row| row.state).collect(),
    )
}
