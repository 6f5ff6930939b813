//! Making runs: by hand, and by the schedule.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::{Effects, Error, NewRun, Store, settle::Step};
use crate::{
    metrics,
    model::{
        DagId, Overlap, RunId, RunKind, VersionId,
        schedule::{DataInterval, Past},
    },
};

/// At most so many runs of one DAG are made in one pass; the next pass goes on at once.
const RUNS_PER_PASS: usize = 100;

/// A run as it is inserted.
pub(super) struct Row {
    pub(super) dag_id: DagId,
    pub(super) version_id: VersionId,
    pub(super) logical_date: DateTime<Utc>,
    pub(super) data_interval_start: DateTime<Utc>,
    pub(super) data_interval_end: DateTime<Utc>,
    pub(super) params: Value,
    pub(super) kind: RunKind,
    pub(super) triggered_by: String,
}

type Key = (DagId, DateTime<Utc>, RunKind);

impl Row {
    fn key(&self) -> Key {
        (self.dag_id.clone(), self.logical_date, self.kind)
    }
}

/// A run that was inserted.
pub(super) struct Made {
    pub(super) run_id: RunId,
    pub(super) dag_id: DagId,
    pub(super) logical_date: DateTime<Utc>,
    kind: RunKind,
}

impl Made {
    fn key(&self) -> Key {
        (self.dag_id.clone(), self.logical_date, self.kind)
    }
}

/// DAGs in a pass that have an overlap policy of their own.
#[derive(Default)]
struct Overlaps {
    skip: Vec<Skipping>,
    latest: Vec<String>,
}

/// A DAG that leaves ticks out when it has no room.
struct Skipping {
    dag_id: DagId,
    max_active_runs: u32,
}

impl Store {
    /// Makes a run by hand, and starts it if `max_active_runs` allows. Without a logical date it is now, by the
    /// database's clock; its data interval is the last complete one of the schedule, or empty without a schedule.
    ///
    /// # Errors
    /// The DAG is unknown or retired, a param is wrong, there is a run for that logical date, or Postgres is away.
    pub async fn trigger(&self, run: NewRun) -> Result<RunId, Error> {
        let made = self.trigger_all(vec![run]).await?;
        Ok(made[0])
    }

    /// Makes runs by hand as [`Store::trigger`] does, all of them or none, in one transaction; answers in their order.
    ///
    /// # Errors
    /// As there, for the first run that cannot be made.
    pub async fn trigger_all(&self, runs: Vec<NewRun>) -> Result<Vec<RunId>, Error> {
        let mut rows = Vec::with_capacity(runs.len());
        let mut known = HashMap::new();
        for run in runs {
            let (version_id, now) = match known.get(&run.dag_id) {
                Some(found) => *found,
                None => {
                    let found = self.version_to_trigger(&run.dag_id).await?;
                    known.insert(run.dag_id.clone(), found);
                    found
                }
            };
            rows.push(self.row_to_trigger(run, version_id, now).await?);
        }
        let mut transaction = self.engine.begin().await?;
        let made = create_runs(&mut transaction, &rows).await?;
        let by_key: HashMap<_, RunId> = made.iter().map(|run| (run.key(), run.run_id)).collect();
        let mut ids = Vec::with_capacity(rows.len());
        for row in &rows {
            let Some(run_id) = by_key.get(&row.key()) else {
                transaction.rollback().await?;
                return Err(self.no_run_made(row).await?);
            };
            ids.push(*run_id);
        }
        let mut step = Step::default();
        let dags = rows.iter().map(|row| row.dag_id.clone()).collect();
        self.start_runs(&mut transaction, &dags, &mut step).await?;
        self.finish(&mut transaction, &mut step).await?;
        match transaction.commit().await {
            Ok(()) => Ok(ids),
            // The answer to the commit may have been lost: only reading tells. They were made together or not at all.
            Err(error) => {
                let Some((row, run_id)) = rows.first().zip(ids.first()) else {
                    return Ok(ids);
                };
                match self
                    .run_by_key(&row.dag_id, row.logical_date, row.kind)
                    .await
                {
                    Ok(Some(found)) if found == *run_id => Ok(ids),
                    Ok(_) | Err(_) => Err(error.into()),
                }
            }
        }
    }

    pub(super) async fn version_to_trigger(
        &self,
        dag_id: &DagId,
    ) -> Result<(VersionId, DateTime<Utc>), Error> {
        let dag = sqlx::query_file!("src/store/queries/read_dag_to_trigger.sql", dag_id.as_str())
            .fetch_optional(&self.engine)
            .await?;
        let Some((dag, version_id)) = dag.and_then(|dag| {
            let version = dag.version_id?;
            Some((dag, version))
        }) else {
            return Err(self.unknown_dag(dag_id.clone()).await?);
        };
        if !dag.present {
            return Err(Error::RetiredDag {
                dag_id: dag_id.clone(),
            });
        }
        Ok((version_id, dag.now))
    }

    async fn row_to_trigger(
        &self,
        run: NewRun,
        version_id: VersionId,
        now: DateTime<Utc>,
    ) -> Result<Row, Error> {
        let definition = self.definition(version_id).await?;
        let params = definition
            .check_params(&run.params)
            .map_err(Error::Params)?;
        let logical_date = run.logical_date.unwrap_or(now);
        let interval = definition
            .schedule
            .as_ref()
            .and_then(|schedule| match run.logical_date {
                Some(date) => schedule.interval_of(date),
                None => schedule.last_complete_interval(now),
            });
        Ok(Row {
            dag_id: run.dag_id,
            version_id,
            kind: run.kind,
            // Postgres keeps microseconds, and a run is found by its date.
            logical_date: logical_date.trunc_subsecs(6),
            data_interval_start: interval.map_or(logical_date, |interval| interval.start),
            data_interval_end: interval.map_or(logical_date, |interval| interval.end),
            params: Value::Object(params),
            triggered_by: run.triggered_by,
        })
    }

    /// Why a run was not made: there is one already.
    async fn no_run_made(&self, row: &Row) -> Result<Error, Error> {
        let run_id = self
            .run_by_key(&row.dag_id, row.logical_date, row.kind)
            .await?;
        Ok(run_id.map_or(
            Error::UnknownDag {
                dag_id: row.dag_id.clone(),
                nearest: None,
                broken_file: None,
            },
            |run_id| Error::RunExists { run_id },
        ))
    }

    async fn run_by_key(
        &self,
        dag_id: &DagId,
        logical_date: DateTime<Utc>,
        kind: RunKind,
    ) -> Result<Option<RunId>, Error> {
        Ok(sqlx::query_file_scalar!(
            "src/store/queries/read_run_by_key.sql",
            dag_id.as_str(),
            logical_date,
            kind as RunKind
        )
        .fetch_optional(&self.engine)
        .await?)
    }

    /// Makes the runs whose tick has come. Any number of schedulers may do
    /// it at the same time: a tick is run once because (dag, logical date, kind) is unique.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn schedule_due(&self, shift: TimeDelta) -> Result<Effects, Error> {
        let mut transaction = self.engine.begin().await?;
        let due = sqlx::query_file!("src/store/queries/lock_due_dags.sql", shift as _)
            .fetch_all(&mut *transaction)
            .await?;
        if due.is_empty() {
            transaction.rollback().await?;
            return Ok(Effects::default());
        }
        let versions = due.iter().map(|dag| dag.version_id).collect();
        self.know_definitions(&mut transaction, &versions).await?;
        let mut rows = Vec::new();
        let mut next_dates = Vec::with_capacity(due.len());
        let mut next_fires = Vec::with_capacity(due.len());
        let mut last_ticks = Vec::with_capacity(due.len());
        let mut overlaps = Overlaps::default();
        for dag in &due {
            let definition = self.definition_by(&mut transaction, dag.version_id).await?;
            let plan = definition.timetable().map(|timetable| {
                let past = Past {
                    last_tick: dag.last_tick,
                    since: dag.schedule_since,
                    watched_since: dag.watched_since,
                };
                timetable.due(&past, dag.now, RUNS_PER_PASS)
            });
            let next = plan.as_ref().and_then(|plan| plan.next);
            next_dates.push(next.map(|next| next.interval.logical_date()));
            next_fires.push(next.map(|next| next.fires_at));
            last_ticks.push(plan.as_ref().and_then(|plan| plan.last_tick));
            let intervals = plan.map(|plan| plan.intervals).unwrap_or_default();
            match definition.overlap {
                Overlap::Queue => {}
                Overlap::Skip if intervals.is_empty() => {}
                Overlap::Skip => overlaps.skip.push(Skipping {
                    dag_id: dag.dag_id.clone(),
                    max_active_runs: definition.max_active_runs,
                }),
                Overlap::Latest => overlaps.latest.push(dag.dag_id.to_string()),
            }
            rows.extend(intervals.into_iter().map(|interval| Row {
                dag_id: dag.dag_id.clone(),
                version_id: dag.version_id,
                logical_date: interval.logical_date(),
                data_interval_start: interval.start,
                data_interval_end: interval.end,
                params: default_params(&definition),
                kind: RunKind::Scheduled,
                triggered_by: "schedule".to_owned(),
            }));
        }
        skip_ticks(&mut transaction, &overlaps.skip, &mut rows).await?;
        let dags: Vec<String> = due
            .iter()
            .map(|dag| dag.dag_id.as_str().to_owned())
            .collect();
        let fires: Vec<DateTime<Utc>> = due.iter().map(|dag| dag.next_fire_at).collect();
        sqlx::query_file!(
            "src/store/queries/move_schedules.sql",
            &dags,
            &fires,
            &next_dates as &[Option<DateTime<Utc>>],
            &next_fires as &[Option<DateTime<Utc>>],
            &last_ticks as &[Option<DateTime<Utc>>],
        )
        .execute(&mut *transaction)
        .await?;
        create_runs(&mut transaction, &rows).await?;
        let mut step = Step::default();
        let dags: BTreeSet<DagId> = rows.into_iter().map(|row| row.dag_id).collect();
        self.start_runs(&mut transaction, &dags, &mut step).await?;
        if !overlaps.latest.is_empty() {
            sqlx::query_file_scalar!("src/store/queries/cancel_overtaken.sql", &overlaps.latest)
                .fetch_one(&mut *transaction)
                .await?;
        }
        self.finish(&mut transaction, &mut step).await?;
        transaction.commit().await?;
        Ok(step.effects())
    }

    /// The error for a DAG id that is not there, with the nearest that is, and with the file that may be its own.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn unknown_dag(&self, dag_id: DagId) -> Result<Error, Error> {
        let known = sqlx::query_file_scalar!("src/store/queries/list_dag_ids.sql")
            .fetch_all(&self.people)
            .await?;
        let nearest = known
            .into_iter()
            .map(|known| (strsim::jaro_winkler(known.as_str(), dag_id.as_str()), known))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|(one, _), (other, _)| one.total_cmp(other))
            .map(|(_, known)| known);
        let broken: Vec<String> = self
            .file_errors()
            .await?
            .into_iter()
            .map(|error| error.file)
            .collect();
        let is_named_after_it = |file: &&String| {
            std::path::Path::new(file.as_str())
                .file_stem()
                .is_some_and(|stem| stem == dag_id.as_str())
        };
        let broken_file = match (broken.iter().find(is_named_after_it), broken.as_slice()) {
            (Some(file), _) => Some(file.clone()),
            (None, [only]) => Some(only.clone()),
            (None, _) => None,
        };
        Ok(Error::UnknownDag {
            dag_id,
            nearest,
            broken_file,
        })
    }
}

/// Leaves out the ticks of DAGs that have no room for their runs, and notes them. What comes due together takes what room
/// there is in order, oldest first.
async fn skip_ticks(
    connection: &mut PgConnection,
    dags: &[Skipping],
    rows: &mut Vec<Row>,
) -> Result<(), Error> {
    if dags.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = dags.iter().map(|dag| dag.dag_id.to_string()).collect();
    let open: HashMap<DagId, i64> =
        sqlx::query_file!("src/store/queries/count_open_runs.sql", &ids)
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .map(|row| (row.dag_id, row.open_runs))
            .collect();
    let mut skipped: HashMap<DagId, Vec<DataInterval>> = HashMap::new();
    let mut room: HashMap<&DagId, i64> = dags
        .iter()
        .map(|dag| {
            let open = open.get(&dag.dag_id).copied().unwrap_or(0);
            (&dag.dag_id, i64::from(dag.max_active_runs) - open)
        })
        .collect();
    rows.retain(|row| {
        let Some(room) = room.get_mut(&row.dag_id) else {
            return true;
        };
        *room -= 1;
        if *room < 0 {
            skipped
                .entry(row.dag_id.clone())
                .or_default()
                .push(DataInterval {
                    start: row.data_interval_start,
                    end: row.data_interval_end,
                });
        }
        *room >= 0
    });
    let noted: Vec<(&Skipping, &Vec<DataInterval>)> = dags
        .iter()
        .filter_map(|dag| Some((dag, skipped.get(&dag.dag_id)?)))
        .collect();
    if noted.is_empty() {
        return Ok(());
    }
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let whole = |count: i64| i32::try_from(count).unwrap_or(i32::MAX);
    let ids: Vec<String> = noted
        .iter()
        .map(|(dag, _)| dag.dag_id.to_string())
        .collect();
    let ends = || {
        noted
            .iter()
            .filter_map(|(_, intervals)| Some((intervals.first()?, intervals.last()?)))
    };
    // The tick before: where that one made no run either, they are noted together.
    let before: Vec<DateTime<Utc>> = ends().map(|(first, _)| first.start).collect();
    let firsts: Vec<DateTime<Utc>> = ends().map(|(first, _)| first.end).collect();
    let lasts: Vec<DateTime<Utc>> = ends().map(|(_, last)| last.end).collect();
    let counts: Vec<i64> = noted
        .iter()
        .map(|(_, intervals)| number(intervals.len()))
        .collect();
    let limits: Vec<i32> = noted
        .iter()
        .map(|(dag, _)| whole(i64::from(dag.max_active_runs)))
        .collect();
    let open: Vec<i32> = noted
        .iter()
        .map(|(dag, _)| {
            let were_open = open.get(&dag.dag_id).copied().unwrap_or(0);
            // Those that were made together with the ticks that were left out are open as well.
            whole(were_open.max(i64::from(dag.max_active_runs)))
        })
        .collect();
    sqlx::query_file!(
        "src/store/queries/insert_skipped_ticks.sql",
        &ids,
        &before,
        &firsts,
        &lasts,
        &counts,
        &open,
        &limits
    )
    .execute(connection)
    .await?;
    for ((dag, intervals), open) in noted.iter().zip(&open) {
        metrics::SKIPPED_TICKS.inc_by(u64::try_from(intervals.len()).unwrap_or(u64::MAX));
        tracing::info!(
            dag_id = %dag.dag_id, ticks = intervals.len(), open_runs = open, max_active_runs = dag.max_active_runs,
            "ticks made no run because the DAG has as many open runs as it may"
        );
    }
    Ok(())
}

/// Scheduled runs get the defaults. A DAG with a schedule and a required param is refused when its file is read; one
/// from before that rule runs with what it has, and its templates say what is missing.
pub(super) fn default_params(definition: &crate::model::Dag) -> Value {
    match definition.check_params(&crate::model::Params::new()) {
        Ok(params) => Value::Object(params),
        Err(_) => Value::Object(
            definition
                .params
                .iter()
                .filter_map(|(name, param)| Some((name.clone(), param.default.clone()?)))
                .collect(),
        ),
    }
}

/// Inserts runs, leaving out those that exist; returns the new ones.
pub(super) async fn create_runs(
    connection: &mut PgConnection,
    rows: &[Row],
) -> Result<Vec<Made>, Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let dags: Vec<String> = rows
        .iter()
        .map(|row| row.dag_id.as_str().to_owned())
        .collect();
    let versions: Vec<i64> = rows.iter().map(|row| row.version_id.0).collect();
    let logical_dates: Vec<DateTime<Utc>> = rows.iter().map(|row| row.logical_date).collect();
    let starts: Vec<DateTime<Utc>> = rows.iter().map(|row| row.data_interval_start).collect();
    let ends: Vec<DateTime<Utc>> = rows.iter().map(|row| row.data_interval_end).collect();
    let params: Vec<Value> = rows
        .iter()
        .map(|row| super::text::storable_value(&row.params))
        .collect();
    let kinds: Vec<RunKind> = rows.iter().map(|row| row.kind).collect();
    let triggered_by: Vec<String> = rows.iter().map(|row| row.triggered_by.clone()).collect();
    Ok(sqlx::query_file_as!(
        Made,
        "src/store/queries/create_runs.sql",
        &dags,
        &versions,
        &logical_dates,
        &starts,
        &ends,
        &params,
        &kinds as &[RunKind],
        &triggered_by
    )
    .fetch_all(connection)
    .await?)
}
