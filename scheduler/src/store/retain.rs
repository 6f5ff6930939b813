//! Retention: old runs and what belongs to them go, in small transactions that disturb nobody.
//!
//! Any number of processes may do it at once: each takes rows with SKIP LOCKED. What a task landed is none of its
//! business: cursors and the plans that moved them stay for ever.

use std::{collections::VecDeque, fmt, ops::AddAssign, str::FromStr, time::Duration, vec};

use chrono::{DateTime, TimeDelta, Utc};
use pinwheel_tasks::duration;
use serde::Serialize;
use sqlx::PgConnection;

use super::{Error, Store};
use crate::model::{DagId, RunId};

/// Runs that are looked at in one statement.
const RUNS_A_LOOK: i64 = 200;
/// Runs that are removed in one transaction at most.
const RUNS_A_STEP: usize = 20;
/// Their task instances, unless a single run has more.
const INSTANCES_A_STEP: i64 = 1_000;
/// Rows of history that are removed in one transaction at most.
const ROWS_A_STEP: i64 = 5_000;
/// Messages that are removed in one transaction at most; each takes its notifications along.
const MESSAGES_A_STEP: i64 = 200;
/// Versions that are removed in one transaction at most; each takes its tasks and edges along.
const VERSIONS_A_STEP: i64 = 20;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long runs stay after their end; audit entries, ended workers and versions without runs stay as long.
    pub runs: Keep,
    /// The last so many runs of each DAG stay whatever their age.
    pub keep: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            runs: Keep::For(Duration::from_secs(90 * 24 * 60 * 60)),
            keep: 30,
        }
    }
}

/// How long something stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It is never removed.
    Forever,
    /// So long.
    For(Duration),
}

impl FromStr for Keep {
    type Err = duration::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "forever" {
            return Ok(Self::Forever);
        }
        duration::parse(text).map(Self::For)
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => formatter.pad("forever"),
            Self::For(age) => formatter.pad(&duration::text(*age)),
        }
    }
}

/// Whether a pass removes what is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// It does.
    Remove,
    /// It only counts what it would remove.
    Count,
}

/// What was removed, in rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Runs.
    pub runs: u64,
    /// Their task instances.
    pub task_instances: u64,
    /// Their history.
    pub tries: u64,
    /// Their log lines.
    pub log_lines: u64,
    /// What their templates became.
    pub rendered: u64,
    /// What they answered.
    pub outputs: u64,
    /// What their tasks had frozen.
    pub frozen: u64,
    /// Entries of the audit trail.
    pub audit: u64,
    /// Events of datasets.
    pub dataset_events: u64,
    /// Workers that have ended.
    pub workers: u64,
    /// Versions that no run refers to.
    pub versions: u64,
    /// Gates that nobody has used for an hour.
    pub gates: u64,
    /// Messages to people that are over.
    pub messages: u64,
}

impl Removed {
    /// Each part with its name.
    pub fn parts(&self) -> [(&'static str, u64); 13] {
        [
            ("runs", self.runs),
            ("task_instances", self.task_instances),
            ("tries", self.tries),
            ("log_lines", self.log_lines),
            ("rendered", self.rendered),
            ("outputs", self.outputs),
            ("frozen", self.frozen),
            ("audit", self.audit),
            ("dataset_events", self.dataset_events),
            ("workers", self.workers),
            ("versions", self.versions),
            ("gates", self.gates),
            ("messages", self.messages),
        ]
    }

    /// All rows together.
    pub fn rows(&self) -> u64 {
        self.parts().iter().map(|(_, rows)| rows).sum()
    }
}

impl AddAssign for Removed {
    fn add_assign(&mut self, other: Self) {
        self.runs += other.runs;
        self.task_instances += other.task_instances;
        self.tries += other.tries;
        self.log_lines += other.log_lines;
        self.rendered += other.rendered;
        self.outputs += other.outputs;
        self.frozen += other.frozen;
        self.audit += other.audit;
        self.dataset_events += other.dataset_events;
        self.workers += other.workers;
        self.versions += other.versions;
        self.gates += other.gates;
        self.messages += other.messages;
    }
}

/// One pass over everything that may be old, step by step: each step is one transaction, and whoever makes it may pause
/// in between.
#[derive(Debug)]
pub struct Pass {
    store: Store,
    prune: Prune,
    keep: i64,
    /// What ended before this is old; `None` when nothing ever is.
    old: Option<DateTime<Utc>>,
    /// A gate that was last touched before this is stale.
    stale: DateTime<Utc>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Runs(Runs),
    Audit,
    DatasetEvents,
    Workers,
    Messages,
    Versions,
    Gates,
    Rest,
    Done,
}

/// Where a pass stands among the runs.
#[derive(Debug)]
struct Runs {
    dags: vec::IntoIter<DagId>,
    dag: Option<DagId>,
    /// The last run of the DAG that was looked at.
    after: RunId,
    /// Old runs of the DAG that are still there.
    found: VecDeque<RunId>,
}

impl Store {
    /// Begins a pass by a clock that is `shift` ahead of the database's.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn begin_pass(
        &self,
        retention: Retention,
        prune: Prune,
        shift: TimeDelta,
    ) -> Result<Pass, Error> {
        let age = match retention.runs {
            Keep::Forever => None,
            Keep::For(age) => Some(age.as_secs_f64()),
        };
        let limits = sqlx::query_file!(
            "src/store/queries/read_retention_limits.sql",
            age,
            shift as _
        )
        .fetch_one(&self.engine)
        .await?;
        let stage = match (limits.old, prune) {
            (Some(old), _) => {
                let dags =
                    sqlx::query_file_scalar!("src/store/queries/list_dags_with_old_runs.sql", old)
                        .fetch_all(&self.engine)
                        .await?;
                Stage::Runs(Runs {
                    dags: dags.into_iter(),
                    dag: None,
                    after: RunId(0),
                    found: VecDeque::new(),
                })
            }
            (None, Prune::Remove) => Stage::Gates,
            (None, Prune::Count) => Stage::Rest,
        };
        Ok(Pass {
            store: self.clone(),
            prune,
            keep: i64::from(retention.keep),
            old: limits.old,
            stale: limits.stale,
            stage,
        })
    }
}

impl Pass {
    /// Takes the next step; returns what it removed, and `None` when the pass is over.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached; a later pass goes on from there.
    pub async fn step(&mut self) -> Result<Option<Removed>, Error> {
        loop {
            let removed = self.try_step().await?;
            if let Some(removed) = removed.filter(|removed| removed.rows() > 0) {
                return Ok(Some(removed));
            }
            if matches!(self.stage, Stage::Done) {
                return Ok(None);
            }
        }
    }

    /// A step that may find nothing; `None` when a stage is over and the next one begins.
    async fn try_step(&mut self) -> Result<Option<Removed>, Error> {
        let Self {
            store,
            prune,
            keep,
            old,
            stale,
            stage,
        } = self;
        let nothing = Removed::default();
        let (removed, limit, next) = match stage {
            Stage::Runs(runs) => {
                let old = old.expect("a pass begins with runs only where some can be old");
                let removed = runs.step(store, *prune, *keep, old).await?;
                if removed.is_none() {
                    *stage = match prune {
                        Prune::Remove => Stage::Audit,
                        Prune::Count => Stage::Rest,
                    };
                }
                return Ok(removed);
            }
            Stage::Audit => {
                let query =
                    sqlx::query_file!("src/store/queries/delete_old_audit.sql", *old, ROWS_A_STEP);
                let audit = query.execute(&store.engine).await?.rows_affected();
                (
                    Removed { audit, ..nothing },
                    ROWS_A_STEP,
                    Stage::DatasetEvents,
                )
            }
            Stage::DatasetEvents => {
                let query = sqlx::query_file!(
                    "src/store/queries/delete_old_dataset_events.sql",
                    *old,
                    ROWS_A_STEP
                );
                let dataset_events = query.execute(&store.engine).await?.rows_affected();
                let removed = Removed {
                    dataset_events,
                    ..nothing
                };
                (removed, ROWS_A_STEP, Stage::Workers)
            }
            Stage::Workers => {
                let query = sqlx::query_file!(
                    "src/store/queries/delete_old_workers.sql",
                    *old,
                    ROWS_A_STEP
                );
                let workers = query.execute(&store.engine).await?.rows_affected();
                (Removed { workers, ..nothing }, ROWS_A_STEP, Stage::Messages)
            }
            Stage::Messages => {
                let query = sqlx::query_file_scalar!(
                    "src/store/queries/delete_old_messages.sql",
                    *old,
                    MESSAGES_A_STEP
                );
                let messages = rows(query.fetch_one(&store.engine).await?);
                (
                    Removed {
                        messages,
                        ..nothing
                    },
                    MESSAGES_A_STEP,
                    Stage::Versions,
                )
            }
            Stage::Versions => {
                let query = sqlx::query_file!(
                    "src/store/queries/delete_old_versions.sql",
                    *old,
                    VERSIONS_A_STEP
                );
                let versions = query.execute(&store.engine).await?.rows_affected();
                (
                    Removed {
                        versions,
                        ..nothing
                    },
                    VERSIONS_A_STEP,
                    Stage::Gates,
                )
            }
            Stage::Gates => {
                let query = sqlx::query_file!(
                    "src/store/queries/delete_stale_gates.sql",
                    *stale,
                    ROWS_A_STEP
                );
                let gates = query.execute(&store.engine).await?.rows_affected();
                (Removed { gates, ..nothing }, ROWS_A_STEP, Stage::Done)
            }
            Stage::Rest => {
                let counted =
                    sqlx::query_file!("src/store/queries/count_old_rest.sql", *old, *stale, *keep)
                        .fetch_one(&store.people)
                        .await?;
                let counted = Removed {
                    audit: rows(counted.audit),
                    dataset_events: rows(counted.dataset_events),
                    workers: rows(counted.workers),
                    versions: rows(counted.versions),
                    gates: rows(counted.gates),
                    messages: rows(counted.messages),
                    ..nothing
                };
                (counted, i64::MAX, Stage::Done)
            }
            Stage::Done => return Ok(None),
        };
        // A full step is taken again; what one that was not full has left is in somebody else's hands.
        if removed.rows() < rows(limit) {
            *stage = next;
        }
        Ok(Some(removed))
    }
}

impl Runs {
    /// `None` when no old run is left.
    async fn step(
        &mut self,
        store: &Store,
        prune: Prune,
        keep: i64,
        old: DateTime<Utc>,
    ) -> Result<Option<Removed>, Error> {
        while self.found.is_empty() {
            if self.dag.is_none() {
                self.dag = self.dags.next();
                self.after = RunId(0);
            }
            let Some(dag_id) = self.dag.clone() else {
                return Ok(None);
            };
            self.look(store, &dag_id, keep, old).await?;
        }
        match prune {
            Prune::Remove => self.remove(store, old).await.map(Some),
            Prune::Count => self.count(store).await.map(Some),
        }
    }

    /// Looks at the next runs of a DAG. They are numbered in the order in which they were made, so the first one that was
    /// made too late ends the look: beyond it nothing is old, however many runs there are.
    async fn look(
        &mut self,
        store: &Store,
        dag_id: &DagId,
        keep: i64,
        old: DateTime<Utc>,
    ) -> Result<(), Error> {
        let looked_at = sqlx::query_file!(
            "src/store/queries/read_old_runs.sql",
            dag_id.as_str(),
            self.after.0,
            keep,
            old,
            RUNS_A_LOOK
        )
        .fetch_all(&store.engine)
        .await?;
        if rows(RUNS_A_LOOK) > looked_at.len() as u64 {
            self.dag = None;
        }
        for run in looked_at {
            if !run.made_before {
                self.dag = None;
                break;
            }
            self.after = run.run_id;
            if run.finished_before {
                self.found.push_back(run.run_id);
            }
        }
        Ok(())
    }

    /// Removes a few of the runs that were found, or a part of the history of the first of them.
    async fn remove(&mut self, store: &Store, old: DateTime<Utc>) -> Result<Removed, Error> {
        let tried: Vec<i64> = self
            .found
            .iter()
            .take(RUNS_A_STEP)
            .map(|run_id| run_id.0)
            .collect();
        let mut transaction = store.engine.begin().await?;
        let locked = sqlx::query_file!("src/store/queries/lock_old_runs.sql", &tried, old)
            .fetch_all(&mut *transaction)
            .await?;
        // One that is locked by somebody else, cleared or gone is none of this pass's business any more.
        let is_settled = |run_id: &RunId| {
            tried.contains(&run_id.0) && !locked.iter().any(|run| run.run_id == *run_id)
        };
        self.found.retain(|run_id| !is_settled(run_id));
        let mut instances = 0;
        let chosen: Vec<i64> = locked
            .iter()
            .take_while(|run| {
                let is_first = instances == 0;
                instances += run.instances;
                is_first || instances <= INSTANCES_A_STEP
            })
            .map(|run| run.run_id.0)
            .collect();
        if chosen.is_empty() {
            transaction.rollback().await?;
            return Ok(Removed::default());
        }
        let (mut removed, history) = remove_history(&mut transaction, &chosen).await?;
        if history == History::Gone {
            let gone = sqlx::query_file!("src/store/queries/delete_old_runs.sql", &chosen)
                .fetch_one(&mut *transaction)
                .await?;
            removed.runs = rows(gone.runs);
            removed.task_instances = rows(gone.task_instances);
            removed.outputs = rows(gone.outputs);
            removed.frozen = rows(gone.frozen);
        }
        transaction.commit().await?;
        if history == History::Gone {
            self.found.retain(|run_id| !chosen.contains(&run_id.0));
        }
        Ok(removed)
    }

    async fn count(&mut self, store: &Store) -> Result<Removed, Error> {
        let counted: Vec<i64> = self.found.drain(..).map(|run_id| run_id.0).collect();
        let counted = sqlx::query_file!("src/store/queries/count_old_runs.sql", &counted)
            .fetch_one(&store.people)
            .await?;
        Ok(Removed {
            runs: rows(counted.runs),
            task_instances: rows(counted.task_instances),
            tries: rows(counted.tries),
            log_lines: rows(counted.log_lines),
            rendered: rows(counted.rendered),
            outputs: rows(counted.outputs),
            frozen: rows(counted.frozen),
            ..Removed::default()
        })
    }
}

/// How much of the history of some runs is left after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum History {
    Gone,
    Left,
}

/// Removes history of runs, at most [`ROWS_A_STEP`] rows. A run that has more goes with a later step, whole: what a clear
/// would need is removed together with the run.
async fn remove_history(
    connection: &mut PgConnection,
    runs: &[i64],
) -> Result<(Removed, History), Error> {
    let mut removed = Removed::default();
    let left =
        |removed: &Removed| ROWS_A_STEP - i64::try_from(removed.rows()).unwrap_or(ROWS_A_STEP);
    let query = sqlx::query_file!(
        "src/store/queries/delete_old_lines.sql",
        runs,
        left(&removed)
    );
    removed.log_lines = query.execute(&mut *connection).await?.rows_affected();
    if left(&removed) > 0 {
        let query = sqlx::query_file!(
            "src/store/queries/delete_old_tries.sql",
            runs,
            left(&removed)
        );
        removed.tries = query.execute(&mut *connection).await?.rows_affected();
    }
    if left(&removed) > 0 {
        let query = sqlx::query_file!(
            "src/store/queries/delete_old_rendered.sql",
            runs,
            left(&removed)
        );
        removed.rendered = query.execute(&mut *connection).await?.rows_affected();
    }
    let history = if left(&removed) > 0 {
        History::Gone
    } else {
        History::Left
    };
    Ok((removed, history))
}

fn rows(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
