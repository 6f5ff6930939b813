//! One DAG: its last runs as a grid, its next runs, the form that triggers it, its graph and its file.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use chrono::Utc;
use pinwheel_scheduler::{
    model::{Dag, Param, ParamType},
    store::{DagRow, RunFilter},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Layout, dag_id, notifications, render_with,
    view::{DagLine, RunLine, task_address},
};
use crate::{
    WebState,
    failure::{Failure, Problem},
    format::{Badge, When, pretty, run_badge, task_badge},
    live::{self, Html, Live, Region, Seen},
    pages::run::Graph,
};

/// How many runs the grid and the list show.
const RUNS: i64 = 20;
/// How many scheduled runs are foretold.
const UPCOMING: usize = 5;

/// What the address may ask for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "dag.html")]
struct DagPage {
    layout: Layout,
    dag: String,
    regions: Vec<Region>,
    file: String,
    source: Vec<Line>,
    fields: Vec<FormField>,
    logical_date: String,
    problem: Option<Problem>,
    upcoming: Vec<Upcoming>,
    zone: String,
    graph: Graph,
    can_trigger: bool,
}

/// A line of the DAG's file.
struct Line {
    number: usize,
    text: String,
}

/// A run that the schedule will make.
struct Upcoming {
    at: When,
    local: String,
    mark: String,
}

/// One param as a form asks for it.
pub(crate) struct FormField {
    name: String,
    kind: &'static str,
    input: &'static str,
    step: &'static str,
    value: String,
    description: String,
    rules: String,
    minimum: String,
    maximum: String,
    choices: Vec<FormChoice>,
    required: bool,
    problem: String,
}

struct FormChoice {
    value: String,
    chosen: bool,
}

/// What a person typed into the form, when it comes back with mistakes.
#[derive(Debug, Default)]
pub(crate) struct Typed {
    pub(crate) values: BTreeMap<String, String>,
    pub(crate) logical_date: String,
    pub(crate) problem: Option<Problem>,
}

#[derive(Template)]
#[template(path = "dag_head.html")]
struct HeadRegion {
    dag: DagLine,
}

#[derive(Template)]
#[template(path = "dag_runs.html")]
struct RunsRegion {
    dag: String,
    columns: Vec<GridRun>,
    rows: Vec<GridRow>,
    runs: Vec<RunLine>,
}

struct GridRun {
    run: i64,
    badge: Badge,
    label: String,
}

struct GridRow {
    task: String,
    cells: Vec<Option<GridCell>>,
}

#[derive(Clone)]
struct GridCell {
    address: String,
    badge: Badge,
    run: i64,
}

/// `GET /dags/{dag}`
pub(crate) async fn page(
    State(state): State<WebState>,
    Path(dag): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    show(&state, &dag, Typed::default(), wanted.done.as_deref()).await
}

/// `GET /dags/{dag}/events`
pub(crate) async fn events(
    State(state): State<WebState>,
    Path(dag): Path<String>,
    Query(seen): Query<Seen>,
) -> Result<Response, Failure> {
    find(&state, &dag).await?;
    live::follow(&state.clone(), &seen, move || {
        regions(state.clone(), dag.clone())
    })
}

/// The page, with what a person typed when the form was refused.
pub(crate) async fn show(
    state: &WebState,
    dag: &str,
    typed: Typed,
    done: Option<&str>,
) -> Result<Response, Failure> {
    let row = find(state, dag).await?;
    let definition = state.store.definition(row.version_id).await?;
    let source = state.store.source(row.version_id).await?;
    let live = Live::new(
        &format!("/dags/{dag}/events"),
        regions(state.clone(), dag.to_owned()).await?,
    );
    let (upcoming, zone) = foretell(&definition, &row);
    let status = typed.problem.as_ref().map_or(StatusCode::OK, |problem| {
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY)
    });
    let page = DagPage {
        layout: Layout::new("dags", dag).live(&live).done(done),
        dag: dag.to_owned(),
        regions: live.regions,
        file: row.file.clone(),
        source: source
            .lines()
            .enumerate()
            .map(|(index, text)| Line {
                number: index + 1,
                text: text.to_owned(),
            })
            .collect(),
        fields: definition
            .params
            .iter()
            .map(|(name, param)| field(name, param, &typed))
            .collect(),
        logical_date: typed.logical_date,
        problem: typed.problem,
        upcoming,
        zone,
        graph: Graph::of_definition(&definition),
        can_trigger: row.present,
    };
    render_with(status, &page)
}

async fn find(state: &WebState, dag: &str) -> Result<DagRow, Failure> {
    state
        .store
        .dag(&dag_id(dag)?)
        .await?
        .ok_or_else(|| Failure::missing("DAG", dag))
}

fn foretell(dag: &Dag, row: &DagRow) -> (Vec<Upcoming>, String) {
    let Some(schedule) = dag.schedule.as_ref().filter(|_| row.present) else {
        return (Vec::new(), String::new());
    };
    let from = dag
        .start
        .map_or_else(Utc::now, |start| start.max(Utc::now()));
    let upcoming = schedule
        .upcoming(from, UPCOMING)
        .into_iter()
        .map(|tick| Upcoming {
            at: When::exact(Some(tick.at)),
            local: tick.local.format("%a %Y-%m-%d %H:%M %Z").to_string(),
            mark: tick.mark.map(|mark| mark.to_string()).unwrap_or_default(),
        })
        .collect();
    (upcoming, schedule.zone().name().to_owned())
}

fn field(name: &str, param: &Param, typed: &Typed) -> FormField {
    let (kind, input, step) = match param.param_type {
        ParamType::String => ("text", "text", ""),
        ParamType::Integer => ("whole number", "number", "1"),
        ParamType::Number => ("number", "number", "any"),
        ParamType::Boolean => ("yes or no", "choice", ""),
        ParamType::List => ("list, as JSON", "json", ""),
        ParamType::Table => ("table, as JSON", "json", ""),
    };
    let value = match (typed.values.get(name), &param.default) {
        (Some(typed), _) => typed.clone(),
        (None, Some(default)) => as_typed(param, default),
        (None, None) => String::new(),
    };
    let offered = match param.param_type {
        ParamType::Boolean if param.choices.is_empty() => {
            vec!["true".to_owned(), "false".to_owned()]
        }
        _ => param
            .choices
            .iter()
            .map(|choice| as_typed(param, choice))
            .collect(),
    };
    let choices: Vec<FormChoice> = offered
        .into_iter()
        .map(|offer| FormChoice {
            chosen: offer == value,
            value: offer,
        })
        .collect();
    let problem = typed
        .problem
        .iter()
        .flat_map(|problem| &problem.params)
        .find(|problem| problem.param == name);
    FormField {
        name: name.to_owned(),
        kind,
        input: if choices.is_empty() { input } else { "choice" },
        step,
        value,
        description: param.description.clone(),
        rules: rules(param),
        minimum: param
            .minimum
            .map(|least| least.to_string())
            .unwrap_or_default(),
        maximum: param
            .maximum
            .map(|most| most.to_string())
            .unwrap_or_default(),
        choices,
        required: param.default.is_none(),
        problem: problem
            .map(|problem| problem.detail.clone())
            .unwrap_or_default(),
    }
}

/// A value as a person types it into the form; [`actions::read_value`](super::actions) reads it back.
fn as_typed(param: &Param, value: &Value) -> String {
    match (param.param_type, value) {
        (ParamType::String, Value::String(text)) => text.clone(),
        (ParamType::List | ParamType::Table, value) => pretty(value),
        (_, value) => value.to_string(),
    }
}

fn rules(param: &Param) -> String {
    let mut rules = Vec::new();
    match (param.minimum, param.maximum) {
        (Some(least), Some(most)) => rules.push(format!("{least} to {most}")),
        (Some(least), None) => rules.push(format!("at least {least}")),
        (None, Some(most)) => rules.push(format!("at most {most}")),
        (None, None) => {}
    }
    if let Some(pattern) = &param.pattern {
        rules.push(format!("matches {pattern}"));
    }
    if param.default.is_none() {
        rules.push("required".to_owned());
    }
    rules.join(" · ")
}

async fn regions(state: WebState, dag: String) -> Result<Vec<Region>, Failure> {
    let row = find(&state, &dag).await?;
    let words = super::dags::words(&state, &row).await?;
    let filter = RunFilter {
        dag_id: Some(row.dag_id.clone()),
        limit: RUNS,
        ..RunFilter::default()
    };
    let runs = state.store.runs(&filter).await?;
    let definition = state.store.definition(row.version_id).await?;
    let mut rows: Vec<GridRow> = definition
        .tasks
        .iter()
        .map(|task| GridRow {
            task: task.id.to_string(),
            cells: vec![None; runs.len()],
        })
        .collect();
    // Oldest on the left, as time goes.
    for (column, run) in runs.iter().rev().enumerate() {
        for instance in state
            .store
            .instances(run.run_id)
            .await?
            .into_iter()
            .filter(|instance| instance.map_index < 0)
        {
            // A run of an older version may have tasks that the present one lacks; the run's own page shows them.
            if let Some(row) = rows
                .iter_mut()
                .find(|row| row.task == instance.task_id.as_str())
            {
                row.cells[column] = Some(GridCell {
                    address: task_address(&instance),
                    badge: task_badge(instance.state, instance.sleep_reason),
                    run: run.run_id.0,
                });
            }
        }
    }
    let columns = runs
        .iter()
        .rev()
        .map(|run| GridRun {
            run: run.run_id.0,
            badge: run_badge(run.state),
            label: run.logical_date.format("%Y-%m-%d %H:%M UTC").to_string(),
        })
        .collect();
    let head = HeadRegion {
        dag: DagLine::new(&row, words),
    };
    let list = RunsRegion {
        dag,
        columns,
        rows,
        runs: runs.iter().map(RunLine::from).collect(),
    };
    let mut regions = vec![Region {
        name: "head",
        html: Html::of(&head)?,
    }];
    regions.extend(notifications::of_dag(&state, &row.dag_id, &definition.alerts).await?);
    regions.push(Region {
        name: "runs",
        html: Html::of(&list)?,
    });
    Ok(regions)
}
