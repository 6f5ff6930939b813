//! Mends what a check has found: run by run, in small transactions, while a busy engine goes on.
//!
//! The look was taken without locks, so every mend looks again under the run's lock and changes what it still finds wrong.
//! A run's lock keeps everybody from its task instances but a claim and a wake-up; both are whole in every statement's
//! snapshot, and what they might take meanwhile is locked first. Each transaction takes runs, DAG rows, gates and ready
//! rows in the order of the whole store.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sqlx::{PgConnection, Postgres, Transaction};

use super::{
    Checked, Error, Finding, FindingKind, Store,
    check::lost_tick,
    claim::task_at,
    gates,
    people::{LockedRun, lock_run},
    settle::{Counters, Step},
};
use crate::model::{DagId, InstanceId, RunId, RunState, TaskState, VersionId};

/// Mending one thing can bring another to light: a counter that is right again decides a trigger rule.
const ROUNDS: usize = 4;
/// How often a transaction is begun again that Postgres ended for the sake of others.
const ATTEMPTS: usize = 4;

/// What a repair did.
#[derive(Debug, Clone, PartialEq)]
pub struct Repaired {
    /// What was found at first.
    pub found: Checked,
    /// How many changes it took, at least; a run that was started or closed is one.
    pub changed: u64,
    /// What is found now.
    pub left: Checked,
}

/// What one transaction mends of a run, in the order in which they are done: counts first, because settling subtracts from
/// them, and verdicts last, because they stand on all the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mend {
    /// The run's counts and the counters of its task instances.
    Counts,
    /// Executions whose worker is gone.
    Lost,
    /// What may be claimed, what wakes, who holds slots of a pool.
    Waits,
    /// Who is behind a gate, and what is parked there.
    Gates,
    /// Task instances that outlived their run.
    Final,
    /// Trigger rules that have decided, the end of the run, the start of the next. Always done: while a queued run was
    /// locked, somebody who wanted to start it may have passed it over.
    Verdicts,
}

/// What is to be mended, sorted by who has to be locked for it.
#[derive(Debug, Default)]
struct Work {
    runs: BTreeMap<RunId, (BTreeSet<Mend>, BTreeSet<i64>)>,
    dags: BTreeSet<DagId>,
    /// Task instances without a run.
    orphans: Vec<i64>,
    /// What refers to no task instance.
    strays: Vec<i64>,
    /// Workers to end.
    workers: u64,
}

impl Work {
    fn of(findings: &[Finding]) -> Self {
        let mut work = Self::default();
        for finding in findings {
            let mends: &[Mend] = match finding.kind {
                FindingKind::Counters
                | FindingKind::NeverPromoted
                | FindingKind::RunCounts
                | FindingKind::RunNotClosed => &[Mend::Counts],
                FindingKind::RunNotStarted => &[],
                FindingKind::ReadyExtra | FindingKind::ReadyWrong => &[Mend::Waits, Mend::Gates],
                FindingKind::ReadyMissing
                | FindingKind::SleeperMissing
                | FindingKind::SleeperExtra
                | FindingKind::ResumeExtra
                | FindingKind::PoolUseExtra
                | FindingKind::PoolUseMissing => &[Mend::Waits],
                FindingKind::GateUseExtra
                | FindingKind::GateUseMissing
                | FindingKind::GateMissing
                | FindingKind::ParkedWrong
                | FindingKind::ParkedForever => &[Mend::Gates],
                FindingKind::WorkerGone => &[Mend::Counts, Mend::Lost],
                FindingKind::UnfinishedInFinalRun => &[Mend::Waits, Mend::Final],
                FindingKind::InstanceWithoutRun => {
                    work.orphans.extend(finding.instance_id.map(|id| id.0));
                    continue;
                }
                FindingKind::WorkerNotEnded => {
                    work.workers += 1;
                    continue;
                }
                FindingKind::ScheduleMissing => {
                    work.dags.extend(finding.dag_id.clone());
                    continue;
                }
            };
            // What is about a task instance and knows no task is about one that is not there.
            if finding.task_id.is_none()
                && let Some(instance_id) = finding.instance_id
            {
                work.strays.push(instance_id.0);
            } else if let Some(run_id) = finding.run_id {
                let (wanted, instances) = work.runs.entry(run_id).or_default();
                wanted.extend(mends);
                wanted.insert(Mend::Verdicts);
                instances.extend(finding.instance_id.map(|id| id.0));
            }
        }
        work
    }
}

impl Store {
    /// Mends what a check finds, and checks again until nothing is left or nothing more helps.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached; what was mended until then stays mended.
    pub async fn repair(&self, actor: &str) -> Result<Repaired, Error> {
        let found = self.check().await?;
        let mut left = found.clone();
        let mut changed = 0;
        for _ in 0..ROUNDS {
            if left.findings.is_empty() {
                break;
            }
            changed += self.mend(&left.findings, actor).await?;
            left = self.check().await?;
        }
        if changed > 0 {
            self.note_repair(&found, changed, actor).await?;
        }
        Ok(Repaired {
            found,
            changed,
            left,
        })
    }

    /// Mends what of these findings is still so; returns how many changes it made.
    pub(super) async fn mend(&self, findings: &[Finding], actor: &str) -> Result<u64, Error> {
        let work = Work::of(findings);
        let mut changed = 0;
        for (run_id, (mends, instances)) in &work.runs {
            let instances: Vec<i64> = instances.iter().copied().collect();
            for mend in mends {
                changed += self.mend_run(*run_id, *mend, &instances, actor).await?;
            }
        }
        // Not before the runs: what it held is settled, and settling subtracts from their counts.
        if work.workers > 0 {
            self.reap().await?;
            changed += work.workers;
        }
        if !work.orphans.is_empty() {
            changed += count(
                sqlx::query_file_scalar!("src/store/queries/delete_orphans.sql", &work.orphans)
                    .fetch_one(&self.people)
                    .await?,
            );
        }
        if !work.strays.is_empty() {
            changed += count(
                sqlx::query_file_scalar!("src/store/queries/delete_strays.sql", &work.strays)
                    .fetch_one(&self.people)
                    .await?,
            );
        }
        for dag_id in &work.dags {
            changed += self.mend_schedule(dag_id).await?;
        }
        Ok(changed)
    }

    async fn mend_run(
        &self,
        run_id: RunId,
        mend: Mend,
        instances: &[i64],
        actor: &str,
    ) -> Result<u64, Error> {
        let mut attempt = 1;
        loop {
            let mended = match mend {
                Mend::Counts => self.mend_counts(run_id).await,
                Mend::Lost => self.give_back_lost(run_id).await.map(|lost| lost as u64),
                Mend::Waits => self.mend_waits(run_id, instances).await,
                Mend::Gates => self.mend_gates(run_id, instances).await,
                Mend::Verdicts => self.mend_verdicts(run_id).await,
                Mend::Final => self.mend_final(run_id, actor).await,
            };
            match mended {
                Err(error) if attempt < ATTEMPTS && is_repeatable(&error) => attempt += 1,
                mended => return mended,
            }
        }
    }

    async fn mend_counts(&self, run_id: RunId) -> Result<u64, Error> {
        let mut transaction = self.engine.begin().await?;
        let mut changed = 0;
        if is_open(lock_run(&mut transaction, run_id).await?.as_ref()) {
            changed += sqlx::query_file!("src/store/queries/recount_run.sql", run_id.0)
                .execute(&mut *transaction)
                .await?
                .rows_affected();
            changed += sqlx::query_file!("src/store/queries/recount_instances.sql", run_id.0)
                .execute(&mut *transaction)
                .await?
                .rows_affected();
        }
        transaction.commit().await?;
        Ok(changed)
    }

    async fn mend_waits(&self, run_id: RunId, instances: &[i64]) -> Result<u64, Error> {
        let mut transaction = self.begin_mend().await?;
        let mut changed = 0;
        if lock_run(&mut transaction, run_id).await?.is_some() {
            let locked = lock_ready(&mut transaction, instances).await?;
            let ready = sqlx::query_file!(
                "src/store/queries/mend_ready.sql",
                run_id.0,
                instances,
                &locked
            )
            .fetch_one(&mut *transaction)
            .await?;
            let sleepers =
                sqlx::query_file!("src/store/queries/mend_sleepers.sql", run_id.0, instances)
                    .fetch_one(&mut *transaction)
                    .await?;
            let uses = sqlx::query_file_scalar!(
                "src/store/queries/mend_pool_uses.sql",
                run_id.0,
                instances
            )
            .fetch_one(&mut *transaction)
            .await?;
            changed = count(ready.changed + ready.added + sleepers.removed + sleepers.added + uses);
        }
        transaction.commit().await?;
        Ok(changed)
    }

    async fn mend_gates(&self, run_id: RunId, instances: &[i64]) -> Result<u64, Error> {
        let mut transaction = self.begin_mend().await?;
        let mut changed = 0;
        if let Some(run) = lock_run(&mut transaction, run_id).await? {
            changed += self
                .put_up_missing_gates(&mut transaction, run_id, run.version_id, instances)
                .await?;
            sqlx::query_file_scalar!("src/store/queries/lock_gates_around.sql", instances)
                .fetch_all(&mut *transaction)
                .await?;
            let locked = lock_ready(&mut transaction, instances).await?;
            changed += count(
                sqlx::query_file_scalar!(
                    "src/store/queries/mend_gate_uses.sql",
                    run_id.0,
                    instances
                )
                .fetch_one(&mut *transaction)
                .await?,
            );
            changed += count(
                sqlx::query_file_scalar!(
                    "src/store/queries/mend_parked.sql",
                    run_id.0,
                    instances,
                    &locked
                )
                .fetch_one(&mut *transaction)
                .await?,
            );
        }
        transaction.commit().await?;
        Ok(changed)
    }

    async fn put_up_missing_gates(
        &self,
        connection: &mut PgConnection,
        run_id: RunId,
        version_id: VersionId,
        instances: &[i64],
    ) -> Result<u64, Error> {
        let missing = sqlx::query_file!(
            "src/store/queries/read_gates_missing.sql",
            run_id.0,
            instances
        )
        .fetch_all(&mut *connection)
        .await?;
        if missing.is_empty() {
            return Ok(0);
        }
        let dag = self.definition_by(connection, version_id).await?;
        let (gates, slots): (Vec<String>, Vec<i32>) = missing
            .into_iter()
            .map(|row| {
                let limit = gates::size(&dag, task_at(&dag, row.ordinal), &row.gate);
                // A gate that its DAG does not know lets one through at a time rather than none.
                let slots = limit.map_or(1, |limit| i32::try_from(limit).unwrap_or(i32::MAX));
                (row.gate, slots)
            })
            .unzip();
        Ok(
            sqlx::query_file!("src/store/queries/insert_gates.sql", &gates, &slots)
                .execute(connection)
                .await?
                .rows_affected(),
        )
    }

    async fn mend_verdicts(&self, run_id: RunId) -> Result<u64, Error> {
        let mut transaction = self.engine.begin().await?;
        let Some(run) = lock_run(&mut transaction, run_id).await? else {
            transaction.rollback().await?;
            return Ok(0);
        };
        let mut step = Step::default();
        let mut changed = 0;
        match run.state {
            RunState::Running => {
                step.knows(run_id, run.version_id);
                let waiting =
                    sqlx::query_file_as!(Counters, "src/store/queries/read_waiting.sql", run_id.0)
                        .fetch_all(&mut *transaction)
                        .await?;
                let finals = self.promote(&mut transaction, &waiting, &mut step).await?;
                changed += finals.len() as u64;
                self.cascade(&mut transaction, finals, &mut step).await?;
                self.finish(&mut transaction, &mut step).await?;
                let counted = sqlx::query_file!(
                    "src/store/queries/count_down_runs.sql",
                    &[run_id.0][..],
                    &[0][..],
                    &[0][..]
                )
                .fetch_all(&mut *transaction)
                .await?;
                changed += counted.iter().filter(|run| run.state.is_final()).count() as u64;
            }
            RunState::Queued => {}
            RunState::Success | RunState::Failed | RunState::Cancelled => {
                transaction.rollback().await?;
                return Ok(0);
            }
        }
        self.start_runs(&mut transaction, &BTreeSet::from([run.dag_id]), &mut step)
            .await?;
        self.finish(&mut transaction, &mut step).await?;
        transaction.commit().await?;
        Ok(changed + u64::from(step.effects().work))
    }

    async fn mend_final(&self, run_id: RunId, actor: &str) -> Result<u64, Error> {
        let mut transaction = self.engine.begin().await?;
        let run = lock_run(&mut transaction, run_id).await?;
        let mut changed = 0;
        if run.is_some_and(|run| run.state.is_final()) {
            let instances = sqlx::query_file!("src/store/queries/read_states.sql", run_id.0)
                .fetch_all(&mut *transaction)
                .await?;
            changed = instances
                .iter()
                .filter(|instance| !instance.state.is_final())
                .count();
        }
        if changed > 0 {
            let actor = format!("{actor}: its run was final");
            sqlx::query_file_scalar!("src/store/queries/cancel_instances.sql", run_id.0, actor)
                .fetch_one(&mut *transaction)
                .await?;
            sqlx::query_file!("src/store/queries/recount_instances.sql", run_id.0)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(changed as u64)
    }

    async fn mend_schedule(&self, dag_id: &DagId) -> Result<u64, Error> {
        let mut transaction = self.engine.begin().await?;
        let row = sqlx::query_file!(
            "src/store/queries/lock_unscheduled_dag.sql",
            dag_id.as_str()
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let mut changed = 0;
        if let Some(row) = row {
            let dag = self.definition_by(&mut transaction, row.version_id).await?;
            let next = lost_tick(&dag, row.last_tick, row.schedule_since, row.now);
            if let Some(next) = next {
                changed = sqlx::query_file!(
                    "src/store/queries/set_missing_tick.sql",
                    dag_id.as_str(),
                    next.interval.logical_date(),
                    next.fires_at,
                    row.now
                )
                .execute(&mut *transaction)
                .await?
                .rows_affected();
            }
        }
        transaction.commit().await?;
        Ok(changed)
    }

    async fn note_repair(&self, found: &Checked, changed: u64, actor: &str) -> Result<(), Error> {
        let mut kinds: BTreeMap<FindingKind, u64> = BTreeMap::new();
        for finding in &found.findings {
            *kinds.entry(finding.kind).or_default() += 1;
        }
        let detail = json!({ "found": kinds, "changed": changed });
        sqlx::query_file!(
            "src/store/queries/insert_audit.sql",
            actor,
            "repair",
            None::<&str>,
            None::<i64>,
            detail
        )
        .execute(&self.people)
        .await?;
        Ok(())
    }

    /// On people's connections, whose planner may join many rows at once.
    async fn begin_mend(&self) -> Result<Transaction<'static, Postgres>, Error> {
        let mut transaction = self.people.begin().await?;
        sqlx::query_file!("src/store/queries/allow_repair.sql", "60s", "20s")
            .fetch_one(&mut *transaction)
            .await?;
        Ok(transaction)
    }
}

fn is_open(run: Option<&LockedRun>) -> bool {
    run.is_some_and(|run| !run.state.is_final())
}

async fn lock_ready(connection: &mut PgConnection, instances: &[i64]) -> Result<Vec<i64>, Error> {
    Ok(
        sqlx::query_file_scalar!("src/store/queries/lock_ready.sql", instances)
            .fetch_all(connection)
            .await?,
    )
}

fn count(rows: i64) -> u64 {
    u64::try_from(rows).unwrap_or(0)
}

/// A deadlock or a serialisation failure: Postgres asks for the transaction to be repeated.
fn is_repeatable(error: &Error) -> bool {
    matches!(error, Error::Database(sqlx::Error::Database(refusal))
        if refusal.code().is_some_and(|code| code.starts_with("40")))
}
