//! Making runs: by hand, and by the schedule.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::{Effects, Error, NewRun, Store, settle::Step};
use crate::model::{
    DagId, RunId, RunKind, VersionId,
    schedule::{Past, intervals_due},
};

/// At most so many runs of one DAG are made in one pass; the next pass goes on at once.
const RUNS_PER_PASS: usize = 100;

/// A run as it is inserted.
struct Row {
    dag_id: DagId,
    version_id: VersionId,
    logical_date: DateTime<Utc>,
    data_interval_start: DateTime<Utc>,
    data_interval_end: DateTime<Utc>,
    params: Value,
}

impl Store {
    /// Makes a run by hand, and starts it if `max_active_runs` allows. Without a logical date it is now, by the
    /// database's clock; its data interval is the last complete one of the schedule, or empty without a schedule.
    ///
    /// # Errors
    /// The DAG is unknown or retired, a param is wrong, there is a run for that logical date, or Postgres is away.
    pub async fn trigger(&self, run: NewRun) -> Result<RunId, Error> {
        let dag = sqlx::query_file!(
            "src/store/queries/read_dag_to_trigger.sql",
            run.dag_id.as_str()
        )
        .fetch_optional(&self.engine)
        .await?;
        let Some((dag, version_id)) = dag.and_then(|dag| {
            let version = dag.version_id?;
            Some((dag, version))
        }) else {
            return Err(self.unknown_dag(run.dag_id).await?);
        };
        if !dag.present {
            return Err(Error::RetiredDag { dag_id: run.dag_id });
        }
        let definition = self.definition(version_id).await?;
        let params = definition
            .check_params(&run.params)
            .map_err(Error::Params)?;
        let logical_date = run.logical_date.unwrap_or(dag.now);
        let interval = definition
            .schedule
            .as_ref()
            .and_then(|schedule| schedule.last_complete_interval(logical_date));
        let row = Row {
            dag_id: run.dag_id.clone(),
            version_id,
            logical_date,
            data_interval_start: interval.map_or(logical_date, |interval| interval.start),
            data_interval_end: interval.map_or(logical_date, |interval| interval.end),
            params: Value::Object(params),
        };
        let mut transaction = self.engine.begin().await?;
        let made = create_runs(
            &mut transaction,
            std::slice::from_ref(&row),
            run.kind,
            &run.triggered_by,
        )
        .await?;
        let Some(run_id) = made.into_iter().next() else {
            transaction.rollback().await?;
            let run_id = self.run_by_key(&run.dag_id, logical_date, run.kind).await?;
            return Err(run_id.map_or(
                Error::UnknownDag {
                    dag_id: run.dag_id,
                    nearest: None,
                },
                |run_id| Error::RunExists { run_id },
            ));
        };
        let mut step = Step::default();
        self.start_runs(
            &mut transaction,
            &BTreeSet::from([run.dag_id.clone()]),
            &mut step,
        )
        .await?;
        self.finish(&mut transaction, &mut step).await?;
        match transaction.commit().await {
            Ok(()) => Ok(run_id),
            // The answer to the commit may have been lost: only reading tells.
            Err(error) => match self.run_by_key(&run.dag_id, logical_date, run.kind).await {
                Ok(Some(found)) if found == run_id => Ok(run_id),
                Ok(_) | Err(_) => Err(error.into()),
            },
        }
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
        let mut rows = Vec::new();
        for dag in &due {
            let definition = self.definition_by(&mut transaction, dag.version_id).await?;
            let mut next = None;
            let mut last = None;
            if let Some(schedule) = &definition.schedule {
                let past = Past {
                    start: definition.start,
                    catchup: definition.catchup,
                    last_logical_date: dag.last_logical_date,
                    since: dag.schedule_since,
                    watched_since: dag.watched_since,
                };
                let plan = intervals_due(schedule, &past, dag.now, RUNS_PER_PASS);
                next = plan.next;
                last = plan
                    .intervals
                    .last()
                    .map(|interval| interval.logical_date());
                rows.extend(plan.intervals.into_iter().map(|interval| Row {
                    dag_id: dag.dag_id.clone(),
                    version_id: dag.version_id,
                    logical_date: interval.logical_date(),
                    data_interval_start: interval.start,
                    data_interval_end: interval.end,
                    params: default_params(&definition),
                }));
            }
            sqlx::query_file!(
                "src/store/queries/move_schedule.sql",
                dag.dag_id.as_str(),
                dag.next_fire_at,
                next.map(|interval| interval.logical_date()),
                next.map(|interval| interval.fires_at()),
                last
            )
            .execute(&mut *transaction)
            .await?;
        }
        create_runs(&mut transaction, &rows, RunKind::Scheduled, "schedule").await?;
        let mut step = Step::default();
        let dags: BTreeSet<DagId> = rows.into_iter().map(|row| row.dag_id).collect();
        self.start_runs(&mut transaction, &dags, &mut step).await?;
        self.finish(&mut transaction, &mut step).await?;
        transaction.commit().await?;
        Ok(step.effects())
    }

    /// The error for a DAG id that is not there, with the nearest that is.
    pub(super) async fn unknown_dag(&self, dag_id: DagId) -> Result<Error, Error> {
        let known = sqlx::query_file_scalar!("src/store/queries/list_dag_ids.sql")
            .fetch_all(&self.people)
            .await?;
        let nearest = known
            .into_iter()
            .map(|known| (strsim::jaro_winkler(known.as_str(), dag_id.as_str()), known))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|(one, _), (other, _)| one.total_cmp(other))
            .map(|(_, known)| known);
        Ok(Error::UnknownDag { dag_id, nearest })
    }
}

/// Scheduled runs get the defaults. A DAG with a schedule and a required param is refused when its file is read; one
/// from before that rule runs with what it has, and its templates say what is missing.
fn default_params(definition: &crate::model::Dag) -> Value {
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

async fn create_runs(
    connection: &mut PgConnection,
    rows: &[Row],
    kind: RunKind,
    triggered_by: &str,
) -> Result<Vec<RunId>, Error> {
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
    let made = sqlx::query_file!(
        "src/store/queries/create_runs.sql",
        &dags,
        &versions,
        &logical_dates,
        &starts,
        &ends,
        &params,
        kind as RunKind,
        triggered_by
    )
    .fetch_all(connection)
    .await?;
    Ok(made.into_iter().map(|run| run.run_id).collect())
}
