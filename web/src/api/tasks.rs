//! `/api/v1/runs/{run}/tasks`

use axum::{
    Json,
    body::{Body as HttpBody, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use pinwheel_scheduler::{
    model::{InstanceId, RunId, TaskId},
    store::{
        ClearRequest, ClearScope, ClearSelection, ClearVersion, InstanceRow, LogPosition, LogRow,
    },
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    ACTOR,
    input::{Asked, Body, RequiredBody, page_size},
    runs::{NewNote, clear_as, note_as},
    types::{Cleared, Execution, Log, Notes, Task, TaskDetail, Tasks, Why},
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    format::plain,
    pages::{find_run, run_id, task, task_id},
};

/// Lines that one look into the store brings.
const LOG_LINES: i64 = 1_000;

/// The tasks of a run
///
/// In topological order.
#[utoipa::path(
    get, path = "/api/v1/runs/{run}/tasks", tag = "Tasks",
    params(("run" = i64, Path, description = "The run's number")),
    responses(
        (status = 200, description = "The tasks", body = Tasks),
        (status = 404, description = "No such run", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(state): State<WebState>,
    Path(run): Path<String>,
) -> Result<Json<Tasks>, Failure> {
    let run = find_run(&state, run_id(&run)?).await?.run_id;
    let tasks = state
        .store
        .instances(run)
        .await?
        .into_iter()
        .map(Task::from)
        .collect();
    Ok(Json(Tasks { tasks }))
}

/// Which item of a mapped task.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Item {
    /// The index of a mapped task's item.
    map: Option<i32>,
}

async fn find(
    state: &WebState,
    run: &str,
    task: &str,
    map: Option<i32>,
) -> Result<InstanceRow, Failure> {
    task::find(state, run_id(run)?, &task_id(task)?, map).await
}

/// One task of a run
///
/// With its ended tries.
#[utoipa::path(
    get, path = "/api/v1/runs/{run}/tasks/{task}", tag = "Tasks",
    params(("run" = i64, Path, description = "The run's number"), ("task" = String, Path, description = "The task's id"), Item),
    responses(
        (status = 200, description = "The task", body = TaskDetail),
        (status = 404, description = "No such run or task", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(state): State<WebState>,
    Path((run, task)): Path<(String, String)>,
    Asked(item): Asked<Item>,
) -> Result<Json<TaskDetail>, Failure> {
    let instance = find(&state, &run, &task, item.map).await?;
    let executions = state
        .store
        .tries(instance.instance_id)
        .await?
        .into_iter()
        .map(Execution::from)
        .collect();
    Ok(Json(TaskDetail {
        task: instance.into(),
        executions,
    }))
}

/// How far a clear goes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClearTask {
    /// And everything downstream of it.
    #[schema(default = true)]
    with_downstream: bool,
    /// And everything upstream of it.
    with_upstream: bool,
}

impl Default for ClearTask {
    fn default() -> Self {
        Self {
            with_downstream: true,
            with_upstream: false,
        }
    }
}

/// Clear a task
///
/// It runs again, with everything downstream of it unless the body says otherwise.
#[utoipa::path(
    post, path = "/api/v1/runs/{run}/tasks/{task}/clear", tag = "Tasks",
    params(("run" = i64, Path, description = "The run's number"), ("task" = String, Path, description = "The task's id"), Item),
    request_body(content = ClearTask, description = "May be empty"),
    responses(
        (status = 200, description = "What was cleared", body = Cleared),
        (status = 404, description = "No such run or task", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The task is still running, or has not run", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn clear(
    State(state): State<WebState>,
    Path((run, task)): Path<(String, String)>,
    Asked(item): Asked<Item>,
    Body(body): Body<ClearTask>,
) -> Result<Json<Cleared>, Failure> {
    let task: TaskId = task_id(&task)?;
    let scope = ClearScope::reaching(body.with_upstream, body.with_downstream);
    clear_as(&state, request(run_id(&run)?, task, item, scope)).await
}

/// Retry a task
///
/// The same as clear with everything downstream.
#[utoipa::path(
    post, path = "/api/v1/runs/{run}/tasks/{task}/retry", tag = "Tasks",
    params(("run" = i64, Path, description = "The run's number"), ("task" = String, Path, description = "The task's id"), Item),
    responses(
        (status = 200, description = "What was cleared", body = Cleared),
        (status = 404, description = "No such run or task", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The task is still running, or has not run", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn retry(
    State(state): State<WebState>,
    Path((run, task)): Path<(String, String)>,
    Asked(item): Asked<Item>,
) -> Result<Json<Cleared>, Failure> {
    let task: TaskId = task_id(&task)?;
    let request = request(run_id(&run)?, task, item, ClearScope::WithDownstream);
    clear_as(&state, request).await
}

fn request(run_id: RunId, task: TaskId, item: Item, scope: ClearScope) -> ClearRequest {
    ClearRequest {
        run_id,
        selection: match item.map {
            None => ClearSelection::Tasks(vec![task]),
            Some(map_index) => ClearSelection::Item { task, map_index },
        },
        scope,
        version: ClearVersion::Same,
        actor: ACTOR.to_owned(),
    }
}

/// Why a task is where it is
///
/// Everything that keeps it there, seen at one moment.
#[utoipa::path(
    get, path = "/api/v1/runs/{run}/tasks/{task}/why", tag = "Tasks",
    params(("run" = i64, Path, description = "The run's number"), ("task" = String, Path, description = "The task's id"), Item),
    responses(
        (status = 200, description = "The answer", body = Why),
        (status = 404, description = "No such run or task", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn why(
    State(state): State<WebState>,
    Path((run, task)): Path<(String, String)>,
    Asked(item): Asked<Item>,
) -> Result<Json<Why>, Failure> {
    let (run, task) = (run_id(&run)?, task_id(&task)?);
    let why = state.store.why(run, &task, item.map.unwrap_or(-1)).await?;
    Ok(Json(why.into()))
}

/// Write the note of a task
#[utoipa::path(
    put, path = "/api/v1/runs/{run}/tasks/{task}/note", tag = "Tasks",
    params(("run" = i64, Path, description = "The run's number"), ("task" = String, Path, description = "The task's id"), Item),
    request_body(content = NewNote),
    responses(
        (status = 200, description = "The notes of the run", body = Notes),
        (status = 404, description = "No such run or task", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The note is too long", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn set_note(
    State(state): State<WebState>,
    Path((run, task)): Path<(String, String)>,
    Asked(item): Asked<Item>,
    RequiredBody(body): RequiredBody<NewNote>,
) -> Result<Json<Notes>, Failure> {
    let (run, task) = (run_id(&run)?, task_id(&task)?);
    let place = Some((&task, item.map.unwrap_or(-1)));
    note_as(&state, run, place, &body.note).await
}

/// Which part of a log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogPart {
    /// The index of a mapped task's item.
    map: Option<i32>,
    /// Only of this try.
    #[serde(rename = "try")]
    #[param(rename = "try")]
    try_number: Option<i32>,
    /// Only lines after this place: `next_after` of the answer before. JSON only.
    after: Option<String>,
    /// At most so many lines, 1 to 5000. JSON only: text is the whole log.
    #[param(default = 1000, minimum = 1, maximum = 5000)]
    limit: Option<i64>,
}

/// The log of a task
///
/// Text, the whole log, unless `Accept` asks for `application/json`, which comes in pages. Terminal escape sequences are
/// taken out.
#[utoipa::path(
    get, path = "/api/v1/runs/{run}/tasks/{task}/log", tag = "Tasks",
    params(("run" = i64, Path, description = "The run's number"), ("task" = String, Path, description = "The task's id"), LogPart),
    responses(
        (status = 200, description = "The log", content((String = "text/plain"), (Log = "application/json"))),
        (status = 404, description = "No such run or task", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn log(
    State(state): State<WebState>,
    Path((run, task)): Path<(String, String)>,
    Asked(part): Asked<LogPart>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let instance = find(&state, &run, &task, part.map).await?.instance_id;
    let json = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json"));
    if !json {
        return Ok(log_text(state, instance, part.try_number));
    }
    let after = part
        .after
        .as_deref()
        .map(read_place)
        .transpose()?
        .unwrap_or_default();
    let limit = page_size(part.limit, LOG_LINES, 5 * LOG_LINES)?;
    let lines = state.store.log(instance, after, limit).await?;
    let place = lines.last().map_or(after, |last| last.position);
    let lines = lines
        .into_iter()
        .filter(|line| is_of_try(line, part.try_number))
        .map(clean)
        .map(Into::into)
        .collect();
    Ok(Json(Log {
        lines,
        next_after: format!("{}.{}", place.epoch, place.line),
    })
    .into_response())
}

fn read_place(text: &str) -> Result<LogPosition, Failure> {
    text.split_once('.')
        .and_then(|(epoch, line)| {
            Some(LogPosition {
                epoch: epoch.parse().ok()?,
                line: line.parse().ok()?,
            })
        })
        .ok_or_else(|| {
            Failure::new(StatusCode::BAD_REQUEST, "The query does not fit").detail(format!(
                "`after` is `{text}`, expected `next_after` of an earlier answer, such as `1.200`"
            ))
        })
}

fn is_of_try(line: &LogRow, number: Option<i32>) -> bool {
    number.is_none_or(|number| line.try_number == number)
}

fn clean(mut line: LogRow) -> LogRow {
    line.message = plain(&line.message);
    line
}

/// The whole log, read piece by piece while it is sent: a long one never stands in memory.
fn log_text(state: WebState, instance: InstanceId, number: Option<i32>) -> Response {
    let pieces = stream::unfold(Some(LogPosition::default()), move |position| {
        let state = state.clone();
        async move {
            let lines = match state.store.log(instance, position?, LOG_LINES).await {
                Ok(lines) => lines,
                Err(error) => return Some((Err(std::io::Error::other(error)), None)),
            };
            let next = lines
                .last()
                .filter(|_| lines.len() as i64 == LOG_LINES)
                .map(|last| last.position);
            let mut text = String::new();
            for line in lines
                .into_iter()
                .filter(|line| is_of_try(line, number))
                .map(clean)
            {
                text.push_str(&format!(
                    "{} {:6} {}\n",
                    line.at.format("%Y-%m-%dT%H:%M:%S%.3fZ"),
                    line.stream,
                    line.message
                ));
            }
            Some((Ok(Bytes::from(text)), next))
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (headers, HttpBody::from_stream(pieces)).into_response()
}

/// The output of a task
///
/// What its last success answered, for templates downstream, or what one try did.
#[utoipa::path(
    get, path = "/api/v1/runs/{run}/tasks/{task}/output", tag = "Tasks",
    params(("run" = i64, Path, description = "The run's number"), ("task" = String, Path, description = "The task's id"), PartOf),
    responses(
        (status = 200, description = "The output", body = Value),
        (status = 404, description = "No such run or task, or no output yet", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn output(
    State(state): State<WebState>,
    Path((run, task)): Path<(String, String)>,
    Asked(of): Asked<PartOf>,
) -> Result<Json<Value>, Failure> {
    let instance = find(&state, &run, &task, of.map).await?.instance_id;
    let output = match of.try_number {
        Some(number) => state.store.output_of_try(instance, number).await?,
        None => state.store.output(instance).await?,
    };
    output.map(Json).ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, "No output")
            .detail(format!("task `{task}` of run {run} has no output"))
            .hint("a task has one after its first success, if its kind gives any")
    })
}

/// Which try.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PartOf {
    /// The index of a mapped task's item.
    map: Option<i32>,
    /// Left out: the newest try, and for an output the last success.
    #[serde(rename = "try")]
    #[param(rename = "try")]
    try_number: Option<i32>,
}

/// What the templates of a try became
#[utoipa::path(
    get, path = "/api/v1/runs/{run}/tasks/{task}/rendered", tag = "Tasks",
    params(("run" = i64, Path, description = "The run's number"), ("task" = String, Path, description = "The task's id"), PartOf),
    responses(
        (status = 200, description = "The values", body = Value),
        (status = 404, description = "No such run or task, or the try has not begun", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn rendered(
    State(state): State<WebState>,
    Path((run, task)): Path<(String, String)>,
    Asked(of): Asked<PartOf>,
) -> Result<Json<Value>, Failure> {
    let instance = find(&state, &run, &task, of.map).await?;
    let number = of.try_number.unwrap_or(instance.tries);
    let rendered = state.store.rendered(instance.instance_id, number).await?;
    rendered.map(Json).ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, "No rendered values")
            .detail(format!(
                "try {number} of task `{task}` of run {run} has none"
            ))
            .hint("they are kept when a try starts")
    })
}
