//! The table of posts in the transaction of a batch: rows with new keys are copied in, the others upserted.
//!
//! `copy` costs Postgres half of what an upsert costs, because it writes pages instead of rows; but it cannot meet a key that is there.
//! So the keys of a batch are looked up first. Should another worker insert one of them in between, `copy` fails by the
//! table's key, and the whole batch is written again, by upserting alone ([`Way::Upsert`]).

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use sqlx::{
    AssertSqlSafe, Encode, PgConnection, PgPool, Postgres, Row as _, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo},
};

use super::{
    plan::{Plan, Posts},
    rows::{self, COPY_END, COPY_HEAD, EncodedRow, Rows, oid},
};

/// Below so many rows the round trips of looking up and copying cost more than they save.
const FEW: usize = 50;
/// After a batch whose keys were mostly there, so many are upserted without looking.
const MOSTLY_KNOWN: u32 = 20;
/// How much is handed to the socket at a time.
const CHUNK: usize = 256 * 1024;

/// How the rows of a batch get into the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Rows with new keys are copied, the others upserted.
    Copy,
    /// All are upserted.
    Upsert,
}

/// What is known of the table.
#[derive(Debug, Default)]
pub(super) struct Table {
    can_be_copied_into: AtomicBool,
    /// So many batches more are upserted without looking.
    known_for: AtomicU32,
}

/// A column that the table has.
pub(super) struct Present {
    name: String,
    type_oid: u32,
}

impl Table {
    /// Makes the table, or the columns that it lacks, and looks whether it can be copied into.
    pub(super) async fn prepare(
        &self,
        pool: &PgPool,
        plan: &Plan,
        posts: &Posts,
    ) -> Result<(), sqlx::Error> {
        let table: Option<String> = sqlx::query_scalar("select to_regclass($1)::text")
            .bind(format!("\"{}\"", posts.table))
            .fetch_one(pool)
            .await?;
        if table.is_none() {
            let created = sqlx::query(AssertSqlSafe(posts.create_table.as_str()))
                .execute(pool)
                .await;
            super::sink::unless_made_by_another(created)?;
        }
        let mut present = columns(pool, posts).await?;
        // `alter table` takes an exclusive lock, so it is only asked where a column is missing.
        if plan
            .dataset
            .columns()
            .iter()
            .any(|column| !present.iter().any(|there| there.name == column.name))
        {
            for statement in &posts.add_columns {
                sqlx::query(AssertSqlSafe(statement.as_str()))
                    .execute(pool)
                    .await?;
            }
            present = columns(pool, posts).await?;
        }
        let is_plain: bool = sqlx::query_scalar(
            "select relkind in ('r', 'p') and not relhasrules and not relrowsecurity from pg_class where oid = $1::text::regclass",
        )
        .bind(format!("\"{}\"", posts.table))
        .fetch_one(pool)
        .await?;
        // Binary rows are not converted: every column must have just the type that they are written for.
        let fits = posts.types.iter().all(|(name, type_oid)| {
            present
                .iter()
                .any(|there| there.name == *name && there.type_oid == *type_oid)
        });
        self.can_be_copied_into
            .store(is_plain && fits, Ordering::Relaxed);
        Ok(())
    }

    /// How to write so many rows.
    pub(super) fn way(&self, rows: &Rows) -> Way {
        let mostly_known = self
            .known_for
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        if rows.len() < FEW || mostly_known || !self.can_be_copied_into.load(Ordering::Relaxed) {
            return Way::Upsert;
        }
        Way::Copy
    }

    /// Writes the rows.
    pub(super) async fn write(
        &self,
        connection: &mut PgConnection,
        plan: &Plan,
        posts: &Posts,
        rows: &Rows,
        way: Way,
    ) -> Result<(), sqlx::Error> {
        if way == Way::Upsert {
            return upsert(connection, plan, posts, rows.iter(), rows.len()).await;
        }
        let known = known(connection, plan, posts, rows).await?;
        if known.len() * 2 > rows.len() {
            self.known_for.store(MOSTLY_KNOWN, Ordering::Relaxed);
        }
        if known.len() < rows.len() {
            let new = rows.iter().filter(|row| !known.contains(row.key));
            copy(connection, posts, new).await?;
        }
        if known.is_empty() {
            return Ok(());
        }
        let old = rows.iter().filter(|row| known.contains(row.key));
        upsert(connection, plan, posts, old, known.len()).await
    }
}

/// Whether `copy` may have met a key that another worker had inserted meanwhile.
pub(super) fn is_taken(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

async fn columns(pool: &PgPool, posts: &Posts) -> Result<Vec<Present>, sqlx::Error> {
    let rows = sqlx::query(
        "select attname::text as name, atttypid::bigint as type_oid from pg_attribute \
         where attrelid = $1::text::regclass and attnum > 0 and not attisdropped",
    )
    .bind(format!("\"{}\"", posts.table))
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            let type_oid: i64 = row.try_get("type_oid")?;
            Ok(Present {
                name: row.try_get("name")?,
                type_oid: u32::try_from(type_oid).unwrap_or_default(),
            })
        })
        .collect()
}

/// The keys of the batch that the table has.
async fn known(
    connection: &mut PgConnection,
    plan: &Plan,
    posts: &Posts,
    rows: &Rows,
) -> Result<HashSet<Vec<u8>>, sqlx::Error> {
    let key = &plan.dataset.columns()[plan.dataset.key()];
    let mut keys = rows::Column::new(key.column_type);
    for row in rows.iter() {
        keys.push_plain(Some(row.key));
    }
    let found = sqlx::query(AssertSqlSafe(posts.find_keys.as_str()))
        .bind(Array(keys))
        .fetch_all(connection)
        .await?;
    found
        .iter()
        .map(|row| {
            let key = row.try_get_raw(0)?;
            key.as_bytes()
                .map(<[u8]>::to_vec)
                .map_err(sqlx::Error::Decode)
        })
        .collect()
}

async fn copy(
    connection: &mut PgConnection,
    posts: &Posts,
    rows: impl Iterator<Item = EncodedRow<'_>>,
) -> Result<(), sqlx::Error> {
    let mut copying = connection.copy_in_raw(&posts.copy).await?;
    let mut chunk = Vec::with_capacity(CHUNK + CHUNK / 8);
    chunk.extend_from_slice(COPY_HEAD);
    for row in rows {
        chunk.extend_from_slice(row.bytes);
        if chunk.len() >= CHUNK {
            copying.send(chunk.as_slice()).await?;
            chunk.clear();
        }
    }
    chunk.extend_from_slice(&COPY_END);
    copying.send(chunk.as_slice()).await?;
    copying.finish().await?;
    Ok(())
}

async fn upsert(
    connection: &mut PgConnection,
    plan: &Plan,
    posts: &Posts,
    rows: impl Iterator<Item = EncodedRow<'_>>,
    number: usize,
) -> Result<(), sqlx::Error> {
    let types: Vec<_> = plan
        .dataset
        .columns()
        .iter()
        .map(|column| column.column_type)
        .collect();
    let mut columns: Vec<rows::Column> = types.iter().copied().map(rows::Column::new).collect();
    columns.extend([oid::INTEGER, oid::BIGINT, oid::TIMESTAMPTZ].map(rows::Column::of));
    if number == 0 {
        return Ok(());
    }
    for row in rows {
        for (position, (column, field)) in columns.iter_mut().zip(row.fields()).enumerate() {
            match types.get(position) {
                Some(column_type) => column.push(*column_type, field),
                None => column.push_plain(field),
            }
        }
    }
    let statement = sqlx::query(AssertSqlSafe(posts.upsert.as_str()));
    columns
        .into_iter()
        .fold(statement, |statement, column| statement.bind(Array(column)))
        .execute(connection)
        .await?;
    Ok(())
}

/// A column of a batch as a parameter.
struct Array(rows::Column);

impl Type<Postgres> for Array {
    fn type_info() -> PgTypeInfo {
        <Vec<String> as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Array {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.0.write(buffer);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(match self.0.element {
            oid::BIGINT => <Vec<i64> as Type<Postgres>>::type_info(),
            oid::INTEGER => <Vec<i32> as Type<Postgres>>::type_info(),
            oid::DOUBLE => <Vec<f64> as Type<Postgres>>::type_info(),
            oid::BOOLEAN => <Vec<bool> as Type<Postgres>>::type_info(),
            oid::TIMESTAMPTZ => <Vec<chrono::DateTime<chrono::Utc>> as Type<Postgres>>::type_info(),
            _ => Self::type_info(),
        })
    }
}
