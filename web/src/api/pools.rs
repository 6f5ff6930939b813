//! `/api/v1/pools`

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use pinwheel_scheduler::store::{PoolChange, PoolSet, PoolSize};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::{
    ACTOR,
    input::Body,
    types::{Pool, Pools},
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    pages::{
        actions::ring,
        pools::{description, limit, misfit, new_pool_name, pool_name},
    },
};

/// All pools
///
/// With what they hold and what waits for them.
#[utoipa::path(get, path = "/api/v1/pools", tag = "Pools", responses((status = 200, description = "The pools", body = Pools)))]
pub(crate) async fn list(State(state): State<WebState>) -> Result<Json<Pools>, Failure> {
    let pools = state.store.pools().await?;
    Ok(Json(Pools {
        pools: pools.into_iter().map(Pool::from).collect(),
    }))
}

/// One pool
#[utoipa::path(
    get, path = "/api/v1/pools/{pool}", tag = "Pools",
    params(("pool" = String, Path, description = "The pool's name")),
    responses(
        (status = 200, description = "The pool", body = Pool),
        (status = 404, description = "No such pool", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(state): State<WebState>,
    Path(pool): Path<String>,
) -> Result<Json<Pool>, Failure> {
    Ok(Json(state.store.pool(&pool_name(&pool)?).await?.into()))
}

/// How many slots a pool has from now on.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SetPool {
    /// Null is no limit.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<i64>, required = true, minimum = 1, maximum = 2_147_483_647)]
    slots: Option<Option<i64>>,
    /// Left out: it stays as it is.
    #[schema(max_length = 200)]
    description: Option<String>,
}

/// Tells null from what is left out.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Make or change a pool
///
/// It holds for every task claimed from then on. Tasks that run go on, also when they take more slots than there are now.
#[utoipa::path(
    put, path = "/api/v1/pools/{pool}", tag = "Pools",
    params(("pool" = String, Path, description = "The pool's name")),
    request_body = SetPool,
    responses(
        (status = 200, description = "The pool was changed", body = Pool),
        (status = 201, description = "The pool was made", body = Pool),
        (status = 422, description = "The name, the slots or the description do not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set(
    State(state): State<WebState>,
    Path(pool): Path<String>,
    Body(body): Body<SetPool>,
) -> Result<(StatusCode, Json<Pool>), Failure> {
    let pool = new_pool_name(&pool)?;
    let size = match body.slots {
        Some(Some(slots)) => limit(slots)?,
        Some(None) => PoolSize::Unlimited,
        None => {
            return Err(misfit(
                "`slots` is missing: give a number, or null for no limit",
            ));
        }
    };
    let change = PoolChange {
        size,
        description: body.description.as_deref().map(description).transpose()?,
    };
    let status = match state.store.set_pool(&pool, &change, ACTOR).await? {
        PoolSet::Created => StatusCode::CREATED,
        PoolSet::Changed => StatusCode::OK,
    };
    ring(&state.store).await;
    Ok((status, Json(state.store.pool(&pool).await?.into())))
}

/// Delete a pool
///
/// Refused for `default`, and while a task of a current version names it or tasks run or wait in it.
#[utoipa::path(
    delete, path = "/api/v1/pools/{pool}", tag = "Pools",
    params(("pool" = String, Path, description = "The pool's name")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "No such pool", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Tasks need it, or it is `default`", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(
    State(state): State<WebState>,
    Path(pool): Path<String>,
) -> Result<StatusCode, Failure> {
    state.store.delete_pool(&pool_name(&pool)?, ACTOR).await?;
    ring(&state.store).await;
    Ok(StatusCode::NO_CONTENT)
}
