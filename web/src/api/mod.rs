//! The REST API under `/api/v1`: the same questions and actions as the pages, for programs.

pub(crate) mod dags;
pub(crate) mod input;
pub(crate) mod pools;
pub(crate) mod runs;
pub(crate) mod tasks;
mod types;
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
        (name = "Tasks", description = "The tasks of a run"),
        (name = "Pools", description = "How many tasks run at once"),
        (name = "Workers", description = "What runs them"),
    ),
    paths(
        dags::list, dags::show, dags::trigger, dags::pause, dags::unpause,
        runs::list, runs::show, runs::cancel, runs::clear, runs::mark, runs::notes, runs::set_note,
        tasks::list, tasks::show, tasks::clear, tasks::retry, tasks::why, tasks::set_note, tasks::log, tasks::output, tasks::rendered,
        pools::list, pools::show, pools::set, pools::delete,
        workers::list, workers::show,
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
