//! DAG files become immutable versions. Editing a schedule never fires for the past.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::{Error, FileErrorRow, Store, settle::Step};
use crate::model::{
    Dag, DagId, VersionId,
    schedule::{Past, first_since, intervals_due},
};

/// What publishing a DAG did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The same bytes are the current version already.
    Unchanged(VersionId),
    /// New runs get this version from now on.
    NewVersion(VersionId),
}

/// What is published, and from which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedFile {
    /// The DAG.
    pub dag_id: DagId,
    /// The file it was last read from.
    pub file: String,
    /// Whether the file was there when it was last looked for.
    pub present: bool,
    /// SHA-256 of its bytes, in hex.
    pub content_hash: String,
}

/// The content hash of a file, as versions are known by it.
pub fn content_hash(source: &str) -> String {
    hex::encode(Sha256::digest(source.as_bytes()))
}

impl Store {
    /// Makes a DAG's file the version of its new runs; idempotent by content. A schedule that is new or has changed
    /// begins now: no tick of the past fires because of an edit.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn publish(&self, file: &str, source: &str, dag: &Dag) -> Result<Published, Error> {
        self.publish_at(file, source, dag, TimeDelta::zero()).await
    }

    /// [`Store::publish`] by a clock that is `shift` ahead of the database's.
    ///
    /// # Errors
    /// As there.
    pub async fn publish_at(
        &self,
        file: &str,
        source: &str,
        dag: &Dag,
        shift: TimeDelta,
    ) -> Result<Published, Error> {
        let hash = content_hash(source);
        let mut transaction = self.engine.begin().await?;
        sqlx::query_file!("src/store/queries/insert_dag.sql", dag.id.as_str(), file)
            .execute(&mut *transaction)
            .await?;
        let current = sqlx::query_file!(
            "src/store/queries/lock_dag.sql",
            dag.id.as_str(),
            shift as _
        )
        .fetch_one(&mut *transaction)
        .await?;
        if let (Some(version), Some(known)) = (current.current_version, &current.content_hash)
            && *known == hash
            && current.present
            && current.file == file
        {
            // Dropping it would roll back later, and keep the row locked until then.
            transaction.rollback().await?;
            return Ok(Published::Unchanged(version));
        }
        let unchanged = current.content_hash.as_ref() == Some(&hash);
        let version = insert_version(&mut transaction, dag, &hash, source).await?;
        let before = match current.current_version {
            Some(version) => Some(self.definition_by(&mut transaction, version).await?),
            None => None,
        };
        let since = schedule_since(dag, before.as_deref(), current.schedule_since, current.now);
        let next = dag.schedule.as_ref().and_then(|schedule| {
            let past = Past {
                start: dag.start,
                catchup: dag.catchup,
                last_logical_date: current.last_logical_date,
                since,
                watched_since: since,
            };
            intervals_due(schedule, &past, since, 0).next
        });
        sqlx::query_file!(
            "src/store/queries/update_dag.sql",
            dag.id.as_str(),
            file,
            version.0,
            dag.description,
            dag.schedule.as_ref().map(|schedule| schedule.text()),
            i32::try_from(dag.max_active_runs).unwrap_or(i32::MAX),
            next.map(|interval| interval.logical_date()),
            next.map(|interval| interval.fires_at()),
            since,
            shift as _
        )
        .execute(&mut *transaction)
        .await?;
        // The new version may allow more runs at once.
        let mut step = Step::default();
        self.start_runs(
            &mut transaction,
            &BTreeSet::from([dag.id.clone()]),
            &mut step,
        )
        .await?;
        self.finish(&mut transaction, &mut step).await?;
        transaction.commit().await?;
        self.remember(version, &Arc::new(dag.clone()));
        Ok(if unchanged {
            Published::Unchanged(version)
        } else {
            Published::NewVersion(version)
        })
    }

    /// Records which files have errors now; what is not among them is good again or gone.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn record_file_errors(&self, errors: &[FileErrorRow]) -> Result<(), Error> {
        let files: Vec<String> = errors.iter().map(|error| error.file.clone()).collect();
        let reports: Vec<String> = errors
            .iter()
            .map(|error| super::text::storable(&error.report).into_owned())
            .collect();
        let counts: Vec<i32> = errors.iter().map(|error| error.error_count).collect();
        let mut transaction = self.engine.begin().await?;
        sqlx::query_file!("src/store/queries/delete_file_errors.sql", &files)
            .execute(&mut *transaction)
            .await?;
        sqlx::query_file!(
            "src/store/queries/upsert_file_errors.sql",
            &files,
            &reports,
            &counts
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Retires every DAG that is not among these: it gets no new runs, its history stays.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn retire_missing(&self, present: &[DagId]) -> Result<(), Error> {
        let present: Vec<String> = present.iter().map(|dag| dag.as_str().to_owned()).collect();
        let retired =
            sqlx::query_file_scalar!("src/store/queries/retire_missing_dags.sql", &present)
                .fetch_all(&self.engine)
                .await?;
        for dag_id in retired {
            tracing::info!(%dag_id, "the DAG's file is gone; it gets no new runs");
        }
        Ok(())
    }

    /// What is published from which file.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn published(&self) -> Result<Vec<PublishedFile>, Error> {
        Ok(
            sqlx::query_file_as!(PublishedFile, "src/store/queries/list_published.sql")
                .fetch_all(&self.engine)
                .await?,
        )
    }

    /// The file a version was made from.
    ///
    /// # Errors
    /// The version does not exist, or Postgres cannot be reached.
    pub async fn source(&self, version: VersionId) -> Result<String, Error> {
        sqlx::query_file_scalar!("src/store/queries/read_source.sql", version.0)
            .fetch_optional(&self.people)
            .await?
            .ok_or(Error::UnknownVersion {
                version_id: version,
            })
    }
}

/// Ticks before this instant are never made up for.
fn schedule_since(
    dag: &Dag,
    before: Option<&Dag>,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> DateTime<Utc> {
    match before {
        None => first_since(dag.start, dag.catchup, now),
        Some(before)
            if before.schedule == dag.schedule
                && before.start == dag.start
                && before.catchup == dag.catchup =>
        {
            since
        }
        Some(_) => now,
    }
}

async fn insert_version(
    connection: &mut PgConnection,
    dag: &Dag,
    hash: &str,
    source: &str,
) -> Result<VersionId, Error> {
    let definition =
        serde_json::to_value(dag).expect("a definition has only string keys and finite numbers");
    let version = sqlx::query_file_scalar!(
        "src/store/queries/insert_version.sql",
        dag.id.as_str(),
        hash,
        source,
        definition
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(version) = version else {
        return Ok(sqlx::query_file_scalar!(
            "src/store/queries/read_version_by_hash.sql",
            dag.id.as_str(),
            hash
        )
        .fetch_one(connection)
        .await?);
    };
    insert_tasks(connection, version, dag).await?;
    Ok(version)
}

async fn insert_tasks(
    connection: &mut PgConnection,
    version: VersionId,
    dag: &Dag,
) -> Result<(), Error> {
    let number =
        |number: usize| i32::try_from(number).expect("a file has at most a few thousand tasks");
    let whole = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let tasks = &dag.tasks;
    let ordinals: Vec<i32> = (0..tasks.len()).map(number).collect();
    let ids: Vec<String> = tasks.iter().map(|task| task.id.to_string()).collect();
    let kinds: Vec<String> = tasks.iter().map(|task| task.kind.clone()).collect();
    let rules: Vec<String> = tasks
        .iter()
        .map(|task| task.trigger_rule.to_string())
        .collect();
    let pools: Vec<String> = tasks.iter().map(|task| task.pool.clone()).collect();
    let queues: Vec<String> = tasks.iter().map(|task| task.queue.clone()).collect();
    let priorities: Vec<i32> = tasks.iter().map(|task| task.priority).collect();
    let slots: Vec<i32> = tasks.iter().map(|task| whole(task.slots)).collect();
    let retries: Vec<i32> = tasks
        .iter()
        .map(|task| whole(task.retries).min(i32::MAX - 1))
        .collect();
    let allow_failure: Vec<bool> = tasks.iter().map(|task| task.allow_failure).collect();
    let upstream: Vec<i32> = tasks
        .iter()
        .map(|task| number(task.upstream.len()))
        .collect();
    sqlx::query_file!(
        "src/store/queries/insert_tasks.sql",
        version.0,
        &ordinals,
        &ids,
        &kinds,
        &rules,
        &pools,
        &queues,
        &priorities,
        &slots,
        &retries,
        &allow_failure,
        &upstream
    )
    .execute(&mut *connection)
    .await?;
    let (from, to): (Vec<i32>, Vec<i32>) = tasks
        .iter()
        .enumerate()
        .flat_map(|(ordinal, task)| {
            task.downstream
                .iter()
                .map(move |below| (number(ordinal), number(*below)))
        })
        .unzip();
    sqlx::query_file!("src/store/queries/insert_edges.sql", version.0, &from, &to)
        .execute(connection)
        .await?;
    Ok(())
}
