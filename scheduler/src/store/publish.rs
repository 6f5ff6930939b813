//! DAG files become immutable versions. Editing a schedule never fires for the past.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::{Error, FileErrorRow, Store, alerts, datasets, settle::Step};
use crate::model::{
    Dag, DagId, VersionId,
    schedule::{Past, first_since},
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

/// A DAG to be published.
#[derive(Debug, Clone, Copy)]
pub struct ToPublish<'a> {
    /// Its file, relative to the DAG folder.
    pub file: &'a str,
    /// The file's text.
    pub source: &'a str,
    /// What it says.
    pub dag: &'a Arc<Dag>,
}

/// A DAG's row as it was locked.
struct Current {
    dag_id: DagId,
    current_version: Option<VersionId>,
    file: String,
    present: bool,
    content_hash: Option<String>,
    last_tick: Option<DateTime<Utc>>,
    schedule_since: DateTime<Utc>,
    now: DateTime<Utc>,
}

/// So many DAGs are published in one transaction: one that is larger holds their rows too long.
const MOST_AT_ONCE: usize = 250;

impl Store {
    /// Makes a DAG's file the version of its new runs; idempotent by content. A schedule that is new or has changed
    /// begins now: no tick of the past fires because of an edit.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn publish(&self, file: &str, source: &str, dag: &Dag) -> Result<Published, Error> {
        let dag = Arc::new(dag.clone());
        let file = ToPublish {
            file,
            source,
            dag: &dag,
        };
        let published = self.publish_all(&[file], TimeDelta::zero()).await?;
        Ok(published[0])
    }

    /// [`Store::publish`] for many DAGs, each with an id of its own, by a clock that is `shift` ahead of the database's;
    /// answers in their order.
    ///
    /// # Errors
    /// As there; what comes before in the list may have been published.
    pub async fn publish_all(
        &self,
        files: &[ToPublish<'_>],
        shift: TimeDelta,
    ) -> Result<Vec<Published>, Error> {
        let mut published = Vec::with_capacity(files.len());
        for files in files.chunks(MOST_AT_ONCE) {
            published.extend(self.publish_some(files, shift).await?);
        }
        Ok(published)
    }

    async fn publish_some(
        &self,
        files: &[ToPublish<'_>],
        shift: TimeDelta,
    ) -> Result<Vec<Published>, Error> {
        let ids: Vec<String> = files.iter().map(|file| file.dag.id.to_string()).collect();
        let names: Vec<String> = files.iter().map(|file| file.file.to_owned()).collect();
        let mut transaction = self.engine.begin().await?;
        sqlx::query_file!("src/store/queries/insert_dags.sql", &ids, &names)
            .execute(&mut *transaction)
            .await?;
        let locked = sqlx::query_file_as!(
            Current,
            "src/store/queries/lock_dags_to_publish.sql",
            &ids,
            shift as _
        )
        .fetch_all(&mut *transaction)
        .await?;
        let before = locked
            .iter()
            .filter_map(|row| row.current_version)
            .collect();
        self.know_definitions(&mut transaction, &before).await?;
        let current: HashMap<DagId, Current> = locked
            .into_iter()
            .map(|row| (row.dag_id.clone(), row))
            .collect();

        let mut published = vec![None; files.len()];
        let mut changes = Vec::new();
        for (position, file) in files.iter().enumerate() {
            let current = current.get(&file.dag.id).ok_or_else(|| Error::UnknownDag {
                dag_id: file.dag.id.clone(),
                nearest: None,
                broken_file: None,
            })?;
            let hash = content_hash(file.source);
            let same_bytes = current.content_hash.as_ref() == Some(&hash);
            match current.current_version {
                Some(version) if same_bytes && current.present && current.file == file.file => {
                    published[position] = Some(Published::Unchanged(version));
                }
                Some(_) | None => changes.push(Change {
                    position,
                    hash,
                    same_bytes,
                    file,
                    current,
                }),
            }
        }
        if !changes.is_empty() {
            let versions = insert_versions(&mut transaction, &changes).await?;
            self.make_current(&mut transaction, &changes, &versions, shift)
                .await?;
            // A new version may allow more runs at once.
            let dags = changes
                .iter()
                .filter(|change| change.current.current_version.is_some())
                .map(|change| change.file.dag.id.clone())
                .collect();
            let mut step = Step::default();
            self.start_runs(&mut transaction, &dags, &mut step).await?;
            self.finish(&mut transaction, &mut step).await?;
            for (change, version) in changes.iter().zip(&versions) {
                published[change.position] = Some(if change.same_bytes {
                    Published::Unchanged(*version)
                } else {
                    Published::NewVersion(*version)
                });
            }
            transaction.commit().await?;
            for (change, version) in changes.iter().zip(versions) {
                self.remember(version, change.file.dag);
            }
        } else {
            // Dropping it would roll back later, and keep the rows locked until then.
            transaction.rollback().await?;
        }
        Ok(published.into_iter().flatten().collect())
    }

    /// Makes these versions the ones of new runs.
    async fn make_current(
        &self,
        connection: &mut PgConnection,
        changes: &[Change<'_>],
        versions: &[VersionId],
        shift: TimeDelta,
    ) -> Result<(), Error> {
        let mut sinces = Vec::with_capacity(changes.len());
        let mut next_dates = Vec::with_capacity(changes.len());
        let mut next_fires = Vec::with_capacity(changes.len());
        let mut tellers = Vec::new();
        for change in changes {
            let dag = change.file.dag;
            let before = change
                .current
                .current_version
                .and_then(|version| self.known_definition(version));
            let since = schedule_since(
                dag,
                before.as_deref(),
                change.current.schedule_since,
                change.current.now,
            );
            let told_before = before.is_some_and(|before| !before.alerts.is_empty());
            if told_before || !dag.alerts.is_empty() {
                tellers.push(dag.as_ref());
            }
            let next = dag.timetable().and_then(|timetable| {
                let past = Past {
                    last_tick: change.current.last_tick,
                    since,
                    watched_since: since,
                };
                timetable.due(&past, since, 0).next
            });
            sinces.push(since);
            next_dates.push(next.map(|next| next.interval.logical_date()));
            next_fires.push(next.map(|next| next.fires_at));
        }
        let before = |change: &Change<'_>| {
            let version = change.current.current_version;
            version.and_then(|version| self.known_definition(version))
        };
        // A DAG that was gone waits for nothing, whatever its last version said.
        let befores: Vec<Option<Arc<Dag>>> = changes
            .iter()
            .map(|change| before(change).filter(|_| change.current.present))
            .collect();
        let named = changes.iter().zip(&befores);
        datasets::publish(
            connection,
            named.map(|(change, before)| (change.file.dag.as_ref(), before.as_deref())),
        )
        .await?;
        let dags = || changes.iter().map(|change| change.file.dag);
        let ids: Vec<String> = dags().map(|dag| dag.id.to_string()).collect();
        let names: Vec<String> = changes
            .iter()
            .map(|change| change.file.file.to_owned())
            .collect();
        let versions: Vec<i64> = versions.iter().map(|version| version.0).collect();
        let descriptions: Vec<String> = dags().map(|dag| dag.description.clone()).collect();
        let schedules: Vec<Option<String>> = dags().map(|dag| schedule_text(dag)).collect();
        let active_runs: Vec<i32> = dags()
            .map(|dag| i32::try_from(dag.max_active_runs).unwrap_or(i32::MAX))
            .collect();
        sqlx::query_file!(
            "src/store/queries/update_dags.sql",
            &ids,
            &names,
            &versions,
            &descriptions,
            &schedules as &[Option<String>],
            &active_runs,
            &next_dates as &[Option<DateTime<Utc>>],
            &next_fires as &[Option<DateTime<Utc>>],
            &sinces,
            shift as _
        )
        .execute(&mut *connection)
        .await?;
        alerts::publish_health(connection, &tellers, shift).await
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

/// When a DAG runs by itself, as lists say it.
fn schedule_text(dag: &Dag) -> Option<String> {
    let by_time = dag.schedule.as_ref().map(|schedule| schedule.text());
    let by_datasets = dag
        .datasets
        .as_ref()
        .map(|set| format!("datasets: {}", set.describe()));
    let parts: Vec<String> = by_time.into_iter().chain(by_datasets).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
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
                && before.end == dag.end
                && before.catchup == dag.catchup
                && before.catchup_window == dag.catchup_window =>
        {
            since
        }
        Some(_) => now,
    }
}

/// A DAG that gets another version, file or presence.
struct Change<'a> {
    /// In the list to be published.
    position: usize,
    hash: String,
    same_bytes: bool,
    file: &'a ToPublish<'a>,
    current: &'a Current,
}

/// Stores versions with their tasks and edges, as far as they are not there; returns them in order.
async fn insert_versions(
    connection: &mut PgConnection,
    changes: &[Change<'_>],
) -> Result<Vec<VersionId>, Error> {
    let ids: Vec<String> = changes
        .iter()
        .map(|change| change.file.dag.id.to_string())
        .collect();
    let hashes: Vec<String> = changes.iter().map(|change| change.hash.clone()).collect();
    let sources: Vec<String> = changes
        .iter()
        .map(|change| change.file.source.to_owned())
        .collect();
    let definitions: Vec<Value> = changes
        .iter()
        .map(|change| {
            serde_json::to_value(change.file.dag.as_ref())
                .expect("a definition has only string keys and finite numbers")
        })
        .collect();
    let new = sqlx::query_file!(
        "src/store/queries/insert_versions.sql",
        &ids,
        &hashes,
        &sources,
        &definitions
    )
    .fetch_all(&mut *connection)
    .await?;
    let new: HashSet<VersionId> = new.into_iter().map(|row| row.version_id).collect();
    let all: HashMap<DagId, VersionId> =
        sqlx::query_file!("src/store/queries/read_versions_by_hash.sql", &ids, &hashes)
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .map(|row| (row.dag_id, row.version_id))
            .collect();
    let versions = changes
        .iter()
        .map(|change| {
            all.get(&change.file.dag.id)
                .copied()
                .ok_or_else(|| Error::UnknownDag {
                    dag_id: change.file.dag.id.clone(),
                    nearest: None,
                    broken_file: None,
                })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let fresh: Vec<(VersionId, &Dag)> = versions
        .iter()
        .zip(changes)
        .filter(|(version, _)| new.contains(version))
        .map(|(version, change)| (*version, change.file.dag.as_ref()))
        .collect();
    insert_tasks(connection, &fresh).await?;
    alerts::publish(connection, &fresh).await?;
    Ok(versions)
}

async fn insert_tasks(
    connection: &mut PgConnection,
    versions: &[(VersionId, &Dag)],
) -> Result<(), Error> {
    let number =
        |number: usize| i32::try_from(number).expect("a file has at most a few thousand tasks");
    let whole = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let tasks = || {
        versions.iter().flat_map(|(version, dag)| {
            dag.tasks
                .iter()
                .enumerate()
                .map(move |(ordinal, task)| (version.0, ordinal, task))
        })
    };
    let of: Vec<i64> = tasks().map(|(version, _, _)| version).collect();
    let ordinals: Vec<i32> = tasks().map(|(_, ordinal, _)| number(ordinal)).collect();
    let ids: Vec<String> = tasks().map(|(_, _, task)| task.id.to_string()).collect();
    let kinds: Vec<String> = tasks().map(|(_, _, task)| task.kind.clone()).collect();
    let rules: Vec<String> = tasks()
        .map(|(_, _, task)| task.trigger_rule.to_string())
        .collect();
    let pools: Vec<String> = tasks().map(|(_, _, task)| task.pool.clone()).collect();
    let queues: Vec<String> = tasks().map(|(_, _, task)| task.queue.clone()).collect();
    let priorities: Vec<i32> = tasks().map(|(_, _, task)| task.priority).collect();
    let slots: Vec<i32> = tasks().map(|(_, _, task)| whole(task.slots)).collect();
    let retries: Vec<i32> = tasks()
        .map(|(_, _, task)| whole(task.retries).min(i32::MAX - 1))
        .collect();
    let allow_failure: Vec<bool> = tasks().map(|(_, _, task)| task.allow_failure).collect();
    let upstream: Vec<i32> = tasks()
        .map(|(_, _, task)| number(task.upstream.len()))
        .collect();
    let runs_if_all_ok: Vec<bool> = versions
        .iter()
        .flat_map(|(_, dag)| dag.tasks.iter().map(|task| dag.runs_if_all_ok(task)))
        .collect();
    let queue_timeouts: Vec<Option<f64>> = tasks()
        .map(|(_, _, task)| task.queue_timeout.map(|timeout| timeout.as_secs_f64()))
        .collect();
    sqlx::query_file!(
        "src/store/queries/insert_tasks.sql",
        &of,
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
        &upstream,
        &runs_if_all_ok,
        &queue_timeouts as &[Option<f64>]
    )
    .execute(&mut *connection)
    .await?;
    let edges = || {
        tasks().flat_map(|(version, ordinal, task)| {
            task.downstream
                .iter()
                .map(move |below| (version, number(ordinal), number(*below)))
        })
    };
    let of: Vec<i64> = edges().map(|(version, _, _)| version).collect();
    let from: Vec<i32> = edges().map(|(_, from, _)| from).collect();
    let to: Vec<i32> = edges().map(|(_, _, to)| to).collect();
    if of.is_empty() {
        return Ok(());
    }
    sqlx::query_file!("src/store/queries/insert_edges.sql", &of, &from, &to)
        .execute(connection)
        .await?;
    Ok(())
}
