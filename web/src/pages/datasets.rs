//! Datasets: who updates them, who waits for them, what the sets still lack, and the last events. The views of a DAG's set
//! and of the events that made a run are here as well.

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use pinwheel_scheduler::{
    model::{Dag, DagId, RunId},
    store::{DatasetEventRow, DatasetRow, DatasetSetRow},
};

use super::{Layout, regions_page};
use crate::{
    WebState,
    failure::Failure,
    format::{When, count, inline, plain, shorten},
    live::{self, Html, Live, Region, Seen},
};

/// Events that are shown.
const EVENTS: i64 = 50;
/// Events that the page of a run shows.
const EVENTS_OF_RUN: usize = 100;
/// Characters of `extra` that are shown.
const EXTRA: usize = 160;

#[derive(Template)]
#[template(path = "datasets.html")]
struct DatasetsRegion {
    headline: String,
    datasets: Vec<DatasetLine>,
    sets: Vec<SetLine>,
    events: Vec<EventLine>,
}

#[derive(Template)]
#[template(path = "dag_datasets.html")]
struct DagRegion {
    waits: Option<SetLine>,
    outlets: Vec<Outlet>,
}

#[derive(Template)]
#[template(path = "run_datasets.html")]
struct RunRegion {
    headline: String,
    events: Vec<EventLine>,
}

/// A dataset in the list.
struct DatasetLine {
    dataset: String,
    producers: Vec<Outlet>,
    consumers: Vec<String>,
    last: When,
}

/// A task and a dataset that it updates.
struct Outlet {
    dag: String,
    task: String,
    dataset: String,
}

/// A DAG and what it waits for.
struct SetLine {
    dag: String,
    words: String,
    paused: bool,
    members: Vec<Member>,
}

struct Member {
    dataset: String,
    /// Empty while it is waited for.
    events: String,
    last: When,
}

struct EventLine {
    event: i64,
    dataset: String,
    at: When,
    /// The task that made it, with its address; `None` when it was pushed.
    task: Option<(String, String)>,
    run: i64,
    pushed_by: String,
    extra: String,
    runs: Vec<i64>,
}

impl From<&DatasetRow> for DatasetLine {
    fn from(row: &DatasetRow) -> Self {
        Self {
            dataset: row.dataset.to_string(),
            producers: row
                .producers
                .iter()
                .map(|producer| Outlet {
                    dag: producer.dag_id.to_string(),
                    task: producer.task_id.to_string(),
                    dataset: row.dataset.to_string(),
                })
                .collect(),
            consumers: row.consumers.iter().map(ToString::to_string).collect(),
            last: When::relative(row.last_event.as_ref().map(|event| event.at)),
        }
    }
}

impl From<&DatasetSetRow> for SetLine {
    fn from(row: &DatasetSetRow) -> Self {
        Self {
            dag: row.dag_id.to_string(),
            words: row.words.clone(),
            paused: row.paused,
            members: row
                .members
                .iter()
                .map(|member| Member {
                    dataset: member.dataset.to_string(),
                    events: match usize::try_from(member.events) {
                        Ok(0) | Err(_) => String::new(),
                        Ok(events) => count(events, "event", "events"),
                    },
                    last: When::relative(member.last_at),
                })
                .collect(),
        }
    }
}

impl From<&DatasetEventRow> for EventLine {
    fn from(row: &DatasetEventRow) -> Self {
        let task = match (&row.dag_id, row.run_id, &row.task_id) {
            (Some(dag), Some(run), Some(task)) => Some((
                format!("{dag} · {task}"),
                format!("/runs/{run}/tasks/{task}"),
            )),
            _pushed => None,
        };
        let is_empty = row.extra.as_object().is_some_and(|extra| extra.is_empty());
        Self {
            event: row.event_id,
            dataset: row.dataset.to_string(),
            at: When::relative(Some(row.at)),
            task,
            run: row.run_id.map_or(0, |run| run.0),
            pushed_by: row.pushed_by.clone().unwrap_or_default(),
            extra: if is_empty {
                String::new()
            } else {
                shorten(&plain(&inline(&row.extra)), EXTRA)
            },
            runs: row.runs.iter().map(|run| run.0).collect(),
        }
    }
}

/// `GET /datasets`
pub(crate) async fn page(State(state): State<WebState>) -> Result<Response, Failure> {
    let live = Live::new("/datasets/events", regions(state).await?);
    regions_page(Layout::new("datasets", "Datasets"), live)
}

/// `GET /datasets/events`
pub(crate) async fn events(
    State(state): State<WebState>,
    Query(seen): Query<Seen>,
) -> Result<Response, Failure> {
    live::follow(&state.clone(), &seen, move || regions(state.clone()))
}

async fn regions(state: WebState) -> Result<Vec<Region>, Failure> {
    let datasets = state.store.datasets().await?;
    let sets = state.store.dataset_sets(None).await?;
    let events = state.store.dataset_events(None, None, EVENTS).await?;
    let region = DatasetsRegion {
        headline: count(datasets.len(), "dataset", "datasets"),
        datasets: datasets.iter().map(DatasetLine::from).collect(),
        sets: sets.iter().map(SetLine::from).collect(),
        events: events.iter().map(EventLine::from).collect(),
    };
    Ok(vec![Region {
        name: "datasets",
        html: Html::of(&region)?,
    }])
}

/// What a DAG waits for and what its tasks update; `None` when it has to do with no dataset.
pub(super) async fn of_dag(
    state: &WebState,
    dag_id: &DagId,
    dag: &Dag,
) -> Result<Option<Region>, Failure> {
    let outlets: Vec<Outlet> = dag
        .tasks
        .iter()
        .flat_map(|task| {
            task.outlets.iter().map(|dataset| Outlet {
                dag: dag_id.to_string(),
                task: task.id.to_string(),
                dataset: dataset.to_string(),
            })
        })
        .collect();
    if outlets.is_empty() && dag.datasets.is_none() {
        return Ok(None);
    }
    let sets = state.store.dataset_sets(Some(dag_id)).await?;
    let region = DagRegion {
        waits: sets.first().map(SetLine::from),
        outlets,
    };
    Ok(Some(Region {
        name: "datasets",
        html: Html::of(&region)?,
    }))
}

/// The events that made a run.
pub(super) async fn of_run(state: &WebState, run: RunId) -> Result<Region, Failure> {
    let events = state.store.events_of_run(run).await?;
    let region = RunRegion {
        headline: count(events.len(), "event", "events"),
        events: events
            .iter()
            .take(EVENTS_OF_RUN)
            .map(EventLine::from)
            .collect(),
    };
    Ok(Region {
        name: "datasets",
        html: Html::of(&region)?,
    })
}
