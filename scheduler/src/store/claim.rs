//! Taking work: a worker claims queued task instances, and reads what it holds after a lost answer.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::{Error, Store};
use crate::model::{Dag, DagId, InstanceId, Params, RunId, Task, VersionId, WorkerId};

/// One execution of a try, with its fence. Not cloneable: it is ended once.
#[derive(Debug)]
pub struct Execution {
    /// The task instance.
    pub instance_id: InstanceId,
    /// Its run.
    pub run_id: RunId,
    /// The run's version.
    pub version_id: VersionId,
    /// The task's place in the version.
    pub ordinal: i32,
    /// The lease it runs under; with `epoch` the fence.
    pub worker_id: WorkerId,
    /// The claim; with `worker_id` the fence.
    pub epoch: i32,
    /// Tries begun, this one included.
    pub tries: i32,
    /// How many may begin.
    pub tries_allowed: i32,
    /// Executions lost with their worker before this one.
    pub lost: i32,
    /// It goes on with a try that slept.
    pub continues: bool,
}

impl Execution {
    /// The same execution once more, for the one place that ends it in another way than it ended itself.
    pub(super) fn same(&self) -> Self {
        Self { ..*self }
    }
}

/// A claimed task instance: everything a worker needs to run it.
#[derive(Debug)]
pub struct Claimed {
    /// The execution, to be handed back when it has ended.
    pub execution: Execution,
    /// The DAG.
    pub dag_id: DagId,
    /// The version's definition.
    pub dag: Arc<Dag>,
    /// The run's logical date.
    pub logical_date: DateTime<Utc>,
    /// Start of the run's data interval, inclusive.
    pub data_interval_start: DateTime<Utc>,
    /// End of the run's data interval, exclusive.
    pub data_interval_end: DateTime<Utc>,
    /// The run's params.
    pub params: Params,
    /// What the try left when it slept.
    pub resume: Option<Value>,
    /// How many pools and queues shared the claim's slots.
    pub lanes: i64,
}

impl Claimed {
    /// The task's definition.
    pub fn task(&self) -> &Task {
        task_at(&self.dag, self.execution.ordinal)
    }
}

/// The task at an ordinal that was stored with the same version.
pub(super) fn task_at(dag: &Dag, ordinal: i32) -> &Task {
    &dag.tasks[usize::try_from(ordinal).expect("ordinals are indices into the version's tasks")]
}

/// Who claims, what, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Appetite<'a> {
    /// Under this lease.
    pub worker_id: WorkerId,
    /// From these queues.
    pub queues: &'a [String],
    /// At most so many.
    pub slots: usize,
}

struct ClaimRow {
    instance_id: InstanceId,
    run_id: RunId,
    ordinal: i32,
    epoch: i32,
    tries: i32,
    tries_allowed: i32,
    lost: i32,
    dag_id: DagId,
    version_id: VersionId,
    logical_date: DateTime<Utc>,
    data_interval_start: DateTime<Utc>,
    data_interval_end: DateTime<Utc>,
    params: Option<Value>,
    resume: Option<Value>,
    lanes: i64,
}

impl Store {
    /// Claims up to `slots` queued task instances. None if the lease is over.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached; what a lost answer claimed is found by [`Store::held_by`].
    pub async fn claim(&self, appetite: Appetite<'_>) -> Result<Vec<Claimed>, Error> {
        let mut transaction = self.engine.begin().await?;
        let claimed = self.claim_by(&mut transaction, appetite).await?;
        transaction.commit().await?;
        Ok(claimed)
    }

    /// Everything a worker holds by the database's account: for one that lost the answer to a claim.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn held_by(&self, worker_id: WorkerId) -> Result<Vec<Claimed>, Error> {
        let mut connection = self.engine.acquire().await?;
        let rows = sqlx::query_file_as!(ClaimRow, "src/store/queries/read_claims.sql", worker_id.0)
            .fetch_all(&mut *connection)
            .await?;
        self.completed(&mut connection, worker_id, rows).await
    }

    pub(super) async fn claim_by(
        &self,
        connection: &mut PgConnection,
        appetite: Appetite<'_>,
    ) -> Result<Vec<Claimed>, Error> {
        let Appetite {
            worker_id,
            queues,
            slots,
        } = appetite;
        if slots == 0 {
            return Ok(Vec::new());
        }
        let limited = if self.pools_have_limits() {
            sqlx::query_file_scalar!("src/store/queries/lock_pools.sql", queues)
                .fetch_all(&mut *connection)
                .await?
        } else {
            Vec::new()
        };
        let slots = i64::try_from(slots).unwrap_or(i64::MAX);
        let rows = sqlx::query_file_as!(
            ClaimRow,
            "src/store/queries/claim_instances.sql",
            worker_id.0,
            queues,
            slots,
            &limited
        )
        .fetch_all(&mut *connection)
        .await?;
        self.completed(connection, worker_id, rows).await
    }

    async fn completed(
        &self,
        connection: &mut PgConnection,
        worker_id: WorkerId,
        rows: Vec<ClaimRow>,
    ) -> Result<Vec<Claimed>, Error> {
        let mut claimed = Vec::with_capacity(rows.len());
        for row in rows {
            claimed.push(Claimed {
                dag: self.definition_by(connection, row.version_id).await?,
                execution: Execution {
                    instance_id: row.instance_id,
                    run_id: row.run_id,
                    version_id: row.version_id,
                    ordinal: row.ordinal,
                    worker_id,
                    epoch: row.epoch,
                    tries: row.tries,
                    tries_allowed: row.tries_allowed,
                    lost: row.lost,
                    continues: row.resume.is_some(),
                },
                dag_id: row.dag_id,
                logical_date: row.logical_date,
                data_interval_start: row.data_interval_start,
                data_interval_end: row.data_interval_end,
                params: match row.params {
                    Some(Value::Object(params)) => params,
                    Some(_) | None => Params::new(),
                },
                resume: row.resume,
                lanes: row.lanes,
            });
        }
        Ok(claimed)
    }
}
