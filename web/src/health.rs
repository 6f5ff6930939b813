//! `/healthz`, `/readyz` and `/metrics`: what machines ask.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::future::join_all;
use prometheus::{TextEncoder, proto::MetricFamily};
use serde::Serialize;

use crate::{Gather, WebState, metrics};

/// A dependency may take so long to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something this process needs, asked by `/readyz`.
#[async_trait]
pub trait Check: Send + Sync {
    /// What it is called in the answer, such as `kafka`.
    fn name(&self) -> &str;

    /// Whether it can be reached.
    ///
    /// # Errors
    /// What went wrong, in words that hold no secret.
    async fn check(&self) -> Result<(), String>;
}

/// The answer of `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    ready: bool,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Serialize)]
struct Dependency {
    name: String,
    reachable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Says that the process is alive; asks nothing.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Says which dependencies can be reached: 200 when all can, 503 otherwise.
pub(crate) async fn readyz(State(state): State<WebState>) -> Response {
    let postgres = async {
        let answer = tokio::time::timeout(PATIENCE, state.store.ping()).await;
        dependency(
            "postgres",
            answer.map(|result| result.map_err(|error| error.to_string())),
        )
    };
    let others = join_all(state.checks.iter().map(|check: &Arc<dyn Check>| async {
        dependency(
            check.name(),
            tokio::time::timeout(PATIENCE, check.check()).await,
        )
    }));
    let (postgres, others) = tokio::join!(postgres, others);
    let dependencies: Vec<_> = std::iter::once(postgres).chain(others).collect();
    let ready = dependencies.iter().all(|dependency| dependency.reachable);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(Readiness {
            ready,
            dependencies,
        }),
    )
        .into_response()
}

fn dependency(
    name: &str,
    answer: Result<Result<(), String>, tokio::time::error::Elapsed>,
) -> Dependency {
    let problem = match answer {
        Ok(Ok(())) => None,
        Ok(Err(problem)) => Some(problem),
        Err(_) => Some(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    Dependency {
        name: name.to_owned(),
        reachable: problem.is_none(),
        problem,
    }
}

/// Prometheus' text format: the web role's own metrics, those it was given, and those of the whole installation, which it
/// asks the store for. Without Postgres the last are left out.
pub(crate) async fn metrics(State(state): State<WebState>) -> Response {
    let mut families = state.metrics.gather();
    families.extend(gathered(&state.gather));
    match tokio::time::timeout(PATIENCE, state.store.gauges()).await {
        Ok(Ok(gauges)) => families.extend(metrics::of_the_installation(&gauges)),
        Ok(Err(error)) => tracing::debug!(%error, "the store told no gauges"),
        Err(_) => tracing::debug!("the store told no gauges in time"),
    }
    as_text(&families)
}

/// The metrics of the parts of a process.
pub(crate) fn gathered(parts: &[Gather]) -> Vec<MetricFamily> {
    parts.iter().flat_map(|gather| gather()).collect()
}

/// Metrics as Prometheus reads them.
pub(crate) fn as_text(families: &[MetricFamily]) -> Response {
    match TextEncoder::new().encode_to_string(families) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written as text");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
