//! What goes wrong, said once and shown as a page to people and as problem+json to programs.

use askama::Template;
use axum::{
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{Html, IntoResponse, Response},
};
use pinwheel_scheduler::{secrets, store};
use serde::Serialize;
use utoipa::ToSchema;

use crate::pages::Layout;

/// A refused or failed request. Handlers return it; [`present`] gives it the shape that the caller reads.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    status: StatusCode,
    problem: Box<Problem>,
}

/// An error, as RFC 9457 describes it (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The HTTP status.
    #[schema(example = 422)]
    pub(crate) status: u16,
    /// What kind of problem it is.
    #[schema(example = "The params do not fit")]
    pub(crate) title: String,
    /// What is wrong here.
    #[schema(example = "param `min_followers`: expected an integer, found \"many\"")]
    pub(crate) detail: String,
    /// The next step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
    /// The param it is about; the first one when there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) param: Option<String>,
    /// The run that is in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_id: Option<i64>,
    /// Every param that does not fit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) params: Vec<ParamProblem>,
}

/// A param that does not fit.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct ParamProblem {
    /// The param.
    pub(crate) param: String,
    /// What is wrong with it.
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, title: impl Into<String>) -> Self {
        let problem = Box::new(Problem {
            status: status.as_u16(),
            title: title.into(),
            detail: String::new(),
            hint: None,
            param: None,
            run_id: None,
            params: Vec::new(),
        });
        Self { status, problem }
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.problem.detail = detail.into();
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem.hint = Some(hint.into());
        self
    }

    /// Something named in the address does not exist.
    pub(crate) fn missing(what: &str, name: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("No such {what}"))
            .detail(format!("there is no {what} `{name}`"))
    }

    /// Our own fault; the log has the rest.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Something broke inside Pinwheel",
        )
        .detail("the request was not finished; the server's log says why")
    }

    pub(crate) fn problem(&self) -> &Problem {
        &self.problem
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        use store::Error as E;
        if error.is_unavailable() && !error.is_away() {
            tracing::warn!(%error, "the store was too busy to answer a request");
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, "Postgres is busy")
                .detail("Postgres is there, but did not answer this in time")
                .hint(
                    "try again; if it stays so, see what Postgres is doing in `pg_stat_activity`",
                );
        }
        if error.is_away() {
            tracing::warn!(%error, "the store did not answer a request");
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, "Postgres cannot be reached")
                .detail("Pinwheel keeps its state in Postgres, which does not answer; running tasks go on")
                .hint("check that Postgres runs and that `database.url` is right; this is tried again by itself");
        }
        let (status, title) = match &error {
            E::UnknownDag { .. } => (StatusCode::NOT_FOUND, "No such DAG"),
            E::UnknownRun { .. } => (StatusCode::NOT_FOUND, "No such run"),
            E::UnknownTask { .. } => (StatusCode::NOT_FOUND, "No such task"),
            E::UnknownVersion { .. } => (StatusCode::NOT_FOUND, "No such version"),
            E::UnknownPool { .. } => (StatusCode::NOT_FOUND, "No such pool"),
            E::UnknownDataset { .. } => (StatusCode::NOT_FOUND, "No such dataset"),
            E::UnknownWorker { .. } => (StatusCode::NOT_FOUND, "No such worker"),
            E::UnknownBackfill { .. } => (StatusCode::NOT_FOUND, "No such backfill"),
            E::NoSchedule { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "The DAG has no schedule"),
            E::Range(_) => (StatusCode::UNPROCESSABLE_ENTITY, "The range does not fit"),
            E::NothingToBackfill { .. } => (StatusCode::CONFLICT, "Nothing to backfill"),
            E::BackfillIsOpen { .. } => (StatusCode::CONFLICT, "The DAG has a backfill"),
            E::BackfillIsFinal { .. } => (StatusCode::CONFLICT, "The backfill is over"),
            E::UnknownMessage { .. } => (StatusCode::NOT_FOUND, "No such message"),
            E::MessageIsDelivered { .. } => {
                (StatusCode::CONFLICT, "The message has been delivered")
            }
            E::PoolIsDefault | E::PoolIsNamed { .. } | E::PoolIsBusy { .. } => {
                (StatusCode::CONFLICT, "The pool is needed")
            }
            E::RetiredDag { .. } => (StatusCode::CONFLICT, "The DAG's file is gone"),
            E::RunExists { .. } => (StatusCode::CONFLICT, "There is such a run already"),
            E::RunIsFinal { .. } => (StatusCode::CONFLICT, "The run is over"),
            E::TaskIsActive { .. } => (StatusCode::CONFLICT, "The task is still running"),
            E::NothingToClear { .. } => (StatusCode::CONFLICT, "Nothing to clear"),
            E::NothingToMark { .. } => (StatusCode::CONFLICT, "Nothing to mark"),
            E::RunIsQueued { .. } => (StatusCode::CONFLICT, "The run has not begun"),
            E::UnknownInstance { .. } => (StatusCode::NOT_FOUND, "No such task"),
            E::Params(_) => (StatusCode::UNPROCESSABLE_ENTITY, "The params do not fit"),
            E::Definition { .. } | E::Migrate(_) | E::Database(_) => {
                tracing::error!(%error, "the store failed");
                return Self::internal();
            }
        };
        let mut failure = Self::new(status, title).detail(error.to_string());
        failure.problem.hint = error.hint();
        match error {
            E::RunExists { run_id } => failure.problem.run_id = Some(run_id.0),
            E::Params(params) => {
                failure.problem.param = params.first().map(|first| first.param.clone());
                failure.problem.params = params
                    .into_iter()
                    .map(|error| ParamProblem {
                        param: error.param,
                        detail: error.message,
                    })
                    .collect();
            }
            _ => {}
        }
        failure
    }
}

impl From<secrets::Error> for Failure {
    fn from(error: secrets::Error) -> Self {
        use secrets::Error as E;
        let (status, title) = match &error {
            E::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, ""),
            E::Unknown { .. } => (StatusCode::NOT_FOUND, "Not there"),
            E::FromEnvironment { .. } => (StatusCode::CONFLICT, "It comes from the environment"),
            E::Misfit { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "It does not fit"),
            E::NoKey { .. } | E::WrongKey { .. } | E::Tampered { .. } => {
                (StatusCode::CONFLICT, "It cannot be opened")
            }
        };
        if let E::Store(error) = error {
            return error.into();
        }
        let mut failure = Self::new(status, title).detail(error.to_string());
        failure.problem.hint = error.hint();
        failure
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            status,
            problem: Box::new(problem),
        }
    }
}

impl From<askama::Error> for Failure {
    fn from(error: askama::Error) -> Self {
        tracing::error!(%error, "a template cannot be rendered");
        Self::internal()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[derive(Template)]
#[template(path = "failure.html")]
struct FailurePage<'a> {
    layout: Layout,
    problem: &'a Problem,
    refresh: bool,
}

/// Gives every error its body: problem+json under `/api`, a page elsewhere. Errors of the framework (a body that is too
/// large, a path that is not UTF-8) get the same shape as our own.
pub(crate) async fn present(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let wants_json = path == "/api/v1" || path.starts_with("/api/v1/");
    let can_refresh = request.method() == Method::GET;
    let response = next.run(request).await;
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let failure = match response.extensions().get::<Failure>() {
        Some(failure) => failure.clone(),
        None if has_own_shape(&response) => return response,
        None => Failure::new(status, status.canonical_reason().unwrap_or("Error"))
            .detail(reason(status)),
    };
    let mut shaped = if wants_json {
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, axum::Json(failure.problem)).into_response()
    } else {
        let unavailable = status == StatusCode::SERVICE_UNAVAILABLE;
        let page = FailurePage {
            layout: Layout::plain(&failure.problem.title),
            problem: &failure.problem,
            refresh: unavailable && can_refresh,
        };
        match page.render() {
            Ok(html) => (status, Html(html)).into_response(),
            Err(_) => status.into_response(),
        }
    };
    if status == StatusCode::SERVICE_UNAVAILABLE {
        shaped
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    for name in [header::ALLOW, header::LOCATION] {
        if let Some(value) = response.headers().get(&name) {
            shaped.headers_mut().insert(name, value.clone());
        }
    }
    shaped
}

/// A handler that answers an error status with its own page or JSON (a form with mistakes, `/readyz`) keeps it.
fn has_own_shape(response: &Response) -> bool {
    let kind = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    kind.starts_with("text/html") || kind.starts_with("application/json")
}

fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "the body is larger than 1 MiB",
        StatusCode::SERVICE_UNAVAILABLE => "the answer took too long",
        StatusCode::BAD_REQUEST => "the request cannot be read",
        _ => "the request cannot be answered",
    }
}
