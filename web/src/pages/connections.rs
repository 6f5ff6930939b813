//! Connections: where they lead, a form that sets them, and a button that tries them. Secrets go in and never out.

use askama::Template;
use axum::{
    extract::{Form, Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use pinwheel_scheduler::{
    model::ConnectionId,
    secrets::{Connection, ShownConnection},
};
use serde::Deserialize;
use serde_json::Map;

use super::{Layout, actions::ACTOR, render_with};
use crate::{
    WebState,
    api::connections::tested,
    failure::{Failure, Problem},
    format::connection_place,
};

/// What the address may ask for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    /// The connection that the form is about.
    #[serde(default)]
    connection: String,
    done: Option<String>,
}

/// What a person typed into the form. What is secret is never written back into it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Typed {
    connection: String,
    #[serde(rename = "type")]
    connection_type: String,
    host: String,
    port: String,
    login: String,
    /// Empty leaves it as it is.
    password: String,
    schema: String,
    /// A JSON object; empty leaves it as it is.
    extra: String,
    description: String,
    #[serde(skip)]
    problem: Option<Problem>,
}

/// What a test found, shown above the list.
struct Tested {
    connection: String,
    ok: bool,
    message: String,
}

#[derive(Template)]
#[template(path = "connections.html")]
struct ConnectionsPage {
    layout: Layout,
    lines: Vec<Line>,
    typed: Typed,
    /// The form is about a connection that is there.
    known: bool,
    /// It is in the database.
    stored: bool,
    /// The names in `extra` that it has.
    extra_names: String,
    has_password: bool,
    tested: Option<Tested>,
    testable: bool,
}

struct Line {
    connection: String,
    connection_type: String,
    description: String,
    place: String,
    login: String,
    secrets: &'static str,
    source: &'static str,
    problem: String,
}

impl From<&ShownConnection> for Line {
    fn from(shown: &ShownConnection) -> Self {
        Self {
            connection: shown.connection_id.clone(),
            connection_type: shown.connection_type.clone(),
            description: shown.description.clone(),
            place: connection_place(shown),
            login: shown.login.clone().unwrap_or_default(),
            secrets: if shown.has_password { "***" } else { "" },
            source: shown.source.words(),
            problem: shown.problem.clone().unwrap_or_default(),
        }
    }
}

/// `GET /connections`
pub(crate) async fn page(
    State(state): State<WebState>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let all = state.vault.connections().await?;
    let mut typed = Typed {
        connection: wanted.connection,
        ..Typed::default()
    };
    if let Some(shown) = all
        .iter()
        .find(|shown| shown.connection_id == typed.connection)
    {
        typed.connection_type.clone_from(&shown.connection_type);
        typed.host = shown.host.clone().unwrap_or_default();
        typed.port = shown.port.map(|port| port.to_string()).unwrap_or_default();
        typed.login = shown.login.clone().unwrap_or_default();
        typed.schema = shown.schema.clone().unwrap_or_default();
        typed.description.clone_from(&shown.description);
    }
    show(&state, &all, typed, None, wanted.done.as_deref())
}

/// `POST /connections`
pub(crate) async fn set(
    State(state): State<WebState>,
    Form(mut typed): Form<Typed>,
) -> Result<Response, Failure> {
    let refusal = match keep(&state, &typed).await {
        Ok(()) => return Ok(Redirect::to("/connections?done=set").into_response()),
        Err(refusal) if refusal.status().is_server_error() => return Err(refusal),
        Err(refusal) => refusal,
    };
    typed.problem = Some(refusal.problem().clone());
    show(&state, &state.vault.connections().await?, typed, None, None)
}

async fn keep(state: &WebState, typed: &Typed) -> Result<(), Failure> {
    let id = new_connection_id(typed.connection.trim())?;
    let before = state.vault.stored_connection(&id).await?;
    let before = before.map(|stored| stored.value).unwrap_or_default();
    let text = |typed: &str| Some(typed.trim().to_owned()).filter(|text| !text.is_empty());
    let port = match typed.port.trim() {
        "" => None,
        port => Some(
            port.parse()
                .map_err(|_| misfit("the port is a number up to 65535"))?,
        ),
    };
    let extra = match typed.extra.trim() {
        "" => before.extra,
        extra => serde_json::from_str::<Map<_, _>>(extra)
            .map_err(|_| misfit("`extra` is not a JSON object"))?,
    };
    let password = Some(typed.password.clone()).filter(|password| !password.is_empty());
    let connection = Connection {
        connection_type: typed.connection_type.trim().to_owned(),
        host: text(&typed.host),
        port,
        login: text(&typed.login),
        password: password.or(before.password),
        schema: text(&typed.schema),
        extra,
    };
    let description = Some(typed.description.trim());
    state
        .vault
        .set_connection(&id, connection, description, ACTOR)
        .await?;
    Ok(())
}

/// `POST /connections/{connection}/delete`
pub(crate) async fn delete(
    State(state): State<WebState>,
    Path(connection): Path<String>,
) -> Result<Redirect, Failure> {
    let id = connection_id(&connection)?;
    state.vault.delete_connection(&id, ACTOR).await?;
    Ok(Redirect::to("/connections?done=deleted"))
}

/// `POST /connections/{connection}/test`
pub(crate) async fn test(
    State(state): State<WebState>,
    Path(connection): Path<String>,
) -> Result<Response, Failure> {
    let id = connection_id(&connection)?;
    let found = state.vault.connection(id.as_str()).await?;
    let answer = tested(&state, &found).await?;
    let tested = Tested {
        connection: id.to_string(),
        ok: answer.ok,
        message: answer.message,
    };
    let all = state.vault.connections().await?;
    show(&state, &all, Typed::default(), Some(tested), None)
}

/// Reads an id out of an address; what cannot be one names nothing that exists.
pub(crate) fn connection_id(text: &str) -> Result<ConnectionId, Failure> {
    ConnectionId::new(text).ok_or_else(|| Failure::missing("connection", text))
}

/// Reads the id of a connection that may be new.
pub(crate) fn new_connection_id(text: &str) -> Result<ConnectionId, Failure> {
    ConnectionId::new(text).ok_or_else(|| {
        misfit(format!(
            "`{text}` is no id for a connection: it takes 1 to 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two"
        ))
    })
}

/// The connection of that id as it may be shown.
pub(crate) async fn find(state: &WebState, id: &ConnectionId) -> Result<ShownConnection, Failure> {
    let all = state.vault.connections().await?;
    match all
        .into_iter()
        .find(|shown| shown.connection_id == id.as_str())
    {
        Some(shown) => Ok(shown),
        // Asked for by name, so that the nearest one is said.
        None => Err(match state.vault.connection(id.as_str()).await {
            Err(error) => error.into(),
            Ok(_) => Failure::missing("connection", id),
        }),
    }
}

fn misfit(detail: impl Into<String>) -> Failure {
    Failure::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "The connection does not fit",
    )
    .detail(detail)
}

fn show(
    state: &WebState,
    all: &[ShownConnection],
    typed: Typed,
    tested: Option<Tested>,
    done: Option<&str>,
) -> Result<Response, Failure> {
    let chosen = all
        .iter()
        .find(|shown| shown.connection_id == typed.connection);
    let status = typed.problem.as_ref().map_or(StatusCode::OK, |problem| {
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY)
    });
    let page = ConnectionsPage {
        layout: Layout::new("admin", "Connections").done(done),
        lines: all.iter().map(Line::from).collect(),
        known: chosen.is_some(),
        stored: chosen.is_some_and(|shown| shown.updated_at.is_some()),
        extra_names: chosen
            .map(|shown| shown.extra.join(", "))
            .unwrap_or_default(),
        has_password: chosen.is_some_and(|shown| shown.has_password),
        testable: state.connection_test.is_some(),
        tested,
        typed,
    };
    render_with(status, &page)
}
