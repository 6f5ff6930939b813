//! `/api/v1/dags`

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderName, StatusCode, header},
};
use chrono::{DateTime, Utc};
use pinwheel_scheduler::{
    model::{Params, RunKind},
    store::{DagRow, NewRun, Paused},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    ACTOR,
    datasets::DatasetSet,
    input::{Asked, Body},
    types::{
        Dag, DagDetail, DagTask, Dags, FileError, NextRun, NextRuns, Run, SkippedTicks, Timing,
    },
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    pages::{actions::ring, dag_id, find_run},
};

/// So many of the next runs are shown unless more are asked for.
const NEXT_RUNS: usize = 5;
/// So many stretches of ticks that made no run are shown.
const SKIPPED: i64 = 10;

/// All DAGs
///
/// With the errors of files that cannot be loaded.
#[utoipa::path(get, path = "/api/v1/dags", tag = "DAGs", responses((status = 200, description = "The DAGs", body = Dags)))]
pub(crate) async fn list(State(state): State<WebState>) -> Result<Json<Dags>, Failure> {
    let dags = state
        .store
        .dags()
        .await?
        .into_iter()
        .map(Dag::from)
        .collect();
    let file_errors = state.store.file_errors().await?.into_iter();
    let file_errors = file_errors
        .map(|error| FileError {
            file: error.file,
            report: error.report,
            errors: error.error_count,
        })
        .collect();
    Ok(Json(Dags { dags, file_errors }))
}

/// One DAG
///
/// With its tasks and the params it takes.
#[utoipa::path(
    get, path = "/api/v1/dags/{dag}", tag = "DAGs",
    params(("dag" = String, Path, description = "The DAG's id")),
    responses(
        (status = 200, description = "The DAG", body = DagDetail),
        (status = 404, description = "No such DAG", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(state): State<WebState>,
    Path(dag): Path<String>,
) -> Result<Json<DagDetail>, Failure> {
    let row = find(&state, &dag).await?;
    let definition = state.store.definition(row.version_id).await?;
    let params = serde_json::to_value(&definition.params).map_err(|error| {
        tracing::error!(%error, "params cannot be written as JSON");
        Failure::internal()
    })?;
    let datasets = match &definition.datasets {
        Some(_) => state.store.dataset_sets(Some(&row.dag_id)).await?,
        None => Vec::new(),
    };
    let tasks = definition.tasks.iter().map(|task| DagTask {
        task_id: task.id.to_string(),
        kind: task.kind.clone(),
        after: task
            .upstream
            .iter()
            .filter_map(|&up| definition.tasks.get(up))
            .map(|up| up.id.to_string())
            .collect(),
        trigger_rule: task.trigger_rule.to_string(),
        retries: task.retries,
        pool: task.pool.clone(),
        queue: task.queue.clone(),
        outlets: task.outlets.iter().map(ToString::to_string).collect(),
        with: task.with.clone(),
    });
    let skipped = state.store.skipped_ticks(&row.dag_id, SKIPPED).await?;
    Ok(Json(DagDetail {
        timing: Timing::from(&*definition),
        next_runs: row
            .upcoming(&definition, Utc::now(), NEXT_RUNS)
            .into_iter()
            .map(NextRun::from)
            .collect(),
        skipped_ticks: skipped.into_iter().map(SkippedTicks::from).collect(),
        schedule_words: definition.runs_when(),
        max_active_runs: definition.max_active_runs,
        params,
        datasets: datasets.into_iter().next().map(DatasetSet::from),
        tasks: tasks.collect(),
        dag: row.into(),
    }))
}

/// Which of the next runs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Foretell {
    /// How many, 1 to 1,000.
    count: usize,
    /// Those after this instant; now when left out.
    from: Option<DateTime<Utc>>,
}

impl Default for Foretell {
    fn default() -> Self {
        Self {
            count: NEXT_RUNS,
            from: None,
        }
    }
}

/// The next runs of a DAG by its schedule
///
/// With the data interval of each, when it is made, and what a change of the clock does to it.
#[utoipa::path(
    get, path = "/api/v1/dags/{dag}/next", tag = "DAGs",
    params(("dag" = String, Path, description = "The DAG's id"), Foretell),
    responses(
        (status = 200, description = "The runs, soonest first; empty without a schedule", body = NextRuns),
        (status = 400, description = "The query does not fit", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such DAG", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn next(
    State(state): State<WebState>,
    Path(dag): Path<String>,
    Asked(asked): Asked<Foretell>,
) -> Result<Json<NextRuns>, Failure> {
    let row = find(&state, &dag).await?;
    let definition = state.store.definition(row.version_id).await?;
    let from = asked.from.unwrap_or_else(Utc::now);
    Ok(Json(NextRuns {
        schedule_words: definition
            .schedule
            .as_ref()
            .map(|schedule| schedule.describe()),
        paused: row.paused,
        next_runs: row
            .upcoming(&definition, from, asked.count.clamp(1, 1_000))
            .into_iter()
            .map(NextRun::from)
            .collect(),
    }))
}

async fn find(state: &WebState, dag: &str) -> Result<DagRow, Failure> {
    state
        .store
        .dag(&dag_id(dag)?)
        .await?
        .ok_or_else(|| Failure::missing("DAG", dag))
}

/// A run to make.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Trigger {
    /// Checked against the DAG's params and completed with their defaults.
    #[schema(value_type = Object)]
    params: Params,
    /// Left out: now.
    logical_date: Option<DateTime<Utc>>,
}

type Created<T> = (StatusCode, [(HeaderName, String); 1], Json<T>);

/// Trigger a run
///
/// The run is made at once and starts as soon as `max_active_runs` allows.
#[utoipa::path(
    post, path = "/api/v1/dags/{dag}/runs", tag = "DAGs",
    params(("dag" = String, Path, description = "The DAG's id")),
    request_body(content = Trigger, description = "May be empty"),
    responses(
        (status = 201, description = "The run; `Location` is its address", body = Run),
        (status = 404, description = "No such DAG", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "There is a manual run of that logical date already, or the DAG's file is gone", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The params do not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn trigger(
    State(state): State<WebState>,
    Path(dag): Path<String>,
    Body(body): Body<Trigger>,
) -> Result<Created<Run>, Failure> {
    let run = NewRun {
        dag_id: dag_id(&dag)?,
        kind: RunKind::Manual,
        logical_date: body.logical_date,
        params: body.params,
        triggered_by: ACTOR.to_owned(),
    };
    let run = state.store.trigger(run).await?;
    ring(&state.store).await;
    let row = find_run(&state, run).await?;
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, format!("/api/v1/runs/{run}"))],
        Json(row.into()),
    ))
}

/// Pause a DAG
///
/// It gets no scheduled runs until it is unpaused.
#[utoipa::path(
    post, path = "/api/v1/dags/{dag}/pause", tag = "DAGs",
    params(("dag" = String, Path, description = "The DAG's id")),
    responses(
        (status = 200, description = "The DAG", body = Dag),
        (status = 404, description = "No such DAG", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn pause(
    State(state): State<WebState>,
    Path(dag): Path<String>,
) -> Result<Json<Dag>, Failure> {
    set_paused(&state, &dag, Paused::Paused).await
}

/// Unpause a DAG
#[utoipa::path(
    post, path = "/api/v1/dags/{dag}/unpause", tag = "DAGs",
    params(("dag" = String, Path, description = "The DAG's id")),
    responses(
        (status = 200, description = "The DAG", body = Dag),
        (status = 404, description = "No such DAG", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn unpause(
    State(state): State<WebState>,
    Path(dag): Path<String>,
) -> Result<Json<Dag>, Failure> {
    set_paused(&state, &dag, Paused::Active).await
}

async fn set_paused(state: &WebState, dag: &str, paused: Paused) -> Result<Json<Dag>, Failure> {
    state.store.set_paused(&dag_id(dag)?, paused, ACTOR).await?;
    ring(&state.store).await;
    Ok(Json(find(state, dag).await?.into()))
}
