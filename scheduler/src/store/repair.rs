//! `ready` and `sleeper` can be rebuilt from the task instances: that is the recovery tool.

use super::{Error, Store};

/// What a rebuild mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    /// Rows that stood there and should not.
    pub removed: i64,
    /// Rows that were missing.
    pub added: i64,
}

impl Store {
    /// Makes `ready` and `sleeper` what the task instances say. Everything else waits for it meanwhile.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn rebuild_ready(&self) -> Result<Rebuilt, Error> {
        let mut transaction = self.engine.begin().await?;
        sqlx::query_file!("src/store/queries/lock_open_runs.sql")
            .fetch_all(&mut *transaction)
            .await?;
        let removed = sqlx::query_file_scalar!("src/store/queries/delete_wrong_ready.sql")
            .fetch_one(&mut *transaction)
            .await?;
        let added = sqlx::query_file_scalar!("src/store/queries/insert_missing_ready.sql")
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Rebuilt { removed, added })
    }
}
