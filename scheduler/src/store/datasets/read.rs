//! What people and templates read about datasets. Every list is bounded.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::{
    model::{DagId, DatasetExpression, DatasetName, RunId, TaskId},
    store::{
        DatasetEventRow, DatasetMember, DatasetProducer, DatasetRow, DatasetSetRow, Error, Store,
    },
};

const MOST_EVENTS: i64 = 500;
/// Templates see at most so many events of each dataset: the last ones.
const EVENTS_IN_TEMPLATES: i64 = 100;

struct Record {
    dataset: DatasetName,
    producer_dags: Vec<DagId>,
    producer_tasks: Vec<TaskId>,
    consumers: Vec<DagId>,
    event_id: Option<i64>,
    at: Option<DateTime<Utc>>,
    dag_id: Option<DagId>,
    run_id: Option<RunId>,
    task_id: Option<TaskId>,
    pushed_by: Option<String>,
    extra: Option<Value>,
    runs: Option<Vec<RunId>>,
}

impl From<Record> for DatasetRow {
    fn from(row: Record) -> Self {
        let last_event = match (row.event_id, row.at) {
            (Some(event_id), Some(at)) => Some(DatasetEventRow {
                event_id,
                dataset: row.dataset.clone(),
                at,
                dag_id: row.dag_id,
                run_id: row.run_id,
                task_id: row.task_id,
                pushed_by: row.pushed_by,
                extra: row.extra.unwrap_or_default(),
                runs: row.runs.unwrap_or_default(),
            }),
            _none => None,
        };
        Self {
            dataset: row.dataset,
            producers: row
                .producer_dags
                .into_iter()
                .zip(row.producer_tasks)
                .map(|(dag_id, task_id)| DatasetProducer { dag_id, task_id })
                .collect(),
            consumers: row.consumers,
            last_event,
        }
    }
}

impl Store {
    /// The datasets that DAGs name, with who updates them and who waits for them.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn datasets(&self) -> Result<Vec<DatasetRow>, Error> {
        self.list_datasets(None).await
    }

    /// One dataset.
    ///
    /// # Errors
    /// No DAG names it, or Postgres cannot be reached.
    pub async fn dataset(&self, name: &DatasetName) -> Result<DatasetRow, Error> {
        match self.list_datasets(Some(name)).await?.into_iter().next() {
            Some(row) => Ok(row),
            None => Err(self.unknown_dataset(name.clone()).await?),
        }
    }

    async fn list_datasets(&self, name: Option<&DatasetName>) -> Result<Vec<DatasetRow>, Error> {
        let rows = sqlx::query_file_as!(
            Record,
            "src/store/queries/list_datasets.sql",
            name.map(DatasetName::as_str)
        )
        .fetch_all(&self.people)
        .await?;
        Ok(rows.into_iter().map(DatasetRow::from).collect())
    }

    /// Events, newest first, of one dataset or all, before an event (for the next page); at most 500.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn dataset_events(
        &self,
        dataset: Option<&DatasetName>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<DatasetEventRow>, Error> {
        Ok(sqlx::query_file_as!(
            DatasetEventRow,
            "src/store/queries/list_dataset_events.sql",
            dataset.map(DatasetName::as_str),
            before,
            limit.clamp(1, MOST_EVENTS)
        )
        .fetch_all(&self.people)
        .await?)
    }

    /// The events that made a run, newest first; at most 500.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn events_of_run(&self, run_id: RunId) -> Result<Vec<DatasetEventRow>, Error> {
        Ok(sqlx::query_file_as!(
            DatasetEventRow,
            "src/store/queries/list_events_of_run.sql",
            run_id.0,
            MOST_EVENTS
        )
        .fetch_all(&self.people)
        .await?)
    }

    /// What DAGs wait for, and which of it has come; of one DAG or all.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn dataset_sets(&self, dag: Option<&DagId>) -> Result<Vec<DatasetSetRow>, Error> {
        let rows = sqlx::query_file!(
            "src/store/queries/list_dataset_sets.sql",
            dag.map(DagId::as_str)
        )
        .fetch_all(&self.people)
        .await?;
        let mut sets: Vec<DatasetSetRow> = Vec::new();
        for row in rows {
            let member = DatasetMember {
                dataset: row.dataset,
                events: row.events,
                last_at: row.last_at,
            };
            match sets.last_mut().filter(|set| set.dag_id == row.dag_id) {
                Some(set) => set.members.push(member),
                None => {
                    // What cannot be read is of a later version of Pinwheel; its members say enough.
                    let expression = row.expression.and_then(|expression| {
                        serde_json::from_value::<DatasetExpression>(expression).ok()
                    });
                    sets.push(DatasetSetRow {
                        dag_id: row.dag_id,
                        paused: row.paused,
                        words: expression.map(|set| set.describe()).unwrap_or_default(),
                        members: vec![member],
                    });
                }
            }
        }
        Ok(sets)
    }

    /// The events that made a run as its templates see them: by dataset, oldest first, the last hundred of each.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn triggering_datasets(
        &self,
        run_id: RunId,
    ) -> Result<BTreeMap<String, Vec<Value>>, Error> {
        let rows = sqlx::query_file!(
            "src/store/queries/read_triggering_datasets.sql",
            run_id.0,
            EVENTS_IN_TEMPLATES
        )
        .fetch_all(&self.engine)
        .await?;
        let mut events: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for row in rows {
            let event = json!({
                "at": row.at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
                "dag_id": row.dag_id,
                "run_id": row.run_id,
                "task_id": row.task_id,
                "extra": row.extra,
            });
            events
                .entry(row.dataset.to_string())
                .or_default()
                .push(event);
        }
        Ok(events)
    }
}
