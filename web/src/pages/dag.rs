//! One DAG: its last runs as a grid, its next runs, the form that triggers it, its graph and its file.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use chrono::{DateTime, Utc};
use pinwheel_scheduler::{
    model::{Catchup, Dag, Overlap, Param, ParamType},
    store::{DagRow, RunFilter, SkippedTicks},
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
    format::{Badge, When, duration, pretty, run_badge, task_badge},
    live::{self, Html, Live, Region, Seen},
    pages::run::Graph,
};

/// How many runs the grid and the list show.
const RUNS: i64 = 20;
/// How many scheduled runs are foretold.
const UPCOMING: usize = 5;
/// How many stretches of ticks without a run are shown.
const SKIPPED: i64 = 5;

/// What the address may ask for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    done: Option<String>,
    #[serde(default)]
    groups: super::run::Groups,
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
    /// Why there are no next runs, when it is not that there is no schedule.
    no_upcoming: &'static str,
    /// The set of datasets that makes it run, in words; empty for none.
    awaited: String,
    zone: String,
    timing: Vec<(&'static str, String)>,
    skipped: Vec<SkippedLine>,
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
    interval: String,
    mark: String,
}

/// Ticks that made no run.
struct SkippedLine {
    ticks: String,
    until: When,
    because: String,
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
    /// Not typed, but to be shown again as it was.
    pub(crate) groups: super::run::Groups,
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
    let typed = Typed {
        groups: wanted.groups,
        ..Typed::default()
    };
    show(&state, &dag, typed, wanted.done.as_deref()).await
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
    let upcoming = foretell(&definition, &row);
    let skipped = state.store.skipped_ticks(&row.dag_id, SKIPPED).await?;
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
        no_upcoming: match (&definition.schedule, row.present) {
            (None, _) => "",
            (Some(_), true) => "Its schedule has come to its end: no tick is left.",
            (Some(_), false) => "Its file is gone, so the schedule makes no more runs.",
        },
        upcoming,
        zone: definition
            .schedule
            .as_ref()
            .map(|schedule| schedule.zone().name().to_owned())
            .unwrap_or_default(),
        timing: timing(&definition),
        skipped: skipped.iter().map(SkippedLine::from).collect(),
        awaited: definition
            .datasets
            .as_ref()
            .map(|set| set.describe())
            .unwrap_or_default(),
        graph: Graph::of_definition(&definition, typed.groups),
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

fn foretell(dag: &Dag, row: &DagRow) -> Vec<Upcoming> {
    row.upcoming(dag, Utc::now(), UPCOMING)
        .into_iter()
        .map(|(planned, tick)| Upcoming {
            at: When::exact(Some(planned.fires_at)),
            local: tick.local.format("%a %Y-%m-%d %H:%M %Z").to_string(),
            interval: planned.interval.to_string(),
            mark: tick.mark.map(|mark| mark.to_string()).unwrap_or_default(),
        })
        .collect()
}

/// What the file says around the schedule, as far as it says more than the defaults.
fn timing(dag: &Dag) -> Vec<(&'static str, String)> {
    if dag.schedule.is_none() {
        return Vec::new();
    }
    let instant = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M UTC").to_string();
    let window = dag.catchup_window.map(duration);
    let catchup = match (dag.catchup, &window) {
        (Catchup::None, _) => "Ticks that pass while nothing watches are left out".to_owned(),
        (Catchup::Latest, None) => {
            "The last tick that passed while nothing watched is made up for".to_owned()
        }
        (Catchup::Latest, Some(window)) => {
            format!(
                "The last tick that passed while nothing watched is made up for, if it is not older than {window}"
            )
        }
        (Catchup::All, None) => {
            "Every tick that passed while nothing watched is made up for".to_owned()
        }
        (Catchup::All, Some(window)) => {
            format!(
                "Every tick that passed while nothing watched is made up for, up to {window} back"
            )
        }
    };
    let overlap = match dag.overlap {
        Overlap::Queue => None,
        Overlap::Skip => Some("A tick makes no run while as many are open as may be"),
        Overlap::Latest => Some("Only the newest waiting run is kept"),
    };
    [
        ("Start", dag.start.map(instant)),
        ("End", dag.end.map(instant)),
        ("Catchup", Some(catchup)),
        (
            "Jitter",
            dag.jitter
                .map(|most| format!("Runs are made up to {} later", duration(most))),
        ),
        ("Overlap", overlap.map(str::to_owned)),
    ]
    .into_iter()
    .filter_map(|(name, text)| Some((name, text?)))
    .collect()
}

impl From<&SkippedTicks> for SkippedLine {
    fn from(row: &SkippedTicks) -> Self {
        let first = row.first_tick.format("%Y-%m-%d %H:%M:%S UTC");
        Self {
            ticks: if row.ticks == 1 {
                format!("the tick of {first}")
            } else {
                format!("{} ticks from {first} on", row.ticks)
            },
            until: When::exact(Some(row.last_tick)),
            because: format!(
                "{} of at most {} runs were open",
                row.open_runs, row.max_active_runs
            ),
        }
    }
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
    let backfills = super::backfills::of_dag(&state, &dag, &definition).await?;
    let list = RunsRegion {
        dag,
        columns,
        rows,
        runs: runs.iter().map(RunLine::from).collect(),
    };
    let datasets = super::datasets::of_dag(&state, &row.dag_id, &definition).await?;
    let mut regions = vec![Region {
        name: "head",
        html: Html::of(&head)?,
    }];
    regions.extend(datasets);
    regions.extend(notifications::of_dag(&state, &row.dag_id, &definition.alerts).await?);
    regions.push(Region {
        name: "runs",
        html: Html::of(&list)?,
    });
    regions.push(backfills);
    Ok(regions)
}
