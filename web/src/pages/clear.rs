//! What a clear would do, before it is done: every task that runs again, and how the run moves to another version.

use askama::Template;
use axum::{
    extract::{Form, Path, Query, State},
    response::{Redirect, Response},
};
use pinwheel_scheduler::{
    model::RunId,
    store::{ClearRequest, ClearScope, ClearSelection, ClearVersion, Cleared, Moved},
};
use serde::Deserialize;

use super::{
    Layout,
    actions::{ACTOR, ring},
    find_run, render, run_id, task_id,
};
use crate::{
    WebState,
    failure::Failure,
    format::{Badge, count, task_badge},
};

/// What is to be cleared, in the address of the page and in its form.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    #[serde(default)]
    what: Extent,
    /// The task, where it is one.
    #[serde(default)]
    task: String,
    #[serde(default)]
    scope: Scope,
    #[serde(default)]
    version: ClearVersion,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Extent {
    #[default]
    Failed,
    WholeRun,
    Task,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    Only,
    WithUpstream,
    #[default]
    WithDownstream,
    WithBoth,
}

impl Scope {
    const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::Only, "only", "nothing else"),
        (
            Self::WithDownstream,
            "with_downstream",
            "what is downstream",
        ),
        (Self::WithUpstream, "with_upstream", "what is upstream"),
        (
            Self::WithBoth,
            "with_both",
            "what is upstream and downstream",
        ),
    ];

    fn reaches(self) -> ClearScope {
        match self {
            Self::Only => ClearScope::Only,
            Self::WithUpstream => ClearScope::WithUpstream,
            Self::WithDownstream => ClearScope::WithDownstream,
            Self::WithBoth => ClearScope::WithBoth,
        }
    }
}

#[derive(Template)]
#[template(path = "clear.html")]
struct ClearPage {
    layout: Layout,
    run: i64,
    dag: String,
    /// What is cleared, in words.
    title: String,
    what: &'static str,
    task: String,
    scope: &'static str,
    version: &'static str,
    scopes: Vec<(&'static str, &'static str, bool)>,
    lines: Vec<Line>,
    moved: String,
    button: String,
    /// Why nothing can be cleared so.
    problem: String,
    hint: String,
}

struct Line {
    name: String,
    badge: Badge,
    tries: i32,
}

impl Wanted {
    fn request(&self, run_id: RunId) -> Result<ClearRequest, Failure> {
        Ok(ClearRequest {
            run_id,
            selection: match self.what {
                Extent::Failed => ClearSelection::Failed,
                Extent::WholeRun => ClearSelection::WholeRun,
                Extent::Task => match self
                    .task
                    .strip_suffix(']')
                    .and_then(|text| text.split_once('['))
                {
                    Some((task, index)) => ClearSelection::Item {
                        task: task_id(task)?,
                        map_index: index.parse().map_err(|_| Failure::missing("item", index))?,
                    },
                    None => ClearSelection::Tasks(vec![task_id(&self.task)?]),
                },
            },
            scope: self.scope.reaches(),
            version: self.version,
            actor: ACTOR.to_owned(),
        })
    }
}

/// `GET /runs/{run}/clear`
pub(crate) async fn page(
    State(state): State<WebState>,
    Path(run): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let row = find_run(&state, run_id(&run)?).await?;
    let request = wanted.request(row.run_id)?;
    let planned = state.store.preview_clear(&request).await;
    let (cleared, problem, hint) = match planned {
        Ok(cleared) => (Some(cleared), String::new(), String::new()),
        Err(error) if error.is_unavailable() => return Err(error.into()),
        Err(error) => (None, error.to_string(), error.hint().unwrap_or_default()),
    };
    let title = match wanted.what {
        Extent::Failed => "what failed".to_owned(),
        Extent::WholeRun => "the whole run".to_owned(),
        Extent::Task => wanted.task.clone(),
    };
    render(&ClearPage {
        layout: Layout::new("runs", format!("Clear {title} · run {}", row.run_id)),
        run: row.run_id.0,
        dag: row.dag_id.to_string(),
        title,
        what: match wanted.what {
            Extent::Failed => "failed",
            Extent::WholeRun => "whole_run",
            Extent::Task => "task",
        },
        task: wanted.task.clone(),
        scope: Scope::ALL
            .iter()
            .find(|(scope, ..)| *scope == wanted.scope)
            .map_or("", |(_, word, _)| *word),
        version: match wanted.version {
            ClearVersion::Same => "same",
            ClearVersion::Latest => "latest",
        },
        scopes: Scope::ALL
            .iter()
            .map(|(scope, word, label)| (*word, *label, *scope == wanted.scope))
            .collect(),
        moved: cleared
            .as_ref()
            .and_then(|cleared| cleared.moved.as_ref())
            .map(journey)
            .unwrap_or_default(),
        button: cleared
            .as_ref()
            .map(|cleared| format!("Clear {}", count(cleared.tasks.len(), "task", "tasks")))
            .unwrap_or_default(),
        lines: cleared.map(lines).unwrap_or_default(),
        problem,
        hint,
    })
}

/// `POST /runs/{run}/clear`
pub(crate) async fn confirm(
    State(state): State<WebState>,
    Path(run): Path<String>,
    Form(wanted): Form<Wanted>,
) -> Result<Redirect, Failure> {
    let run = run_id(&run)?;
    state.store.clear(wanted.request(run)?).await?;
    ring(&state.store).await;
    Ok(Redirect::to(&format!("/runs/{run}?done=cleared")))
}

fn lines(cleared: Cleared) -> Vec<Line> {
    cleared
        .instances
        .into_iter()
        .map(|instance| Line {
            name: if instance.map_index < 0 {
                instance.task_id.to_string()
            } else {
                format!("{}[{}]", instance.task_id, instance.map_index)
            },
            badge: task_badge(instance.state, None),
            tries: instance.tries,
        })
        .collect()
}

fn journey(moved: &Moved) -> String {
    let names = |tasks: &[pinwheel_scheduler::model::TaskId]| {
        tasks
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut text = format!(
        "The run moves from version {} to version {} of the DAG.",
        moved.from, moved.to
    );
    if !moved.added.is_empty() {
        text.push_str(&format!(" New: {}.", names(&moved.added)));
    }
    if !moved.removed.is_empty() {
        text.push_str(&format!(
            " Not in that version, so they stay as they are: {}.",
            names(&moved.removed)
        ));
    }
    text
}
