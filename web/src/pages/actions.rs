//! What the buttons do: forms that are posted, and a redirect to the page that shows the effect.

use axum::{
    extract::{Form, Path, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use chrono::{DateTime, NaiveDateTime, Utc};
use pinwheel_scheduler::{
    engine::bell,
    model::{Dag, Param, ParamType, Params, RunId, RunKind, TaskId},
    store::{MarkRequest, MarkSelection, MarkedAs, NewRun, NoteText, Paused, Store},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Note,
    dag::{self, Typed},
    dag_id, run_id,
    runs::address,
    task_id,
};
use crate::{
    WebState,
    failure::{Failure, ParamProblem, Problem},
};

/// Who asks, as far as is known without authentication.
pub(super) const ACTOR: &str = "web";

/// What a code in the address says. Words never come from the address itself.
pub(crate) fn note(code: &str) -> Option<Note> {
    let text = match code {
        "triggered" => "The run was made. It starts as soon as it may.",
        "paused" => "Paused: no scheduled runs until it is resumed. Open runs go on.",
        "unpaused" => "Resumed: scheduled runs are made again.",
        "cancelled" => "Cancelled. Running tasks are being stopped.",
        "cleared" => "Cleared: the tasks run again.",
        "backfill_made" => "The backfill was made. Its runs start as soon as they may.",
        "backfill_paused" => "Paused: no more of its runs begin. What runs goes on.",
        "backfill_resumed" => "Resumed: its runs begin again.",
        "backfill_cancelled" => "Cancelled: dates whose turn had not come were not touched.",
        "marked" => "Marked. What depends on it follows.",
        "noted" => "Noted.",
        "pool_set" => "Set. What runs goes on; what is claimed next obeys it.",
        "set" => "Set. Tasks that start from now on read it.",
        "deleted" => "Deleted.",
        "message_retried" => "It goes out again.",
        "pool_deleted" => "Deleted.",
        _ => return None,
    };
    Some(Note { text })
}

/// `POST /dags/{dag}/trigger`
pub(crate) async fn trigger(
    State(state): State<WebState>,
    Path(dag): Path<String>,
    Form(fields): Form<Vec<(String, String)>>,
) -> Result<Response, Failure> {
    let id = dag_id(&dag)?;
    let row = state
        .store
        .dag(&id)
        .await?
        .ok_or_else(|| Failure::missing("DAG", &dag))?;
    let definition = state.store.definition(row.version_id).await?;
    let mut typed = read_fields(fields);
    let answer = match read_form(&definition, &typed) {
        Ok((params, logical_date)) => {
            let run = NewRun {
                dag_id: id,
                kind: RunKind::Manual,
                logical_date,
                params,
                triggered_by: ACTOR.to_owned(),
            };
            state.store.trigger(run).await.map_err(Failure::from)
        }
        Err(failure) => Err(failure),
    };
    match answer {
        Ok(run) => {
            ring(&state.store).await;
            Ok(Redirect::to(&format!("/runs/{run}?done=triggered")).into_response())
        }
        Err(failure)
            if matches!(
                failure.status(),
                StatusCode::UNPROCESSABLE_ENTITY | StatusCode::CONFLICT
            ) =>
        {
            typed.problem = Some(failure.problem().clone());
            dag::show(&state, &dag, typed, None).await
        }
        Err(failure) => Err(failure),
    }
}

/// Which page a pause was asked from.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AskedFrom {
    page: AskingPage,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AskingPage {
    #[default]
    Dag,
    Dags,
}

/// `POST /dags/{dag}/pause`
pub(crate) async fn pause(
    State(state): State<WebState>,
    Path(dag): Path<String>,
    Form(from): Form<AskedFrom>,
) -> Result<Redirect, Failure> {
    set_paused(&state, &dag, Paused::Paused, from.page).await
}

/// `POST /dags/{dag}/unpause`
pub(crate) async fn unpause(
    State(state): State<WebState>,
    Path(dag): Path<String>,
    Form(from): Form<AskedFrom>,
) -> Result<Redirect, Failure> {
    set_paused(&state, &dag, Paused::Active, from.page).await
}

async fn set_paused(
    state: &WebState,
    dag: &str,
    paused: Paused,
    from: AskingPage,
) -> Result<Redirect, Failure> {
    state.store.set_paused(&dag_id(dag)?, paused, ACTOR).await?;
    ring(&state.store).await;
    let done = match paused {
        Paused::Paused => "paused",
        Paused::Active => "unpaused",
    };
    Ok(match from {
        AskingPage::Dag => Redirect::to(&format!("/dags/{dag}?done={done}")),
        AskingPage::Dags => Redirect::to(&format!("/dags?done={done}")),
    })
}

/// `POST /runs/{run}/cancel`
pub(crate) async fn cancel(
    State(state): State<WebState>,
    Path(run): Path<String>,
) -> Result<Redirect, Failure> {
    let run = run_id(&run)?;
    state.store.cancel_run(run, ACTOR).await?;
    ring(&state.store).await;
    Ok(Redirect::to(&format!("/runs/{run}?done=cancelled")))
}

/// The form behind the mark buttons of a run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MarkRun {
    state: MarkedAs,
}

/// The form behind the mark buttons of a task.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MarkTask {
    state: MarkedAs,
    /// The item of a mapped task.
    map: Option<i32>,
}

/// `POST /runs/{run}/mark`
pub(crate) async fn mark_run(
    State(state): State<WebState>,
    Path(run): Path<String>,
    Form(form): Form<MarkRun>,
) -> Result<Redirect, Failure> {
    let run = run_id(&run)?;
    mark(&state, run, MarkSelection::WholeRun, form.state).await?;
    Ok(Redirect::to(&format!("/runs/{run}?done=marked")))
}

/// `POST /runs/{run}/tasks/{task}/mark`
pub(crate) async fn mark_task(
    State(state): State<WebState>,
    Path((run, task)): Path<(String, String)>,
    Form(form): Form<MarkTask>,
) -> Result<Redirect, Failure> {
    let (run, task) = (run_id(&run)?, task_id(&task)?);
    let selection = match form.map {
        Some(map_index) => MarkSelection::Item {
            task: task.clone(),
            map_index,
        },
        None => MarkSelection::Tasks(vec![task.clone()]),
    };
    mark(&state, run, selection, form.state).await?;
    Ok(back_to_task(run, &task, form.map, "marked"))
}

async fn mark(
    state: &WebState,
    run_id: RunId,
    selection: MarkSelection,
    marked: MarkedAs,
) -> Result<(), Failure> {
    state
        .store
        .mark(MarkRequest {
            run_id,
            selection,
            marked,
            actor: ACTOR.to_owned(),
        })
        .await?;
    ring(&state.store).await;
    Ok(())
}

/// The form behind a note.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Noted {
    note: String,
    /// The item of a mapped task.
    map: Option<i32>,
}

/// `POST /runs/{run}/note`
pub(crate) async fn note_run(
    State(state): State<WebState>,
    Path(run): Path<String>,
    Form(form): Form<Noted>,
) -> Result<Redirect, Failure> {
    let run = run_id(&run)?;
    let text = note_text(&form.note)?;
    state.store.set_note(run, None, &text, ACTOR).await?;
    ring(&state.store).await;
    Ok(Redirect::to(&format!("/runs/{run}?done=noted")))
}

/// `POST /runs/{run}/tasks/{task}/note`
pub(crate) async fn note_task(
    State(state): State<WebState>,
    Path((run, task)): Path<(String, String)>,
    Form(form): Form<Noted>,
) -> Result<Redirect, Failure> {
    let (run, task) = (run_id(&run)?, task_id(&task)?);
    let text = note_text(&form.note)?;
    let place = Some((&task, form.map.unwrap_or(-1)));
    state.store.set_note(run, place, &text, ACTOR).await?;
    ring(&state.store).await;
    Ok(back_to_task(run, &task, form.map, "noted"))
}

/// The page of the task, or of the item of it, that a form was sent from.
fn back_to_task(run: RunId, task: &TaskId, map: Option<i32>, done: &str) -> Redirect {
    let map = map.map(|map| map.to_string()).unwrap_or_default();
    let here = format!("/runs/{run}/tasks/{task}");
    Redirect::to(&address(&here, &[("map", &map), ("done", done)]))
}

/// A note as it was sent.
pub(crate) fn note_text(text: &str) -> Result<NoteText, Failure> {
    NoteText::new(text).ok_or_else(|| {
        Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "The note does not fit")
            .detail(format!(
                "it has {} characters, or control characters among them",
                text.chars().count()
            ))
            .hint(format!(
                "a note has at most {} characters",
                NoteText::LONGEST
            ))
    })
}

/// Wakes the engines. The change is committed already: an engine that does not hear this looks with its next heartbeat.
pub(crate) async fn ring(store: &Store) {
    if let Err(error) = bell::ring(store).await {
        tracing::warn!(%error, "the engines could not be woken");
    }
}

fn read_fields(fields: Vec<(String, String)>) -> Typed {
    let mut typed = Typed::default();
    for (name, value) in fields {
        match name.strip_prefix("param.") {
            Some(param) => {
                typed.values.insert(param.to_owned(), value);
            }
            None if name == "logical_date" => typed.logical_date = value,
            None => {}
        }
    }
    typed
}

fn read_form(dag: &Dag, typed: &Typed) -> Result<(Params, Option<DateTime<Utc>>), Failure> {
    let mut params = Params::new();
    let mut problems = Vec::new();
    for (name, text) in &typed.values {
        let Some(param) = dag.params.get(name) else {
            // A param that the DAG no longer has: the store refuses it by name.
            params.insert(name.clone(), Value::String(text.clone()));
            continue;
        };
        match read_value(param, text) {
            Ok(Some(value)) => {
                params.insert(name.clone(), value);
            }
            Ok(None) => {}
            Err(detail) => problems.push(ParamProblem {
                param: name.clone(),
                detail,
            }),
        }
    }
    let logical_date = match read_date(&typed.logical_date) {
        Ok(date) => date,
        Err(detail) => {
            problems.push(ParamProblem {
                param: "logical_date".to_owned(),
                detail,
            });
            None
        }
    };
    match problems.first() {
        None => Ok((params, logical_date)),
        Some(first) => {
            let problem = Problem {
                param: Some(first.param.clone()),
                params: problems.clone(),
                ..invalid()
            };
            Err(Failure::from(problem))
        }
    }
}

fn invalid() -> Problem {
    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "The params do not fit")
        .detail("see the fields below")
        .problem()
        .clone()
}

/// What a person typed, as the param's type. `None` leaves the param to its default.
fn read_value(param: &Param, text: &str) -> Result<Option<Value>, String> {
    let trimmed = text.trim();
    if param.param_type == ParamType::String {
        // An empty text is a value where the default is another text, and no value where one is required.
        let left_out = text.is_empty() && param.default.is_none();
        // Browsers send line ends as CR LF.
        return Ok((!left_out).then(|| Value::String(text.replace("\r\n", "\n"))));
    }
    if trimmed.is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(trimmed).map_err(|error| match param.param_type {
        ParamType::List | ParamType::Table => format!("is no JSON: {error}"),
        ParamType::Integer => format!("expected a whole number, found `{trimmed}`"),
        ParamType::Number => format!("expected a number, found `{trimmed}`"),
        ParamType::Boolean => format!("expected `true` or `false`, found `{trimmed}`"),
        ParamType::String => format!("found `{trimmed}`"),
    })?;
    Ok(Some(value))
}

/// An RFC 3339 instant, or what a browser's date field sends, which is then UTC.
pub(super) fn read_date(text: &str) -> Result<Option<DateTime<Utc>>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Ok(Some(instant.to_utc()));
    }
    ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .map(|local| Some(local.and_utc()))
        .ok_or_else(|| {
            format!("expected a date and time such as `2026-01-31T02:00`, found `{text}`")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(param_type: ParamType, default: Option<Value>) -> Param {
        Param {
            param_type,
            default,
            description: String::new(),
            minimum: None,
            maximum: None,
            pattern: None,
            choices: vec![],
        }
    }

    #[test]
    fn what_is_typed_becomes_the_type_of_the_param() {
        let read = |param_type, text| read_value(&param(param_type, None), text);
        assert_eq!(read(ParamType::Integer, " 42 "), Ok(Some(42.into())));
        assert_eq!(read(ParamType::Boolean, "true"), Ok(Some(true.into())));
        assert_eq!(read(ParamType::String, "42"), Ok(Some("42".into())));
        assert_eq!(read(ParamType::String, ""), Ok(None));
        assert_eq!(
            read_value(&param(ParamType::String, Some("x".into())), ""),
            Ok(Some("".into()))
        );
        assert_eq!(
            read(ParamType::List, "[1, \"a\"]"),
            Ok(Some(serde_json::json!([1, "a"])))
        );
        assert_eq!(read(ParamType::Integer, ""), Ok(None));
        assert!(read(ParamType::Integer, "many").is_err_and(|problem| problem.contains("`many`")));
        assert!(read(ParamType::Table, "{").is_err());
    }

    #[test]
    fn dates_are_read_as_utc() {
        let expected = "2026-01-31T02:00:00Z".parse::<DateTime<Utc>>().ok();
        for text in [
            "2026-01-31T02:00",
            "2026-01-31T02:00:00",
            "2026-01-31T02:00:00Z",
            "2026-01-31T03:00:00+01:00",
        ] {
            assert_eq!(read_date(text), Ok(expected));
        }
        assert_eq!(read_date("  "), Ok(None));
        assert!(read_date("tomorrow").is_err());
    }
}
