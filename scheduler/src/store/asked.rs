//! What running tasks ask: the time, and runs of other DAGs. It runs on the engine's connections.

use chrono::{DateTime, Utc};
use pinwheel_tasks::WhichRun;

use super::{Error, RunRow, Store};
use crate::model::{DagId, RunId, VersionId};

impl Store {
    /// The database's time.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn now(&self) -> Result<DateTime<Utc>, Error> {
        Ok(sqlx::query_file_scalar!("src/store/queries/read_now.sql")
            .fetch_one(&self.engine)
            .await?)
    }

    /// One run of a DAG; `None` when it has no such run.
    ///
    /// # Errors
    /// No DAG of that id was ever published, Postgres refused or cannot be reached.
    pub async fn run_of(&self, dag_id: &DagId, which: WhichRun) -> Result<Option<RunRow>, Error> {
        let found = match which {
            WhichRun::Of(logical_date) => {
                sqlx::query_file_scalar!(
                    "src/store/queries/find_run_of_date.sql",
                    dag_id.as_str(),
                    logical_date
                )
                .fetch_optional(&self.engine)
                .await?
            }
            WhichRun::Last => {
                sqlx::query_file_scalar!("src/store/queries/find_last_run.sql", dag_id.as_str())
                    .fetch_optional(&self.engine)
                    .await?
            }
        };
        if let Some(run_id) = found {
            return self.run(run_id).await;
        }
        let dag = sqlx::query_file!("src/store/queries/read_dag_to_trigger.sql", dag_id.as_str())
            .fetch_optional(&self.engine)
            .await?;
        match dag {
            Some(_) => Ok(None),
            None => Err(self.unknown_dag(dag_id.clone()).await?),
        }
    }
}
