//! `/api/v1/datasets`, and the events that made a run

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use chrono::{DateTime, Utc};
use pinwheel_scheduler::{
    model::{DatasetName, RunId},
    store::{DatasetEventRow, DatasetExtra, DatasetRow, DatasetSetRow},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::{
    ACTOR,
    input::{Asked, Body, page_size},
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    pages::{actions::ring, find_run, run_id},
};

/// Datasets.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Datasets {
    datasets: Vec<Dataset>,
    /// What DAGs wait for.
    sets: Vec<DatasetSet>,
}

/// A dataset that a DAG names.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Dataset {
    #[schema(example = "s3://lake/clean/pins")]
    dataset: String,
    /// The tasks that update it.
    producers: Vec<Producer>,
    /// The DAGs that wait for it.
    consumers: Vec<String>,
    last_event: Option<DatasetEvent>,
}

/// A task that updates a dataset.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Producer {
    dag_id: String,
    task_id: String,
}

/// One update of a dataset.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DatasetEvent {
    event_id: i64,
    dataset: String,
    at: DateTime<Utc>,
    /// The task whose success it was; null when it was pushed.
    dag_id: Option<String>,
    run_id: Option<i64>,
    task_id: Option<String>,
    /// Who pushed it; null when it was a task.
    pushed_by: Option<String>,
    /// The task's output, or what was pushed.
    #[schema(value_type = Object)]
    extra: Value,
    /// The runs it has made.
    runs: Vec<i64>,
}

/// What a DAG waits for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DatasetSet {
    dag_id: String,
    /// While it is paused, events wait and make no run.
    paused: bool,
    /// The set in words.
    #[schema(example = "s3://lake/clean/pins and s3://lake/clean/users")]
    words: String,
    members: Vec<DatasetMember>,
}

/// A dataset of a set.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DatasetMember {
    dataset: String,
    /// How many events wait for the DAG's next run.
    events: i64,
    last_at: Option<DateTime<Utc>>,
}

/// Events of datasets, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DatasetEvents {
    events: Vec<DatasetEvent>,
    /// Give it as `before` for the next page; null on the last.
    next_before: Option<i64>,
}

/// What a push came to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pushed {
    event_id: i64,
    /// The runs that it made, by completing their sets.
    runs: Vec<i64>,
}

impl From<DatasetRow> for Dataset {
    fn from(row: DatasetRow) -> Self {
        Self {
            dataset: row.dataset.to_string(),
            producers: row
                .producers
                .into_iter()
                .map(|producer| Producer {
                    dag_id: producer.dag_id.to_string(),
                    task_id: producer.task_id.to_string(),
                })
                .collect(),
            consumers: row.consumers.iter().map(ToString::to_string).collect(),
            last_event: row.last_event.map(DatasetEvent::from),
        }
    }
}

impl From<DatasetEventRow> for DatasetEvent {
    fn from(row: DatasetEventRow) -> Self {
        Self {
            event_id: row.event_id,
            dataset: row.dataset.to_string(),
            at: row.at,
            dag_id: row.dag_id.map(|dag| dag.to_string()),
            run_id: row.run_id.map(|run| run.0),
            task_id: row.task_id.map(|task| task.to_string()),
            pushed_by: row.pushed_by,
            extra: row.extra,
            runs: numbers(&row.runs),
        }
    }
}

impl From<DatasetSetRow> for DatasetSet {
    fn from(row: DatasetSetRow) -> Self {
        Self {
            dag_id: row.dag_id.to_string(),
            paused: row.paused,
            words: row.words,
            members: row
                .members
                .into_iter()
                .map(|member| DatasetMember {
                    dataset: member.dataset.to_string(),
                    events: member.events,
                    last_at: member.last_at,
                })
                .collect(),
        }
    }
}

fn numbers(runs: &[RunId]) -> Vec<i64> {
    runs.iter().map(|run| run.0).collect()
}

/// All datasets
///
/// With the tasks that update them, the DAGs that wait for them, and which sets are still incomplete.
#[utoipa::path(get, path = "/api/v1/datasets", tag = "Datasets", responses((status = 200, description = "The datasets", body = Datasets)))]
pub(crate) async fn list(State(state): State<WebState>) -> Result<Json<Datasets>, Failure> {
    let datasets = state.store.datasets().await?;
    let sets = state.store.dataset_sets(None).await?;
    Ok(Json(Datasets {
        datasets: datasets.into_iter().map(Dataset::from).collect(),
        sets: sets.into_iter().map(DatasetSet::from).collect(),
    }))
}

/// Which events to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only of this dataset.
    dataset: Option<String>,
    /// Only events before this one: `next_before` of the page before.
    before: Option<i64>,
    /// At most so many, 1 to 500.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

/// Events, newest first
#[utoipa::path(
    get, path = "/api/v1/datasets/events", tag = "Datasets", params(Filter),
    responses(
        (status = 200, description = "A page of events", body = DatasetEvents),
        (status = 400, description = "The query does not fit", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "That cannot name a dataset", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn events(
    State(state): State<WebState>,
    Asked(asked): Asked<Filter>,
) -> Result<Json<DatasetEvents>, Failure> {
    let limit = page_size(asked.limit, 50, 500)?;
    let dataset = asked.dataset.as_deref().map(dataset_name).transpose()?;
    let rows = state
        .store
        .dataset_events(dataset.as_ref(), asked.before, limit)
        .await?;
    let next_before = rows
        .last()
        .filter(|_| rows.len() as i64 == limit)
        .map(|last| last.event_id);
    Ok(Json(DatasetEvents {
        events: rows.into_iter().map(DatasetEvent::from).collect(),
        next_before,
    }))
}

/// The events that made a run
///
/// Newest first, at most 500; none for a run that datasets did not make.
#[utoipa::path(
    get, path = "/api/v1/runs/{run}/datasets", tag = "Runs",
    params(("run" = i64, Path, description = "The run's number")),
    responses(
        (status = 200, description = "The events", body = DatasetEvents),
        (status = 404, description = "No such run", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn of_run(
    State(state): State<WebState>,
    Path(run): Path<String>,
) -> Result<Json<DatasetEvents>, Failure> {
    let run = find_run(&state, run_id(&run)?).await?.run_id;
    let rows = state.store.events_of_run(run).await?;
    Ok(Json(DatasetEvents {
        events: rows.into_iter().map(DatasetEvent::from).collect(),
        next_before: None,
    }))
}

/// An update that something outside of Pinwheel tells of.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Push {
    /// One that a task has among its `outlets` or that a DAG waits for.
    #[schema(required = true, example = "s3://lake/clean/pins", max_length = 512)]
    dataset: String,
    /// At most 64 KiB; the run that follows reads it as `triggering_datasets`.
    #[schema(value_type = Object)]
    extra: Map<String, Value>,
}

/// Push an event
///
/// As if a task had updated the dataset. The runs whose sets it completes are made in the same transaction.
#[utoipa::path(
    post, path = "/api/v1/datasets/events", tag = "Datasets", request_body = Push,
    responses(
        (status = 201, description = "The event was written", body = Pushed),
        (status = 404, description = "No task updates this dataset and no DAG waits for it", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The dataset or `extra` does not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn push(
    State(state): State<WebState>,
    Body(body): Body<Push>,
) -> Result<(StatusCode, Json<Pushed>), Failure> {
    let dataset = dataset_name(&body.dataset)?;
    let extra = DatasetExtra::new(body.extra).ok_or_else(|| {
        misfit(format!(
            "`extra` has at most {} bytes as JSON",
            DatasetExtra::LARGEST
        ))
    })?;
    let pushed = state
        .store
        .push_dataset_event(&dataset, extra, ACTOR)
        .await?;
    ring(&state.store).await;
    Ok((
        StatusCode::CREATED,
        Json(Pushed {
            event_id: pushed.event_id,
            runs: numbers(&pushed.runs),
        }),
    ))
}

fn dataset_name(text: &str) -> Result<DatasetName, Failure> {
    DatasetName::new(text).ok_or_else(|| {
        misfit(format!(
            "`dataset` is a URI or a name of 1 to {} bytes without blanks and braces; found `{text}`",
            DatasetName::LONGEST
        ))
    })
}

fn misfit(detail: impl Into<String>) -> Failure {
    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "The event does not fit").detail(detail)
}
