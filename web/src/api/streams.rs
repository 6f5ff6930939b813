//! `/api/v1/streams`

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{Stream, WebState, failure::Failure, pages::streams::read};

/// All streams.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamList {
    streams: Vec<Stream>,
}

/// Streams
///
/// Workers, partitions with lag and watermark, counts of late and dead events, and the newest windows of each.
#[utoipa::path(
    get, path = "/api/v1/streams", tag = "Streams",
    responses((status = 200, description = "The streams that ever ran on this database", body = StreamList))
)]
pub(crate) async fn list(State(state): State<WebState>) -> Result<Json<StreamList>, Failure> {
    let streams = read(&state).await?;
    Ok(Json(StreamList { streams }))
}
