//! Every answer of the ingest API that has a body, in one shape: `{"detail": …}` for what went wrong.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{
    Shared, Wrong,
    publisher::{Place, Refused},
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How long a client should wait before it posts again, in seconds.
const RETRY_BUSY: &str = "1";
const RETRY_AWAY: &str = "2";

/// `topic` is the topic's name as JSON.
pub(super) fn accepted(topic: &str, place: Place) -> Response {
    let Place { partition, offset } = place;
    let body = format!(r#"{{"topic":{topic},"partition":{partition},"offset":{offset}}}"#);
    ([(header::CONTENT_TYPE, JSON)], body).into_response()
}

pub(super) fn invalid(wrong: &[Wrong]) -> Response {
    (
        StatusCode::UNPROCESSABLE_ENTITY,
        Json(json!({"detail": wrong})),
    )
        .into_response()
}

pub(super) fn detail(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"detail": message}))).into_response()
}

pub(super) fn foreign() -> Response {
    detail(
        StatusCode::FORBIDDEN,
        "Posts from pages of other sites are refused",
    )
}

pub(super) fn too_large(limit: usize) -> Response {
    detail(
        StatusCode::PAYLOAD_TOO_LARGE,
        &format!("The body is larger than {limit} bytes"),
    )
}

pub(super) fn too_many(limit: usize, found: usize) -> Response {
    detail(
        StatusCode::PAYLOAD_TOO_LARGE,
        &format!("A batch has at most {limit} pins, this one has {found}"),
    )
}

pub(super) fn unavailable(reason: &str) -> Response {
    let body = Json(json!({"detail": format!("Kafka does not acknowledge: {reason}")}));
    (
        StatusCode::SERVICE_UNAVAILABLE,
        [(header::RETRY_AFTER, RETRY_AWAY)],
        body,
    )
        .into_response()
}

pub(super) fn busy(shared: &Shared, posts: u64) -> Response {
    shared
        .metrics
        .posts
        .with_label_values(&["busy"])
        .inc_by(posts);
    let body = Json(json!({"detail": "Too many posts are waiting for Kafka, try again"}));
    (
        StatusCode::TOO_MANY_REQUESTS,
        [(header::RETRY_AFTER, RETRY_BUSY)],
        body,
    )
        .into_response()
}

pub(super) fn refused(shared: &Shared, refused: &Refused) -> Response {
    match refused {
        Refused::Away { reason } => {
            shared
                .metrics
                .posts
                .with_label_values(&["unavailable"])
                .inc();
            unavailable(reason)
        }
        Refused::Full => busy(shared, 1),
    }
}
