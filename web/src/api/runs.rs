//! `/api/v1/runs`

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use pinwheel_scheduler::{
    model::{RunId, TaskId},
    store::{
        ClearRequest, ClearScope, ClearSelection, ClearVersion, MarkRequest, MarkSelection,
        MarkedAs, RunFilter,
    },
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ACTOR,
    input::{Asked, Body, RequiredBody, page_size},
    types::{Cleared, Marked, Note, Notes, Run, RunState, Runs},
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    pages::{
        actions::{note_text, ring},
        dag_id, find_run, run_id, task_id,
    },
};

/// Which runs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only of this DAG.
    dag: Option<String>,
    /// Only in this state.
    #[param(inline)]
    state: Option<RunState>,
    /// Only runs before this one: `next_before` of the page before.
    before: Option<i64>,
    /// At most so many, 1 to 500.
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

/// Runs, newest first
#[utoipa::path(
    get, path = "/api/v1/runs", tag = "Runs", params(Filter),
    responses(
        (status = 200, description = "A page of runs", body = Runs),
        (status = 400, description = "The query does not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(state): State<WebState>,
    Asked(asked): Asked<Filter>,
) -> Result<Json<Runs>, Failure> {
    let limit = page_size(asked.limit, 50, 500)?;
    let filter = RunFilter {
        dag_id: asked.dag.as_deref().map(dag_id).transpose()?,
        states: asked.state.map(Into::into).into_iter().collect(),
        before: asked.before.map(RunId),
        limit,
    };
    let runs = state.store.runs(&filter).await?;
    let next_before = runs
        .last()
        .filter(|_| runs.len() as i64 == limit)
        .map(|last| last.run_id.0);
    Ok(Json(Runs {
        runs: runs.into_iter().map(Run::from).collect(),
        next_before,
    }))
}

/// One run
#[utoipa::path(
    get, path = "/api/v1/runs/{run}", tag = "Runs",
    params(("run" = i64, Path, description = "The run's number")),
    responses(
        (status = 200, description = "The run", body = Run),
        (status = 404, description = "No such run", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(state): State<WebState>,
    Path(run): Path<String>,
) -> Result<Json<Run>, Failure> {
    Ok(Json(find_run(&state, run_id(&run)?).await?.into()))
}

/// Cancel a run
///
/// Running tasks are stopped; what has not begun never does.
#[utoipa::path(
    post, path = "/api/v1/runs/{run}/cancel", tag = "Runs",
    params(("run" = i64, Path, description = "The run's number")),
    responses(
        (status = 200, description = "The run", body = Run),
        (status = 404, description = "No such run", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The run is over", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel(
    State(state): State<WebState>,
    Path(run): Path<String>,
) -> Result<Json<Run>, Failure> {
    let run = run_id(&run)?;
    state.store.cancel_run(run, ACTOR).await?;
    ring(&state.store).await;
    Ok(Json(find_run(&state, run).await?.into()))
}

/// What to clear.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Clear {
    /// These tasks. Left out: every task of the run, or every failed one with `only_failed`.
    tasks: Vec<String>,
    /// Those that failed, were cancelled, or could not run because of a failure above. Not together with `tasks`.
    only_failed: bool,
    /// And everything downstream of them.
    #[schema(default = true)]
    with_downstream: bool,
    /// And everything upstream of them.
    with_upstream: bool,
    /// By which version of the DAG they run: the one that the run has, or the latest, to which the run then moves.
    #[schema(inline)]
    version: Version,
    /// Only say what would be cleared.
    dry_run: bool,
}

/// A version of a DAG.
#[derive(Debug, Default, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Version {
    #[default]
    Same,
    Latest,
}

impl Default for Clear {
    fn default() -> Self {
        Self {
            tasks: Vec::new(),
            only_failed: false,
            with_downstream: true,
            with_upstream: false,
            version: Version::Same,
            dry_run: false,
        }
    }
}

/// Clear tasks of a run
///
/// They run again, and the run goes on. With `dry_run`, nothing is changed.
#[utoipa::path(
    post, path = "/api/v1/runs/{run}/clear", tag = "Runs",
    params(("run" = i64, Path, description = "The run's number")),
    request_body(content = Clear, description = "May be empty: the whole run"),
    responses(
        (status = 200, description = "What was cleared", body = Cleared),
        (status = 404, description = "No such run or task", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Nothing to clear, or a task is still running", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The body does not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn clear(
    State(state): State<WebState>,
    Path(run): Path<String>,
    Body(body): Body<Clear>,
) -> Result<Json<Cleared>, Failure> {
    let run = run_id(&run)?;
    let selection = match (body.tasks.is_empty(), body.only_failed) {
        (true, true) => ClearSelection::Failed,
        (true, false) => ClearSelection::WholeRun,
        (false, false) => ClearSelection::Tasks(read_tasks(&body.tasks)?),
        (false, true) => {
            return Err(misfit("`tasks` and `only_failed` cannot be given together"));
        }
    };
    let request = ClearRequest {
        run_id: run,
        selection,
        scope: ClearScope::reaching(body.with_upstream, body.with_downstream),
        version: match body.version {
            Version::Same => ClearVersion::Same,
            Version::Latest => ClearVersion::Latest,
        },
        actor: ACTOR.to_owned(),
    };
    if body.dry_run {
        let cleared = state.store.preview_clear(&request).await?;
        return Ok(Json((run, cleared).into()));
    }
    clear_as(&state, request).await
}

pub(super) async fn clear_as(
    state: &WebState,
    request: ClearRequest,
) -> Result<Json<Cleared>, Failure> {
    let run_id = request.run_id;
    let cleared = state.store.clear(request).await?;
    ring(&state.store).await;
    Ok(Json((run_id, cleared).into()))
}

fn read_tasks(names: &[String]) -> Result<Vec<TaskId>, Failure> {
    names.iter().map(|name| task_id(name)).collect()
}

fn misfit(detail: impl Into<String>) -> Failure {
    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "The body does not fit").detail(detail)
}

/// What to mark.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    /// How it ended.
    #[schema(inline)]
    state: MarkedState,
    /// These tasks. Left out: the run itself.
    #[serde(default)]
    tasks: Vec<String>,
    /// The index of a mapped task's item: that one alone. `tasks` then names its task and no other.
    map: Option<i32>,
}

/// How something ended, as a person says.
#[derive(Debug, Default, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MarkedState {
    #[default]
    Success,
    Failed,
}

impl From<MarkedState> for MarkedAs {
    fn from(state: MarkedState) -> Self {
        match state {
            MarkedState::Success => Self::Success,
            MarkedState::Failed => Self::Failed,
        }
    }
}

/// Mark tasks of a run, or the run
///
/// What runs is stopped first; what depends on it follows. A run that is marked as failed skips what has not begun.
#[utoipa::path(
    post, path = "/api/v1/runs/{run}/mark", tag = "Runs",
    params(("run" = i64, Path, description = "The run's number")),
    request_body(content = Mark),
    responses(
        (status = 200, description = "What was marked", body = Marked),
        (status = 404, description = "No such run or task", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Nothing to mark, or the run has not begun", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The body does not fit", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn mark(
    State(state): State<WebState>,
    Path(run): Path<String>,
    RequiredBody(body): RequiredBody<Mark>,
) -> Result<Json<Marked>, Failure> {
    let run_id = run_id(&run)?;
    let selection = match (body.map, body.tasks.as_slice()) {
        (None, []) => MarkSelection::WholeRun,
        (None, tasks) => MarkSelection::Tasks(read_tasks(tasks)?),
        (Some(map_index), [task]) => MarkSelection::Item {
            task: task_id(task)?,
            map_index,
        },
        (Some(_), tasks) => {
            return Err(misfit(format!(
                "`map` is of one task, and `tasks` names {}",
                tasks.len()
            )));
        }
    };
    let marked = state
        .store
        .mark(MarkRequest {
            run_id,
            selection,
            marked: body.state.into(),
            actor: ACTOR.to_owned(),
        })
        .await?;
    ring(&state.store).await;
    Ok(Json((run_id, marked).into()))
}

/// The notes of a run
///
/// And of its tasks.
#[utoipa::path(
    get, path = "/api/v1/runs/{run}/notes", tag = "Runs",
    params(("run" = i64, Path, description = "The run's number")),
    responses(
        (status = 200, description = "The notes", body = Notes),
        (status = 404, description = "No such run", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn notes(
    State(state): State<WebState>,
    Path(run): Path<String>,
) -> Result<Json<Notes>, Failure> {
    let run = find_run(&state, run_id(&run)?).await?.run_id;
    let notes = state.store.notes(run).await?;
    Ok(Json(Notes {
        notes: notes.into_iter().map(Note::from).collect(),
    }))
}

/// A note to write.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewNote {
    /// At most 1000 characters; empty takes the note away.
    pub(super) note: String,
}

/// Write the note of a run
#[utoipa::path(
    put, path = "/api/v1/runs/{run}/note", tag = "Runs",
    params(("run" = i64, Path, description = "The run's number")),
    request_body(content = NewNote),
    responses(
        (status = 200, description = "The notes of the run", body = Notes),
        (status = 404, description = "No such run", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The note is too long", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set_note(
    State(state): State<WebState>,
    Path(run): Path<String>,
    RequiredBody(body): RequiredBody<NewNote>,
) -> Result<Json<Notes>, Failure> {
    note_as(&state, run_id(&run)?, None, &body.note).await
}

pub(super) async fn note_as(
    state: &WebState,
    run: RunId,
    task: Option<(&TaskId, i32)>,
    note: &str,
) -> Result<Json<Notes>, Failure> {
    let text = note_text(note)?;
    state.store.set_note(run, task, &text, ACTOR).await?;
    ring(&state.store).await;
    let notes = state.store.notes(run).await?;
    Ok(Json(Notes {
        notes: notes.into_iter().map(Note::from).collect(),
    }))
}
