//! `/api/v1/workers`

use axum::{
    Json,
    extract::{Path, State},
};
use pinwheel_scheduler::{model::WorkerId, store::WorkerScope};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    input::Asked,
    types::{RunningTask, UnservedQueue, Worker, WorkerDetail, Workers},
};
use crate::{
    WebState,
    failure::{Failure, Problem},
};

/// Which processes to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Also those that were lost or ended more than an hour ago; 500 at most.
    #[serde(default)]
    all: bool,
}

/// Workers and schedulers
///
/// Those that live first; with the lost and the ended ones of the last hour, and the queues that no worker serves.
#[utoipa::path(
    get, path = "/api/v1/workers", tag = "Workers", params(Filter),
    responses(
        (status = 200, description = "The processes", body = Workers),
        (status = 400, description = "The query does not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(state): State<WebState>,
    Asked(asked): Asked<Filter>,
) -> Result<Json<Workers>, Failure> {
    let scope = if asked.all {
        WorkerScope::All
    } else {
        WorkerScope::Recent
    };
    let workers = state.store.processes(scope).await?;
    let unserved = state.store.unserved_queues().await?;
    Ok(Json(Workers {
        workers: workers.into_iter().map(Worker::from).collect(),
        unserved_queues: unserved.into_iter().map(UnservedQueue::from).collect(),
    }))
}

/// One worker or scheduler
///
/// With what it runs.
#[utoipa::path(
    get, path = "/api/v1/workers/{worker}", tag = "Workers",
    params(("worker" = i64, Path, description = "The process's number")),
    responses(
        (status = 200, description = "The process", body = WorkerDetail),
        (status = 404, description = "No such process", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(state): State<WebState>,
    Path(worker): Path<String>,
) -> Result<Json<WorkerDetail>, Failure> {
    let id: WorkerId = worker
        .parse()
        .map_err(|_| Failure::missing("worker", &worker))?;
    let row = state.store.process(id).await?;
    let executions = state.store.executions_of(id).await?;
    Ok(Json(WorkerDetail {
        worker: row.into(),
        executions: executions.into_iter().map(RunningTask::from).collect(),
    }))
}
