//! `/api/v1/notifications`

use axum::{
    Json,
    extract::{Path, State},
};
use pinwheel_scheduler::{model::MessageId, store::MessageFilter};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    ACTOR,
    input::{Asked, page_size},
    types::{Deadline, Deadlines, Message, Notifications},
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    pages::{actions::ring, dag_id, find_run, run_id},
};

/// Which messages to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only of this DAG.
    dag: Option<String>,
    /// Only those that could not be delivered yet.
    #[serde(default)]
    failing: bool,
    /// Only messages before this one: `next_before` of the page before.
    before: Option<i64>,
    /// At most so many, 1 to 200.
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// Channels, and messages, newest first
///
/// With what became of each. A channel is what the settings of a scheduler describe.
#[utoipa::path(
    get, path = "/api/v1/notifications", tag = "Notifications", params(Filter),
    responses(
        (status = 200, description = "The channels and a page of messages", body = Notifications),
        (status = 400, description = "The query does not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(state): State<WebState>,
    Asked(asked): Asked<Filter>,
) -> Result<Json<Notifications>, Failure> {
    let limit = page_size(asked.limit, 50, 200)?;
    let filter = MessageFilter {
        dag_id: asked.dag.as_deref().map(dag_id).transpose()?,
        before: asked.before.map(MessageId),
        undelivered: asked.failing,
        limit,
    };
    let messages = state.store.messages(&filter).await?;
    let next_before = messages
        .last()
        .filter(|_| messages.len() as i64 == limit)
        .map(|last| last.message_id.0);
    Ok(Json(Notifications {
        channels: state
            .store
            .channels()
            .await?
            .into_iter()
            .map(Into::into)
            .collect(),
        messages: messages.into_iter().map(Into::into).collect(),
        next_before,
    }))
}

/// Send a message again
///
/// One that did not arrive, for another day.
#[utoipa::path(
    post, path = "/api/v1/notifications/{message}/retry", tag = "Notifications",
    params(("message" = i64, Path, description = "The message's number")),
    responses(
        (status = 200, description = "It goes out again", body = Message),
        (status = 404, description = "No such message", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It has been delivered", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn retry(
    State(state): State<WebState>,
    Path(message): Path<String>,
) -> Result<Json<Message>, Failure> {
    let id = message
        .parse()
        .map_err(|_| Failure::missing("message", &message))?;
    let message = state.store.retry_message(id, ACTOR).await?;
    ring(&state.store).await;
    Ok(Json(message.into()))
}

/// The deadlines of a run
#[utoipa::path(
    get, path = "/api/v1/runs/{run}/deadlines", tag = "Runs",
    params(("run" = i64, Path, description = "The run's number")),
    responses(
        (status = 200, description = "Its deadlines, by time", body = Deadlines),
        (status = 404, description = "No such run", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn deadlines(
    State(state): State<WebState>,
    Path(run): Path<String>,
) -> Result<Json<Deadlines>, Failure> {
    let run = find_run(&state, run_id(&run)?).await?;
    let deadlines = state.store.run_deadlines(run.run_id).await?;
    Ok(Json(Deadlines {
        deadlines: deadlines.into_iter().map(Deadline::from).collect(),
    }))
}
