//! How fast runs went, computed from what the tables hold afterwards: for benchmarks.

use chrono::{DateTime, Utc};

use super::{Error, Store};
use crate::model::RunId;

/// How fast a set of finished runs went.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Runs, all final.
    pub runs: i64,
    /// Runs that did not succeed.
    pub unsuccessful: i64,
    /// Task instances with an ended execution.
    pub tasks: i64,
    /// From the first request (a trigger, or the tick of a scheduled run) to the end of the last run, in milliseconds.
    pub wall_ms: f64,
    /// From the end of the last upstream task to the start of the task, in milliseconds: the median. `None` without edges.
    pub hop_p50_ms: Option<f64>,
    /// The same: the 99th percentile.
    pub hop_p99_ms: Option<f64>,
    /// From the tick of a scheduled run to the start of its first task, in milliseconds: the median.
    pub lateness_p50_ms: Option<f64>,
    /// The same: the 99th percentile.
    pub lateness_p99_ms: Option<f64>,
}

/// How the hot tables were updated since statistics began.
#[derive(Debug, Clone, PartialEq)]
pub struct HotShare {
    /// The table.
    pub table: String,
    /// Rows updated.
    pub updates: i64,
    /// Of these, in place of the same page without touching an index.
    pub hot: i64,
}

impl Store {
    /// Figures of the runs after `after` whose DAG id begins with `prefix`.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn figures(&self, prefix: &str, after: RunId) -> Result<Figures, Error> {
        // It looks at tables that were filled a moment ago, all of them at once.
        sqlx::raw_sql("analyze run, task_instance, try, edge")
            .execute(&self.people)
            .await?;
        Ok(sqlx::query_file_as!(
            Figures,
            "src/store/queries/read_figures.sql",
            prefix,
            after.0
        )
        .fetch_one(&self.people)
        .await?)
    }

    /// How many runs after `after`, of DAGs whose id begins with `prefix`, are final.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn count_final_runs(&self, prefix: &str, after: RunId) -> Result<i64, Error> {
        Ok(
            sqlx::query_file_scalar!("src/store/queries/count_final_runs.sql", prefix, after.0)
                .fetch_one(&self.people)
                .await?,
        )
    }

    /// The newest run there is, and the database's time.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn newest_run(&self) -> Result<(RunId, DateTime<Utc>), Error> {
        let row = sqlx::query_file!("src/store/queries/read_newest_run.sql")
            .fetch_one(&self.people)
            .await?;
        Ok((row.run_id, row.now))
    }

    /// How the hot tables were updated.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn hot_shares(&self) -> Result<Vec<HotShare>, Error> {
        Ok(
            sqlx::query_file_as!(HotShare, "src/store/queries/list_hot_shares.sql")
                .fetch_all(&self.people)
                .await?,
        )
    }

    /// Adds finished runs of ten tasks each with history, `tasks` task instances in all, to a DAG that exists and has a
    /// version: what a database looks like after months.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn add_history(&self, dag_id: &str, tasks: i64) -> Result<(), Error> {
        // The runs of one call share logical dates a second apart, before anything else of that DAG.
        for from in (0..tasks / 10).step_by(10_000) {
            let to = (from + 10_000).min(tasks / 10);
            sqlx::query_file!("src/store/queries/insert_history.sql", dag_id, from, to)
                .execute(&self.people)
                .await?;
        }
        sqlx::raw_sql("vacuum (analyze) run, task_instance, try, output")
            .execute(&self.people)
            .await?;
        Ok(())
    }
}
