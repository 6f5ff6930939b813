//! What people see of the processes of the engine: who lives, how loaded it is, what it runs, and what nobody serves.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use super::{
    Error, ExecutionRow, Gauges, Load, Store, UnservedQueue, WorkerRow, WorkerScope, WorkerState,
};
use crate::model::{DagId, InstanceId, RunId, TaskId, WorkerId};

/// How long lists show a process that is gone.
const RECENT_SECONDS: f64 = 3600.0;
/// Executions in one list.
const MOST_EXECUTIONS: i64 = 2_000;

struct WorkerRecord {
    worker_id: WorkerId,
    name: String,
    version: String,
    is_scheduler: bool,
    queues: Vec<String>,
    labels: Json<BTreeMap<String, String>>,
    slots: i32,
    running: i32,
    started_at: DateTime<Utc>,
    seen_at: DateTime<Utc>,
    lease_until: DateTime<Utc>,
    stopping_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    load_average: Option<f32>,
    memory_bytes: Option<i64>,
    cpu_cores: Option<f32>,
    state: WorkerState,
}

impl From<WorkerRecord> for WorkerRow {
    fn from(row: WorkerRecord) -> Self {
        Self {
            worker_id: row.worker_id,
            name: row.name,
            version: row.version,
            state: row.state,
            is_scheduler: row.is_scheduler,
            // A scheduler alone registers the queues of its settings as well, and serves none.
            queues: if row.slots > 0 {
                row.queues
            } else {
                Vec::new()
            },
            labels: row.labels.0,
            slots: row.slots,
            running: row.running,
            load: Load {
                load_average: row.load_average,
                memory_bytes: row.memory_bytes,
                cpu_cores: row.cpu_cores,
            },
            started_at: row.started_at,
            seen_at: row.seen_at,
            lease_until: row.lease_until,
            stopping_at: row.stopping_at,
            ended_at: row.ended_at,
        }
    }
}

impl Store {
    /// Processes that take work: they run tasks, hold a lease and are not stopping.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn workers(&self) -> Result<Vec<WorkerRow>, Error> {
        let mut workers = self.processes(WorkerScope::Recent).await?;
        workers.retain(|worker| worker.works() && worker.state == WorkerState::Alive);
        workers.sort_by_key(|worker| worker.worker_id);
        Ok(workers)
    }

    /// Processes of the engine, schedulers and workers: those that live first, the newest first.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn processes(&self, scope: WorkerScope) -> Result<Vec<WorkerRow>, Error> {
        let seconds = match scope {
            WorkerScope::Recent => Some(RECENT_SECONDS),
            WorkerScope::All => None,
        };
        let rows = sqlx::query_file_as!(
            WorkerRecord,
            "src/store/queries/list_workers.sql",
            seconds,
            None::<i64>
        )
        .fetch_all(&self.people)
        .await?;
        Ok(rows.into_iter().map(WorkerRow::from).collect())
    }

    /// One process of the engine, however long ago it ended.
    ///
    /// # Errors
    /// There is none of that number, or Postgres refused or cannot be reached.
    pub async fn process(&self, worker_id: WorkerId) -> Result<WorkerRow, Error> {
        let row = sqlx::query_file_as!(
            WorkerRecord,
            "src/store/queries/list_workers.sql",
            None::<f64>,
            Some(worker_id.0)
        )
        .fetch_optional(&self.people)
        .await?;
        row.map(WorkerRow::from)
            .ok_or(Error::UnknownWorker { worker_id })
    }

    /// What all workers run now, longest first, at most 2,000.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn executions(&self) -> Result<Vec<ExecutionRow>, Error> {
        self.list_executions(None).await
    }

    /// What one worker runs now, longest first, at most 2,000.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn executions_of(&self, worker_id: WorkerId) -> Result<Vec<ExecutionRow>, Error> {
        self.list_executions(Some(worker_id)).await
    }

    async fn list_executions(
        &self,
        worker_id: Option<WorkerId>,
    ) -> Result<Vec<ExecutionRow>, Error> {
        Ok(sqlx::query_file_as!(
            ExecutionRow,
            "src/store/queries/list_executions.sql",
            worker_id.map(|worker| worker.0),
            MOST_EXECUTIONS
        )
        .fetch_all(&self.people)
        .await?)
    }

    /// Queues in which tasks wait though no worker that takes work serves them.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn unserved_queues(&self) -> Result<Vec<UnservedQueue>, Error> {
        Ok(
            sqlx::query_file_as!(UnservedQueue, "src/store/queries/list_unserved_queues.sql")
                .fetch_all(&self.people)
                .await?,
        )
    }

    /// What `/metrics` tells of the whole installation.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn gauges(&self) -> Result<Gauges, Error> {
        let pools = sqlx::query_file!("src/store/queries/count_pool_slots.sql")
            .fetch_all(&self.people)
            .await?;
        let ready = sqlx::query_file!("src/store/queries/count_ready.sql")
            .fetch_all(&self.people)
            .await?;
        let processes = self.processes(WorkerScope::Recent).await?;
        let of_state = |state| {
            processes
                .iter()
                .filter(|process| process.works() && process.state == state)
                .count()
        };
        Ok(Gauges {
            pools: pools
                .into_iter()
                .map(|row| (row.pool, row.slots, row.used))
                .collect(),
            ready: ready
                .into_iter()
                .map(|row| (row.queue, row.tasks))
                .collect(),
            workers: WorkerState::ALL
                .map(|state| (state, of_state(state)))
                .into(),
        })
    }
}
