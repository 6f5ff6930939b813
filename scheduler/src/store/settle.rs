//! The finisher promotes: one transaction writes how executions ended, moves the counters downstream, decides trigger
//! rules, closes runs, starts the next ones and claims the next tasks.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use pinwheel_tasks::{Failure, FailureClass};
use serde_json::Value;
use sqlx::PgConnection;

use super::{
    Appetite, Claimed, Effects, Error, Execution, LogLine, Store,
    claim::task_at,
    text::{storable, storable_value},
};
use crate::model::{
    DagId, InstanceId, RunId, RunState, SleepReason, TaskState, TryOutcome, VersionId,
    retry::{self, Decision, Tries},
    trigger_rule::{self, Upstream, Verdict},
};

/// An execution that has ended, with what is left to store about it.
#[derive(Debug)]
pub struct Ended {
    /// Which.
    pub execution: Execution,
    /// How.
    pub ending: Ending,
    /// Its last log lines; they are there before anyone sees the final state.
    pub lines: Vec<LogLine>,
    /// What its templates became, if they were templates.
    pub rendered: Option<Value>,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// It did its work.
    Success {
        /// What it answered.
        output: Value,
    },
    /// It decided that there is nothing to do.
    Skipped {
        /// Why.
        reason: String,
    },
    /// It waits by the clock, and the same try goes on later.
    Sleep {
        /// How long at least.
        wake_after: Duration,
        /// Why.
        reason: String,
        /// What it wants to find then.
        resume: Value,
    },
    /// It failed; the retry policy decides what follows.
    Failed(Failure),
    /// Its worker stops and gives it back; that costs no try.
    GivenBack,
}

/// What settling a batch did.
#[derive(Debug, Default)]
pub struct Settled {
    /// Executions whose fence no longer held: nothing was recorded for them.
    pub refused: Vec<InstanceId>,
    /// What the worker claimed for its free slots in the same transaction.
    pub claimed: Vec<Claimed>,
    /// Runs that became final.
    pub closed: Vec<(RunId, RunState)>,
    /// What is left for others.
    pub effects: Effects,
    made_ready: usize,
    touched_queued: bool,
}

impl Settled {
    pub(super) fn new(refused: BTreeSet<InstanceId>, step: Step) -> Self {
        Self {
            effects: step.effects(),
            refused: refused.into_iter().collect(),
            claimed: Vec::new(),
            closed: step.closed,
            made_ready: step.made_ready,
            touched_queued: step.touched_queued,
        }
    }
}

/// What becomes of an execution: the columns of its row.
struct Next {
    state: TaskState,
    sleep: Option<(SleepReason, Duration, String)>,
    resume: Option<Value>,
    tries: i32,
    lost: i32,
    history: Option<History>,
    output: Option<Value>,
}

struct History {
    outcome: Option<TryOutcome>,
    reason: Option<String>,
    hint: Option<String>,
    failure_class: Option<FailureClass>,
    exit_code: Option<i32>,
}

/// A task instance that has just become final.
#[derive(Clone, Copy)]
pub(super) struct Final {
    pub(super) run_id: RunId,
    pub(super) version_id: VersionId,
    pub(super) ordinal: i32,
    pub(super) state: TaskState,
}

/// The counters of a task instance as a statement returned them.
pub(super) struct Counters {
    pub(super) run_id: RunId,
    pub(super) ordinal: i32,
    pub(super) state: TaskState,
    pub(super) pending: i32,
    pub(super) ok: i32,
    pub(super) failed: i32,
    pub(super) upstream_failed: i32,
    pub(super) skipped: i32,
}

/// A transaction that changes runs, on its way: what it must still subtract from them, and what it has done.
#[derive(Default)]
pub(super) struct Step {
    versions: BTreeMap<RunId, VersionId>,
    /// Finished task instances and failures, by run.
    finished: BTreeMap<RunId, (i32, i32)>,
    pub(super) closed: Vec<(RunId, RunState)>,
    made_ready: usize,
    /// Counters of a queued task instance were touched: a claim may have skipped it meanwhile.
    touched_queued: bool,
    pub(super) effects: Effects,
}

impl Step {
    pub(super) fn effects(&self) -> Effects {
        let work = self.made_ready > 0 || self.touched_queued;
        self.effects.and(Effects {
            work,
            ..Effects::default()
        })
    }

    pub(super) fn knows(&mut self, run_id: RunId, version_id: VersionId) {
        self.versions.insert(run_id, version_id);
    }
}

impl Store {
    /// Settles a batch in one transaction. An execution whose fence does not hold is refused and changes nothing.
    /// Calling it again with the same batch after a lost answer is harmless: what was recorded then is not refused now.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached; nothing is known about the batch then.
    pub async fn settle(&self, batch: &[Ended]) -> Result<Settled, Error> {
        let mut transaction = self.engine.begin().await?;
        let settled = self.settle_in(&mut transaction, batch).await?;
        transaction.commit().await?;
        Ok(settled)
    }

    /// [`Store::settle`], and a claim for the freed slots in the same transaction.
    ///
    /// # Errors
    /// As there; what a lost answer claimed is found by [`Store::held_by`].
    pub async fn settle_and_claim(
        &self,
        batch: &[Ended],
        appetite: Appetite<'_>,
    ) -> Result<Settled, Error> {
        let mut transaction = self.engine.begin().await?;
        let mut settled = self.settle_in(&mut transaction, batch).await?;
        settled.claimed = self.claim_by(&mut transaction, appetite).await?;
        transaction.commit().await?;
        // What was made claimable here was claimed here: nobody else needs to wake up for it.
        settled.effects.work &=
            settled.made_ready > settled.claimed.len() || settled.touched_queued;
        Ok(settled)
    }

    async fn settle_in(
        &self,
        connection: &mut PgConnection,
        batch: &[Ended],
    ) -> Result<Settled, Error> {
        let mut step = Step::default();
        let mut refused = self.settle_by(connection, batch, &mut step).await?;
        if !refused.is_empty() {
            self.forgive_recorded(connection, batch, &mut refused)
                .await?;
        }
        Ok(Settled::new(refused, step))
    }

    /// Records a failure in place of a result that Postgres refuses to store, without anything it brought along.
    ///
    /// # Errors
    /// Postgres refused that as well, or cannot be reached.
    pub async fn settle_unstorable(
        &self,
        ended: &Ended,
        failure: &Failure,
    ) -> Result<Settled, Error> {
        let in_its_place = Ended {
            execution: ended.execution.same(),
            ending: Ending::Failed(failure.clone()),
            lines: Vec::new(),
            rendered: None,
        };
        self.settle(&[in_its_place]).await
    }

    /// Takes those out of `refused` that an earlier call recorded whose answer was lost.
    async fn forgive_recorded(
        &self,
        connection: &mut PgConnection,
        batch: &[Ended],
        refused: &mut BTreeSet<InstanceId>,
    ) -> Result<(), Error> {
        let doubtful = || {
            batch
                .iter()
                .map(|ended| &ended.execution)
                .filter(|execution| refused.contains(&execution.instance_id))
        };
        let instances: Vec<i64> = doubtful()
            .map(|execution| execution.instance_id.0)
            .collect();
        let epochs: Vec<i32> = doubtful().map(|execution| execution.epoch).collect();
        let workers: Vec<i64> = doubtful().map(|execution| execution.worker_id.0).collect();
        let recorded = sqlx::query_file_scalar!(
            "src/store/queries/read_recorded.sql",
            &instances,
            &epochs,
            &workers
        )
        .fetch_all(connection)
        .await?;
        for instance_id in recorded {
            refused.remove(&instance_id);
        }
        Ok(())
    }

    /// The settle step inside a transaction of the caller's; returns what was refused.
    pub(super) async fn settle_by(
        &self,
        connection: &mut PgConnection,
        batch: &[Ended],
        step: &mut Step,
    ) -> Result<BTreeSet<InstanceId>, Error> {
        if batch.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut next = Vec::with_capacity(batch.len());
        for ended in batch {
            let dag = self
                .definition_by(connection, ended.execution.version_id)
                .await?;
            next.push(what_next(ended, task_at(&dag, ended.execution.ordinal)));
        }
        self.lock_runs_of(connection, batch, step).await?;
        let accepted = write_outcomes(connection, batch, &next).await?;
        let accepted_now = || {
            batch
                .iter()
                .zip(&next)
                .filter(|(ended, _)| accepted.contains(&ended.execution.instance_id))
        };

        write_attachments(connection, batch).await?;
        write_sleepers(connection, accepted_now()).await?;
        forget_resumes(connection, accepted_now()).await?;
        requeue(connection, accepted_now(), step).await?;
        if accepted_now().any(|(_, next)| next.sleep.is_some()) {
            step.effects.deadline = true;
        }
        let finals = accepted_now()
            .filter(|(_, next)| next.state.is_final())
            .map(|(ended, next)| Final {
                run_id: ended.execution.run_id,
                version_id: ended.execution.version_id,
                ordinal: ended.execution.ordinal,
                state: next.state,
            })
            .collect();
        self.cascade(connection, finals, step).await?;
        self.finish(connection, step).await?;
        Ok(batch
            .iter()
            .map(|ended| ended.execution.instance_id)
            .filter(|instance_id| !accepted.contains(instance_id))
            .collect())
    }

    async fn lock_runs_of(
        &self,
        connection: &mut PgConnection,
        batch: &[Ended],
        step: &mut Step,
    ) -> Result<(), Error> {
        let runs: BTreeSet<i64> = batch.iter().map(|ended| ended.execution.run_id.0).collect();
        let runs: Vec<i64> = runs.into_iter().collect();
        let locked = sqlx::query_file!("src/store/queries/lock_runs.sql", &runs)
            .fetch_all(connection)
            .await?;
        for run in locked {
            step.knows(run.run_id, run.version_id);
        }
        Ok(())
    }

    /// Carries final states downstream until nothing changes: counters, verdicts, promotions, and again for what the
    /// verdicts made final.
    pub(super) async fn cascade(
        &self,
        connection: &mut PgConnection,
        mut finals: Vec<Final>,
        step: &mut Step,
    ) -> Result<(), Error> {
        while !finals.is_empty() {
            self.count_finished(connection, &finals, step).await?;
            let has_downstream = finals.iter().any(|last| {
                self.known_definition(last.version_id)
                    .is_none_or(|dag| !task_at(&dag, last.ordinal).downstream.is_empty())
            });
            if !has_downstream {
                return Ok(());
            }
            let counters = count_outcomes(connection, &finals).await?;
            finals = self.promote(connection, &counters, step).await?;
        }
        Ok(())
    }

    async fn count_finished(
        &self,
        connection: &mut PgConnection,
        finals: &[Final],
        step: &mut Step,
    ) -> Result<(), Error> {
        for last in finals {
            let dag = self.definition_by(connection, last.version_id).await?;
            let fails_run = matches!(last.state, TaskState::Failed | TaskState::Cancelled)
                && !task_at(&dag, last.ordinal).allow_failure;
            let (finished, failures) = step.finished.entry(last.run_id).or_default();
            *finished += 1;
            *failures += i32::from(fails_run);
        }
        Ok(())
    }

    /// Decides the trigger rules of waiting task instances and writes what was decided; returns what became final.
    pub(super) async fn promote(
        &self,
        connection: &mut PgConnection,
        counters: &[Counters],
        step: &mut Step,
    ) -> Result<Vec<Final>, Error> {
        let mut promoted = Vec::new();
        for row in counters {
            match row.state {
                TaskState::Waiting => {}
                TaskState::Queued => {
                    step.touched_queued = true;
                    continue;
                }
                TaskState::Running
                | TaskState::Sleeping
                | TaskState::Success
                | TaskState::Failed
                | TaskState::Skipped
                | TaskState::UpstreamFailed
                | TaskState::Cancelled => continue,
            }
            let version_id = *step
                .versions
                .get(&row.run_id)
                .expect("every run of a step is locked and noted first");
            let dag = self.definition_by(connection, version_id).await?;
            let task = task_at(&dag, row.ordinal);
            let state = match trigger_rule::decide(
                task.trigger_rule,
                &upstream(task.upstream.len(), row),
            ) {
                Verdict::Wait { .. } => continue,
                Verdict::Run { .. } => TaskState::Queued,
                Verdict::Skip { .. } => TaskState::Skipped,
                Verdict::UpstreamFailed { .. } => TaskState::UpstreamFailed,
            };
            promoted.push(Final {
                run_id: row.run_id,
                version_id,
                ordinal: row.ordinal,
                state,
            });
        }
        write_promotions(connection, &promoted).await?;
        let (finals, queued): (Vec<_>, Vec<_>) =
            promoted.into_iter().partition(|one| one.state.is_final());
        step.made_ready += queued.len();
        Ok(finals)
    }

    /// Subtracts what finished from the runs, closes those at zero, and starts the next runs of their DAGs.
    pub(super) async fn finish(
        &self,
        connection: &mut PgConnection,
        step: &mut Step,
    ) -> Result<(), Error> {
        while !step.finished.is_empty() {
            let finished = std::mem::take(&mut step.finished);
            let runs: Vec<i64> = finished.keys().map(|run_id| run_id.0).collect();
            let counts: Vec<i32> = finished.values().map(|(finished, _)| *finished).collect();
            let failures: Vec<i32> = finished.values().map(|(_, failures)| *failures).collect();
            let rows = sqlx::query_file!(
                "src/store/queries/count_down_runs.sql",
                &runs,
                &counts,
                &failures
            )
            .fetch_all(&mut *connection)
            .await?;
            let mut dags = BTreeSet::new();
            for run in rows {
                if run.state.is_final() {
                    step.closed.push((run.run_id, run.state));
                    dags.insert(run.dag_id);
                }
            }
            self.start_runs(connection, &dags, step).await?;
        }
        Ok(())
    }

    /// Starts queued runs of these DAGs as far as `max_active_runs` allows, and queues the tasks that begin.
    pub(super) async fn start_runs(
        &self,
        connection: &mut PgConnection,
        dags: &BTreeSet<DagId>,
        step: &mut Step,
    ) -> Result<(), Error> {
        if dags.is_empty() {
            return Ok(());
        }
        let dags: Vec<String> = dags.iter().map(|dag| dag.as_str().to_owned()).collect();
        sqlx::query_file_scalar!("src/store/queries/lock_dags.sql", &dags)
            .fetch_all(&mut *connection)
            .await?;
        let started = sqlx::query_file!("src/store/queries/start_runs.sql", &dags)
            .fetch_all(&mut *connection)
            .await?;
        let mut counters = Vec::new();
        for run in &started {
            step.knows(run.run_id, run.version_id);
            if run.unfinished == 0 {
                step.finished.entry(run.run_id).or_default();
            }
            let dag = self.definition_by(connection, run.version_id).await?;
            counters.extend(dag.tasks.iter().zip(0..).map(|(task, ordinal)| Counters {
                run_id: run.run_id,
                ordinal,
                state: TaskState::Waiting,
                pending: i32::try_from(task.upstream.len()).unwrap_or(i32::MAX),
                ok: 0,
                failed: 0,
                upstream_failed: 0,
                skipped: 0,
            }));
        }
        let finals = self.promote(connection, &counters, step).await?;
        self.cascade(connection, finals, step).await
    }
}

fn upstream(total: usize, row: &Counters) -> Upstream {
    let count = |number: i32| {
        u32::try_from(number).expect("a constraint keeps counters from being negative")
    };
    Upstream {
        total: u32::try_from(total).unwrap_or(u32::MAX),
        pending: count(row.pending),
        ok: count(row.ok),
        failed: count(row.failed),
        upstream_failed: count(row.upstream_failed),
        skipped: count(row.skipped),
    }
}

fn what_next(ended: &Ended, task: &crate::model::Task) -> Next {
    let execution = &ended.execution;
    let plain = |state, outcome, reason| Next {
        state,
        sleep: None,
        resume: None,
        tries: execution.tries,
        lost: 0,
        history: Some(History {
            outcome: Some(outcome),
            reason,
            hint: None,
            failure_class: None,
            exit_code: None,
        }),
        output: None,
    };
    // A try that begins again from its start was not begun; one that goes on after a sleep was begun long ago.
    let tries_before = if execution.continues {
        execution.tries
    } else {
        execution.tries - 1
    };
    match &ended.ending {
        Ending::Success { output } => Next {
            output: Some(storable_value(output)),
            ..plain(TaskState::Success, TryOutcome::Success, None)
        },
        Ending::Skipped { reason } => plain(
            TaskState::Skipped,
            TryOutcome::Skipped,
            Some(reason.clone()),
        ),
        Ending::Sleep {
            wake_after,
            reason,
            resume,
        } => Next {
            state: TaskState::Sleeping,
            sleep: Some((SleepReason::Deferred, *wake_after, reason.clone())),
            resume: Some(storable_value(resume)),
            tries: execution.tries,
            lost: 0,
            history: Some(History {
                outcome: None,
                reason: Some(reason.clone()),
                hint: None,
                failure_class: None,
                exit_code: None,
            }),
            output: None,
        },
        Ending::GivenBack => Next {
            state: TaskState::Queued,
            sleep: None,
            resume: None,
            tries: tries_before,
            lost: 0,
            history: None,
            output: None,
        },
        Ending::Failed(failure) => {
            let is_lost = failure.class == FailureClass::Lost;
            let number = |value: i32| u32::try_from(value).unwrap_or(0);
            let decision = retry::decide(
                task,
                failure.class,
                Tries {
                    begun: number(execution.tries),
                    allowed: number(execution.tries_allowed),
                    lost: number(execution.lost) + u32::from(is_lost),
                },
            );
            let history = History {
                outcome: Some(outcome_of(failure.class)),
                reason: Some(failure.message.clone()),
                hint: failure.hint.clone(),
                failure_class: Some(failure.class),
                exit_code: failure.exit_code,
            };
            let (state, tries, sleep) = match decision {
                Decision::Fail { .. } => (TaskState::Failed, execution.tries, None),
                Decision::Again => (TaskState::Queued, tries_before, None),
                Decision::Retry { after } => (
                    TaskState::Sleeping,
                    execution.tries,
                    Some((SleepReason::Retry, after, failure.message.clone())),
                ),
            };
            Next {
                state,
                sleep,
                resume: None,
                tries,
                lost: i32::from(is_lost),
                history: Some(history),
                output: None,
            }
        }
    }
}

fn outcome_of(class: FailureClass) -> TryOutcome {
    match class {
        FailureClass::Retryable
        | FailureClass::Permanent
        | FailureClass::Panic
        | FailureClass::Killed => TryOutcome::Failed,
        FailureClass::Timeout => TryOutcome::Timeout,
        FailureClass::Lost => TryOutcome::Lost,
        FailureClass::Cancelled => TryOutcome::Cancelled,
    }
}

fn class_name(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Retryable => "retryable",
        FailureClass::Permanent => "permanent",
        FailureClass::Timeout => "timeout",
        FailureClass::Panic => "panic",
        FailureClass::Killed => "killed",
        FailureClass::Lost => "lost",
        FailureClass::Cancelled => "cancelled",
    }
}

async fn write_outcomes(
    connection: &mut PgConnection,
    batch: &[Ended],
    next: &[Next],
) -> Result<HashSet<InstanceId>, Error> {
    let executions = || batch.iter().map(|ended| &ended.execution);
    let histories = || next.iter().map(|next| next.history.as_ref());
    let text = |text: &Option<String>| text.as_deref().map(|text| storable(text).into_owned());
    let instances: Vec<i64> = executions()
        .map(|execution| execution.instance_id.0)
        .collect();
    let epochs: Vec<i32> = executions().map(|execution| execution.epoch).collect();
    let workers: Vec<i64> = executions()
        .map(|execution| execution.worker_id.0)
        .collect();
    let states: Vec<TaskState> = next.iter().map(|next| next.state).collect();
    let sleeps: Vec<Option<SleepReason>> = next
        .iter()
        .map(|next| next.sleep.as_ref().map(|(reason, _, _)| *reason))
        .collect();
    let tries: Vec<i32> = next.iter().map(|next| next.tries).collect();
    let lost: Vec<i32> = next.iter().map(|next| next.lost).collect();
    let outcomes: Vec<Option<TryOutcome>> = histories().map(|history| history?.outcome).collect();
    let reasons: Vec<Option<String>> = histories().map(|history| text(&history?.reason)).collect();
    let hints: Vec<Option<String>> = histories().map(|history| text(&history?.hint)).collect();
    let classes: Vec<Option<&str>> = histories()
        .map(|history| history?.failure_class.map(class_name))
        .collect();
    let exit_codes: Vec<Option<i32>> = histories().map(|history| history?.exit_code).collect();
    let outputs: Vec<Option<Value>> = next
        .iter()
        .map(|next| {
            next.output
                .clone()
                .filter(|output| output.as_object().is_none_or(|output| !output.is_empty()))
        })
        .collect();
    let try_numbers: Vec<i32> = executions().map(|execution| execution.tries).collect();
    let recorded: Vec<bool> = histories().map(|history| history.is_some()).collect();
    let settled = sqlx::query_file_scalar!(
        "src/store/queries/settle_instances.sql",
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
    )
    .fetch_all(connection)
    .await?;
    Ok(settled.into_iter().collect())
}

/// Writes log lines and rendered templates, also of refused executions: they say what happened.
async fn write_attachments(connection: &mut PgConnection, batch: &[Ended]) -> Result<(), Error> {
    let lines: Vec<&LogLine> = batch.iter().flat_map(|ended| &ended.lines).collect();
    super::log::insert_lines(connection, &lines).await?;
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
    super::log::upsert_rendered(connection, &rendered).await
}

async fn write_sleepers<'a>(
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
async fn forget_resumes<'a>(
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

async fn requeue<'a>(
    connection: &mut PgConnection,
    accepted: impl Iterator<Item = (&'a Ended, &'a Next)>,
    step: &mut Step,
) -> Result<(), Error> {
    let again: Vec<&Execution> = accepted
        .filter(|(_, next)| next.state == TaskState::Queued)
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

async fn count_outcomes(
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

async fn write_promotions(connection: &mut PgConnection, promoted: &[Final]) -> Result<(), Error> {
    if promoted.is_empty() {
        return Ok(());
    }
    let (runs, versions, ordinals, states) = columns(promoted);
    sqlx::query_file!(
        "src/store/queries/promote_instances.sql",
        &runs,
        &versions,
        &ordinals,
        &states as &[TaskState]
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn columns(rows: &[Final]) -> (Vec<i64>, Vec<i64>, Vec<i32>, Vec<TaskState>) {
    (
        rows.iter().map(|row| row.run_id.0).collect(),
        rows.iter().map(|row| row.version_id.0).collect(),
        rows.iter().map(|row| row.ordinal).collect(),
        rows.iter().map(|row| row.state).collect(),
    )
}
