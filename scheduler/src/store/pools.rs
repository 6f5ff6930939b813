//! Pools: how many slots their tasks may take at once, as people set it while tasks run.
//!
//! A claim counts by `pool_use`, which has rows only for pools with a limit. So a pool that gets its limit while tasks run
//! in it must have those counted in the same transaction, also the ones that a claim is just taking.

use serde_json::json;
use sqlx::PgConnection;

use super::{Error, PoolChange, PoolDescription, PoolRow, PoolSet, Seen, Store, people::audit};
use crate::model::{DagId, PoolName};

/// The pool of tasks that name none.
const DEFAULT: &str = "default";

impl Store {
    /// All pools, by name.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn pools(&self) -> Result<Vec<PoolRow>, Error> {
        Ok(
            sqlx::query_file_as!(PoolRow, "src/store/queries/list_pools.sql", None::<&str>)
                .fetch_all(&self.people)
                .await?,
        )
    }

    /// One pool.
    ///
    /// # Errors
    /// There is none of that name, or Postgres refused or cannot be reached.
    pub async fn pool(&self, pool: &PoolName) -> Result<PoolRow, Error> {
        let found = sqlx::query_file_as!(
            PoolRow,
            "src/store/queries/list_pools.sql",
            Some(pool.as_str())
        )
        .fetch_optional(&self.people)
        .await?;
        match found {
            Some(row) => Ok(row),
            None => Err(self.unknown_pool(pool).await?),
        }
    }

    /// Makes a pool or changes one, for every claim from then on. Tasks that run in it go on, also when they take more
    /// than it has now; the next is claimed when there is room.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn set_pool(
        &self,
        pool: &PoolName,
        change: &PoolChange,
        actor: &str,
    ) -> Result<PoolSet, Error> {
        let slots = change.size.slots();
        let description = change.description.as_ref().map(PoolDescription::as_str);
        let mut transaction = self.engine.begin().await?;
        sqlx::query_file!("src/store/queries/lock_pool_changes.sql")
            .execute(&mut *transaction)
            .await?;
        let inserted = sqlx::query_file!(
            "src/store/queries/insert_pool.sql",
            pool.as_str(),
            slots,
            description
        )
        .execute(&mut *transaction)
        .await?;
        let done = if inserted.rows_affected() > 0 {
            PoolSet::Created
        } else {
            change_pool(&mut transaction, pool, slots, description).await?
        };
        let detail = json!({ "pool": pool, "slots": slots, "description": change.description });
        let action = match done {
            PoolSet::Created => "create pool",
            PoolSet::Changed => "change pool",
        };
        audit(&mut transaction, actor, action, None, None, &detail).await?;
        transaction.commit().await?;
        if slots.is_some() {
            self.note(Seen::LimitedPools, true);
        }
        Ok(done)
    }

    /// Deletes a pool. Should a run of an older version still name it, or a file name it again, it is there again without
    /// a limit: no task waits for a pool that does not exist.
    ///
    /// # Errors
    /// There is no such pool, it is `default`, a task of a current version names it, tasks run or wait in it, or Postgres
    /// refused or cannot be reached.
    pub async fn delete_pool(&self, pool: &PoolName, actor: &str) -> Result<(), Error> {
        if pool.as_str() == DEFAULT {
            return Err(Error::PoolIsDefault);
        }
        let mut transaction = self.engine.begin().await?;
        sqlx::query_file!("src/store/queries/lock_pool_changes.sql")
            .execute(&mut *transaction)
            .await?;
        let found = sqlx::query_file_as!(
            PoolRow,
            "src/store/queries/list_pools.sql",
            Some(pool.as_str())
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let refusal = match found {
            None => Some(self.unknown_pool(pool).await?),
            Some(row) => refusal(row),
        };
        if let Some(refusal) = refusal {
            // Dropping it would roll back later, and keep others from changing pools until then.
            transaction.rollback().await?;
            return Err(refusal);
        }
        sqlx::query_file!("src/store/queries/delete_pool.sql", pool.as_str())
            .execute(&mut *transaction)
            .await?;
        let detail = json!({ "pool": pool });
        audit(&mut transaction, actor, "delete pool", None, None, &detail).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The error for a pool that is not there, with the nearest one that is.
    async fn unknown_pool(&self, pool: &PoolName) -> Result<Error, Error> {
        let nearest = self
            .pools()
            .await?
            .into_iter()
            .map(|row| {
                (
                    strsim::jaro_winkler(row.pool.as_str(), pool.as_str()),
                    row.pool,
                )
            })
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|(one, _), (other, _)| one.total_cmp(other))
            .map(|(_, name)| name);
        Ok(Error::UnknownPool {
            pool: pool.clone(),
            nearest,
        })
    }
}

fn refusal(row: PoolRow) -> Option<Error> {
    if row.tasks > 0 {
        return Some(Error::PoolIsNamed {
            pool: row.pool,
            tasks: row.tasks,
            dags: row.dags,
        });
    }
    (row.running > 0 || row.ready > 0).then_some(Error::PoolIsBusy {
        pool: row.pool,
        running: row.running,
        ready: row.ready,
    })
}

/// Changes a pool that is there. The order matters: with the row changed, no claim that starts after the commit can
/// overlook the limit; then everything that was claimed without it is waited for, and counted.
async fn change_pool(
    connection: &mut PgConnection,
    pool: &PoolName,
    slots: Option<i32>,
    description: Option<&str>,
) -> Result<PoolSet, Error> {
    let before = sqlx::query_file!("src/store/queries/read_pool.sql", pool.as_str())
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query_file!(
        "src/store/queries/update_pool.sql",
        pool.as_str(),
        slots,
        description
    )
    .execute(&mut *connection)
    .await?;
    match (before.slots, slots) {
        (None, Some(slots)) => {
            sqlx::query_file!("src/store/queries/lock_pool_use.sql")
                .execute(&mut *connection)
                .await?;
            sqlx::query_file!(
                "src/store/queries/count_running_use.sql",
                pool.as_str(),
                slots
            )
            .execute(connection)
            .await?;
        }
        (Some(before), Some(slots)) if before != slots => {
            sqlx::query_file!(
                "src/store/queries/resize_pool_use.sql",
                pool.as_str(),
                slots
            )
            .execute(connection)
            .await?;
        }
        // What the rows say of a pool without a limit is not asked; they go when their tasks end.
        (Some(_), Some(_)) | (_, None) => {}
    }
    Ok(if before.deleted {
        PoolSet::Created
    } else {
        PoolSet::Changed
    })
}
