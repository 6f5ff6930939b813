//! Variables: their values, unless they are secret, and the form that sets them.

use askama::Template;
use axum::{
    extract::{Form, Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use pinwheel_scheduler::{
    model::VariableName,
    secrets::{Secrecy, ShownVariable, Variable, names_a_secret},
};
use serde::Deserialize;
use serde_json::Value;

use super::{Layout, actions::ACTOR, render_with};
use crate::{
    WebState,
    failure::{Failure, Problem},
};

/// What the address may ask for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    /// The variable that the form is about.
    #[serde(default)]
    variable: String,
    done: Option<String>,
}

/// What a person typed into the form. A secret value is never written back into it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Typed {
    variable: String,
    /// Left empty, a secret that is there stays as it is.
    value: String,
    as_json: Option<String>,
    secret: Option<String>,
    /// The form was about a variable that is there, and showed whether it is secret.
    known: Option<String>,
    description: String,
    #[serde(skip)]
    problem: Option<Problem>,
}

#[derive(Template)]
#[template(path = "variables.html")]
struct VariablesPage {
    layout: Layout,
    lines: Vec<Line>,
    typed: Typed,
    /// The form is about a variable that is there.
    known: bool,
    /// It is in the database.
    stored: bool,
}

struct Line {
    variable: String,
    description: String,
    value: String,
    secret: bool,
    source: &'static str,
    problem: String,
}

impl From<&ShownVariable> for Line {
    fn from(shown: &ShownVariable) -> Self {
        Self {
            variable: shown.name.clone(),
            description: shown.description.clone(),
            value: shown.value.as_ref().map(text).unwrap_or_default(),
            secret: shown.secret,
            source: shown.source.words(),
            problem: shown.problem.clone().unwrap_or_default(),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

/// `GET /variables`
pub(crate) async fn page(
    State(state): State<WebState>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let all = state.vault.variables().await?;
    let mut typed = Typed {
        variable: wanted.variable,
        ..Typed::default()
    };
    if let Some(shown) = all.iter().find(|shown| shown.name == typed.variable) {
        typed.value = shown.value.as_ref().map(text).unwrap_or_default();
        let is_text = matches!(shown.value, None | Some(Value::String(_)));
        typed.as_json = (!is_text).then(String::new);
        typed.secret = shown.secret.then(String::new);
        typed.description.clone_from(&shown.description);
    }
    show(&all, typed, wanted.done.as_deref())
}

/// `POST /variables`
pub(crate) async fn set(
    State(state): State<WebState>,
    Form(mut typed): Form<Typed>,
) -> Result<Response, Failure> {
    let all = state.vault.variables().await?;
    let secrecy = secrecy(&typed, &all);
    let refusal = match keep(&state, &typed, &all, secrecy).await {
        Ok(()) => return Ok(Redirect::to("/variables?done=set").into_response()),
        Err(refusal) if refusal.status().is_server_error() => return Err(refusal),
        Err(refusal) => refusal,
    };
    typed.problem = Some(refusal.problem().clone());
    if secrecy.is_secret() {
        // The form says so when it is sent again.
        typed.secret = Some(String::new());
        typed.value.clear();
    }
    show(&all, typed, None)
}

/// As on the command line: one that is there stays as secret as it is, unless the form showed the box and it was emptied; a new
/// one is secret if its name speaks of a secret.
fn secrecy(typed: &Typed, all: &[ShownVariable]) -> Secrecy {
    let is_secret = match (&typed.secret, before(typed, all)) {
        (Some(_), _) => true,
        (None, Some(before)) => before.secret && typed.known.is_none(),
        (None, None) => names_a_secret(typed.variable.trim()),
    };
    if is_secret {
        Secrecy::Secret
    } else {
        Secrecy::Shown
    }
}

/// The variable as it is before the form is obeyed.
fn before<'a>(typed: &Typed, all: &'a [ShownVariable]) -> Option<&'a ShownVariable> {
    let name = typed.variable.trim();
    all.iter().find(|shown| shown.name == name)
}

async fn keep(
    state: &WebState,
    typed: &Typed,
    all: &[ShownVariable],
    secrecy: Secrecy,
) -> Result<(), Failure> {
    let name = new_variable_name(typed.variable.trim())?;
    let was_secret = before(typed, all).is_some_and(|before| before.secret);
    if was_secret && !secrecy.is_secret() && typed.value.is_empty() {
        return Err(shown_without_a_value());
    }
    // Browsers send line ends as CR LF.
    let typed_value = typed.value.replace("\r\n", "\n");
    let stays = if typed_value.is_empty() && secrecy.is_secret() {
        state.vault.stored_variable(&name).await?
    } else {
        None
    };
    let value = match (stays, &typed.as_json) {
        (Some(stored), _) => stored.value.value,
        (None, None) => Value::from(typed_value),
        (None, Some(_)) => {
            serde_json::from_str(&typed_value).map_err(|_| misfit("the value is no JSON"))?
        }
    };
    let variable = Variable { value, secrecy };
    let description = Some(typed.description.trim());
    state
        .vault
        .set_variable(&name, &variable, description, ACTOR)
        .await?;
    Ok(())
}

/// `POST /variables/{variable}/delete`
pub(crate) async fn delete(
    State(state): State<WebState>,
    Path(variable): Path<String>,
) -> Result<Redirect, Failure> {
    let name = variable_name(&variable)?;
    state.vault.delete_variable(&name, ACTOR).await?;
    Ok(Redirect::to("/variables?done=deleted"))
}

/// Reads a name out of an address; what cannot be one names nothing that exists.
pub(crate) fn variable_name(text: &str) -> Result<VariableName, Failure> {
    VariableName::new(text).ok_or_else(|| Failure::missing("variable", text))
}

/// Reads the name of a variable that may be new.
pub(crate) fn new_variable_name(text: &str) -> Result<VariableName, Failure> {
    VariableName::new(text).ok_or_else(|| {
        misfit(format!(
            "`{text}` is no name for a variable: it takes 1 to 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two"
        ))
    })
}

/// The variable of that name as it may be shown.
pub(crate) async fn find(state: &WebState, name: &VariableName) -> Result<ShownVariable, Failure> {
    let all = state.vault.variables().await?;
    match all.into_iter().find(|shown| shown.name == name.as_str()) {
        Some(shown) => Ok(shown),
        // Asked for by name, so that the nearest one is said.
        None => Err(match state.vault.variable(name.as_str()).await {
            Err(error) => error.into(),
            Ok(_) => Failure::missing("variable", name),
        }),
    }
}

/// Refuses to show what was kept as a secret.
pub(crate) fn shown_without_a_value() -> Failure {
    misfit("a secret variable is shown only with a new `value`")
}

/// Refuses what does not fit.
pub(crate) fn misfit(detail: impl Into<String>) -> Failure {
    Failure::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "The variable does not fit",
    )
    .detail(detail)
}

fn show(all: &[ShownVariable], typed: Typed, done: Option<&str>) -> Result<Response, Failure> {
    let chosen = all.iter().find(|shown| shown.name == typed.variable);
    let status = typed.problem.as_ref().map_or(StatusCode::OK, |problem| {
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY)
    });
    let page = VariablesPage {
        layout: Layout::new("admin", "Variables").done(done),
        lines: all.iter().map(Line::from).collect(),
        known: chosen.is_some(),
        stored: chosen.is_some_and(|shown| shown.updated_at.is_some()),
        typed,
    };
    render_with(status, &page)
}
