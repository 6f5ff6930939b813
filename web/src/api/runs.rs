//! `/api/v1/runs`

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use pinwheel_scheduler::{
    model::{RunId, TaskId},
    store::{ClearRequest, ClearScope, ClearSelection, RunFilter},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    ACTOR,
    input::{Asked, Body, page_size},
    types::{Cleared, Run, RunState, Runs},
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    pages::{actions::ring, dag_id, find_run, run_id},
};

/// Which runs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only of this DAG.
    dag: Option<String>,
    /// Only in this state.
    #[param(inline)]
    state: Option<RunState>,
    /// Only runs before this one: `next_before` of the page before.
    before: Option<i64>,
    /// At most so many, 1 to 500.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

/// Runs, newest first
#[utoipa::path(
    get, path = "/api/v1/runs", tag = "Runs", params(Filter),
    responses(
        (status = 200, description = "A page of runs", body = Runs),
        (status = 400, description = "The query does not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(state): State<WebState>,
    Asked(asked): Asked<Filter>,
) -> Result<Json<Runs>, Failure> {
    let limit = page_size(asked.limit, 50, 500)?;
    let filter = RunFilter {
        dag_id: asked.dag.as_deref().map(dag_id).transpose()?,
        states: asked.state.map(Into::into).into_iter().collect(),
        before: asked.before.map(RunId),
        limit,
    };
    let runs = state.store.runs(&filter).await?;
    let next_before = runs
        .last()
        .filter(|_| runs.len() as i64 == limit)
        .map(|last| last.run_id.0);
    Ok(Json(Runs {
        runs: runs.into_iter().map(Run::from).collect(),
        next_before,
    }))
}

/// One run
#[utoipa::path(
    get, path = "/api/v1/runs/{run}", tag = "Runs",
    params(("run" = i64, Path, description = "The run's number")),
    responses(
        (status = 200, description = "The run", body = Run),
        (status = 404, description = "No such run", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(state): State<WebState>,
    Path(run): Path<String>,
) -> Result<Json<Run>, Failure> {
    Ok(Json(find_run(&state, run_id(&run)?).await?.into()))
}

/// Cancel a run
///
/// Running tasks are stopped; what has not begun never does.
#[utoipa::path(
    post, path = "/api/v1/runs/{run}/cancel", tag = "Runs",
    params(("run" = i64, Path, description = "The run's number")),
    responses(
        (status = 200, description = "The run", body = Run),
        (status = 404, description = "No such run", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The run is over", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel(
    State(state): State<WebState>,
    Path(run): Path<String>,
) -> Result<Json<Run>, Failure> {
    let run = run_id(&run)?;
    state.store.cancel_run(run, ACTOR).await?;
    ring(&state.store).await;
    Ok(Json(find_run(&state, run).await?.into()))
}

/// What to clear.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Clear {
    /// These tasks. Left out: every task of the run, or every failed one with `only_failed`.
    tasks: Vec<String>,
    /// Those that failed, were cancelled, or could not run because of a failure above. Not together with `tasks`.
    only_failed: bool,
    /// And everything downstream of them.
    #[schema(default = true)]
    with_downstream: bool,
}

impl Default for Clear {
    fn default() -> Self {
        Self {
            tasks: Vec::new(),
            only_failed: false,
            with_downstream: true,
        }
    }
}

/// Clear tasks of a run
///
/// They run again, and the run goes on.
#[utoipa::path(
    post, path = "/api/v1/runs/{run}/clear", tag = "Runs",
    params(("run" = i64, Path, description = "The run's number")),
    request_body(content = Clear, description = "May be empty: the whole run"),
    responses(
        (status = 200, description = "What was cleared", body = Cleared),
        (status = 404, description = "No such run or task", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Nothing to clear, or a task is still running", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The body does not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn clear(
    State(state): State<WebState>,
    Path(run): Path<String>,
    Body(body): Body<Clear>,
) -> Result<Json<Cleared>, Failure> {
    let run = run_id(&run)?;
    let selection = match (body.tasks.is_empty(), body.only_failed) {
        (true, true) => ClearSelection::Failed,
        (true, false) => ClearSelection::WholeRun,
        (false, false) => ClearSelection::Tasks(
            body.tasks
                .iter()
                .map(|task| TaskId::new(task).ok_or_else(|| Failure::missing("task", task)))
                .collect::<Result<_, _>>()?,
        ),
        (false, true) => {
            return Err(
                Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "The body does not fit")
                    .detail("`tasks` and `only_failed` cannot be given together"),
            );
        }
    };
    clear_as(&state, run, selection, body.with_downstream).await
}

pub(super) async fn clear_as(
    state: &WebState,
    run_id: RunId,
    selection: ClearSelection,
    with_downstream: bool,
) -> Result<Json<Cleared>, Failure> {
    let scope = if with_downstream {
        ClearScope::WithDownstream
    } else {
        ClearScope::Only
    };
    let cleared = state
        .store
        .clear(ClearRequest {
            run_id,
            selection,
            scope,
            actor: ACTOR.to_owned(),
        })
        .await?;
    ring(&state.store).await;
    Ok(Json((run_id, cleared).into()))
}
