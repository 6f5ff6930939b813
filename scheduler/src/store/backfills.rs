//! Backfills: a range of logical dates of a DAG, run on purpose with a concurrency of its own.
//!
//! A backfill is its dates in order, and each becomes a run when its turn comes: one is made, or the one that there is
//! goes back to the start on the present version. Whoever starts runs of the DAG goes on with its backfill in the same
//! transaction, under the lock of the DAG's row, which is also the lock of everything that is kept of the backfill.
//! A run that is to be cleared has begun, so it is locked before its DAG, or without waiting: whoever finds it held
//! leaves it to a scheduler (`backfill.look_at`), which takes the locks in the order of the whole store.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{
    Effects, Error, Store,
    people::{Found, LockedRun, audit},
    runs::{Row, create_runs, default_params},
    settle::{Started, Step},
};
use crate::model::{
    BackfillId, Dag, DagId, InstanceId, Params, RunId, RunKind, RunState, TaskState, VersionId,
    backfill::{
        self, BackfillState, DateAction, DateState, Direction, OnFailure, Reprocess, dates,
    },
    schedule::DataInterval,
};

/// The most dates of a backfill that one page shows.
const MOST_DATES_SHOWN: i64 = backfill::MOST_DATES as i64;
const MOST_BACKFILLS: i64 = 500;

/// A backfill to make, or to plan.
#[derive(Debug, Clone)]
pub struct NewBackfill {
    /// Of which DAG.
    pub dag_id: DagId,
    /// The first logical date, inclusive.
    pub from: DateTime<Utc>,
    /// The last logical date, inclusive.
    pub to: DateTime<Utc>,
    /// What becomes of dates that have a run.
    pub reprocess: Reprocess,
    /// In which order the dates run.
    pub direction: Direction,
    /// What a failed run means for the rest.
    pub on_failure: OnFailure,
    /// How many of its runs may be running at once; `None` is as many as the DAG allows its own runs.
    pub max_active_runs: Option<u32>,
    /// Params as given; checked against the current version, and completed by the version of each run.
    pub params: Params,
    /// Who asks, for people.
    pub actor: String,
}

/// A date of a backfill that is only planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PlannedDate {
    /// The date.
    pub logical_date: DateTime<Utc>,
    /// End of its data interval, exclusive.
    pub data_interval_end: DateTime<Utc>,
    /// The run it has now.
    pub run_id: Option<RunId>,
    /// The state of that run.
    pub run_state: Option<RunState>,
    /// What would be done.
    pub action: DateAction,
}

/// One backfill.
#[derive(Debug, Clone, Serialize)]
pub struct BackfillRow {
    /// The backfill.
    pub backfill_id: BackfillId,
    /// Its DAG.
    pub dag_id: DagId,
    /// Its state.
    pub state: BackfillState,
    /// The range as it was asked for: the first logical date, inclusive.
    pub from: DateTime<Utc>,
    /// The last logical date, inclusive.
    pub to: DateTime<Utc>,
    /// What becomes of dates that have a run.
    pub reprocess: Reprocess,
    /// In which order the dates run.
    pub direction: Direction,
    /// What a failed run means for the rest.
    pub on_failure: OnFailure,
    /// How many of its runs may be running at once.
    pub max_active_runs: i32,
    /// Params as given.
    pub params: Params,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it became final.
    pub finished_at: Option<DateTime<Utc>>,
    /// Its DAG is paused: nothing begins until it is resumed.
    pub dag_is_paused: bool,
    /// What has become of its dates.
    pub progress: Progress,
}

/// What has become of the dates of a backfill. A run that was cleared or removed since counts as what it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    /// All dates.
    pub total: i64,
    /// Their turn has not come.
    pub waiting: i64,
    /// Their run is queued or running.
    pub running: i64,
    /// Their run succeeded.
    pub success: i64,
    /// Their run failed.
    pub failed: i64,
    /// Their run was cancelled, or the backfill before their turn came.
    pub cancelled: i64,
    /// They had a run that was left alone.
    pub left_alone: i64,
    /// Retention has removed their run.
    pub removed: i64,
}

/// One date of a backfill.
#[derive(Debug, Clone, Serialize)]
pub struct BackfillDateRow {
    /// Its place in the order, from 1.
    pub position: i32,
    /// The date.
    pub logical_date: DateTime<Utc>,
    /// End of its data interval, exclusive.
    pub data_interval_end: DateTime<Utc>,
    /// What became of it.
    pub state: DateState,
    /// Its run.
    pub run_id: Option<RunId>,
    /// The state of that run now; `None` also when retention has removed it.
    pub run_state: Option<RunState>,
}

/// Which backfills to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct BackfillFilter {
    /// Only of this DAG.
    pub dag_id: Option<DagId>,
    /// Only backfills before this one (for the next page).
    pub before: Option<BackfillId>,
    /// At most so many, 1 to 500.
    pub limit: i64,
}

/// How a backfill goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// Nothing more begins; what runs goes on.
    Pause,
    /// It begins runs again, also one that has stopped at a failure.
    Resume,
}

/// What a cancelled backfill means for its runs that have begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenRuns {
    /// They go on.
    Keep,
    /// They are cancelled as well.
    Cancel,
}

struct Record {
    backfill_id: BackfillId,
    dag_id: DagId,
    state: BackfillState,
    from_date: DateTime<Utc>,
    to_date: DateTime<Utc>,
    reprocess: Reprocess,
    is_backwards: bool,
    stops_on_failure: bool,
    max_active_runs: i32,
    params: Value,
    created_by: String,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    dag_is_paused: bool,
    total: i64,
    waiting: i64,
    running: i64,
    success: i64,
    failed: i64,
    cancelled: i64,
    left_alone: i64,
    removed: i64,
}

impl From<Record> for BackfillRow {
    fn from(row: Record) -> Self {
        Self {
            backfill_id: row.backfill_id,
            dag_id: row.dag_id,
            state: row.state,
            from: row.from_date,
            to: row.to_date,
            reprocess: row.reprocess,
            direction: if row.is_backwards {
                Direction::Backwards
            } else {
                Direction::Forwards
            },
            on_failure: if row.stops_on_failure {
                OnFailure::Stop
            } else {
                OnFailure::Continue
            },
            max_active_runs: row.max_active_runs,
            params: params_of(&row.params),
            created_by: row.created_by,
            created_at: row.created_at,
            finished_at: row.finished_at,
            dag_is_paused: row.dag_is_paused,
            progress: Progress {
                total: row.total,
                waiting: row.waiting,
                running: row.running,
                success: row.success,
                failed: row.failed,
                cancelled: row.cancelled,
                left_alone: row.left_alone,
                removed: row.removed,
            },
        }
    }
}

/// A backfill that may go on, under the lock of its DAG.
struct Going {
    dag_id: DagId,
    state: BackfillState,
    reprocess: Reprocess,
    free: i32,
    params: Value,
    created_by: String,
    paused: bool,
    version_id: VersionId,
}

/// A date whose turn has come, with the run it has.
struct DueDate {
    position: i32,
    logical_date: DateTime<Utc>,
    data_interval_start: DateTime<Utc>,
    data_interval_end: DateTime<Utc>,
    run_id: Option<RunId>,
    state: Option<RunState>,
}

/// A final run under its lock.
struct ToClear {
    run_id: RunId,
    version_id: VersionId,
    params: Option<Value>,
}

/// What became of dates whose turn came.
#[derive(Default)]
struct Decided {
    positions: Vec<i32>,
    states: Vec<DateState>,
    run_ids: Vec<i64>,
    /// Runs to start, made or cleared.
    begun: Vec<i64>,
    /// Somebody holds a run, so this date and what comes after it have to wait.
    is_held_up: bool,
}

impl Decided {
    fn note(&mut self, position: i32, state: DateState, run_id: RunId) {
        self.positions.push(position);
        self.states.push(state);
        self.run_ids.push(run_id.0);
        match state {
            DateState::Made | DateState::Cleared => self.begun.push(run_id.0),
            DateState::Waiting | DateState::Left | DateState::Cancelled => {}
        }
    }
}

impl Store {
    /// What a backfill would do, date by date in its order, and nothing else.
    ///
    /// # Errors
    /// The DAG is unknown, retired or has no schedule; the range or a param is wrong; or Postgres is away.
    pub async fn plan_backfill(&self, new: &NewBackfill) -> Result<Vec<PlannedDate>, Error> {
        let (_, intervals) = self.dates_to_backfill(new).await?;
        let mut connection = self.people.acquire().await?;
        plan(&mut connection, new, &intervals).await
    }

    /// Makes a backfill, and begins its first runs unless its DAG is paused.
    ///
    /// # Errors
    /// As [`Store::plan_backfill`]; also when nothing is to do, or when the DAG has a backfill that is not over.
    pub async fn create_backfill(&self, new: &NewBackfill) -> Result<BackfillId, Error> {
        let (definition, intervals) = self.dates_to_backfill(new).await?;
        let mut transaction = self.engine.begin().await?;
        match self
            .create_backfill_by(&mut transaction, new, &definition, &intervals)
            .await
        {
            Ok(backfill_id) => {
                transaction.commit().await?;
                Ok(backfill_id)
            }
            Err(error) => {
                // Dropping it would roll back later, and keep the DAG locked until then.
                transaction.rollback().await?;
                Err(error)
            }
        }
    }

    async fn create_backfill_by(
        &self,
        connection: &mut PgConnection,
        new: &NewBackfill,
        definition: &Dag,
        intervals: &[DataInterval],
    ) -> Result<BackfillId, Error> {
        let dag = sqlx::query_file!(
            "src/store/queries/lock_dag_to_backfill.sql",
            new.dag_id.as_str()
        )
        .fetch_one(&mut *connection)
        .await?;
        if let Some(backfill_id) = dag.open_backfill {
            return Err(Error::BackfillIsOpen {
                dag_id: new.dag_id.clone(),
                backfill_id,
            });
        }
        let planned = plan(connection, new, intervals).await?;
        if planned.iter().all(|date| date.action == DateAction::Leave) {
            return Err(Error::NothingToBackfill {
                dates: planned.len(),
            });
        }
        let max_active_runs = new.max_active_runs.unwrap_or(definition.max_active_runs);
        let backfill_id = sqlx::query_file_scalar!(
            "src/store/queries/insert_backfill.sql",
            new.dag_id.as_str(),
            new.from,
            new.to,
            new.reprocess as Reprocess,
            new.direction == Direction::Backwards,
            new.on_failure == OnFailure::Stop,
            i32::try_from(max_active_runs).unwrap_or(i32::MAX),
            super::text::storable_value(&Value::Object(new.params.clone())),
            new.actor,
        )
        .fetch_one(&mut *connection)
        .await?;
        let logical_dates: Vec<_> = planned.iter().map(|date| date.logical_date).collect();
        let ends: Vec<_> = planned.iter().map(|date| date.data_interval_end).collect();
        let states: Vec<DateState> = planned
            .iter()
            .map(|date| match date.action {
                DateAction::Make | DateAction::Clear => DateState::Waiting,
                DateAction::Leave => DateState::Left,
            })
            .collect();
        let run_ids: Vec<Option<i64>> = planned
            .iter()
            .map(|date| date.run_id.map(|run_id| run_id.0))
            .collect();
        sqlx::query_file!(
            "src/store/queries/insert_backfill_dates.sql",
            backfill_id.0,
            &logical_dates,
            &ends,
            &states as &[DateState],
            &run_ids as &[Option<i64>],
        )
        .execute(&mut *connection)
        .await?;
        let detail = json!({
            "backfill": backfill_id,
            "from": new.from,
            "to": new.to,
            "reprocess": new.reprocess,
            "direction": new.direction,
            "on_failure": new.on_failure,
            "max_active_runs": max_active_runs,
            "dates": planned.len(),
        });
        let action = "backfill";
        audit(connection, &new.actor, action, &new.dag_id, None, &detail).await?;
        self.start_runs_of(connection, &new.dag_id).await?;
        Ok(backfill_id)
    }

    /// Pauses a backfill or lets it go on. To do what is done already is no error.
    ///
    /// # Errors
    /// The backfill is unknown or final, or Postgres is away.
    pub async fn steer_backfill(
        &self,
        backfill_id: BackfillId,
        steer: Steer,
        actor: &str,
    ) -> Result<BackfillState, Error> {
        let dag_id = self.dag_of_backfill(backfill_id).await?;
        let mut transaction = self.engine.begin().await?;
        let state = open_state(&mut transaction, &dag_id, backfill_id).await?;
        if state.is_final() {
            transaction.rollback().await?;
            return Err(Error::BackfillIsFinal { backfill_id, state });
        }
        let (next, action) = match (steer, state) {
            // One that has stopped begins nothing either, and says why.
            (Steer::Pause, BackfillState::Stopped) => (BackfillState::Stopped, "pause backfill"),
            (Steer::Pause, _) => (BackfillState::Paused, "pause backfill"),
            (Steer::Resume, _) => (BackfillState::Running, "resume backfill"),
        };
        let changed = sqlx::query_file!(
            "src/store/queries/set_backfill_state.sql",
            backfill_id.0,
            next as BackfillState
        )
        .execute(&mut *transaction)
        .await?;
        if changed.rows_affected() > 0 {
            let detail = json!({ "backfill": backfill_id });
            audit(&mut transaction, actor, action, &dag_id, None, &detail).await?;
            self.start_runs_of(&mut transaction, &dag_id).await?;
        }
        transaction.commit().await?;
        Ok(next)
    }

    /// Ends a backfill: dates whose turn has not come are not touched. Returns how many runs were cancelled.
    ///
    /// # Errors
    /// The backfill is unknown or final, or Postgres is away.
    pub async fn cancel_backfill(
        &self,
        backfill_id: BackfillId,
        open_runs: OpenRuns,
        actor: &str,
    ) -> Result<usize, Error> {
        let dag_id = self.dag_of_backfill(backfill_id).await?;
        let mut transaction = self.engine.begin().await?;
        let state = open_state(&mut transaction, &dag_id, backfill_id).await?;
        if state.is_final() {
            transaction.rollback().await?;
            return Err(Error::BackfillIsFinal { backfill_id, state });
        }
        let dates =
            sqlx::query_file_scalar!("src/store/queries/cancel_backfill.sql", backfill_id.0)
                .fetch_one(&mut *transaction)
                .await?;
        let detail = json!({ "backfill": backfill_id, "dates": dates });
        let action = "cancel backfill";
        audit(&mut transaction, actor, action, &dag_id, None, &detail).await?;
        transaction.commit().await?;
        match open_runs {
            OpenRuns::Keep => Ok(0),
            OpenRuns::Cancel => self.cancel_runs_of(backfill_id, actor).await,
        }
    }

    async fn cancel_runs_of(&self, backfill_id: BackfillId, actor: &str) -> Result<usize, Error> {
        let runs = sqlx::query_file_scalar!(
            "src/store/queries/read_open_runs_of_backfill.sql",
            backfill_id.0
        )
        .fetch_all(&self.engine)
        .await?;
        let mut cancelled = 0;
        for run_id in runs {
            match self.cancel_run(run_id, actor).await {
                Ok(_) => cancelled += 1,
                // It has ended meanwhile.
                Err(Error::RunIsFinal { .. } | Error::UnknownRun { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(cancelled)
    }

    /// Goes on with backfills whose next run somebody held when its turn came. For schedulers.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn go_on_with_backfills(&self) -> Result<Effects, Error> {
        let due = sqlx::query_file!("src/store/queries/read_due_backfills.sql")
            .fetch_all(&self.engine)
            .await?;
        let mut effects = Effects::default();
        for backfill in due {
            let mut transaction = self.engine.begin().await?;
            sqlx::query_file!(
                "src/store/queries/wait_for_runs_to_clear.sql",
                &backfill.run_ids
            )
            .fetch_all(&mut *transaction)
            .await?;
            let step = self
                .start_runs_of(&mut transaction, &backfill.dag_id)
                .await?;
            transaction.commit().await?;
            effects = effects.and(step.effects());
        }
        Ok(effects)
    }

    /// Backfills, newest first.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn backfills(&self, filter: &BackfillFilter) -> Result<Vec<BackfillRow>, Error> {
        self.list_backfills(filter.dag_id.as_ref(), None, filter.before, filter.limit)
            .await
    }

    /// One backfill.
    ///
    /// # Errors
    /// There is none of that number, or Postgres is away.
    pub async fn backfill(&self, backfill_id: BackfillId) -> Result<BackfillRow, Error> {
        self.list_backfills(None, Some(backfill_id), None, 1)
            .await?
            .pop()
            .ok_or(Error::UnknownBackfill { backfill_id })
    }

    async fn list_backfills(
        &self,
        dag_id: Option<&DagId>,
        backfill_id: Option<BackfillId>,
        before: Option<BackfillId>,
        limit: i64,
    ) -> Result<Vec<BackfillRow>, Error> {
        let rows = sqlx::query_file_as!(
            Record,
            "src/store/queries/list_backfills.sql",
            dag_id.map(DagId::as_str),
            backfill_id.map(|id| id.0),
            before.map(|id| id.0),
            limit.clamp(1, MOST_BACKFILLS)
        )
        .fetch_all(&self.people)
        .await?;
        Ok(rows.into_iter().map(BackfillRow::from).collect())
    }

    /// The dates of a backfill in the order in which they run, after the one at a position.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn backfill_dates(
        &self,
        backfill_id: BackfillId,
        after: i32,
        limit: i64,
    ) -> Result<Vec<BackfillDateRow>, Error> {
        Ok(sqlx::query_file_as!(
            BackfillDateRow,
            "src/store/queries/list_backfill_dates.sql",
            backfill_id.0,
            after,
            limit.clamp(1, MOST_DATES_SHOWN)
        )
        .fetch_all(&self.people)
        .await?)
    }

    /// The present definition of the DAG and the data intervals of the range; the params are checked as well.
    async fn dates_to_backfill(
        &self,
        new: &NewBackfill,
    ) -> Result<(std::sync::Arc<Dag>, Vec<DataInterval>), Error> {
        let (version_id, now) = self.version_to_trigger(&new.dag_id).await?;
        let definition = self.definition(version_id).await?;
        let Some(schedule) = definition.schedule.clone() else {
            return Err(Error::NoSchedule {
                dag_id: new.dag_id.clone(),
            });
        };
        definition
            .check_params(&new.params)
            .map_err(Error::Params)?;
        let (from, to) = (new.from, new.to);
        // Thousands of ticks of a cron expression are milliseconds of work.
        let intervals = tokio::task::spawn_blocking(move || dates(&schedule, from, to, now))
            .await
            .expect("reading a schedule neither panics nor is cancelled")
            .map_err(Error::Range)?;
        Ok((definition, intervals))
    }

    async fn dag_of_backfill(&self, backfill_id: BackfillId) -> Result<DagId, Error> {
        let row = sqlx::query_file!("src/store/queries/read_dag_of_backfill.sql", backfill_id.0)
            .fetch_optional(&self.engine)
            .await?;
        row.map(|row| row.dag_id)
            .ok_or(Error::UnknownBackfill { backfill_id })
    }

    async fn start_runs_of(
        &self,
        connection: &mut PgConnection,
        dag_id: &DagId,
    ) -> Result<Step, Error> {
        let mut step = Step::default();
        self.start_runs(connection, &BTreeSet::from([dag_id.clone()]), &mut step)
            .await?;
        self.finish(connection, &mut step).await?;
        Ok(step)
    }

    /// Notes which runs of a backfill have ended, and begins those whose turn has come; ends the backfill when nothing is
    /// left. The DAG row is locked. The runs that it returns are running, and all their task instances wait.
    pub(super) async fn advance_backfill(
        &self,
        connection: &mut PgConnection,
        backfill_id: BackfillId,
        step: &mut Step,
    ) -> Result<Vec<Started>, Error> {
        let going = sqlx::query_file_as!(
            Going,
            "src/store/queries/close_backfill_dates.sql",
            backfill_id.0
        )
        .fetch_optional(&mut *connection)
        .await?;
        let Some(going) = going else {
            return Ok(Vec::new());
        };
        let mut begun = Vec::new();
        let mut free = match going.state {
            BackfillState::Running if !going.paused => going.free,
            BackfillState::Running
            | BackfillState::Paused
            | BackfillState::Stopped
            | BackfillState::Success
            | BackfillState::Failed
            | BackfillState::Cancelled => 0,
        };
        let mut after = 0;
        while free > 0 {
            let dates = sqlx::query_file_as!(
                DueDate,
                "src/store/queries/read_backfill_dates_to_begin.sql",
                backfill_id.0,
                after,
                i64::from(free)
            )
            .fetch_all(&mut *connection)
            .await?;
            let Some(last) = dates.last() else { break };
            after = last.position;
            let decided = self.decide(connection, backfill_id, &going, &dates).await?;
            sqlx::query_file!(
                "src/store/queries/note_backfill_dates.sql",
                backfill_id.0,
                &decided.positions,
                &decided.states as &[DateState],
                &decided.run_ids,
            )
            .execute(&mut *connection)
            .await?;
            free -= i32::try_from(decided.begun.len()).unwrap_or(i32::MAX);
            begun.extend(decided.begun);
            if decided.is_held_up {
                sqlx::query_file!("src/store/queries/postpone_backfill.sql", backfill_id.0)
                    .execute(&mut *connection)
                    .await?;
                step.effects.deadline = true;
                break;
            }
        }
        sqlx::query_file!(
            "src/store/queries/finish_backfill.sql",
            backfill_id.0,
            going.dag_id.as_str()
        )
        .execute(&mut *connection)
        .await?;
        if begun.is_empty() {
            return Ok(Vec::new());
        }
        Ok(sqlx::query_file_as!(
            Started,
            "src/store/queries/begin_backfill_runs.sql",
            &begun,
            backfill_id.0
        )
        .fetch_all(connection)
        .await?)
    }

    /// Makes and clears the runs of dates whose turn has come, in their order.
    async fn decide(
        &self,
        connection: &mut PgConnection,
        backfill_id: BackfillId,
        going: &Going,
        dates: &[DueDate],
    ) -> Result<Decided, Error> {
        let definition = self.definition_by(connection, going.version_id).await?;
        let given = params_of(&going.params);
        let to_clear: Vec<i64> = dates
            .iter()
            .filter(|date| going.reprocess.decide(date.state) == DateAction::Clear)
            .filter_map(|date| date.run_id)
            .map(|run_id| run_id.0)
            .collect();
        let mut locked: HashMap<RunId, ToClear> = HashMap::new();
        if !to_clear.is_empty() {
            let rows = sqlx::query_file_as!(
                ToClear,
                "src/store/queries/lock_runs_to_clear.sql",
                &to_clear
            )
            .fetch_all(&mut *connection)
            .await?;
            locked.extend(rows.into_iter().map(|run| (run.run_id, run)));
            sqlx::query_file!("src/store/queries/allow_clearing.sql")
                .fetch_one(&mut *connection)
                .await?;
        }
        let mut decided = Decided::default();
        let mut rows = Vec::new();
        let mut positions = HashMap::new();
        for date in dates {
            match (going.reprocess.decide(date.state), date.run_id) {
                (DateAction::Make, _) | (_, None) => {
                    positions.insert(date.logical_date, date.position);
                    rows.push(Row {
                        dag_id: going.dag_id.clone(),
                        version_id: going.version_id,
                        logical_date: date.logical_date,
                        data_interval_start: date.data_interval_start,
                        data_interval_end: date.data_interval_end,
                        params: completed(&definition, &given, None),
                        kind: RunKind::Backfill,
                        triggered_by: format!("backfill {backfill_id} by {}", going.created_by),
                    });
                }
                (DateAction::Leave, Some(run_id)) => {
                    decided.note(date.position, DateState::Left, run_id);
                }
                (DateAction::Clear, Some(run_id)) => {
                    let Some(run) = locked.get(&run_id) else {
                        decided.is_held_up = true;
                        break;
                    };
                    let params = completed(&definition, &given, run.params.as_ref());
                    self.clear_to(connection, run, (&going.dag_id, going.version_id), &params)
                        .await?;
                    decided.note(date.position, DateState::Cleared, run_id);
                }
            }
        }
        let made = create_runs(connection, &rows).await?;
        // Nobody else makes runs of the schedule's dates without the lock of the DAG; if somebody did, look again.
        decided.is_held_up |= made.len() < rows.len();
        for run in made {
            if let Some(position) = positions.get(&run.logical_date) {
                decided.note(*position, DateState::Made, run.run_id);
            }
        }
        Ok(decided)
    }

    /// Takes a final run back to its start, on another version if that is not its own. It is locked.
    async fn clear_to(
        &self,
        connection: &mut PgConnection,
        run: &ToClear,
        (dag_id, version_id): (&DagId, VersionId),
        params: &Value,
    ) -> Result<(), Error> {
        let run_id = run.run_id.0;
        let mut instances =
            sqlx::query_file_as!(Found, "src/store/queries/read_states.sql", run_id)
                .fetch_all(&mut *connection)
                .await?;
        if run.version_id != version_id {
            let locked = LockedRun {
                dag_id: dag_id.clone(),
                version_id: run.version_id,
                state: RunState::Success,
            };
            let travel = self
                .plan_travel(connection, run.run_id, &locked, &instances, Some(params))
                .await?;
            if let Some(travel) = travel {
                travel.carry_out(connection, run.run_id).await?;
                travel.place_all(&mut instances);
            }
        }
        let (ids, ordinals): (Vec<i64>, Vec<i32>) = instances
            .iter()
            .filter(|instance| instance.state.is_final())
            .map(|instance| (instance.instance_id.0, instance.ordinal))
            .unzip();
        let versions = vec![version_id.0; ids.len()];
        sqlx::query_file!(
            "src/store/queries/clear_instances.sql",
            &ids,
            &versions,
            &ordinals
        )
        .execute(&mut *connection)
        .await?;
        // Every list is made anew.
        sqlx::query_file!("src/store/queries/collapse_items.sql", run_id, &ordinals)
            .execute(&mut *connection)
            .await?;
        sqlx::query_file!("src/store/queries/recount_instances.sql", run_id)
            .execute(&mut *connection)
            .await?;
        sqlx::query_file!("src/store/queries/reopen_run.sql", run_id)
            .execute(&mut *connection)
            .await?;
        sqlx::query_file!(
            "src/store/queries/upsert_run_params.sql",
            run_id,
            super::text::storable_value(params)
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// What to do for each date of a backfill, in its order.
async fn plan(
    connection: &mut PgConnection,
    new: &NewBackfill,
    intervals: &[DataInterval],
) -> Result<Vec<PlannedDate>, Error> {
    let logical_dates: Vec<DateTime<Utc>> =
        intervals.iter().map(DataInterval::logical_date).collect();
    let runs: HashMap<DateTime<Utc>, (RunId, RunState)> = sqlx::query_file!(
        "src/store/queries/read_runs_of_dates.sql",
        new.dag_id.as_str(),
        &logical_dates
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(|row| (row.logical_date, (row.run_id, row.state)))
    .collect();
    let mut planned: Vec<PlannedDate> = intervals
        .iter()
        .map(|interval| {
            let run = runs.get(&interval.logical_date());
            PlannedDate {
                logical_date: interval.logical_date(),
                data_interval_end: interval.end,
                run_id: run.map(|(run_id, _)| *run_id),
                run_state: run.map(|(_, state)| *state),
                action: new.reprocess.decide(run.map(|(_, state)| *state)),
            }
        })
        .collect();
    match new.direction {
        Direction::Forwards => {}
        Direction::Backwards => planned.reverse(),
    }
    Ok(planned)
}

/// The state of a backfill under the lock of its DAG.
async fn open_state(
    connection: &mut PgConnection,
    dag_id: &DagId,
    backfill_id: BackfillId,
) -> Result<BackfillState, Error> {
    sqlx::query_file!(
        "src/store/queries/lock_dag_to_backfill.sql",
        dag_id.as_str()
    )
    .fetch_one(&mut *connection)
    .await?;
    let row = sqlx::query_file!("src/store/queries/read_dag_of_backfill.sql", backfill_id.0)
        .fetch_one(connection)
        .await?;
    Ok(row.state)
}

/// The params of a run: the version's defaults, over them what a run that is cleared had, over that what the backfill
/// was given. What the version does not take any more is left out.
fn completed(definition: &Dag, given: &Params, had: Option<&Value>) -> Value {
    let mut params = had.map(params_of).unwrap_or_default();
    params.extend(given.clone());
    params.retain(|name, _| definition.params.contains_key(name));
    match definition.check_params(&params) {
        Ok(params) => Value::Object(params),
        Err(_) => {
            let mut fallback = params_of(&default_params(definition));
            fallback.extend(params);
            Value::Object(fallback)
        }
    }
}

fn params_of(value: &Value) -> Params {
    value.as_object().cloned().unwrap_or_default()
}
