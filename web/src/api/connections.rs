//! `/api/v1/connections`

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use pinwheel_scheduler::{
    secrets::{self, Masks},
    store::Kept,
};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    ACTOR,
    input::Body,
    types::{Connection, ConnectionTested, Connections},
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    pages::connections::{connection_id, find, new_connection_id},
};

/// All connections
///
/// Without their secrets. The environment of the process that answers wins over the database, as it does for tasks.
#[utoipa::path(get, path = "/api/v1/connections", tag = "Connections", responses((status = 200, description = "The connections", body = Connections)))]
pub(crate) async fn list(State(state): State<WebState>) -> Result<Json<Connections>, Failure> {
    let connections = state.vault.connections().await?;
    Ok(Json(Connections {
        connections: connections.into_iter().map(Connection::from).collect(),
    }))
}

/// One connection
#[utoipa::path(
    get, path = "/api/v1/connections/{connection}", tag = "Connections",
    params(("connection" = String, Path, description = "The connection's id")),
    responses(
        (status = 200, description = "The connection", body = Connection),
        (status = 404, description = "No such connection", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(state): State<WebState>,
    Path(connection): Path<String>,
) -> Result<Json<Connection>, Failure> {
    let id = connection_id(&connection)?;
    Ok(Json(find(&state, &id).await?.into()))
}

/// What a connection is from now on. What is left out stays as it is, null takes it away.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SetConnection {
    /// The whole connection as `type://login:password@host:port/schema?name=value`; the others are laid over it.
    #[schema(example = "postgres://ada:s3cret@db.example.com:5432/sales")]
    uri: Option<String>,
    /// Required for a new connection, unless `uri` is given.
    #[serde(rename = "type")]
    connection_type: Option<String>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    host: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<u16>)]
    port: Option<Option<u16>>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    login: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    password: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    schema: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Object>)]
    extra: Option<Option<Map<String, Value>>>,
    #[schema(max_length = 200)]
    description: Option<String>,
}

/// Tells null from what is left out.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Make or change a connection
///
/// It is kept sealed. Tasks that start from then on read it.
#[utoipa::path(
    put, path = "/api/v1/connections/{connection}", tag = "Connections",
    params(("connection" = String, Path, description = "The connection's id")),
    request_body = SetConnection,
    responses(
        (status = 200, description = "The connection was changed", body = Connection),
        (status = 201, description = "The connection was made", body = Connection),
        (status = 409, description = "This process has no key, or not the right one", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Something does not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set(
    State(state): State<WebState>,
    Path(connection): Path<String>,
    Body(body): Body<SetConnection>,
) -> Result<(StatusCode, Json<Connection>), Failure> {
    let id = new_connection_id(&connection)?;
    let mut connection = match &body.uri {
        Some(uri) => secrets::Connection::parse(uri).map_err(|error| secrets::Error::Misfit {
            message: error.message,
            hint: error.hint,
        })?,
        None => state
            .vault
            .stored_connection(&id)
            .await?
            .map(|stored| stored.value)
            .unwrap_or_default(),
    };
    if let Some(connection_type) = body.connection_type {
        connection.connection_type = connection_type;
    }
    connection.host = body.host.unwrap_or(connection.host);
    connection.port = body.port.unwrap_or(connection.port);
    connection.login = body.login.unwrap_or(connection.login);
    connection.password = body.password.unwrap_or(connection.password);
    connection.schema = body.schema.unwrap_or(connection.schema);
    if let Some(extra) = body.extra {
        connection.extra = extra.unwrap_or_default();
    }
    let description = body.description.as_deref();
    let kept = state
        .vault
        .set_connection(&id, connection, description, ACTOR)
        .await?;
    let status = match kept {
        Kept::Created => StatusCode::CREATED,
        Kept::Changed => StatusCode::OK,
    };
    Ok((status, Json(find(&state, &id).await?.into())))
}

/// Delete a connection
#[utoipa::path(
    delete, path = "/api/v1/connections/{connection}", tag = "Connections",
    params(("connection" = String, Path, description = "The connection's id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "No such connection", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It comes from the environment", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(
    State(state): State<WebState>,
    Path(connection): Path<String>,
) -> Result<StatusCode, Failure> {
    let id = connection_id(&connection)?;
    state.vault.delete_connection(&id, ACTOR).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Test a connection
///
/// Postgres: connects and selects 1. http and https: a HEAD. s3: lists. smtp: EHLO. Any other type: a TCP connection.
#[utoipa::path(
    post, path = "/api/v1/connections/{connection}/test", tag = "Connections",
    params(("connection" = String, Path, description = "The connection's id")),
    responses(
        (status = 200, description = "What answered, or why it does not work", body = ConnectionTested),
        (status = 404, description = "No such connection", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn test(
    State(state): State<WebState>,
    Path(connection): Path<String>,
) -> Result<Json<ConnectionTested>, Failure> {
    let id = connection_id(&connection)?;
    let connection = state.vault.connection(id.as_str()).await?;
    Ok(Json(tested(&state, &connection).await?))
}

/// Tests a connection; what is said about it holds none of its secrets.
pub(crate) async fn tested(
    state: &WebState,
    connection: &secrets::Connection,
) -> Result<ConnectionTested, Failure> {
    let Some(test) = &state.connection_test else {
        return Err(Failure::new(
            StatusCode::NOT_IMPLEMENTED,
            "Connections cannot be tested here",
        )
        .detail("this process has no clients for them"));
    };
    let masks = Masks::default();
    for (whose, secret) in connection.secrets() {
        masks.add(&whose, &secret);
    }
    let answer = test.test(connection).await;
    Ok(ConnectionTested {
        ok: answer.is_ok(),
        message: match answer {
            Ok(message) | Err(message) => masks.text(&message).into_owned(),
        },
    })
}
