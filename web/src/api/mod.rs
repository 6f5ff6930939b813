//! The REST API under `/api/v1`: the same questions and actions as the pages, for programs.

pub(crate) mod backfills;
pub(crate) mod connections;
pub(crate) mod dags;
pub(crate) mod datasets;
pub(crate) mod input;
pub(crate) mod notifications;
pub(crate) mod pools;
pub(crate) mod reports;
pub(crate) mod runs;
pub(crate) mod streams;
pub(crate) mod tasks;
mod types;
pub(crate) mod variables;
pub(crate) mod workers;

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::OpenApi;

use crate::failure::Failure;

/// Who asks, as far as is known without authentication.
const ACTOR: &str = "api";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Pinwheel",
        description = "See and steer DAGs, runs and tasks. Errors are `application/problem+json`. A request that changes something must send `Content-Type: application/json` or the header `X-Pinwheel: 1`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    servers((url = "/")),
    tags(
        (name = "DAGs", description = "What can run"),
        (name = "Runs", description = "What runs and ran"),
        (name = "Backfills", description = "Ranges of logical dates that are run on purpose"),
        (name = "Tasks", description = "The tasks of a run"),
        (name = "Datasets", description = "What tasks update and DAGs wait for"),
        (name = "Reports", description = "What tasks have answered"),
        (name = "Pools", description = "How many tasks run at once"),
        (name = "Connections", description = "How to reach services outside"),
        (name = "Variables", description = "Values that templates read"),
        (name = "Streams", description = "Topics that are cleaned and counted as they come"),
        (name = "Workers", description = "What runs them"),
        (name = "Notifications", description = "What people are told"),
    ),
    paths(
        dags::list, dags::show, dags::next, dags::trigger, dags::pause, dags::unpause,
        runs::list, runs::show, runs::cancel, runs::clear, runs::mark, runs::notes, runs::set_note,
        backfills::list, backfills::show, backfills::dates, backfills::create, backfills::dry_run, backfills::pause,
        backfills::resume, backfills::cancel,
        tasks::list, tasks::show, tasks::clear, tasks::retry, tasks::why, tasks::set_note, tasks::log, tasks::output, tasks::rendered,
        datasets::list, datasets::events, datasets::push, datasets::of_run,
        reports::list, reports::runs,
        pools::list, pools::show, pools::set, pools::delete,
        connections::list, connections::show, connections::set, connections::delete, connections::test,
        variables::list, variables::show, variables::set, variables::delete,
        streams::list,
        workers::list, workers::show,
        notifications::list, notifications::retry, notifications::deadlines,
    ),
)]
struct Document;

/// The OpenAPI document.
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// `GET /api/v1/openapi.json`
pub(crate) async fn openapi() -> Result<Response, Failure> {
    let text = document().to_pretty_json().map_err(|error| {
        tracing::error!(%error, "the OpenAPI document cannot be written");
        Failure::internal()
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}
