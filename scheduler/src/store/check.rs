//! What is wrong in the database: a look at one snapshot that changes nothing. `repair` mends what is found here.
//!
//! Whatever moves within one transaction is whole in every snapshot, so a look beside a busy engine finds nothing that
//! is merely on its way.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use sqlx::PgConnection;

use super::{Error, Store, claim::task_at};
use crate::model::{
    Dag, DagId, InstanceId, RunId, TaskId, VersionId, flow,
    schedule::{Past, Planned},
    trigger_rule::{Upstream, Verdict},
};

/// What a check looked at, and what it found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checked {
    /// Queued and running runs.
    pub open_runs: i64,
    /// Their task instances.
    pub task_instances: i64,
    /// What may be claimed.
    pub ready: i64,
    /// What wakes by the clock.
    pub asleep: i64,
    /// How long the look took.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub took: Duration,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// The DAG it is about.
    pub dag_id: Option<DagId>,
    /// The run it is about.
    pub run_id: Option<RunId>,
    /// The task it is about.
    pub task_id: Option<TaskId>,
    /// The item of a mapped task; -1 for a task that is not mapped.
    pub map_index: Option<i32>,
    /// The task instance it is about.
    pub instance_id: Option<InstanceId>,
    /// What the database says.
    pub stored: String,
    /// What it should say.
    pub expected: String,
}

/// The kinds of things that can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum FindingKind {
    /// The counters of a task instance differ from a recount of its upstream tasks.
    Counters,
    /// A task instance waits although its trigger rule has decided.
    NeverPromoted,
    /// A run's counts differ from a recount of its task instances.
    RunCounts,
    /// A run is running and nothing of it is unfinished.
    RunNotClosed,
    /// A run is queued although `max_active_runs` has room and its DAG is not paused.
    RunNotStarted,
    /// A task instance is queued and cannot be claimed.
    ReadyMissing,
    /// Something can be claimed that is not queued.
    ReadyExtra,
    /// What can be claimed stands there with other limits than its task has.
    ReadyWrong,
    /// A task instance sleeps and will never wake.
    SleeperMissing,
    /// Something will wake that does not sleep.
    SleeperExtra,
    /// A sleep left something behind for a try that is over.
    ResumeExtra,
    /// What does not run holds slots of a pool.
    PoolUseExtra,
    /// What runs in a limited pool is not counted there.
    PoolUseMissing,
    /// What does not run holds a place behind a gate.
    GateUseExtra,
    /// What runs behind a gate is not counted there.
    GateUseMissing,
    /// What can be claimed stands before a gate that is gone.
    GateMissing,
    /// Parked rows and ready rows disagree.
    ParkedWrong,
    /// What is parked would never be let out.
    ParkedForever,
    /// A task instance is running on a worker that has ended or does not exist.
    WorkerGone,
    /// A worker's lease is over and nobody has ended it.
    WorkerNotEnded,
    /// A task instance is not final although its run is.
    UnfinishedInFinalRun,
    /// A task instance that is not final has no run.
    InstanceWithoutRun,
    /// A DAG has a schedule and no next tick.
    ScheduleMissing,
}

impl FindingKind {
    /// What a repair does about it, for people.
    pub fn repair(self) -> &'static str {
        match self {
            Self::Counters => "recount, then decide its trigger rule",
            Self::NeverPromoted => "decide its trigger rule",
            Self::RunCounts => "recount, and close the run if nothing is left",
            Self::RunNotClosed => "close the run",
            Self::RunNotStarted => "start the run",
            Self::ReadyMissing => "make it claimable",
            Self::ReadyExtra => "take it out of what may be claimed",
            Self::ReadyWrong => "correct the row",
            Self::SleeperMissing => "wake it now: when it wanted to wake is lost",
            Self::SleeperExtra => "take it out of what wakes",
            Self::ResumeExtra => "forget it",
            Self::PoolUseExtra => "give the slots back",
            Self::PoolUseMissing => "count its slots",
            Self::GateUseExtra => "give the place back",
            Self::GateUseMissing => "count its place",
            Self::GateMissing => "put the gate up again, as wide as its DAG says",
            Self::ParkedWrong | Self::ParkedForever => "let it out; the claim looks at it again",
            Self::WorkerGone => "settle it as lost with its worker",
            Self::WorkerNotEnded => "end the worker, and settle what it held as lost",
            Self::UnfinishedInFinalRun => "cancel it: nobody waits for it",
            Self::InstanceWithoutRun => "remove it",
            Self::ScheduleMissing => "set the next tick",
        }
    }
}

impl Store {
    /// Looks for what is wrong, in one snapshot, and changes nothing.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached, or a stored definition cannot be read.
    pub async fn check(&self) -> Result<Checked, Error> {
        let began = Instant::now();
        let mut look = self
            .people
            .begin_with("begin isolation level repeatable read, read only")
            .await?;
        // A snapshot that is held for long keeps Postgres from cleaning up behind a busy engine.
        sqlx::query_file!("src/store/queries/allow_repair.sql", "2min", "5s")
            .fetch_one(&mut *look)
            .await?;
        let counted = sqlx::query_file!("src/store/queries/count_checked.sql")
            .fetch_one(&mut *look)
            .await?;
        let mut findings = self.look_at_counters(&mut look).await?;
        macro_rules! look_at {
            ($($file:tt),+ $(,)?) => {
                $(findings.extend(
                    sqlx::query_file_as!(Finding, $file).fetch_all(&mut *look).await?,
                );)+
            };
        }
        look_at!(
            "src/store/queries/look_at_runs.sql",
            "src/store/queries/look_at_ready.sql",
            "src/store/queries/look_at_sleepers.sql",
            "src/store/queries/look_at_uses.sql",
            "src/store/queries/look_at_parked.sql",
            "src/store/queries/look_at_workers.sql",
            "src/store/queries/look_at_final_runs.sql",
        );
        findings.extend(self.look_at_schedules(&mut look).await?);
        look.rollback().await?;
        Ok(Checked {
            open_runs: counted.open_runs,
            task_instances: counted.task_instances,
            ready: counted.ready,
            asleep: counted.asleep,
            took: began.elapsed(),
            findings,
        })
    }

    async fn look_at_counters(&self, connection: &mut PgConnection) -> Result<Vec<Finding>, Error> {
        let rows = sqlx::query_file_as!(CounterRow, "src/store/queries/look_at_counters.sql")
            .fetch_all(&mut *connection)
            .await?;
        let mut findings = Vec::new();
        for row in rows {
            if row.stored() != row.recounted() {
                findings.push(row.finding(
                    FindingKind::Counters,
                    describe(row.stored()),
                    describe(row.recounted()),
                ));
            }
            if !row.may_be_promoted {
                continue;
            }
            let dag = self.definition_by(connection, row.version_id).await?;
            let task = task_at(&dag, row.ordinal);
            if task.flow.depends_on_previous {
                // It may rightly wait for another run.
                continue;
            }
            let ordinal = usize::try_from(row.ordinal).unwrap_or(0);
            let sights = self
                .sights_of(connection, row.run_id, dag.looks_at(ordinal))
                .await?;
            let expected = match flow::decide(&dag, ordinal, &row.upstream(), &sights) {
                Verdict::Wait { .. } => continue,
                Verdict::Run { reason } => format!("queued: {reason}"),
                Verdict::Skip { reason } => format!("skipped: {reason}"),
                Verdict::UpstreamFailed { reason } => format!("upstream_failed: {reason}"),
            };
            findings.push(row.finding(FindingKind::NeverPromoted, "waiting".to_owned(), expected));
        }
        Ok(findings)
    }

    async fn look_at_schedules(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Vec<Finding>, Error> {
        let rows = sqlx::query_file!("src/store/queries/look_at_schedules.sql")
            .fetch_all(&mut *connection)
            .await?;
        let mut findings = Vec::new();
        for row in rows {
            let dag = self.definition_by(connection, row.version_id).await?;
            let next = lost_tick(&dag, row.last_tick, row.schedule_since, row.now);
            if let Some(next) = next {
                findings.push(Finding {
                    kind: FindingKind::ScheduleMissing,
                    dag_id: Some(row.dag_id),
                    run_id: None,
                    task_id: None,
                    map_index: None,
                    instance_id: None,
                    stored: "no next tick".to_owned(),
                    expected: format!("a tick at {}", next.fires_at.format("%Y-%m-%d %H:%M:%SZ")),
                });
            }
        }
        Ok(findings)
    }
}

/// The next tick of a DAG that has lost it. What passed meanwhile passed unwatched, so `catchup` decides about it.
pub(super) fn lost_tick(
    dag: &Dag,
    last_tick: Option<DateTime<Utc>>,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Option<Planned> {
    let past = Past {
        last_tick,
        since,
        watched_since: now,
    };
    dag.timetable()?.due(&past, now, 0).next
}

fn seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(took.as_secs_f64())
}

/// Pending, ok, failed, upstream failed, skipped.
type Five = [i32; 5];

fn describe([pending, ok, failed, upstream_failed, skipped]: Five) -> String {
    format!(
        "{pending} pending, {ok} ok, {failed} failed, {upstream_failed} upstream failed, {skipped} skipped"
    )
}

struct CounterRow {
    instance_id: InstanceId,
    run_id: RunId,
    dag_id: DagId,
    version_id: VersionId,
    task_id: TaskId,
    ordinal: i32,
    map_index: i32,
    may_be_promoted: bool,
    pending: i32,
    ok: i32,
    failed: i32,
    upstream_failed: i32,
    skipped: i32,
    true_pending: i32,
    true_ok: i32,
    true_failed: i32,
    true_upstream_failed: i32,
    true_skipped: i32,
}

impl CounterRow {
    fn stored(&self) -> Five {
        [
            self.pending,
            self.ok,
            self.failed,
            self.upstream_failed,
            self.skipped,
        ]
    }

    fn recounted(&self) -> Five {
        [
            self.true_pending,
            self.true_ok,
            self.true_failed,
            self.true_upstream_failed,
            self.true_skipped,
        ]
    }

    /// What the trigger rule is told once the counters are right.
    fn upstream(&self) -> Upstream {
        let [pending, ok, failed, upstream_failed, skipped] = self
            .recounted()
            .map(|count| u32::try_from(count).unwrap_or(0));
        Upstream {
            total: pending + ok + failed + upstream_failed + skipped,
            pending,
            ok,
            failed,
            upstream_failed,
            skipped,
        }
    }

    fn finding(&self, kind: FindingKind, stored: String, expected: String) -> Finding {
        Finding {
            kind,
            dag_id: Some(self.dag_id.clone()),
            run_id: Some(self.run_id),
            task_id: Some(self.task_id.clone()),
            map_index: Some(self.map_index),
            instance_id: Some(self.instance_id),
            stored,
            expected,
        }
    }
}
