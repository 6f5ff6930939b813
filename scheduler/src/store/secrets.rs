//! Connections and variables as they are kept: sealed. This module never sees a key or what is inside.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{PgConnection, Postgres, Transaction};

use super::{Error, Store, people::audit};
use crate::model::{ConnectionId, VariableName};

/// What was made of a value that may be secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// Names the key it was sealed with.
    pub(crate) key_id: String,
    /// A version, a nonce and the ciphertext.
    pub(crate) bytes: Vec<u8>,
}

/// A connection as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct SealedConnection {
    pub(crate) connection_id: ConnectionId,
    pub(crate) connection_type: String,
    pub(crate) description: String,
    pub(crate) key_id: String,
    pub(crate) sealed: Vec<u8>,
    pub(crate) updated_at: DateTime<Utc>,
}

/// A variable as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct SealedVariable {
    pub(crate) variable_name: VariableName,
    pub(crate) is_secret: bool,
    pub(crate) description: String,
    pub(crate) key_id: String,
    pub(crate) sealed: Vec<u8>,
    pub(crate) updated_at: DateTime<Utc>,
}

/// Whether something was there before it was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is new.
    Created,
    /// It was there, and is changed.
    Changed,
}

impl Kept {
    fn of(created: bool) -> Self {
        if created {
            Self::Created
        } else {
            Self::Changed
        }
    }
}

/// Everything that is sealed, locked until it is sealed anew.
pub(crate) struct Resealing {
    transaction: Transaction<'static, Postgres>,
    pub(crate) connections: Vec<SealedConnection>,
    pub(crate) variables: Vec<SealedVariable>,
}

impl Store {
    /// The connections of these ids, or all.
    pub(crate) async fn sealed_connections(
        &self,
        ids: Option<&[String]>,
    ) -> Result<Vec<SealedConnection>, Error> {
        Ok(sqlx::query_file_as!(
            SealedConnection,
            "src/store/queries/read_connections.sql",
            ids
        )
        .fetch_all(&self.engine)
        .await?)
    }

    /// The variables of these names, or all.
    pub(crate) async fn sealed_variables(
        &self,
        names: Option<&[String]>,
    ) -> Result<Vec<SealedVariable>, Error> {
        Ok(sqlx::query_file_as!(
            SealedVariable,
            "src/store/queries/read_variables.sql",
            names
        )
        .fetch_all(&self.engine)
        .await?)
    }

    pub(crate) async fn keep_connection(
        &self,
        id: &ConnectionId,
        connection_type: &str,
        description: Option<&str>,
        sealed: &Sealed,
        actor: &str,
    ) -> Result<Kept, Error> {
        let mut transaction = self.engine.begin().await?;
        let created = sqlx::query_file_scalar!(
            "src/store/queries/upsert_connection.sql",
            id.as_str(),
            connection_type,
            description,
            sealed.key_id,
            sealed.bytes
        )
        .fetch_one(&mut *transaction)
        .await?;
        let detail = json!({ "connection": id, "type": connection_type });
        let action = if created {
            "create connection"
        } else {
            "change connection"
        };
        audit(&mut transaction, actor, action, None, None, &detail).await?;
        transaction.commit().await?;
        Ok(Kept::of(created))
    }

    pub(crate) async fn keep_variable(
        &self,
        name: &VariableName,
        is_secret: bool,
        description: Option<&str>,
        sealed: &Sealed,
        actor: &str,
    ) -> Result<Kept, Error> {
        let mut transaction = self.engine.begin().await?;
        let created = sqlx::query_file_scalar!(
            "src/store/queries/upsert_variable.sql",
            name.as_str(),
            is_secret,
            description,
            sealed.key_id,
            sealed.bytes
        )
        .fetch_one(&mut *transaction)
        .await?;
        let detail = json!({ "variable": name, "secret": is_secret });
        let action = if created {
            "create variable"
        } else {
            "change variable"
        };
        audit(&mut transaction, actor, action, None, None, &detail).await?;
        transaction.commit().await?;
        Ok(Kept::of(created))
    }

    /// Says whether there was one.
    pub(crate) async fn drop_connection(
        &self,
        id: &ConnectionId,
        actor: &str,
    ) -> Result<bool, Error> {
        let mut transaction = self.engine.begin().await?;
        let deleted = sqlx::query_file!("src/store/queries/delete_connection.sql", id.as_str())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        if deleted > 0 {
            let detail = json!({ "connection": id });
            audit(
                &mut transaction,
                actor,
                "delete connection",
                None,
                None,
                &detail,
            )
            .await?;
        }
        transaction.commit().await?;
        Ok(deleted > 0)
    }

    /// Says whether there was one.
    pub(crate) async fn drop_variable(
        &self,
        name: &VariableName,
        actor: &str,
    ) -> Result<bool, Error> {
        let mut transaction = self.engine.begin().await?;
        let deleted = sqlx::query_file!("src/store/queries/delete_variable.sql", name.as_str())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        if deleted > 0 {
            let detail = json!({ "variable": name });
            audit(
                &mut transaction,
                actor,
                "delete variable",
                None,
                None,
                &detail,
            )
            .await?;
        }
        transaction.commit().await?;
        Ok(deleted > 0)
    }

    /// Reads and locks everything that is sealed.
    pub(crate) async fn reseal(&self) -> Result<Resealing, Error> {
        let mut transaction = self.engine.begin().await?;
        let connections =
            sqlx::query_file_as!(SealedConnection, "src/store/queries/lock_connections.sql")
                .fetch_all(&mut *transaction)
                .await?;
        let variables =
            sqlx::query_file_as!(SealedVariable, "src/store/queries/lock_variables.sql")
                .fetch_all(&mut *transaction)
                .await?;
        Ok(Resealing {
            transaction,
            connections,
            variables,
        })
    }
}

impl Resealing {
    /// Keeps what was sealed anew, all or nothing.
    pub(crate) async fn keep(
        mut self,
        key_id: &str,
        connections: Vec<(ConnectionId, Vec<u8>)>,
        variables: Vec<(VariableName, Vec<u8>)>,
        actor: &str,
    ) -> Result<(), Error> {
        let detail = json!({
            "key": key_id, "connections": connections.len(), "variables": variables.len(),
        });
        let (ids, bytes): (Vec<String>, Vec<Vec<u8>>) = connections
            .into_iter()
            .map(|(id, bytes)| (id.to_string(), bytes))
            .unzip();
        sqlx::query_file!(
            "src/store/queries/reseal_connections.sql",
            &ids,
            &bytes,
            key_id
        )
        .execute(&mut *self.transaction)
        .await?;
        let (names, bytes): (Vec<String>, Vec<Vec<u8>>) = variables
            .into_iter()
            .map(|(name, bytes)| (name.to_string(), bytes))
            .unzip();
        sqlx::query_file!(
            "src/store/queries/reseal_variables.sql",
            &names,
            &bytes,
            key_id
        )
        .execute(&mut *self.transaction)
        .await?;
        let connection: &mut PgConnection = &mut self.transaction;
        audit(connection, actor, "rotate secrets", None, None, &detail).await?;
        self.transaction.commit().await?;
        Ok(())
    }

    /// Leaves everything as it was.
    pub(crate) async fn leave(self) -> Result<(), Error> {
        Ok(self.transaction.rollback().await?)
    }
}
