//! State of tasks that outlives a try: frozen values and cursors, written under the try's fence.

use std::collections::BTreeMap;

use async_trait::async_trait;
use pinwheel_tasks::{CursorMove, CursorPosition, Durable, DurableError};
use serde_json::Value;
use sqlx::PgConnection;

use super::{Execution, Store, text::storable_value};
use crate::model::{InstanceId, WorkerId};

/// The durable state of one execution.
#[derive(Debug, Clone)]
pub struct Fenced {
    store: Store,
    instance_id: InstanceId,
    epoch: i32,
    worker_id: WorkerId,
}

impl Fenced {
    /// The durable state that `execution` may touch while it owns its task instance.
    pub fn new(store: Store, execution: &Execution) -> Self {
        Self {
            store,
            instance_id: execution.instance_id,
            epoch: execution.epoch,
            worker_id: execution.worker_id,
        }
    }

    /// Keeps the task instance from changing hands until the transaction ends.
    async fn hold(&self, connection: &mut PgConnection) -> Result<(), DurableError> {
        sqlx::query_file_scalar!(
            "src/store/queries/hold_instance.sql",
            self.instance_id.0,
            self.epoch,
            self.worker_id.0
        )
        .fetch_optional(connection)
        .await
        .map_err(unavailable)?
        .map(|_| ())
        .ok_or(DurableError::Fenced)
    }
}

fn unavailable(error: sqlx::Error) -> DurableError {
    DurableError::Unavailable(super::Error::from(error).to_string())
}

#[async_trait]
impl Durable for Fenced {
    async fn freeze(&self, name: &str, value: Value) -> Result<Value, DurableError> {
        let mut transaction = self.store.engine.begin().await.map_err(unavailable)?;
        self.hold(&mut transaction).await?;
        sqlx::query_file!(
            "src/store/queries/freeze_value.sql",
            self.instance_id.0,
            name,
            storable_value(&value)
        )
        .execute(&mut *transaction)
        .await
        .map_err(unavailable)?;
        let stored = sqlx::query_file_scalar!(
            "src/store/queries/read_frozen.sql",
            self.instance_id.0,
            name
        )
        .fetch_one(&mut *transaction)
        .await
        .map_err(unavailable)?;
        transaction.commit().await.map_err(unavailable)?;
        Ok(stored)
    }

    async fn frozen(&self, name: &str) -> Result<Option<Value>, DurableError> {
        sqlx::query_file_scalar!(
            "src/store/queries/read_frozen.sql",
            self.instance_id.0,
            name
        )
        .fetch_optional(&self.store.engine)
        .await
        .map_err(unavailable)
    }

    async fn cursor(&self, cursor: &str) -> Result<BTreeMap<i32, CursorPosition>, DurableError> {
        let rows = sqlx::query_file!("src/store/queries/read_cursor.sql", cursor)
            .fetch_all(&self.store.engine)
            .await
            .map_err(unavailable)?;
        Ok(rows
            .into_iter()
            .map(|row| {
                (
                    row.partition,
                    CursorPosition {
                        next: row.next,
                        moved_by: row.moved_by,
                    },
                )
            })
            .collect())
    }

    async fn advance(
        &self,
        cursor: &str,
        plan: &str,
        moves: &[CursorMove],
    ) -> Result<(), DurableError> {
        let mut transaction = self.store.engine.begin().await.map_err(unavailable)?;
        self.hold(&mut transaction).await?;
        let noted = sqlx::query_file!("src/store/queries/insert_cursor_plan.sql", cursor, plan)
            .execute(&mut *transaction)
            .await
            .map_err(unavailable)?;
        if noted.rows_affected() == 0 {
            // The answer to an earlier call was lost: this plan has moved the cursor already.
            return Ok(());
        }
        let partitions: Vec<i32> = moves.iter().map(|step| step.partition).collect();
        let rows = sqlx::query_file!("src/store/queries/lock_cursor.sql", cursor, &partitions)
            .fetch_all(&mut *transaction)
            .await
            .map_err(unavailable)?;
        let standing: BTreeMap<i32, i64> = rows
            .into_iter()
            .map(|row| (row.partition, row.next))
            .collect();
        for step in moves {
            if let Some(next) = standing
                .get(&step.partition)
                .filter(|next| **next != step.from)
            {
                return Err(DurableError::CursorMoved {
                    cursor: cursor.to_owned(),
                    partition: step.partition,
                    expected: step.from,
                    found: *next,
                });
            }
        }
        let from: Vec<i64> = moves.iter().map(|step| step.from).collect();
        let to: Vec<i64> = moves.iter().map(|step| step.to).collect();
        let moved = sqlx::query_file!(
            "src/store/queries/move_cursor.sql",
            cursor,
            plan,
            &partitions,
            &from,
            &to
        )
        .execute(&mut *transaction)
        .await
        .map_err(unavailable)?;
        if moved.rows_affected() != moves.len() as u64 {
            // Another run made the first move of a partition between the lock and the write.
            drop(transaction);
            let now = self.cursor(cursor).await?;
            let other = moves
                .iter()
                .find(|step| {
                    now.get(&step.partition)
                        .is_some_and(|position| position.next != step.from)
                })
                .or(moves.first())
                .expect("fewer rows than moves means that there are moves");
            return Err(DurableError::CursorMoved {
                cursor: cursor.to_owned(),
                partition: other.partition,
                expected: other.from,
                found: now
                    .get(&other.partition)
                    .map_or(other.from, |position| position.next),
            });
        }
        transaction.commit().await.map_err(unavailable)
    }
}
