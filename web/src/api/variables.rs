//! `/api/v1/variables`

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use pinwheel_scheduler::{
    secrets::{self, Secrecy, names_a_secret},
    store::Kept,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    ACTOR,
    input::Body,
    types::{Variable, Variables},
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    pages::variables::{find, misfit, new_variable_name, shown_without_a_value, variable_name},
};

/// All variables
///
/// The values of secret ones are null. The environment of the process that answers wins over the database, as it does for
/// tasks.
#[utoipa::path(get, path = "/api/v1/variables", tag = "Variables", responses((status = 200, description = "The variables", body = Variables)))]
pub(crate) async fn list(State(state): State<WebState>) -> Result<Json<Variables>, Failure> {
    let variables = state.vault.variables().await?;
    Ok(Json(Variables {
        variables: variables.into_iter().map(Variable::from).collect(),
    }))
}

/// One variable
#[utoipa::path(
    get, path = "/api/v1/variables/{variable}", tag = "Variables",
    params(("variable" = String, Path, description = "The variable's name")),
    responses(
        (status = 200, description = "The variable", body = Variable),
        (status = 404, description = "No such variable", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(state): State<WebState>,
    Path(variable): Path<String>,
) -> Result<Json<Variable>, Failure> {
    let name = variable_name(&variable)?;
    Ok(Json(find(&state, &name).await?.into()))
}

/// What a variable is from now on. What is left out stays as it is.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SetVariable {
    /// Text or any JSON; required for a new one.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Value>)]
    value: Option<Value>,
    /// Never show its value. A new one whose name speaks of a secret is one unless this is false. What is secret is shown
    /// only with a new `value`.
    secret: Option<bool>,
    #[schema(max_length = 200)]
    description: Option<String>,
}

/// Null is a value, too.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Make or change a variable
///
/// It is kept sealed. Tasks that start from then on read it.
#[utoipa::path(
    put, path = "/api/v1/variables/{variable}", tag = "Variables",
    params(("variable" = String, Path, description = "The variable's name")),
    request_body = SetVariable,
    responses(
        (status = 200, description = "The variable was changed", body = Variable),
        (status = 201, description = "The variable was made", body = Variable),
        (status = 409, description = "This process has no key, or not the right one", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Something does not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set(
    State(state): State<WebState>,
    Path(variable): Path<String>,
    Body(body): Body<SetVariable>,
) -> Result<(StatusCode, Json<Variable>), Failure> {
    let name = new_variable_name(&variable)?;
    let before = match (&body.value, body.secret) {
        // Nothing of the old one stays, so it need not be opened.
        (Some(_), Some(_)) => None,
        (Some(_), None) | (None, _) => state.vault.stored_variable(&name).await?,
    };
    let before = before.map(|stored| stored.value);
    let was_secret = before
        .as_ref()
        .is_some_and(|before| before.secrecy.is_secret());
    if was_secret && body.secret == Some(false) && body.value.is_none() {
        return Err(shown_without_a_value());
    }
    let secrecy = match (body.secret, &before) {
        (Some(true), _) => Secrecy::Secret,
        (Some(false), _) => Secrecy::Shown,
        (None, Some(before)) => before.secrecy,
        (None, None) if names_a_secret(name.as_str()) => Secrecy::Secret,
        (None, None) => Secrecy::Shown,
    };
    let value = match body.value.or(before.map(|before| before.value)) {
        Some(value) => value,
        None => return Err(misfit("`value` is missing: the variable is new")),
    };
    let variable = secrets::Variable { value, secrecy };
    let description = body.description.as_deref();
    let kept = state
        .vault
        .set_variable(&name, &variable, description, ACTOR)
        .await?;
    let status = match kept {
        Kept::Created => StatusCode::CREATED,
        Kept::Changed => StatusCode::OK,
    };
    Ok((status, Json(find(&state, &name).await?.into())))
}

/// Delete a variable
#[utoipa::path(
    delete, path = "/api/v1/variables/{variable}", tag = "Variables",
    params(("variable" = String, Path, description = "The variable's name")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "No such variable", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It comes from the environment", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(
    State(state): State<WebState>,
    Path(variable): Path<String>,
) -> Result<StatusCode, Failure> {
    let name = variable_name(&variable)?;
    state.vault.delete_variable(&name, ACTOR).await?;
    Ok(StatusCode::NO_CONTENT)
}
