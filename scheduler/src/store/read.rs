//! What people look at. Every list is bounded, and none runs on the engine's connections.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};

use super::{
    DagRow, Error, FileErrorRow, Home, InstanceRow, LogPosition, LogRow, RunFilter, RunRow,
    RunSummary, SkippedTicks, Store, TryRow, claim::task_at,
};
use crate::model::{
    DagId, InstanceId, Params, RunId, RunKind, RunState, SleepReason, TaskId, TaskState,
    TryOutcome, VersionId,
};

const MOST_RUNS: i64 = 500;
const MOST_LOG_LINES: i64 = 10_000;

struct DagRecord {
    dag_id: DagId,
    file: String,
    version_id: VersionId,
    description: String,
    schedule: Option<String>,
    paused: bool,
    present: bool,
    next_logical_date: Option<DateTime<Utc>>,
    next_fire_at: Option<DateTime<Utc>>,
    last_tick: Option<DateTime<Utc>>,
    schedule_since: DateTime<Utc>,
    run_id: Option<RunId>,
    state: Option<RunState>,
    logical_date: Option<DateTime<Utc>>,
    open_runs: i64,
}

impl From<DagRecord> for DagRow {
    fn from(row: DagRecord) -> Self {
        let last_run = match (row.run_id, row.state, row.logical_date) {
            (Some(run_id), Some(state), Some(logical_date)) => Some(RunSummary {
                run_id,
                state,
                logical_date,
            }),
            _none => None,
        };
        Self {
            dag_id: row.dag_id,
            file: row.file,
            version_id: row.version_id,
            description: row.description,
            schedule: row.schedule,
            paused: row.paused,
            present: row.present,
            next_logical_date: row.next_logical_date,
            next_fire_at: row.next_fire_at,
            last_tick: row.last_tick,
            schedule_since: row.schedule_since,
            last_run,
            open_runs: row.open_runs,
        }
    }
}

struct RunRecord {
    run_id: RunId,
    dag_id: DagId,
    version_id: VersionId,
    kind: RunKind,
    state: RunState,
    logical_date: DateTime<Utc>,
    data_interval_start: DateTime<Utc>,
    data_interval_end: DateTime<Utc>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    triggered_by: String,
    reason: Option<String>,
    params: Option<Value>,
}

impl From<RunRecord> for RunRow {
    fn from(row: RunRecord) -> Self {
        Self {
            run_id: row.run_id,
            dag_id: row.dag_id,
            version_id: row.version_id,
            kind: row.kind,
            state: row.state,
            logical_date: row.logical_date,
            data_interval_start: row.data_interval_start,
            data_interval_end: row.data_interval_end,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            triggered_by: row.triggered_by,
            reason: row.reason,
            params: match row.params {
                Some(Value::Object(params)) => params,
                Some(_) | None => Params::new(),
            },
        }
    }
}

impl Store {
    /// All DAGs, by id.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn dags(&self) -> Result<Vec<DagRow>, Error> {
        self.list_dags(None).await
    }

    /// The newest stretches of ticks of a DAG that made no run, newest first.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn skipped_ticks(&self, dag: &DagId, limit: i64) -> Result<Vec<SkippedTicks>, Error> {
        Ok(sqlx::query_file_as!(
            SkippedTicks,
            "src/store/queries/list_skipped_ticks.sql",
            dag.as_str(),
            limit.clamp(1, MOST_RUNS)
        )
        .fetch_all(&self.people)
        .await?)
    }

    /// One DAG.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn dag(&self, id: &DagId) -> Result<Option<DagRow>, Error> {
        Ok(self.list_dags(Some(id)).await?.into_iter().next())
    }

    async fn list_dags(&self, id: Option<&DagId>) -> Result<Vec<DagRow>, Error> {
        let rows = sqlx::query_file_as!(
            DagRecord,
            "src/store/queries/list_dags.sql",
            id.map(DagId::as_str)
        )
        .fetch_all(&self.people)
        .await?;
        Ok(rows.into_iter().map(DagRow::from).collect())
    }

    /// The DAG files with errors, by file.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn file_errors(&self) -> Result<Vec<FileErrorRow>, Error> {
        Ok(
            sqlx::query_file_as!(FileErrorRow, "src/store/queries/list_file_errors.sql")
                .fetch_all(&self.people)
                .await?,
        )
    }

    /// Runs, newest first.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>, Error> {
        self.list_runs(filter, None).await
    }

    async fn list_runs(
        &self,
        filter: &RunFilter,
        finished_since: Option<DateTime<Utc>>,
    ) -> Result<Vec<RunRow>, Error> {
        let rows = sqlx::query_file_as!(
            RunRecord,
            "src/store/queries/list_runs.sql",
            filter.dag_id.as_ref().map(DagId::as_str),
            &filter.states as &[RunState],
            filter.before.map(|run_id| run_id.0),
            filter.limit.clamp(1, MOST_RUNS),
            finished_since
        )
        .fetch_all(&self.people)
        .await?;
        Ok(rows.into_iter().map(RunRow::from).collect())
    }

    /// One run.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn run(&self, id: RunId) -> Result<Option<RunRow>, Error> {
        let row = sqlx::query_file_as!(RunRecord, "src/store/queries/read_run.sql", id.0)
            .fetch_optional(&self.people)
            .await?;
        Ok(row.map(RunRow::from))
    }

    /// The task instances of a run, in topological order.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn instances(&self, run: RunId) -> Result<Vec<InstanceRow>, Error> {
        Ok(
            sqlx::query_file_as!(InstanceRow, "src/store/queries/list_instances.sql", run.0)
                .fetch_all(&self.people)
                .await?,
        )
    }

    /// The ended executions of a task instance, oldest first.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn tries(&self, instance: InstanceId) -> Result<Vec<TryRow>, Error> {
        Ok(
            sqlx::query_file_as!(TryRow, "src/store/queries/list_tries.sql", instance.0)
                .fetch_all(&self.people)
                .await?,
        )
    }

    /// Up to `limit` lines of a task instance's log after a position.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn log(
        &self,
        instance: InstanceId,
        after: LogPosition,
        limit: i64,
    ) -> Result<Vec<LogRow>, Error> {
        let rows = sqlx::query_file!(
            "src/store/queries/list_log_lines.sql",
            instance.0,
            after.epoch,
            after.line,
            limit.clamp(1, MOST_LOG_LINES)
        )
        .fetch_all(&self.people)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| LogRow {
                position: LogPosition {
                    epoch: row.epoch,
                    line: row.line,
                },
                try_number: row.try_number,
                at: row.at,
                stream: row.stream,
                message: row.message,
            })
            .collect())
    }

    /// What a task instance answered when it last succeeded; `None` when it has not, or answered nothing.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn output(&self, instance: InstanceId) -> Result<Option<Value>, Error> {
        Ok(
            sqlx::query_file_scalar!("src/store/queries/read_output.sql", instance.0)
                .fetch_optional(&self.people)
                .await?,
        )
    }

    /// What one try of a task instance answered.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn output_of_try(
        &self,
        instance: InstanceId,
        try_number: i32,
    ) -> Result<Option<Value>, Error> {
        Ok(sqlx::query_file_scalar!(
            "src/store/queries/read_output_of_try.sql",
            instance.0,
            try_number
        )
        .fetch_optional(&self.people)
        .await?)
    }

    /// The `with` table of a try, rendered. A task without templates has what its file says.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn rendered(
        &self,
        instance: InstanceId,
        try_number: i32,
    ) -> Result<Option<Value>, Error> {
        let rendered = sqlx::query_file_scalar!(
            "src/store/queries/read_rendered.sql",
            instance.0,
            try_number
        )
        .fetch_optional(&self.people)
        .await?;
        if rendered.is_some() {
            return Ok(rendered);
        }
        let task = sqlx::query_file!("src/store/queries/read_task_of_instance.sql", instance.0)
            .fetch_optional(&self.people)
            .await?;
        let Some(task) = task.filter(|task| (1..=task.tries).contains(&try_number)) else {
            return Ok(None);
        };
        let dag = self.definition(task.version_id).await?;
        let with = Value::Object(task_at(&dag, task.ordinal).with.clone());
        // What was written as a template and is not stored was never rendered.
        Ok((!with.to_string().contains("{{")).then_some(with))
    }

    /// What the tasks at these ordinals of a run answered, for templates; of a mapped task a list, in the order of its items,
    /// of what those answered that succeeded.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn outputs(
        &self,
        run: RunId,
        ordinals: &[i32],
    ) -> Result<BTreeMap<i32, Value>, Error> {
        let rows = sqlx::query_file!("src/store/queries/list_outputs.sql", run.0, ordinals)
            .fetch_all(&self.engine)
            .await?;
        let mut outputs: BTreeMap<i32, Value> = BTreeMap::new();
        for row in rows {
            let output = row.output.unwrap_or_else(|| Value::Object(Map::new()));
            if row.map_index < 0 {
                outputs.insert(row.ordinal, output);
                continue;
            }
            let items = outputs
                .entry(row.ordinal)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(items) = items {
                items.push(output);
            }
        }
        Ok(outputs)
    }

    /// What the first page shows.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn home(&self) -> Result<Home, Error> {
        let now = sqlx::query_file_scalar!("src/store/queries/read_now.sql")
            .fetch_one(&self.people)
            .await?;
        let in_states = |states: &[RunState]| RunFilter {
            states: states.to_vec(),
            limit: 20,
            ..RunFilter::default()
        };
        let mut next_runs: Vec<DagRow> = self
            .dags()
            .await?
            .into_iter()
            .filter(|dag| dag.present && !dag.paused && dag.next_fire_at.is_some())
            .collect();
        next_runs.sort_by_key(|dag| dag.next_fire_at);
        next_runs.truncate(10);
        Ok(Home {
            file_errors: self.file_errors().await?,
            failed_runs: self
                .list_runs(
                    &in_states(&[RunState::Failed]),
                    Some(now - TimeDelta::hours(24)),
                )
                .await?,
            open_runs: self
                .runs(&in_states(&[RunState::Queued, RunState::Running]))
                .await?,
            recent_runs: self
                .runs(&in_states(&[
                    RunState::Success,
                    RunState::Failed,
                    RunState::Cancelled,
                ]))
                .await?,
            next_runs,
            workers: self.workers().await?,
            unserved: self.unserved_queues().await?,
        })
    }
}
