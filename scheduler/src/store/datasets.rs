//! Dataset-aware runs. The event of an update, the set that it completes and the run that follows are one transaction:
//! that which settles the task, or pushes the event.
//!
//! Whoever writes events holds the rows of all DAGs that wait for them, so that a set is completed by exactly one, and an
//! event either counts for a run or waits for the next. What people read about it is in `datasets/read.rs`.

mod read;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use super::{
    DatasetExtra, Error, PushedDatasetEvent, Store,
    claim::task_at,
    people::audit,
    runs,
    settle::{Ended, Step},
};
use crate::model::{
    BackfillId, Dag, DagId, DatasetName, InstanceId, RunId, RunKind, TaskId, VersionId,
};

/// An update of a dataset that is to be written.
struct Update {
    dataset: DatasetName,
    source: Source,
    extra: Value,
}

enum Source {
    /// The success of a task instance.
    Task {
        dag_id: DagId,
        run_id: RunId,
        task_id: TaskId,
        instance_id: InstanceId,
    },
    /// Somebody who pushed it.
    Push { actor: String },
}

impl Store {
    /// Writes the events of what has just succeeded in a batch, if it has outlets, and makes the runs whose sets are
    /// complete. The definitions are known. Comes before anything that locks gates: the DAGs are locked here.
    pub(super) async fn announce_settled(
        &self,
        connection: &mut PgConnection,
        succeeded: impl Iterator<Item = (&Ended, Option<&Value>)>,
        step: &mut Step,
    ) -> Result<(), Error> {
        let mut updates = Vec::new();
        for (ended, output) in succeeded {
            let execution = &ended.execution;
            let Some(dag) = self.known_definition(execution.version_id) else {
                continue;
            };
            let task = task_at(&dag, execution.ordinal);
            updates.extend(task.outlets.iter().map(|dataset| Update {
                dataset: dataset.clone(),
                source: Source::Task {
                    dag_id: dag.id.clone(),
                    run_id: execution.run_id,
                    task_id: task.id.clone(),
                    instance_id: execution.instance_id,
                },
                extra: extra_of(output),
            }));
        }
        if updates.is_empty() {
            return Ok(());
        }
        let dags = step
            .versions()
            .filter_map(|version| Some(self.known_definition(version)?.id.clone()))
            .collect();
        self.announce(connection, &updates, dags, step).await?;
        Ok(())
    }

    /// Writes an event that something outside of Pinwheel tells of, and makes the runs whose sets are complete.
    ///
    /// # Errors
    /// No task updates the dataset and no DAG waits for it, or Postgres is away.
    pub async fn push_dataset_event(
        &self,
        dataset: &DatasetName,
        extra: DatasetExtra,
        actor: &str,
    ) -> Result<PushedDatasetEvent, Error> {
        let is_known =
            sqlx::query_file_scalar!("src/store/queries/is_dataset_known.sql", dataset.as_str())
                .fetch_one(&self.engine)
                .await?;
        if !is_known {
            return Err(self.unknown_dataset(dataset.clone()).await?);
        }
        let update = Update {
            dataset: dataset.clone(),
            source: Source::Push {
                actor: actor.to_owned(),
            },
            extra: super::text::storable_value(&Value::Object(extra.into_map())),
        };
        let mut transaction = self.engine.begin().await?;
        let mut step = Step::default();
        let (events, runs) = self
            .announce(&mut transaction, &[update], BTreeSet::new(), &mut step)
            .await?;
        let event_id = events.first().copied().unwrap_or_default();
        let detail = json!({ "dataset": dataset, "event": event_id, "runs": &runs });
        audit(&mut transaction, actor, "push_dataset", None, None, &detail).await?;
        self.finish(&mut transaction, &mut step).await?;
        transaction.commit().await?;
        Ok(PushedDatasetEvent { event_id, runs })
    }

    /// Writes events and makes the runs that follow. `also` are DAGs that this transaction will lock later: all are
    /// locked in one order.
    async fn announce(
        &self,
        connection: &mut PgConnection,
        updates: &[Update],
        also: BTreeSet<DagId>,
        step: &mut Step,
    ) -> Result<(Vec<i64>, Vec<RunId>), Error> {
        let datasets: Vec<String> = updates
            .iter()
            .map(|update| update.dataset.to_string())
            .collect();
        let consumers =
            sqlx::query_file_scalar!("src/store/queries/list_dataset_consumers.sql", &datasets)
                .fetch_all(&mut *connection)
                .await?;
        let names = |dags: &BTreeSet<DagId>| -> Vec<String> {
            dags.iter().map(|dag| dag.as_str().to_owned()).collect()
        };
        let consumers: BTreeSet<DagId> = consumers.into_iter().collect();
        if !consumers.is_empty() {
            let locked = names(&consumers.union(&also).cloned().collect());
            sqlx::query_file!("src/store/queries/lock_dags.sql", &locked)
                .fetch_all(&mut *connection)
                .await?;
        }
        let events = insert_events(connection, &names(&consumers), updates).await?;
        let runs = self.fire(connection, &consumers, step).await?;
        Ok((events, runs))
    }

    /// Makes a run of each of these DAGs whose set is complete, of all events that wait for it. The DAGs are locked.
    pub(super) async fn fire(
        &self,
        connection: &mut PgConnection,
        dags: &BTreeSet<DagId>,
        step: &mut Step,
    ) -> Result<Vec<RunId>, Error> {
        if dags.is_empty() {
            return Ok(Vec::new());
        }
        let dags: Vec<String> = dags.iter().map(|dag| dag.as_str().to_owned()).collect();
        let waiting = sqlx::query_file!("src/store/queries/list_waiting_datasets.sql", &dags)
            .fetch_all(&mut *connection)
            .await?;
        let mut sets: BTreeMap<DagId, (VersionId, BTreeSet<DatasetName>)> = BTreeMap::new();
        for row in waiting {
            let set = sets
                .entry(row.dag_id)
                .or_insert_with(|| (row.version_id, BTreeSet::new()));
            set.1.insert(row.dataset);
        }
        let mut complete = BTreeMap::new();
        for (dag_id, (version_id, waits)) in sets {
            let dag = match self.definition_by(connection, version_id).await {
                Ok(dag) => dag,
                // A process of an older Pinwheel. The task that it settles is not at fault, and the events keep.
                Err(error @ Error::Definition { .. }) => {
                    tracing::warn!(%dag_id, %error, "the DAG's set of datasets cannot be looked at");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let is_complete = dag
                .datasets
                .as_ref()
                .is_some_and(|set| set.is_satisfied(&|name: &DatasetName| waits.contains(name)));
            if is_complete {
                complete.insert(dag_id, (version_id, dag));
            }
        }
        if complete.is_empty() {
            return Ok(Vec::new());
        }
        let dags: Vec<String> = complete.keys().map(ToString::to_string).collect();
        let spans = sqlx::query_file!("src/store/queries/read_dataset_spans.sql", &dags)
            .fetch_all(&mut *connection)
            .await?;
        let rows: Vec<runs::Row> = spans
            .into_iter()
            .filter_map(|span| {
                let (version_id, dag) = complete.get(&span.dag_id)?;
                Some(runs::Row {
                    params: runs::default_params(dag),
                    dag_id: span.dag_id,
                    version_id: *version_id,
                    logical_date: logical_date(span.last, span.last_logical_date),
                    data_interval_start: span.first,
                    data_interval_end: span.last,
                    kind: RunKind::Dataset,
                    triggered_by: "datasets".to_owned(),
                })
            })
            .collect();
        let made = runs::create_runs(connection, &rows).await?;
        let dags: Vec<String> = made.iter().map(|run| run.dag_id.to_string()).collect();
        let run_ids: Vec<i64> = made.iter().map(|run| run.run_id.0).collect();
        sqlx::query_file!("src/store/queries/take_dataset_waits.sql", &dags, &run_ids)
            .execute(connection)
            .await?;
        // Its tasks may be of other queues than those of whoever made it.
        step.start_later(made.iter().map(|run| run.dag_id.clone()));
        Ok(made.into_iter().map(|run| run.run_id).collect())
    }

    async fn unknown_dataset(&self, dataset: DatasetName) -> Result<Error, Error> {
        let known = sqlx::query_file_scalar!("src/store/queries/list_dataset_names.sql")
            .fetch_all(&self.people)
            .await?;
        let nearest = known
            .into_iter()
            .map(|known| {
                (
                    strsim::jaro_winkler(known.as_str(), dataset.as_str()),
                    known,
                )
            })
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|(one, _), (other, _)| one.total_cmp(other))
            .map(|(_, known)| known);
        Ok(Error::UnknownDataset { dataset, nearest })
    }
}

/// Writes down what the current versions of DAGs update and wait for. A DAG that is new, is back, or waits for something
/// else than before begins to count anew. The DAGs are locked.
pub(super) async fn publish<'a>(
    connection: &mut PgConnection,
    changes: impl Iterator<Item = (&'a Dag, Option<&'a Dag>)>,
) -> Result<(), Error> {
    let mut producers = Vec::new();
    let mut consumers = Vec::new();
    for (dag, before) in changes {
        let produced = outlets(dag);
        if before.map_or(BTreeSet::new(), outlets) != produced {
            producers.push((dag, produced));
        }
        if before.and_then(|before| before.datasets.as_ref()) != dag.datasets.as_ref() {
            consumers.push(dag);
        }
    }
    if !producers.is_empty() {
        let dags: Vec<String> = producers
            .iter()
            .map(|(dag, _)| dag.id.to_string())
            .collect();
        let rows = || {
            producers
                .iter()
                .flat_map(|(dag, produced)| produced.iter().map(|row| (&dag.id, row)))
        };
        let of: Vec<String> = rows().map(|(dag, _)| dag.to_string()).collect();
        let tasks: Vec<String> = rows().map(|(_, (task, _))| task.to_string()).collect();
        let datasets: Vec<String> = rows()
            .map(|(_, (_, dataset))| dataset.to_string())
            .collect();
        sqlx::query_file!(
            "src/store/queries/replace_dataset_producers.sql",
            &dags,
            &of,
            &tasks,
            &datasets
        )
        .execute(&mut *connection)
        .await?;
    }
    if !consumers.is_empty() {
        let dags: Vec<String> = consumers.iter().map(|dag| dag.id.to_string()).collect();
        let rows = || {
            consumers.iter().flat_map(|dag| {
                let names = dag.datasets.iter().flat_map(|set| set.names());
                names.map(|name| (dag.id.to_string(), name.to_string()))
            })
        };
        let of: Vec<String> = rows().map(|(dag, _)| dag).collect();
        let datasets: Vec<String> = rows().map(|(_, dataset)| dataset).collect();
        sqlx::query_file!(
            "src/store/queries/replace_dataset_consumers.sql",
            &dags,
            &of,
            &datasets
        )
        .execute(connection)
        .await?;
    }
    Ok(())
}

fn outlets(dag: &Dag) -> BTreeSet<(&TaskId, &DatasetName)> {
    dag.tasks
        .iter()
        .flat_map(|task| task.outlets.iter().map(|dataset| (&task.id, dataset)))
        .collect()
}

/// The instant of the event that completed the set; later where a run has it, or a later one, already.
fn logical_date(
    completed_at: DateTime<Utc>,
    last_logical_date: Option<DateTime<Utc>>,
) -> DateTime<Utc> {
    match last_logical_date {
        Some(last) => completed_at.max(last + TimeDelta::microseconds(1)),
        None => completed_at,
    }
}

/// What an event carries of a task's output. Events are kept and handed on by the hundred, so a large one stays behind.
fn extra_of(output: Option<&Value>) -> Value {
    match output {
        None | Some(Value::Null) => json!({}),
        Some(output) => match DatasetExtra::size(output) {
            size if size > DatasetExtra::LARGEST => json!({
                "left_out": format!(
                    "the task's output has {size} bytes; an event carries at most {}",
                    DatasetExtra::LARGEST
                ),
            }),
            _ => output.clone(),
        },
    }
}

async fn insert_events(
    connection: &mut PgConnection,
    consumers: &[String],
    updates: &[Update],
) -> Result<Vec<i64>, Error> {
    let mut datasets = Vec::with_capacity(updates.len());
    let mut dags: Vec<Option<String>> = Vec::with_capacity(updates.len());
    let mut run_ids: Vec<Option<i64>> = Vec::with_capacity(updates.len());
    let mut tasks: Vec<Option<String>> = Vec::with_capacity(updates.len());
    let mut instances: Vec<Option<i64>> = Vec::with_capacity(updates.len());
    let mut actors: Vec<Option<String>> = Vec::with_capacity(updates.len());
    let mut extras = Vec::with_capacity(updates.len());
    for update in updates {
        datasets.push(update.dataset.to_string());
        extras.push(update.extra.clone());
        match &update.source {
            Source::Task {
                dag_id,
                run_id,
                task_id,
                instance_id,
            } => {
                dags.push(Some(dag_id.to_string()));
                run_ids.push(Some(run_id.0));
                tasks.push(Some(task_id.to_string()));
                instances.push(Some(instance_id.0));
                actors.push(None);
            }
            Source::Push { actor } => {
                dags.push(None);
                run_ids.push(None);
                tasks.push(None);
                instances.push(None);
                actors.push(Some(actor.clone()));
            }
        }
    }
    Ok(sqlx::query_file_scalar!(
        "src/store/queries/insert_dataset_events.sql",
        consumers,
        &datasets,
        &dags as &[Option<String>],
        &run_ids as &[Option<i64>],
        &tasks as &[Option<String>],
        &instances as &[Option<i64>],
        &actors as &[Option<String>],
        &extras
    )
    .fetch_all(connection)
    .await?)
}

impl DatasetExtra {
    /// The most bytes it may have as JSON.
    pub const LARGEST: usize = 64 * 1024;

    /// The table, or `None` when it is larger than [`DatasetExtra::LARGEST`].
    pub fn new(table: Map<String, Value>) -> Option<Self> {
        let value = Value::Object(table);
        let is_small = Self::size(&value) <= Self::LARGEST;
        match value {
            Value::Object(table) if is_small => Some(Self(table)),
            _ => None,
        }
    }

    fn size(value: &Value) -> usize {
        serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len())
    }

    fn into_map(self) -> Map<String, Value> {
        self.0
    }
}
