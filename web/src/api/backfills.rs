//! `/api/v1/backfills`, and those of one DAG.

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderName, StatusCode, header},
};
use chrono::{DateTime, Utc};
use pinwheel_scheduler::{
    model::{
        BackfillId, Params,
        backfill::{
            BackfillState as ModelState, DateAction as ModelAction, DateState as ModelDateState,
            Direction, OnFailure, Reprocess as ModelReprocess,
        },
    },
    store::{
        BackfillDateRow, BackfillFilter, BackfillRow, NewBackfill, OpenRuns, PlannedDate, Steer,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::{
    ACTOR,
    input::{Asked, Body, page_size},
    types::RunState,
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    pages::{actions::ring, backfills::backfill_id, dag_id},
};

/// What becomes of dates that have a run.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reprocess {
    /// They are left alone.
    #[default]
    None,
    /// They run again if their run failed or was cancelled.
    Failed,
    /// They run again.
    All,
}

impl From<Reprocess> for ModelReprocess {
    fn from(reprocess: Reprocess) -> Self {
        match reprocess {
            Reprocess::None => Self::None,
            Reprocess::Failed => Self::Failed,
            Reprocess::All => Self::All,
        }
    }
}

impl From<ModelReprocess> for Reprocess {
    fn from(reprocess: ModelReprocess) -> Self {
        match reprocess {
            ModelReprocess::None => Self::None,
            ModelReprocess::Failed => Self::Failed,
            ModelReprocess::All => Self::All,
        }
    }
}

/// The state of a backfill.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BackfillState {
    Running,
    Paused,
    /// A run failed, and it was to stop then; it can be resumed.
    Stopped,
    Success,
    Failed,
    Cancelled,
}

impl From<ModelState> for BackfillState {
    fn from(state: ModelState) -> Self {
        match state {
            ModelState::Running => Self::Running,
            ModelState::Paused => Self::Paused,
            ModelState::Stopped => Self::Stopped,
            ModelState::Success => Self::Success,
            ModelState::Failed => Self::Failed,
            ModelState::Cancelled => Self::Cancelled,
        }
    }
}

/// A backfill.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Backfill {
    backfill_id: i64,
    dag_id: String,
    state: BackfillState,
    /// The first logical date, inclusive.
    from: DateTime<Utc>,
    /// The last logical date, inclusive.
    to: DateTime<Utc>,
    reprocess: Reprocess,
    backwards: bool,
    stop_on_failure: bool,
    /// How many of its runs may be running at once, apart from the DAG's own.
    max_active_runs: i32,
    /// As they were given.
    #[schema(value_type = Object)]
    params: Map<String, Value>,
    created_by: String,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    /// Nothing begins until the DAG is unpaused.
    dag_is_paused: bool,
    progress: Progress,
}

/// What has become of the dates of a backfill.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Progress {
    total: i64,
    /// Their turn has not come.
    waiting: i64,
    running: i64,
    success: i64,
    failed: i64,
    /// Their run was cancelled, or the backfill before their turn came.
    cancelled: i64,
    /// They had a run that was left alone.
    left_alone: i64,
    /// Retention has removed their run.
    removed: i64,
}

impl From<BackfillRow> for Backfill {
    fn from(row: BackfillRow) -> Self {
        Self {
            backfill_id: row.backfill_id.0,
            dag_id: row.dag_id.to_string(),
            state: row.state.into(),
            from: row.from,
            to: row.to,
            reprocess: row.reprocess.into(),
            backwards: row.direction == Direction::Backwards,
            stop_on_failure: row.on_failure == OnFailure::Stop,
            max_active_runs: row.max_active_runs,
            params: row.params,
            created_by: row.created_by,
            created_at: row.created_at,
            finished_at: row.finished_at,
            dag_is_paused: row.dag_is_paused,
            progress: Progress {
                total: row.progress.total,
                waiting: row.progress.waiting,
                running: row.progress.running,
                success: row.progress.success,
                failed: row.progress.failed,
                cancelled: row.progress.cancelled,
                left_alone: row.progress.left_alone,
                removed: row.progress.removed,
            },
        }
    }
}

/// Backfills, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Backfills {
    backfills: Vec<Backfill>,
    /// Give it as `before` to get the next page; null on the last.
    next_before: Option<i64>,
}

/// What became of a date.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DateState {
    /// Its turn has not come.
    Waiting,
    /// A run was made for it.
    Made,
    /// Its run was cleared.
    Cleared,
    /// It had a run that was left alone.
    Left,
    /// The backfill was cancelled before its turn came.
    Cancelled,
}

impl From<ModelDateState> for DateState {
    fn from(state: ModelDateState) -> Self {
        match state {
            ModelDateState::Waiting => Self::Waiting,
            ModelDateState::Made => Self::Made,
            ModelDateState::Cleared => Self::Cleared,
            ModelDateState::Left => Self::Left,
            ModelDateState::Cancelled => Self::Cancelled,
        }
    }
}

/// A date of a backfill.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BackfillDate {
    /// Its place in the order, from 1.
    position: i32,
    logical_date: DateTime<Utc>,
    data_interval_end: DateTime<Utc>,
    state: DateState,
    run_id: Option<i64>,
    run_state: Option<RunState>,
}

impl From<BackfillDateRow> for BackfillDate {
    fn from(row: BackfillDateRow) -> Self {
        Self {
            position: row.position,
            logical_date: row.logical_date,
            data_interval_end: row.data_interval_end,
            state: row.state.into(),
            run_id: row.run_id.map(|run| run.0),
            run_state: row.run_state.map(Into::into),
        }
    }
}

/// Dates of a backfill, in the order in which they run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BackfillDates {
    dates: Vec<BackfillDate>,
    /// Give it as `after` to get the next page; null on the last.
    next_after: Option<i32>,
}

/// What would be done for a date.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DateAction {
    /// A run would be made.
    Make,
    /// The run that there is would run again.
    Clear,
    /// The run that there is would be left alone.
    Leave,
}

/// A date of a backfill that is only planned.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Planned {
    logical_date: DateTime<Utc>,
    data_interval_end: DateTime<Utc>,
    run_id: Option<i64>,
    run_state: Option<RunState>,
    action: DateAction,
}

impl From<PlannedDate> for Planned {
    fn from(date: PlannedDate) -> Self {
        Self {
            logical_date: date.logical_date,
            data_interval_end: date.data_interval_end,
            run_id: date.run_id.map(|run| run.0),
            run_state: date.run_state.map(Into::into),
            action: match date.action {
                ModelAction::Make => DateAction::Make,
                ModelAction::Clear => DateAction::Clear,
                ModelAction::Leave => DateAction::Leave,
            },
        }
    }
}

/// What a backfill would do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BackfillPlan {
    dates: Vec<Planned>,
}

/// Which backfills to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only of this DAG.
    dag: Option<String>,
    /// Only backfills before this one: `next_before` of the page before.
    before: Option<i64>,
    /// At most so many, 1 to 500.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

/// Backfills, newest first
#[utoipa::path(
    get, path = "/api/v1/backfills", tag = "Backfills", params(Filter),
    responses(
        (status = 200, description = "A page of backfills", body = Backfills),
        (status = 400, description = "The query does not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(state): State<WebState>,
    Asked(asked): Asked<Filter>,
) -> Result<Json<Backfills>, Failure> {
    let limit = page_size(asked.limit, 50, 500)?;
    let filter = BackfillFilter {
        dag_id: asked.dag.as_deref().map(dag_id).transpose()?,
        before: asked.before.map(BackfillId),
        limit,
    };
    let backfills = state.store.backfills(&filter).await?;
    let next_before = backfills
        .last()
        .filter(|_| backfills.len() as i64 == limit)
        .map(|last| last.backfill_id.0);
    Ok(Json(Backfills {
        backfills: backfills.into_iter().map(Backfill::from).collect(),
        next_before,
    }))
}

/// One backfill
#[utoipa::path(
    get, path = "/api/v1/backfills/{backfill}", tag = "Backfills",
    params(("backfill" = i64, Path, description = "The backfill's number")),
    responses(
        (status = 200, description = "The backfill", body = Backfill),
        (status = 404, description = "No such backfill", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(state): State<WebState>,
    Path(backfill): Path<String>,
) -> Result<Json<Backfill>, Failure> {
    answer(&state, backfill_id(&backfill)?).await
}

/// Which dates to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// Only dates after this position: `next_after` of the page before.
    after: Option<i32>,
    /// At most so many, 1 to 1000.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

/// The dates of a backfill
///
/// In the order in which they run.
#[utoipa::path(
    get, path = "/api/v1/backfills/{backfill}/dates", tag = "Backfills",
    params(("backfill" = i64, Path, description = "The backfill's number"), Page),
    responses(
        (status = 200, description = "A page of dates", body = BackfillDates),
        (status = 400, description = "The query does not fit", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such backfill", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn dates(
    State(state): State<WebState>,
    Path(backfill): Path<String>,
    Asked(asked): Asked<Page>,
) -> Result<Json<BackfillDates>, Failure> {
    let limit = page_size(asked.limit, 100, 1000)?;
    let id = backfill_id(&backfill)?;
    state.store.backfill(id).await?;
    let dates = state
        .store
        .backfill_dates(id, asked.after.unwrap_or(0), limit)
        .await?;
    let next_after = dates
        .last()
        .filter(|_| dates.len() as i64 == limit)
        .map(|last| last.position);
    Ok(Json(BackfillDates {
        dates: dates.into_iter().map(BackfillDate::from).collect(),
        next_after,
    }))
}

/// A backfill to make.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Create {
    /// The first logical date, inclusive.
    #[schema(value_type = String, format = DateTime, required = true)]
    from: Option<DateTime<Utc>>,
    /// The last logical date, inclusive.
    #[schema(value_type = String, format = DateTime, required = true)]
    to: Option<DateTime<Utc>>,
    reprocess: Reprocess,
    /// Begin with the newest date.
    backwards: bool,
    /// Begin nothing more once a run has failed, until it is resumed.
    stop_on_failure: bool,
    /// Left out: as many as the DAG allows its own runs.
    #[schema(minimum = 1)]
    max_active_runs: Option<u32>,
    /// Of every run; checked against the DAG's params and completed with their defaults.
    #[schema(value_type = Object)]
    params: Params,
}

impl Create {
    fn read(self, dag: &str) -> Result<NewBackfill, Failure> {
        let misfit = |detail: &str| {
            Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "The body does not fit").detail(detail)
        };
        if self.max_active_runs == Some(0) {
            return Err(misfit("`max_active_runs` is 0, it must be at least 1"));
        }
        Ok(NewBackfill {
            dag_id: dag_id(dag)?,
            from: self.from.ok_or_else(|| misfit("`from` is missing"))?,
            to: self.to.ok_or_else(|| misfit("`to` is missing"))?,
            reprocess: self.reprocess.into(),
            direction: if self.backwards {
                Direction::Backwards
            } else {
                Direction::Forwards
            },
            on_failure: if self.stop_on_failure {
                OnFailure::Stop
            } else {
                OnFailure::Continue
            },
            max_active_runs: self.max_active_runs,
            params: self.params,
            actor: ACTOR.to_owned(),
        })
    }
}

type Created<T> = (StatusCode, [(HeaderName, String); 1], Json<T>);

/// Backfill a DAG
///
/// Every logical date of the range that its schedule has and whose data interval is over gets its turn.
#[utoipa::path(
    post, path = "/api/v1/dags/{dag}/backfills", tag = "Backfills",
    params(("dag" = String, Path, description = "The DAG's id")),
    request_body = Create,
    responses(
        (status = 201, description = "The backfill; `Location` is its address", body = Backfill),
        (status = 404, description = "No such DAG", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The DAG has a backfill that is not over, nothing is to do, or the DAG's file is gone", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The range, the params or the body do not fit, or the DAG has no schedule", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create(
    State(state): State<WebState>,
    Path(dag): Path<String>,
    Body(body): Body<Create>,
) -> Result<Created<Backfill>, Failure> {
    let id = state.store.create_backfill(&body.read(&dag)?).await?;
    ring(&state.store).await;
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, format!("/api/v1/backfills/{id}"))],
        answer(&state, id).await?,
    ))
}

/// Ask what a backfill would do
///
/// Lists the dates with the runs that they have now; nothing is done.
#[utoipa::path(
    post, path = "/api/v1/dags/{dag}/backfills/dry-run", tag = "Backfills",
    params(("dag" = String, Path, description = "The DAG's id")),
    request_body = Create,
    responses(
        (status = 200, description = "The dates", body = BackfillPlan),
        (status = 404, description = "No such DAG", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The DAG's file is gone", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The range, the params or the body do not fit, or the DAG has no schedule", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn dry_run(
    State(state): State<WebState>,
    Path(dag): Path<String>,
    Body(body): Body<Create>,
) -> Result<Json<BackfillPlan>, Failure> {
    let dates = state.store.plan_backfill(&body.read(&dag)?).await?;
    Ok(Json(BackfillPlan {
        dates: dates.into_iter().map(Planned::from).collect(),
    }))
}

/// Pause a backfill
///
/// What runs goes on, nothing begins.
#[utoipa::path(
    post, path = "/api/v1/backfills/{backfill}/pause", tag = "Backfills",
    params(("backfill" = i64, Path, description = "The backfill's number")),
    responses(
        (status = 200, description = "The backfill", body = Backfill),
        (status = 404, description = "No such backfill", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The backfill is over", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn pause(
    State(state): State<WebState>,
    Path(backfill): Path<String>,
) -> Result<Json<Backfill>, Failure> {
    steer(&state, &backfill, Steer::Pause).await
}

/// Resume a backfill
///
/// One that was paused, or has stopped at a failure.
#[utoipa::path(
    post, path = "/api/v1/backfills/{backfill}/resume", tag = "Backfills",
    params(("backfill" = i64, Path, description = "The backfill's number")),
    responses(
        (status = 200, description = "The backfill", body = Backfill),
        (status = 404, description = "No such backfill", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The backfill is over", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn resume(
    State(state): State<WebState>,
    Path(backfill): Path<String>,
) -> Result<Json<Backfill>, Failure> {
    steer(&state, &backfill, Steer::Resume).await
}

async fn steer(state: &WebState, backfill: &str, steer: Steer) -> Result<Json<Backfill>, Failure> {
    let id = backfill_id(backfill)?;
    state.store.steer_backfill(id, steer, ACTOR).await?;
    ring(&state.store).await;
    answer(state, id).await
}

/// How a backfill is cancelled.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cancel {
    /// Its runs as well that have begun; otherwise they go on.
    running: bool,
}

/// Cancel a backfill
///
/// Dates whose turn has not come are not touched.
#[utoipa::path(
    post, path = "/api/v1/backfills/{backfill}/cancel", tag = "Backfills",
    params(("backfill" = i64, Path, description = "The backfill's number")),
    request_body(content = Cancel, description = "May be empty"),
    responses(
        (status = 200, description = "The backfill", body = Backfill),
        (status = 404, description = "No such backfill", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The backfill is over", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel(
    State(state): State<WebState>,
    Path(backfill): Path<String>,
    Body(body): Body<Cancel>,
) -> Result<Json<Backfill>, Failure> {
    let id = backfill_id(&backfill)?;
    let open_runs = if body.running {
        OpenRuns::Cancel
    } else {
        OpenRuns::Keep
    };
    state.store.cancel_backfill(id, open_runs, ACTOR).await?;
    ring(&state.store).await;
    answer(&state, id).await
}

async fn answer(state: &WebState, id: BackfillId) -> Result<Json<Backfill>, Failure> {
    Ok(Json(state.store.backfill(id).await?.into()))
}
